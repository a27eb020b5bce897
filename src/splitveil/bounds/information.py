"""The per-sample bound on the information in a release."""

from __future__ import annotations

from torch import Tensor

from splitveil.mixtures import ClassMixture

__all__ = ["information_bound"]


def information_bound(mean: Tensor, noise_variance: Tensor, y: Tensor, mixture: ClassMixture) -> Tensor:
    """Per-sample bound on I(x; r) in nats, for a release ``r = m + s * n`` and any fixed mixture.

    ```
    B_i = -ln pi_c + KL( N(m_i, diag s_i^2) || N(mu_c, V_c) ),    V_c = S_c + N
        = -ln pi_c + 1/2 [ tr(V_c^-1 diag s_i^2) + (m_i - mu_c)^T V_c^-1 (m_i - mu_c) - q + ln det V_c - sum ln s_i^2 ]
    c = nearest occupied cluster of the sample's class
    ```

    I(x; r) <= E B_i for every distribution of m and every mixture that does not depend on the samples of the mean;
    on the samples that it was fitted to, the mean is the right-hand side of Theorem 2 (covariances isotropic,
    diagonal and full) and no bound. The statistics are constants, so the gradient in m is ``V_c^-1 (m_i - mu_c)``:
    that of Theorem 2 on all data.

    Args:
        mean: ``(n, q)``, the noise-free part of the release, with gradient.
        noise_variance: ``s^2``, broadcastable to ``(n, q)``, positive, with gradient where the noise is learned.
        y: ``(n,)`` labels, int64.
        mixture: fitted, and conditioned on N, the mean of s^2 over the training set.

    Returns:
        ``(n,)`` nats, at least 0.

    Reference:
        arXiv 2503.00383, Theorem 2, in its per-sample form ``I <= E KL(p(r|x) || g)``.

    Example:
        >>> import torch
        >>> from splitveil.rng import Rng
        >>> mixture = ClassMixture(classes=1, clusters=1, q=1)
        >>> z, y = torch.tensor([[-1.0], [1.0]]), torch.zeros(2, dtype=torch.int64)
        >>> mixture.fit(z, y, Rng(0))
        >>> mixture.condition(torch.tensor(0.25))
        >>> round(float(information_bound(z, torch.tensor(0.25), y, mixture).mean()), 4)  # ln(1 + 1 / 0.25) / 2
        0.8047
    """
    component = mixture.component(mean.detach(), y)
    noise = noise_variance.expand(mean.shape)
    return 0.5 * (mixture.energy(mean, noise, component) - noise.log().sum(1)) + mixture.offset[component]
