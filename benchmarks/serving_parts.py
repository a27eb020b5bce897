"""Processes of `benchmarks.serving`: the bundle, the server, the load, and what the operating system says of them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from splitveil.cloud.tails import open_bundle
from splitveil.defenses.mechanisms.gaussian import Gaussian
from splitveil.export.facts import file_facts, model_facts, release_range, validity
from splitveil.export.graph import export_cloud, export_edge
from splitveil.nets.vgg import vgg11
from splitveil.noise import SeededNoise
from splitveil.rng import Rng
from splitveil.split_model import SplitModel
from splitveil_edge.passport import CLOUD, EDGE, PASSPORT
from splitveil_edge.reading import dump_json

MODEL = "vgg11"
_CASES = 256
_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def make_bundle(folder: Path, width: float) -> Path:
    """The cloud's side of a VGG-11 cut at 4, untrained: weights do not change what it costs; and cases with replies."""
    if (folder / "cases.npz").is_file():
        return folder
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    with Rng(0).scoped():
        model = SplitModel(vgg11(classes=10, width=width), Gaussian(0.1)).eval()
    export_edge(model, folder / EDGE)
    export_cloud(model, folder / CLOUD)
    x = torch.rand(_CASES, *model.input_shape, generator=Rng(1).generator())
    with torch.no_grad():
        r = model.release(x, noise=SeededNoise(Rng(2)))
    facts = {
        "format": 1,
        "splitveil": "benchmark",
        **validity(None),
        "name": MODEL,
        "defense": {"name": "gaussian", "params": {"noise_std": 0.1}},
        "class_names": [],
        "data": {"digest": None},
        "certificates": None,
        "audit": None,
        "precision": {"edge": "fp32", "cloud": "fp32"},
        **model_facts(model, (10,), (10,)),
        "files": file_facts(folder),
        "release_range": release_range(float(r.min()), float(r.max())),
        "parity": {},
    }
    (folder / PASSPORT).write_bytes(dump_json(facts))
    rows = r.numpy()
    from splitveil.cloud.tails import onnx_tail

    tail = onnx_tail(open_bundle(folder), 1)
    replies = np.concatenate([tail(rows[begin : begin + 32]) for begin in range(0, _CASES, 32)])
    np.savez(folder / "cases.npz", r=rows, reply=replies)
    return folder


class Server:
    """``splitveil serve`` in a process.

    Args:
        bundle: that it serves.
        options: of the command.
        port: 0 lets the system choose.
    """

    def __init__(self, bundle: Path, options: Sequence[str], port: int = 0) -> None:
        words = [
            sys.executable,
            "-m",
            "splitveil",
            "serve",
            str(bundle),
            "--port",
            str(port),
            "--drain-s",
            "0",
            *options,
        ]
        self._log = (bundle / "server.log").open("w+")
        self.process = subprocess.Popen(words, stderr=self._log)
        event = self._event("listening")
        self.port = int(event["url"].rsplit(":", 1)[1])

    def _event(self, name: str) -> dict[str, Any]:
        for _ in range(3000):
            for line in Path(self._log.name).read_text().splitlines():
                if f'"{name}"' in line:
                    found: dict[str, Any] = json.loads(line)
                    return found
            if self.process.poll() is not None:
                raise SystemExit(f"the server ended: {Path(self._log.name).read_text()[-500:]}")
            time.sleep(0.1)
        raise SystemExit("the server does not listen")

    def cpu_s(self) -> tuple[float, float]:
        """Of all threads, and of the main thread, which is the event loop's."""
        pid = self.process.pid
        return _cpu_s(f"/proc/{pid}/stat"), _cpu_s(f"/proc/{pid}/task/{pid}/stat")

    def memory_mb(self) -> float:
        """Resident."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * _PAGE / 1e6

    def metric(self, name: str) -> float:
        """One value of ``/metrics``."""
        import httpx

        text = httpx.get(f"http://127.0.0.1:{self.port}/metrics", timeout=30).text
        found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
        return float(found.group(1)) if found else 0.0

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(60)
        self._log.close()
        return code


@contextmanager
def serving(bundle: Path, options: Sequence[str], port: int = 0) -> Iterator[Server]:
    """A server for a while."""
    server = Server(bundle, options, port)
    try:
        yield server
    finally:
        server.stop()


def start_load(
    bundle: Path, port: int, clients: int, seconds: float, echo: float | None = None
) -> subprocess.Popen[str]:
    """The load process."""
    words = [sys.executable, "-m", "benchmarks.serving_load", "--cases", str(bundle / "cases.npz"), "--port", str(port)]
    words += ["--model", MODEL, "--clients", str(clients), "--seconds", str(seconds)]
    words += [] if echo is None else ["--echo", str(echo)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def read_load(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What its clients saw, once it has ended."""
    said, _ = process.communicate(timeout=3600)
    if process.returncode != 0:
        raise SystemExit("the load process failed")
    found: dict[str, Any] = json.loads(said)
    return found


def _cpu_s(file: str) -> float:
    fields = Path(file).read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICK
