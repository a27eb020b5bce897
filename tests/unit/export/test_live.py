"""The live page of a bundle: only its own run's, sealed, and with no more noise than the server takes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splitveil.errors import SpecError
from splitveil.experiments.api import attack
from splitveil.experiments.building import factory_target
from splitveil.experiments.training import train_run
from splitveil.export.bundle import export
from splitveil.export.live import LIVE, PAGE, write_live
from splitveil.export.verifying import Check, verify_bundle
from splitveil.records import RunRecord
from splitveil.specs import RunSpec
from splitveil_edge.graphs import EdgeGraphs
from splitveil_edge.passport import read_passport


def train(folder: Path, noise_std: float = 1.0, seed: int = 0) -> RunRecord:
    spec: dict[str, Any] = {
        "data": {"source": "digits", "limit": 300},
        "model": {"factory": factory_target("small"), "kwargs": {}},
        "defense": {"name": "gaussian", "params": {"noise_std": noise_std}},
        "training": {"epochs": 1, "batch_size": 32},
        "seed": seed,
    }
    return train_run(RunSpec.model_validate(spec), folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    record = train(tmp_path_factory.mktemp("runs") / "run")
    attack(record, epochs=1)
    return record


@pytest.fixture(scope="module", params=["fp32", "int8", "quantised"])
def precise(run: RunRecord, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A bundle without a page, of each kind."""
    more: dict[str, Any] = {"wire_bits": 8} if request.param == "quantised" else {"precision": request.param}
    return export(run, tmp_path_factory.mktemp("bundles") / "bundle", **more).path


@pytest.fixture(scope="module")
def shown(run: RunRecord, tmp_path_factory: pytest.TempPathFactory) -> Path:
    bundle = export(run, tmp_path_factory.mktemp("shown") / "bundle").path
    write_live(bundle, run)
    return bundle


@pytest.fixture
def bundle(shown: Path, tmp_path: Path) -> Path:
    """A copy with a page, that a test may break."""
    return Path(shutil.copytree(shown, tmp_path / "bundle"))


def states(found: list[Check]) -> dict[str, str]:
    return {item.name: item.state for item in found}


def failed(bundle: Path) -> dict[str, str]:
    return {item.name: item.detail for item in verify_bundle(bundle) if item.state == "fail"}


def test_another_run_is_refused(precise: Path, tmp_path: Path) -> None:
    for name, changed, got in (
        ("louder", {"noise_std": 0.5}, r"parameters \{'noise_std': 0.5\} instead of \{'noise_std': 1.0\}"),
        ("again", {"seed": 1}, "whose head is another .*within .* of torch, got"),
    ):
        other = train(tmp_path / name, **changed)  # type: ignore[arg-type]
        with pytest.raises(SpecError, match=f"expected the run that .*{got}.*pass that run"):
            write_live(precise, other)
        assert not (precise / LIVE).exists()


def test_its_own_run_is_taken(run: RunRecord, precise: Path) -> None:
    write_live(precise, run)
    assert states(verify_bundle(precise))["live page"] == "pass"
    shutil.rmtree(precise / LIVE)
    assert "live page" not in states(verify_bundle(precise))


def test_a_bundle_with_its_page_verifies(run: RunRecord, shown: Path) -> None:
    found = states(verify_bundle(shown, run=run, pictures=40))
    assert {name for name, state in found.items() if state != "pass"} == {"signature"}
    assert found["signature"] == "not checked"


def test_a_page_that_is_not_of_the_bundle_fails(bundle: Path) -> None:
    folder = bundle / LIVE
    before = (folder / "attacker.onnx").read_bytes()
    (folder / "attacker.onnx").write_bytes(before[:-1])
    assert list(failed(bundle)) == ["live page"]
    assert "got attacker.onnx changed, missing or not sealed: remove" in failed(bundle)["live page"]
    (folder / "attacker.onnx").unlink()
    assert "got attacker.onnx changed" in failed(bundle)["live page"]
    (folder / "attacker.onnx").write_bytes(before)
    assert not failed(bundle)
    (folder / "more").mkdir()
    assert list(failed(bundle)) == ["live page"]
    (folder / "more").rmdir()
    page = json.loads((folder / PAGE).read_bytes())
    for changed, got in (({"passport": "0" * 64}, "got another's"), ({"files": None}, "not sealed"), ([], "of JSON")):
        (folder / PAGE).write_text(json.dumps({**page, **changed} if isinstance(changed, dict) else changed))
        assert got in failed(bundle)["live page"]
    (folder / PAGE).unlink()
    assert "got No such file or directory" in failed(bundle)["live page"]
    shutil.rmtree(folder)
    folder.write_text("no folder")
    assert list(failed(bundle)) == ["nothing else"]


def test_the_slider_ends_before_the_server_refuses(shown: Path) -> None:
    passport, page = read_passport(shown), json.loads((shown / LIVE / PAGE).read_bytes())
    limits, edge, rng = passport.release_range, EdgeGraphs(shown, passport), np.random.default_rng(0)
    assert limits is not None
    x = rng.random((8192, *passport.input_shape), dtype=np.float32)

    def within(scale: float) -> bool:
        noise = {law.name: rng.standard_normal((len(x), *law.shape), dtype=np.float32) for law in passport.noise}
        r = edge.release(x, {name: np.float32(scale) * values for name, values in noise.items()})
        return bool(limits[0] <= r.min() <= r.max() <= limits[1])

    largest = page["largest_scale"]
    assert 1 < largest < 4
    assert (8 * np.log2(largest)).is_integer()  # a step of the slider
    assert within(largest)
    assert not within(1.5 * largest)
