"""What runs the graphs reports to nobody."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bundle_fixtures import make_bundle

SCRIPT = """
import sys
import time
import numpy as np
from splitveil_edge import Edge
Edge(sys.argv[1]).release(np.zeros((1, 1, 8, 8), np.float32))
time.sleep(15)  # reports are sent in batches
"""


@pytest.mark.parametrize("package", ["splitveil", "splitveil_edge"])
def test_telemetry_is_off_unless_somebody_says_otherwise(package: str) -> None:
    script = f"import os, {package}; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    for given, expected in (({}, "1"), ({"ORT_DISABLE_TELEMETRY": "0"}, "0")):
        done = subprocess.run(
            [sys.executable, "-c", script], env={**environment, **given}, capture_output=True, text=True
        )
        assert done.stdout.strip() == expected


@pytest.mark.long
def test_a_device_that_releases_opens_no_other_connection(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    listener, seen = socket.create_server(("127.0.0.1", 0)), list[bytes]()

    def serve() -> None:
        while True:
            try:
                connection = listener.accept()[0]
            except OSError:
                return
            with connection:
                seen.append(connection.recv(200))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    proxy = f"http://127.0.0.1:{listener.getsockname()[1]}"
    names = ("ALL_PROXY", "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy")
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    try:
        subprocess.run(
            [sys.executable, "-c", SCRIPT, str(bundle)], env={**environment, **dict.fromkeys(names, proxy)}, check=True
        )
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)
    assert seen == []
