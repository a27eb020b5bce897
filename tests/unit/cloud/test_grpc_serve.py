"""The protocol over gRPC: with a client of others, unmodified, and with what no client would send."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cloud_fixtures import SMALL, Limits, LiveServer, live, releases
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from splitveil.cloud.grpc.messages import METHODS, PACKAGE, SERVICE, message
from splitveil.cloud.server import Place
from splitveil.cloud.settings import ServeSettings
from splitveil.errors import OutputError, SpecError
from splitveil.export.graph import run_onnx
from splitveil_edge.passport import CLOUD, read_passport

grpc = pytest.importorskip("grpc")
pytestmark = pytest.mark.filterwarnings("ignore:Protobuf gencode version:UserWarning")

TOKEN = "a token of this server, long enough"


def served(bundle: Path, given: ServeSettings = SMALL) -> Any:
    return live(bundle, given, Place(port=0, grpc_port=0, drain_s=0.0))


@pytest.fixture(scope="module")
def server(shared_bundle: Path) -> Iterator[LiveServer]:
    with served(shared_bundle) as found:
        yield found


@pytest.fixture(scope="module")
def shared_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from cloud_fixtures import cloud_bundle

    return cloud_bundle(tmp_path_factory.mktemp("grpc"))


def address(found: LiveServer) -> str:
    return f"127.0.0.1:{found.server.grpc_port}"


def call(found: LiveServer, method: str, sent: Any, **options: Any) -> Any:
    """One call with our own messages, over a channel of its own."""
    with grpc.insecure_channel(address(found)) as channel:
        ask = channel.unary_unary(
            f"/{PACKAGE}.{SERVICE}/{method}",
            request_serializer=lambda item: item if isinstance(item, bytes) else item.SerializeToString(),
            response_deserializer=message(f"{method}Response").FromString,
        )
        return ask(sent, timeout=30, **options)


def request(r: np.ndarray[Any, Any], **changes: Any) -> Any:
    sent = message("ModelInferRequest")(model_name="digits", **changes)
    sent.inputs.add(name="r", datatype="FP32", shape=r.shape)
    sent.raw_input_contents.append(r.tobytes())
    return sent


def refusal(found: LiveServer, sent: Any, method: str = "ModelInfer", **options: Any) -> tuple[Any, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(found, method, sent, **options)
    return caught.value.code(), caught.value.details()


def test_the_messages_are_those_of_another_implementation() -> None:
    theirs = pytest.importorskip("tritonclient.grpc.service_pb2")
    for name in (f"{method}{kind}" for method in METHODS for kind in ("Request", "Response")):
        mine, other = message(name).DESCRIPTOR, getattr(theirs, name).DESCRIPTOR
        compare(mine, other)


def compare(mine: Any, other: Any) -> None:
    for name, field in mine.fields_by_name.items():
        same = other.fields_by_name[name]
        assert (field.number, field.type, field.is_repeated) == (same.number, same.type, same.is_repeated), name
        assert (field.containing_oneof is None) == (same.containing_oneof is None)
        if field.message_type is not None:
            assert field.message_type.full_name == same.message_type.full_name
            compare(field.message_type, same.message_type)


def test_a_client_of_others_unmodified(server: LiveServer, shared_bundle: Path) -> None:
    client_of = pytest.importorskip("tritonclient.grpc")
    with client_of.InferenceServerClient(address(server)) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("digits")
        assert client.is_model_ready("digits", "1")
        assert client.get_server_metadata().name == "splitveil"
        metadata = client.get_model_metadata("digits")
        assert list(metadata.inputs[0].shape) == [-1, 4, 8, 8]
        r = releases(3)
        given = client_of.InferInput("r", r.shape, "FP32")
        given.set_data_from_numpy(r)
        answer = client.infer("digits", [given], request_id="7", outputs=[client_of.InferRequestedOutput("reply")])
        np.testing.assert_allclose(
            answer.as_numpy("reply"), run_onnx(shared_bundle / CLOUD, {"r": r})["reply"], atol=1e-5
        )
        said = answer.get_response()
        assert said.id == "7"
        assert read_passport(shared_bundle).digest.startswith(said.parameters["passport"].string_param)
        with pytest.raises(client_of.InferenceServerException, match="another name"):
            client.infer("faces", [given])


def test_typed_contents_are_read_like_raw_ones(server: LiveServer) -> None:
    r = releases(2)
    typed = message("ModelInferRequest")(model_name="digits")
    typed.inputs.add(name="r", datatype="FP32", shape=r.shape).contents.fp32_contents.extend(r.ravel().tolist())
    first, second = (call(server, "ModelInfer", sent).raw_output_contents[0] for sent in (typed, request(r)))
    np.testing.assert_allclose(np.frombuffer(first, "<f4"), np.frombuffer(second, "<f4"), atol=1e-6)


def test_no_rows_get_no_replies(server: LiveServer) -> None:
    said = call(server, "ModelInfer", request(releases(0)))
    assert list(said.outputs[0].shape) == [0, 10]
    assert said.raw_output_contents[0] == b""


def wrong(change: Any) -> Any:
    sent = request(releases(1))
    change(sent)
    return sent


WRONG = {
    "no input": (lambda sent: sent.inputs.pop() and sent.ClearField("raw_input_contents"), "list of tensors"),
    "unknown input": (lambda sent: setattr(sent.inputs[0], "name", "x"), "one of the inputs r"),
    "datatype": (lambda sent: setattr(sent.inputs[0], "datatype", "FP64"), "datatype FP32"),
    "shape": (lambda sent: sent.inputs[0].shape.pop(), "expected the shape"),
    "huge": (lambda sent: sent.inputs[0].shape.__setitem__(0, 2**62), "at most 256 rows"),
    "short": (lambda sent: sent.raw_input_contents.__setitem__(0, b"1234"), "binary_data_size 1024"),
    "two contents": (lambda sent: sent.inputs[0].contents.fp32_contents.append(1.0), "got both"),
    "more raw": (lambda sent: sent.raw_input_contents.append(b""), "for each of 1 inputs"),
    "no contents": (lambda sent: sent.ClearField("raw_input_contents"), "expected 256 values"),
    "unknown output": (lambda sent: sent.outputs.add(name="z"), "one of the outputs reply"),
    "passport": (lambda sent: setattr(sent.parameters["passport"], "string_param", "0" * 64), "an edge with the"),
    "nan": (lambda sent: sent.raw_input_contents.__setitem__(0, b"\xff" * 1024), "finite features"),
    "long id": (lambda sent: setattr(sent, "id", "x" * 2000), "at most 1024 characters"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_told(server: LiveServer, name: str) -> None:
    change, reason = WRONG[name]
    code, said = refusal(server, wrong(change))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert reason in said


def test_unknown_models_and_versions(server: LiveServer) -> None:
    for method in ("ModelReady", "ModelMetadata"):
        for named in ({"name": "faces"}, {"name": "digits", "version": "2"}):
            code, _ = refusal(server, message(f"{method}Request")(**named), method)
            assert code is grpc.StatusCode.NOT_FOUND
    assert refusal(server, request(releases(1), model_version="9"))[0] is grpc.StatusCode.NOT_FOUND


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_no_bytes_bring_it_down(server: LiveServer, sent: bytes) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call(server, "ModelInfer", sent)
    assert caught.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)  # or of no model
    assert call(server, "ServerLive", message("ServerLiveRequest")()).live


def test_a_body_over_the_limit_is_refused_packed_or_not(shared_bundle: Path) -> None:
    limited = ServeSettings(max_batch=8, slots=1, threads=1, limits=Limits(max_rows=4, max_body_bytes=20_000))
    bomb = message("ModelInferRequest")(model_name="digits", raw_input_contents=[bytes(3_000_000)])
    assert len(gzip.compress(bomb.SerializeToString())) < 20_000
    with served(shared_bundle, limited) as found:
        for packing in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
            code, _ = refusal(found, bomb, compression=packing)
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert call(found, "ModelInfer", request(releases(1))).raw_output_contents


def test_tokens_and_rates_are_those_of_rest(shared_bundle: Path) -> None:
    from hashlib import sha256

    guarded = ServeSettings(
        max_batch=8,
        slots=1,
        threads=1,
        token_digests=(sha256(TOKEN.encode()).digest(),),
        limits=Limits(rate_per_s=0.01, burst=2),
    )
    with served(shared_bundle, guarded) as found:
        assert call(found, "ServerLive", message("ServerLiveRequest")()).live
        assert refusal(found, request(releases(1)))[0] is grpc.StatusCode.UNAUTHENTICATED
        held = {"metadata": (("authorization", f"Bearer {TOKEN}"),)}
        for _ in range(2):
            call(found, "ModelInfer", request(releases(1)), **held)
        with pytest.raises(grpc.RpcError) as caught:
            call(found, "ModelInfer", request(releases(1)), **held)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert int(dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"]) > 1000


def test_calls_that_run_are_answered_while_it_stops(shared_bundle: Path) -> None:
    slow = ServeSettings(max_batch=8, slots=1, threads=1, max_delay_ms=600.0)
    answers: list[Any] = []
    with served(shared_bundle, slow) as found:
        asked = threading.Thread(target=lambda: answers.append(call(found, "ModelInfer", request(releases(1)))))
        asked.start()
        time.sleep(0.3)
        found.server.should_exit = True
        asked.join(30)
    assert answers[0].raw_output_contents


def test_requests_are_counted(server: LiveServer) -> None:
    import httpx

    call(server, "ModelInfer", request(releases(1)))
    text = httpx.get(f"{server.url}/metrics").text
    assert 'splitveil_requests_total{route="grpc ModelInfer",status="200"}' in text


def test_a_port_that_is_taken(server: LiveServer, shared_bundle: Path) -> None:
    import asyncio

    from splitveil.cloud.app import service_of
    from splitveil.cloud.grpc.server import GrpcServer

    with pytest.raises(OutputError, match="grpc-port"):
        asyncio.run(GrpcServer(service_of(server.app), address(server)).start())
    with pytest.raises(SpecError, match="two ports"):
        Place(port=8000, grpc_port=8000)
