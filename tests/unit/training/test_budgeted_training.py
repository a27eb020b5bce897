"""Stages under a budget of accuracy: where they start, the path of the weight, what is selected, resume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from splitveil.contracts import Budget, Stage, Weighted
from splitveil.defenses.penalties.conditional_entropy import ConditionalEntropy
from splitveil.errors import SpecError
from splitveil.experiments.training import train_run
from splitveil.schedules import Budgeted
from splitveil.specs import AugmentSpec, DataSpec, ModelSpec, PlugInSpec, RunSpec, TrainingSpec
from splitveil.training.loop import Trainer
from training_fixtures import SETTINGS, Listener, SometimesDue, Spread, Stopping, make_model, make_trainer, weights

BUDGET = Budget(points=10.0, term="spread")
STAGES = (Stage("reference"), Stage("budget", lr_scale=0.1, lr_schedule="constant", budget=BUDGET))


def spread(budget: Budget = BUDGET) -> Weighted:
    return Weighted("spread", Spread(), Budgeted(0.5, budget))


def pretend(trainer: Trainer, validations: Sequence[tuple[float, float]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let validation find these accuracies and terms, epoch after epoch."""
    left = list(validations)

    def found(*_: object) -> dict[str, Any]:
        accuracy, term = left.pop(0)
        return {"val_loss": 1.0, "val_accuracy": accuracy, "val_objective": 1.0, "val_terms": {"spread": term}}

    monkeypatch.setattr(trainer, "_validate", found)


def said(listener: Listener, kind: str) -> list[dict[str, Any]]:
    return [event for event in listener.events if event["event"] == kind]


def test_the_path_of_the_weight_is_in_the_events(monkeypatch: pytest.MonkeyPatch) -> None:
    listener = Listener()
    trainer = make_trainer(make_model(), penalties=[spread()], stages=STAGES, observer=listener)
    pretend(trainer, [(0.9, 9.0)] * 4 + [(0.9, 8.0), (0.8, 7.0), (0.7, 1.0), (0.85, 6.0)], monkeypatch)
    trainer.run()
    path = [(event["stage"], event["weights"]["spread"], event.get("keeps_budget")) for event in listener.epochs()]
    assert path[:4] == [("reference", 0.0, None)] * 4
    assert path[4:7] == [("budget", 0.5, True), ("budget", 1.0, True), ("budget", 2.0, False)]
    assert path[7] == ("budget", pytest.approx(2.0 / 2**0.5), True)
    assert [event["lr"] for event in listener.epochs()[4:]] == [pytest.approx(0.01)] * 4
    assert not said(listener, "warning")
    assert said(listener, "selected") == [
        {
            "event": "selected",
            "stage": "budget",
            "epoch": 3,
            "weights": {"spread": pytest.approx(2.0 / 2**0.5)},
            "val_loss": 1.0,
            "val_accuracy": 0.85,
            "val_objective": 1.0,
            "val_terms": {"spread": 6.0},
            "reference_accuracy": 0.9,
            "budget_points": 10.0,
        }
    ]


def test_where_no_epoch_keeps_the_budget_the_reference_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is the run without the penalty, bit for bit."""
    plain, budgeted, listener = make_model(), make_model(), Listener()
    settings = SETTINGS.model_copy(update={"epochs": 10})
    make_trainer(plain, settings=settings).run()
    trainer = make_trainer(budgeted, penalties=[spread()], stages=STAGES, settings=settings, observer=listener)
    measured = trainer._validate

    def poor(stage: Stage, *rest: Any) -> dict[str, Any]:
        found = measured(stage, *rest)
        return {**found, "val_accuracy": 0.5} if stage.budget else found

    monkeypatch.setattr(trainer, "_validate", poor)
    trainer.run()
    expected = weights(plain)
    assert all(torch.equal(value, expected[name]) for name, value in weights(budgeted).items())
    assert [event["text"] for event in said(listener, "warning")][-1].startswith(
        "no epoch of stage 'budget' kept the budget of 10.0 points and lowered spread: the weights of stage 'reference'"
    )
    assert said(listener, "selected")[0]["stage"] == "reference"
    assert said(listener, "selected")[0]["val_accuracy"] == said(listener, "selected")[0]["reference_accuracy"]


def test_the_stage_starts_from_the_selected_weights() -> None:
    """Not from the last ones: at this rate the epochs differ, and a stage without a rate changes nothing."""
    settings = SETTINGS.model_copy(update={"epochs": 10, "lr": 2.0, "schedule": "constant", "clip_norm": None})
    plain, budgeted = make_model(), make_model()
    make_trainer(plain, settings=settings).run()
    stages = (Stage("reference"), Stage("budget", lr_scale=1e-30, budget=BUDGET))
    make_trainer(budgeted, penalties=[spread()], stages=stages, settings=settings).run()
    expected = dict(plain.named_parameters())
    assert all(torch.equal(value, expected[name]) for name, value in budgeted.named_parameters())


def test_the_weights_are_those_of_the_selected_epoch() -> None:
    seen: dict[tuple[str, int], Mapping[str, torch.Tensor]] = {}
    model = make_model()

    class Watching(Listener):
        def event(self, event: dict[str, Any]) -> None:
            super().event(event)
            if event["event"] == "epoch":
                seen[event["stage"], event["epoch"]] = weights(model)

    listener = Watching()
    make_trainer(model, penalties=[spread()], stages=STAGES, observer=listener).run()
    (selected,) = said(listener, "selected")
    assert selected["stage"] == "budget"
    assert selected["val_terms"]["spread"] < listener.epochs()[3]["val_terms"]["spread"]
    expected = seen[selected["stage"], selected["epoch"]]
    assert all(torch.equal(value, expected[name]) for name, value in weights(model).items())


def test_a_budget_needs_a_stage_to_count_from() -> None:
    with pytest.raises(SpecError, match="expected a stage before 'budget', got none"):
        make_trainer(make_model(), penalties=[spread()], stages=STAGES[1:])


def test_a_budget_falls_back_on_weights_that_fit() -> None:
    with pytest.raises(SpecError, match="expected the model unchanged before stage 'budget', got a hook"):
        Stage("budget", before=lambda model: None, budget=BUDGET)


def test_a_stage_has_its_least_epochs() -> None:
    listener = Listener()
    make_trainer(make_model(), stages=(Stage(share=0.25, min_epochs=3),), observer=listener).run()
    assert len(listener.epochs()) == 3


# ------------------------------------------------------------------------------------------------ resume


def entropy() -> Weighted:
    """A penalty with a state of its own."""
    return Weighted("conditional_entropy", ConditionalEntropy(2, 48, clusters=2), Budgeted(0.05, CEM_BUDGET))


CEM_BUDGET = Budget(points=20.0, term="conditional_entropy")
CEM_STAGES = (Stage("reference"), Stage("budget", lr_scale=0.1, lr_schedule="constant", budget=CEM_BUDGET))


@pytest.mark.parametrize("stop", [12, 13, 17, 18, 19, 24], ids=lambda stop: f"step {stop} of 24")
@pytest.mark.parametrize("every", [1, 3, 5], ids=lambda every: f"saved after {every} steps")
def test_a_resumed_budget_ends_with_the_same_bits(stop: int, every: int, tmp_path: Path) -> None:
    whole, heard = make_model(), Listener()
    make_trainer(whole, penalties=[entropy()], stages=CEM_STAGES, observer=heard).run()
    store = SometimesDue(tmp_path / "checkpoint.safetensors", every)
    first, second = Stopping(stop), Listener()
    with pytest.raises(KeyboardInterrupt):
        make_trainer(make_model(), penalties=[entropy()], stages=CEM_STAGES, observer=first, store=store).run()
    resumed, saved = make_model(seed=5), store.load()
    assert saved is not None
    trainer = make_trainer(resumed, penalties=[entropy()], stages=CEM_STAGES, observer=second, store=store)
    trainer.run()
    assert trainer.elapsed_s > saved[1].elapsed_s > 0, "the time of both processes"
    expected = weights(whole)
    assert all(torch.equal(value, expected[name]) for name, value in weights(resumed).items())
    assert second.events == heard.events[-len(second.events) :]
    assert len({event["weights"]["conditional_entropy"] for event in heard.epochs()}) > 2


# ------------------------------------------------------------------------------------------------ digits


def test_on_digits_the_budget_is_kept_and_buys_a_lower_bound(tmp_path: Path) -> None:
    spec = RunSpec(
        data=DataSpec(source="digits", limit=900),
        model=ModelSpec(factory="splitveil.nets.small:small", kwargs={}),
        defense=PlugInSpec(name="cem", params={"noise_std": 0.1, "budget_points": 3}),
        training=TrainingSpec(epochs=16, batch_size=64, augment=AugmentSpec(crop=1)),
    )
    events = list(train_run(spec, tmp_path / "run", device="cpu").events())
    (selected,) = (event for event in events if event["event"] == "selected")
    epochs = [event for event in events if event["event"] == "epoch"]
    reference = [event for event in epochs if event["stage"] == "reference"]
    assert [event["epoch"] for event in epochs] == [*range(16), *range(8)]
    assert selected["reference_accuracy"] in [event["val_accuracy"] for event in reference[-4:]]
    assert selected["reference_accuracy"] > 0.8
    assert selected["val_accuracy"] >= selected["reference_accuracy"] - 0.03 - 1e-6
    assert selected["stage"] == "budget"
    bounds = [event["val_terms"]["conditional_entropy"] for event in reference[-4:]]
    assert selected["val_terms"]["conditional_entropy"] < 0.9 * min(bounds)
