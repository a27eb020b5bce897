"""Whatever comes, it is a request or a 400 with a reason."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cloud_fixtures import binary_request, releases, tensor
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from splitveil.cloud.datatypes import NUMPY_TYPES, TensorSpec
from splitveil.cloud.inflate import inflate
from splitveil.cloud.problems import HttpError
from splitveil.cloud.protocol import InferRequest, parse_infer
from splitveil.cloud.replies import encode_reply

SPEC = TensorSpec("r", "FP32", (4, 8, 8))
BODY, HEADERS = binary_request(releases(1))
LENGTH = HEADERS["Inference-Header-Content-Length"]

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KEYS = ("name", "shape", "datatype", "parameters", "data")


def request_or_reason(body: bytes, length: str | None) -> InferRequest | str:
    """What the parser makes of it; anything else than a request or a 400 fails the test."""
    try:
        request = parse_infer(body, length, [SPEC], ["reply"], 16)
    except HttpError as problem:
        return _good(problem)
    assert request.inputs["r"].shape[1:] == SPEC.shape
    assert request.inputs["r"].dtype == np.float32
    return request


def _good(problem: HttpError) -> str:
    assert problem.status in (400, 413)
    assert problem.reason.startswith("expected ")
    assert len(problem.reason) < 600
    return problem.reason


def any_bytes(body: bytes, length: str | None) -> None:
    request_or_reason(body, length)


def a_good_body_with_a_byte_changed_a_length_moved_and_its_end_cut(
    place: int, value: int, moved: int, end: int
) -> None:
    body = bytearray(BODY)
    body[place] = value
    request_or_reason(bytes(body), str(int(LENGTH) + moved))
    request_or_reason(bytes(body[:end]), LENGTH)
    request_or_reason(bytes(body[:end]), None)


def any_values_where_a_tensor_is_expected(changes: dict[str, Any], outputs: Any, parameters: Any) -> None:
    item = {**tensor(releases(1)), "data": [0] * 256, **changes}
    for top in ({"inputs": [item]}, {"inputs": [item], "outputs": outputs, "parameters": parameters}):
        request_or_reason(json.dumps(top).encode(), None)


def any_json(value: Any) -> None:
    request_or_reason(json.dumps(value).encode(), None)


@given(st.data())
def test_tensors_of_every_type_come_back(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(NUMPY_TYPES)))
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=4))
    rows = data.draw(st.integers(0, 3))
    array = data.draw(
        hnp.arrays(NUMPY_TYPES[name], (rows, *shape), elements={"allow_nan": False} if "FP" in name else None)
    )
    text, size = encode_reply("m", None, None, {"r": array}, {"r": True})
    assert size is not None or not array.size
    head = json.loads(text[:size])
    asked = json.dumps({"inputs": head["outputs"]}).encode()
    back = parse_infer(asked + text[size or len(text) :], str(len(asked)), [TensorSpec("r", name, shape)], [], 4)
    np.testing.assert_array_equal(back.inputs["r"], array)


def any_bytes_inflate_within_the_limit_or_not_at_all(data: bytes, encoding: str, limit: int) -> None:
    for body in (data, zlib.compress(data * 20), zlib.compress(data, wbits=31), zlib.compress(data, wbits=-15)):
        try:
            assert len(inflate(body, encoding, limit)) <= limit
        except HttpError as problem:
            _good(problem)


@pytest.mark.parametrize("examples", [25, pytest.param(3000, marks=pytest.mark.long)])
@pytest.mark.parametrize(
    ("check", "drawn"),
    [
        (
            any_bytes,
            (
                st.binary(max_size=4000),
                st.none() | st.integers(-10, 5000).map(str) | st.text(max_size=20),
            ),
        ),
        (
            a_good_body_with_a_byte_changed_a_length_moved_and_its_end_cut,
            (
                st.integers(0, len(BODY) - 1),
                st.integers(0, 255),
                st.integers(-40, 40),
                st.integers(0, len(BODY)),
            ),
        ),
        (
            any_values_where_a_tensor_is_expected,
            (
                st.dictionaries(st.sampled_from(KEYS), JSON, max_size=5),
                JSON,
                JSON,
            ),
        ),
        (any_json, (JSON,)),
        (
            any_bytes_inflate_within_the_limit_or_not_at_all,
            (
                st.binary(max_size=2000),
                st.sampled_from(["gzip", "deflate"]),
                st.integers(0, 4000),
            ),
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_it_is_a_request_or_a_reason(check: Callable[..., None], drawn: tuple[Any, ...], examples: int) -> None:
    settings(deadline=None, max_examples=examples)(given(*drawn)(check))()
