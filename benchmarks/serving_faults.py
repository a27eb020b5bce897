"""Faults under load, for `benchmarks.serving`: what dies, what is cut off, and what clients were told."""

from __future__ import annotations

import argparse
import gzip
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.serving_load import make_cases
from benchmarks.serving_parts import MODEL, Server, read_load, start_load
from splitveil.cloud.settings import cores

__all__ = ["kill_replica", "measure_faults", "measure_ray"]

_BOMB = gzip.compress(bytes(50_000_000))


def measure_faults(arguments: argparse.Namespace, bundle: Path) -> dict[str, Any]:
    """Bad clients all the time; the server is stopped with SIGTERM a third of the way, with SIGKILL at two thirds."""
    options = [
        "--max-batch",
        str(arguments.max_batch),
        "--slots",
        "1",
        "--threads",
        str(cores()),
        "--body-timeout-s",
        "2",
    ]
    server = Server(bundle, options)
    port, stop = server.port, threading.Event()
    bad = BadClients(bundle, port, stop)
    bad.start()
    load = start_load(bundle, port, arguments.clients, arguments.seconds)
    down: list[float] = []
    for number in (signal.SIGTERM, signal.SIGKILL):
        time.sleep(arguments.seconds / 3)
        begun = time.perf_counter()
        server.stop(number)
        server = Server(bundle, options, port)
        down.append(time.perf_counter() - begun)
    found = read_load(load)
    stop.set()
    bad.join()
    server.stop()
    return {**found, "what": "restarted, bad clients", "down_s": down, "bad_clients": bad.counts}


class BadClients(threading.Thread):
    """Cut off in the body, slow in the body, and bombs, in turns until told to stop."""

    def __init__(self, bundle: Path, port: int, stop: threading.Event) -> None:
        super().__init__()
        self._request = make_cases(bundle / "cases.npz", MODEL)[0].request
        self._port, self._stopped = port, stop
        self._slow: list[socket.socket] = []
        self.counts = {"cut off": 0, "slow": 0, "bomb": 0, "bomb answered with 413": 0}

    def run(self) -> None:
        """Until told to stop."""
        while not self._stopped.wait(0.05):
            for send in (self._cut_off, self._slowly, self._bomb):
                try:
                    send()
                except OSError:
                    time.sleep(0.1)  # the server is down
        for connection in self._slow:
            connection.close()

    def _connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self._port), timeout=10)

    def _cut_off(self) -> None:
        with self._connect() as connection:
            connection.sendall(self._request[: len(self._request) // 2])
        self.counts["cut off"] += 1

    def _slowly(self) -> None:
        connection = self._connect()
        connection.sendall(self._request[: len(self._request) // 2])
        self._slow.append(connection)
        self.counts["slow"] += 1
        if len(self._slow) > 20:
            self._slow.pop(0).close()

    def _bomb(self) -> None:
        head = f"POST /v2/models/{MODEL}/infer HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\n"
        head += f"Content-Length: {len(_BOMB)}"
        with self._connect() as connection:
            connection.sendall(head.encode() + b"\r\n\r\n" + _BOMB)
            self.counts["bomb"] += 1
            self.counts["bomb answered with 413"] += connection.recv(100).startswith(b"HTTP/1.1 413 ")


def measure_ray(arguments: argparse.Namespace, bundle: Path) -> dict[str, Any]:
    """Two replicas, one of them killed a third of the way."""
    from splitveil.cloud.scale import Replicas, deploy, take_down
    from splitveil.cloud.server import Place
    from splitveil.cloud.settings import ServeSettings

    place = Place(port=_free_port())
    deploy(bundle, ServeSettings(max_batch=16), place, Replicas(2))
    try:
        load = start_load(bundle, place.port, arguments.clients, arguments.seconds)
        time.sleep(arguments.seconds / 3)
        killed = kill_replica()
        found = read_load(load)
    finally:
        take_down()
    return {**found, "what": "a Ray replica killed", "killed": killed}


def kill_replica() -> str:
    """Kill one replica as the machine might; its name."""
    import ray

    [name, *_] = sorted(
        item["name"] for item in ray.util.list_named_actors(all_namespaces=True) if "SERVE_REPLICA" in item["name"]
    )
    ray.kill(ray.get_actor(name, namespace="serve"))
    return str(name)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
