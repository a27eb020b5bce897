"""What holds for all splits and all augmentations."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from splitveil.data.augment import augment
from splitveil.data.splits import Splits, make_splits
from splitveil.data.tables import ImageTable, Source, make_source
from splitveil.errors import InputError
from splitveil.rng import Rng

NAMES = ("train", "val", "test", "aux")


@st.composite
def sources(draw: st.DrawFn, copies: int = 0) -> Source:
    """Sources of 2 to 4 classes whose pictures spell a number; with `copies`, numbers repeat."""
    counts = draw(st.lists(st.integers(8, 60), min_size=2, max_size=4))
    labels = np.repeat(np.arange(len(counts)), counts)
    random = np.random.default_rng(draw(st.integers(0, 2**16)))
    random.shuffle(labels)
    numbers = np.arange(len(labels), dtype="<u4")
    if copies:
        numbers = random.integers(0, max(1, len(labels) // copies), len(labels)).astype("<u4")
    return make_source("any", ImageTable(_spelled(numbers), torch.from_numpy(labels)))


def _spelled(numbers: np.ndarray) -> torch.Tensor:
    # the number in the last bytes, so that pictures share their first bytes and end in zeros
    return torch.from_numpy(numbers.astype("<u4").view(np.uint8).reshape(-1, 1, 2, 2).copy())


def _numbers(table: ImageTable) -> list[int]:
    return table.images.numpy().reshape(len(table), 4).copy().view("<u4")[:, 0].tolist()


SHARES = st.tuples(*[st.sampled_from([0.05, 0.1, 0.2, 0.25, 0.3])] * 3).map(
    lambda shares: dict(zip(("val_share", "aux_share", "test_share"), shares, strict=True))
)


def _split(source: Source, shares: dict[str, float], seed: int) -> Splits:
    return make_splits(source, **shares, rng=Rng(seed))


@settings(deadline=None, max_examples=60)
@given(sources(), SHARES, st.integers(0, 99))
def test_splits_are_disjoint_exhaustive_and_stratified(source: Source, shares: dict[str, float], seed: int) -> None:
    splits = _split(source, shares, seed)
    numbers = [number for name in NAMES for number in _numbers(getattr(splits, name))]
    assert sorted(numbers) == list(range(len(source.train)))
    share = {name: shares.get(f"{name}_share", 1 - sum(shares.values())) for name in NAMES}
    for label in range(source.classes):
        total = int((source.train.labels == label).sum())
        counts = {name: int((getattr(splits, name).labels == label).sum()) for name in NAMES}
        assert min(counts.values()) >= 1
        if all(total * value >= 1 for value in share.values()):
            assert all(abs(counts[name] - total * share[name]) < 1 + 1e-6 for name in NAMES)


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 4).flatmap(lambda copies: sources(copies=copies)), SHARES, st.integers(0, 99))
def test_copies_never_straddle_splits(source: Source, shares: dict[str, float], seed: int) -> None:
    try:
        splits = _split(source, shares, seed)
    except InputError:
        assume(False)
    sets = [set(_numbers(getattr(splits, name))) for name in NAMES]
    assert sum(map(len, sets)) == len(set.union(*sets))
    assert sum(splits.sizes.values()) == len(source.train)
    assert all(len(getattr(splits, name).labels.unique()) == source.classes for name in NAMES)


@settings(deadline=None, max_examples=40)
@given(sources(), SHARES, st.sets(st.integers(0, 500), min_size=2, max_size=12), st.integers(0, 99))
def test_nothing_of_a_test_table_is_learned_from(
    source: Source, shares: dict[str, float], shared: set[int], seed: int
) -> None:
    numbers = np.array(sorted(shared) + [1000 + label for label in range(source.classes)])
    labels = torch.arange(len(numbers)) % source.classes
    assume(len(labels.unique()) == source.classes)
    both = make_source("any", source.train, ImageTable(_spelled(numbers), labels))
    try:
        splits = _split(both, shares, seed)
    except InputError:
        assume(False)
    learned = {number for name in ("train", "val", "aux") for number in _numbers(getattr(splits, name))}
    assert learned == set(range(len(source.train))) - shared
    assert splits.duplicates == len(shared & set(range(len(source.train))))


@settings(deadline=None, max_examples=30)
@given(sources(), SHARES, st.integers(0, 99), st.data())
def test_the_digest_changes_with_one_pixel(
    source: Source, shares: dict[str, float], seed: int, data: st.DataObject
) -> None:
    row = data.draw(st.integers(0, len(source.train) - 1))
    column = data.draw(st.integers(0, 1))
    changed = source.train.images.clone()
    changed[row, 0, 1, column] ^= data.draw(st.integers(1, 255))
    other = make_source("any", ImageTable(changed, source.train.labels))
    assert _split(source, shares, seed).digest == _split(source, shares, seed).digest
    assert _split(source, shares, seed).digest != _split(other, shares, seed).digest


@settings(deadline=None, max_examples=30)
@given(sources(), SHARES, st.integers(16, 200), st.integers(0, 99))
def test_a_limit_is_kept_class_by_class(source: Source, shares: dict[str, float], limit: int, seed: int) -> None:
    total = len(source.train)
    try:
        splits = make_splits(source, **shares, limit=limit, rng=Rng(seed))
    except InputError:
        assume(False)
    kept = torch.cat([getattr(splits, name).labels for name in NAMES]).bincount(minlength=source.classes)
    assert int(kept.sum()) == min(limit, total)
    wanted = source.train.labels.bincount() * min(1.0, limit / total)
    assert float((kept - wanted).abs().max()) < 1 + 1e-6


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 12), st.integers(1, 12)),
    st.integers(0, 4),
    st.booleans(),
    st.floats(0, 180),
    st.integers(0, 2**32),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_augmentation_keeps_shape_type_and_range(
    shape: tuple[int, int, int, int], crop: int, flip: bool, rotation: float, seed: int, dtype: torch.dtype
) -> None:
    pictures = torch.rand(shape, generator=Rng(seed).generator(), dtype=dtype)

    def run() -> torch.Tensor:
        return augment(pictures, crop=crop, flip=flip, rotation=rotation, generator=torch.Generator().manual_seed(seed))

    changed = run()
    assert changed.shape == pictures.shape
    assert changed.dtype == dtype
    assert bool(torch.isfinite(changed).all())
    assert float(changed.min()) >= 0.0
    assert float(changed.max()) <= 1.0
    assert torch.equal(changed, run())
    if not (crop or flip or rotation):
        assert changed is pictures
