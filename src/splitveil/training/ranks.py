"""Processes that train one model together: how a batch is dealt, and how gradients and statistics come together."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from splitveil.contracts import ALONE, Comm

__all__ = ["Ranks", "Share", "deal"]


# buffers move alike everywhere; torch 2.15 renamed the option that would send them with every pass
_KNOWN = inspect.signature(DistributedDataParallel.__init__).parameters
_SYNC_BUFFERS = next(name for name in ("forward_sync_buffers", "broadcast_buffers") if name in _KNOWN)


@dataclass(frozen=True, slots=True)
class Ranks:
    """Which of how many processes this is; one by default. More need a process group of torch.distributed.

    Args:
        rank: from 0.
        world_size: w >= 1.
    """

    rank: int = 0
    world_size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def share(self, n: int) -> tuple[Comm, slice]:
        """This process's part of a batch of n rows, and where it lies; all of them where there are fewer than ranks."""
        if self.world_size == 1 or n < self.world_size:
            return ALONE, slice(0, n)
        comm = Share(self.rank, deal(n, self.world_size))
        return comm, slice(comm.first, comm.first + comm.counts[self.rank])

    def wrap(self, model: nn.Module, *, unused: bool) -> nn.Module:
        """The model, whose gradients are averaged over the processes as they come in.

        Args:
            model: with all parameters that train.
            unused: whether some of them get no gradient.
        """
        if self.world_size == 1:
            return model
        device = next(model.parameters()).device
        places = [device] if device.type == "cuda" else None
        options: dict[str, Any] = {_SYNC_BUFFERS: False, "find_unused_parameters": unused}
        return DistributedDataParallel(model, device_ids=places, **options)

    def total(self, values: Tensor) -> Tensor:
        """The sum over the processes."""
        if self.world_size > 1:
            values = values.clone()
            distributed.all_reduce(values)
        return values

    def agree(self, wish: bool) -> bool:
        """What the first process wishes."""
        if self.world_size == 1:
            return wish
        return bool(_from_first(torch.tensor(int(wish), device=_device())))

    def align(self, modules: Iterable[nn.Module]) -> None:
        """Give the modules the state that they have in the first process: rounding must not part them."""
        if self.world_size > 1:
            for module in modules:
                state: dict[str, Any] = {name: _from_first(value) for name, value in module.state_dict().items()}
                module.load_state_dict(state)


@dataclass(frozen=True, slots=True)
class Share(Comm):
    """A batch dealt to ranks, in order.

    Args:
        rank: this process.
        counts: rows of each process.
    """

    rank: int
    counts: tuple[int, ...]

    @property
    def world_size(self) -> int:  # type: ignore[override]
        """w."""
        return len(self.counts)

    @property
    def first(self) -> int:  # type: ignore[override]
        """The first row of this process."""
        return sum(self.counts[: self.rank])

    @property
    def share(self) -> float:  # type: ignore[override]
        """``w n_r / n``."""
        return self.counts[self.rank] * self.world_size / sum(self.counts)

    def gather(self, rows: Tensor) -> Tensor:
        """All rows of the batch, with gradient to those of this process from the losses of all."""
        missing = max(self.counts) - len(rows)
        padded = torch.cat([rows, rows.new_zeros(missing, *rows.shape[1:])]) if missing else rows
        parts = torch.unbind(_Gather.apply(padded, self.rank, self.world_size))
        return torch.cat([part[:count] for part, count in zip(parts, self.counts, strict=True)])

    def mean(self, value: Tensor) -> Tensor:
        """The mean over the processes, without gradient."""
        total = value.detach().clone()
        distributed.all_reduce(total)
        return total / self.world_size


class _Gather(torch.autograd.Function):
    """``(n, ...)`` per process to ``(w, n, ...)`` on all; the gradient of a row is summed over the processes."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, rank: int, world_size: int) -> Tensor:
        ctx.rank = rank
        parts = [torch.empty(rows.shape, dtype=rows.dtype, device=rows.device) for _ in range(world_size)]
        distributed.all_gather(parts, rows.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        total = gradients[0].contiguous().clone()
        distributed.all_reduce(total)
        return total[ctx.rank], None, None


def deal(n: int, world_size: int) -> tuple[int, ...]:
    """How many of n rows each process gets: as even as it goes, the first ones get the rest.

    Example:
        >>> deal(10, 4)
        (3, 3, 2, 2)
    """
    least, rest = divmod(n, world_size)
    return tuple(least + (rank < rest) for rank in range(world_size))


def _from_first(value: Tensor) -> Tensor:
    """The value that the first process has; booleans travel as bytes."""
    device = value.device
    sent = value.detach().to(_device(), torch.uint8 if value.dtype == torch.bool else value.dtype, copy=True)
    sent = sent.contiguous()
    distributed.broadcast(sent, src=0)
    return sent.to(device, value.dtype)


def _device() -> torch.device:
    """Where this process's collectives take tensors from."""
    return torch.device("cuda" if distributed.get_backend() == "nccl" else "cpu")
