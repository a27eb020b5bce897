"""Servers for tests of the edge: in process, and over a real socket that counts every byte."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np

from splitveil_edge.graphs import CloudGraph
from splitveil_edge.passport import read_passport
from splitveil_edge.protocol import LENGTH_HEADER
from splitveil_edge.wire import wire_codec


class Cloud:
    """The cloud's side of a bundle, as an answer to each request; `script` is answered first, item by item.

    Args:
        bundle: folder.
        script: statuses and errors that come before the good answers.
    """

    def __init__(self, bundle: Path, script: tuple[int | Exception, ...] = ()) -> None:
        self.passport = read_passport(bundle)
        self.graph, self.wire = CloudGraph(bundle, self.passport), wire_codec(self.passport)
        self.script = list(script)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if request.method == "GET":
            return httpx.Response(200, content=self.metadata())
        if self.script:
            item = self.script.pop(0)
            if isinstance(item, Exception):
                raise item
            return httpx.Response(item, json={"error": "busy"}, headers={"retry-after": "0"})
        return httpx.Response(200, **self.answer(request.content, request.headers[LENGTH_HEADER]))

    def metadata(self) -> bytes:
        """Of the model."""
        shown = {"sha256": self.passport.digest, "signature": None, "body": json.loads(self.passport.body)}
        return json.dumps({"name": self.passport.name, "passport": shown}).encode()

    def answer(self, body: bytes, length: str) -> dict[str, object]:
        """Content and headers of a reply in binary."""
        asked = json.loads(body[: int(length)])
        (tensor,) = asked["inputs"]
        kind = {"FP32": "<f4", "UINT8": "u1"}[tensor["datatype"]]
        sent = np.frombuffer(body[int(length) :], kind).reshape(tensor["shape"])
        reply = self.graph.reply(self.wire.decode(sent)).astype("<f4")
        output = {"name": "reply", "shape": list(reply.shape), "datatype": "FP32"}
        head = json.dumps({"outputs": [{**output, "parameters": {"binary_data_size": reply.nbytes}}]}).encode()
        return {"content": head + reply.tobytes(), "headers": {LENGTH_HEADER: str(len(head))}}

    @property
    def posted(self) -> list[bytes]:
        """Bodies that were posted, in order."""
        return [request.content for request in self.requests if request.method == "POST"]


@contextmanager
def counting_server(cloud: Cloud) -> Iterator[tuple[str, list[bytes]]]:
    """A socket server on this machine: its address, and the raw bytes of each request, headers and all."""
    received: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            while raw := _request(connection):
                received.append(raw)
                head, _, body = raw.partition(b"\r\n\r\n")
                names = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
                length = {name.lower(): value for name, value in names.items()}.get(LENGTH_HEADER.lower().encode())
                if length is None:
                    content, more = cloud.metadata(), b""
                else:
                    answer = cloud.answer(body, length.decode())
                    content = answer["content"]
                    more = f"{LENGTH_HEADER}: {answer['headers'][LENGTH_HEADER]}\r\n".encode()
                connection.sendall(b"HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n%s" % (more, len(content), content))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", received
    finally:
        listener.close()
        thread.join(10)


def _request(connection: socket.socket) -> bytes:
    """The next request as it came over the wire; empty at its end."""
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = connection.recv(65536)
        if not chunk:
            return b""
        data += chunk
    head = data.partition(b"\r\n\r\n")[0].lower()
    size = 0
    for line in head.split(b"\r\n"):
        if line.startswith(b"content-length:"):
            size = int(line.split(b":")[1])
    while len(data) < len(head) + 4 + size:
        data += connection.recv(65536)
    return data
