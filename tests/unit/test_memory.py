"""Memory that is freed stays the process's: counted in page faults, in processes of their own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from splitveil.cli import _LEARNING, app
from splitveil.memory import keep_freed_memory

_COUNT = """
import resource, sys
from splitveil.memory import keep_freed_memory
import torch
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def step():
    held = [torch.ones(2**22) for _ in range(4)]
step(), step(), step()
begun = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - begun)
"""


def _faults(how: str) -> int:
    found = subprocess.run([sys.executable, "-c", _COUNT, how], capture_output=True, text=True, check=True)
    return int(found.stdout)


@pytest.mark.skipif(not (sys.platform.startswith("linux") and keep_freed_memory()), reason="glibc alone")
def test_tensors_of_a_step_reuse_the_memory_of_the_step_before() -> None:
    assert _faults("keep") < _faults("default") / 5


def test_elsewhere_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False


def test_the_commands_that_learn_are_commands() -> None:
    assert set(_LEARNING) <= {command.name for command in app.registered_commands}
