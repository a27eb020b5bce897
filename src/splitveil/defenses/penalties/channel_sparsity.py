"""An l1 penalty on the scales of the head's channels, before they are pruned (PATROL)."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from splitveil.contracts import Penalty, PenaltyContext, Terms, Trace
from splitveil.errors import SpecError
from splitveil.split_model import SplitModel

__all__ = ["ChannelSparsity"]

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm)


class ChannelSparsity(Penalty):
    """``mean_j |gamma_j|`` over the channels of the head's norms: channels that the task does not need fade.

    The scale of a batch norm is the mask of its channel, as in network slimming.

    Reference:
        Ding et al.: PATROL, WACV 2024, section 4.1; Liu et al.: Learning Efficient Convolutional Networks through
        Network Slimming, ICCV 2017, eq. 1.
    """

    def forward(self, trace: Trace, context: PenaltyContext) -> Terms:
        """One term, of the weights alone."""
        head = cast(SplitModel, context.model).head
        scales = [module.weight for module in head.modules() if isinstance(module, _NORMS) and module.affine]
        if not scales:
            raise SpecError("channel_sparsity expects batch or group norms in the head, got none to prune by")
        return {"channel_sparsity": torch.cat([scale.abs() for scale in scales]).mean()}
