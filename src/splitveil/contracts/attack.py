"""Attacks: subjects, views, what a fitted attack is, metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitveil.contracts.values import FeatureSpec, NoiseSource
from splitveil.errors import ThreatModelError
from splitveil.threats import Grant, ThreatModel

if TYPE_CHECKING:
    from splitveil.rng import Rng

__all__ = [
    "Attack",
    "AttackBase",
    "AttributeAttack",
    "Identifier",
    "IdentityAttack",
    "Inverter",
    "Metric",
    "Probe",
    "Subject",
    "View",
]


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
    """A fitted attack: releases in, pictures out.

    Attributes:
        facts: of the fit, and of the last call.
        searches: whether a call is long work, as a search for each picture is; it then reports its progress.
        progress: called with the share of the call that is done, in (0, 1], by attacks that search.
    """

    searches: ClassVar[bool] = False
    facts: dict[str, Any]
    progress: Callable[[float], None] | None = None

    def report(self, share: float) -> None:
        """Tell who watches that so much of a call is done."""
        if self.progress is not None:
            self.progress(share)

    def invert(self, r: Tensor) -> Tensor:
        """``(n, *r)`` to pictures ``(n, c, h, w)`` in [0, 1], in evaluation mode, without gradient."""
        return _evaluated(self, self.reconstruct, r).clamp(0.0, 1.0)

    @abstractmethod
    def reconstruct(self, r: Tensor) -> Tensor:
        """The reconstruction, with gradient; may leave [0, 1]."""


class Identifier(nn.Module, ABC):
    """A fitted attack: releases in, embeddings out, near each other where the identity is the same."""

    facts: dict[str, Any]

    def embed(self, r: Tensor) -> Tensor:
        """``(n, *r)`` to embeddings ``(n, e)`` of length 1, in evaluation mode, without gradient."""
        return functional.normalize(_evaluated(self, self.represent, r), dim=1)

    def scores(self, r: Tensor, gallery: Tensor) -> Tensor:
        """Cosine similarities ``(n, m)`` of releases ``(n, *r)`` with those of a gallery ``(m, *r)``."""
        return self.embed(r) @ self.embed(gallery).T

    @abstractmethod
    def represent(self, r: Tensor) -> Tensor:
        """The embedding ``(n, e)``, with gradient, of any length."""


class Probe(nn.Module, ABC):
    """A fitted attack: releases in, scores of an attribute's values out."""

    facts: dict[str, Any]

    def predict(self, r: Tensor) -> Tensor:
        """``(n, *r)`` to logits ``(n, k)``, in evaluation mode, without gradient."""
        return _evaluated(self, self.logits, r)

    @abstractmethod
    def logits(self, r: Tensor) -> Tensor:
        """The logits ``(n, k)``, with gradient."""


def _evaluated(module: nn.Module, compute: Callable[[Tensor], Tensor], r: Tensor) -> Tensor:
    was_training = module.training
    module.eval()
    with torch.no_grad():
        result = compute(r)
    module.train(was_training)
    return result


Fitted = TypeVar("Fitted", bound=nn.Module, covariant=True)


class AttackBase(ABC, Generic[Fitted]):
    """A frozen configuration of an attack: its `repr` is its record.

    ```
    AttackBase ─┬─ Attack            fit -> Inverter      pictures
                ├─ IdentityAttack    fit -> Identifier    ranks
                └─ AttributeAttack   fit -> Probe         attributes
    ```
    `fit` is final: it checks what the threat model grants, then calls `_fit`.

    Attributes:
        name: of the registry.
        needs: what the attacker must hold.
        needs_auxiliary: whether it must have pictures of its own; a property where that depends on the configuration.
        package: what it imports beyond the core, and the extra that installs it.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[Grant]]
    needs_auxiliary: bool = True
    package: ClassVar[tuple[str, str] | None] = None

    def fit(self, view: View, rng: Rng) -> Fitted:
        """Learn from what the view grants.

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
    def _fit(self, view: View, rng: Rng) -> Fitted: ...


class Attack(AttackBase[Inverter]):
    """An attack that rebuilds pictures."""


class IdentityAttack(AttackBase[Identifier]):
    """An attack that recognises who or what is on a picture, among those of a gallery."""


class AttributeAttack(AttackBase[Probe]):
    """An attack that reads one attribute of a picture."""


class Metric(ABC):
    """A score per sample, never reduced here."""

    name: ClassVar[str]
    unit: ClassVar[str]
    safer: ClassVar[Literal["higher", "lower"]]

    @abstractmethod
    def __call__(self, reconstruction: Tensor, original: Tensor) -> Tensor:
        """Pictures ``(n, c, h, w)`` in [0, 1], twice, to ``(n,)``."""
