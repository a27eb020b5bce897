"""Re-identification: whose release is it? Learned on other people than those who are looked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitveil.attacks.labelled import LabelledReleases, Schedule, choose
from splitveil.attacks.standardise import Standardisation, check_standardisation, make_standardise
from splitveil.attacks.view import AttackerView, attacker_view
from splitveil.contracts import FeatureSpec, Identifier, IdentityAttack, View
from splitveil.errors import InputError, SpecError
from splitveil.nets.embedding import EmbeddingNet
from splitveil.rng import Rng
from splitveil.threats import Grant

__all__ = ["EmbeddingIdentifier", "Identify"]

_FEWEST_PICTURES = 8
_FEWEST_FOR_VALIDATION = 6  # identities: with fewer, all are needed to learn from
_FEWEST_HELD_OUT = 2


class EmbeddingIdentifier(Identifier):
    """``E(standardise(r))``, E a small network.

    Args:
        release: spec of r.
        embedding: values of the embedding.
        width: of the network.
        standardise: ``affine`` or ``whiten``.
    """

    def __init__(
        self, release: FeatureSpec, *, embedding: int, width: int, standardise: Standardisation = "affine"
    ) -> None:
        super().__init__()
        self.standardise = make_standardise(standardise, release)
        self.net = EmbeddingNet(release, outputs=embedding, width=width)
        self.facts: dict[str, Any] = {}

    def represent(self, r: Tensor) -> Tensor:
        """``(n, *r)`` to ``(n, embedding)``."""
        vector: Tensor = self.net(self.standardise(r))
        return vector


@dataclass(frozen=True)
class Identify(IdentityAttack):
    """Learn an embedding in which releases of one identity lie together, from auxiliary pictures of other people.

    ```
    r --[ standardise ]--[ EmbeddingNet ]-- e / ||e|| --[ s (cos(e, w_k) - m [k = y]) ]-- softmax over identities
    ```

    After training only the embedding is kept, and a victim's release is matched with a gallery of releases of people
    that the attacker never learned from: `Identifier.scores`. Where queries are granted, each epoch sees fresh noise.
    The epoch is chosen on held-out identities, by the probability that a picture's neighbour in the embedding is of
    the same identity; with fewer than six identities the last epoch is kept.

    Args:
        embedding: values of e.
        width: of the network, see `EmbeddingNet`.
        epochs: passes over the auxiliary pictures.
        batch_size: at least 4.
        lr: first learning rate.
        weight_decay: of Adam.
        scale: s > 0.
        margin: m, in [0, 1).
        val_share: share of the identities held out.
        standardise: ``affine`` per channel, or ``whiten`` the channels' correlations too.

    Raises:
        SpecError: a value out of range.

    Reference:
        Wang et al.: CosFace, CVPR 2018, eq. 4; the choice of the epoch: Goldberger et al., NIPS 2004, eq. 1 and 2.
    """

    name: ClassVar[str] = "identify"
    needs: ClassVar[frozenset[Grant]] = frozenset({"pairs", "labels"})

    embedding: int = 64
    width: int = 32
    epochs: int = 60
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 1e-4
    scale: float = 16.0
    margin: float = 0.1
    val_share: float = 0.1
    standardise: Standardisation = "affine"

    def __post_init__(self) -> None:
        _ = self._schedule
        check_standardisation(self.standardise)
        if min(self.embedding, self.width) < 1 or not (0 < self.scale < 1e6 and 0 <= self.margin < 1):
            raise SpecError(f"expected embedding, width >= 1, scale > 0 and 0 <= margin < 1, got {self}")
        if not 0 < self.val_share < 1:
            raise SpecError(f"expected 0 < val_share < 1, got {self.val_share}")

    @property
    def _schedule(self) -> Schedule:
        return Schedule(self.epochs, self.batch_size, self.lr, self.weight_decay)

    def _fit(self, view: View, rng: Rng) -> EmbeddingIdentifier:
        held = attacker_view(view)
        fit, val, labels, identities = self._split(held, rng)
        releases = LabelledReleases(held, fit, val, labels, self._schedule, rng)
        with rng.child("weights").scoped():
            identifier = EmbeddingIdentifier(
                held.release_spec, embedding=self.embedding, width=self.width, standardise=self.standardise
            )
            training = _CosineSoftmax(identifier, identities, self.embedding, self.scale, self.margin)
        training.to(held.auxiliary.device)
        identifier.standardise.fit([releases.statistics()])
        choice = choose(
            {"network": training},
            releases,
            self._schedule,
            loss=_CosineSoftmax.loss,
            validate=_CosineSoftmax.neighbour_loss if len(val) else None,
            progress=held.progress,
        )
        identifier.facts = {
            "history": choice.history,
            "best_epoch": choice.epoch,
            "identities": identities,
            "val_identities": len(torch.unique(labels[val.to(labels.device)])),
            "pictures": len(fit) + len(val),
            "fresh_noise": releases.fresh,
            "queries": held.queries,
        }
        identifier.eval()
        return identifier

    def _split(self, view: AttackerView, rng: Rng) -> tuple[Tensor, Tensor, Tensor, int]:
        """Indices to learn from, held-out ones of other identities, labels that count the former, and how many."""
        order = torch.randperm(len(view.auxiliary), generator=rng.child("split").generator())
        order = order[: view.affordable(_FEWEST_PICTURES)]
        values, person, counts = torch.unique(view.labels.cpu()[order], return_inverse=True, return_counts=True)
        paired = torch.nonzero(counts > 1).flatten()  # whoever has one picture only cannot be found again
        if len(values) < 2 or not len(paired):
            raise InputError(
                f"expected pictures of at least two identities and two of one, got {len(order)} of {len(values)}: "
                "give the attacker more pictures, with the identity as label"
            )
        held_out = max(_FEWEST_HELD_OUT, round(self.val_share * len(paired)))
        held_out = held_out if len(paired) >= _FEWEST_FOR_VALIDATION else 0
        chosen = paired[torch.randperm(len(paired), generator=rng.child("identities").generator())[:held_out]]
        numbers = torch.arange(len(values))
        is_val = torch.isin(numbers, chosen)
        # those to learn from come first, so that their numbers are rows of the softmax
        rank = torch.argsort(torch.argsort(is_val.long(), stable=True))
        labels = torch.zeros(len(view.auxiliary), dtype=torch.int64)
        labels[order] = rank[person]
        hidden = is_val[person]
        return order[~hidden], order[hidden], labels.to(view.auxiliary.device), len(values) - held_out


class _CosineSoftmax(nn.Module):
    """The embedding and one direction per identity, which is only needed while it learns."""

    def __init__(
        self, identifier: EmbeddingIdentifier, identities: int, embedding: int, scale: float, margin: float
    ) -> None:
        super().__init__()
        self.identifier = identifier
        self.directions = nn.Parameter(torch.randn(identities, embedding))
        self._scale, self._margin = scale, margin

    def loss(self, r: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy of the identities, with the margin."""
        directions = functional.normalize(self.directions, dim=1)
        cosines = functional.normalize(self.identifier.represent(r), dim=1) @ directions.T
        margins = self._margin * functional.one_hot(y, len(directions))
        return functional.cross_entropy(self._scale * (cosines - margins), y)

    def neighbour_loss(self, r: Tensor, y: Tensor) -> float:
        """Minus the log-probability that a neighbour, drawn by its similarity, is of the same identity; the mean."""
        similarity = self._scale * self.identifier.scores(r, r)
        similarity.fill_diagonal_(-torch.inf)
        same = similarity.masked_fill(y[:, None] != y[None], -torch.inf).logsumexp(1)
        loss = similarity.logsumexp(1) - same
        return float(loss[loss.isfinite()].mean())
