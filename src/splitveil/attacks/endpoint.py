"""An encoder behind an HTTP address as a subject of an audit.

```
POST <url>                                          200
Content-Type: application/octet-stream              Content-Type: application/octet-stream
Splitveil-Shape: 64,3,32,32                         Splitveil-Shape: 64,8,8,8
<pictures, float32 little-endian, row-major>        <releases, float32 little-endian, row-major>
```
One request per batch. 503 means "later", with ``Retry-After`` in seconds where the server knows; every other status is
an error. The endpoint draws its own noise.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from splitveil.attacks.subjects import BLACK_BOX_OFFERS
from splitveil.combining import Combine, find_combination
from splitveil.contracts import FeatureSpec, NoiseSource, check_finite, positive
from splitveil.errors import InputError, MissingDataError, MissingExtraError, SpecError
from splitveil.threats import Grant

__all__ = ["SHAPE_HEADER", "EndpointSubject"]

SHAPE_HEADER = "Splitveil-Shape"
"""Header that holds the sizes of the tensor in the body, separated by commas, the batch first."""

_LONGEST_WAIT_S = 30.0
_MOST_AXES = 4
_SHOWN = 200  # bytes of a server's own words in a message


class EndpointSubject:
    """An HTTP endpoint that turns pictures into releases; see the module for the protocol.

    Args:
        url: ``http://`` or ``https://``.
        input_shape: ``(c, h, w)``.
        release_spec: of r; None to find it by one request with a black picture.
        batch_size: pictures per request, at most.
        timeout_s: for one request from the first byte to the last, seconds.
        retries: after a 503.
        backoff_s: before the first of them, seconds; doubled each time. The server's ``Retry-After`` comes first.
        max_reply_bytes: a longer reply is refused before it is read.
        headers: sent along, such as an authorisation.
        combine: what m releases ``(n, m, *r)`` of one input amount to; a function, or a name of `COMBINATIONS`.

    Raises:
        MissingExtraError: httpx is not installed.
        MissingDataError: nobody answers at the address.
        InputError: the reply is not as above.
        SpecError: an argument out of range.
    """

    offers: frozenset[Grant] = BLACK_BOX_OFFERS

    def __init__(
        self,
        url: str,
        input_shape: Sequence[int],
        release_spec: FeatureSpec | None = None,
        *,
        batch_size: int = 64,
        timeout_s: float = 30.0,
        retries: int = 3,
        backoff_s: float = 0.5,
        max_reply_bytes: int = 2**28,
        headers: dict[str, str] | None = None,
        combine: Combine | str = "mean",
    ) -> None:
        if find_spec("httpx") is None:
            raise MissingExtraError("httpx", "endpoint", "auditing an endpoint")
        if min(batch_size, max_reply_bytes) < 1 or retries < 0 or backoff_s < 0:
            raise SpecError(
                "expected batch_size, max_reply_bytes >= 1 and retries, backoff_s >= 0, got "
                f"{batch_size}, {max_reply_bytes}, {retries}, {backoff_s}"
            )
        self.url, self.input_shape = url, tuple(input_shape)
        self._batch_size, self._retries, self._backoff_s = batch_size, retries, backoff_s
        self._timeout_s, self._max_reply_bytes = positive(timeout_s, "timeout_s"), max_reply_bytes
        self._combine = find_combination(combine)
        self._httpx: Any = import_module("httpx")
        # a compressed reply could unfold to any size
        own = {"Accept-Encoding": "identity", "Content-Type": "application/octet-stream"}
        self._client = self._httpx.Client(
            timeout=self._timeout_s,
            headers={**own, **(headers or {})},
            trust_env=url.startswith("https:"),  # a proxy of the environment would read what goes without TLS
        )
        self.release_spec: FeatureSpec = release_spec if release_spec is not None else self._probe()

    def _probe(self) -> FeatureSpec:
        return FeatureSpec.of(self._ask(torch.zeros(1, *self.input_shape)).shape[1:])

    def release(self, x: Tensor, noise: NoiseSource) -> Tensor:
        """``(n, c, h, w)`` float32 in [0, 1] to ``(n, *r)`` float32 on the device of x; `noise` is not used."""
        if tuple(x.shape[1:]) != self.input_shape:
            raise InputError(f"expected x of shape (n, {', '.join(map(str, self.input_shape))}), got {tuple(x.shape)}")
        if not len(x):
            return x.new_zeros(0, *self.release_spec.shape)
        r = torch.cat([self._ask(chunk) for chunk in torch.split(x.detach(), self._batch_size)])
        self.release_spec.check(r, "r")
        return r.to(x.device)

    def combine(self, r: Tensor) -> Tensor:
        """What m releases of one input amount to: ``(n, m, *r)`` to ``(n, *r)``."""
        return self._combine(r)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _ask(self, x: Tensor) -> Tensor:
        body = x.cpu().to(torch.float32).contiguous().numpy().astype("<f4").tobytes()
        headers = {SHAPE_HEADER: ",".join(map(str, x.shape))}
        for attempt in range(self._retries + 1):
            try:
                answer = self._post(body, headers, len(x))
            except (self._httpx.TransportError, self._httpx.InvalidURL) as error:
                reason = str(error) or type(error).__name__
                raise MissingDataError(
                    f"expected an answer from '{self.url}' within {self._timeout_s:g} s, got {reason}: "
                    "check the address, or raise timeout_s"
                ) from error
            if isinstance(answer, Tensor):
                return answer
            if attempt < self._retries:
                time.sleep(min(self._backoff_s * 2**attempt if answer is None else answer, _LONGEST_WAIT_S))
        raise MissingDataError(
            f"expected releases from '{self.url}', got status 503 {self._retries + 1} times: try later"
        )

    def _post(self, body: bytes, headers: dict[str, str], rows: int) -> Tensor | float | None:
        """The releases; or, after a 503, the seconds to wait where the server says so."""
        deadline = time.monotonic() + self._timeout_s
        with self._client.stream("POST", self.url, content=body, headers=headers) as reply:
            if reply.status_code == 503:
                return _seconds(reply.headers.get("Retry-After"))
            if reply.status_code != 200:
                words = self._read(reply, _SHOWN, deadline)[:_SHOWN].decode("utf-8", "replace").split()
                raise InputError(
                    f"expected status 200 from '{self.url}', got {reply.status_code} {' '.join(words)}".rstrip()
                    + ": see the protocol of EndpointSubject"
                )
            shape = self._shape(reply.headers, rows)
            size = 4 * math.prod(shape)
            data = self._read(reply, size, deadline)
        if len(data) != size:
            got = "more" if len(data) > size else str(len(data))
            raise InputError(
                f"expected {size} bytes for shape {shape} from '{self.url}', got {got}: send float32, nothing else"
            )
        r = torch.from_numpy(np.frombuffer(data, dtype="<f4").astype(np.float32)).reshape(shape)
        check_finite(r, f"the releases from '{self.url}'", "repair the encoder before it is attacked")
        return r

    def _shape(self, headers: Any, rows: int) -> tuple[int, ...]:
        text, encoding = headers.get(SHAPE_HEADER, ""), headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            raise InputError(f"expected a plain reply from '{self.url}', got encoding '{encoding[:_SHOWN]}': send none")
        sizes = text.split(",")
        # int() reads "1_0", "+1" and digits of other scripts, and long texts slowly
        plain = all(part.strip().isascii() and part.strip().isdigit() and len(part) < 20 for part in sizes)
        shape = tuple(map(int, sizes)) if plain and 2 <= len(sizes) <= _MOST_AXES else ()
        if not shape or shape[0] != rows or min(shape) < 1:
            raise InputError(
                f"expected {SHAPE_HEADER} of {rows} rows and 1 to 3 sizes from '{self.url}', got '{text[:_SHOWN]}': "
                "send one release per picture"
            )
        if 4 * math.prod(shape) > self._max_reply_bytes:
            raise InputError(
                f"expected a reply of at most {self._max_reply_bytes} bytes from '{self.url}', got shape {shape}: "
                "lower batch_size, or raise max_reply_bytes"
            )
        return shape

    def _read(self, reply: Any, limit: int, deadline: float) -> bytes:
        """The body, or as much of it as shows that it is longer than the limit."""
        data = bytearray()
        for chunk in reply.iter_raw():
            data += chunk
            if len(data) > limit:
                break
            if time.monotonic() > deadline:  # the client's own limit starts anew with each packet
                raise self._httpx.ReadTimeout("a reply that trickles")
        return bytes(data)


def _seconds(text: str | None) -> float | None:
    return float(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 10 else None
