"""What the layers of a network give while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

__all__ = ["layer_outputs"]

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear)


@contextmanager
def layer_outputs(module: nn.Module) -> Iterator[list[tuple[nn.Module, Tensor]]]:
    """Convolutions and linear layers with their outputs, in the order in which they run inside.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> with layer_outputs(net) as found:
        ...     _ = net(torch.zeros(1, 2))
        >>> [tuple(output.shape) for _, output in found]
        [(1, 3), (1, 1)]
    """
    found: list[tuple[nn.Module, Tensor]] = []
    handles = [
        layer.register_forward_hook(lambda this, _inputs, output: found.append((this, output)))
        for layer in module.modules()
        if isinstance(layer, _LAYERS)
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
