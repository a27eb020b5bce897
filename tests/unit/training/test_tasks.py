"""Losses and scores of every task against something independent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax
from sklearn.metrics import jaccard_score
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn
from torch.nn import functional

from splitveil.data.augment import augment, augment_masks
from splitveil.data.datasets import from_dataset
from splitveil.data.tables import Source
from splitveil.errors import SpecError, UnknownNameError
from splitveil.registry import TASKS
from splitveil.rng import Rng
from splitveil.specs import PlugInSpec
from splitveil.training.distillation import Distillation
from splitveil.training.distilled_labels import DistilledClassification
from splitveil.training.regression import Regression
from splitveil.training.segmentation import Segmentation
from splitveil.training.tasks import Classification, make_task, with_facts
from task_fixtures import squares

GENERATOR = Rng(0).generator()


def source_of(kind: str) -> Source:
    pictures, labels, places, masks = squares(80)
    targets = {"labels": labels, "targets": places, "masks": masks, "nothing": [None] * 80}[kind]
    return from_dataset(list(zip(pictures, targets, strict=True)), name="squares")


# ------------------------------------------------------------------------------------------- classification


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    labels = np.repeat([0, 1, 2], [40, 30, 10])
    source = from_dataset([(np.zeros((4, 4), np.uint8), int(label)) for label in labels], name="uneven")
    spec, outputs = with_facts(
        PlugInSpec(name="classification", params={"class_weights": "balanced"}), source, source.train
    )
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert outputs == 3
    assert spec.params["class_weights"] == pytest.approx(expected, abs=1e-6)
    task, logits, target = make_task(spec), torch.randn(5, 3, generator=GENERATOR), torch.tensor([0, 1, 2, 2, 0])
    plain = Classification().loss(logits, target)
    torch.testing.assert_close(task.loss(logits, target), plain * torch.tensor(expected, dtype=torch.float32)[target])
    assert torch.equal(task.score(logits, target), Classification().score(logits, target))


@pytest.mark.parametrize("weights", ["balanced", "even", [1.0, -1.0], [[1.0]], [float("nan")]])
def test_weights_that_are_none_are_refused(weights: Any) -> None:
    with pytest.raises(SpecError, match="class"):
        Classification(weights)


def test_too_few_weights_are_refused() -> None:
    with pytest.raises(SpecError, match="expected 3 class_weights"):
        Classification([1.0, 2.0]).check_output((2, 3), 3)


# ------------------------------------------------------------------------------------------------ regression


@pytest.mark.parametrize("loss", ["squared", "absolute"])
def test_regression_counts_errors_in_units_of_the_range(loss: Any) -> None:
    task = Regression([0.0, -1.0], [2.0, 3.0], loss=loss)
    output, target = torch.randn(6, 2, generator=GENERATOR) * 4, torch.rand(6, 2, generator=GENERATOR)
    error = np.abs(output.double().numpy() - target.double().numpy()) / [2.0, 4.0]
    expected = (error**2 if loss == "squared" else error).mean(1)
    np.testing.assert_allclose(task.loss(output, target), expected, rtol=1e-5)
    np.testing.assert_allclose(task.score(output, target), 1 - np.minimum(error, 1).mean(1), rtol=1e-4, atol=1e-6)


def test_groups_of_values_are_those_of_the_splits() -> None:
    source = source_of("targets")
    spec, outputs = with_facts(PlugInSpec(name="regression"), source, source.train)
    task, targets = make_task(spec), source.train.targets
    assert isinstance(targets, torch.Tensor)
    assert outputs == 1
    assert task.count_groups(source.classes) == source.classes > 1
    assert torch.equal(task.groups(targets), source.train.labels)
    assert min(torch.bincount(source.train.labels).tolist()) >= 8


@pytest.mark.parametrize(
    "params",
    [
        {"low": [0.0], "high": [0.0]},
        {"low": [0.0], "high": [1.0, 2.0]},
        {"low": [], "high": []},
        {"low": [0.0], "high": [1.0], "edges": [0.5, 0.5]},
        {"low": [0.0], "high": [1.0], "loss": "cubic"},
        {"low": [0.0], "high": [1.0], "los": "squared"},
    ],
)
def test_regression_without_a_range_is_refused(params: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        make_task(PlugInSpec(name="regression", params=params))


# ---------------------------------------------------------------------------------------------- segmentation


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(2, 4))
def test_overlap_is_that_of_scikit_learn(seed: int, classes: int) -> None:
    key = Rng(seed).generator()
    output = torch.randn(3, classes, 4, 5, generator=key)
    target = torch.randint(0, classes, (3, 4, 5), generator=key, dtype=torch.uint8)
    target[torch.rand(3, 4, 5, generator=key) < 0.2] = 255
    scores, losses = Segmentation(classes).score(output, target), Segmentation(classes).loss(output, target)
    for index in range(3):
        known = target[index] != 255
        true, found = target[index][known].numpy(), output[index].argmax(0)[known].numpy()
        seen = sorted({*true.tolist(), *found.tolist()})
        expected = jaccard_score(true, found, labels=seen, average="macro") if len(true) else 1.0
        assert float(scores[index]) == pytest.approx(expected, abs=1e-6)
        chosen = functional.cross_entropy(output[index].permute(1, 2, 0)[known].double(), target[index][known].long())
        if len(true):
            assert float(losses[index]) == pytest.approx(float(chosen), rel=1e-5)


def test_a_picture_without_a_known_pixel_counts_for_nothing() -> None:
    output = torch.randn(1, 2, 3, 3, generator=GENERATOR, requires_grad=True)
    target = torch.full((1, 3, 3), 255, dtype=torch.uint8)
    loss = Segmentation(2).loss(output, target)
    loss.sum().backward()
    assert output.grad is not None
    assert (loss.tolist(), float(output.grad.abs().sum())) == ([0.0], 0.0)
    assert Segmentation(2).score(output.detach(), target).tolist() == [1.0]


def test_classes_of_pixels_are_counted_without_the_unknown() -> None:
    source = source_of("masks")
    spec, outputs = with_facts(PlugInSpec(name="segmentation"), source, source.train)
    assert (outputs, spec.params) == (2, {"classes": 2})


@pytest.mark.parametrize("amounts", [(2, True, 0.0), (0, True, 0.0), (3, False, 0.0), (1, True, 20.0)])
def test_masks_move_with_their_pictures(amounts: tuple[int, bool, float]) -> None:
    crop, flip, rotation = amounts
    masks = torch.randint(0, 3, (40, 9, 11), generator=GENERATOR, dtype=torch.uint8)
    key = Rng(4)
    moved = augment_masks(masks, crop=crop, flip=flip, rotation=rotation, generator=key.generator())
    as_picture = augment(
        (masks.float() + 1)[:, None] / 255, crop=crop, flip=flip, rotation=rotation, generator=key.generator()
    )
    back = (as_picture[:, 0] * 255).round() - 1
    expected = torch.where(back < 0, 255, back).to(torch.uint8)
    if rotation:  # pictures are interpolated there: only most pixels are of one class
        assert float((moved == expected).double().mean()) > 0.5
    else:
        assert torch.equal(moved, expected)
        assert bool((moved == 255).any()) == (crop > 0)
    assert not torch.equal(moved, masks)


# ---------------------------------------------------------------------------------------------- distillation


def test_distillation_is_the_divergence_of_soft_answers() -> None:
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    task = Distillation(3, temperature=3.0).attach(teacher)
    x, output = torch.rand(7, 1, 4, 4, generator=GENERATOR), torch.randn(7, 3, generator=GENERATOR)
    target = task.target(x, torch.zeros(7))
    known, found = (log_softmax(item.detach().double().numpy() / 3, axis=1) for item in (teacher(x), output))
    expected = 9 * (np.exp(known) * (known - found)).sum(1)
    np.testing.assert_allclose(task.loss(output, target), expected, rtol=1e-4, atol=2e-6)
    assert task.score(output, target).tolist() == (known.argmax(1) == found.argmax(1)).astype(float).tolist()
    assert task.groups(target).tolist() == known.argmax(1).tolist()
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    with pytest.raises(SpecError, match="original model"):
        Distillation(3).target(x, torch.zeros(7))


def test_distillation_beside_labels_is_the_sum_of_both_by_their_shares() -> None:
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    task = DistilledClassification(3, temperature=3.0, share=0.3).attach(teacher)
    x, output = torch.rand(7, 1, 4, 4, generator=GENERATOR), torch.randn(7, 3, generator=GENERATOR)
    y = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    soft = Distillation(3, temperature=3.0).attach(teacher)
    target = task.target(x, y)
    hard = -log_softmax(output.double().numpy(), axis=1)[np.arange(7), y.numpy()]
    expected = 0.7 * hard + 0.3 * soft.loss(output, soft.target(x, y)).detach().double().numpy()
    np.testing.assert_allclose(task.loss(output, target), expected, rtol=1e-5)
    assert task.groups(target).tolist() == y.tolist()
    assert task.score(output, target).tolist() == (output.argmax(1) == y).float().tolist()


def test_without_the_original_labels_are_scored_and_nothing_is_learned() -> None:
    task, x, y = DistilledClassification(3), torch.zeros(2, 1, 4, 4), torch.tensor([2, 0])
    output, target = torch.eye(3)[[2, 1]], task.target(x, y)
    assert task.score(output, target).tolist() == [1.0, 0.0]
    assert task.groups(target).tolist() == [2, 0]
    with pytest.raises(SpecError, match="expected the original model to distil from"):
        task.loss(output, target)


def test_labels_are_grouped_without_a_question_to_the_original() -> None:
    class Silent(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise AssertionError("asked")

    task, y = DistilledClassification(3).attach(Silent()), torch.tensor([2, 0])
    assert task.group(torch.zeros(2, 1, 4, 4), y).tolist() == [2, 0]
    with pytest.raises(AssertionError, match="asked"):
        task.target(torch.zeros(2, 1, 4, 4), y)


def test_a_share_outside_of_its_range_is_refused() -> None:
    with pytest.raises(SpecError, match=r"expected a share .* got 1.5"):
        DistilledClassification(3, share=1.5)


def test_labels_that_the_original_does_not_know_are_refused() -> None:
    with pytest.raises(SpecError, match="knows the 4 classes of the pictures, got one of 3"):
        DistilledClassification(3).check_output((2, 3), 4)


# ------------------------------------------------------------------------------------------------- all tasks


@pytest.mark.parametrize(
    ("task", "kind", "said"),
    [
        ("classification", "targets", "with values: choose task regression"),
        ("classification", "masks", "with masks: choose task segmentation"),
        ("classification", "nothing", "with nothing: choose task distillation"),
        ("distilled_classification", "nothing", "with nothing: choose task distillation"),
        ("regression", "labels", "with values to learn by regression"),
        ("regression", "masks", "with values to learn by regression"),
        ("segmentation", "targets", "with masks to learn segmentation"),
        ("segmentation", "nothing", "with masks to learn segmentation"),
    ],
)
def test_data_of_another_task_is_refused(task: str, kind: str, said: str) -> None:
    source = source_of(kind)
    with pytest.raises(SpecError, match=said):
        with_facts(PlugInSpec(name=task), source, source.train)


def test_an_original_that_knows_more_classes_teaches_those_of_the_pictures() -> None:
    """Penalties see labels: they wait in vain for classes that only the original knows."""
    task = DistilledClassification(12)
    task.check_output((2, 12), 10)
    assert task.count_groups(10) == 10
    assert task.chance(10) == 0.1
    assert Distillation(12).count_groups(10) == 12, "without labels they see its answers"


@pytest.mark.parametrize(
    ("task", "shape"),
    [
        (Classification(), (2, 3, 4, 4)),
        (Classification(), (2, 1)),
        (Regression([0.0], [1.0]), (2, 2)),
        (Segmentation(3), (2, 3)),
        (Segmentation(3), (2, 2, 8, 8)),
        (Distillation(3), (2, 2)),
        (DistilledClassification(3), (2, 2)),
    ],
)
def test_outputs_of_another_shape_are_refused(task: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(SpecError, match="expected a model with output"):
        task.check_output(shape, 2)


def test_every_task_is_found_by_its_name_and_an_unknown_one_has_a_neighbour() -> None:
    assert {entry.name for entry in TASKS} == {
        "classification", "regression", "segmentation", "distillation", "distilled_classification"
    }  # fmt: skip
    assert all(TASKS.load(entry.name).score_name for entry in TASKS)
    with pytest.raises(UnknownNameError, match="did you mean 'regression'"):
        make_task(PlugInSpec(name="regresion"))
