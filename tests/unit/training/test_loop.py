"""The training loop: stages, frozen parts, hooks, selection, warnings, what is logged."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from splitveil.contracts import PenaltyContext, Stage, Terms, Trace, TrainState, Weighted
from splitveil.errors import SpecError, TrainingError
from splitveil.noise import SeededNoise
from splitveil.rng import Rng
from splitveil.schedules import Constant
from splitveil.specs import TrainingSpec
from splitveil.training.rates import learning_rate
from splitveil.training.tasks import Classification
from training_fixtures import SETTINGS, Listener, Spread, make_model, make_trainer, pictures, weights


def test_it_learns_and_hands_the_model_back_in_evaluation_mode() -> None:
    model, listener = make_model(), Listener()
    make_trainer(model, observer=listener).run()
    assert listener.steps == 4 * 3
    assert [event["epoch"] for event in listener.epochs()] == [0, 1, 2, 3]
    assert listener.epochs()[-1]["val_accuracy"] == 1.0
    assert listener.epochs()[-1]["loss"] < listener.epochs()[0]["loss"]
    assert not any(child.training for child in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_logged_loss_is_the_sum_of_its_terms() -> None:
    listener = Listener()
    make_trainer(make_model(), penalties=[Weighted("spread", Spread(), Constant(0.7))], observer=listener).run()
    for event in listener.epochs():
        assert event["weights"] == {"spread": 0.7}
        assert set(event["terms"]) == {"task", "spread"}
        assert event["loss"] == pytest.approx(event["terms"]["task"] + 0.7 * event["terms"]["spread"], rel=1e-6)


def test_penalties_refit_before_each_epoch_on_all_training_pictures() -> None:
    penalty, listener = Spread(), Listener()
    make_trainer(make_model(), penalties=[Weighted("spread", penalty, Constant(0.1))], observer=listener).run()
    assert penalty.refits == 4
    assert [event["facts"]["spread"]["samples"] for event in listener.epochs()] == [48.0] * 4


def test_a_penalty_without_weight_changes_nothing() -> None:
    plain, penalised = make_model(), make_model()
    make_trainer(plain).run()
    make_trainer(penalised, penalties=[Weighted("spread", Spread(), Constant(0.0))]).run()
    expected = weights(plain)
    assert all(torch.equal(value, expected[name]) for name, value in weights(penalised).items())


def test_the_same_key_gives_the_same_weights_and_another_key_others() -> None:
    runs = []
    for key in (0, 0, 1):
        model = make_model()
        make_trainer(model, rng=Rng(key)).run()
        runs.append(weights(model))
    assert all(torch.equal(value, runs[1][name]) for name, value in runs[0].items())
    assert not torch.equal(runs[0]["tail.1.weight"], runs[2]["tail.1.weight"])


def test_a_frozen_part_keeps_its_weights_and_its_batch_statistics() -> None:
    model = make_model()
    head, tail = weights(model.head), weights(model.tail)
    make_trainer(model, stages=(Stage(parts=("tail",)),)).run()
    assert all(torch.equal(value, head[name]) for name, value in weights(model.head).items())
    assert not torch.equal(weights(model.tail)["1.weight"], tail["1.weight"])


def test_stages_share_the_epochs_and_call_their_hooks_in_order() -> None:
    calls: list[str] = []
    stages = (
        Stage("first", 0.5, ("head", "tail"), lambda model: calls.append("first")),
        Stage("second", 0.25, ("tail",), lambda model: calls.append("second")),
    )
    listener = Listener()
    make_trainer(make_model(), stages=stages, observer=listener).run()
    assert calls == ["first", "second"]
    assert [(event["stage"], event["epoch"]) for event in listener.epochs()] == [
        ("first", 0),
        ("first", 1),
        ("second", 0),
    ]


def test_a_stage_without_parameters_is_refused() -> None:
    with pytest.raises(SpecError, match="expected parameters to train in stage 'idle'"):
        make_trainer(make_model(), stages=(Stage("idle", parts=("finish",)),)).run()


def test_the_weights_with_the_least_validation_objective_among_the_last_epochs_are_kept() -> None:
    settings = SETTINGS.model_copy(update={"epochs": 10, "lr": 2.0, "schedule": "constant", "clip_norm": None})
    listener, seen = Listener(), []
    model = make_model()

    class Watching(Listener):
        def event(self, event: dict[str, Any]) -> None:
            super().event(event)
            if event["event"] == "epoch":
                seen.append(weights(model))

    listener = Watching()
    make_trainer(model, settings=settings, observer=listener).run()
    last = listener.epochs()[-2:]
    best = min(range(2), key=lambda index: last[index]["val_objective"])
    expected = seen[-2:][best]
    assert all(torch.equal(value, expected[name]) for name, value in weights(model).items())


def test_validation_draws_the_same_noise_every_time_and_leaves_batch_statistics_alone() -> None:
    model, listener = make_model(), Listener()
    settings = SETTINGS.model_copy(update={"lr": 1e-30, "weight_decay": 0.0})
    model.head[1].momentum = 0.0  # type: ignore[index, union-attr]
    before = weights(model)
    make_trainer(model, settings=settings, observer=listener).run()
    assert len({event["val_loss"] for event in listener.epochs()}) == 1
    after = weights(model)
    assert torch.equal(after["head.1.running_mean"], before["head.1.running_mean"])


def test_a_loss_that_is_not_finite_stops_with_the_cure() -> None:
    class Broken(Spread):
        def forward(self, trace: Trace, context: PenaltyContext) -> Terms:
            return {"spread": trace.z.mean() * float("nan")}

    with pytest.raises(TrainingError, match=r"expected a finite loss, got nan in epoch 1 .* lower training.lr"):
        make_trainer(make_model(), penalties=[Weighted("spread", Broken(), Constant(1.0))]).run()


def test_collapsed_features_are_warned_of() -> None:
    listener = Listener()
    penalties = [Weighted("spread", Spread(), Constant(1e4))]
    settings = SETTINGS.model_copy(update={"epochs": 6})
    make_trainer(make_model(), penalties=penalties, settings=settings, observer=listener).run()
    warnings = [event for event in listener.events if event["event"] == "warning"]
    assert warnings
    assert "the features have collapsed" in warnings[-1]["text"]
    assert "spread (weight 1e+04)" in warnings[-1]["text"]


def test_the_state_of_each_step_is_what_penalties_see() -> None:
    penalty = Spread()
    make_trainer(make_model(), penalties=[Weighted("spread", penalty, Constant(0.1))]).run()
    steps = [state for state in penalty.states if state.progress < 1]
    assert [(state.epoch, state.step) for state in steps] == [(epoch, step) for epoch in range(4) for step in range(3)]
    assert [state.progress for state in steps] == pytest.approx([index / 12 for index in range(12)])
    assert steps[0].last_validation is None
    assert steps[-1].last_validation is not None


@pytest.mark.parametrize(
    ("schedule", "progress", "expected"),
    [
        ("cosine", 0.0, 0.1),
        ("cosine", 0.5, 0.05),
        ("constant", 0.9, 0.1),
        ("multistep", 0.0, 0.1),
    ],
)
def test_learning_rates(schedule: str, progress: float, expected: float) -> None:
    settings = TrainingSpec(epochs=10, lr=0.1, schedule=schedule)  # type: ignore[arg-type]
    assert learning_rate(settings, progress) == pytest.approx(expected)


def test_milestones_multiply_the_rate() -> None:
    settings = TrainingSpec(epochs=10, lr=0.1, schedule="multistep", milestones=(0.5, 0.8), gamma=0.2)
    rates = [learning_rate(settings, share) for share in (0.49, 0.5, 0.79, 0.8)]
    assert rates == pytest.approx([0.1, 0.02, 0.02, 0.004])


def test_a_user_may_run_the_objective_in_a_loop_of_their_own() -> None:
    from splitveil.training.objective import Objective

    model = make_model()
    objective = Objective(model, Classification(), [Weighted("spread", Spread(), Constant(0.5))], Rng(0))
    x, y = pictures(8).get(torch.arange(8))
    losses = objective(x, y, TrainState(0, 0, 0.0, 0.1))
    losses.backward()
    together = [parameter.grad.clone() for parameter in model.head.parameters() if parameter.grad is not None]
    assert len(together) == 4
    noises = model.draw(SeededNoise(Rng(0).child("step", 0, 0).child("noise")), 8, x.device)
    model.zero_grad()
    trace = model(x, noises)
    loss = nn.functional.cross_entropy(trace.output, y) + 0.5 * trace.z.square().mean()
    torch.autograd.backward(loss)
    by_hand = [parameter.grad for parameter in model.head.parameters()]
    for mine, theirs in zip(by_hand, together, strict=True):
        torch.testing.assert_close(mine, theirs)
