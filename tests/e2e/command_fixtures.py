"""What the tests of the command line share."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import NamedTuple


class Said(NamedTuple):
    """What a command said and how it ended."""

    code: int
    out: str
    err: str


Run = Callable[..., Said]


def heed_ctrl_c() -> None:
    """For a process to be started: a shell lets those that it runs in the background ignore Ctrl-C, and they theirs."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
