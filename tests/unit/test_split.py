"""The one door: parts, shapes, modes, and what a release may carry."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from splitveil.contracts import FeatureSpec
from splitveil.defenses.mechanisms.clip import Clip
from splitveil.defenses.mechanisms.gaussian import Gaussian
from splitveil.defenses.mechanisms.identity import Identity
from splitveil.errors import ContractError, InputError
from splitveil.modes import evaluating
from splitveil.nets.parts import SplitParts
from splitveil.noise import SeededNoise
from splitveil.rng import Rng
from splitveil.split_model import SplitModel

NOISE = SeededNoise(Rng(0))


def make_parts(finish: nn.Module | None = None) -> SplitParts:
    with Rng(0).scoped():
        head = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5))
        tail = nn.Sequential(nn.Flatten(), nn.Linear(72, 10))
    return SplitParts(head, tail, (1, 8, 8), finish if finish is not None else nn.Identity())


@pytest.fixture
def model() -> SplitModel:
    return SplitModel(make_parts(), Gaussian(noise_std=0.1))


def pictures(n: int = 4) -> Tensor:
    return torch.rand(n, 1, 8, 8, generator=Rng(1).generator())


# ------------------------------------------------------------------------------------------------ construction


def test_the_feature_spec_is_found_by_a_pass_that_leaves_no_trace() -> None:
    parts = make_parts()
    before = copy.deepcopy(parts.head.state_dict())
    state = torch.get_rng_state()
    model = SplitModel(parts, Identity())
    assert model.feature_spec == FeatureSpec.of((2, 6, 6))
    assert all(torch.equal(value, before[name]) for name, value in parts.head.state_dict().items())
    assert all(child.training for child in parts.head.modules())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_given_feature_spec_is_kept() -> None:
    spec = FeatureSpec.of((2, 6, 6), range=(-1.0, 1.0))
    parts = make_parts()
    model = SplitModel(SplitParts(parts.head, parts.tail, (1, 8, 8), feature=spec), Clip(0.0, 0.5))
    assert model.feature_spec is spec
    assert model.release_spec == FeatureSpec.of((2, 6, 6), range=(0.0, 0.5))


def test_another_mechanism_shares_the_parts(model: SplitModel) -> None:
    other = model.with_mechanism(Identity())
    assert other.head is model.head
    assert other.tail is model.tail
    assert other.codec is model.codec
    assert other.noise_specs == ()
    assert isinstance(model.mechanism, Gaussian)


# ------------------------------------------------------------------------------------------------ the pass


def test_a_pass_is_head_mechanism_tail_finish() -> None:
    model = SplitModel(make_parts(finish=nn.Linear(10, 3)), Gaussian(noise_std=0.1)).eval()
    x = pictures()
    (noise,) = model.draw(NOISE, 4, x.device)
    trace = model(x, (noise,))
    z = model.head(x)
    r = z + 0.1 * noise
    torch.testing.assert_close(trace.z, z)
    torch.testing.assert_close(trace.r, r)
    torch.testing.assert_close(trace.reply, model.tail(r))
    torch.testing.assert_close(trace.output, model.finish(model.tail(r)))
    assert trace.output.shape == (4, 3)
    assert trace.channel is not None
    assert trace.channel.mean.requires_grad


def test_simulate_and_release_are_the_same_door(model: SplitModel) -> None:
    x = pictures()
    with evaluating(model):
        simulated = model.simulate(x, model.draw(NOISE, 4, x.device))
        trace = model(x, model.draw(NOISE, 4, x.device))
    assert torch.equal(model.release(x, noise=NOISE), simulated)
    assert torch.equal(trace.r, simulated)
    assert simulated.requires_grad


def test_simulate_runs_in_the_current_mode(model: SplitModel) -> None:
    x, noises = pictures(), model.draw(NOISE, 4, torch.device("cpu"))
    with Rng(0).scoped(), torch.no_grad():
        training = copy.deepcopy(model).train().simulate(x, noises)
    with torch.no_grad():
        assert not torch.allclose(training, copy.deepcopy(model).eval().simulate(x, noises))


def test_the_codec_is_part_of_the_door(model: SplitModel) -> None:
    class Halving:
        def roundtrip(self, r: Tensor) -> Tensor:
            return r / 2

    halved = copy.deepcopy(model)
    halved.codec = Halving()  # type: ignore[assignment]
    x = pictures()
    torch.testing.assert_close(halved.release(x, noise=NOISE), model.release(x, noise=NOISE) / 2)
    with evaluating(halved):
        torch.testing.assert_close(
            halved.simulate(x, halved.draw(NOISE, 4, x.device)).detach(), model.release(x, noise=NOISE) / 2
        )


def test_predict_is_reply_then_finish() -> None:
    model = SplitModel(make_parts(finish=nn.Linear(10, 3)), Identity())
    r = model.release(pictures(), noise=NOISE)
    output = model.predict(r)
    with evaluating(model), torch.no_grad():
        torch.testing.assert_close(output, model.finish(model.tail(r)))
    assert not output.requires_grad
    assert model.training


# ------------------------------------------------------------------------------------------------ modes


def test_evaluating_restores_each_mode(model: SplitModel) -> None:
    model.train()
    model.tail.eval()
    modes = [child.training for child in model.modules()]
    with evaluating(model):
        assert not any(child.training for child in model.modules())
    assert [child.training for child in model.modules()] == modes


def test_evaluating_restores_after_an_error(model: SplitModel) -> None:
    model.train()
    with pytest.raises(RuntimeError, match="inside"), evaluating(model):
        raise RuntimeError("inside")
    assert all(child.training for child in model.modules())


def test_release_restores_the_modes_after_an_error(model: SplitModel) -> None:
    model.train()
    model.head[2].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.release(pictures(), noise=NOISE)
    assert all(child.training for child in model.modules())


def test_release_draws_one_row_per_picture(model: SplitModel) -> None:
    whole = model.release(pictures(6), noise=NOISE)
    part = model.release(pictures(6)[4:], noise=SeededNoise(Rng(0), start=4))
    torch.testing.assert_close(part, whole[4:])
    same = model.release(pictures(1).expand(6, -1, -1, -1), noise=NOISE)
    assert len(torch.unique(same.flatten(1), dim=0)) == 6


def test_release_of_no_pictures(model: SplitModel) -> None:
    assert model.release(pictures(0), noise=NOISE).shape == (0, 2, 6, 6)


# ------------------------------------------------------------------------------------------------ faults


@pytest.mark.parametrize("shape", [(4, 1, 8, 9), (4, 3, 8, 8), (8, 8), (1, 1, 1, 8, 8)])
def test_another_picture_is_refused(model: SplitModel, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"expected x of shape \(n, 1, 8, 8\), got"):
        model.release(torch.zeros(shape), noise=NOISE)


def test_a_missing_batch_axis_is_explained(model: SplitModel) -> None:
    with pytest.raises(InputError, match=r"the batch axis is missing, pass x\[None\]"):
        model.release(torch.zeros(1, 8, 8), noise=NOISE)
    with pytest.raises(InputError, match=r"the batch axis is missing, pass r\[None\]"):
        model.predict(torch.zeros(2, 6, 6))


def test_another_release_is_refused(model: SplitModel) -> None:
    with pytest.raises(InputError, match=r"expected r of shape \(n, 2, 6, 6\)"):
        model.predict(torch.zeros(4, 2, 6, 5))


@pytest.mark.parametrize("count", [0, 2])
def test_the_number_of_noises_is_checked(model: SplitModel, count: int) -> None:
    with pytest.raises(ContractError, match=rf"expected 1 noises \(gaussian\), got {count}"):
        model(pictures(), tuple(torch.zeros(4, 2, 6, 6) for _ in range(count)))


@pytest.mark.parametrize("shape", [(1, 2, 6, 6), (2, 6, 6), (4, 1, 1, 1), (3, 2, 6, 6)])
def test_noise_that_would_be_shared_between_values_is_refused(model: SplitModel, shape: tuple[int, ...]) -> None:
    """A noise tensor that broadcasts gives rows or values the same noise, which a difference cancels."""
    with pytest.raises(InputError, match="expected noise"):
        model.simulate(pictures(), (torch.zeros(shape),))


def test_a_broken_head_is_an_input_error_of_the_part() -> None:
    with pytest.raises(ContractError, match="expected a feature of 1, 2 or 3 axes"):
        SplitModel(SplitParts(nn.Unflatten(1, (1, 1)), nn.Identity(), (1, 8, 8)), Identity())


def test_bytes_are_refused_as_pictures(model: SplitModel) -> None:
    with pytest.raises(InputError, match=r"expected x as floating point in \[0, 1\], got torch.uint8"):
        model.release((255 * pictures()).to(torch.uint8), noise=NOISE)
