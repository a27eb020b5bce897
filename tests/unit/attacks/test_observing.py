"""What an attacker sees of a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from attack_fixtures import KEY, model, subject
from bundle_fixtures import make_bundle
from splitveil.attacks.bundle import BundleSubject
from splitveil.attacks.observing import near_duplicate, observe
from splitveil.attacks.subjects import ModelSubject
from splitveil.codecs import QuantisedCodec
from splitveil.contracts import Mechanism, NoiseSource
from splitveil.defenses.mechanisms.dropout import Dropout
from splitveil.defenses.mechanisms.gaussian import Gaussian
from splitveil.errors import SpecError, UnknownNameError
from splitveil.noise import SeededNoise
from splitveil.rng import Rng
from splitveil.threats import ThreatModel


def seen(observations: int, duplicates: str = "exact", *, noise_std: float = 0.5) -> Tensor:
    attacked = subject(Gaussian(noise_std))
    x = torch.full((64, *attacked.input_shape), 0.5)
    threat = ThreatModel(frozenset({"query"}), observations=observations, duplicates=duplicates)  # type: ignore[arg-type]
    return observe(attacked, x, threat, source=SeededNoise, rng=KEY)


def spread(r: Tensor) -> float:
    return float((r - r.mean(0)).square().mean())


def test_one_observation_is_one_release() -> None:
    attacked = subject(Gaussian(0.5))
    x = torch.full((64, *attacked.input_shape), 0.5)
    assert torch.equal(seen(1), attacked.release(x, SeededNoise(KEY)))


class OneByOne(ModelSubject):
    """The same subject, asked for each release by itself."""

    def release_each(self, x: Tensor, noises: Sequence[NoiseSource]) -> list[Tensor]:
        return [self.release(x, noise) for noise in noises]


@pytest.mark.parametrize("mechanism", [Gaussian(0.5), Dropout(0.3)])
def test_releases_whose_features_are_computed_once_are_those_of_one_by_one(mechanism: Mechanism) -> None:
    attacked = subject(mechanism)
    x = torch.rand((5, *attacked.input_shape), generator=KEY.generator())
    threat = ThreatModel(frozenset({"query"}), observations=4)
    together, apart = (
        observe(each, x, threat, source=SeededNoise, rng=KEY) for each in (attacked, OneByOne(attacked.model))
    )
    torch.testing.assert_close(together, apart)
    assert not torch.allclose(together, attacked.release(x, SeededNoise(KEY)))


def test_the_mean_of_sixteen_releases_has_a_sixteenth_of_the_noise() -> None:
    assert spread(seen(16)) == pytest.approx(spread(seen(1)) / 16, rel=0.1)


def test_near_duplicates_average_as_well_where_pictures_are_flat() -> None:
    assert spread(seen(16, "near")) == pytest.approx(spread(seen(16)), rel=0.2)


def test_a_near_duplicate_is_near_and_does_not_depend_on_the_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(6, 3, 8, 8, generator=generator)
    changed = near_duplicate(x, KEY, start=10)
    assert torch.equal(near_duplicate(x[2:4], KEY, start=12), changed[2:4])
    assert bool((changed >= 0).all())
    assert bool((changed <= 1).all())
    moved = [torch.roll(x, (down, right), (-2, -1)) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    inner = torch.stack([(changed - item)[:, :, 1:-1, 1:-1].abs().amax((1, 2, 3)) for item in moved])
    assert bool((inner.min(0).values <= 1 / 255 + 1e-6).all())
    assert not torch.equal(near_duplicate(x, Rng(1)), near_duplicate(x, Rng(2)))


def test_threats_say_what_is_seen_and_old_records_stay_as_they_were() -> None:
    plain = ThreatModel.preset("black_box")
    assert {"duplicates", "shift"}.isdisjoint(plain.to_json())
    near = ThreatModel(
        frozenset({"query"}), observations=4, duplicates="near", auxiliary="shifted", shift="corruptions"
    )
    assert ThreatModel.from_json(near.to_json()) == near
    with pytest.raises(UnknownNameError, match="duplicates"):
        ThreatModel(frozenset(), duplicates="close")  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="'shifted' only, got 'same'"):
        ThreatModel(frozenset(), shift="corruptions")


def test_a_quantised_zero_is_no_value_that_a_mask_let_pass() -> None:
    """Eight masks together hide a value in 256, so what is left of the error is that of rounding."""
    plain = model(Dropout(0.5))
    attacked = ModelSubject(plain.with_mechanism(plain.mechanism, QuantisedCodec(4, -1.0, 1.0)))
    x = torch.rand((64, *attacked.input_shape), generator=KEY.generator())
    threat = ThreatModel(frozenset({"query"}), observations=8)
    r = observe(attacked, x, threat, source=SeededNoise, rng=KEY)
    with torch.no_grad():
        error = (r - plain.head(x)).square()
    assert float(error.median()) < (2 / 15) ** 2 / 4
    assert float(error.mean()) < 2 * (2 / 15) ** 2 / 12 + float(plain.head(x).detach().square().mean()) / 2**8


def test_a_bundle_knows_what_a_zero_arrives_as(tmp_path: Path) -> None:
    """Two bits from -0.5 to 1.5: no value passed where all releases hold the level next to zero."""
    attacked = BundleSubject(make_bundle(tmp_path / "bundle", bits=2), combine="kept_mean")
    r = attacked.release(torch.rand((4, *attacked.input_shape), generator=KEY.generator()), SeededNoise(KEY))
    levels = torch.tensor([-0.5, 1 / 6, 5 / 6, 1.5])
    assert bool(((r[..., None] - levels).abs().amin(-1) < 1e-5).all())
    torch.testing.assert_close(attacked.zero, torch.full(attacked.release_spec.shape, 1 / 6))
    hidden = attacked.zero.expand(r.shape)
    torch.testing.assert_close(attacked.combine(torch.stack([r, hidden, hidden], 1)), r)


def test_a_bundle_without_a_quantiser_sends_zero_as_it_is(tmp_path: Path) -> None:
    assert not BundleSubject(make_bundle(tmp_path / "bundle")).zero.any()
