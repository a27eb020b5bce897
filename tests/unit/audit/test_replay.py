"""A bundle under audit: what it offers, what its passport decides, and its releases through a server."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
import torch

from bundle_fixtures import make_bundle, make_split
from edge_fixtures import Cloud
from splitveil.attacks.bundle import BundleSubject
from splitveil.attacks.loading import load_subject
from splitveil.attacks.subjects import BLACK_BOX_OFFERS
from splitveil.audit.replay import ReplayRecord, replay_releases
from splitveil.data.loader import Pictures
from splitveil.data.tables import ImageTable
from splitveil.errors import CheckFailedError, InputError
from splitveil.experiments.target import Target
from splitveil.noise import SeededNoise
from splitveil.rng import Rng
from splitveil_edge.client import EdgeClient
from splitveil_edge.errors import TrustError
from splitveil_edge.passport import EDGE, PASSPORT
from splitveil_edge.reading import dump_json

HERE = "http://127.0.0.1:8000"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle", finish=True)


def target_of(bundle: Path) -> Target:
    images = torch.randint(0, 256, (70, 1, 8, 8), generator=Rng(0).generator(), dtype=torch.uint8)
    test = Pictures(ImageTable(images, torch.arange(70) % 10))
    return Target(BundleSubject(bundle), test=test, auxiliary=lambda _: None, seed=0)


def replay(bundle: Path, cloud: object, out: Path) -> ReplayRecord:
    with EdgeClient(bundle, HERE, transport=httpx.MockTransport(cloud)) as client:  # type: ignore[arg-type]
        return replay_releases(target_of(bundle), bundle=bundle, client=client, out=out)


def test_a_bundle_is_its_edge_as_a_black_box(bundle: Path) -> None:
    subject = load_subject(str(bundle))
    assert isinstance(subject, BundleSubject)
    assert subject.offers == BLACK_BOX_OFFERS
    x = torch.rand(3, 1, 8, 8, generator=Rng(0).generator())
    key = SeededNoise(Rng(1))
    expected = make_split(finish=True).release(x, noise=key)
    torch.testing.assert_close(subject.release(x, key), expected, atol=1e-5, rtol=0)


def test_the_passport_is_the_truth_about_noise(bundle: Path) -> None:
    facts = json.loads((bundle / PASSPORT).read_bytes())
    facts["noise"][0]["law"] = "uniform"
    (bundle / PASSPORT).write_bytes(dump_json(facts))
    with pytest.raises(InputError, match=r"with the noise .* of its passport"):
        load_subject(str(bundle))
    (bundle / EDGE).write_bytes(b"x")
    with pytest.raises(TrustError, match="changed or swapped"):
        load_subject(str(bundle))


@pytest.mark.parametrize("bits", [None, 8])
def test_a_true_server_answers_what_the_graph_does(tmp_path: Path, bits: int | None) -> None:
    bundle = make_bundle(tmp_path / "bundle", finish=True, bits=bits)
    cloud = Cloud(bundle)
    found = replay(bundle, cloud, tmp_path)
    assert ReplayRecord.read(tmp_path) == found
    assert (found.status, found.releases, found.alone, found.same_predictions) == ("same", 70, 8, 1.0)
    assert found.largest_difference <= found.limit
    assert len(cloud.posted) == 2 + 8


def test_a_server_with_other_weights_behind_the_right_passport_is_caught(bundle: Path, tmp_path: Path) -> None:
    cloud, other = Cloud(bundle), Cloud(make_bundle(tmp_path / "other", finish=True, seed=1))
    cloud.graph = other.graph
    with pytest.raises(CheckFailedError, match="what is served is not what was audited"):
        replay(bundle, cloud, tmp_path)
    assert ReplayRecord.read(tmp_path).status == "different"


def test_a_server_that_mixes_the_rows_of_a_batch_is_caught(bundle: Path, tmp_path: Path) -> None:
    cloud = Cloud(bundle)
    honest = cloud.graph.reply
    cloud.graph.reply = lambda r: honest(r) if len(r) == 1 else honest(r)[::-1]  # type: ignore[method-assign]
    with pytest.raises(CheckFailedError, match="what is served is not what was audited"):
        replay(bundle, cloud, tmp_path)


def test_a_server_of_another_bundle_gets_nothing(bundle: Path, tmp_path: Path) -> None:
    cloud = Cloud(make_bundle(tmp_path / "other", finish=True, created="2025-03-01T00:00:00Z"))
    with pytest.raises(TrustError, match="nothing was sent"):
        replay(bundle, cloud, tmp_path)
    assert cloud.posted == []
