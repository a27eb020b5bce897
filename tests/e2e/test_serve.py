"""``splitveil serve`` as a user runs it: a process, its log, its end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from command_fixtures import Run

from bundle_fixtures import make_bundle
from splitveil_edge.passport import FINISH


def test_a_process_serves_drains_and_ends_with_zero(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    tokens = tmp_path / "tokens"
    tokens.write_text("a-token-of-some-length\n")
    words = ["serve", str(bundle), "--port", "0", "--max-batch", "4", "--slots", "1", "--threads", "1"]
    words += ["--drain-s", "0", "--token-file", str(tokens)]
    with subprocess.Popen([sys.executable, "-m", "splitveil", *words], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        url = next(line for line in map(json.loads, lines) if line["event"] == "listening")["url"]
        for _ in range(200):
            try:
                if httpx.get(f"{url}/v2/health/ready").status_code == 200:
                    break
            except httpx.ConnectError:
                time.sleep(0.05)
        assert httpx.get(f"{url}/v2").status_code == 401
        said = httpx.get(f"{url}/v2/models/digits", headers={"Authorization": "Bearer a-token-of-some-length"})
        assert said.json()["passport"]["body"]["name"] == "digits"
        process.send_signal(signal.SIGTERM)
        events = [json.loads(line)["event"] for line in lines]
        assert process.wait(30) == 0
    assert events[-2:] == ["draining", "stopped"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["nowhere"], 4, "nowhere"),
        (["BUNDLE", "--replicas", "2"], 2, "--engine ray"),
        (["BUNDLE", "--layout", "triton"], 2, "--layout with --out"),
        (["BUNDLE", "--max-batch", "0"], 3, "max_batch >= 1"),
        (["BUNDLE", "--runtime", "torch"], 3, "folder of the exported run"),
        (["BUNDLE", "--token-file", "nowhere"], 4, "file of tokens"),
        (["BUNDLE", "--public-key", "nowhere"], 4, "public key"),
        (["BUNDLE", "--tls-cert", "nowhere"], 3, "--tls-key"),
        (["SECRET"], 2, "bundle part"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_line(
    run: Run, tmp_path: Path, words: list[str], code: int, said: str
) -> None:
    places = {"BUNDLE": tmp_path / "bundle", "SECRET": tmp_path / "secret"}
    for word in set(words) & set(places):
        make_bundle(places[word])
    if "SECRET" in words:
        (places["SECRET"] / FINISH).write_bytes(b"a graph")
    found = run("serve", *(places.get(word, word) for word in words), "--port", "0")
    assert found.code == code
    assert said in found.err
    assert len(found.err.strip().splitlines()) == 1


def test_the_repository_for_triton_is_written(run: Run, tmp_path: Path) -> None:
    found = run("serve", make_bundle(tmp_path / "bundle"), "--layout", "triton", "--out", tmp_path / "models")
    assert found.code == 0, found.err
    assert (tmp_path / "models" / "digits" / "config.pbtxt").is_file()
