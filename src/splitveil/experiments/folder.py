"""The folder of a run: claimed before work begins, never somebody else's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from splitveil.errors import OutputError
from splitveil.files import check_room, others
from splitveil.records import RunRecord
from splitveil.specs import DataSpec, RunSpec
from splitveil.training.observer import Observer

__all__ = ["EventLog", "alone_in", "check_apart", "check_folder", "claim"]

_LONGEST_VALUE = 40
"""Characters; a digest is longer and says no more with all of them."""


def check_folder(out: Path) -> None:
    """Raise `OutputError` unless `out` is free, or holds a run."""
    check_room(out, "run", [] if (out / "spec.json").is_file() else others(out, "spec.json"))


def check_apart(out: Path, data: DataSpec) -> None:
    """Raise `OutputError` if `out` lies among the pictures, where a run would be read as pictures next time."""
    if data.path is not None and out.resolve().is_relative_to(Path(data.path).resolve()):
        raise OutputError(
            f"expected an output folder outside the pictures in '{data.path}', got '{out}': choose another --out"
        )


def claim(out: Path, spec: RunSpec) -> RunRecord:
    """Take the folder for this spec: new, or the same run again, to be resumed.

    Pictures and weights that have moved make no other run of it: the record then says where they lie now.

    Raises:
        OutputError: the folder holds something else, or a run of another spec.
    """
    check_folder(out)
    record = RunRecord(out)
    if (out / "spec.json").is_file():
        held = record.spec
        if held.identity() != spec.identity() or _starts_from_file(held) != _starts_from_file(spec):
            changed = ", ".join(_differences(held.model_dump(mode="json"), spec.model_dump(mode="json")))
            raise OutputError(f"'{out}' holds a run of another spec (different: {changed}): choose another --out")
        if (held.data.path, held.weights) == (spec.data.path, spec.weights):
            return record
    record.write("spec.json", spec)
    return record


@contextmanager
def alone_in(out: Path) -> Iterator[None]:
    """Let no other process train the run of this folder meanwhile; the lock ends with the process that holds it.

    Raises:
        OutputError: another process trains it.
    """
    lock = FileLock(out / ".lock", blocking=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise OutputError(
            f"expected a run in '{out}' that nobody trains, got one that another process trains now: wait for it, or "
            "choose another --out"
        ) from error
    except OSError as error:
        raise OutputError(f"cannot write '{error.filename or out}': {error.strerror}; choose another --out") from error
    try:
        yield
    finally:
        with suppress(OSError):  # of a system that keeps files which are open
            (out / ".lock").unlink()
        lock.release()


def _starts_from_file(spec: RunSpec) -> bool:
    """Whether it starts from weights alone, not from the run that they are of, whose noise is a part of it."""
    return spec.weights is not None and Path(spec.weights.path).suffix == ".safetensors"


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted({*old, *new})
        return [
            found for key in keys for found in _differences(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))
        ]
    return [] if old == new else [f"{path} {_brief(old)} / {_brief(new)}"]


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"


class EventLog(Observer):
    """Appends events to ``events.jsonl`` and passes everything on.

    Args:
        record: whose log.
        listener: hears everything too.
    """

    def __init__(self, record: RunRecord, listener: Observer) -> None:
        self.file, self.listener = record.path / "events.jsonl", listener

    def start(self, what: str, total: int, done: int) -> None:
        """A run that starts from the beginning starts its log anew."""
        if done == 0:
            self.file.unlink(missing_ok=True)
        self.listener.start(what, total, done)

    def advance(self, text: str) -> None:
        """Pass on."""
        self.listener.advance(text)

    def event(self, event: dict[str, Any]) -> None:
        """Append a line."""
        try:
            with self.file.open("a") as log:
                log.write(json.dumps(event, allow_nan=False) + "\n")
        except OSError as error:
            raise OutputError(f"cannot write '{self.file}': {error.strerror}; free some space") from error
        self.listener.event(event)

    def log_size(self) -> int:
        """Bytes so far."""
        return self.file.stat().st_size if self.file.is_file() else 0

    def rewind(self, log_size: int) -> None:
        """Forget what was logged after the checkpoint."""
        if self.file.is_file():
            with self.file.open("r+b") as log:
                log.truncate(log_size)

    def stop(self) -> None:
        """Pass on."""
        self.listener.stop()
