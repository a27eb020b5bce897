"""Auxiliary pictures of another kind."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from splitveil.data.shift import corrupt, hold_out_classes, resize_like
from splitveil.data.splits import picture_digests
from splitveil.data.tables import ImageTable, join_tables
from splitveil.errors import InputError
from splitveil.experiments.auxiliary import auxiliary_pictures
from splitveil.experiments.training import load_data_spec
from splitveil.rng import Rng
from splitveil.specs import DataSpec
from splitveil.threats import ThreatModel


def table(n: int = 40, channels: int = 3, side: int = 8, classes: int = 5) -> ImageTable:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, channels, side, side), generator=generator, dtype=torch.uint8)
    return ImageTable(images, torch.arange(n) % classes)


def test_corruptions_change_nearly_every_picture_and_leave_the_table_alone() -> None:
    pictures = table()
    before = pictures.images.clone()
    changed = corrupt(pictures, Rng(0))
    assert torch.equal(pictures.images, before)
    assert torch.equal(changed.labels, pictures.labels)
    assert int((changed.images != before).flatten(1).any(1).sum()) >= 36
    assert torch.equal(corrupt(pictures, Rng(0)).images, changed.images)
    assert not torch.equal(corrupt(pictures, Rng(1)).images, changed.images)
    correlation = torch.corrcoef(torch.stack([changed.images.float().flatten(), before.float().flatten()]))[0, 1]
    assert correlation > 0.5  # still pictures of the same things


def test_half_of_the_classes_is_held_out() -> None:
    kept = hold_out_classes(table(), Rng(0))
    assert len(torch.unique(kept.labels)) == 3
    assert len(kept) == 24
    with pytest.raises(InputError, match="two classes or more"):
        hold_out_classes(table(classes=1), Rng(0))


@pytest.mark.parametrize(("held", "wanted"), [(3, 1), (1, 3), (3, 3)])
def test_pictures_of_another_set_get_this_one_s_shape(held: int, wanted: int) -> None:
    grey = ImageTable(torch.full((2, held, 6, 9), 100, dtype=torch.uint8), torch.arange(2))
    made = resize_like(grey, (wanted, 8, 8))
    assert made.images.shape == (2, wanted, 8, 8)
    assert bool((made.images == 100).all())  # a flat picture stays as it is, and grey weights add up to one


def test_channels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="3 channels, got 2"):
        resize_like(table(channels=2), (3, 8, 8))


def test_test_pictures_in_another_data_set_are_no_attackers() -> None:
    """Digits have one table: as the other data set, it holds all that is scored."""
    splits = load_data_spec(DataSpec(source="digits")).splits
    threat = ThreatModel(frozenset({"query"}), auxiliary="shifted", shift="digits")
    held = auxiliary_pictures(splits, "cpu", Rng(0))(threat)
    assert held is not None
    assert not np.isin(picture_digests(ImageTable(held.images, held.labels)), picture_digests(splits.test)).any()
    assert len(held) == 1797 - len(splits.test)
    whole = replace(splits, test=join_tables((splits.train, splits.val, splits.aux, splits.test)))
    with pytest.raises(InputError, match="beside those that attacks are scored on, got none"):
        auxiliary_pictures(whole, "cpu", Rng(0))(threat)
