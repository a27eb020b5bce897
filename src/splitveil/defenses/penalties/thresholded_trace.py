"""The paper's surrogate of the information, as its experiments train it."""

from __future__ import annotations

from torch import Tensor

from splitveil.mixtures import ClassMixture, segment_mean

__all__ = ["thresholded_trace"]


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

    with w the cluster's share of its class. Stored statistics are indexed by the sample's own class, and stay what
    the last fit left. Algorithm 1 of the paper has a ``n_batch / (w N_class)`` in place of ten times that, and keeps
    the mixed v for the next batch.

    a depends on the batch and on the size of the classes: at batch 128 it is 0.026 on CIFAR-10 and 0.66 on FaceScrub,
    so one weight does not mean the same on two data sets. The paper uses weight 16 with the schedule ``lr_coupled``:
    the full weight below a learning rate of 4.1e-4, else weight * 0.001 / rate, none in the first epoch.

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
    error = mixture.away(mean, component).square().mean(1, keepdim=True)
    batch, count = segment_mean(error, component, components)
    share = mixture.weights / mixture.weights.sum(1, keepdim=True)
    share, stored = share.reshape(-1), mixture.variances.reshape(components, -1).mean(1)
    mix = (10 * count / (share * class_size).clamp(min=1e-12)).clamp(max=0.99)
    variance = mix * batch.squeeze(1) + (1 - mix) * stored
    floor = threshold * noise_variance.mean()
    term = share * ((variance + 0.01).log() - (floor + 0.01).log()).relu()
    present = count > 0
    classes_present = present.view(-1, clusters).any(1).sum()
    return term.masked_fill(~present, 0.0).sum() / classes_present
