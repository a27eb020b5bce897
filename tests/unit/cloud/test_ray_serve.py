"""The same application on Ray Serve: two replicas, one of them killed under load."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from cloud_fixtures import INFER, SMALL, json_request, releases, reply_of

from splitveil.cloud.scale import Replicas, deploy, take_down
from splitveil.cloud.server import Place
from splitveil.errors import SpecError
from splitveil.export.graph import run_onnx
from splitveil_edge.passport import CLOUD

RETRIED = (429, 500, 502, 503, 504)


def test_replicas_that_cannot_be_are_refused() -> None:
    with pytest.raises(SpecError, match="replicas"):
        Replicas(0)
    with pytest.raises(SpecError, match="replicas"):
        Replicas(3, 2)
    with pytest.raises(SpecError, match="target_requests"):
        Replicas(1, 2, 0.0)


def test_what_replicas_cannot_serve_is_refused(bundle: Path) -> None:
    pytest.importorskip("ray")
    with pytest.raises(SpecError, match="no live page with --engine ray"):
        deploy(bundle, replace(SMALL, ui=True), Place(), Replicas(1))


def test_a_count_and_a_range_of_replicas() -> None:
    assert Replicas(4).options == {"num_replicas": 4}
    scaling = Replicas(1, 8, 32.0).options["autoscaling_config"]
    assert scaling == {"min_replicas": 1, "max_replicas": 8, "target_ongoing_requests": 32.0}


@pytest.fixture
def url(bundle: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=4, log_to_driver=False, include_dashboard=False)  # two replicas on any machine
    try:
        yield deploy(bundle, SMALL, Place(port=port, grace_s=5), Replicas(2))
    finally:
        take_down()


def kill_replica() -> None:
    import ray

    [name, *_] = (
        item["name"] for item in ray.util.list_named_actors(all_namespaces=True) if "SERVE_REPLICA" in item["name"]
    )
    ray.kill(ray.get_actor(name, namespace="serve"))


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_request_is_answered_wrongly_or_lost_while_a_replica_dies(url: str, bundle: Path) -> None:
    cases = [releases(1, seed=i) for i in range(16)]
    replies = [run_onnx(bundle / CLOUD, {"r": r})["reply"] for r in cases]
    retried: Counter[int] = Counter()

    async def client(http: httpx.AsyncClient, number: int, asked: int) -> None:
        for turn in range(asked):
            which = (number + turn) % len(cases)
            for _ in range(100):
                answer = await http.post(INFER, json=json_request(cases[which]))
                if answer.status_code not in RETRIED:
                    break
                retried[answer.status_code] += 1
                await asyncio.sleep(0.1)
            np.testing.assert_allclose(reply_of(answer), replies[which], atol=1e-5)

    async def load() -> None:
        async with httpx.AsyncClient(base_url=url, timeout=60) as http:
            clients = [asyncio.ensure_future(client(http, number, 60)) for number in range(8)]
            await asyncio.sleep(2.0)
            kill_replica()
            await asyncio.gather(*clients)
            data = (await http.get("/v2/models/digits")).json()
            assert data["passport"]["body"]["name"] == "digits"
            assert (await http.get("/nowhere")).json()["error"]

    asyncio.run(load())
