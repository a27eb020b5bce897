"""Clients: pictures in, outputs out, with the cloud in between."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.to_thread
import httpx
import numpy as np
from numpy.typing import NDArray

from splitveil_edge.edge import Edge
from splitveil_edge.errors import UsageError
from splitveil_edge.ledger import Ledger
from splitveil_edge.noise import Noise
from splitveil_edge.protocol import Request, check_metadata, make_request, parse_reply
from splitveil_edge.retrying import Retries
from splitveil_edge.transport import (
    METADATA_BYTES,
    Answer,
    Attempts,
    Collector,
    Security,
    client_options,
    drop_defaults,
    largest_reply,
)

__all__ = ["AsyncEdgeClient", "EdgeClient"]

_Pictures = NDArray[Any]
_About = str | Sequence[str] | None


class _Client:
    """What both clients are: an edge, an address, and how to ask it."""

    def __init__(
        self,
        bundle: Path | str | Edge,
        server: str,
        *,
        token: str | None = None,
        ca: Path | None = None,
        plain: Sequence[str] = (),
        public_key: bytes | None = None,
        noise: Noise | None = None,
        ledger: Ledger | None = None,
        timeout_s: float = 30.0,
        retries: Retries | None = None,
        batch_rows: int = 64,
        transport: Any = None,
    ) -> None:
        if batch_rows < 1:
            raise UsageError(f"expected batch_rows >= 1, got {batch_rows}")
        self._options = client_options(server, Security(token, ca, frozenset(plain)), timeout_s, transport)
        made = isinstance(bundle, Edge)
        if made and (public_key, noise, ledger) != (None, None, None):
            raise UsageError(
                "expected public_key, noise and ledger with a bundle, got them beside an Edge: give it them"
            )
        self.edge = (
            bundle if isinstance(bundle, Edge) else Edge(bundle, public_key=public_key, noise=noise, ledger=ledger)
        )
        self.server: str = self._options["base_url"]
        self._timeout_s, self._retries, self._rows = timeout_s, retries or Retries(), batch_rows
        self._met = False  # whether the server's passport is known to be ours

    def _metadata(self) -> Request:
        return Request(f"/v2/models/{self.edge.passport.name}", {}, b"", 0)

    def _request(self, r: NDArray[Any]) -> Request:
        return make_request(self.edge.passport, self.edge.codec.encode(r), self.edge.codec.datatype)

    def _most(self, request: Request) -> int:
        return largest_reply(self.edge.passport, request.rows) if request.rows else METADATA_BYTES

    def _collector(self, request: Request) -> Collector:
        return Collector(self._most(request), self._timeout_s)

    def _reply(self, answer: Answer, request: Request) -> NDArray[np.float32]:
        return parse_reply(answer.body, answer.headers, self.edge.passport, request.rows)

    def _doubts(self, outcome: Answer | httpx.RequestError, request: Request) -> bool:
        """Whether a release was refused as one of another bundle would be: the metadata tell."""
        return bool(request.rows) and isinstance(outcome, Answer) and outcome.status == 400

    def _chunks(self, x: _Pictures, about: _About) -> Iterator[tuple[_Pictures, _About]]:
        self.edge.check(x)
        names = about if about is None or isinstance(about, str) else list(about)
        if isinstance(names, list) and len(names) != len(x):
            raise UsageError(f"expected one name for all or one per picture, got {len(names)} for {len(x)}")
        for start in range(0, len(x), self._rows):
            rows = slice(start, start + self._rows)
            yield x[rows], names[rows] if isinstance(names, list) else names


class EdgeClient(_Client):
    """Infers with the cloud's half, and sends nothing to a server that does not hold the bundle's passport.

    Args:
        bundle: a folder, or an `Edge` that is made already.
        server: ``https://host:port``; plain http to this machine, or to hosts in `plain`.
        token: sent as ``Authorization: Bearer``.
        ca: file of certificates to trust in place of the usual ones.
        plain: hosts that may be reached without TLS.
        public_key: see `Edge`, as `noise` and `ledger`.
        timeout_s: for the connection, for each wait for the server to send or take bytes, and for the chunks of a body
            together, seconds. A server that drips headers or the framing of chunks can take longer: see
            `AsyncEdgeClient`.
        retries: for connection errors, timeouts and the statuses 429, 502, 503 and 504.
        batch_rows: the most pictures in one request.
        transport: of httpx, for proxies and tests.

    Raises:
        UsageError: the address or an option cannot be meant; see `Edge` for the others.

    Example:
        >>> with EdgeClient("bundle", "https://tail.example:8443", token="…") as client:  # doctest: +SKIP
        ...     client.predict(x).argmax(1)
    """

    def __init__(self, bundle: Path | str | Edge, server: str, **options: Any) -> None:
        super().__init__(bundle, server, **options)
        self._http = httpx.Client(**self._options)
        drop_defaults(self._http.headers)

    def predict(self, x: _Pictures, *, about: _About = None) -> NDArray[np.float32]:
        """Pictures ``(n, c, h, w)`` in [0, 1] to outputs ``(n, *output)``.

        Raises:
            InputError: the pictures are something else.
            BudgetError: the ledger refuses; nothing was sent of the batch that it refuses.
            TrustError: the server holds another passport.
            ServerError: it refused, or did not answer.
        """
        found = []
        for pictures, names in self._chunks(x, about):
            self.meet()
            found.append(self.edge.finish(self.ask(self.edge.release(pictures, names))))
        return np.concatenate(found)

    def ask(self, r: NDArray[Any]) -> NDArray[np.float32]:
        """The cloud's reply ``(n, *reply)`` to releases ``(n, *r)``; they are sent as they are."""
        request = self._request(r)
        return self._reply(self._send(request), request)

    def meet(self) -> None:
        """Read the server's metadata, once, and hold its passport against the bundle's.

        Raises:
            TrustError: it is another one.
        """
        if not self._met:
            check_metadata(self._send(self._metadata()).body, self.edge.passport)
            self._met = True

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, request: Request) -> Answer:
        attempts = Attempts(self._retries, self.server)
        while True:
            if request.rows:
                self.meet()
            outcome = self._attempt(request)
            if self._doubts(outcome, request):
                self._met = False
                self.meet()
            wait_s = attempts.after(outcome)
            if isinstance(outcome, Answer) and wait_s is None:
                return outcome
            self._met = False  # who answers after a failure may be somebody else
            time.sleep(wait_s or 0.0)

    def _attempt(self, request: Request) -> Answer | httpx.RequestError:
        verb, into = "POST" if request.rows else "GET", self._collector(request)
        try:
            with self._http.stream(verb, request.path, headers=request.headers, content=request.body) as response:
                for chunk in response.iter_bytes():
                    into.add(chunk)
                return Answer(response.status_code, response.headers, into.body)
        except httpx.RequestError as error:
            return error


class AsyncEdgeClient(_Client):
    """`EdgeClient` for asyncio and trio: the same arguments, the same methods, awaited.

    Here `timeout_s` bounds a whole attempt besides, whatever the server does.
    """

    def __init__(self, bundle: Path | str | Edge, server: str, **options: Any) -> None:
        super().__init__(bundle, server, **options)
        self._http = httpx.AsyncClient(**self._options)
        drop_defaults(self._http.headers)

    async def predict(self, x: _Pictures, *, about: _About = None) -> NDArray[np.float32]:
        """See `EdgeClient.predict`; the graphs run in a thread."""
        found = []
        for pictures, names in self._chunks(x, about):
            await self.meet()
            r = await anyio.to_thread.run_sync(self.edge.release, pictures, names)
            found.append(await anyio.to_thread.run_sync(self.edge.finish, await self.ask(r)))
        return np.concatenate(found)

    async def ask(self, r: NDArray[Any]) -> NDArray[np.float32]:
        """See `EdgeClient.ask`."""
        request = self._request(r)
        return self._reply(await self._send(request), request)

    async def meet(self) -> None:
        """See `EdgeClient.meet`."""
        if not self._met:
            check_metadata((await self._send(self._metadata())).body, self.edge.passport)
            self._met = True

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _send(self, request: Request) -> Answer:
        attempts = Attempts(self._retries, self.server)
        while True:
            if request.rows:
                await self.meet()
            outcome = await self._attempt(request)
            if self._doubts(outcome, request):
                self._met = False
                await self.meet()
            wait_s = attempts.after(outcome)
            if isinstance(outcome, Answer) and wait_s is None:
                return outcome
            self._met = False  # who answers after a failure may be somebody else
            await anyio.sleep(wait_s or 0.0)

    async def _attempt(self, request: Request) -> Answer | httpx.RequestError:
        try:
            with anyio.fail_after(self._timeout_s):
                return await self._exchange(request)
        except httpx.RequestError as error:
            return error
        except TimeoutError:
            return httpx.ReadTimeout("the answer took too long")

    async def _exchange(self, request: Request) -> Answer:
        verb, into = "POST" if request.rows else "GET", self._collector(request)
        async with self._http.stream(verb, request.path, headers=request.headers, content=request.body) as response:
            async for chunk in response.aiter_bytes():
                into.add(chunk)
            return Answer(response.status_code, response.headers, into.body)
