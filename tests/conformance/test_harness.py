"""The harness notices each fault that it is there for."""

from __future__ import annotations

from pathlib import Path

import harness
import pytest
import torch
from awkward import find
from torch import Tensor

from splitveil.contracts import FeatureSpec, GaussianChannel, Mechanism
from splitveil.defenses.mechanisms.clip import Clip
from splitveil.defenses.mechanisms.dropout import Dropout
from splitveil.defenses.mechanisms.gaussian import Gaussian
from splitveil.defenses.mechanisms.identity import Identity
from splitveil.defenses.mechanisms.laplace import Laplace
from splitveil.errors import ContractError, InputError
from splitveil.rng import Rng

SPEC = FeatureSpec.of((4, 6, 6))


class Centred(Identity):
    """Subtracts the mean of the batch."""

    def forward(self, z: Tensor, noises: tuple[Tensor, ...]) -> Tensor:
        return z - z.mean(dim=0)


class Drawing(Gaussian):
    """Draws its own noise."""

    def forward(self, z: Tensor, noises: tuple[Tensor, ...]) -> Tensor:
        return z + noises[0] + torch.randn(z.shape, generator=self.generator)

    def __init__(self) -> None:
        super().__init__(noise_std=0.1)
        self.generator = Rng(0).generator()


class Silent(Gaussian):
    """Declares noise and ignores it."""

    def forward(self, z: Tensor, noises: tuple[Tensor, ...]) -> Tensor:
        return z


class Flattening(Identity):
    """Does not say that it changes the shape."""

    def forward(self, z: Tensor, noises: tuple[Tensor, ...]) -> Tensor:
        return z.flatten(1)


class Leaking(Clip):
    """Leaves its declared range."""

    def forward(self, z: Tensor, noises: tuple[Tensor, ...]) -> Tensor:
        return 1.01 * super().forward(z, noises)


class Detached(Identity):
    """Has no gradient."""

    def forward(self, z: Tensor, noises: tuple[Tensor, ...]) -> Tensor:
        return z.detach() + 0.0 * z


class FirstOnly(Identity):
    """Mixes the inputs where it should combine the releases."""

    def combine(self, r: Tensor) -> Tensor:
        return r.mean(dim=0).expand(len(r), *r.shape[2:]) if len(r) == r.shape[1] else r.sum(dim=1)


class Rescaled(Dropout):
    """Scales what it lets pass, and does not say so."""

    def forward(self, z: Tensor, noises: tuple[Tensor, ...]) -> Tensor:
        return super().forward(z, noises) / (1 - self.rate)


class Counting(Identity):
    """Has a state that a release changes."""

    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, z: Tensor, noises: tuple[Tensor, ...]) -> Tensor:
        self.count += 1.0
        return z


class Reserved(Gaussian):
    """Names its noise like the picture."""

    def noise_spec(self, z: FeatureSpec) -> tuple:
        (spec,) = super().noise_spec(z)
        return (type(spec)("x", spec.shape, spec.law),)


class Boasting(Gaussian):
    """Declares more noise than it adds."""

    def gaussian_channel(self, z: Tensor) -> GaussianChannel:
        return GaussianChannel(z, z.new_full((), 1.05 * self.noise_std))


class Scaling(Gaussian):
    """Scales what it adds noise to, and says that it does not."""

    def forward(self, z: Tensor, noises: tuple[Tensor, ...]) -> Tensor:
        return super().forward(20.0 * z, noises)

    def gaussian_channel(self, z: Tensor) -> GaussianChannel:
        return super().gaussian_channel(20.0 * z)


class Doubling(Identity):
    """Does not say that it leaves the range of its input."""

    def forward(self, z: Tensor, noises: tuple[Tensor, ...]) -> Tensor:
        return 2.0 * z


class OnCpu(Identity):
    """Makes a tensor on the CPU, whatever the device."""

    def forward(self, z: Tensor, noises: tuple[Tensor, ...]) -> Tensor:
        return z * torch.ones(z.shape[1:])


class Single(Identity):
    """Answers in float32 always."""

    def forward(self, z: Tensor, noises: tuple[Tensor, ...]) -> Tensor:
        return z.float()


class Rounding(Laplace):
    """Rounds its uniform noise to the features' dtype before it takes the logarithm."""

    def forward(self, z: Tensor, noises: tuple[Tensor, ...]) -> Tensor:
        centred = noises[0].to(z.dtype) - 0.5
        return z - self.scale * centred.sign() * torch.log1p(-2.0 * centred.abs())


@pytest.mark.parametrize(
    ("mechanism", "check"),
    [
        (Centred(), "check_row_independence"),
        (Drawing(), "check_determinism"),
        (Silent(0.1), "check_determinism"),
        (Flattening(), "check_specs"),
        (Leaking(0.2, 0.8), "check_specs"),
        (Reserved(0.1), "check_specs"),
        (Detached(), "check_gradient"),
        (FirstOnly(), "check_combine"),
        (Rescaled(0.5), "check_unmasked"),
        (Counting(), "check_release_leaves_no_trace"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_fault_is_noticed(mechanism: Mechanism, check: str) -> None:
    model = harness.wire(mechanism, SPEC)
    with pytest.raises((AssertionError, InputError)):
        getattr(harness, check)(model)
    getattr(harness, check)(harness.wire(Gaussian(0.1), SPEC))


def test_a_boasting_channel_is_noticed() -> None:
    with pytest.raises(AssertionError):
        harness.check_channel(harness.wire(Boasting(0.1), SPEC), stage_variance=0.0)


@pytest.mark.parametrize("mechanism", [Scaling(0.1), Doubling()], ids=lambda item: type(item).__name__)
def test_a_bound_that_does_not_hold_is_noticed(mechanism: Mechanism) -> None:
    with pytest.raises(AssertionError):
        harness.check_bounds_behind_clips(mechanism, SPEC)


@pytest.mark.parametrize("mechanism", [OnCpu(), Single()], ids=lambda item: type(item).__name__)
def test_another_dtype_or_device_is_noticed(mechanism: Identity) -> None:
    with pytest.raises((AssertionError, RuntimeError)):
        harness.check_dtype_and_device(mechanism, SPEC)


def test_noise_without_end_in_half_precision_is_noticed() -> None:
    with pytest.raises(AssertionError):
        harness.check_half_precision(Rounding(0.1), SPEC)


def test_a_batch_that_is_mixed_is_noticed_in_the_model_too() -> None:
    model = find("topk").build()
    model.head.register_forward_hook(lambda module, inputs, z: z - z.mean(dim=0))
    with pytest.raises(AssertionError):
        harness.check_row_independence(model)


def test_lost_weights_are_noticed(tmp_path: Path) -> None:
    case = find("vib")
    other = case.built(seed=1)
    other.load_state_dict = lambda tensors: None  # type: ignore[assignment,method-assign]
    with pytest.raises(AssertionError):
        harness.check_reload(case.build(), case.built(), other, tmp_path)


def test_an_export_of_another_model_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="another result"):
        harness.check_export_edge(harness.wire(Stepwise(), SPEC), tmp_path)


class Stepwise(Identity):
    """Branches on the size of the batch, which a trace cannot hold."""

    def forward(self, z: Tensor, noises: tuple[Tensor, ...]) -> Tensor:
        return 2.0 * z if z.shape[0] % 2 == 0 else z
