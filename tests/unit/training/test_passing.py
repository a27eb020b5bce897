"""How passes are computed: precision, compilation, and a step during which the host waits for nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from splitveil.contracts import Penalty, PenaltyContext, Stage, Terms, Trace, TrainState, Weighted
from splitveil.data.loader import Pictures
from splitveil.data.tables import ImageTable
from splitveil.defenses import load_defense
from splitveil.defenses.mechanisms.laplace import Laplace
from splitveil.defenses.mechanisms.learned_noise import LearnedNoise
from splitveil.experiments.building import build_protected
from splitveil.nets.small import small
from splitveil.registry import DEFENSES
from splitveil.rng import Rng
from splitveil.schedules import Constant
from splitveil.specs import TrainingSpec
from splitveil.training.features import TrainingFeatures
from splitveil.training.objective import Objective
from splitveil.training.passing import network_of, precision_of
from splitveil.training.ranks import Ranks
from splitveil.training.tasks import Classification
from training_fixtures import SETTINGS, Listener, Spread, make_model, make_trainer, pictures, weights

WAITS = {
    "aten::_local_scalar_dense",
    "aten::item",
    "aten::nonzero",
    "aten::masked_select",
    "aten::equal",
    "aten::unique",
}


class Waits(TorchDispatchMode):
    """Collects what would make the host wait for a GPU: a number read back, or a shape that depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().split(".")[0]
        booleans = name == "aten::index" and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if name in WAITS or booleans:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@contextmanager
def waits() -> Iterator[list[str]]:
    watching = Waits()
    with watching:
        yield watching.found


def test_what_waits_is_seen() -> None:
    x = torch.rand(4)
    with waits() as found:
        float(x.sum())
        x[x > 0.5]
        torch.nonzero(x)
    assert len(found) >= 3


@pytest.mark.parametrize("name", [entry.name for entry in DEFENSES])
def test_a_step_waits_for_nothing(name: str) -> None:
    with Rng(0).scoped():
        parts = small(classes=3, width=0.25)
    defense = load_defense(name, {"noise_std": 0.1} if name == "conditional_entropy" else {})
    model, penalties = build_protected(parts, defense, 3, Rng(0))
    stage = defense.stages()[-1]
    objective = Objective(model, Classification(), penalties, Rng(0))
    generator = Rng(1).generator()
    x, y = torch.rand(8, 1, 8, 8, generator=generator), torch.arange(8) % 3
    for earlier in defense.stages():
        if earlier.before is not None:
            earlier.before(model)
        for item in penalties:
            item.penalty.on_stage_end(earlier.name, model)
    images = torch.randint(0, 256, (32, 1, 8, 8), generator=generator, dtype=torch.uint8)
    train = Pictures(ImageTable(images, torch.arange(32) % 3))
    objective.start_epoch(TrainingFeatures(model, train, 3, Rng(2), lambda pictures, _: pictures))
    trained = [
        parameter for name, part in model.named_children() if name in stage.parts for parameter in part.parameters()
    ]
    optimizer = torch.optim.SGD(trained, lr=0.1, fused=True)
    model.train()
    state = TrainState(1, 0, 0.9, 0.1, 0.5, (0.5,), 0.5, stage.name)
    objective(x, y, state).backward()  # inner optimisers make their state in their first step
    with waits() as found:
        objective(x, y, state).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
    assert found == []


def test_passes_in_bfloat16_leave_traces_and_penalties_in_float32() -> None:
    settings = SETTINGS.model_copy(update={"precision": "bfloat16"})
    model = make_model().train()
    network = network_of(model, settings, torch.device("cpu"), Ranks())
    x = torch.rand(4, 1, 6, 6, generator=Rng(0).generator())
    noises = (torch.zeros(4, 3, 4, 4),)
    trace, exact = network(x, noises), model(x, noises)
    assert {tensor.dtype for tensor in (trace.z, trace.r, trace.reply, trace.output)} == {torch.float32}
    assert trace.channel is not None
    assert trace.channel.mean.dtype == torch.float32
    assert not torch.equal(trace.z, exact.z)
    torch.testing.assert_close(trace.z, exact.z, atol=0.05, rtol=0.05)


def test_training_in_bfloat16_learns_and_penalties_see_float32() -> None:
    class Looks(Penalty):
        def forward(self, trace: Trace, context: PenaltyContext) -> Terms:
            assert trace.z.dtype == torch.float32
            assert not torch.is_autocast_enabled("cpu")
            return {"looks": trace.z.square().mean()}

    settings, listener = SETTINGS.model_copy(update={"precision": "bfloat16"}), Listener()
    penalties = [Weighted("looks", Looks(), Constant(0.01))]
    make_trainer(make_model(), settings=settings, penalties=penalties, observer=listener).run()
    assert listener.epochs()[-1]["val_accuracy"] == 1.0


@pytest.mark.parametrize("law", ["laplace", "learned"])
def test_training_in_bfloat16_learns_under_laplace_noise(law: str) -> None:
    """One uniform in three hundred would round to 0 or 1, where the noise has no end."""
    settings, listener = SETTINGS.model_copy(update={"precision": "bfloat16"}), Listener()
    plain = make_model()
    learned = LearnedNoise.from_spec(plain.feature_spec, Rng(0), noise_std=0.1, law="laplace")
    model = plain.with_mechanism(Laplace(0.1) if law == "laplace" else learned)
    make_trainer(model, settings=settings, observer=listener).run()
    assert all(bool(value.isfinite().all()) for value in weights(model).values())
    assert listener.epochs()[-1]["val_accuracy"] == 1.0


def test_precision_is_what_is_asked_for_and_full_on_cpus_by_default() -> None:
    cpu = torch.device("cpu")
    assert precision_of(TrainingSpec(epochs=1), cpu) == torch.float32
    assert precision_of(TrainingSpec(epochs=1, precision="bfloat16"), cpu) == torch.bfloat16
    assert precision_of(TrainingSpec(epochs=1, precision="float32"), torch.device("meta")) == torch.float32


@pytest.mark.long
def test_a_compiled_network_trains_alike() -> None:
    plain, compiled = make_model(), make_model()
    penalty = Weighted("spread", Spread(), Constant(0.1))
    make_trainer(plain, penalties=[penalty], stages=(Stage(),)).run()
    settings = SETTINGS.model_copy(update={"compile": True})
    make_trainer(compiled, penalties=[penalty], stages=(Stage(),), settings=settings).run()
    expected = weights(plain)
    for name, value in weights(compiled).items():
        torch.testing.assert_close(value, expected[name], atol=1e-4, rtol=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_an_epoch_on_a_gpu_waits_for_nothing() -> None:
    train = pictures(64)
    train.images, train.labels = train.images.cuda(), train.labels.cuda()
    model = make_model().cuda()

    class Strict(Listener):
        def advance(self, text: str) -> None:
            super().advance(text)
            torch.cuda.set_sync_debug_mode("error" if self.steps % 4 else "default")

        def event(self, event: dict[str, Any]) -> None:
            torch.cuda.set_sync_debug_mode("default")

    try:
        make_trainer(model, train=train, val=train, observer=Strict()).run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
