"""Every registered penalty keeps the contract; a new one needs a row in `ROWS`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from splitveil.contracts import PenaltyContext, Trace, TrainState, Weighted
from splitveil.data.loader import Pictures
from splitveil.data.tables import ImageTable
from splitveil.defenses import gaussian
from splitveil.defenses.base import MechanismPart, PenaltyPart
from splitveil.nets.small import small
from splitveil.registry import PENALTIES
from splitveil.rng import Rng
from splitveil.schedules import Constant, Schedule, WarmUp
from splitveil.split_model import SplitModel
from splitveil.training.features import TrainingFeatures
from splitveil.training.objective import Losses, Objective
from splitveil.training.tasks import Classification

CLASSES, PICTURE, NOISE_STD = 4, (1, 8, 8), 0.05
STATE = TrainState(epoch=3, step=2, progress=0.6, lr=1e-3)
WEIGHT = 2.0


@dataclass(frozen=True)
class Row:
    """One way to build a penalty.

    Args:
        name: of the registry.
        params: of the penalty.
        head_only: the penalty says that its gradient goes into the head alone.
        order_free: its value does not depend on the order of the rows.
        stateless: it remembers nothing of the features.
        moves: the part of the model that its gradient changes.
    """

    name: str
    params: dict[str, Any] = field(default_factory=dict)
    head_only: bool = True
    order_free: bool = True
    stateless: bool = False
    moves: str = "head"


ROWS = {
    "conditional_entropy": Row("conditional_entropy", {"clusters": 2}),
    "conditional_entropy isotropic": Row("conditional_entropy", {"clusters": 3, "covariance": "isotropic"}),
    "conditional_entropy low rank": Row("conditional_entropy", {"clusters": 2, "covariance": "low_rank", "rank": 3}),
    "conditional_entropy full": Row("conditional_entropy", {"clusters": 2, "covariance": "full"}),
    "conditional_entropy classes": Row("conditional_entropy", {"clusters": 2, "balance": "classes"}),
    "conditional_entropy unlabeled": Row("conditional_entropy", {"clusters": 4, "balance": "unlabeled"}),
    "conditional_entropy projected": Row("conditional_entropy", {"clusters": 2, "projection": 7}),
    "conditional_entropy pixels": Row("conditional_entropy", {"clusters": 2, "surrogate": "pixels"}),
    "conditional_entropy paper": Row("conditional_entropy", {"clusters": 2, "surrogate": "thresholded_trace"}),
    "adversarial_reconstruction": Row("adversarial_reconstruction", {"threshold": 0.0, "channels": 4, "blocks": 1}),
    "adversarial_reconstruction mse": Row(
        "adversarial_reconstruction", {"likeness": "rmse", "threshold": 0.9, "channels": 4, "blocks": 1, "pretrain": 1}
    ),
    "adversarial_reconstruction release": Row(
        "adversarial_reconstruction", {"reads": "release", "threshold": 0.0, "channels": 4, "blocks": 1}
    ),
    "channel_sparsity": Row("channel_sparsity", stateless=True, order_free=False),
    "dependence": Row("dependence", stateless=True),
    "distance_correlation": Row("distance_correlation", stateless=True),
    "head_similarity": Row("head_similarity", {"stages": ["first", "second"]}),
    "information_bottleneck": Row("information_bottleneck", stateless=True),
    "lipschitz": Row("lipschitz", stateless=True, order_free=False),
    "noise_power": Row("noise_power", stateless=True, moves="mechanism"),
}
BUILT_IN = [entry.name for entry in PENALTIES if entry.target.startswith("splitveil.")]

each_row = pytest.mark.parametrize("row", ROWS.values(), ids=[key.replace(" ", "-") for key in ROWS])


def table(n: int, key: str) -> ImageTable:
    """Pictures of classes that differ in brightness, so that their features differ."""
    generator = Rng(3).child(key).generator()
    y = torch.arange(n) % CLASSES
    noise = torch.randint(0, 100, (n, *PICTURE), generator=generator)
    return ImageTable((noise + 40 * y.view(-1, 1, 1, 1)).to(torch.uint8), y)


def batch(n: int = 24) -> tuple[Tensor, Tensor]:
    return Pictures(table(n, "batch")).get(torch.arange(n))


class Rig:
    """A small model, a penalty that is fitted to its features, and the objective of both."""

    def __init__(self, row: Row, *, seed: int = 0, schedule: Schedule | None = None) -> None:
        with Rng(seed).child("model").scoped():
            parts = small(classes=CLASSES, input_shape=PICTURE, width=0.5, bottleneck=4)
        host = gaussian(noise_std=NOISE_STD)
        if row.moves == "mechanism":
            host = replace(host, mechanisms=(MechanismPart("learned_noise", {"noise_std": NOISE_STD}),))
        mechanism, _ = host.build(parts.feature, CLASSES, Rng(seed), PICTURE)
        self.model = SplitModel(parts, mechanism)
        part = PenaltyPart(row.name, schedule or Constant(WEIGHT), row.params)
        self.penalty = part.build(parts.feature, CLASSES, Rng(seed).child("penalty"), PICTURE)
        self.weighted = Weighted(row.name, self.penalty, part.schedule)
        self.stream = TrainingFeatures(
            self.model, Pictures(table(400, "train")), CLASSES, Rng(seed).child("features"), lambda x, generator: x
        )

    def objective(self, *, penalised: bool = True) -> Objective:
        return Objective(self.model, Classification(), [self.weighted] if penalised else [], Rng(0).child("train"))

    def trace(self) -> tuple[Trace, Tensor]:
        """One pass, as the objective makes it, and its labels."""
        x, y = batch()
        return self.objective(penalised=False)(x, y, STATE).trace, y

    def terms(self, trace: Trace, y: Tensor) -> dict[str, Tensor]:
        key = self.objective().rng.child("step", STATE.epoch, STATE.step, "penalty", self.weighted.name)
        return self.penalty(trace, PenaltyContext(self.model, y, STATE, key))


def fitted(row: Row, *, seed: int = 0, schedule: Schedule | None = None) -> Rig:
    """A rig whose penalty has seen an epoch's features, and the end of a stage with another head."""
    rig = Rig(row, seed=seed, schedule=schedule)
    rig.model.train()
    rig.objective().start_epoch(rig.stream)
    rig.penalty.on_stage_end("first", Rig(row, seed=seed + 10).model)
    return rig


def hold_statistics(model: SplitModel) -> None:
    """Batch norms that keep what they have seen, so that passes one after the other are the same."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0


def gradients(model: SplitModel, loss: Callable[[], Tensor]) -> dict[str, Tensor]:
    """Of every parameter of the model, zero where there is none."""
    named = dict(model.named_parameters())
    found = torch.autograd.grad(loss(), list(named.values()), allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if value is None else value
        for (name, parameter), value in zip(named.items(), found, strict=True)
    }


def losses(rig: Rig, *, penalised: bool = True) -> Losses:
    return rig.objective(penalised=penalised)(*batch(), STATE)


def test_every_penalty_has_a_row() -> None:
    assert {row.name for row in ROWS.values()} == set(BUILT_IN), "give the new penalty its row in ROWS"


@each_row
def test_terms_are_finite_scalars_with_gradient(row: Row) -> None:
    rig = fitted(row)
    trace, y = rig.trace()
    for n in (1, 5, 24):
        cut = replace(
            trace, **{name: value[:n] for name, value in rows_of(trace).items()}, channel=channel_of(trace, slice(n))
        )
        terms = rig.terms(cut, y[:n])
        assert terms
        for value in terms.values():
            assert value.shape == ()
            assert bool(torch.isfinite(value))
            assert value.requires_grad


@each_row
def test_facts_of_an_epoch_are_finite_numbers(row: Row) -> None:
    rig = Rig(row)
    facts = rig.penalty.on_epoch(rig.stream)
    assert all(isinstance(value, float) and math.isfinite(value) for value in facts.values())


@each_row
def test_penalty_changes_the_gradient_of_the_part_that_it_moves(row: Row) -> None:
    """By its weight times its own gradient, in every layer of the head that it reaches; the rest as documented."""
    rig = fitted(row)
    hold_statistics(rig.model)
    without = gradients(rig.model, lambda: losses(rig, penalised=False).total)
    with_penalty = gradients(rig.model, lambda: losses(rig).total)
    alone = gradients(rig.model, lambda: torch.stack(list(rig.terms(*rig.trace()).values())).sum())
    head = [name for name in without if name.startswith(f"{row.moves}.")]
    others = [name for name in without if not name.startswith(f"{row.moves}.")]
    assert head
    assert others
    change = sum(float((with_penalty[name] - without[name]).square().sum()) for name in head) ** 0.5
    size = sum(float(without[name].square().sum()) for name in head) ** 0.5
    assert change > 1e-3 * size
    for name in without:
        assert bool(torch.isfinite(with_penalty[name]).all())
        torch.testing.assert_close(
            with_penalty[name] - without[name], WEIGHT * alone[name], rtol=1e-3, atol=1e-5 * max(1.0, change)
        )
    if row.head_only:
        assert all(torch.equal(with_penalty[name], without[name]) for name in others)


@each_row
def test_the_logged_loss_is_the_loss(row: Row) -> None:
    found = losses(fitted(row))
    terms = {name: float(value.detach()) for name, value in found.terms.items()}
    assert found.weights == {row.name: WEIGHT}
    expected = terms.pop("task") + WEIGHT * sum(terms.values())
    assert float(found.total.detach()) == pytest.approx(expected, rel=1e-6)


@each_row
@pytest.mark.parametrize("schedule", [Constant(0.0), WarmUp(5.0, delay=0.9)], ids=["never", "not-yet"])
def test_no_weight_equals_no_penalty(row: Row, schedule: Schedule) -> None:
    rig = fitted(row, schedule=schedule)
    weighted, plain = losses(rig), losses(rig, penalised=False)
    assert set(weighted.terms) == {"task"}
    assert torch.equal(weighted.total, plain.total)
    first = gradients(rig.model, lambda: losses(rig).total)
    second = gradients(rig.model, lambda: losses(rig, penalised=False).total)
    assert all(torch.equal(first[name], second[name]) for name in first)


@each_row
def test_penalty_leaves_the_model_alone(row: Row) -> None:
    """Fitting and judging change no weight, no statistic, no mode and no global generator."""
    rig = Rig(row)
    rig.model.train()
    rig.model.tail.eval()
    modes = {name: child.training for name, child in rig.model.named_modules()}
    state = {name: value.clone() for name, value in rig.model.state_dict().items()}
    generator = torch.get_rng_state()
    rig.objective().start_epoch(rig.stream)
    assert all(torch.equal(value, state[name]) for name, value in rig.model.state_dict().items())
    trace, y = rig.trace()
    state = {name: value.clone() for name, value in rig.model.state_dict().items()}
    rig.terms(trace, y)
    assert all(torch.equal(value, state[name]) for name, value in rig.model.state_dict().items())
    assert {name: child.training for name, child in rig.model.named_modules()} == modes
    assert all(parameter.grad is None for parameter in rig.model.parameters())
    assert torch.equal(torch.get_rng_state(), generator)


@each_row
def test_saved_and_loaded_it_says_the_same(row: Row, tmp_path: Path) -> None:
    """Its buffers are all its state: built from another key and loaded, a resumed run goes on as it was."""
    rig, other = fitted(row), fitted(row, seed=1)
    trace, y = rig.trace()
    expected = rig.terms(trace, y)
    if not row.stateless:
        assert any(not torch.equal(value, expected[name]) for name, value in other.terms(trace, y).items())
    file = tmp_path / "penalty.safetensors"
    save_file({name: value.contiguous() for name, value in rig.penalty.state_dict().items()}, file)
    resumed = Rig(row, seed=1)  # has seen no features
    resumed.penalty.attach(rig.model)
    resumed.penalty.load_state_dict(load_file(file))
    resumed.model = rig.model
    found = resumed.terms(trace, y)
    assert list(expected) == list(found)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert resumed.penalty.on_epoch(rig.stream) == rig.penalty.on_epoch(rig.stream)


@each_row
def test_same_key_same_value(row: Row) -> None:
    first, second = losses(fitted(row)), losses(fitted(row))
    assert torch.equal(first.total, second.total)
    assert all(torch.equal(first.terms[name], second.terms[name]) for name in first.terms)


@each_row
def test_order_of_the_rows_does_not_matter(row: Row) -> None:
    if not row.order_free:
        return
    rig = fitted(row)
    trace, y = rig.trace()
    order = torch.randperm(len(y), generator=Rng(0).generator())
    mixed = replace(
        trace, **{name: value[order] for name, value in rows_of(trace).items()}, channel=channel_of(trace, order)
    )
    expected, found = rig.terms(trace, y), rig.terms(mixed, y[order])
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-6)


def rows_of(trace: Trace) -> dict[str, Tensor]:
    """The tensors of a pass whose first axis is the batch."""
    return {name: getattr(trace, name) for name in ("x", "z", "r", "reply", "output")}


def channel_of(trace: Trace, rows: slice | Tensor) -> Any:
    """The Gaussian stage of these rows; a scale without a batch axis is that of all."""
    assert trace.channel is not None
    return replace(trace.channel, mean=trace.channel.mean[rows])
