"""The independent classifier: it recognises originals, not noise, and knows nothing but its own pictures."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from splitveil.data.loader import Pictures
from splitveil.data.tables import ImageTable
from splitveil.errors import InputError, SpecError, TrainingError
from splitveil.metrics.classifier import ClassifierTraining, fit_classifier
from splitveil.rng import Rng

SMALL = ClassifierTraining(width=4, epochs=10, batch_size=32, lr=1e-2)


def bars(n: int, key: int) -> Pictures:
    """One bright quarter of the picture per class, on noise."""
    x = torch.randint(0, 120, (n, 1, 8, 8), generator=Rng(key).generator())
    label = torch.arange(n) % 4
    for row in range(n):
        top, left = divmod(int(label[row]), 2)
        x[row, 0, 4 * top : 4 * top + 4, 4 * left : 4 * left + 4] += 100
    return Pictures(ImageTable(x.to(torch.uint8), label))


def test_it_recognises_what_is_left_of_a_picture() -> None:
    judge = fit_classifier(bars(96, 0), rng=Rng(0), training=SMALL)
    x, y = bars(80, 1).get(torch.arange(80))
    correct = judge.correct(x, y)
    assert correct.shape == (80,)
    assert float(correct.mean()) > 0.95  # the ceiling
    assert float(judge.correct(0.5 * x + 0.25, y).mean()) > 0.9
    assert float(judge.correct(x.mean(0).expand_as(x), y).mean()) == 0.25  # one picture for all
    assert judge.facts["val_accuracy"] > 0.9
    assert torch.equal(judge.correct(x[:3], y[:3]), correct[:3])
    assert not judge.training


def test_it_repeats_under_its_key_and_leaves_the_generator() -> None:
    state = torch.get_rng_state()
    first, second, other = (fit_classifier(bars(32, 0), rng=Rng(key), training=SMALL) for key in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
    assert not torch.equal(first.net.last.weight, other.net.last.weight)


def test_more_classes_than_were_seen() -> None:
    judge = fit_classifier(bars(32, 0), rng=Rng(0), classes=6, training=SMALL)
    assert judge(torch.zeros(2, 1, 8, 8)).shape == (2, 6)


def test_what_does_not_fit_is_refused() -> None:
    table = bars(32, 0)
    with pytest.raises(InputError, match="expected at least 8 pictures"):
        fit_classifier(table.take(torch.arange(7)), rng=Rng(0))
    for classes in (1, 3):
        with pytest.raises(InputError, match="expected labels from 0 to k - 1"):
            fit_classifier(table, rng=Rng(0), classes=classes)
    with pytest.raises(TrainingError, match="the classifier diverged in epoch"):
        fit_classifier(table, rng=Rng(0), training=ClassifierTraining(width=4, epochs=3, lr=1e30))
    judge = fit_classifier(table, rng=Rng(0), training=ClassifierTraining(width=4, epochs=1))
    with pytest.raises(InputError, match=r"expected x of shape \(n, 1, 8, 8\)"):
        judge.correct(torch.zeros(2, 3, 8, 8), torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize(
    "values", [{"width": 0}, {"epochs": 0}, {"batch_size": 3}, {"lr": 0.0}, {"val_share": 1.0}], ids=str
)
def test_values_out_of_range_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="expected"):
        ClassifierTraining(**values)
