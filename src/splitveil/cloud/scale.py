"""The same application on Ray Serve: replicas, autoscaling, and a controller that replaces those that die."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splitveil.cloud.logs import configure, log
from splitveil.cloud.server import Place
from splitveil.cloud.settings import ServeSettings
from splitveil.cloud.tails import open_bundle
from splitveil.errors import MissingExtraError, SpecError
from splitveil_edge.passport import CLOUD, PASSPORT, SIGNATURE

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["Replicas", "deploy", "serve_on_ray", "take_down"]

_APP = "splitveil"
_HEALTH_S = 2.0
_PATIENCE = {"RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "50"}
"""Ray kills its own proxy if that takes more than 5 s to start, as it does on a busy machine; it waits 60 s in all."""


@dataclass(frozen=True, slots=True)
class Replicas:
    """How many copies of the application run.

    Args:
        count: at the beginning, and the least of them.
        most: where load may take it; None keeps `count`.
        target_requests: of one replica at a time, beyond which another is started.
    """

    count: int = 1
    most: int | None = None
    target_requests: float = 16.0

    def __post_init__(self) -> None:
        if self.count < 1 or (self.most is not None and self.most < self.count):
            raise SpecError(f"expected 1 <= replicas <= most, got {self.count} and {self.most}")
        if not self.target_requests > 0:
            raise SpecError(f"expected target_requests > 0, got {self.target_requests}")

    @property
    def options(self) -> dict[str, Any]:
        """Of a deployment."""
        if self.most is None:
            return {"num_replicas": self.count}
        scaling = {
            "min_replicas": self.count,
            "max_replicas": self.most,
            "target_ongoing_requests": self.target_requests,
        }
        return {"autoscaling_config": scaling}


def deploy(bundle: str | Path, settings: ServeSettings, place: Place, replicas: Replicas) -> str:
    """Start the application on the Ray cluster that is there, or on one of this machine; returns when it is ready.

    The bundle is checked here and goes through Ray's object store, so replicas on other machines need no shared disk;
    each replica checks it again. A replica runs one batch at a time on one thread unless the settings say otherwise,
    and counts rates for itself.

    Returns:
        Its address.

    Raises:
        MissingExtraError: ray is not installed.
        EdgeError, SplitveilError: see `splitveil.cloud.app.create_app`.
    """
    if find_spec("ray") is None:
        raise MissingExtraError("ray", "ray", "serving on Ray")
    if place.tls_cert is not None:
        raise SpecError("expected no certificate with --engine ray: let a load balancer before it end TLS")
    if place.grpc_port is not None:
        raise SpecError("expected REST alone with --engine ray, got a port for gRPC: serve gRPC with the local engine")
    if settings.ui:
        raise SpecError("expected no live page with --engine ray: replicas hold the cloud's side alone")
    patience = {name: os.environ.setdefault(name, value) for name, value in _PATIENCE.items()}
    ray, serve = import_module("ray"), import_module("ray.serve")
    served = open_bundle(Path(bundle), settings.public_key)
    settings = replace(settings, slots=settings.slots or 1, threads=settings.threads or 1)
    names = [name for name in (CLOUD, f"{CLOUD}.data", PASSPORT, SIGNATURE) if (served.folder / name).is_file()]
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False, runtime_env={"env_vars": patience})
    files = ray.put({name: (served.folder / name).read_bytes() for name in names})
    serve.start(http_options={"host": place.host, "port": place.port})
    deployment = serve.deployment(serve.ingress(_builder(files, settings))())
    bound = deployment.options(
        name=_APP,
        max_ongoing_requests=settings.limits.max_queue_rows,
        graceful_shutdown_timeout_s=place.grace_s,
        health_check_period_s=_HEALTH_S,
        ray_actor_options={"num_cpus": (settings.slots or 1) * (settings.threads or 1)},
        **replicas.options,
    )
    serve.run(bound.bind(), name=_APP, route_prefix="/")
    return f"http://{place.host}:{place.port}"


def serve_on_ray(bundle: str | Path, settings: ServeSettings, place: Place, replicas: Replicas) -> None:
    """`deploy`, then wait for SIGTERM or Ctrl-C, and take it down once its requests have ended."""
    url = deploy(bundle, settings, place, replicas)
    log(logging.INFO, "listening", url=url, engine="ray", replicas=replicas.count)
    stop = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    try:
        while not stop.wait(0.5):
            pass
    finally:
        signal.signal(signal.SIGTERM, before)
        take_down()
        log(logging.INFO, "stopped")


def take_down() -> None:
    """End what `deploy` started: requests that run may end, the connection to Ray is closed."""
    import_module("ray.serve").shutdown()
    import_module("ray").shutdown()


def _builder(files: Any, settings: ServeSettings) -> Callable[[], FastAPI]:
    """Builds the application where a replica runs."""

    def build() -> FastAPI:
        import ray

        from splitveil.cloud.app import create_app

        configure("info")
        with tempfile.TemporaryDirectory() as folder:
            for name, data in ray.get(files).items():
                (Path(folder) / name).write_bytes(data)
            return create_app(folder, settings)

    return build
