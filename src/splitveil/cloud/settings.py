"""What a server may be told."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field, replace
from typing import Any

from splitveil.errors import SpecError

__all__ = ["Limits", "ServeSettings", "cores"]

_HEADER_BYTES = 65536
_TEXT_BYTES_PER_VALUE = 26  # of a float in JSON, with its comma


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client, one request, and all that wait may use.

    Args:
        max_rows: of one request.
        max_body_bytes: as it comes over the wire; None for what `max_rows` rows need as text.
        max_inflated_bytes: of a compressed body once inflated; None for `max_body_bytes`.
        max_queue_rows: that wait at most; more are answered with 429.
        rate_per_s: requests of one client, by token or else by address; None for no limit.
        burst: requests that a client may send at once before the rate holds.
        body_timeout_s: from the headers to the end of the body.
        header_timeout_s: from the first byte of a request, or a new connection, to the end of its headers.
        request_timeout_s: from the end of the body to the answer; then 503.

    Example:
        >>> Limits(max_rows=8).body_bytes(512) < 200_000
        True
    """

    max_rows: int = 256
    max_body_bytes: int | None = None
    max_inflated_bytes: int | None = None
    max_queue_rows: int = 1024
    rate_per_s: float | None = None
    burst: int = 100
    body_timeout_s: float = 10.0
    header_timeout_s: float = 10.0
    request_timeout_s: float = 30.0

    def __post_init__(self) -> None:
        for name in ("max_rows", "max_queue_rows", "burst"):
            _at_least_one(name, getattr(self, name))
        for name in ("max_body_bytes", "max_inflated_bytes"):
            if getattr(self, name) is not None:
                _at_least_one(name, getattr(self, name))
        for name in ("body_timeout_s", "header_timeout_s", "request_timeout_s"):
            _positive(name, getattr(self, name))
        if self.rate_per_s is not None:
            _positive("rate_per_s", self.rate_per_s)
        if self.max_queue_rows < self.max_rows:
            raise SpecError(
                f"expected max_queue_rows of at least max_rows = {self.max_rows}, got {self.max_queue_rows}: "
                "a request that fits must find room in an empty queue"
            )

    def body_bytes(self, values_per_row: int) -> int:
        """The limit of a body, where a row holds so many values."""
        return self.max_body_bytes or _HEADER_BYTES + self.max_rows * values_per_row * _TEXT_BYTES_PER_VALUE

    def inflated_bytes(self, values_per_row: int) -> int:
        """The limit of an inflated body."""
        return self.max_inflated_bytes or self.body_bytes(values_per_row)


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """How a bundle is served.

    Args:
        runtime: ``onnx``, or ``torch`` for the model of `run`.
        run: folder of the run that was exported; ``torch`` only.
        max_batch: rows that run together; None measures what suits the machine.
        max_delay_ms: that the first of a batch waits for others; longer while other batches run, see `BatcherSettings`.
        slots: batches that run at the same time; None measures.
        threads: of each of them; None measures.
        token_digests: sha256 of the tokens that open the door; none leaves it open.
        public_key: of who must have signed the passport, PEM or 32 bytes.
        limits: see there.
        ui: whether the live page is served too; it needs the device's side of the bundle, and opens it to visitors.

    Example:
        >>> ServeSettings(max_batch=8).max_batch
        8
    """

    runtime: str = "onnx"
    run: str | None = None
    max_batch: int | None = None
    max_delay_ms: float = 2.0
    slots: int | None = None
    threads: int | None = None
    token_digests: tuple[bytes, ...] = ()
    public_key: bytes | None = None
    limits: Limits = field(default_factory=Limits)
    ui: bool = False

    def __post_init__(self) -> None:
        if self.ui and self.token_digests:
            raise SpecError("expected the live page without tokens, got both: a page keeps no token; leave one out")
        if self.runtime not in ("onnx", "torch"):
            raise SpecError(f"expected the runtime onnx or torch, got '{self.runtime}'")
        if (self.runtime == "torch") != (self.run is not None):
            raise SpecError(
                "expected the folder of the exported run with runtime torch, and without it no run: a bundle holds "
                f"no torch model; got runtime '{self.runtime}' and run {self.run!r}"
            )
        for name in ("max_batch", "slots", "threads"):
            if getattr(self, name) is not None:
                _at_least_one(name, getattr(self, name))
        if not (_is_number(self.max_delay_ms) and 0 <= self.max_delay_ms < math.inf):
            raise SpecError(f"expected max_delay_ms >= 0, got {self.max_delay_ms!r}")

    @property
    def is_sized(self) -> bool:
        """Whether nothing is left to measure."""
        return None not in (self.max_batch, self.slots, self.threads)

    def sized(self, max_batch: int, slots: int, threads: int) -> ServeSettings:
        """These settings, with what was left open filled in."""
        return replace(
            self,
            max_batch=self.max_batch or max_batch,
            slots=self.slots or slots,
            threads=self.threads or threads,
        )


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _at_least_one(name: str, value: Any) -> None:
    if type(value) is not int or value < 1:
        raise SpecError(f"expected {name} >= 1, got {value!r}")


def _positive(name: str, value: Any) -> None:
    if not (_is_number(value) and 0 < value < math.inf):
        raise SpecError(f"expected {name} > 0, got {value!r}")
