"""A last stage in which the part behind the wire learns on alone: what it starts from, and what it leaves as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from splitveil.contracts import Budget, Stage, Weighted
from splitveil.errors import SpecError
from splitveil.schedules import Budgeted, Constant
from splitveil.training.checkpoint import CheckpointStore
from training_fixtures import SETTINGS, Listener, Spread, Stopping, make_model, make_trainer, weights

SETTLE = Stage("settle", 0.5, parts=("tail",), settles=True)
WILD = SETTINGS.model_copy(update={"epochs": 10, "lr": 2.0, "schedule": "constant", "clip_norm": None})


def head_of(model: Any) -> dict[str, torch.Tensor]:
    return {name: value for name, value in weights(model).items() if name.startswith(("head.", "mechanism."))}


def test_the_head_is_that_of_the_run_that_does_not_settle_and_the_tail_is_not() -> None:
    """At this rate epochs differ, so that the selected weights are not the last ones."""
    plain, settled = make_model(), make_model()
    make_trainer(plain, settings=WILD).run()
    make_trainer(settled, settings=WILD, stages=(Stage(), SETTLE)).run()
    expected = head_of(plain)
    assert all(torch.equal(value, expected[name]) for name, value in head_of(settled).items())
    assert not torch.equal(plain.tail[1].weight, settled.tail[1].weight)


def test_it_starts_from_the_selected_tail() -> None:
    plain, settled = make_model(), make_model()
    make_trainer(plain, settings=WILD).run()
    still = Stage("settle", 0.5, parts=("tail",), settles=True, lr_scale=1e-30)
    make_trainer(settled, settings=WILD, stages=(Stage(), still)).run()
    expected = dict(plain.named_parameters())
    assert all(torch.equal(value, expected[name]) for name, value in settled.named_parameters())


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


def test_it_falls_back_on_weights_that_fit() -> None:
    with pytest.raises(SpecError, match="expected the model unchanged before stage 'settle', got a hook"):
        Stage("settle", before=lambda model: None, settles=True)


@pytest.mark.parametrize("stop", [11, 12, 13, 15, 18], ids=lambda stop: f"step {stop} of 18")
@pytest.mark.parametrize("interval_s", [0.0, 1e9], ids=["saved at each step", "saved after each epoch"])
def test_resumed_it_ends_with_the_same_bits(stop: int, interval_s: float, tmp_path: Path) -> None:
    stages, whole, heard = (Stage(), SETTLE), make_model(), Listener()
    make_trainer(whole, stages=stages, observer=heard).run()
    store = CheckpointStore(tmp_path / "checkpoint.safetensors", "spec", interval_s)
    with pytest.raises(KeyboardInterrupt):
        make_trainer(make_model(), stages=stages, observer=Stopping(stop), store=store).run()
    resumed, second = make_model(seed=5), Listener()
    make_trainer(resumed, stages=stages, observer=second, store=store).run()
    expected = weights(whole)
    assert all(torch.equal(value, expected[name]) for name, value in weights(resumed).items())
    assert second.events == heard.events[-len(second.events) :]
