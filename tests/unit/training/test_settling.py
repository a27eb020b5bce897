"""A last stage in which the part behind the wire learns on alone: what it starts from, and what it leaves as it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from splitveil.contracts import Budget, Stage, Weighted
from splitveil.data.loader import Pictures
from splitveil.data.tables import ImageTable
from splitveil.errors import SpecError
from splitveil.schedules import Budgeted, Constant
from splitveil.split_model import SplitModel
from training_fixtures import (
    SETTINGS,
    Listener,
    SometimesDue,
    Spread,
    Stopping,
    make_model,
    make_trainer,
    pictures,
    weights,
)

SETTLE = Stage("settle", 0.5, parts=("tail",), settles=True)
STEADY = SETTINGS.model_copy(update={"epochs": 10, "schedule": "constant", "clip_norm": None})


def muddled(n: int, seed: int = 0) -> Pictures:
    """Every fourth label is wrong, so that epochs differ, and the selected weights are not the last ones."""
    x, y = pictures(n, seed=seed).get(torch.arange(n))
    y[::4] = 1 - y[::4]
    return Pictures(ImageTable((255 * x).round().to(torch.uint8), y))


def train(model: SplitModel, *stages: Stage) -> list[dict[str, Any]]:
    """Its events."""
    listener = Listener()
    shares = {"train": muddled(48), "val": muddled(16, seed=1)}
    make_trainer(model, settings=STEADY, stages=(Stage(), *stages), observer=listener, **shares).run()
    return listener.events


def head_of(model: SplitModel) -> dict[str, torch.Tensor]:
    return {name: value for name, value in weights(model).items() if name.startswith(("head.", "mechanism."))}


def test_the_head_is_that_of_the_run_that_does_not_settle_and_the_tail_is_not() -> None:
    plain, settled = make_model(), make_model()
    train(plain)
    chosen = [event["stage"] for event in train(settled, SETTLE) if event["event"] == "selected"]
    assert chosen == ["train", "settle"]
    expected = head_of(plain)
    assert all(torch.equal(value, expected[name]) for name, value in head_of(settled).items())
    assert not torch.equal(plain.tail[1].weight, settled.tail[1].weight)


def test_it_starts_from_the_selected_tail() -> None:
    events = train(make_model(), replace(SETTLE, lr_scale=1e-30))
    chosen = next(event for event in events if event["event"] == "selected")
    epochs = [event for event in events if event["event"] == "epoch"]
    assert chosen["epoch"] < STEADY.epochs - 1
    assert {event["val_loss"] for event in epochs if event["stage"] == "settle"} == {chosen["val_loss"]}


def test_where_it_does_only_harm_its_start_stands_and_it_says_so() -> None:
    plain, settled = make_model(), make_model()
    train(plain)
    events = train(settled, replace(SETTLE, lr_scale=100.0))
    expected = weights(plain)
    assert all(torch.equal(value, expected[name]) for name, value in weights(settled).items())
    chosen = [event for event in events if event["event"] == "selected"]
    assert [event["stage"] for event in chosen] == ["train", "train"]
    assert (chosen[1]["weights"], chosen[1]["val_objective"]) == ({}, chosen[1]["val_loss"])
    [warning] = [event["text"] for event in events if event["event"] == "warning"]
    assert warning.startswith("no epoch of stage 'settle' lowered the loss on validation data")


def test_the_best_of_all_its_epochs_counts_not_of_the_last_ones() -> None:
    events = train(make_model(), replace(SETTLE, share=1.0))
    losses = [event["val_loss"] for event in events if event["event"] == "epoch" and event["stage"] == "settle"]
    chosen = [event for event in events if event["event"] == "selected"][-1]
    assert chosen["val_loss"] == min(losses)
    assert chosen["epoch"] == losses.index(min(losses)) < 8


def test_penalties_have_no_say_in_it() -> None:
    penalty, listener = Spread(), Listener()
    stages = (Stage(), SETTLE)
    make_trainer(
        make_model(), penalties=[Weighted("spread", penalty, Constant(0.5))], stages=stages, observer=listener
    ).run()
    assert {state.stage for state in penalty.states} == {"train"}
    assert penalty.refits == SETTINGS.epochs
    last = listener.epochs()[-1]
    assert (last["stage"], set(last["terms"]), last["weights"]) == ("settle", {"task"}, {})
    assert last["val_objective"] == last["val_loss"]
    assert [event["stage"] for event in listener.events if event["event"] == "selected"] == ["train", "settle"]


def test_a_budget_is_announced_before_it() -> None:
    budget = Budget(points=50.0, term="spread")
    stages = (Stage("reference"), Stage("budget", lr_scale=0.1, budget=budget), SETTLE)
    listener = Listener()
    penalty = Weighted("spread", Spread(), Budgeted(0.5, budget))
    make_trainer(make_model(), penalties=[penalty], stages=stages, observer=listener).run()
    chosen = [event for event in listener.events if event["event"] == "selected"]
    assert [event["stage"] for event in chosen] == ["budget", "settle"]
    assert chosen[0]["budget_points"] == 50.0
    assert "budget_points" not in chosen[1]


def test_it_cannot_be_the_first_stage() -> None:
    with pytest.raises(SpecError, match="expected a stage before 'settle', got none"):
        make_trainer(make_model(), stages=(SETTLE,))


def test_it_falls_back_on_weights_that_fit() -> None:
    with pytest.raises(SpecError, match="expected the model unchanged before stage 'settle', got a hook"):
        Stage("settle", before=lambda model: None, settles=True)


@pytest.mark.parametrize("stop", [11, 12, 13, 15, 18], ids=lambda stop: f"step {stop} of 18")
@pytest.mark.parametrize("every", [1, 3, 5], ids=lambda every: f"saved after {every} steps")
def test_resumed_it_ends_with_the_same_bits(stop: int, every: int, tmp_path: Path) -> None:
    stages, whole, heard = (Stage(), SETTLE), make_model(), Listener()
    make_trainer(whole, stages=stages, observer=heard).run()
    store = SometimesDue(tmp_path / "checkpoint.safetensors", every)
    with pytest.raises(KeyboardInterrupt):
        make_trainer(make_model(), stages=stages, observer=Stopping(stop), store=store).run()
    resumed, second = make_model(seed=5), Listener()
    make_trainer(resumed, stages=stages, observer=second, store=store).run()
    expected = weights(whole)
    assert all(torch.equal(value, expected[name]) for name, value in weights(resumed).items())
    assert second.events == heard.events[-len(second.events) :]
