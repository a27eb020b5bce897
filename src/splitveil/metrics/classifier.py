"""Whether reconstructions are still recognised: accuracy of a classifier that knows nothing of the defended model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitveil.contracts import FeatureSpec
from splitveil.data.loader import Pictures
from splitveil.errors import InputError, SpecError, TrainingError
from splitveil.metrics.labels import accuracy
from splitveil.nets.embedding import EmbeddingNet
from splitveil.rng import Rng

__all__ = ["ClassifierTraining", "PictureClassifier", "fit_classifier"]

_BATCH = 512
_FEWEST_PICTURES = 8
_SMALLEST_BATCH = 4


class PictureClassifier(nn.Module):
    """A small convolutional net from pictures to classes, trained by `fit_classifier`.

    Args:
        picture: ``(c, h, w)``.
        classes: k.
        width: channels of the first convolution.
    """

    def __init__(self, picture: tuple[int, ...], *, classes: int, width: int) -> None:
        super().__init__()
        self.spec = FeatureSpec.of(picture)
        self.net = EmbeddingNet(self.spec, outputs=classes, width=width)
        self.facts: dict[str, Any] = {}

    def forward(self, x: Tensor) -> Tensor:
        """``(n, c, h, w)`` in [0, 1] to logits ``(n, k)``."""
        logits: Tensor = self.net(2 * x - 1)
        return logits

    def correct(self, x: Tensor, labels: Tensor) -> Tensor:
        """Whether each picture is recognised; on the originals this is the ceiling of what a reconstruction can reach.

        Args:
            x: reconstructions or originals, ``(n, c, h, w)`` in [0, 1].
            labels: ``(n,)``.

        Returns:
            ``(n,)`` float32, 0 or 1.

        Raises:
            InputError: pictures of another shape, or not one label each.
        """
        self.spec.check(x, "x")
        was_training = self.training
        self.eval()
        with torch.no_grad():
            logits = [self(chunk) for chunk in torch.split(x, _BATCH)]
        self.train(was_training)
        return accuracy(torch.cat(logits), labels)


@dataclass(frozen=True, slots=True)
class ClassifierTraining:
    """How the classifier is trained: Adam with a cosine to 0, the epoch of the best held-out loss.

    Args:
        width: of the net.
        epochs: passes over the pictures.
        batch_size: at least 4.
        lr: first learning rate.
        val_share: share of the pictures held out.

    Raises:
        SpecError: a value out of range.
    """

    width: int = 32
    epochs: int = 30
    batch_size: int = 128
    lr: float = 1e-3
    val_share: float = 0.1

    def __post_init__(self) -> None:
        if min(self.width, self.epochs) < 1 or self.batch_size < _SMALLEST_BATCH:
            raise SpecError(f"expected width, epochs >= 1 and batch_size >= {_SMALLEST_BATCH}, got {self}")
        if not (0 < self.lr < math.inf and 0 < self.val_share < 1):
            raise SpecError(f"expected lr > 0 and 0 < val_share < 1, got {self}")


def fit_classifier(
    pictures: Pictures, *, rng: Rng, classes: int | None = None, training: ClassifierTraining | None = None
) -> PictureClassifier:
    """Train an independent judge on auxiliary pictures; neither the model under test nor its releases are used.

    Args:
        pictures: with labels; none of those whose reconstructions are judged.
        rng: of weights, order and the held-out share.
        classes: k; one more than the largest label without.
        training: settings.

    Returns:
        A classifier in evaluation mode; `facts` holds its history and held-out accuracy.

    Raises:
        InputError: too few pictures, or labels outside the classes.
        TrainingError: the loss is not finite.
    """
    settings = training if training is not None else ClassifierTraining()
    classes = _check(pictures, classes)
    order = torch.randperm(len(pictures), generator=rng.child("split").generator())
    held_out = min(max(1, round(settings.val_share * len(order))), len(order) // 2)
    val, fit = order[:held_out], order[held_out:]
    with rng.child("weights").scoped():
        model = PictureClassifier(tuple(pictures.images.shape[1:]), classes=classes, width=settings.width)
    model.to(pictures.device)
    optimiser = torch.optim.Adam(model.parameters(), lr=settings.lr)
    history: list[dict[str, float]] = []
    best, best_epoch, state = math.inf, 0, model.state_dict()
    for epoch in range(settings.epochs):
        for group in optimiser.param_groups:
            group["lr"] = settings.lr * (1 + math.cos(math.pi * epoch / settings.epochs)) / 2
        shuffled = fit[torch.randperm(len(fit), generator=rng.child("order", epoch).generator())]
        _epoch(model, optimiser, pictures, shuffled, settings.batch_size)
        val_loss = _loss(model, pictures, val)
        if not math.isfinite(val_loss):
            raise TrainingError(f"the classifier diverged in epoch {epoch} (validation loss {val_loss}): lower its lr")
        history.append({"epoch": epoch, "val_loss": val_loss})
        if val_loss < best:
            best, best_epoch = val_loss, epoch
            state = {name: value.detach().clone() for name, value in model.state_dict().items()}
    model.load_state_dict(state)
    model.eval()
    x, y = pictures.get(val)
    model.facts = {"history": history, "best_epoch": best_epoch, "val_accuracy": float(model.correct(x, y).mean())}
    return model


def _check(pictures: Pictures, classes: int | None) -> int:
    if len(pictures) < _FEWEST_PICTURES:
        raise InputError(f"expected at least {_FEWEST_PICTURES} pictures to train a classifier on, got {len(pictures)}")
    low, high = int(pictures.labels.min()), int(pictures.labels.max())
    found = high + 1 if classes is None else classes
    if low < 0 or high >= found or found < 2:
        raise InputError(f"expected labels from 0 to k - 1 of k >= 2 classes, got {low} to {high} of {found}")
    return found


def _epoch(
    model: PictureClassifier, optimiser: torch.optim.Optimizer, pictures: Pictures, order: Tensor, batch_size: int
) -> None:
    model.train()
    for indices in order.tensor_split(-(-len(order) // batch_size)):  # nearly equal sizes: none is too small to norm
        x, y = pictures.get(indices)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(functional.cross_entropy(model(x), y))
        optimiser.step()


def _loss(model: PictureClassifier, pictures: Pictures, indices: Tensor) -> float:
    model.eval()
    total = 0.0
    with torch.no_grad():
        for chunk in torch.split(indices, _BATCH):
            x, y = pictures.get(chunk)
            total += float(functional.cross_entropy(model(x), y, reduction="sum"))
    return total / len(indices)
