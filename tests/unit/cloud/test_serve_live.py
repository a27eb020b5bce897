"""A server behind a real socket: the common client, unmodified, and clients that behave badly."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import json
import socket
import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import numpy as np
import pytest
from cloud_fixtures import INFER, SMALL, Limits, LiveServer, binary_request, json_request, live, releases, reply_of
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from splitveil.cloud.app import service_of
from splitveil.cloud.server import Place
from splitveil.cloud.settings import ServeSettings
from splitveil.errors import InputError, OutputError, SpecError
from splitveil.export.graph import run_onnx
from splitveil_edge.passport import CLOUD

R = releases(2)
PATIENCE_S = 0.3
LIMITS = Limits(body_timeout_s=PATIENCE_S, header_timeout_s=PATIENCE_S, max_body_bytes=200_000)


@pytest.fixture(scope="module")
def server(bundle: Path) -> Iterator[LiveServer]:
    with live(bundle, ServeSettings(max_batch=8, slots=1, threads=1, limits=LIMITS)) as found:
        yield found


@pytest.fixture(scope="module")
def expected(bundle: Path) -> np.ndarray:
    return run_onnx(bundle / CLOUD, {"r": R})["reply"]


def raw(server: LiveServer, data: bytes) -> bytes:
    """What comes back over a bare socket until the server closes it."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(data)
        found = b""
        while piece := connection.recv(65536):
            found += piece
    return found


@pytest.mark.parametrize("binary_in", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("binary_out", [True, False], ids=["to_binary", "to_json"])
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_the_common_client_as_it_is(
    server: LiveServer, expected: np.ndarray, binary_in: bool, binary_out: bool, compression: str | None
) -> None:
    triton = pytest.importorskip("tritonclient.http")
    client = triton.InferenceServerClient(f"127.0.0.1:{server.port}")
    try:
        tensor = triton.InferInput("r", list(R.shape), "FP32")
        tensor.set_data_from_numpy(R, binary_data=binary_in)
        outputs = [triton.InferRequestedOutput("reply", binary_data=binary_out)]
        answer = client.infer(
            "digits", [tensor], outputs=outputs, request_id="7", request_compression_algorithm=compression
        )
        assert answer.get_response()["id"] == "7"
        np.testing.assert_allclose(answer.as_numpy("reply"), expected, atol=1e-5)
    finally:
        client.close()


def test_the_common_client_asks_after_the_server(server: LiveServer, expected: np.ndarray) -> None:
    triton = pytest.importorskip("tritonclient.http")
    from tritonclient.utils import InferenceServerException

    client = triton.InferenceServerClient(f"127.0.0.1:{server.port}")
    try:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("digits")
        assert client.is_model_ready("digits", "1")
        assert not client.is_model_ready("other")
        assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
        assert client.get_model_metadata("digits")["inputs"][0]["shape"] == [-1, 4, 8, 8]
        tensor = triton.InferInput("r", list(R.shape), "FP32")
        tensor.set_data_from_numpy(R)
        np.testing.assert_allclose(client.infer("digits", [tensor]).as_numpy("reply"), expected, atol=1e-5)
        with pytest.raises(InferenceServerException, match="expected the version 1"):
            client.infer("digits", [tensor], model_version="2")
        wrong = triton.InferInput("r", [1, 2], "FP32")
        wrong.set_data_from_numpy(np.zeros((1, 2), np.float32))
        with pytest.raises(InferenceServerException, match="expected the shape"):
            client.infer("digits", [wrong])
    finally:
        client.close()


def test_a_body_that_comes_slowly_is_408(server: LiveServer) -> None:
    begun = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n".encode() + b'{"inputs"'
    answer = raw(server, begun)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in answer.lower()
    assert b"send faster" in answer


@pytest.mark.parametrize("begun", [b"", b"POST /v2 HT", f"POST {INFER} HTTP/1.1\r\nHost: x\r\n".encode()])
def test_headers_that_come_slowly_are_408(server: LiveServer, begun: bytes) -> None:
    answer = raw(server, begun)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert "error" in json.loads(answer.split(b"\r\n\r\n", 1)[1])


@pytest.mark.parametrize(
    "begun",
    [
        b"GET /v2 HTTP/1.1\r\nHost: x\r\n",
        b"GET /v2 HTTP/1.1\r\nHost: x\r\nA: ",
        f"POST {INFER} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{{\r\n0\r\n".encode(),
    ],
)
@pytest.mark.parametrize("more", [b"a: b\r\n", b"aaaaaa"])
def test_headers_and_trailers_without_end_are_431(server: LiveServer, begun: bytes, more: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(begun)
        for _ in range(3):
            time.sleep(0.05)  # a piece of its own
            connection.sendall(more * 5_000)
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert "at most 65536 bytes of headers" in json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"]
    assert httpx.get(server.url + "/v2/health/live").status_code == 200


def test_a_long_body_in_pieces_is_no_header(server: LiveServer, expected: np.ndarray) -> None:
    body, headers = binary_request(R)
    pieces = (body[place : place + 100] for place in range(0, len(body), 100))
    answer = httpx.post(server.url + INFER, content=pieces, headers={**headers, "X-Pad": "p" * 30_000})
    np.testing.assert_allclose(reply_of(answer), expected, atol=1e-5)


@pytest.mark.parametrize("garbage", [b"\x00\x01\x02\r\n\r\n", b"GET\r\n\r\n", b"GET /v2 HTTP/9.9\r\n\r\n"])
def test_what_is_no_http_is_400_in_json(server: LiveServer, garbage: bytes) -> None:
    answer = raw(server, garbage)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert "error" in json.loads(answer.split(b"\r\n\r\n", 1)[1])


def test_a_client_cut_off_in_its_body_is_dropped_and_the_next_is_served(
    server: LiveServer, expected: np.ndarray
) -> None:
    rows = _rows(server)
    body, headers = binary_request(R)
    length = headers["Inference-Header-Content-Length"]
    head = (
        f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        f"Inference-Header-Content-Length: {length}\r\n\r\n"
    )
    for end in (0, 10, int(length), len(body) - 1):
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            connection.sendall(head.encode() + body[:end])
    answer = httpx.post(server.url + INFER, content=body, headers=headers)
    np.testing.assert_allclose(reply_of(answer), expected, atol=1e-5)
    assert _rows(server) == rows + len(R)  # nothing of what was cut off has run


def _rows(server: LiveServer) -> int:
    text = httpx.get(f"{server.url}/metrics").text
    return int(float(next(line for line in text.splitlines() if line.startswith("splitveil_rows_total")).split()[1]))


def test_a_body_beyond_the_limit_is_answered_while_it_still_comes(server: LiveServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request("POST", INFER, body=b"x" * 300_000)
    answer = connection.getresponse()
    assert answer.status == 413
    assert "at most 200000 bytes" in json.loads(answer.read())["error"]
    connection.close()


def test_a_bomb_is_413_and_the_server_lives(server: LiveServer) -> None:
    bomb = gzip.compress(bytes(20_000_000))
    answer = httpx.post(server.url + INFER, content=bomb, headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 413
    assert httpx.get(f"{server.url}/v2/health/live").status_code == 200


def test_one_connection_carries_many_requests_good_and_bad(server: LiveServer) -> None:
    with httpx.Client(base_url=server.url) as client:
        statuses = [
            client.post(INFER, json=json_request(R)).status_code,
            client.post(INFER, json={}).status_code,
            client.post("/nowhere", json=json_request(R)).status_code,
            client.post(INFER, json=json_request(R)).status_code,
        ]
    assert statuses == [200, 400, 404, 200]


def test_headers_beside_the_tensor_are_few(server: LiveServer) -> None:
    body, headers = binary_request(R[:1], parameters={"binary_data_output": True})
    head = "".join(f"{name}: {value}\r\n" for name, value in {**headers, "Host": "h", "Connection": "close"}.items())
    answer = raw(server, f"POST {INFER} HTTP/1.1\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert len(answer) - 40 <= 350  # ten float32


def test_a_drain_ends_what_runs_and_refuses_what_is_new(bundle: Path) -> None:
    place = Place(port=0, drain_s=0.3)
    with live(bundle, SMALL, place) as server:
        batcher = service_of(server.app).batcher
        run = batcher._run

        def slow(rows: np.ndarray) -> np.ndarray:
            time.sleep(0.8)
            return run(rows)

        batcher._run = slow

        async def speak() -> tuple[httpx.Response, httpx.Response]:
            async with httpx.AsyncClient(base_url=server.url, timeout=20) as client:
                asked = asyncio.ensure_future(client.post(INFER, json=json_request(R)))
                await asyncio.sleep(0.1)
                server.server.handle_exit(15, None)
                await asyncio.sleep(0.2)
                ready = await client.get("/v2/health/ready")
                return ready, await asked

        ready, answer = asyncio.run(speak())
        assert ready.status_code == 503
        assert reply_of(answer).shape == (2, 10)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server.url}/v2/health/live")
        assert not server.server.was_interrupted


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """For 127.0.0.1, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(1)
    )
    certificate = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False).sign(
        key, hashes.SHA256()
    )
    cert, private = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return cert, private


def test_tls_from_end_to_end(bundle: Path, tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path)
    place = Place("localhost", 0, tls_cert=cert, tls_key=key, drain_s=0.0)
    with live(bundle, SMALL, place) as server:
        assert server.url.startswith("https://localhost:")
        trusted = ssl.create_default_context(cafile=str(cert))
        with httpx.Client(verify=trusted) as client:
            assert client.post(server.url + INFER, json=json_request(R)).status_code == 200
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server.url}/v2")


def test_places_that_cannot_be_are_refused(tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path)
    with pytest.raises(SpecError, match="one of them"):
        Place(tls_cert=cert)
    with pytest.raises(InputError, match="as PEM"):
        Place(tls_cert=key, tls_key=cert)
    with pytest.raises(SpecError, match="port"):
        Place(port=70_000)
    with Place(port=0).bind() as bound:
        bound.listen()
        with pytest.raises(OutputError, match="choose another --port"):
            Place(port=bound.getsockname()[1]).bind()
