"""The live page against a running server: the picture stays, only releases leave, and the browser's are the edge's."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from browser_fixtures import Watched, violations
from splitveil.bounds import capacity_box
from splitveil.cli import app
from splitveil.cloud.pages import Pages
from splitveil.errors import InputError, MissingDataError, SpecError
from splitveil.experiments.attacking import load_model
from splitveil.experiments.training import load_data_spec
from splitveil.export.graph import run_onnx
from splitveil.export.live import PAGE, write_live
from splitveil.records import RunRecord
from splitveil_edge.passport import read_passport
from splitveil_edge.wire import wire_codec

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]


@dataclass(frozen=True)
class Made:
    """Two runs and a bundle of the second, quantised or not."""

    undefended: Path
    defended: Path
    bundle: Path


def command(*words: str | Path) -> None:
    said = CliRunner().invoke(app, [*map(str, words)])
    assert said.exit_code == 0, said.output


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("live")
    for name, more in (("none", ()), ("gaussian", ("-p", "noise_std=0.1"))):
        command("train", "--out", folder / name, "--defense", name, *more, "--set", "epochs=3")
        command("attack", folder / name, "-p", "epochs=2")
    command("export", folder / "gaussian", "--out", folder / "bundle")
    command("bundle", "live", folder / "bundle", "--run", folder / "gaussian", "--undefended", folder / "none")
    return Made(folder / "none", folder / "gaussian", folder / "bundle")


def serving(bundle: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    sized = ("--max-batch", "8", "--slots", "1", "--threads", "1", "--log-level", "warning", "--drain-s", "0")
    server = subprocess.Popen(
        [sys.executable, "-m", "splitveil", "serve", str(bundle), "--ui", "--port", str(port), *sized],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            assert server.poll() is None, "the server ended"
            try:
                with urllib.request.urlopen(f"{url}/v2/health/ready", timeout=5):
                    break
            except OSError:
                time.sleep(0.2)
        yield url
    finally:
        server.terminate()
        server.wait(60)


@pytest.fixture(scope="module")
def url(made: Made) -> Iterator[str]:
    yield from serving(made.bundle)


def ready(watched: Watched, url: str) -> Any:
    page = watched.open(f"{url}/")
    page.wait_for_selector("html[data-ready]")
    return page


def pick(page: Any, place: int) -> None:
    """Choose a sample, and wait until its first release was sent and shown."""
    page.evaluate("document.getElementById('averaging').textContent = ''")
    page.locator(f"[data-sample='{place}']").click()
    settled(page, 1)


def settled(page: Any, count: int) -> None:
    """Until so many releases of the picture were sent and shown."""
    page.locator("#averaging", has_text=re.compile(rf"^{count} release")).wait_for()


def test_the_page_is_isolated_and_accessible(watched: Watched, url: str, axe: str) -> None:
    page = ready(watched, url)
    assert page.evaluate("crossOriginIsolated")
    assert {request.url.split("/")[2] for request in watched.requests if not request.url.startswith("data:")} == {
        url.removeprefix("http://")
    }
    pick(page, 3)
    assert watched.complaints == []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert violations(page, axe) == []
    page.set_viewport_size({"width": 400, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


def test_no_pixel_leaves_the_page(watched: Watched, url: str, made: Made) -> None:
    page, passport = ready(watched, url), read_passport(made.bundle)
    before = len(watched.requests)
    pick(page, 3)
    page.get_by_role("button", name="10 times").click()
    settled(page, 11)
    posts = [request for request in watched.requests[before:] if request.method != "GET"]
    assert len(posts) == 11
    assert [request.url for request in posts] == [f"{url}/v2/models/{passport.name}/infer"] * 11
    assert all(request.post_data_buffer is None for request in watched.requests if request.method == "GET")
    sample = json.loads((made.bundle / "live" / PAGE).read_bytes())["samples"][3]["png"]
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(sample))), np.uint8)
    picture = pixels.astype(np.float32)[None, None] / 255
    wire, sent = wire_codec(passport), []
    for request in posts:
        body, header = request.post_data_buffer, int(request.headers["inference-header-content-length"])
        head = json.loads(body[:header])
        [tensor] = head["inputs"]
        assert set(head) == {"inputs", "parameters"}
        assert set(tensor) == {"name", "shape", "datatype", "parameters"}
        assert len(body) - header == 4 * int(np.prod(wire.shape))
        assert pixels.tobytes() not in body
        assert picture.tobytes() not in body
        sent.append(np.frombuffer(body[header:], "<f4").reshape(wire.shape))
    spread = np.std(sent, axis=0)  # fresh noise each time, of the size that the defense says
    assert np.mean(spread) == pytest.approx(0.1, rel=0.15)
    clean = run_onnx(made.bundle / "edge.onnx", {"x": picture, **_no_noise(passport)})["r"][0]
    assert np.abs(np.mean(sent, axis=0) - clean).mean() < 0.1


def _no_noise(passport: Any) -> dict[str, Any]:
    return {law.name: np.zeros((1, *law.shape), np.float32) for law in passport.noise}


def test_browser_edge_and_torch_release_the_same(watched: Watched, url: str, made: Made) -> None:
    record, passport = RunRecord.open(made.defended), read_passport(made.bundle)
    model = load_model(record, load_data_spec(record.spec.data))
    random = np.random.default_rng(0)
    page, largest = ready(watched, url), 0.0
    for _ in range(8):
        x = random.random((1, *passport.input_shape), dtype=np.float32)
        noises = [random.standard_normal((1, *law.shape)).astype(np.float32) for law in passport.noise]
        got = page.evaluate(
            "([x, noises]) => splitveil.release(Float32Array.from(x), noises.map((n) => Float32Array.from(n)))"
            ".then((r) => [...r])",
            [x.ravel().tolist(), [noise.ravel().tolist() for noise in noises]],
        )
        browser = np.array(got, np.float32).reshape(1, *passport.release_shape)
        feeds = {"x": x, **{law.name: noise for law, noise in zip(passport.noise, noises, strict=True)}}
        edge = run_onnx(made.bundle / "edge.onnx", feeds)["r"]
        with torch.no_grad():
            ours = model.simulate(torch.from_numpy(x), tuple(map(torch.from_numpy, noises))).numpy()
        largest = max(largest, *(float(np.abs(a - b).max()) for a, b in ((browser, edge), (browser, ours))))
    assert largest < 1e-4


def test_the_answer_is_the_model_s(watched: Watched, url: str, made: Made) -> None:
    """With so little noise that it decides nothing, the page names the class that torch names."""
    record = RunRecord.open(made.defended)
    model, page = load_model(record, load_data_spec(record.spec.data)), ready(watched, url)
    page.locator("#scale").fill("-2")
    for place, sample in enumerate(json.loads((made.bundle / "live" / PAGE).read_bytes())["samples"][:5]):
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(sample["png"]))), np.float32) / 255
        with torch.no_grad():
            zero = tuple(torch.zeros(1, *spec.shape) for spec in model.noise_specs)
            logits = model.predict(model.simulate(torch.from_numpy(pixels)[None, None], zero))[0]
        if float(logits.topk(2).values.diff().abs()) < 2:
            continue  # noise may decide
        pick(page, place)
        assert page.locator("#label").inner_text() == record.evaluation.class_names[int(logits.argmax())]  # type: ignore[union-attr]


def test_the_certificate_follows_noise_and_releases(watched: Watched, url: str) -> None:
    page = ready(watched, url)

    def certified(std: float, count: int) -> float:
        return capacity_box(1, 1.0, std, count) * page.evaluate(
            "splitveil.passport.noise[0].shape.reduce((a, b) => a * b)"
        )

    shown = page.locator("#nats")
    assert float(shown.inner_text()) == pytest.approx(certified(0.1, 1), abs=1)
    std = 0.1 * page.evaluate("splitveil.page.largest_scale")
    page.locator("#scale").press("End")
    assert float(shown.inner_text()) == pytest.approx(certified(std, 1), abs=1)
    pick(page, 0)
    page.get_by_role("button", name="100 times").click()
    settled(page, 101)
    told = float(shown.inner_text())
    assert certified(std, 101) <= told + 0.5  # never less than is certified
    assert told <= certified(std, 112) + 1


def test_the_slider_ends_where_the_server_would_refuse(watched: Watched, tmp_path: Path) -> None:
    run, bundle = tmp_path / "run", tmp_path / "bundle"
    command("train", "--out", run, "--defense", "gaussian", "-p", "noise_std=1.0", "--set", "epochs=1")
    command("attack", run, "-p", "epochs=1")
    command("export", run, "--out", bundle)
    command("bundle", "live", bundle, "--run", run)
    largest = json.loads((bundle / "live" / PAGE).read_bytes())["largest_scale"]
    assert largest < 4
    for url in serving(bundle):
        page = ready(watched, url)
        page.locator("#scale").press("End")
        assert float(page.locator("#scale").input_value()) == np.log2(largest)
        pick(page, 0)
        page.get_by_role("button", name="100 times").click()
        settled(page, 101)


def test_noise_of_the_browser_has_its_laws(watched: Watched, url: str) -> None:
    page = ready(watched, url)
    drawn = np.array(page.evaluate("Array.from({length: 64}, () => [...splitveil.noises()[0]])"), np.float64).ravel()
    from scipy import stats

    assert stats.kstest(drawn, "norm").pvalue > 1e-4
    assert np.unique(drawn).size > 0.999 * drawn.size


@pytest.mark.parametrize("bits", [8, 5])
def test_a_quantised_wire_is_packed_as_the_edge_packs_it(
    watched: Watched, made: Made, tmp_path: Path, bits: int
) -> None:
    bundle = tmp_path / "bundle"
    command("export", made.defended, "--out", bundle, "--wire-bits", str(bits))
    command("bundle", "live", bundle, "--run", made.defended)
    wire = wire_codec(read_passport(bundle))
    for url in serving(bundle):
        page = ready(watched, url)
        r = np.random.default_rng(0).normal(0.5, 0.6, (1, *read_passport(bundle).release_shape)).astype(np.float32)
        packed = page.evaluate("(r) => [...splitveil.wire.encode(Float32Array.from(r))]", r.ravel().tolist())
        assert packed == wire.encode(r)[0].tolist()
        unpacked = page.evaluate("(b) => [...splitveil.wire.decode(Uint8Array.from(b))]", packed)
        assert np.allclose(np.array(unpacked, np.float32), wire.decode(wire.encode(r))[0].ravel(), atol=1e-6)
        pick(page, 1)
        assert page.locator("#undefended-figure").is_hidden()


def test_what_does_not_fit_is_refused(made: Made, tmp_path: Path) -> None:
    page = json.loads((made.bundle / "live" / PAGE).read_bytes())
    assert set(page["files"]) == {"attacker.onnx", "undefended.onnx", "undefended_attacker.onnx"}
    with pytest.raises(SpecError, match="expected the run that"):
        write_live(made.bundle, made.undefended)
    other = tmp_path / "bundle"
    shutil.copytree(made.bundle, other)
    shutil.rmtree(other / "live")
    with pytest.raises(SpecError, match="undefended run of the same pictures"):
        write_live(other, made.defended, made.defended)
    assert not (other / "live").exists()
    passport = read_passport(other)
    with pytest.raises(MissingDataError, match="bundle live"):
        Pages(other, passport)
    shutil.copytree(made.bundle / "live", other / "live")
    (other / "live" / "attacker.onnx").write_bytes(b"another")
    with pytest.raises(InputError, match="seals it"):
        Pages(other, passport)
    for changed, match in (({"passport": "0" * 64}, "another's"), ({"files": {"../x.onnx": {}}}, "names of graphs")):
        (other / "live" / PAGE).write_text(json.dumps({**page, **changed}))
        with pytest.raises(InputError, match=match):
            Pages(other, passport)
