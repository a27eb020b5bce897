"""The working memory of a piece of code, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["measured_apart", "peak_allocated", "peak_growth"]

_PERIOD_S = 0.001


def peak_growth(work: Callable[[], Any]) -> int:
    """Bytes by which the resident memory of this process grows at most while `work` runs, sampled every millisecond."""
    start = peak = _resident()
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, _resident())
            time.sleep(_PERIOD_S)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    work()
    done.set()
    watcher.join()
    return max(peak, _resident()) - start


def peak_allocated(work: Callable[[], Any]) -> int:
    """Bytes of tensors that `work` holds at most beside those that were there, from the allocator's own events."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    assert profile.profiler is not None
    now = peak = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak


def measured_apart(module: str, *arguments: object) -> dict[str, Any]:
    """What ``python -m module arguments`` prints as JSON: a fresh process has no memory to reuse."""
    command = [sys.executable, "-m", module, *(str(argument) for argument in arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
