"""The lattice of attacks: what each of them reaches, by what its attacker holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from splitveil.audit.record import FILE, AuditRecord
from splitveil.records import AttackResult
from splitveil.report.runs import Run
from splitveil.report.validity import Judgement
from splitveil.report.wording import amount, fixed, joined

__all__ = ["HeatCell", "Lattice", "LatticeRow", "lattices"]


@dataclass(frozen=True, slots=True)
class HeatCell:
    """An attacker's error, and how hot the cell is: 100 for a copy, 0 for what the mean picture errs or more."""

    mse: str
    psnr_db: str
    heat: int


@dataclass(frozen=True, slots=True)
class LatticeRow:
    """One attack under every holding; None where it needs more."""

    label: str
    cells: tuple[HeatCell | None, ...]


@dataclass(frozen=True, slots=True)
class Lattice:
    """Attacks by holdings of one audited run.

    Args:
        holdings: columns, in words; from those who hold least.
        rows: the attacks, the most damaging first.
        worst: the least error of all attacks that a holding allows.
        invalid: whether the audit is void, so that no number may be read.
    """

    label: str
    colour: int
    holdings: tuple[str, ...]
    rows: tuple[LatticeRow, ...]
    worst: tuple[HeatCell | None, ...]
    invalid: bool


def lattices(runs: Sequence[Run], judgements: Sequence[Judgement]) -> list[Lattice]:
    """Those of the runs that were audited."""
    return [
        _lattice(run, AuditRecord.read(run.record.path), judgement)
        for run, judgement in zip(runs, judgements, strict=True)
        if (run.record.path / FILE).is_file()
    ]


def _lattice(run: Run, found: AuditRecord, judgement: Judgement) -> Lattice:
    ordered = sorted(found.attacks, key=lambda attack: attack.metrics["mse"].mean)
    needs = {attack.key: frozenset(found.needs[attack.key]) for attack in ordered}
    holdings = sorted(set(needs.values()), key=lambda held: (len(held), sorted(held)))
    blind = _blind(ordered)

    def cell(attack: AttackResult, held: frozenset[str]) -> HeatCell | None:
        return _cell(attack, blind) if needs[attack.key] <= held else None

    able = [[attack for attack in ordered if needs[attack.key] <= held] for held in holdings]
    return Lattice(
        label=run.label,
        colour=run.colour,
        holdings=tuple(joined(sorted(held)) or "nothing" for held in holdings),
        rows=tuple(
            LatticeRow(_name(run, attack), tuple(cell(attack, held) for held in holdings)) for attack in ordered
        ),
        worst=tuple(_cell(attacks[0], blind) if attacks else None for attacks in able),
        invalid=found.status == "invalid" or judgement.status == "invalid",
    )


def _name(run: Run, attack: AttackResult) -> str:
    """As the rest of the page calls it where it does; an audit may hold attacks that the run's record lost."""
    told = [value for value in attack.attack.params.values() if isinstance(value, str)]
    return run.attack_names.get(attack.key) or " ".join([attack.attack.name, *told])


def _blind(attacks: Sequence[AttackResult]) -> float:
    """What an attacker who sees nothing errs; the largest error of the audit where nobody measured it."""
    seen = [attack.controls["mean_image"]["mse"].mean for attack in attacks if "mean_image" in attack.controls]
    return max(seen, default=max(attack.metrics["mse"].mean for attack in attacks)) or 1.0


def _cell(attack: AttackResult, blind: float) -> HeatCell:
    error = attack.metrics["mse"]
    heat = round(100 * (1 - min(error.mean / blind, 1.0)))
    return HeatCell(fixed(error.mean, 4), amount("psnr", attack.metrics.get("psnr")), heat)
