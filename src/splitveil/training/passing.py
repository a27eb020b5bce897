"""How a pass of the network is computed in training: in which precision, compiled or not, in how many processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from splitveil.contracts import GaussianChannel, Trace
from splitveil.modes import evaluating
from splitveil.noise import SeededNoise
from splitveil.precision import has_bfloat16
from splitveil.rng import Rng
from splitveil.split_model import SplitModel
from splitveil.training.ranks import Ranks

if TYPE_CHECKING:
    from splitveil.specs import TrainingSpec

__all__ = ["Network", "network_of", "precision_of"]

Network = Callable[[Tensor, tuple[Tensor, ...]], Trace]


def precision_of(settings: TrainingSpec, device: torch.device) -> torch.dtype:
    """The precision of passes on a device: ``auto`` is bfloat16 on GPUs that have it, else float32.

    Example:
        >>> from splitveil.specs import TrainingSpec
        >>> precision_of(TrainingSpec(epochs=1), torch.device("cpu"))
        torch.float32
    """
    if settings.precision == "auto":
        return torch.bfloat16 if device.type == "cuda" and has_bfloat16(device) else torch.float32
    return torch.bfloat16 if settings.precision == "bfloat16" else torch.float32


def network_of(model: SplitModel, settings: TrainingSpec, device: torch.device, ranks: Ranks) -> Network:
    """How the loop passes batches through a model whose trainable parameters are chosen.

    Args:
        model: on its device.
        settings: precision and compilation.
        device: of the model.
        ranks: over which gradients are averaged.
    """
    network: nn.Module = model
    if ranks.world_size > 1:
        network = ranks.wrap(model, unused=_has_unused(model, device))
    if settings.compile:
        network = cast(nn.Module, torch.compile(network))
    dtype = precision_of(settings, device)
    return network if dtype == torch.float32 else _Lowered(network, dtype)


class _Lowered:
    """Passes in a lower precision, with traces in float32: what losses and penalties compute keeps its digits."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        self.network, self.dtype = network, dtype

    def __call__(self, x: Tensor, noises: tuple[Tensor, ...]) -> Trace:
        with torch.autocast(x.device.type, dtype=self.dtype):
            trace: Trace = self.network(x, noises)
        return replace(
            trace,
            z=trace.z.float(),
            r=trace.r.float(),
            reply=trace.reply.float(),
            output=trace.output.float(),
            channel=_raised(trace.channel),
        )


def _raised(channel: GaussianChannel | None) -> GaussianChannel | None:
    return None if channel is None else replace(channel, mean=channel.mean.float(), std=channel.std.float())


def _has_unused(model: SplitModel, device: torch.device) -> bool:
    """Whether a parameter that trains has no part in the output, such as the head of a second task."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    x = torch.zeros(1, *model.input_shape, device=device, dtype=trained[0].dtype)
    with evaluating(model):
        trace: Trace = model(x, model.draw(SeededNoise(Rng(0)), 1, device))
    gradients = torch.autograd.grad(trace.output.sum(), trained, allow_unused=True)
    return any(gradient is None for gradient in gradients)
