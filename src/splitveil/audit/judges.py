"""What is left of a picture, beyond pixels: is it still recognised, and does it look alike."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from torch import Tensor

from splitveil.data.loader import Pictures
from splitveil.experiments.scoring import as_result
from splitveil.experiments.target import Judge, Target
from splitveil.metrics.classifier import fit_classifier
from splitveil.metrics.lpips import Lpips
from splitveil.metrics.summary import summarize
from splitveil.records import MetricResult
from splitveil.rng import Rng

__all__ = ["RECOGNISED", "likeness_judge", "recognition_judge"]

_DIGEST = 16  # characters

RECOGNISED = "recognised"
"""The share of reconstructions that an independent classifier still recognises."""


def recognition_judge(target: Target, pictures: Pictures, classes: int) -> tuple[Judge, MetricResult]:
    """A classifier that is trained on pictures which are not scored, and knows nothing of the subject.

    Args:
        target: whose test pictures are judged.
        pictures: with labels, to train on.
        classes: k.

    Returns:
        From reconstructions and the places of their originals to ``(n,)`` 0 or 1; and its accuracy on the originals,
        which no reconstruction is expected to exceed.
    """
    classifier = fit_classifier(pictures, classes=classes, rng=Rng(target.seed).child("judge"))

    def judge(drawn: Tensor, places: Tensor) -> Tensor:
        return classifier.correct(drawn, target.test.get(places)[1]).cpu()

    x, labels = target.test.get(target.places(None))
    ceiling = summarize(
        classifier.correct(x, labels).cpu(), rng=target.rng.child("bootstrap", "ceiling"), safer="lower"
    )
    return Judge(judge, unit="", safer="lower"), as_result(ceiling, unit="", safer="lower")


def likeness_judge(target: Target, weights: Path) -> Judge:
    """LPIPS, from weights that the user brings.

    Raises:
        MissingDataError: there is no such file.
        InputError: it does not hold the weights.
    """
    metric = Lpips(weights)

    def judge(drawn: Tensor, places: Tensor) -> Tensor:
        return metric(drawn.cpu(), target.test.get(places)[0].cpu())

    digest = sha256(Path(weights).read_bytes()).hexdigest()[:_DIGEST]
    return Judge(judge, unit=metric.unit, safer=metric.safer, digest=digest)
