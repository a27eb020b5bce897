"""Trainings that one process and two do alike, and what goes wrong in one of several."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, distributed, nn

from splitveil.contracts import FeatureSpec, Penalty, PenaltyContext, Stage, Terms, Trace, Weighted
from splitveil.data.loader import Pictures
from splitveil.data.tables import ImageTable
from splitveil.defenses.mechanisms.gaussian import Gaussian
from splitveil.defenses.mechanisms.learned_noise import LearnedNoise
from splitveil.defenses.penalties.adversarial_reconstruction import AdversarialReconstruction
from splitveil.defenses.penalties.conditional_entropy import ConditionalEntropy
from splitveil.defenses.penalties.dependence import Dependence
from splitveil.defenses.penalties.distance_correlation import DistanceCorrelation
from splitveil.defenses.penalties.lipschitz import Lipschitz
from splitveil.defenses.penalties.noise_power import NoisePower
from splitveil.errors import SpecError
from splitveil.nets.parts import SplitParts
from splitveil.rng import Rng
from splitveil.schedules import Constant
from splitveil.specs import AugmentSpec, TrainingSpec
from splitveil.split_model import SplitModel
from splitveil.training.observer import Observer
from splitveil.training.ranks import Ranks
from training_fixtures import Listener, make_trainer, pictures

SETTINGS = TrainingSpec(epochs=2, batch_size=16, lr=0.05, augment=AugmentSpec(crop=1, flip=True, rotation=10.0))
_SPEC, _PICTURE = FeatureSpec.of((3, 4, 4)), (1, 6, 6)


def _arl(likeness: str) -> Penalty:
    with Rng(5).scoped():
        return AdversarialReconstruction(_SPEC, _PICTURE, channels=4, blocks=1, pretrain=1, likeness=likeness)  # type: ignore[arg-type]


PENALTIES: dict[str, Callable[[], Penalty | None]] = {
    "task": lambda: None,
    "cem": lambda: ConditionalEntropy(2, 48, clusters=2),
    "cem_pixels": lambda: ConditionalEntropy(2, 48, clusters=2, surrogate="pixels"),
    "cem_paper": lambda: ConditionalEntropy(2, 48, clusters=2, surrogate="thresholded_trace"),
    "arl": lambda: _arl("rmse"),
    "distance_correlation": DistanceCorrelation,
    "hsic": lambda: Dependence(2),
    "lipschitz": Lipschitz,
    "noise_power": NoisePower,
}
"""By the name of the case; batches of 47 pictures over two processes end with 8 and 7."""


DOUBLE = ("arl",)
"""Cases in float64: Adam makes steps of full size out of the rounding of gradients that are zero, as those of a bias
before a batch norm are, so in float32 a decoder's likeness tells 1 + 1 rows from 2."""


class DoublePictures(Pictures):
    """Pictures in float64."""

    @classmethod
    def of(cls, given: Pictures) -> DoublePictures:
        return cls(ImageTable(given.images, given.labels))

    def get(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        x, y = super().get(indices)
        return x.double(), y

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        for x, y in super().batches(batch_size):
            yield x.double(), y


class Spare(nn.Linear):
    """A layer that holds another one, which has no part in the answer."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.other = nn.Linear(2, 2)


def model_of(case: str, norm: str) -> SplitModel:
    """A small net with batch norm, group norm, or a parameter that nothing uses."""
    with Rng(0).scoped():
        layer = nn.GroupNorm(3, 3) if norm == "group" else nn.BatchNorm2d(3)
        head = nn.Sequential(nn.Conv2d(1, 3, 3), layer, nn.Sigmoid())
        end = Spare(48, 2) if norm == "spare" else nn.Linear(48, 2)
        mechanism = LearnedNoise(_SPEC) if case == "noise_power" else Gaussian(noise_std=0.1)
    return SplitModel(SplitParts(head, nn.Sequential(nn.Flatten(), end), _PICTURE), mechanism)


def train_case(ranks: Ranks, device: torch.device, observer: Observer, case: str, norm: str, out: Path | None) -> Any:
    """Train; returns weights and epochs, or writes the weights of each process to a folder."""
    model, penalty, listener = model_of(case, norm), PENALTIES[case](), Listener()
    penalties = [] if penalty is None else [Weighted(case, penalty, Constant(0.3))]
    train, val = pictures(47), pictures(17, seed=1)
    if penalty is not None and case in DOUBLE:
        model, train, val = model.double(), DoublePictures.of(train), DoublePictures.of(val)
        penalty.double()
    trainer = make_trainer(
        model,
        penalties=penalties,
        stages=(Stage(),),
        settings=SETTINGS,
        train=train,
        val=val,
        observer=listener,
        ranks=ranks,
    )
    trainer.run()
    state: dict[str, Tensor] = {name: value.clone() for name, value in model.state_dict().items()}
    if out is not None:
        save_file(state, out / f"{case}-{norm}-{ranks.rank}.safetensors")
    for event in listener.epochs():
        observer.event({**event, "case": (case, norm)})
    return state, listener.epochs()


def train_cases(
    ranks: Ranks, device: torch.device, observer: Observer, cases: list[tuple[str, str]], out: Path
) -> None:
    """All of them, one after the other."""
    for case, norm in cases:
        train_case(ranks, device, observer, case, norm, out)


class Fails(Penalty):
    """In the second process, on the third step, does what it is told; waits for the other one in each step."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.calls = how, 0

    def forward(self, trace: Trace, context: PenaltyContext) -> Terms:
        self.calls += 1
        if context.comm.rank == 1 and self.calls == 3:
            if self.how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.how == "silent":
                signal.pause()
            raise {"refused": SpecError, "broken": ZeroDivisionError}[self.how]("no such thing")
        return {"fails": trace.z.mean() * 0.0}


def train_failing(ranks: Ranks, device: torch.device, observer: Observer, how: str) -> None:
    """Train until one of the processes fails."""
    penalties = [Weighted("fails", Fails(how), Constant(1.0))]
    make_trainer(model_of("task", "group"), penalties=penalties, observer=observer, ranks=ranks).run()


def gather_rows(ranks: Ranks, device: torch.device, observer: Observer) -> None:
    """A gradient through gathered rows, unevenly dealt."""
    torch.manual_seed(0)
    whole = torch.randn(5, 3, dtype=torch.float64)
    comm, rows = ranks.share(5)
    mine = whole[rows].clone().requires_grad_()
    gathered = comm.gather(mine)
    assert torch.equal(gathered, whole)
    (gathered.cumsum(0).square().sum() * comm.share).backward()
    assert mine.grad is not None
    found = [torch.zeros(3, 3, dtype=torch.float64) for _ in range(2)]
    distributed.all_gather(found, nn.functional.pad(mine.grad, (0, 0, 0, 3 - len(mine))))
    grad = torch.cat([found[0], found[1][:2]]) / ranks.world_size
    observer.event({"event": "gradient", "values": grad.tolist(), "agreed": ranks.agree(ranks.rank == 0)})
