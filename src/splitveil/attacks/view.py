"""What an attacker holds: a capability, so that cheating takes intent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from splitveil.attacks.observing import IndexedNoise, observe
from splitveil.attacks.subjects import ModelSubject, zero_of
from splitveil.contracts import (
    Attack,
    FeatureSpec,
    GaussianChannel,
    Inverter,
    NoiseSource,
    NoiseSpec,
    Subject,
    View,
)
from splitveil.data.loader import Pictures
from splitveil.data.paired import PairedPictures
from splitveil.errors import ContractError, InputError, ThreatModelError
from splitveil.modes import device_of, evaluating
from splitveil.noise import SeededNoise
from splitveil.rng import Rng
from splitveil.threats import Grant, ThreatModel

__all__ = ["AttackerView", "AuxiliaryPictures", "Progress", "attacker_view"]

Progress = Callable[[dict[str, Any]], None]
"""Called with facts about an attack that is being fitted: ``epoch`` of ``epochs``, and its errors."""


class AuxiliaryPictures:
    """The attacker's own pictures, without their labels: those are a grant of their own.

    Args:
        pictures: the table on its device.
    """

    def __init__(self, pictures: Pictures) -> None:
        self._pictures = pictures

    def __len__(self) -> int:
        return len(self._pictures)

    @property
    def device(self) -> torch.device:
        """Where the pictures are."""
        return self._pictures.device

    def get(self, indices: Tensor) -> Tensor:
        """Pictures ``(m, c, h, w)``, float32 in [0, 1], at these indices."""
        return self._pictures.get(indices)[0]

    def batches(self, batch_size: int) -> Iterator[Tensor]:
        """All pictures in order, the last batch as small as it comes."""
        return (x for x, _ in self._pictures.batches(batch_size))


class AttackerView:
    """A subject as a threat model lets an attacker see it.

    ```
    subject --[ grants, budget, observations ]-- view -- Attack.fit
    ```

    Args:
        subject: what is attacked.
        threat: what the attacker is granted.
        auxiliary: its own pictures; never those of the test split. `PairedPictures` bring the releases that an attacker
            without queries holds of them.
        rng: key of the releases that are drawn once and for all, where only pairs are granted.
        observed: releases that passed the wire, of pictures that nobody but the edge has seen; None for none. Whoever
            holds the tail sees them anyway.
        lender: fits an attack that another builds on, once for all who ask, and says what that cost in queries; None
            lets each attack fit its own.

    Raises:
        ThreatModelError: the threat grants what the subject cannot offer, or more observations than the pairs hold.

    Attributes:
        queries: releases that were asked for.
        progress: called with facts about an attack that is being fitted, such as one epoch's errors.
    """

    def __init__(
        self,
        subject: Subject,
        threat: ThreatModel,
        *,
        auxiliary: Pictures | None,
        rng: Rng,
        observed: Callable[[], Tensor] | None = None,
        lender: Callable[[Attack, Progress | None], tuple[Inverter, int]] | None = None,
    ) -> None:
        missing = sorted(threat.grants - subject.offers)
        if missing:
            raise ThreatModelError(
                f"expected a threat model within what {type(subject).__name__} offers "
                f"({', '.join(sorted(subject.offers))}), got one that grants {', '.join(missing)} too: "
                "drop these grants, or audit the run instead of the file"
            )
        if isinstance(auxiliary, PairedPictures) and threat.observations != 1 and not threat.allows("query"):
            raise ThreatModelError(
                f"expected observations = 1 with stored pairs, got {threat.observations}: they hold one release "
                "of each picture; attack with one, or combine several before they are stored"
            )
        self._subject, self._auxiliary, self._rng = subject, auxiliary, rng
        self._observed, self._lender = observed, lender
        self._paired: Tensor | None = None
        self.threat = threat
        self.input_shape: tuple[int, ...] = subject.input_shape
        self.release_spec: FeatureSpec = subject.release_spec
        self.queries = 0
        self.progress: Progress | None = None

    def borrow(self, attack: Attack, rng: Rng) -> Inverter:
        """An attack of the same attacker, to build on; fitted once for all who ask.

        Under a query budget each attack is an attacker with a budget of its own, and fits what it needs itself.

        Args:
            attack: what to fit.
            rng: key of the fit, where nobody lends.
        """
        if self._lender is None or self.threat.query_budget is not None:
            return attack.fit(self, rng)
        inverter, queries = self._lender(attack, self.progress)
        self.queries += queries
        return inverter

    def release(self, x: Tensor, rng: Rng) -> Tensor:
        """Ask for releases of pictures of the attacker's choice; costs one query per picture and observation.

        Args:
            x: ``(n, c, h, w)``, float32 in [0, 1].
            rng: key of the noise; another key, fresh noise.

        Returns:
            ``(n, *r)``, what all observations of each picture amount to.

        Raises:
            ThreatModelError: queries are not granted, or the budget is spent.
        """
        self._require("query")
        self._spend(len(x))
        return self._observe(x, lambda key: SeededNoise(key), rng)

    def pairs(self, indices: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
        """Auxiliary pictures and their releases.

        An attacker who may query draws fresh releases. One who only holds pairs has a single release of each picture,
        the stored one where the auxiliary pictures are `PairedPictures`, and asking again gives the same.

        Args:
            indices: ``(m,)`` int64, into `auxiliary`.
            rng: key of the noise of fresh releases.

        Returns:
            Pictures ``(m, c, h, w)`` in [0, 1] and releases ``(m, *r)``.

        Raises:
            ThreatModelError: neither queries nor pairs are granted, or the budget is spent.
            InputError: there is no picture at an index.
        """
        self._require("pairs")
        places, held = indices.cpu(), len(self.auxiliary)
        if not bool(((places >= 0) & (places < held)).all()):  # -1 would be a second name of a picture
            raise InputError(
                f"expected indices from 0 to {held - 1}, got {int(places.min())} to {int(places.max())}: "
                "choose among the auxiliary pictures"
            )
        if self.threat.allows("query"):
            x = self.auxiliary.get(indices)
            return x, self.release(x, rng)
        x, known = self.auxiliary.get(indices), self._known_pairs()
        self._spend(len(torch.unique(places[~known[places]])))
        known[places] = True
        table = self._table()
        if isinstance(table, PairedPictures):
            return x, table.release_of(indices)
        return x, self._observe(x, lambda key: IndexedNoise(key, places), self._rng)

    def _known_pairs(self) -> Tensor:
        if self._paired is None:
            self._paired = torch.zeros(len(self.auxiliary), dtype=torch.bool)
        return self._paired

    def _observe(self, x: Tensor, source: Callable[[Rng], NoiseSource], rng: Rng) -> Tensor:
        return observe(self._subject, x, self.threat, source=source, rng=rng)

    def _spend(self, pictures: int) -> None:
        budget, cost = self.threat.query_budget, pictures * self.threat.observations
        if budget is not None and self.queries + cost > budget:
            raise ThreatModelError(
                f"expected at most {budget} queries, got {self.queries} and {cost} more "
                f"({pictures} pictures x {self.threat.observations} observations): raise query_budget or ask for less"
            )
        self.queries += cost

    @property
    def queries_left(self) -> int | None:
        """Queries that the budget still holds, or None without a budget."""
        return None if self.threat.query_budget is None else self.threat.query_budget - self.queries

    @contextmanager
    def within(self, parts: int) -> Iterator[None]:
        """Where there is a budget, only a part of what is left of it may be spent inside.

        Args:
            parts: that the rest of the budget is divided into, >= 1.
        """
        threat, left = self.threat, self.queries_left
        if left is not None:
            self.threat = replace(threat, query_budget=self.queries + left // parts)
        try:
            yield
        finally:
            self.threat = threat

    def affordable(self, fewest: int, most: int | None = None) -> int:
        """How many auxiliary pictures the queries that are left pay for, once each.

        Args:
            fewest: that the attack can do with.
            most: that it wants.

        Raises:
            ThreatModelError: the budget pays for fewer pictures than that.
            InputError: there are fewer auxiliary pictures than that.
        """
        held, left = len(self.auxiliary), self.queries_left
        if held < fewest:
            raise InputError(f"expected at least {fewest} auxiliary pictures, got {held}: enlarge aux_share")
        paid = held if left is None else min(held, left // self.threat.observations)
        if paid < fewest:
            raise ThreatModelError(
                f"expected a budget of at least {fewest * self.threat.observations} queries, got {left}: "
                "raise query_budget"
            )
        return paid if most is None else min(paid, most)

    def simulate(self, x: Tensor, noises: tuple[Tensor, ...]) -> Tensor:
        """The release as a differentiable function of x, in evaluation mode: the white box, without any query.

        Raises:
            ThreatModelError: the weights are not granted.
        """
        model = self._white_box().model
        with evaluating(model):
            return model.simulate(x, noises)

    def simulate_all(self, x: Tensor, draws: Sequence[tuple[Tensor, ...]]) -> list[Tensor]:
        """`simulate` under several draws, each of one row that all pictures share; the head computes features once."""
        model = self._white_box().model
        rows = [tuple(noise.expand(len(x), *noise.shape[1:]) for noise in noises) for noises in draws]
        with evaluating(model):
            return model.simulate_all(x, rows)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return device_of(self._white_box().model)

    def draw(self, rng: Rng) -> tuple[Tensor, ...]:
        """One row of the noises that `simulate` takes, of this key."""
        model = self._white_box().model
        return model.draw(SeededNoise(rng), 1, self.device)

    def simulate_with(self, x: Tensor, rng: Rng) -> Tensor:
        """`simulate` under noise of this key."""
        model = self._white_box().model
        return self.simulate(x, model.draw(SeededNoise(rng), len(x), x.device))

    def combine(self, r: Tensor) -> Tensor:
        """What several releases of each picture amount to: ``(n, m, *r)`` to ``(n, *r)``."""
        return self._subject.combine(r)

    @property
    def zero(self) -> Tensor:
        """``(*r)``: what a zero of the release arrives as, by the codec that everybody knows."""
        return zero_of(self._subject)

    def hidden_within(self, r: Tensor) -> Tensor | None:
        """The magnitude ``(n, 1, ...)`` that no value exceeds which a mask hides of releases with zeros; None: any."""
        return self._white_box().model.mechanism.hidden_within(r)

    def channel(self, x: Tensor) -> GaussianChannel | None:
        """The Gaussian stage that the mechanism declares, at these pictures; None where it declares none.

        Raises:
            ThreatModelError: the weights are not granted.
        """
        model = self._white_box().model
        with evaluating(model), torch.no_grad():
            return model.features(x)[1]

    def unmasked(self) -> AttackerView | None:
        """The same attacker before a wire that hides nothing, whose releases show what masks let pass, one by one.

        None where zeros of a release do not say that something is hidden.

        Raises:
            ThreatModelError: the weights are not granted.
        """
        model = self._white_box().model
        bare = model.mechanism.unmasked()
        if bare is None:
            return None
        subject = ModelSubject(model.with_mechanism(bare))
        return AttackerView(subject, replace(self.threat, observations=1), auxiliary=self._auxiliary, rng=self._rng)

    @property
    def noise_specs(self) -> tuple[NoiseSpec, ...]:
        """The noises that `simulate` takes."""
        return self._white_box().model.noise_specs

    @property
    def observed(self) -> Tensor:
        """Releases ``(m, *r)`` of unknown pictures: the traffic that the cloud serves. They cost no query.

        Raises:
            ThreatModelError: the tail is not granted, or there was no traffic.
        """
        self._require("tail")
        if self._observed is None:
            raise ThreatModelError("expected releases that passed the wire, got none: choose an attack that needs none")
        return self._observed()

    @property
    def tail(self) -> Callable[[Tensor], Tensor]:
        """What the cloud holds: ``(n, *r)`` to the reply."""
        self._require("tail")
        return self._model_subject().tail

    @property
    def architecture(self) -> Callable[[Rng], nn.Module]:
        """A function that builds a head of the same architecture with fresh weights."""
        self._require("architecture")
        return self._model_subject().architecture

    @property
    def auxiliary(self) -> AuxiliaryPictures:
        """The attacker's own pictures."""
        return AuxiliaryPictures(self._table())

    @property
    def labels(self) -> Tensor:
        """``(n,)`` int64, the labels of the auxiliary pictures."""
        self._require("labels")
        return self._table().labels

    @property
    def task_labels(self) -> Tensor | None:
        """Labels as the subject's task numbers them; None where they are not granted, or of another data set."""
        return self.labels if self.threat.allows("labels") and not self.threat.is_foreign else None

    def _table(self) -> Pictures:
        if self.threat.auxiliary == "none" or self._auxiliary is None:
            raise ThreatModelError(
                "expected auxiliary pictures, got none under this threat model: "
                "grant some, or choose an attack that needs none"
            )
        return self._auxiliary

    def _white_box(self) -> ModelSubject:
        self._require("weights")
        return self._model_subject()

    def _model_subject(self) -> ModelSubject:
        if not isinstance(self._subject, ModelSubject):
            raise ContractError(
                f"expected a ModelSubject behind what {type(self._subject).__name__} offers: "
                "offer query, pairs and labels only"
            )
        return self._subject

    def _require(self, grant: Grant) -> None:
        if not self.threat.allows(grant):
            raise ThreatModelError(
                f"expected a threat model that grants '{grant}', got one that grants "
                f"{', '.join(sorted(self.threat.grants)) or 'nothing'}: choose another attack or threat"
            )


def attacker_view(view: View) -> AttackerView:
    """The view as the class that hands out pairs, labels and the tail.

    Raises:
        ContractError: it is another kind of view.
    """
    if not isinstance(view, AttackerView):
        raise ContractError(f"expected an AttackerView, got {type(view).__name__}: wrap the subject in one")
    return view
