"""From digits to a deployment: trained, exported, served, asked from an environment without torch, audited."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from packaging.requirements import Requirement
from PIL import Image

from splitveil.audit.record import AuditRecord
from splitveil.audit.replay import ReplayRecord
from splitveil.experiments.api import load_model
from splitveil.experiments.training import load_data_spec
from splitveil.records import RunRecord
from splitveil_edge.noise import KeyedNoise
from splitveil_edge.passport import Passport, read_passport

pytestmark = pytest.mark.long

SOURCE = Path(__file__).parents[2] / "src"
DEVICE = ("numpy", "onnxruntime", "httpx", "pillow")
SECRET = bytes(range(32))
PICTURES = 40


def command(*words: str | Path, code: int = 0) -> str:
    """One command of splitveil in a process of its own: its stdout."""
    done = subprocess.run(
        [sys.executable, "-m", "splitveil", *map(str, words)], capture_output=True, text=True, timeout=1200, check=False
    )
    assert done.returncode == code, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    out = tmp_path_factory.mktemp("runs") / "run"
    command(
        "train", "--data", "digits", "--defense", "gaussian", "-p", "noise_std=0.1", "--set", "epochs=4", "--out", out
    )
    return RunRecord.open(out)


@pytest.fixture(scope="module")
def bundle(run: RunRecord, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    command("bundle", "keygen", folder / "key.pem")
    command("export", run.path, "--out", folder / "bundle", "--key", folder / "key.pem", "--name", "digits")
    command("bundle", "part", folder / "bundle", "--side", "cloud", "--out", folder / "cloud")
    command("bundle", "part", folder / "bundle", "--side", "edge", "--out", folder / "edge")
    return folder


@pytest.fixture(scope="module")
def server(bundle: Path) -> Iterator[str]:
    """The cloud's side, served in a process of its own."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["serve", str(bundle / "cloud"), "--port", str(port), "--drain-s", "0", "--public-key"]
    log = (bundle / "server.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "splitveil", *words, str(bundle / "key.pub.pem")], stdout=log, stderr=log
    )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_until_ready(address, process)
        yield address
    finally:
        process.terminate()
        process.wait(60)
        log.close()


def _wait_until_ready(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{address}/v2/health/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    pytest.fail("the server did not become ready")


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment that holds what the wheel asks for, the wheel's package, and nothing else."""
    site = tmp_path_factory.mktemp("device")
    wanted, done = list(DEVICE), set[str]()
    while wanted:
        name = wanted.pop()
        if name in done:
            continue
        done.add(name)
        found = distribution(name)
        for top in {file.parts[0] for file in found.files or () if file.parts[0] not in ("..", "__pycache__")}:
            place = Path(str(found.locate_file(top)))
            if place.exists() and not (site / top).exists():
                (site / top).symlink_to(place)
        needed = [Requirement(text) for text in found.requires or ()]
        wanted += [item.name for item in needed if item.marker is None or item.marker.evaluate({"extra": ""})]
    (site / "splitveil_edge").symlink_to(SOURCE / "splitveil_edge")
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(site)}


def on_device(device: dict[str, str], *words: str | Path, code: int = 0) -> str:
    """A command in the device's environment: -S leaves out the packages of this one."""
    done = subprocess.run(
        [sys.executable, "-S", *map(str, words)], capture_output=True, text=True, env=device, timeout=300, check=False
    )
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.fixture(scope="module")
def pictures(run: RunRecord, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], torch.Tensor]:
    """Test pictures as PNG files and as the model takes them."""
    folder = tmp_path_factory.mktemp("pictures")
    images = load_data_spec(run.spec.data).splits.test.images[:PICTURES]
    files = [folder / f"{index:02d}.png" for index in range(PICTURES)]
    for file, image in zip(files, images, strict=True):
        Image.fromarray(image[0].numpy()).save(file)
    (folder / "secret").write_bytes(SECRET)
    return files, images.float() / 255.0


def in_process(run: RunRecord, passport: Passport, x: torch.Tensor) -> np.ndarray:
    """The outputs of torch under the noise that the device draws for these pictures."""
    model, source = load_model(run), KeyedNoise(SECRET)
    drawn = [source.draw(law, x.numpy(), bytes.fromhex(passport.digest)) for law in passport.noise]
    with torch.no_grad():
        r = model.simulate(x, tuple(torch.from_numpy(noise) for noise in drawn))
    return model.predict(r).numpy()


def test_the_device_has_no_torch(device: dict[str, str]) -> None:
    code = "import importlib.util as u; print([n for n in ('torch', 'splitveil', 'scipy', 'onnx') if u.find_spec(n)])"
    assert on_device(device, "-c", code).strip() == "[]"


def test_predictions_from_the_device_are_those_of_torch(
    run: RunRecord, bundle: Path, server: str, device: dict[str, str], pictures: tuple[list[Path], torch.Tensor]
) -> None:
    files, x = pictures
    secret, key = files[0].parent / "secret", bundle / "key.pub.pem"
    words = ["-m", "splitveil_edge", "infer", *files, "--bundle", bundle / "edge", "--server", server]
    said = json.loads(on_device(device, *words, "--noise-secret", secret, "--top", "10", "--json"))
    scores = np.zeros((PICTURES, 10))
    for row, item in zip(scores, said, strict=True):
        for choice in item["classes"]:
            row[choice["index"]] = choice["score"]
    expected = in_process(run, read_passport(bundle / "edge"), x)
    assert (scores.argmax(1) == expected.argmax(1)).all()
    np.testing.assert_allclose(scores, expected, atol=1e-4 * max(1.0, float(np.abs(expected).max())))
    refused = on_device(device, *words, "--public-key", key, code=4)  # cryptography is an extra
    assert "pip install 'splitveil-edge[sign]'" in refused


def test_the_device_refuses_another_bundle(
    run: RunRecord, server: str, device: dict[str, str], pictures: tuple[list[Path], torch.Tensor], tmp_path: Path
) -> None:
    command("export", run.path, "--out", tmp_path / "other", "--name", "digits", "--expires-days", "1")
    words = ["-m", "splitveil_edge", "infer", pictures[0][0], "--bundle", tmp_path / "other", "--server", server]
    assert "nothing was sent" in on_device(device, *words, code=1)


def test_what_was_audited_is_what_is_served(bundle: Path, server: str, tmp_path: Path) -> None:
    words = [
        "audit",
        bundle / "bundle",
        "--data",
        "digits",
        "--limit",
        "150",
        "--suite",
        "quick",
        "--out",
        tmp_path / "a",
    ]
    command(*words, "--server", server)
    replayed = ReplayRecord.read(tmp_path / "a")
    assert (replayed.status, replayed.same_predictions) == ("same", 1.0)
    assert replayed.releases == AuditRecord.read(tmp_path / "a").pictures


def test_the_bundle_verifies_against_its_run(run: RunRecord, bundle: Path) -> None:
    found = json.loads(
        command(
            "bundle", "verify", bundle / "bundle", "--run", run.path, "--public-key", bundle / "key.pub.pem", "--json"
        )
    )
    assert {item["state"] for item in found} == {"pass"}
    (bundle / "bundle" / "edge.onnx").write_bytes(b"")
    command("bundle", "verify", bundle / "bundle", code=1)
