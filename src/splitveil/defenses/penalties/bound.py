"""The per-sample bound on the information in a release, and the paper's surrogate of it: pure functions."""

from __future__ import annotations

import torch
from torch import Tensor

from splitveil.mixtures import ClassMixture
from splitveil.mixtures.kmeans import segment_mean

__all__ = ["information_bound", "thresholded_trace"]


def information_bound(mean: Tensor, noise_variance: Tensor, y: Tensor, mixture: ClassMixture) -> Tensor:
    """Per-sample bound on I(x; r) in nats, for a release ``r = m + s * n`` and any fixed mixture.

    ```
    B_i = -ln pi_c + KL( N(m_i, s_i^2) || N(mu_c, V_c) )
        = -ln pi_c + 1/2 sum_j [ s_ij^2 / V_cj + (m_ij - mu_cj)^2 / V_cj - 1 + ln V_cj - ln s_ij^2 ]
    V_c = S_c + E[s^2],   c = nearest cluster of the sample's class
    ```

    I(x; r) <= E B_i for every distribution of m and every fixed mixture. The statistics are constants, so the
    gradient in m is ``V_c^-1 (m_i - mu_c)``: that of Theorem 2 on all data.

    Args:
        mean: ``(n, q)``, the noise-free part of the release, with gradient.
        noise_variance: ``s^2``, broadcastable to ``(n, q)``, positive.
        y: ``(n,)`` labels, int64.
        mixture: fitted; ``V_c`` takes the batch's mean noise variance where the noise depends on z.

    Returns:
        ``(n,)`` nats, non-negative in the mean.

    Reference:
        arXiv 2503.00383, Theorem 2, in its per-sample form ``I <= E KL(p(r|x) || g)``.
    """
    component = mixture.component(mean.detach(), y)
    noise = noise_variance.expand(mean.shape)
    center = mixture.centroids.reshape(-1, mixture.q)[component]
    spread = mixture.variances.reshape(mixture.classes * mixture.clusters, -1)[component]
    total = spread + noise.detach().mean(0)
    log_weight = mixture.weights.reshape(-1)[component].log()
    divergence = (noise + (mean - center).square()) / total - 1 + total.log() - noise.log()
    return 0.5 * divergence.sum(1) - log_weight


def thresholded_trace(
    mean: Tensor,
    noise_variance: Tensor,
    y: Tensor,
    mixture: ClassMixture,
    *,
    class_size: Tensor | float,
    threshold: float,
) -> Tensor:
    """The paper's surrogate, one scalar variance per cluster, as its experiments train it.

    ```
    v    = a v_batch + (1 - a) v_stored,    a = min(0.99, 10 n_batch / (w N_class))
    L_C  = mean over classes present of sum over clusters present of w relu( ln(v + 0.01) - ln(t s^2 + 0.01) )
    ```

    with w the cluster's share of its class. Stored statistics are indexed by the sample's own class.

    Args:
        mean: ``(n, q)`` noise-free features, with gradient.
        noise_variance: s^2; its mean is used.
        y: ``(n,)`` labels.
        mixture: fitted, isotropic.
        class_size: N_class, training samples per class.
        threshold: t.

    Returns:
        Scalar, >= 0.

    Reference:
        arXiv 2503.00383, equations 5 to 7, with the constants of its experiments.
    """
    clusters, components = mixture.clusters, mixture.classes * mixture.clusters
    component = mixture.component(mean.detach(), y)
    center = mixture.centroids.reshape(-1, mixture.q)[component]
    error = (mean - center).square().mean(1, keepdim=True)
    batch, count = segment_mean(error, component, components)
    share = mixture.weights / mixture.weights.sum(1, keepdim=True)
    share, stored = share.reshape(-1), mixture.variances.reshape(components, -1).mean(1)
    mix = (10 * count / (share * class_size).clamp(min=1e-12)).clamp(max=0.99)
    variance = mix * batch.squeeze(1) + (1 - mix) * stored
    floor = threshold * noise_variance.mean()
    term = share * torch.relu((variance + 0.01).log() - (floor + 0.01).log())
    present = count > 0
    classes_present = present.view(-1, clusters).any(1).sum()
    return torch.where(present, term, torch.zeros_like(term)).sum() / classes_present
