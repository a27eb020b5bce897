"""From a run to a bundle and back: what stands in it, what is refused, and what the cloud's side holds."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from bundle_fixtures import make_bundle
from splitveil.errors import OutputError, SpecError, UnknownNameError, UsageError
from splitveil.experiments.api import load_model
from splitveil.experiments.building import factory_target
from splitveil.experiments.training import train_run
from splitveil.export import bundle as module
from splitveil.export.bundle import Exported, export
from splitveil.export.facts import passport_name, release_range, validity
from splitveil.export.folders import write_folder
from splitveil.export.keys import write_keys
from splitveil.export.parting import part_bundle
from splitveil.export.verifying import Check, verify_bundle
from splitveil.records import RunRecord
from splitveil.specs import RunSpec
from splitveil_edge.errors import MissingFileError, TrustError
from splitveil_edge.graphs import EdgeGraphs
from splitveil_edge.passport import CLOUD, EDGE, FINISH, PASSPORT, SIGNATURE, read_passport
from splitveil_edge.reading import dump_json

SPEC = {
    "data": {"source": "digits", "limit": 300},
    "model": {"factory": factory_target("small"), "kwargs": {}},
    "defense": {"name": "cem", "params": {"noise_std": 0.1}},
    "training": {"epochs": 1, "batch_size": 32},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    return train_run(RunSpec.model_validate(SPEC), tmp_path_factory.mktemp("runs") / "my run")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_keys(tmp_path_factory.mktemp("keys") / "key.pem")


@pytest.fixture(scope="module")
def exported(run: RunRecord, keys: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Exported:
    out = tmp_path_factory.mktemp("bundles") / "bundle"
    return export(run, out, key=keys[0], expires_days=30, wire_bits=8)


@pytest.fixture
def bundle(exported: Exported, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(exported.path, tmp_path / "bundle"))


def states(found: list[Check]) -> dict[str, str]:
    return {item.name: item.state for item in found}


def details(found: list[Check]) -> str:
    return "; ".join(item.detail for item in found if item.state == "fail")


def test_the_passport_says_what_the_run_was(run: RunRecord, exported: Exported, keys: tuple[Path, Path]) -> None:
    passport = read_passport(exported.path, public_key=keys[1].read_bytes())
    assert passport.name == "my-run"
    assert passport.defense == {"name": "cem", "params": run.spec.defense.params}
    assert passport.data == {"digest": run.spec.data.digest}
    assert passport.class_names == tuple(str(digit) for digit in range(10))
    assert passport.precision == {"edge": "fp32", "cloud": "fp32"}
    assert passport.expires is not None
    assert (passport.expires - passport.created).days == 30
    assert (passport.codec.name, passport.codec.bits) == ("quantise", 8)
    assert passport.certificates is None
    assert passport.audit is None
    assert str(run.path.parent) not in (exported.path / PASSPORT).read_text()


def test_the_graphs_measure_what_torch_does(run: RunRecord, exported: Exported) -> None:
    measured, evaluation = exported.measured, run.evaluation
    assert evaluation is not None
    assert measured.cloud.largest < 1e-4
    assert measured.edge.beyond <= 0.01
    assert measured.same_predictions > 0.98
    # eight bits on the wire are the only difference from what was trained
    assert measured.score["name"] == "accuracy"
    assert abs(measured.score["mean"] - evaluation.accuracy.mean) < 0.05
    assert measured.score["n"] == evaluation.accuracy.n


def test_the_cloud_holds_nothing_of_the_edge(run: RunRecord, exported: Exported, tmp_path: Path) -> None:
    side = part_bundle(exported.path, "cloud", tmp_path / "cloud")
    assert sorted(file.name for file in side.iterdir()) == [CLOUD, PASSPORT, SIGNATURE]
    model = load_model(run)
    held = b"".join(file.read_bytes() for file in side.iterdir())
    tail = [value.detach().numpy() for value in model.tail.parameters() if value.numel() >= 8]
    assert any(value.tobytes() in held for value in tail)  # the search finds what is there
    assert not any(part in held for part in (b"head.", b"mechanism.", b"finish."))
    secrets = [
        *model.head.state_dict().items(),
        *model.mechanism.state_dict().items(),
        *model.finish.state_dict().items(),
    ]
    for name, value in secrets:
        if value.numel() >= 4 and value.is_floating_point():
            for kind in (np.float32, np.float16):
                assert value.numpy().astype(kind).tobytes() not in held, name


def test_a_finish_never_reaches_the_cloud(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "bundle", finish=True)
    cloud, edge = (part_bundle(folder, side, tmp_path / side) for side in ("cloud", "edge"))
    assert sorted(file.name for file in cloud.iterdir()) == [CLOUD, PASSPORT]
    assert sorted(file.name for file in edge.iterdir()) == [EDGE, FINISH, PASSPORT]
    with pytest.raises(UnknownNameError, match="unknown side 'clouds': did you mean 'cloud'"):
        part_bundle(folder, "clouds", tmp_path / "third")
    (folder / CLOUD).write_bytes(b"")
    with pytest.raises(TrustError):
        part_bundle(folder, "cloud", tmp_path / "third")
    assert not (tmp_path / "third").exists()


def test_a_whole_bundle_verifies(run: RunRecord, exported: Exported, keys: tuple[Path, Path]) -> None:
    found = verify_bundle(exported.path, run=run, public_key=keys[1].read_bytes(), pictures=40)
    assert set(states(found).values()) == {"pass"}, details(found)
    assert states(verify_bundle(exported.path))["signature"] == "not checked"


def test_a_tampered_graph_fails(bundle: Path, keys: tuple[Path, Path]) -> None:
    data = bytearray((bundle / CLOUD).read_bytes())
    data[-100] ^= 1
    (bundle / CLOUD).write_bytes(data)
    found = verify_bundle(bundle, public_key=keys[1].read_bytes())
    assert [name for name, state in states(found).items() if state == "fail"] == [f"digest of {CLOUD}"]
    assert "the file was changed or swapped" in details(found)


def test_an_expired_passport_and_a_wrong_key_fail(bundle: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    _, stranger = write_keys(tmp_path / "stranger.pem")
    late = datetime(2200, 1, 1, tzinfo=UTC)
    found = verify_bundle(bundle, public_key=stranger.read_bytes(), now=late)
    assert [name for name, state in states(found).items() if state == "fail"] == ["signature", "expiry"]
    assert "expected a passport signed with the key" in details(found)
    assert "audit and export the run again" in details(found)
    (bundle / SIGNATURE).unlink()
    assert states(verify_bundle(bundle, public_key=keys[1].read_bytes()))["signature"] == "fail"


def test_a_resealed_swap_fails_by_signature_and_by_parity(
    run: RunRecord, bundle: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    """Whoever swaps the cloud's weights can mend every digest, but neither the signature nor the arithmetic."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(bundle / CLOUD)
    largest = max(graph.graph.initializer, key=lambda item: np.prod(item.dims))
    largest.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(largest), largest.name))
    onnx.save(graph, bundle / CLOUD)
    facts = json.loads((bundle / PASSPORT).read_bytes())
    facts["files"] = {**facts["files"], CLOUD: module.file_facts(bundle)[CLOUD]}
    (bundle / PASSPORT).write_bytes(dump_json(facts))
    found = verify_bundle(bundle, run=run, public_key=keys[1].read_bytes(), pictures=20)
    assert [name for name, state in states(found).items() if state == "fail"] == ["signature", "parity"]
    assert "it is not the run of this bundle" in details(found)


def test_a_stranger_in_the_folder_fails(bundle: Path) -> None:
    (bundle / "notes.txt").write_text("mine")
    assert states(verify_bundle(bundle))["nothing else"] == "fail"


def test_an_edge_that_says_other_noise_fails(bundle: Path) -> None:
    facts = json.loads((bundle / PASSPORT).read_bytes())
    facts["noise"][0]["law"] = "uniform"
    (bundle / PASSPORT).write_bytes(dump_json(facts))
    assert "expected the noise" in details(verify_bundle(bundle))


def test_releases_stay_within_the_range_of_the_passport(exported: Exported) -> None:
    passport = exported.passport
    edge, rng = EdgeGraphs(exported.path, passport), np.random.default_rng(0)
    x = rng.random((500, *passport.input_shape), dtype=np.float32)
    r = edge.release(x, {law.name: rng.standard_normal((500, *law.shape), dtype=np.float32) for law in passport.noise})
    assert passport.release_range is not None
    assert passport.release_range[0] <= r.min() <= r.max() <= passport.release_range[1]


def test_what_cannot_be_exported_is_refused_before_anything_is_written(
    run: RunRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(error: type[Exception], reason: str, **options: object) -> None:
        with pytest.raises(error, match=reason):
            export(run, tmp_path / "out", **options)  # type: ignore[arg-type]
        assert not list(tmp_path.glob("*out*"))

    refuse(UnknownNameError, "unknown precision 'fp8'", precision="fp8")
    refuse(UsageError, "--expires-days above 0", expires_days=0)
    refuse(UsageError, "--name of 1 to 64", name="a b")
    refuse(MissingFileError, "expected a key at", key=tmp_path / "none.pem")
    monkeypatch.setattr(module, "export_cloud", _fail)
    refuse(SpecError, "in the middle")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("x")
    with pytest.raises(OutputError, match="got mine in it: choose another --out"):
        export(run, tmp_path / "full")
    unfinished = RunRecord(tmp_path / "run")
    shutil.copytree(run.path, unfinished.path)
    (unfinished.path / "evaluation.json").unlink()
    with pytest.raises(SpecError, match="finish it first"):
        export(unfinished, tmp_path / "out")


def _fail(*arguments: object) -> None:
    raise SpecError("in the middle")


def test_folders_are_whole_or_not_there(tmp_path: Path) -> None:
    def half(folder: Path) -> None:
        (folder / "a").write_text("a")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_folder(tmp_path / "out", half)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").mkdir()
    write_folder(tmp_path / "out", lambda folder: (folder / "a").write_text("a") and None)
    assert (tmp_path / "out" / "a").read_text() == "a"
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="got a file"):
        write_folder(tmp_path / "file", lambda folder: None)


def test_keys_are_private_and_never_overwritten(tmp_path: Path) -> None:
    private, public = write_keys(tmp_path / "key.pem")
    assert private.stat().st_mode & 0o777 == 0o600
    assert public.name == "key.pub.pem"
    with pytest.raises(OutputError, match="keys are never overwritten"):
        write_keys(tmp_path / "key.pem")


@pytest.mark.parametrize("name", [".", "..", "/", "keys"])
def test_a_folder_is_no_name_for_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "keys").mkdir()
    with pytest.raises(OutputError, match="expected a file for the private key, got the folder"):
        write_keys(Path(name))
    assert [item.name for item in tmp_path.iterdir()] == ["keys"]


def test_small_facts(run: RunRecord) -> None:
    assert passport_name(None, run) == "my-run"
    assert validity(None)["expires"] is None
    limits = release_range(-1.0, 2.0)
    assert limits == {"low": -4.0, "high": 5.0}
