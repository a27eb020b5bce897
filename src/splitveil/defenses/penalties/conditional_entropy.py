"""Conditional entropy maximisation (CEM): raise H(x | r) by lowering a differentiable bound on I(x; r)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from splitveil.bounds import held_out_information, information_bound
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
from splitveil.defenses.penalties.pixel_directions import PixelDirections, shrunk
from splitveil.defenses.penalties.thresholded_trace import thresholded_trace
from splitveil.errors import SpecError, UnknownNameError
from splitveil.mixtures import ClassMixture, Covariance, Projection, segment_mean
from splitveil.rng import Rng

__all__ = ["Balance", "ConditionalEntropy", "Surrogate"]

Surrogate = Literal["bound", "pixels", "thresholded_trace"]
Balance = Literal["pictures", "classes", "unlabeled"]

_FIRST_ITERATIONS, _NEXT_ITERATIONS = 50, 15  # of Lloyd's algorithm, from k-means++ and from the last epoch
_CONFIDENCE = 0.999
_PER_DIMENSION = 8  # features to find the directions of pixels from


class ConditionalEntropy(Penalty):
    """``H(x|r) = H(x) - I(x;r)``: the penalty is an upper bound on I(x;r) under the noise that the host declares.

    ```
    features of the training set --[ k-means per class, once an epoch ]--> mixture (pi, mu, S), constants
    batch: m = noise-free release --> nearest cluster of its class --> B_i --> mean B / q
    ```

    The mean of B/q is in nats per dimension: one weight means the same at any batch size, class count, cluster count
    and feature size, and half batches average to the whole. It is computed in float32, whatever autocast says.

    The bound counts all that the release says of the picture, of which most pixels may follow from a few directions.
    ``pixels`` weighs directions by the pixels that linear regression draws from them, see `PixelDirections`: attackers
    err more at equal accuracy, and the mean is no bound on I(x;r). The ledger counts all information with either.

    Args:
        classes: k.
        q: dimension of the mechanism's Gaussian stage.
        clusters: m per class.
        surrogate: ``bound`` (mean of B/q), ``pixels`` (nats per direction, weighed by what it shows) or
            ``thresholded_trace`` (the paper's experiments).
        covariance: of the bound, ``isotropic``, ``diagonal``, ``low_rank`` or ``full``.
        rank: of ``low_rank``.
        balance: what counts the same in the bound: ``pictures`` (the classes as they are), ``classes`` (each as if it
            were as frequent as the others), or ``unlabeled`` (one mixture without regard to classes).
        projection: fit and judge in so many random directions; for features too wide for a mixture. The bound is
            then an estimate. None: all dimensions.
        threshold: t of the thresholded trace.
        fit_samples: the most features to fit to; None for 64 per cluster, at least 2,000, and 8 per dimension where
            directions of pixels are looked for.

    Raises:
        SpecError: the host declares no Gaussian noise, or noise without variance, for which the bound is infinite.

    Reference:
        arXiv 2503.00383, Theorem 2 and Algorithm 1.
    """

    needs_gaussian_noise: ClassVar[bool] = True

    class_size: Tensor
    class_weight: Tensor

    def __init__(
        self,
        classes: int,
        q: int,
        *,
        clusters: int = 5,
        surrogate: Surrogate = "bound",
        covariance: Covariance = "diagonal",
        rank: int = 8,
        balance: Balance = "pictures",
        projection: int | None = None,
        threshold: float = 0.125,
        fit_samples: int | None = None,
        rng: Rng | None = None,
    ) -> None:
        super().__init__()
        for what, value, choices in (("surrogate", surrogate, Surrogate), ("balance", balance, Balance)):
            if value not in get_args(choices):
                raise UnknownNameError(what, value, get_args(choices))
        if balance != "pictures" and surrogate == "thresholded_trace":
            raise SpecError(f"expected balance 'pictures' with the paper's surrogate, got '{balance}': use 'bound'")
        groups = 1 if balance == "unlabeled" else classes
        self.projection = None if projection is None else Projection(q, projection, rng or Rng(0))
        width = q if projection is None else projection
        shape: Covariance = "isotropic" if surrogate == "thresholded_trace" else covariance
        self.mixture = ClassMixture(groups, clusters, width, shape, rank=rank)
        self.pixels = PixelDirections(width) if surrogate == "pixels" else None
        self.surrogate, self.balance = surrogate, balance
        fewest = max(2000, 64 * self.mixture.components, 0 if self.pixels is None else _PER_DIMENSION * width)
        self.fit_samples = fewest if fit_samples is None else fit_samples
        if self.fit_samples < groups:
            raise SpecError(f"expected fit_samples of at least the {groups} classes, got {self.fit_samples}")
        self.threshold = positive(threshold, "threshold")
        self.register_buffer("class_size", torch.zeros(()))
        self.register_buffer("class_weight", torch.ones(groups))
        self._ready = False  # as mixture.fitted, but to read it costs no synchronisation in a training step

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As of any module; a mixture that was fitted need not be fitted again."""
        loaded = super().load_state_dict(state_dict, strict, assign)
        self._ready = bool(self.mixture.fitted)
        return loaded

    @classmethod
    def from_spec(
        cls, spec: FeatureSpec, classes: int, rng: Rng, picture: tuple[int, ...], **params: Any
    ) -> ConditionalEntropy:
        """For features of this spec."""
        return cls(classes, spec.numel, rng=rng, **params)

    def on_epoch(self, features: FeatureStream) -> dict[str, float]:
        """Refit the mixture to the noise-free features of the training set, warm from the last fit."""
        means, labels, noise, seen = [], [], [], torch.zeros(self.mixture.classes, dtype=torch.int64)
        pictures = list[Tensor]()
        for batch in features:
            mean, variance = self._noise(batch.channel)
            means.append(mean)
            noise.append(variance.expand(mean.shape).mean(0) * len(mean))
            labels.append(self._group(batch.y))
            if self.pixels is not None:
                pictures.append(shrunk(batch.pictures.float()).flatten(1))
            seen += torch.bincount(labels[-1], minlength=len(seen)).cpu()
            if int(seen.sum()) >= self.fit_samples and int(seen.min()) > 0:
                break
        z, y = torch.cat(means), torch.cat(labels)
        iterations = _NEXT_ITERATIONS if self._ready else _FIRST_ITERATIONS
        self.mixture.fit(z, y, features.rng, iterations=iterations)
        self.mixture.condition(torch.stack(noise).sum(0) / len(z))
        if self.balance == "classes":
            self.mixture.reweigh(torch.full_like(self.class_weight, 1 / len(seen)))
            self.class_weight = (len(z) / len(seen) / seen).to(self.class_weight)
        self.class_size.fill_(features.samples / features.classes)
        self._ready = True
        return {**self._facts(z), **self._find_pixels(z, y, pictures)}

    def _find_pixels(self, z: Tensor, y: Tensor, pictures: list[Tensor]) -> dict[str, float]:
        """The directions of pixels, around the mixture's clusters."""
        if self.pixels is None:
            return {}
        x, component = torch.cat(pictures), self.mixture.component(z, y)
        mean, _ = segment_mean(x, component, self.mixture.components)
        self.pixels.fit(self.mixture.away(z, component), x - mean[component], self.mixture.noise)
        return {"linearly_explained": float(self.pixels.explained)}

    def _facts(self, z: Tensor) -> dict[str, float]:
        """What the fit says of the features."""
        mixture = self.mixture
        weights = mixture.weights.flatten()
        alive = weights > 0
        log_ratio = (mixture.offset + 0.5 * (mixture.q - mixture.noise.log().sum()))[alive]
        within = (mixture.weights.unsqueeze(2) * mixture.variances).sum((0, 1)).mean()
        variance, noise = z.var(0).mean(), mixture.noise.mean()
        return {
            "theorem2_nats": float((weights[alive] * log_ratio).sum()),
            "within_cluster_std": float(within.sqrt()),
            "feature_std": float(variance.sqrt()),
            "noise_std": float(noise.sqrt()),
            "snr_db": 10 * math.log10(max(float(variance / noise), 1e-30)),
            "empty_clusters": float((~alive).sum()),
        }

    def forward(self, trace: Trace, context: PenaltyContext) -> Terms:
        """One term: nats per dimension or direction, a weighted log ratio for the thresholded trace."""
        if not self._ready:
            raise SpecError("expected a fitted mixture: call the objective's start_epoch before the first step")
        with torch.autocast(trace.z.device.type, enabled=False):
            if self.pixels is not None:
                value = self._shown(trace, context.y, self.pixels).mean()
            elif self.surrogate == "bound":
                value = self._bounds(trace, context.y).mean() / self.mixture.q
            else:
                value = self._surrogate(trace, context)
        return {"conditional_entropy": value}

    def _surrogate(self, trace: Trace, context: PenaltyContext) -> Tensor:
        """The paper's term, of all rows of the batch: its clusters' variances are not means over samples."""
        mean, variance = self._noise(trace.channel)
        gather = context.comm.gather
        return thresholded_trace(
            gather(mean),
            gather(variance) if variance.ndim else variance,
            gather(context.y),
            self.mixture,
            class_size=self.class_size,
            threshold=self.threshold,
        )

    def _bounds(self, trace: Trace, y: Tensor) -> Tensor:
        """B_i in nats, ``(n,)``, weighted by class where classes are balanced."""
        mean, variance = self._noise(trace.channel)
        group = self._group(y)
        return self._balanced(information_bound(mean, variance, group, self.mixture), group)

    def _shown(self, trace: Trace, y: Tensor, pixels: PixelDirections) -> Tensor:
        """Nats per direction that shows pixels, ``(n,)``, weighted as the bound is."""
        mean, variance = self._noise(trace.channel)
        group = self._group(y)
        away = self.mixture.away(mean, self.mixture.component(mean.detach(), group))
        return self._balanced(pixels.information(away, variance), group)

    def _balanced(self, nats: Tensor, group: Tensor) -> Tensor:
        return nats if self.balance != "classes" else nats * self.class_weight[group]

    def inspect(self, trace: Trace, context: PenaltyContext) -> dict[str, Tensor]:
        """B_i of held-out pictures, nats, and the most that one could count, infinite where nothing bounds it."""
        channel = trace.channel
        if not self._ready or channel is None:
            return {}
        bounds = self._bounds(trace, context.y)
        per_sample = channel.std.ndim == channel.mean.ndim and len(channel.std) > 1
        exact = self.projection is None and self.balance != "classes" and not per_sample
        if channel.box is None or not exact:
            return {"bounds": bounds, "ceiling": torch.full_like(bounds, math.inf)}
        _, variance = self._noise(channel)
        width = channel.box[1] - channel.box[0]
        ceiling = 0.5 * (width**2 / (4 * variance.expand(len(bounds), self.mixture.q))).log1p().sum(1)
        return {"bounds": bounds, "ceiling": ceiling}

    def ledger(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        """The information of an epoch: the held-out bound, with confidence where the channel allows one."""
        bounds, ceiling = values["bounds"].double(), float(values["ceiling"].max())
        facts = {"held_out_nats": float(bounds.mean())}
        if math.isfinite(ceiling) and len(bounds) > 1:
            facts["upper_nats"] = held_out_information(bounds, ceiling, confidence=_CONFIDENCE).upper_nats
            facts["ceiling_nats"] = ceiling
        return facts

    def _group(self, y: Tensor) -> Tensor:
        return torch.zeros_like(y) if self.balance == "unlabeled" else y

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
        if self.projection is not None:
            variance = self.projection.variance(variance.expand(mean.shape))
            mean = self.projection(mean)
        return mean, variance
