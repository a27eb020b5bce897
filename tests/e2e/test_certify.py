"""``splitveil certify`` as a user meets it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from command_fixtures import Run
from safetensors.numpy import load_file, save_file

from splitveil import certify, cli
from splitveil.certificates import run as certifying
from splitveil.certificates.card import Card
from splitveil.errors import MissingDataError
from splitveil.records import RunRecord

QUICK = ["--limit", "400", "--set", "epochs=1", "--model-param", "width=0.5"]
LONGER = ["--limit", "400", "--set", "epochs=24", "--set", "batch_size=16", "--model-param", "width=0.5"]
ATTACK = ["-p", "channels=4", "-p", "blocks=1", "-p", "epochs=1", "-p", "batch_size=32"]


@contextmanager
def errors_of(path: Path, mse: float) -> Iterator[None]:
    """A run as if its attack had erred by so much on every picture."""
    record = RunRecord(path)
    [attack] = record.attacks
    samples = record.path / attack.samples
    before = load_file(samples)
    try:
        save_file({**before, "mse": np.full_like(before["mse"], mse)}, samples)
        yield
    finally:
        save_file(before, samples)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undefended and a noisy run, hardly trained, the noisy one attacked."""
    base = tmp_path_factory.mktemp("certified")
    with pytest.MonkeyPatch.context() as patch:
        for words in (
            ["train", "--defense", "none", "--out", str(base / "none"), *QUICK],
            ["train", "--defense", "gaussian", "-p", "noise_std=0.2", "--out", str(base / "gaussian"), *LONGER],
            ["attack", str(base / "gaussian"), "--attack", "decoder", *ATTACK],
        ):
            patch.setattr(sys, "argv", ["splitveil", *words])
            with pytest.raises(SystemExit) as stop:
                cli.main()
            assert not stop.value.code
    return base


def test_a_card_says_what_is_certain_what_is_estimated_and_what_was_tried(run: Run, runs: Path) -> None:
    code, out, err = run("certify", runs / "gaussian", "--among", "50")
    assert (code, err) == (0, "")
    for text in ("certified, for every attacker", "estimated, not a bound", "capacity", "identification", "blocks"):
        assert text in out
    assert "assumed: noise is drawn anew, independently, for every release" in out
    card = Card.read(runs / "gaussian")
    assert card.status == "held"
    quantities = {rung.quantity for rung in card.sandwich}
    assert {"mse", "information"} <= quantities
    [capacity] = card.find("capacity")
    assert (capacity.kind, capacity.confidence, capacity.n) == ("certificate", 1.0, None)
    assert all(item.kind == "estimate" for item in card.find("blocks"))
    assert len(card.find("identification", "right among 50")) >= 1
    for estimate in card.find("blocks"):
        assert estimate.low is not None
        assert estimate.low <= estimate.value * (1 + 1e-9)


def test_an_undefended_model_has_only_the_length_of_its_message(run: Run, runs: Path) -> None:
    code, out, _ = run("certify", runs / "none", "--json")
    [card] = json.loads(out)
    assert code == 0
    information = [item["name"] for item in card["statements"] if item["quantity"] == "information"]
    assert information == ["payload", "utility floor"]
    assert "adds no Gaussian noise" in card["skipped"]["capacity, mixture, gaussian_channel"]


def test_more_observations_tell_more(runs: Path) -> None:
    one, many = (certify(runs / "gaussian", observations=n) for n in (1, 16))
    assert many.find("capacity")[0].value > one.find("capacity")[0].value
    assert many.find("blocks")[0].value < one.find("blocks")[0].value


def test_the_fisher_family_is_an_estimate_and_unbiased_attackers_are_not_in_the_sandwich(run: Run, runs: Path) -> None:
    code, out, _ = run("certify", runs / "gaussian", "--fisher", "--json")
    assert code == 0
    [card] = json.loads(out)
    found = {item["name"]: item for item in card["statements"] if item["kind"] == "estimate"}
    assert {"fisher", "spectrum", "unbiased"} <= set(found)
    assert found["unbiased"]["quantity"] == "mse of unbiased attackers only"
    assert not any("unbiased" in rung["statement"] for rung in card["sandwich"])


def test_what_a_user_vouches_for_becomes_a_certificate_and_an_attack_that_beats_it_fails_the_run(
    run: Run, runs: Path
) -> None:
    with errors_of(runs / "gaussian", 1e-9):
        code, out, err = run("certify", runs / "gaussian", "--entropy-nats", "0.2")
        assert code == 1
        assert "VIOLATED" in out
        assert "an attack beats a certificate" in err
        assert "as the user says" in out
    code, out, _ = run("certify", runs / "gaussian", "--entropy-nats", "-400")
    assert code == 0
    assert "VIOLATED" not in out
    code, _, err = run("certify", runs / "gaussian", "--entropy-nats", "1000")
    assert code != 0
    assert "at most 0.2505 nats" in err


def test_an_estimate_that_is_beaten_is_void_and_fails_nothing(run: Run, runs: Path) -> None:
    with errors_of(runs / "gaussian", 1e-9):
        code, out, _ = run("certify", runs / "gaussian")
        assert code == 0
        assert "void" in out
        assert len(Card.read(runs / "gaussian").void) > 0


def test_backwards(run: Run, runs: Path) -> None:
    code, out, err = run("certify", runs / "gaussian", "--target-identification", "0.5", "--among", "10000")
    assert (code, err) == (0, "")
    assert "3.912 nats" in out
    assert "splitveil train --defense cem -p noise_std=" in out
    code, out, _ = run("certify", runs / "gaussian", "--target-psnr", "30", "--json")
    assert code == 0
    [found] = json.loads(out)
    assert found["rests_on"].startswith("entropy of pictures")
    assert [item["method"] for item in found["needed"]] == ["capacity", "mixture", "gaussian_channel"]
    code, out, _ = run("certify", runs / "gaussian", "--target-nats", "0.01")
    assert "no defense keeps both" in out


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--target-identification", "0.5"], 3, "add --among"),
        (["--target-nats", "1", "--target-psnr", "20"], 3, "one target"),
        (["--target-nats", "0"], 3, "target above 0"),
        (["--target-psnr", "1"], 3, "an attacker without any release"),
        (["--target-nats", "1", "--among", "5", "--among", "6"], 2, "one --among"),
        (["--observations", "0"], 2, "greater than or equal to 1"),
        (["--among", "1"], 2, "greater than or equal to 2"),
    ],
)
def test_what_cannot_be_meant_is_one_clear_error(run: Run, runs: Path, words: list[str], code: int, told: str) -> None:
    found, _, err = run("certify", runs / "gaussian", *words)
    assert found == code
    assert told in err
    assert "Traceback" not in err


def test_a_target_without_a_clip_names_the_cure(run: Run, runs: Path) -> None:
    code, _, err = run("certify", runs / "none", "--target-nats", "1")
    assert code == 3
    assert "use a defense with a clip" in err


def test_without_a_card_or_a_run_it_says_what_to_do(run: Run, runs: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="splitveil certify"):
        Card.read(tmp_path)
    code, _, err = run("certify", tmp_path / "nothing")
    assert code == 4
    assert "splitveil train" in err


def test_large_pictures_get_a_card_without_their_entropy(run: Run, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their principal axes would take a matrix of all their values, squared; the certificates do not."""
    monkeypatch.setattr(certifying, "_MOST_VALUES", 63)
    card = certify(runs / "gaussian", fisher=True)
    assert "principal axes" in card.skipped["shannon, blocks, fisher, spectrum"]
    assert card.find("capacity")
    assert all(statement.kind == "certificate" for statement in card.statements)
    code, out, err = run("certify", runs / "gaussian", "--target-psnr", "30")
    assert (code, out) == (3, "")
    assert "expected pictures of at most 63 values for their entropy" in err
