"""Batch norm over a batch whose rows lie in several processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from splitveil.contracts import ALONE, Comm
from splitveil.training.ranks import Ranks, Share

__all__ = ["BatchNorms"]


class BatchNorms:
    """All batch norms of some modules; within `over` they count the rows of all processes.

    On GPUs that is `torch.nn.SyncBatchNorm`, which does not run on CPUs; there, each process's mean, squared deviation
    and count are gathered, with gradient.

    Args:
        modules: searched for batch norms.
        ranks: the processes; with one, nothing changes.
    """

    def __init__(self, modules: Iterable[nn.Module], ranks: Ranks) -> None:
        found = [child for module in modules for child in module.modules() if isinstance(child, _BatchNorm)]
        self.norms = found if ranks.world_size > 1 else []
        self.comm: Comm = ALONE

    @contextmanager
    def over(self, comm: Comm) -> Iterator[None]:
        """Count the rows of these processes inside."""
        self.comm = comm
        try:
            yield
        finally:
            self.comm = ALONE

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Route the norms through here inside; outside they are what they were."""
        for norm in self.norms:
            norm.forward = self._route(norm)  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            for norm in self.norms:
                del norm.forward

    def _route(self, norm: _BatchNorm) -> Callable[[Tensor], Tensor]:
        plain = norm.forward
        fast = _synchronised(norm) if next(_tensors(norm)).is_cuda else None

        def forward(x: Tensor) -> Tensor:
            if self.comm.world_size == 1 or not norm.training:
                return plain(x)
            if fast is not None:
                answer: Tensor = fast.train()(x)
                return answer
            return _normalise(x, norm, self.comm)

        return forward


def _tensors(norm: _BatchNorm) -> Iterator[Tensor]:
    yield from norm.parameters()
    yield from norm.buffers()
    yield torch.empty(0)  # a norm without weights and statistics is where its input is; the plain way serves both


def _synchronised(norm: _BatchNorm) -> nn.Module:
    """Torch's own, over the same weights and statistics."""
    made: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(norm)  # type: ignore[no-untyped-call]
    return made


def _normalise(x: Tensor, norm: _BatchNorm, comm: Comm) -> Tensor:
    """``(x - mean) / sqrt(var + eps) * weight + bias`` with mean and var over the rows of all processes."""
    axes = [axis for axis in range(x.ndim) if axis != 1]
    count = x.new_full((1,), x.numel() / x.shape[1])
    variance, mean = torch.var_mean(x, axes, correction=0)
    row = torch.cat([mean, variance, count])[None]
    means, variances, counts = torch.split(_one_each(row, comm), [len(mean), len(mean), 1], dim=1)
    weight = counts / counts.sum()
    mean = (weight * means).sum(0)
    variance = (weight * (variances + (means - mean).square())).sum(0)
    _remember(norm, mean.detach(), variance.detach(), counts.sum())
    shape = [1, -1, *[1] * (x.ndim - 2)]
    scale = (variance + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -mean * scale if norm.bias is None else norm.bias - mean * scale
    answer: Tensor = x * scale.view(shape) + shift.view(shape)
    return answer


def _one_each(row: Tensor, comm: Comm) -> Tensor:
    """``(1, p)`` of each process to ``(w, p)``."""
    return Share(comm.rank, (1,) * comm.world_size).gather(row)


def _remember(norm: _BatchNorm, mean: Tensor, variance: Tensor, count: Tensor) -> None:
    """Move the running statistics, as torch does: with the unbiased variance."""
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return
    norm.num_batches_tracked.add_(1)
    pace = 1.0 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    unbiased = variance * (count / (count - 1)).detach()
    norm.running_mean.mul_(1 - pace).add_(mean * pace)
    norm.running_var.mul_(1 - pace).add_(unbiased * pace)
