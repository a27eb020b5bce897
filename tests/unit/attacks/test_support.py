"""Positions alone: they tell where a mechanism is sparse, and nothing where it is not."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from attack_fixtures import KEY, Affine, auxiliary, invertible_head, model, mse, smooth, subject, table, view_of
from splitveil.attacks.controls import MeanImage
from splitveil.attacks.inverters import DecoderInverter
from splitveil.attacks.storage import load_inverter, save_inverter
from splitveil.attacks.subjects import ModelSubject
from splitveil.attacks.support import Support
from splitveil.codecs import QuantisedCodec
from splitveil.defenses.mechanisms.topk import TopK
from splitveil.noise import SeededNoise

STRONG = Support(channels=8, blocks=1, epochs=12, batch_size=32, lr=5e-3)


class Threshold(nn.Module):
    """Lets a value through where it is above one half, and hides how far."""

    def forward(self, z: Tensor) -> Tensor:
        return (z > 0.5).to(z) * (0.75 + 0 * z)


class Shuffled(nn.Module):
    """The same positions, with values that say nothing."""

    def forward(self, z: Tensor) -> Tensor:
        noise = torch.rand(z.shape, generator=torch.Generator().manual_seed(0)) + 0.5
        return (z > 0.5).to(z) * noise


def around_grey(*after: nn.Module) -> nn.Sequential:
    """A head whose features change sign where a picture passes from dark to bright."""
    return nn.Sequential(Affine(1.0, -0.5), invertible_head(*after))


def error(head: nn.Module) -> tuple[float, float]:
    """Of the attack, and of the mean picture."""
    attacked = subject(head=head)
    view = view_of(attacked, pictures=auxiliary(256))
    return mse(STRONG.fit(view, KEY), attacked), mse(MeanImage().fit(view, KEY), attacked)


def test_positions_of_a_sparse_release_tell_much() -> None:
    found, blind = error(around_grey(Threshold()))
    assert found < 0.6 * blind


def test_values_are_not_read() -> None:
    plain, _ = error(around_grey(Threshold()))
    hidden, _ = error(around_grey(Shuffled()))
    assert hidden == plain


def test_a_release_without_zeros_says_nothing() -> None:
    found, blind = error(around_grey())
    assert found > 0.9 * blind


def test_levels_that_miss_zero_hide_no_position(tmp_path: Path) -> None:
    """Between -1 and 1, four bits have no zero: it arrives as a fifteenth, and so does what top-k has left out."""
    plain = model(TopK(0.25), around_grey())
    attacked = ModelSubject(plain.with_mechanism(plain.mechanism, QuantisedCodec(4, -1.0, 1.0)))
    pictures = auxiliary(256)
    exact, levels = (
        STRONG.fit(view_of(each, pictures=pictures), KEY).facts["best_val_mse"]
        for each in (ModelSubject(plain), attacked)
    )
    assert levels < 1.05 * exact
    inverter = STRONG.fit(view_of(attacked, pictures=pictures), KEY)
    assert isinstance(inverter, DecoderInverter)
    r = attacked.release(table(smooth(8)).get(torch.arange(8))[0], SeededNoise(KEY))
    assert bool((r != 0).all())
    assert 0.6 < float(1 - inverter.read(r).mean()) < 0.9
    save_inverter(tmp_path / "support.safetensors", inverter, {})
    torch.testing.assert_close(load_inverter(tmp_path / "support.safetensors").invert(r), inverter.invert(r))
