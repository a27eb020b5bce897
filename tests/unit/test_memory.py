"""Memory that is freed stays the process's: measured in processes of their own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from splitveil.cli import _LEARNING, app
from splitveil.memory import keep_freed_memory

_COUNT = """
import sys
from splitveil.memory import keep_freed_memory
import torch
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def resident():
    return int(open("/proc/self/statm").read().split()[1])
begun = resident()
held = [torch.ones(2**20) for _ in range(64)]
taken = resident() - begun
del held
print((resident() - begun) / taken)
"""


def _kept(how: str) -> float:
    """The share of 256 MiB that the process still holds when it has freed them."""
    found = subprocess.run([sys.executable, "-c", _COUNT, how], capture_output=True, text=True, check=True)
    return float(found.stdout)


@pytest.mark.skipif(not (sys.platform.startswith("linux") and keep_freed_memory()), reason="glibc alone")
def test_memory_that_tensors_free_stays_the_process_s() -> None:
    assert _kept("keep") > 0.9
    assert _kept("default") < 0.1


def test_elsewhere_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False


def test_the_commands_that_learn_are_commands() -> None:
    assert set(_LEARNING) <= {command.name for command in app.registered_commands}
