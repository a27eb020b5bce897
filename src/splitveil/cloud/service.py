"""One bundle, being served: from a body to a reply, without any HTTP."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitveil import __version__
from splitveil.cloud.access import Access
from splitveil.cloud.batching import Batcher, BatcherSettings
from splitveil.cloud.datatypes import TensorSpec
from splitveil.cloud.inflate import inflate
from splitveil.cloud.intake import ClientGoneError, Intake
from splitveil.cloud.logs import error_fields, log
from splitveil.cloud.metrics import Metrics
from splitveil.cloud.problems import HttpError
from splitveil.cloud.protocol import InferRequest, header_size, parse_infer
from splitveil.cloud.settings import ServeSettings
from splitveil.cloud.sizing import measure_sizing
from splitveil.cloud.tails import Served

__all__ = ["INPUT", "OUTPUT", "VERSION", "Service"]

INPUT, OUTPUT, VERSION = "r", "reply", "1"

_LOOK_FOR_CLIENT_S = 1.0
_QUICK_BYTES = 2**18  # of JSON that is read between two other requests; a thread costs more than it saves
_SLACK = 8 * np.finfo(np.float32).eps


class Service:
    """Checks requests, batches them, and knows whether it is ready.

    Args:
        served: a bundle that has been checked.
        settings: see there; what is left open in it is measured now.
    """

    def __init__(self, served: Served, settings: ServeSettings) -> None:
        if not settings.is_sized:
            settings = measure_sizing(served, settings)
        self.served, self.settings, self.passport = served, settings, served.passport
        self.input = TensorSpec(INPUT, served.wire.datatype, served.wire.shape)
        self.output = TensorSpec(OUTPUT, "FP32", self.passport.reply_shape)
        self.metrics = Metrics(self.passport.name, self.passport.digest, __version__)
        limits, values = settings.limits, int(np.prod(self.passport.release_shape))
        self.body_bytes, self._inflated_bytes = limits.body_bytes(values), limits.inflated_bytes(values)
        batching = BatcherSettings(
            settings.max_batch or 1, settings.max_delay_ms / 1000, limits.max_queue_rows, settings.slots or 1
        )
        self.batcher = Batcher(served.tail(settings, settings.threads or 1), batching, self)
        self.metrics.watch(lambda: self.batcher.queued_rows, lambda: self.batcher.running, lambda: self.is_ready)
        self.access = Access(settings.token_digests, limits.rate_per_s, limits.burst)
        self._draining = False
        self._reader = ThreadPoolExecutor(1, "splitveil-read")  # one, since a long body takes many times its size
        self._expires_s = self.passport.expires.timestamp() if self.passport.expires else float("inf")
        self._range = _limits(self.passport.release_range)

    @property
    def is_ready(self) -> bool:
        """Whether new requests are welcome."""
        return not self._draining and time.time() < self._expires_s

    def drain(self) -> None:
        """Say that no new requests are welcome; those that come are answered all the same, until the process ends."""
        if not self._draining:
            self._draining = True
            log(logging.INFO, "draining", queued_rows=self.batcher.queued_rows, running=self.batcher.running)

    def close(self) -> None:
        """Give the threads back."""
        self._reader.shutdown(wait=False, cancel_futures=True)
        self.batcher.close()

    def metadata(self) -> dict[str, Any]:
        """Of the model, with the passport."""
        signature = self.passport.signature
        return {
            "name": self.passport.name,
            "versions": [VERSION],
            "platform": "onnx_onnxv1" if self.settings.runtime == "onnx" else "pytorch_torch",
            "inputs": [self.input.to_json()],
            "outputs": [self.output.to_json()],
            "passport": {
                "sha256": self.passport.digest,
                "signature": None if signature is None else json.loads(signature.to_bytes()),
                "body": json.loads(self.passport.body),
            },
        }

    async def read(self, body: bytes, encoding: str | None, header_length: str | None) -> InferRequest:
        """See `parse`; what takes long is done in a thread, one after another, so that others are answered meanwhile.

        Raises:
            HttpError: as `parse`, and 503 where there was no time.
        """
        if encoding is None and header_size(header_length, len(body)) <= _QUICK_BYTES:
            return self.parse(body, encoding, header_length)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.settings.limits.request_timeout_s):
                return await loop.run_in_executor(self._reader, self.parse, body, encoding, header_length)
        except TimeoutError:
            raise HttpError(
                503, "expected time to read the body, got none: try again later", retry_after_s=1.0
            ) from None

    def parse(self, body: bytes, encoding: str | None, header_length: str | None) -> InferRequest:
        """A request whose features may be run.

        Raises:
            HttpError: 400, 413 or 415, with the reason.
        """
        data = inflate(body, encoding, self._inflated_bytes)
        return self.check(parse_infer(data, header_length, [self.input], [OUTPUT], self.settings.limits.max_rows))

    def check(self, request: InferRequest) -> InferRequest:
        """The same request with its features as the tail takes them.

        Raises:
            HttpError: 400: another passport, or features that no release holds.
        """
        self._check_passport(request.parameters.get("passport"))
        sent = request.inputs[INPUT]
        if self.input.datatype != "FP32":
            sent = request.inputs[INPUT] = self.served.wire.decode(sent)
        self._check_values(sent)
        return request

    async def reply(self, rows: NDArray[np.float32], intake: Intake | None = None) -> NDArray[np.float32]:
        """The replies of checked rows, unless the client hangs up or it takes too long.

        Args:
            rows: of a request.
            intake: that tells when its client hangs up; None where this task is cancelled then.

        Raises:
            HttpError: 429, 500, or 503 where the passport has expired or there was no time.
            ClientGoneError: see there.
        """
        if time.time() >= self._expires_s:
            raise HttpError(503, "expected a passport that is valid, got one that has expired: export the run again")
        if not len(rows):
            return np.zeros((0, *self.passport.reply_shape), np.float32)
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("expected to run in a task of an event loop, got none: await it from one")
        watch = None if intake is None else _Watch(intake, task)
        try:
            async with asyncio.timeout(self.settings.limits.request_timeout_s):
                return await self.batcher.submit(rows)
        except TimeoutError:
            raise HttpError(
                503, "expected a free model in time, got none: try again later", retry_after_s=1.0
            ) from None
        except asyncio.CancelledError:
            if watch is not None and watch.gone:
                task.uncancel()
                raise ClientGoneError from None
            raise
        finally:
            if watch is not None:
                watch.close()

    def batch_done(self, rows: int, waited_s: float, run_s: float) -> None:
        """See `BatchObserver`."""
        self.metrics.batch_done(rows, waited_s, run_s)

    def batch_failed(self, rows: int, error: BaseException) -> None:
        """See `BatchObserver`."""
        self.metrics.batch_failed()
        log(logging.ERROR, "batch_failed", rows=rows, **error_fields(error))

    def _check_passport(self, claimed: Any) -> None:
        """An edge may name its passport with each request: then none is answered by another bundle's tail."""
        if claimed is not None and not self.passport.is_named(claimed):
            raise HttpError(
                400,
                f"expected an edge with the passport {self.passport.short_digest}…, as the parameter 'passport' says, "
                "got another: get both sides of one bundle",
            )

    def _check_values(self, r: NDArray[np.float32]) -> None:
        if not r.size:
            return
        low, high = float(r.min()), float(r.max())  # NaN wins in both, and fails each comparison
        if self._range[0] <= low and high <= self._range[1]:
            return
        if not bool(np.isfinite(r).all()):
            raise HttpError(400, "expected finite features, got NaN or infinity: check the picture and the edge")
        declared = self.passport.release_range or self._range
        raise HttpError(
            400,
            f"expected features from {declared[0]:g} to {declared[1]:g}, as the passport declares, got others: "
            "is this the edge of the same bundle?",
        )


class _Watch:
    """Cancels a task whose client has hung up; it looks once a second has gone by, since most are answered before."""

    def __init__(self, intake: Intake, task: asyncio.Task[Any]) -> None:
        self.gone = False
        self._intake, self._task = intake, task
        self._look: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(_LOOK_FOR_CLIENT_S, self._begin)

    def close(self) -> None:
        self._timer.cancel()
        if self._look is not None:
            self._look.cancel()

    def _begin(self) -> None:
        self._look = asyncio.get_running_loop().create_task(self._wait())

    async def _wait(self) -> None:
        self.gone = await self._intake.has_gone()
        if self.gone:
            self._task.cancel()


def _limits(declared: tuple[float, float] | None) -> tuple[float, float]:
    """What passes: the declared range and the rounding of float32 around it, and nothing infinite in any case."""
    if declared is None:
        largest = float(np.finfo(np.float32).max)
        return -largest, largest
    slack = float(_SLACK) * max(abs(declared[0]), abs(declared[1]))
    return declared[0] - slack, declared[1] + slack
