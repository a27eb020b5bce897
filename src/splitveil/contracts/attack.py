"""Attacks: subjects, views, inverters, metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from splitveil.contracts.values import FeatureSpec, NoiseSource
from splitveil.errors import ThreatModelError
from splitveil.threats import Grant, ThreatModel

if TYPE_CHECKING:
    from splitveil.rng import Rng

__all__ = ["Attack", "Inverter", "Metric", "Subject", "View"]


@runtime_checkable
class Subject(Protocol):
    """Anything that can be audited: our run, a callable, an ONNX file."""

    input_shape: tuple[int, ...]
    release_spec: FeatureSpec
    offers: frozenset[Grant]

    def release(self, x: Tensor, noise: NoiseSource) -> Tensor: ...

    def combine(self, r: Tensor) -> Tensor: ...


class View(Protocol):
    """What an attack sees of a subject, see `splitveil.attacks.view.AttackerView`."""

    threat: ThreatModel
    input_shape: tuple[int, ...]
    release_spec: FeatureSpec

    def release(self, x: Tensor, rng: Rng) -> Tensor: ...

    def simulate(self, x: Tensor, noises: tuple[Tensor, ...]) -> Tensor: ...

    @property
    def auxiliary(self) -> Any: ...


class Inverter(nn.Module, ABC):
    """A fitted attack: releases in, pictures out."""

    facts: dict[str, Any]

    def invert(self, r: Tensor) -> Tensor:
        """``(n, *r)`` to pictures ``(n, c, h, w)`` in [0, 1], in evaluation mode, without gradient."""
        was_training = self.training
        self.eval()
        with torch.no_grad():
            pictures = self.reconstruct(r)
        self.train(was_training)
        return pictures.clamp(0.0, 1.0)

    @abstractmethod
    def reconstruct(self, r: Tensor) -> Tensor:
        """The reconstruction, with gradient; may leave [0, 1]."""


class Attack(ABC):
    """A frozen configuration of an attack: its `repr` is its record.

    `fit` is final: it checks what the threat model grants, then calls `_fit`.

    Attributes:
        name: of the registry.
        needs: what the attacker must hold.
        needs_auxiliary: whether it must have pictures of its own; a property where that depends on the configuration.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[Grant]]
    needs_auxiliary: bool = True

    def fit(self, view: View, rng: Rng) -> Inverter:
        """Learn to invert from what the view grants.

        Raises:
            ThreatModelError: the attack needs more than the threat model grants.
        """
        missing = view.threat.missing(self.needs)
        if missing:
            raise ThreatModelError(
                f"attack '{self.name}' needs {', '.join(missing)}, which the threat model does not grant "
                f"(it grants {', '.join(sorted(view.threat.grants)) or 'nothing'}): choose another attack or threat"
            )
        return self._fit(view, rng)

    @abstractmethod
    def _fit(self, view: View, rng: Rng) -> Inverter: ...


class Metric(ABC):
    """A score per sample, never reduced here."""

    name: ClassVar[str]
    unit: ClassVar[str]
    safer: ClassVar[Literal["higher", "lower"]]

    @abstractmethod
    def __call__(self, reconstruction: Tensor, original: Tensor) -> Tensor:
        """Pictures ``(n, c, h, w)`` in [0, 1], twice, to ``(n,)``."""
