"""From bytes to arrays: what passes, and the reason where something does not."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import numpy as np
import pytest
from cloud_fixtures import binary_request, json_request, releases, tensor

from splitveil.cloud import protocol as module
from splitveil.cloud.datatypes import TensorSpec
from splitveil.cloud.problems import HttpError
from splitveil.cloud.protocol import InferRequest, header_size, parse_infer
from splitveil.cloud.replies import encode_reply

SPEC = TensorSpec("r", "FP32", (4, 8, 8))
R = releases(2)


def parse(body: bytes, length: str | None = None, spec: TensorSpec = SPEC) -> InferRequest:
    return parse_infer(body, length, [spec], ["reply"], 16)


def parse_json(request: Any) -> InferRequest:
    return parse(json.dumps(request).encode())


def reason(request: Any) -> str:
    with pytest.raises(HttpError) as caught:
        parse_json(request)
    assert caught.value.status == 400
    return caught.value.reason


def with_input(**changes: Any) -> dict[str, Any]:
    """A good request with another input; a change to None leaves the key out."""
    item = {**tensor(R, data=R.ravel().tolist()), **changes}
    return {"inputs": [{key: value for key, value in item.items() if value is not None}]}


def test_flat_nested_and_binary_data_are_the_same() -> None:
    body, headers = binary_request(R)
    found = [
        parse_json(json_request(R)),
        parse_json({"inputs": [tensor(R, data=R.tolist())]}),
        parse(body, headers["Inference-Header-Content-Length"]),
    ]
    for request in found:
        np.testing.assert_array_equal(request.inputs["r"], R)
        assert request.inputs["r"].dtype == np.float32
        assert request.outputs == {"reply": False}


def test_id_and_unknown_parameters_pass() -> None:
    request = parse_json(json_request(R, id="a\u00e9", parameters={"priority": 1}))
    assert request.id == "a\u00e9"


@pytest.mark.parametrize("wanted", [None, []])
def test_no_outputs_are_all(wanted: Any) -> None:
    assert parse_json(json_request(R, outputs=wanted)).outputs == {"reply": False}


def test_outputs_come_in_the_form_that_is_asked_for() -> None:
    whole = {"binary_data_output": True}
    assert parse_json(json_request(R, parameters=whole)).outputs == {"reply": True}
    assert parse_json(json_request(R, outputs=[{"name": "reply"}], parameters=whole)).outputs == {"reply": True}
    item = {"name": "reply", "parameters": {"binary_data": False}}
    assert parse_json(json_request(R, outputs=[item], parameters=whole)).outputs == {"reply": False}


def test_zero_rows_pass() -> None:
    empty = R[:0]
    body, headers = binary_request(empty)
    assert parse(body, headers["Inference-Header-Content-Length"]).inputs["r"].shape == (0, 4, 8, 8)
    assert parse_json(json_request(empty)).inputs["r"].shape == (0, 4, 8, 8)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "x"}, "one of the inputs r"),
        ({"name": 3}, "one of the inputs r"),
        ({"datatype": "FP64"}, "expected datatype FP32 for 'r', got 'FP64'"),
        ({"datatype": "FLOAT"}, "which is no datatype"),
        ({"datatype": ["FP32"]}, "expected datatype FP32"),
        ({"shape": [4, 8, 8]}, "the batch axis is missing"),
        ({"shape": [2, 4, 8, 9]}, "expected the shape [n, 4, 8, 8]"),
        ({"shape": [-1, 4, 8, 8]}, "expected the shape [n, 4, 8, 8]"),
        ({"shape": [True, 4, 8, 8]}, "expected the shape"),
        ({"shape": [2.0, 4, 8, 8]}, "expected the shape"),
        ({"shape": []}, "expected the shape"),
        ({"shape": "2"}, "expected the shape"),
        ({"shape": [17, 4, 8, 8]}, "at most 16 rows"),
        ({"shape": [2**62, 4, 8, 8]}, "at most 16 rows"),
        ({"shape": [10**30, 4, 8, 8]}, "at most 16 rows"),
        ({"shape": [1, 4, 8, 8]}, "expected 256 values in row-major order"),
        ({"data": None}, "expected data or binary_data_size"),
        ({"data": "AAAA"}, "expected data or binary_data_size"),
        ({"data": [[1.0, 2.0], [3.0]]}, "ragged"),
        ({"data": R.reshape(2, 256).tolist()}, "lists of 256 in axis 1, not 4"),
        ({"data": [R.tolist()]}, "lists of 1 in axis 0, not 2"),
        ({"data": [[[1.0] * 8] * 8, 1.0]}, "nested 1 deep"),
        ({"data": [1.0] * 511 + [[1.0]]}, "expected numbers of FP32"),
        ({"data": [1.0] * 511 + [True]}, "expected numbers of FP32"),
        ({"data": ["a" * 2000] + [1.0] * 511}, "expected numbers of FP32"),
        ({"data": ["1"] * 512}, "expected numbers of FP32"),
        ({"data": [True] * 512}, "expected numbers of FP32"),
        ({"data": [None] * 512}, "expected numbers of FP32"),
        ({"data": [10**400] * 512}, "expected"),
        ({"data": [{"a": 1}] * 512}, "expected numbers of FP32"),
        ({"parameters": [1]}, "expected an object as parameters"),
        ({"parameters": {"binary_data_size": 2048}}, "got both"),
    ],
)
def test_an_input_that_does_not_fit_is_refused(changes: dict[str, Any], said: str) -> None:
    assert said in reason(with_input(**changes))


def test_a_long_text_among_numbers_takes_no_memory() -> None:
    """An array of texts has room for the longest one in each of its places."""
    request = with_input(data=["a" * 100_000] + [1.0] * 60_000)
    tracemalloc.start()
    try:
        assert "got 60001 values" in reason(request)
        assert "expected numbers" in reason(with_input(data=["a" * 100_000] + [1.0] * 511))
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [0, 2047, 2049, -1, 2**31, 2**63, 10**40, True, "2048", 2048.0])
def test_a_binary_size_that_does_not_fit_the_shape_is_refused(size: Any) -> None:
    assert "binary_data_size 2048" in reason(with_input(data=None, parameters={"binary_data_size": size}))


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ([], "expected a JSON object"),
        (3, "expected a JSON object"),
        ({}, "'inputs' to be a list"),
        ({"inputs": []}, "'inputs' to be a list"),
        ({"inputs": {"name": "r"}}, "'inputs' to be a list"),
        ({"inputs": ["r"]}, "expected an object for each"),
        ({"inputs": json_request(R)["inputs"] * 2}, "once, got it twice"),
        (json_request(R, id=7), "as id"),
        (json_request(R, id="x" * 2000), "as id"),
        (json_request(R, outputs=[{"name": "label"}]), "one of the outputs reply"),
        (json_request(R, outputs=[{"name": "reply"}] * 2), "once, got it twice"),
        (json_request(R, outputs=[7]), "expected an object for each"),
        (json_request(R, outputs=[{"name": "reply", "parameters": {"classification": 3}}]), "classification"),
        (json_request(R, outputs=[{"name": "reply", "parameters": {"binary_data": 1}}]), "true or false"),
        (json_request(R, parameters={"binary_data_output": "yes"}), "true or false"),
        (json_request(R, parameters=7), "expected an object as parameters"),
    ],
)
def test_a_request_that_does_not_fit_is_refused(request_: Any, said: str) -> None:
    assert said in reason(request_)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "expected JSON"),
        (b"{", "expected JSON"),
        (b"\xff\xfe{", "UTF-8"),
        (b"[" * 60_000, "RecursionError"),
        (b"[" * 200_000, "send fewer rows"),
        (b'{"inputs": ' + b"9" * 5000 + b"}", "ValueError"),
        (json.dumps(with_input(data=[float("nan")] * 512)).encode(), "finite numbers, got NaN"),
        (json.dumps(with_input(data=[float("-inf")] * 512)).encode(), "finite numbers, got -Infinity"),
    ],
)
def test_what_is_no_json_is_refused(body: bytes, said: str) -> None:
    with pytest.raises(HttpError, match="expected") as caught:
        parse(body)
    assert caught.value.status == 400
    assert said in caught.value.reason


@pytest.mark.parametrize("text", ["-1", "1.5", "0x10", "", " ", "1_0", "\u0661", "9" * 40, "10000000", "nan"])
def test_a_header_that_is_no_length_within_the_body_is_refused(text: str) -> None:
    body, _ = binary_request(R)
    with pytest.raises(HttpError, match="Inference-Header-Content-Length"):
        parse(body, text)


def test_the_length_of_the_json_is_read_as_it_is() -> None:
    assert header_size(" 12 ", 12) == 12
    with pytest.raises(HttpError, match="within the body of 12 bytes, got 13"):
        header_size("13", 12)


def test_a_missing_header_is_named_as_a_possible_cause() -> None:
    body, _ = binary_request(np.full((2, 4, 8, 8), -1.5, np.float32))
    with pytest.raises(HttpError, match="Inference-Header-Content-Length"):
        parse(body)


@pytest.mark.parametrize(("change", "said"), [(-1, "truncated"), (-2048, "truncated"), (3, "3 bytes more")])
def test_blobs_end_where_the_body_ends(change: int, said: str) -> None:
    body, headers = binary_request(R)
    body = body[:change] if change < 0 else body + b"\0" * change
    with pytest.raises(HttpError, match=said):
        parse(body, headers["Inference-Header-Content-Length"])


@pytest.mark.parametrize(("values", "ok"), [([0, 255], True), ([0, 256], False), ([-1, 0], False), ([0.5, 1.0], False)])
def test_bytes_in_json_are_within_their_range(values: list[float], ok: bool) -> None:
    spec = TensorSpec("r", "UINT8", (2,))
    item = {"name": "r", "shape": [1, 2], "datatype": "UINT8", "data": values}
    body = json.dumps({"inputs": [item]}).encode()
    if ok:
        assert parse(body, spec=spec).inputs["r"].tolist() == [values]
    else:
        with pytest.raises(HttpError, match=r"UINT8|from 0 to 255"):
            parse(body, spec=spec)


@pytest.mark.parametrize("item", [b"[]", b"{}", b'"ab"', b"[[[[]]]]", b"0"])
def test_more_items_than_the_largest_request_has_are_not_decoded(item: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_json", lambda text, decoder: pytest.fail("it was decoded"))
    with pytest.raises(HttpError, match="send fewer rows") as caught:
        parse(b'{"a":[' + b",".join([item] * 80_000) + b"]}")
    assert caught.value.status == 400


@pytest.mark.parametrize("shape", [(4, 8, 8), (256, 1, 1), (1, 1, 256), (64,), (2,) * 7])
def test_the_largest_request_is_decoded_however_it_is_nested(shape: tuple[int, ...]) -> None:
    spec, r = TensorSpec("r", "FP32", shape), np.zeros((4096, *shape), np.float32)
    body = json.dumps({"inputs": [tensor(r, data=r.tolist())]}).encode()
    assert len(body) > 65536
    assert parse_infer(body, None, [spec], ["reply"], 4096).inputs["r"].shape == r.shape


def test_long_texts_give_the_same_numbers() -> None:
    r = releases(16)
    body = json.dumps(json_request(r)).encode()
    assert len(body) > 65536
    np.testing.assert_array_equal(parse(body).inputs["r"], r)


def test_values_beyond_float32_become_infinite_and_are_left_to_their_judge() -> None:
    r = parse_json(with_input(data=[1e300] * 512)).inputs["r"]
    assert np.isinf(r).all()


def test_no_reason_quotes_a_feature() -> None:
    secret = 0.123456789
    for changes in ({"data": [secret] * 511}, {"data": [str(secret)] * 512}, {"data": [[secret], [secret, secret]]}):
        assert "123" not in reason(with_input(**changes))


def test_an_answer_is_row_major_little_endian() -> None:
    reply = np.arange(6, dtype=np.float32).reshape(2, 3)
    body, size = encode_reply("m", "1", 'q"\u00e9', {"reply": reply}, {"reply": True})
    assert size is not None
    head = json.loads(body[:size])
    assert (head["model_name"], head["model_version"], head["id"]) == ("m", "1", 'q"\u00e9')
    assert head["outputs"][0]["parameters"] == {"binary_data_size": 24}
    np.testing.assert_array_equal(np.frombuffer(body[size:], "<f4").reshape(2, 3), reply)
    text, none = encode_reply("m", None, None, {"reply": reply}, {"reply": False})
    assert none is None
    assert json.loads(text)["outputs"][0]["data"] == [0, 1, 2, 3, 4, 5]
