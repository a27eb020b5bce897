"""Keep the head apart from heads of earlier stages (Ensembler)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitveil.contracts import FeatureSpec, Penalty, PenaltyContext, Terms, Trace
from splitveil.errors import ContractError, SpecError
from splitveil.rng import Rng
from splitveil.split_model import SplitModel

__all__ = ["HeadSimilarity"]


class HeadSimilarity(Penalty):
    """``mean_i max_n cos(z_i, head_n(x_i))``: the features are to look like those of no head of an earlier stage.

    The heads of the stages are remembered here, so they train the model and never ship with it.

    Args:
        stages: names of the stages whose heads are remembered as they end.

    Reference:
        Liu et al.: Ensembler, DAC 2025 (arXiv 2401.10859), eq. 3.
    """

    filled: Tensor

    def __init__(self, *, stages: tuple[str, ...] | list[str]) -> None:
        super().__init__()
        if not stages:
            raise SpecError("head_similarity expects the names of stages to remember, got none")
        self.stages = tuple(stages)
        self.heads = nn.ModuleList()
        self.register_buffer("filled", torch.zeros(len(self.stages), dtype=torch.bool))
        self._places: list[int] = []  # as `filled`, but to read it costs no synchronisation in a training step

    @classmethod
    def from_spec(
        cls, spec: FeatureSpec, classes: int, rng: Rng, picture: tuple[int, ...], **params: Any
    ) -> HeadSimilarity:
        """For any features."""
        return cls(**params)

    def attach(self, model: nn.Module) -> None:
        """One empty place per stage."""
        if not self.heads:
            head = cast(SplitModel, model).head
            self.heads.extend(copy.deepcopy(head).requires_grad_(False).eval() for _ in self.stages)

    def on_stage_end(self, stage: str, model: nn.Module) -> None:
        """Remember the head of a stage."""
        if stage in self.stages:
            place = self.stages.index(stage)
            held = self.heads[place]
            held.load_state_dict(cast(SplitModel, model).head.state_dict())
            held.requires_grad_(False).eval()
            self.filled[place] = True
            self._places = self._known()

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As of any module that knows its model."""
        if not self.heads:
            raise ContractError("expected attach(model) before the state is loaded, got no model")
        loaded = super().load_state_dict(state_dict, strict, assign)
        self._places = self._known()
        return loaded

    def _known(self) -> list[int]:
        return [place for place, known in enumerate(self.filled.tolist()) if known]

    def forward(self, trace: Trace, context: PenaltyContext) -> Terms:
        """One term in [-1, 1], a mean over samples; 0 while no head is remembered."""
        z = trace.z.flatten(1)
        if not self._places:
            return {"head_similarity": z.sum() * 0.0}
        with torch.no_grad():
            others = [self.heads[place](trace.x).flatten(1) for place in self._places]
        alike = torch.stack([functional.cosine_similarity(z, other, dim=1) for other in others])
        return {"head_similarity": alike.amax(0).mean()}
