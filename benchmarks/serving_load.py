"""The load of `benchmarks.serving`: a process of clients that ask, check each answer, and retry what may be retried.

``python -m benchmarks.serving_load --port 8000 --cases cases.npz --clients 64 --seconds 20`` prints one line of JSON.
With ``--echo RATE`` the same clients talk, at that rate, to an echo within this process: the load without a server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

TOLERANCE = 1e-4
RETRIED = (408, 429, 500, 502, 503, 504)
_GRACE_S = 60.0  # for what is open when the time is over
_END = b"\r\n\r\n"


@dataclass
class Tally:
    """What all clients saw."""

    latencies_s: list[float] = field(default_factory=list)
    events: Counter[str] = field(default_factory=Counter)
    wrong: int = 0
    lost: int = 0


@dataclass(frozen=True)
class Case:
    """One request as bytes, and the reply that is right."""

    request: bytes
    reply: np.ndarray[Any, np.dtype[np.float32]]


def make_cases(file: Path, model: str) -> list[Case]:
    """Requests with binary tensors, one row each."""
    found = np.load(file)
    cases = []
    for r, reply in zip(found["r"], found["reply"], strict=True):
        tensor = {
            "name": "r",
            "shape": [1, *r.shape],
            "datatype": "FP32",
            "parameters": {"binary_data_size": r.nbytes},
        }
        asked = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
        text = json.dumps(asked, separators=(",", ":")).encode()
        head = (
            f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n"
            f"Content-Length: {len(text) + r.nbytes}\r\n"
            f"Inference-Header-Content-Length: {len(text)}\r\n\r\n"
        )
        cases.append(Case(head.encode() + text + r.astype("<f4").tobytes(), reply.astype(np.float32)))
    return cases


class Client(asyncio.Protocol):
    """One connection at a time, one request at a time; a request is lost only if no attempt was answered in the end."""

    def __init__(self, address: tuple[str, int], cases: list[Case], tally: Tally, until: float, gap_s: float) -> None:
        self._address, self._cases, self._tally, self._until, self._gap_s = address, cases, tally, until, gap_s
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._case = random.choice(cases)
        self._begun = self._next = time.perf_counter()
        self.done: asyncio.Future[None] = self._loop.create_future()
        self._loop.create_task(self._connect())

    async def _connect(self) -> None:
        while not self.done.done():
            try:
                await self._loop.create_connection(lambda: self, *self._address)
                return
            except OSError:
                self._tally.events["no connection"] += 1
                if self._is_over():
                    return
                await asyncio.sleep(0.1)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport, self._buffer = transport, b""
        transport.write(self._case.request)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self._tally.events["connection lost"] += 1
            self._loop.call_later(0.05, self._again)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(_END)
        if end < 0:
            return
        head = self._buffer[:end].lower()
        size = int(_header(head, b"content-length"))
        if len(self._buffer) >= end + 4 + size:
            body, self._buffer = self._buffer[end + 4 : end + 4 + size], b""
            self._answered(int(head[9:12]), head, body)

    def _answered(self, status: int, head: bytes, body: bytes) -> None:
        if status in RETRIED:
            self._tally.events[f"status {status}"] += 1
            self._loop.call_later(0.05 + random.random() * 0.1, self._again)
            return
        now = time.perf_counter()
        if status != 200:
            self._tally.events[f"status {status}"] += 1
            self._tally.lost += 1
        else:
            reply = np.frombuffer(body, "<f4", offset=int(_header(head, b"inference-header-content-length")))
            if reply.shape != self._case.reply.shape or not np.abs(reply - self._case.reply).max() <= TOLERANCE:
                self._tally.wrong += 1
            self._tally.latencies_s.append(now - self._begun)
        if now >= self._until:
            self._finish()
            return
        self._case = random.choice(self._cases)
        self._next = max(self._next + self._gap_s, now)
        if self._gap_s:
            self._loop.call_later(self._next - now, self._ask)
        else:
            self._ask()

    def _ask(self) -> None:
        self._begun = time.perf_counter()
        self._again()

    def _again(self) -> None:
        """Send the request that is open, over this connection or a new one."""
        if self.done.done() or self._is_over():
            return
        if self._transport is None or self._transport.is_closing():
            self._loop.create_task(self._connect())
        else:
            self._transport.write(self._case.request)

    def _is_over(self) -> bool:
        over = time.perf_counter() >= self._until + _GRACE_S
        if over and not self.done.done():
            self._tally.lost += 1
            self._finish()
        return over

    def _finish(self) -> None:
        self.done.set_result(None)
        if self._transport is not None:
            self._transport.close()


def _header(head: bytes, name: bytes) -> bytes:
    begin = head.index(b"\r\n" + name + b":") + len(name) + 3
    end = head.find(b"\r\n", begin)
    return head[begin : end if end >= 0 else None].strip()


class Echo(asyncio.Protocol):
    """Answers a request of known length with a reply of known bytes, and does nothing else."""

    def __init__(self, cases: list[Case]) -> None:
        reply = cases[0].reply.tobytes()
        head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(reply)}\r\ninference-header-content-length: 0\r\n\r\n"
        self._size, self._answer, self._got = len(cases[0].request), head.encode() + reply, 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._got += len(data)
        while self._got >= self._size:
            self._got -= self._size
            self._transport.write(self._answer)


async def load(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the clients; what they saw."""
    cases = make_cases(arguments.cases, arguments.model)
    address, gap_s = (arguments.host, arguments.port), 0.0
    if arguments.echo:
        server = await asyncio.get_running_loop().create_server(lambda: Echo(cases), "127.0.0.1", 0)
        address, gap_s = server.sockets[0].getsockname()[:2], arguments.clients / arguments.echo
    tally, begun, cpu = Tally(), time.perf_counter(), time.process_time()
    clients = [Client(address, cases, tally, begun + arguments.seconds, gap_s) for _ in range(arguments.clients)]
    await asyncio.gather(*(client.done for client in clients))
    took, cpu = time.perf_counter() - begun, time.process_time() - cpu
    times = np.sort(np.array(tally.latencies_s or [0.0]))
    count = len(tally.latencies_s)
    return {
        "requests": count,
        "seconds": took,
        "requests_per_s": count / took,
        "load_cpu_ms_per_request": 1000 * cpu / max(count, 1),
        "p50_ms": 1000 * float(np.quantile(times, 0.5)),
        "p99_ms": 1000 * float(np.quantile(times, 0.99)),
        "wrong": 0 if arguments.echo else tally.wrong,
        "lost": tally.lost,
        "events": dict(tally.events),
    }


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--model", default="vgg11")
    parser.add_argument("--cases", type=Path, required=True)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--echo", type=float, help="requests per second to an echo of its own")
    print(json.dumps(asyncio.run(load(parser.parse_args()))))


if __name__ == "__main__":
    main()
