"""Which directions of a feature show the picture, and how much information each of them carries."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitveil.errors import SpecError

__all__ = ["PixelDirections", "shrunk"]

_MOST_DIRECTIONS = 64
_WIDEST = 2048  # dimensions: a step of the fit takes q^3
_FINEST = 32  # rows and columns: what a linear reader draws has no more detail


class PixelDirections(nn.Module):
    """The information along the directions from which the best linear reader draws the picture, by what it draws.

    ```
    fit, once an epoch, to features and pictures around the means of their clusters:
        S = cov(a) + N,    C = cov(a, b),    S^-1/2 C C^T S^-1/2 = sum_j e_j u_j u_j^T,    v_j = S^-1/2 u_j
    batch:
        I_j   = 1/2 [ (v_j a)^2 + t_j - 1 - ln t_j ],    t_j = v_j diag(s^2) v_j^T
        value = sum_j e_j I_j / sum_j e_j
    ```

    a are noise-free features, b pictures, N the mean variance s^2 of the noise. e_j is the pixel variance that linear
    regression explains from direction j of the release, their sum all that it explains; of each, what it would explain
    by chance in a sample of this size is taken off; where nothing is left, all directions count alike. I_j is an upper
    bound on the information in the direction, ``1/2 ln(1 + snr_j)`` in the mean over the fitted features: the bound of
    Theorem 2 for a release of one number.

    Behind noise of variance ``1 / (1 + snr)`` a linear reader explains the share ``snr / (1 + snr) <= ln(1 + snr)`` of
    what it explains without any: the value falls where reconstruction gets worse, while information that shows no
    pixels, such as the class, costs nothing.

    Args:
        q: dimension of the feature.

    Raises:
        SpecError: a feature that is too wide.

    Example:
        >>> x, noise = torch.randn(1000, 1, 2, 2), torch.full((3,), 0.25)
        >>> a = torch.cat([x[:, 0, 0, :1], torch.randn(1000, 2)], 1)  # one number of three shows a pixel
        >>> directions = PixelDirections(3)
        >>> directions.fit(a, x, noise)
        >>> shown = (directions.share[:, None] * directions.directions**2).sum(0)
        >>> [round(float(size)) for size in shown / shown.sum()]
        [1, 0, 0]
    """

    directions: Tensor
    share: Tensor
    explained: Tensor

    def __init__(self, q: int) -> None:
        super().__init__()
        if q > _WIDEST:
            raise SpecError(
                f"expected at most {_WIDEST} feature dimensions to look for pixels in, got {q}: "
                f"pass projection={_WIDEST // 2}, say, or use surrogate 'bound'"
            )
        count = min(q, _MOST_DIRECTIONS)
        self.register_buffer("directions", torch.zeros(count, q))
        self.register_buffer("share", torch.zeros(count))
        self.register_buffer("explained", torch.zeros(()))

    def fit(self, away: Tensor, pictures: Tensor, noise: Tensor) -> None:
        """Find the directions anew.

        Args:
            away: a, ``(n, q)``, around the means of their clusters.
            pictures: b, ``(n, ...)``, around the means of the same clusters; large ones `shrunk`.
            noise: N, ``(q,)``.
        """
        a, b = away, pictures.flatten(1)
        values, vectors = torch.linalg.eigh((a.T @ a / len(a)).double() + torch.diag(noise.double()))
        root = (vectors * values.rsqrt()) @ vectors.T
        drawn = root @ (a.T @ b / len(a)).double()
        energy, turned = torch.linalg.eigh(drawn @ drawn.T)
        spread = b.square().mean(0).sum().double()
        by_chance = spread / len(a)
        energy = (energy - by_chance).clamp(min=0).flip(0)[: len(self.share)]
        total = energy.sum()
        alike = torch.full_like(energy, 1 / len(energy))
        self.share = torch.where(total > 0, energy / total, alike).to(self.share)
        self.directions = (root @ turned.flip(1)[:, : len(self.share)]).T.to(self.directions).contiguous()
        self.explained = (total / spread.clamp(min=torch.finfo(spread.dtype).tiny)).to(self.explained)

    def information(self, away: Tensor, noise_variance: Tensor) -> Tensor:
        """Nats of each sample, ``(n,)``: the mean over directions, by their share.

        Args:
            away: a, ``(n, q)``, with gradient.
            noise_variance: s^2, broadcastable to ``(n, q)``, positive, with gradient where the noise is learned.
        """
        seen = (away @ self.directions.T).square()
        noise = noise_variance.expand(away.shape) @ self.directions.square().T
        return 0.5 * ((seen + noise - 1 - noise.log()) @ self.share)


def shrunk(pictures: Tensor) -> Tensor:
    """Pictures of at most 32 rows and columns, by averages."""
    rows, columns = pictures.shape[2:]
    if max(rows, columns) <= _FINEST:
        return pictures
    return functional.adaptive_avg_pool2d(pictures, (min(rows, _FINEST), min(columns, _FINEST)))
