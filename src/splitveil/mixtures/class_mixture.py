"""A Gaussian mixture of features, with clusters inside each class, fitted for all classes at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from splitveil.errors import InputError, SpecError
from splitveil.mixtures import em
from splitveil.mixtures.covariance import (
    Covariance,
    check_covariance,
    full_covariances,
    full_root,
    low_rank_factors,
    low_rank_root,
    revived,
)
from splitveil.mixtures.kmeans import CHUNK_VALUES, assign, fit_centroids, nearest_centroid, squared_norms
from splitveil.mixtures.tiles import Tiles
from splitveil.rng import Rng

__all__ = ["ClassMixture"]


class ClassMixture(nn.Module):
    """``g = sum_c pi_c N(mu_c, S_c + N)`` over all clusters c of all classes, N the variance of the channel's noise.

    Buffers, which are saved and resumed: ``centroids (k, m, q)``, ``variances (k, m, q)`` or ``(k, m, 1)`` around the
    centroids, ``weights (k, m)`` that sum to 1 over all components, ``noise (q,)``, ``fitted`` (scalar bool);
    ``factors (k m, q, r)`` where the covariance is ``low_rank``, ``covariances (k m, q, q)`` where it is ``full``.
    Clusters without samples have weight 0, stay aligned with their centroid, and are never assigned to.

    Args:
        classes: k; 1 for features without labels.
        clusters: m, per class.
        q: feature dimension.
        covariance: ``isotropic``, ``diagonal``, ``low_rank`` (diagonal + r directions) or ``full``.
        rank: r of ``low_rank``.

    Raises:
        SpecError: a size below 1, an unknown covariance, or full covariances that are too large to hold.

    Example:
        >>> mixture = ClassMixture(classes=2, clusters=1, q=3)
        >>> mixture.fit(torch.randn(20, 3), torch.arange(20) % 2, Rng(0))
        >>> float(mixture.weights.sum())
        1.0
    """

    centroids: Tensor
    variances: Tensor
    weights: Tensor
    noise: Tensor
    fitted: Tensor
    factors: Tensor
    covariances: Tensor
    offset: Tensor
    root: Tensor
    precision: Tensor

    def __init__(
        self, classes: int, clusters: int, q: int, covariance: Covariance = "diagonal", *, rank: int = 8
    ) -> None:
        super().__init__()
        if classes < 1 or clusters < 1 or q < 1:
            raise SpecError(f"expected classes, clusters and q >= 1, got {classes}, {clusters} and {q}")
        check_covariance(covariance, classes * clusters, q, rank)
        self.classes, self.clusters, self.q, self.covariance = classes, clusters, q, covariance
        self.register_buffer("centroids", torch.zeros(classes, clusters, q))
        self.register_buffer("variances", torch.zeros(classes, clusters, 1 if covariance == "isotropic" else q))
        self.register_buffer("weights", torch.zeros(classes, clusters))
        self.register_buffer("noise", torch.zeros(q))
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))
        if covariance == "low_rank":
            self.register_buffer("factors", torch.zeros(self.components, q, rank))
        if covariance == "full":
            self.register_buffer("covariances", torch.zeros(self.components, q, q))
        for derived in ("offset", "root", "precision"):
            self.register_buffer(derived, torch.empty(0), persistent=False)
        self.register_load_state_dict_post_hook(_derive_again)  # type: ignore[no-untyped-call]

    @property
    def components(self) -> int:
        """K = k m."""
        return self.classes * self.clusters

    def fit(self, z: Tensor, y: Tensor | None, rng: Rng, *, iterations: int = 50, em_iterations: int = 0) -> None:
        """Fit to features; a second fit starts from the centroids of the first.

        Args:
            z: ``(n, q)``.
            y: ``(n,)`` int64 in [0, k), every class present; None where there is one class.
            rng: key of the k-means++ draws of the first fit.
            iterations: of Lloyd's algorithm, at the most.
            em_iterations: of expectation maximisation after it; samples are assigned to the nearest centroid anyway,
                so the bound holds but its mean over the fitted features is no longer Theorem 2.
        """
        y = self._checked(z, y)
        start = self.centroids if bool(self.fitted) else None
        self.centroids, _ = fit_centroids(z, y, self.classes, self.clusters, rng, start=start, iterations=iterations)
        tiles = Tiles.of(y, self.classes)
        # Lloyd's last step moved the centroids, so shares and variances are both those of the assignment to them
        component, count, moment = self._moments(z, tiles)
        self.variances = moment
        if em_iterations:
            self.centroids, self.variances, count = em.refine(
                z, tiles, self.centroids, self.variances, count, em_iterations
            )
            component, _, _ = self._moments(z, tiles)
        self.weights = count / count.sum()
        if self.covariance in ("low_rank", "full"):
            self._fit_directions(z, component, rng)
        self.fitted = torch.ones_like(self.fitted)
        self._derive()

    def _checked(self, z: Tensor, y: Tensor | None) -> Tensor:
        if y is None and self.classes == 1:
            y = torch.zeros(len(z), dtype=torch.int64, device=z.device)
        if y is None or z.ndim != 2 or z.shape[1] != self.q or len(z) != len(y):
            got = "no labels" if y is None else f"{tuple(z.shape)} and {tuple(y.shape)}"
            raise InputError(f"expected features (n, {self.q}) and labels (n,), got {got}")
        return y

    def _moments(self, z: Tensor, tiles: Tiles) -> tuple[Tensor, Tensor, Tensor]:
        """Component ``(n,)``, counts ``(k, m)`` and second moments around the centroids of the assignment to them."""
        origin, flat = self.centroids.mean(1), self.centroids.view(-1, self.q)
        component = torch.empty(len(z), dtype=torch.int64, device=z.device)
        count, moment = z.new_zeros(self.classes, self.clusters), torch.zeros_like(self.centroids)
        for part in tiles.chunks(CHUNK_VALUES // 2 // (tiles.rows.shape[1] * self.q)):  # each takes three times that
            samples, at = part.gather(z, origin), part.segment
            found = assign(samples, squared_norms(samples), part.real, self.centroids[at] - origin[at].unsqueeze(1))
            index = at.unsqueeze(1) * self.clusters + found.cluster
            component[part.rows[part.real]] = index[part.real]
            part.add(count, found.member.sum(2))
            torch.sub(z[part.rows], flat[index], out=samples)
            part.add(moment, torch.bmm(found.member, samples.square_()))
        moment /= count.clamp(min=1).unsqueeze(2)
        return component, count, moment.mean(2, keepdim=True) if self.covariance == "isotropic" else moment

    def _fit_directions(self, z: Tensor, component: Tensor, rng: Rng) -> None:
        """What a diagonal leaves out, from tiles of components."""
        tiles, centroids = Tiles.of(component, self.components), self.centroids.view(-1, self.q)
        count = torch.bincount(component, minlength=self.components).to(z)
        room = max(1, CHUNK_VALUES // (tiles.rows.shape[1] * self.q))
        if self.covariance == "full":
            self.covariances = full_covariances(z, centroids, tiles, count, room)
            return
        fresh = torch.randn(self.factors.shape, generator=rng.child("directions").generator()).to(z)
        self.factors = low_rank_factors(z, centroids, tiles, count, room, revived(self.factors, fresh))

    def reweigh(self, share: Tensor) -> None:
        """Give each class this share of the weight, ``(k,)``, which its clusters divide as they do now."""
        self.weights = self.weights / self.weights.sum(1, keepdim=True) * share.unsqueeze(1)
        self._derive()

    def condition(self, noise_variance: Tensor) -> None:
        """Set the noise N of the channel, ``()`` or ``(q,)``, that the components are seen through.

        Raises:
            SpecError: noise that is not positive, for which the information is unbounded.
        """
        noise = noise_variance.detach().to(self.centroids).expand(self.q).clone()
        if not bool((noise > 0).all() & noise.isfinite().all()):
            raise SpecError(
                f"expected noise of positive, finite variance in every dimension, got {float(noise.min()):.3g} to "
                f"{float(noise.max()):.3g}: without noise the information in a release is unbounded"
            )
        self.noise = noise
        self._derive()

    def _derive(self) -> None:
        """What follows from the saved buffers: ``offset = -ln pi + (ln det V - q) / 2`` and a root of V^-1."""
        if not bool((self.noise > 0).all()):
            return
        if self.covariance == "low_rank":
            left = self.variances.view(self.components, self.q) - self.factors.square().sum(2)
            rest = left.clamp_(min=0).add_(self.noise)
            self.root, log_det = low_rank_root(rest, self.factors)
            self.precision = rest.reciprocal()
        elif self.covariance == "full":
            self.root, log_det = full_root(self.covariances + torch.diag(self.noise))
            self.precision = self.root.square().sum(1)
        else:
            log_det = (self.variances + self.noise).log_().sum(2).view(-1)
        self.offset = 0.5 * (log_det - self.q) - self.weights.view(-1).log()

    def component(self, z: Tensor, y: Tensor) -> Tensor:
        """The component of each sample, ``(n,)`` in [0, k*m): the nearest occupied cluster of its own class."""
        return y * self.clusters + nearest_centroid(z, y, self.centroids, self.weights > 0)

    def away(self, z: Tensor, component: Tensor) -> Tensor:
        """``z - mu_c``, ``(n, q)``."""
        return z - self.centroids.view(-1, self.q)[component]

    def energy(self, mean: Tensor, variance: Tensor, component: Tensor) -> Tensor:
        """``tr(V_c^-1 diag(variance)) + (mean - mu_c)^T V_c^-1 (mean - mu_c)``, V_c = S_c + N.

        Args:
            mean: ``(n, q)``, with gradient.
            variance: ``(n, q)`` or what expands to it.
            component: c, ``(n,)``.

        Returns:
            ``(n,)``.
        """
        away = self.away(mean, component)
        if self.covariance == "full":
            if self.components == 1:  # no copy of the root for each sample
                whitened = away @ self.root[0].T
            else:
                whitened = torch.bmm(self.root[component], away.unsqueeze(2)).squeeze(2)
            return whitened.square().sum(1) + (variance * self.precision[component]).sum(1)
        squares = away.square() + variance
        if self.covariance != "low_rank":
            spread = self.variances.view(self.components, -1)[component] + self.noise
            return (squares / spread).sum(1)
        root = self.root[component]
        inside = torch.bmm(away.unsqueeze(1), root).square().sum((1, 2))
        inside = inside + (root.square().sum(2) * variance).sum(1)
        return (squares * self.precision[component]).sum(1) - inside


def _derive_again(module: nn.Module, keys: Any) -> None:
    if isinstance(module, ClassMixture):
        module._derive()
