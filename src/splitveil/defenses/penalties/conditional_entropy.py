"""Conditional entropy maximisation (CEM): raise H(x | r) by lowering a differentiable bound on I(x; r)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from splitveil.contracts import (
    FeatureSpec,
    FeatureStream,
    GaussianChannel,
    Penalty,
    PenaltyContext,
    Terms,
    Trace,
    positive,
)
from splitveil.defenses.penalties.bound import information_bound, thresholded_trace
from splitveil.errors import SpecError, UnknownNameError
from splitveil.mixtures import ClassMixture
from splitveil.mixtures.class_mixture import Covariance
from splitveil.rng import Rng

__all__ = ["ConditionalEntropy", "Surrogate"]

Surrogate = Literal["bound", "thresholded_trace"]


class ConditionalEntropy(Penalty):
    """``H(x|r) = H(x) - I(x;r)``: the penalty is an upper bound on I(x;r) under the noise that the host declares.

    ```
    features of the training set --[ k-means per class, once an epoch ]--> mixture (pi, mu, S), constants
    batch: m = noise-free release --> nearest cluster of its class --> B_i --> mean B / q
    ```

    Args:
        classes: k.
        q: dimension of the mechanism's Gaussian stage.
        clusters: m per class.
        surrogate: ``bound`` (mean of B/q in nats per dimension: the same meaning at any batch size, class count and
            cluster count) or ``thresholded_trace`` (the paper's experiments).
        covariance: of the bound, ``diagonal`` or ``isotropic``.
        threshold: t of the thresholded trace.
        fit_samples: the most features to fit the mixture to.

    Raises:
        SpecError: the host declares no Gaussian noise, for which the bound is infinite.

    Reference:
        arXiv 2503.00383, Theorem 2 and Algorithm 1.
    """

    class_size: Tensor

    def __init__(
        self,
        classes: int,
        q: int,
        *,
        clusters: int = 5,
        surrogate: Surrogate = "bound",
        covariance: Covariance = "diagonal",
        threshold: float = 0.125,
        fit_samples: int = 20_000,
    ) -> None:
        super().__init__()
        if surrogate not in get_args(Surrogate):
            raise UnknownNameError("surrogate", surrogate, get_args(Surrogate))
        if covariance not in get_args(Covariance):
            raise UnknownNameError("covariance", covariance, get_args(Covariance))
        if fit_samples < classes:
            raise SpecError(f"expected fit_samples of at least the {classes} classes, got {fit_samples}")
        self.surrogate, self.fit_samples = surrogate, fit_samples
        self.threshold = positive(threshold, "threshold")
        shape: Covariance = covariance if surrogate == "bound" else "isotropic"
        self.mixture = ClassMixture(classes, clusters, q, shape)
        self.register_buffer("class_size", torch.zeros(()))
        self._ready = False  # as mixture.fitted, but to read it costs no synchronisation in a training step

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As of any module; a mixture that was fitted need not be fitted again."""
        loaded = super().load_state_dict(state_dict, strict, assign)
        self._ready = bool(self.mixture.fitted)
        return loaded

    @classmethod
    def from_spec(cls, spec: FeatureSpec, classes: int, rng: Rng, **params: Any) -> ConditionalEntropy:
        """For features of this spec."""
        return cls(classes, spec.numel, **params)

    def on_epoch(self, features: FeatureStream) -> dict[str, float]:
        """Refit the mixture to the noise-free features of the training set, warm from the last fit."""
        means, labels, variances, seen = [], [], [], 0
        for batch in features:
            mean, variance = self._noise(batch.channel)
            means.append(mean)
            labels.append(batch.y)
            variances.append(variance.expand(mean.shape))
            seen += len(mean)
            if seen >= self.fit_samples:
                break
        z, y = torch.cat(means), torch.cat(labels)
        iterations = 15 if bool(self.mixture.fitted) else 50
        self.mixture.fit(z, y, features.rng, iterations=iterations)
        self._ready = True
        self.class_size.fill_(features.samples / features.classes)
        noise = torch.cat(variances)
        return {
            "information_bound_nats": float(information_bound(z, noise, y, self.mixture).mean()),
            "within_cluster_std": float((self.mixture.weights.unsqueeze(2) * self.mixture.variances).sum((0, 1)).mean())
            ** 0.5,
            "feature_std": float(z.std(0).mean()),
            "empty_clusters": float((self.mixture.weights == 0).sum()),
        }

    def forward(self, trace: Trace, context: PenaltyContext) -> Terms:
        """One term: nats per dimension for the bound, a weighted log ratio for the thresholded trace."""
        mean, variance = self._noise(trace.channel)
        if not self._ready:
            raise SpecError("expected a fitted mixture: call the objective's start_epoch before the first step")
        if self.surrogate == "bound":
            value = information_bound(mean, variance, context.y, self.mixture).mean() / self.mixture.q
        else:
            value = thresholded_trace(
                mean,
                variance,
                context.y,
                self.mixture,
                class_size=self.class_size,
                threshold=self.threshold,
            )
        return {"conditional_entropy": value}

    def _noise(self, channel: GaussianChannel | None) -> tuple[Tensor, Tensor]:
        """The noise-free part, flattened, and the noise variance, both float32."""
        if channel is None:
            raise SpecError(
                "conditional_entropy expects a mechanism with Gaussian noise, got none: without noise the information "
                "in a release is unbounded; add noise, for example gaussian(noise_std=0.1) + conditional_entropy(...)"
            )
        mean = channel.mean.flatten(1).float()
        variance = channel.std.float().square()
        if variance.ndim:
            variance = variance.expand(channel.mean.shape).flatten(1)
        return mean, variance
