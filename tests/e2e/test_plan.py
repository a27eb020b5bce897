"""``splitveil plan``, and who runs the jobs of a command."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_fixtures import Run

from splitveil.experiments.engines import cluster
from splitveil.experiments.planning.record import PlanRecord
from splitveil.nets.cutting import list_cuts

NETWORK = "squeezenet1_1"
SMALL = ["--input-shape", "3,32,32"]


def test_without_pictures_it_prints_what_cuts_cost(run: Run, tmp_path: Path) -> None:
    said = run("plan", NETWORK, *SMALL, "--bottleneck", "0", "--out", tmp_path / "plan", "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    listed = list_cuts(NETWORK, input_shape=(3, 32, 32))
    prices = [(cut["at"], cut["payload_bytes"], cut["edge_parameters"]) for cut in found["cuts"]]
    assert prices == [(cut.name, cut.payload_bytes, cut.edge_parameters) for cut in listed]
    assert any(cut["front"] for cut in found["cuts"])
    assert (tmp_path / "plan" / "report.html").is_file()
    again = run("plan", NETWORK, *SMALL, "--cuts", "features.2,features.5")
    assert again.code == 0
    rows = [line.split()[0] for line in again.out.splitlines() if line.startswith("features")]
    assert rows == ["features.2", "features.5"]
    assert "nothing was trained: add --data and --out" in again.out


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["plan", NETWORK, "--data", "digits"], 2, "expected --out for the runs beside --data"),
        (["plan", NETWORK, "--input-shape", "big"], 2, "expected --input-shape as channels,rows,columns"),
        (["plan", NETWORK, *SMALL, "--cuts", "nowhere"], 3, "unknown place to cut 'nowhere'"),
        (["compare", "none", "--engine", "rya", "--out", "x"], 3, "did you mean 'ray'"),
        (["compare", "none", "--address", "auto", "--out", "x"], 3, "unknown parameter of engine 'local' 'address'"),
        (["compare", "none", "--engine", "ray", "--workers", "2", "--out", "x"], 3, "engine 'ray' 'workers'"),
        (["audit", "x", "--address", "auto"], 2, "expected --engine ray beside --address"),
    ],
)
def test_a_command_that_cannot_be_meant_says_so(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    said = run(*words)
    assert (said.code, text in said.err) == (code, True), said.err
    assert not list(tmp_path.iterdir())


def test_without_ray_its_engine_says_what_to_install(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "find_spec", lambda _: None)
    said = run("compare", "none", "--engine", "ray", "--out", tmp_path / "out")
    assert said.code == 4
    assert "pip install 'splitveil[ray]'" in said.err
    assert not (tmp_path / "out").exists()


def test_engines_are_listed(run: Run) -> None:
    said = run("list", "engines")
    assert [line.split()[0] for line in said.out.splitlines()[1:]] == ["local", "ray"]


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_plan_of_a_timm_network_is_interrupted_and_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["plan", "timm:resnet18", "--data", "digits", "--limit", "400", "--most", "2", "--workers", "1"]
    small = ["--set", "epochs=1", "--attack-param", "epochs=1", "--attack-param", "channels=8", "--device", "cpu"]
    command = [sys.executable, "-m", "splitveil", *words, *small, "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 900
    while not list(out.glob("runs/*/attacks.json")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    done = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/attacks.json")}
    assert done
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in done} == done
    found = PlanRecord.read(out)
    assert found.trial is not None
    assert found.trial.failed == {}
    assert len(found.cuts) == 2
    assert all(cut.point is not None and cut.cloud_share is not None for cut in found.cuts)
    assert (out / "report.html").is_file()
