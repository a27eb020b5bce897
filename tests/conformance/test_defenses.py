"""Every registered defense keeps the contract, alone and under CEM; a new one needs a row in `ROWS`."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from splitveil.defenses import Defense, conditional_entropy, load_defense
from splitveil.errors import SpecError
from splitveil.experiments.attacking import load_model
from splitveil.experiments.training import LoadedData, load_data_spec, train_run
from splitveil.noise import SeededNoise
from splitveil.registry import ATTACKS, DEFENSES
from splitveil.rng import Rng
from splitveil.specs import DataSpec, ModelSpec, PlugInSpec, RunSpec, TrainingSpec
from splitveil.training.observer import Observer

ROWS: dict[str, dict[str, Any]] = {
    "none": {},
    "bottleneck": {},
    "gaussian": {},
    "cem": {},
    "conditional_entropy": {"noise_std": 0.1},
    "laplace": {},
    "distcorr": {},
    "noise_nopeek": {},
    "dropout": {},
    "topk": {},
    "ressfl": {"channels": 4, "blocks": 1},
    "noise_arl": {"channels": 4, "blocks": 1},
    "shredder": {},
    "disco": {"channels": 4},
    "sca": {"iterations": 4},
    "vib": {},
    "hsic": {},
    "patrol": {"deeper": 4},
    "ensembler": {"bodies": 3, "chosen": 2, "network_share": 0.5},
    "quantise": {},
}
NO_GAUSSIAN = {"none", "laplace", "quantise"}  # CEM needs to be told of noise there
HAS_IT = {"cem", "conditional_entropy"}
BUILT_IN = [entry.name for entry in DEFENSES if entry.target.startswith("splitveil.")]
DATA = DataSpec(source="digits", limit=160)

each_name = pytest.mark.parametrize("name", ROWS)


def defense(name: str) -> Defense:
    return load_defense(name, ROWS[name])


def with_entropy(name: str) -> Defense:
    """The row with CEM, where its noise allows it."""
    alone = defense(name)
    if name in HAS_IT or name in NO_GAUSSIAN:
        return alone
    return alone + conditional_entropy(0.2, clusters=1)


@pytest.fixture(scope="module")
def data() -> LoadedData:
    return load_data_spec(DATA)


def spec(chosen: Defense) -> RunSpec:
    written = chosen.to_json()
    return RunSpec(
        seed=0,
        data=DATA,
        model=ModelSpec(factory="splitveil.nets.small:small", kwargs={"width": 0.5, "bottleneck": 4}),
        defense=PlugInSpec(name=written["name"], params=written["params"]),
        training=TrainingSpec(epochs=2 * min(len(chosen.stages()), 2), batch_size=32, lr=0.05),
    )


class Stopping(Observer):
    """Interrupts after so many steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def advance(self, text: str) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def test_every_defense_has_a_row() -> None:
    assert sorted(ROWS) == sorted(BUILT_IN), "give the new defense its row in ROWS"


@each_name
def test_a_defense_is_rebuilt_from_what_it_writes(name: str) -> None:
    for chosen in (defense(name), with_entropy(name)):
        written = chosen.to_json()
        again = load_defense(written["name"], written["params"])
        assert again == replace(chosen, name=again.name)
        assert again.to_json() == written


@each_name
def test_a_defense_names_an_adaptive_attack_and_documents_itself(name: str) -> None:
    assert defense(name).adaptive
    assert all(part.name in ATTACKS for part in defense(name).adaptive)
    factory = DEFENSES.load(name)
    told = inspect.getdoc(factory) or ""
    for parameter in inspect.signature(factory).parameters:
        assert f"{parameter}: " in told or "As" in told or name == "cem", f"document {parameter} of {name}"


@each_name
def test_conditional_entropy_adds_a_penalty_and_nothing_else(name: str) -> None:
    """So a row with and without it has the same mechanism, noise, codec, surgery and stages."""
    if name in HAS_IT:
        return
    if name in NO_GAUSSIAN:
        both = defense(name) + conditional_entropy(0.2, noise_std=0.1) if name != "laplace" else None
        if both is None:
            with pytest.raises(SpecError, match="noise from one side"):
                defense(name) + conditional_entropy(0.2, noise_std=0.1)
        return
    alone, both = defense(name), with_entropy(name)
    assert both.penalties[:-1] == alone.penalties
    assert both.penalties[-1].name == "conditional_entropy"
    for part in ("mechanisms", "plan", "surgery", "codec", "adaptive"):
        assert getattr(both, part) == getattr(alone, part)


@each_name
def test_a_run_trains_is_resumed_bit_for_bit_and_loaded(name: str, data: LoadedData, tmp_path: Path) -> None:
    chosen = with_entropy(name)
    whole = train_run(spec(chosen), tmp_path / "whole", data=data)
    assert whole.finished
    events = [event for event in whole.events() if event["event"] == "epoch"]
    assert {event["stage"] for event in events} == {stage.name for stage in chosen.stages()}
    for penalty in chosen.penalties:
        assert any(event["weights"].get(penalty.name, 0) > 0 for event in events), f"{penalty.name} never weighed"
    stopped = tmp_path / "stopped"
    steps = len(events) * -(-len(data.splits.train) // 32)
    with pytest.raises(KeyboardInterrupt):
        train_run(spec(chosen), stopped, data=data, observer=Stopping(max(2, steps * 4 // 5)), checkpoint_interval_s=0)
    train_run(spec(chosen), stopped, data=data)
    first, second = (load_file(folder / "weights.safetensors") for folder in (whole.path, stopped))
    assert list(first) == list(second)
    assert all(torch.equal(first[key], second[key]) for key in first)
    model = load_model(whole, data)
    x = data.splits.test.images[:4].float() / 255
    r = model.release(x, noise=SeededNoise(Rng(0)))
    model.release_spec.check(r, "r")
    assert bool(torch.isfinite(model.predict(r)).all())
