"""``splitveil audit`` as a user meets it."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from command_fixtures import Run
from torch import nn

from splitveil import cli, registry
from splitveil.attacks.pairs import save_pairs
from splitveil.audit.suites import Entry, Suite
from splitveil.data.digits import load_digits
from splitveil.defenses.mechanisms.gaussian import Gaussian
from splitveil.errors import SpecError
from splitveil.experiments.recipes import Recipe
from splitveil.export.facts import run_facts
from splitveil.nets.parts import SplitParts
from splitveil.records import RunRecord
from splitveil.specs import PlugInSpec
from splitveil.split_model import SplitModel

QUICK = ["--limit", "300", "--set", "epochs=1", "--model-param", "width=0.5"]


def toy(recipe: Recipe) -> Suite:
    """Ridge, ridge on four releases, and a decoder that hardly learns."""
    ridge = PlugInSpec(name="ridge", params={"pictures": 64})
    decoder = PlugInSpec(name="decoder", params={"channels": 4, "blocks": 1, "epochs": 1})
    return Suite("toy", "a second", (Entry(ridge), Entry(ridge, observations=4), Entry(decoder)))


@pytest.fixture(scope="module", autouse=True)
def suite() -> Iterator[None]:
    registry.SUITES.add("toy", f"{__name__}:toy", "for tests")
    sys.modules.setdefault("test_audit", sys.modules[__name__])
    yield
    del registry.SUITES._entries["toy"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undefended and a noisy run, hardly trained."""
    base = tmp_path_factory.mktemp("audited")
    with pytest.MonkeyPatch.context() as patch:
        for defense in ("none", "gaussian"):
            patch.setattr(
                sys, "argv", ["splitveil", "train", "--defense", defense, "--out", str(base / defense), *QUICK]
            )
            with pytest.raises(SystemExit) as stop:
                cli.main()
            assert not stop.value.code
    return base


def test_an_audit_finds_the_undefended_twin_and_writes_its_record(run: Run, runs: Path) -> None:
    code, out, err = run("audit", runs, "--suite", "toy", "--json")
    assert code == 0, err
    undefended, noisy = sorted(json.loads(out), key=lambda item: item["subject"], reverse=True)
    assert noisy["skipped"] == {"ridge on 4 releases": "needs 4 releases of one picture"}
    states = {control["name"]: control["state"] for control in noisy["controls"]}
    assert states["undefended_is_worst"] != "not applicable"
    assert states["not_above_reference"] == "not applicable"
    assert states["less_with_noise"] == states["same_on_other_draws"] == "pass"
    assert noisy["pictures"] == undefended["pictures"] > 0
    assert 0.1 < noisy["recognition_ceiling"]["mean"] <= 1
    for attack in noisy["attacks"]:
        assert 0 <= attack["beyond_pixels"]["recognised"]["mean"] <= 1
    assert json.loads((runs / "gaussian" / "audit.json").read_text()) == noisy
    assert states["adaptive_tried"] == "pass"
    told = run_facts(RunRecord(runs / "gaussian"))["audit"]
    assert told["attacks"] == len(noisy["attacks"])
    assert states["budget_suffices"] == "not applicable"  # a single epoch has no half
    own = {control["name"]: control["state"] for control in undefended["controls"]}
    assert own["undefended_is_worst"] == "not applicable", "it is no twin of itself"
    assert own["attack_works"] != "not applicable"
    assert own["same_on_other_draws"] == own["less_with_noise"] == "not applicable", "it has no noise"


def test_an_attack_of_before_the_audit_is_judged_all_the_same(run: Run, runs: Path) -> None:
    fresh = runs / "gaussian-again"
    shutil.copytree(runs / "gaussian", fresh, ignore=shutil.ignore_patterns("att*", "audit.json", "samples"))
    assert run("attack", fresh, "--attack", "ridge", "--param", "pictures=64")[0] == 0
    [before] = json.loads((fresh / "attacks.json").read_text())["attacks"]
    assert before["beyond_pixels"] == {}
    code, out, err = run("audit", fresh, "--suite", "toy", "--json")
    assert code == 0, err
    [found] = json.loads(out)
    same = next(item for item in found["attacks"] if item["key"] == before["key"])
    assert "recognised" in same["beyond_pixels"]
    assert same["metrics"] == before["metrics"]
    shutil.rmtree(fresh)


def test_an_attacker_with_the_weights_and_no_pictures_searches(run: Run, runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "gaussian", tmp_path / "run")
    code, out, err = run("audit", tmp_path / "run", "--suite", "toy", "--auxiliary", "none", "--json")
    assert code == 0, err
    [found] = json.loads(out)
    assert [(item["attack"]["name"], item["attack"]["params"]["prior"]) for item in found["attacks"]] == [
        ("optimise", "tv")
    ]
    assert found["status"] == "unproven", "without pictures there is nothing to train a reference encoder on"


def test_a_budget_that_does_not_pay_for_an_attack_skips_it(run: Run, runs: Path) -> None:
    words = ["--suite", "toy", "--query-budget", "3", "--threat", "black_box", "--json"]
    code, out, err = run("audit", runs / "gaussian", *words)
    assert (code, out) == (3, "")
    assert "raise query_budget" in err, "nothing that it pays for is left"
    words[3] = "6"
    code, out, err = run("audit", runs / "gaussian", *words)
    assert code == 0, err
    [found] = json.loads(out)
    assert [item["attack"]["name"] for item in found["attacks"]] == ["ridge"]
    assert found["attacks"][0]["facts"]["queries"] <= 6
    assert "raise query_budget" in found["skipped"]["decoder"]
    states = {control["name"]: control["state"] for control in found["controls"]}
    assert states["adaptive_tried"] == "not applicable"
    assert found["threat"]["query_budget"] == 6


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (["--suite", "quik"], 3, "did you mean 'quick'"),
        (["--threat", "whitebox"], 3, "did you mean 'white_box'"),
        (["--duplicates", "close"], 3, "'close'"),
        (["--auxiliary", "other"], 3, "'other'"),
        (["--shift", "corruptions"], 3, "'shifted' only, got 'same'"),
        (["--auxiliary", "shifted", "--shift", "no/such/folder"], 4, "no/such/folder"),
        (["--auxiliary", "none", "--threat", "black_box"], 3, "lets some attack run, got none that does"),
        (["--threat", "query_free"], 3, "ridge needs pairs"),
        (["--undefended", "no/such/run"], 4, "no/such/run"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_meant_is_one_error(run: Run, runs: Path, words: list[str], code: int, part: str) -> None:
    suite = [] if "--suite" in words else ["--suite", "toy"]
    got, out, err = run("audit", runs / "gaussian", *suite, *words)
    assert (got, out) == (code, "")
    assert err.startswith("error: ")
    assert part in err
    assert err.count("\n") == 1


# ---------------------------------------------------------------------------------------- somebody else's encoder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stored pairs of an encoder that halves the digits' sides."""
    images = load_digits().train.images[:200]
    path = tmp_path_factory.mktemp("pairs") / "pairs.safetensors"
    save_pairs(path, images, torch.nn.functional.avg_pool2d(images.float() / 255, 2))
    return path


def test_an_encoder_that_sends_the_picture_is_invalid(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "audit"
    words = [
        "torch.nn:Flatten",
        "--data",
        "digits",
        "--limit",
        "300",
        "--suite",
        "toy",
        "--out",
        out,
        "--observations",
        "1",
    ]
    code, said, err = run("audit", *words, "--json", "--strict")
    assert (code, "is not valid" in err) == (1, True)
    [found] = json.loads(said)
    states = {control["name"]: control["state"] for control in found["controls"]}
    assert states["not_above_reference"] == "fail"
    assert found["threat"]["grants"] == ["labels", "pairs", "query"]
    assert found["worst"]["mse"]["result"]["mean"] < 1e-4
    assert found["recognition_ceiling"]["mean"] > 0.5
    assert all("recognised" in attack["beyond_pixels"] for attack in found["attacks"])
    scored = found["pictures"]
    assert found["queries"] > sum(attack["facts"]["queries"] for attack in found["attacks"]) + scored
    assert json.loads((out / "audit.json").read_text()) == found
    assert all((out / attack["samples"]).is_file() for attack in found["attacks"])
    assert run("audit", *words)[0] == 0  # the same folder, again


def leaky_split_model() -> SplitModel:
    """A factory that gives the weights away, as some do."""
    parts = SplitParts(nn.AvgPool2d(2), nn.Sequential(nn.Flatten(), nn.Linear(16, 10)), (1, 8, 8))
    return SplitModel(parts, Gaussian(0.1))


def test_a_split_model_of_a_stranger_is_attacked_with_its_weights(run: Run, tmp_path: Path) -> None:
    words = ["--data", "digits", "--limit", "300", "--suite", "knowing", "--out", tmp_path / "out", "--json"]
    registry.SUITES.add("knowing", f"{__name__}:knowing", "for tests")
    try:
        code, said, err = run("audit", "test_audit:leaky_split_model", *words)
    finally:
        del registry.SUITES._entries["knowing"]
    assert code == 0, err
    [found] = json.loads(said)
    assert "weights" in found["threat"]["grants"]
    [linear] = [item for item in found["attacks"] if item["attack"]["name"] == "linear"]
    assert linear["facts"]["moments"] == "noise-free releases"
    assert found["needs"][linear["key"]] == ["weights"]
    assert found["queries"] > 0


def knowing(recipe: Recipe) -> Suite:
    return Suite("knowing", "a second", (Entry(PlugInSpec(name="linear")),))


def test_stored_pairs_are_audited_without_a_query(run: Run, runs: Path, pairs: Path, tmp_path: Path) -> None:
    code, said, err = run("audit", pairs, "--suite", "toy", "--out", tmp_path / "audit", "--json")
    assert code == 0, err
    [found] = json.loads(said)
    assert found["threat"]["grants"] == ["pairs"]
    assert found["pictures"] == 40
    assert "ridge on 4 releases" in found["skipped"]
    assert found["recognition_ceiling"] is None  # nobody said what they show
    [proof] = [item["detail"] for item in found["controls"] if item["name"] == "attack_works"]
    error = float(re.findall(r"errs by ([0-9.]+)", proof)[0])
    (run_of_another := tmp_path / "run").mkdir()
    for file in ("spec.json", "evaluation.json", "attacks.json"):
        shutil.copy(runs / "gaussian" / file, run_of_another / file)
    shutil.copy(tmp_path / "audit" / "audit.json", run_of_another / "audit.json")
    with pytest.raises(SpecError, match="attacks that this run has not seen: run"):
        run_facts(RunRecord(run_of_another))
    assert run("audit", pairs, "--suite", "toy", "--out", tmp_path / "audit")[0] == 0, "an earlier audit of the same"
    code, said, err = run("audit", "torch.nn:Flatten", "--data", "digits", "--out", tmp_path / "audit")
    assert (code, said) == (3, "")
    assert f"got one of '{pairs}': choose another --out" in err
    assert error < 0.05, f"it learned from releases of another encoder than the one it is scored on: {proof}"


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (["torch.nn:Flatten", "--out", "OUT"], 2, "pass --data digits"),
        (["torch.nn:Flatten", "--data", "digits"], 2, "expected --out"),
        (["no.such:thing", "--data", "digits", "--out", "OUT"], 3, "no.such"),
        (["missing.onnx", "--data", "digits", "--out", "OUT"], 4, "missing.onnx"),
        (["PAIRS", "--data", "digits", "--out", "OUT"], 2, "they bring their pictures"),
        (["PAIRS", "torch.nn:Flatten", "--out", "OUT"], 2, "one by one"),
        (["PAIRS", "--undefended", "x", "--out", "OUT"], 2, "drop it"),
        (["PAIRS", "--model", "a.b:c", "--out", "OUT"], 2, "expected --model with runs only"),
        (["PAIRS", "--lpips-weights", "no/such", "--out", "OUT"], 4, "no/such"),
        (["PAIRS", "--auxiliary", "shifted", "--out", "OUT"], 2, "'same' or 'none' with stored pairs, got 'shifted'"),
        (["PAIRS", "--token-file", "x", "--out", "OUT"], 2, "got no server"),
        (["PAIRS", "--server", "http://127.0.0.1:9", "--out", "OUT"], 2, "expected --server with a bundle"),
        (["RUN", "--ca", "x"], 2, "expected --ca with a bundle only"),
        (["RUN", "--data", "digits"], 2, "with an encoder only"),
        (["PAIRS", "--observations", "3", "--out", "OUT"], 3, "observations = 1 with stored pairs"),
        (["torch.nn:Flatten", "--data", "digits", "--out", "FULL"], 3, "got other files"),
        (["torch.nn:Flatten", "--data", "digits", "--out", "RUN"], 3, "got a run: choose another --out"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_an_encoder_cannot_be_audited_with_is_one_error(
    run: Run, runs: Path, pairs: Path, tmp_path: Path, words: list[str], code: int, part: str
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    names = {"OUT": tmp_path / "out", "FULL": tmp_path / "full", "PAIRS": pairs, "RUN": runs / "none"}
    got, said, err = run("audit", "--suite", "toy", *(names.get(word, word) for word in words))
    assert (got, said) == (code, "")
    assert part in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()
