"""Who is found in a gallery: rank accuracy per query, the cumulative match curve, and chance."""

from __future__ import annotations

import torch
from torch import Tensor

from splitveil.errors import InputError, SpecError

__all__ = ["chance_level", "cumulative_match_curve", "identity_scores", "rank_accuracy"]


def rank_accuracy(scores: Tensor, target: Tensor, k: int = 1) -> Tensor:
    """The probability that the target is among the k best of each query, where ties are broken by lot.

    ``a_i = min(1, max(0, (k - g_i) / (e_i + 1)))`` with g_i candidates above the target's score and e_i others equal
    to it. An attacker that scores all alike gets the level of chance, not 0 or 1.

    Args:
        scores: ``(n, M)``, higher is a better match; minus infinity for who is not in the gallery.
        target: ``(n,)``, the right column of each query, an integer type.
        k: from 1 to M.

    Returns:
        ``(n,)`` float64 in [0, 1].

    Raises:
        InputError: the shapes do not belong together, a target is not in the gallery, or a score is NaN.
        SpecError: k out of range.

    Example:
        >>> rank_accuracy(torch.tensor([[0.9, 0.1, 0.5], [0.5, 0.5, 0.1]]), torch.tensor([0, 1]))
        tensor([1.0000, 0.5000], dtype=torch.float64)

    Reference:
        Phillips et al.: The FERET evaluation methodology, IEEE TPAMI 2000, section 4.
    """
    above, equal = _placed(scores, target)
    if not 1 <= k <= scores.shape[1]:
        raise SpecError(f"expected 1 <= k <= {scores.shape[1]}, got {k}")
    return ((k - above) / (equal + 1)).clamp(0.0, 1.0)


def cumulative_match_curve(scores: Tensor, target: Tensor) -> Tensor:
    """`rank_accuracy` for all k from 1 to M, as the mean over the queries.

    Args:
        scores: ``(n, M)``.
        target: ``(n,)``.

    Returns:
        ``(M,)`` float64, not decreasing, 1 at the end.

    Example:
        >>> cumulative_match_curve(torch.tensor([[0.9, 0.1], [0.9, 0.1]]), torch.tensor([0, 1]))
        tensor([0.5000, 1.0000], dtype=torch.float64)
    """
    above, equal = _placed(scores, target)
    ranks = torch.arange(1, scores.shape[1] + 1, dtype=torch.float64, device=scores.device)
    return ((ranks - above[:, None]) / (equal[:, None] + 1)).clamp(0.0, 1.0).mean(0)


def chance_level(identities: int, k: int = 1) -> float:
    """``k / M``: how often a guess among M identities is right within k tries.

    Example:
        >>> chance_level(40)
        0.025
    """
    if not 1 <= k <= identities:
        raise SpecError(f"expected 1 <= k <= identities, got k {k} and {identities} identities")
    return k / identities


def identity_scores(similarity: Tensor, identities: Tensor, count: int) -> Tensor:
    """The best match of each identity among the pictures of the gallery.

    Args:
        similarity: ``(n, m)`` of queries with gallery pictures; minus infinity where a picture must not be used.
        identities: ``(m,)`` int64, whose the gallery pictures are, 0 to count - 1.
        count: M.

    Returns:
        ``(n, M)``, minus infinity for who has no picture in the gallery.

    Raises:
        InputError: the shapes do not belong together, or an identity is out of range.

    Example:
        >>> identity_scores(torch.tensor([[0.2, 0.7, 0.4]]), torch.tensor([0, 0, 1]), 2)
        tensor([[0.7000, 0.4000]])
    """
    if similarity.ndim != 2 or identities.shape != similarity.shape[1:] or identities.dtype != torch.int64:
        raise InputError(
            f"expected similarity (n, m) and int64 identities (m,), got {tuple(similarity.shape)} and "
            f"{identities.dtype} {tuple(identities.shape)}: pass one identity per gallery picture"
        )
    if len(identities) and not (int(identities.min()) >= 0 and int(identities.max()) < count):
        raise InputError(f"expected identities from 0 to {count - 1}, got others: renumber them")
    empty = similarity.new_full((len(similarity), count), -torch.inf)
    return empty.scatter_reduce(1, identities.expand(len(similarity), -1), similarity, "amax")


def _placed(scores: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """How many candidates lie above each target, and how many others are equal to it, float64."""
    if scores.ndim != 2 or target.ndim != 1 or len(scores) != len(target) or not scores.numel():
        raise InputError(
            f"expected scores (n, M) and target (n,), got {tuple(scores.shape)} and {tuple(target.shape)}: "
            "pass one row of scores and one identity per query"
        )
    if target.is_floating_point() or target.dtype == torch.bool or scores.isnan().any():
        raise InputError("expected scores without NaN and integer targets, got others: repair the attack")
    if not (int(target.min()) >= 0 and int(target.max()) < scores.shape[1]):
        raise InputError(f"expected targets from 0 to {scores.shape[1] - 1}, got others: renumber them")
    own = scores.gather(1, target.long()[:, None])
    if bool((own == -torch.inf).any()):
        raise InputError("expected every target in the gallery, got one with minus infinity: add a picture of it")
    return (scores > own).sum(1).double(), (scores == own).sum(1).double() - 1
