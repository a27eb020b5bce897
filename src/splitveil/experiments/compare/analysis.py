"""From runs to curves: selection on validation figures, test scores of what was selected, deltas, controls."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from splitveil.errors import InputError
from splitveil.experiments.attacking import attack_key
from splitveil.experiments.compare.plan import Cell
from splitveil.experiments.compare.record import ComparisonRecord, DeltaRecord, Interval, PointRecord, curve_of
from splitveil.experiments.compare.validity import UNDEFENDED, check_points, status_of
from splitveil.experiments.storage import attack_errors, task_scores
from splitveil.metrics.tradeoff import Points, paired_delta, pareto
from splitveil.records import AttackResult, RunRecord
from splitveil.specs import PlugInSpec
from splitveil.threats import ThreatModel

__all__ = ["Seen", "analyse", "point_of", "read_cell"]

_RESAMPLES = 1000
_LEVEL = 0.95
_KEY = 20_250_303  # of the bootstrap


@dataclass(frozen=True, slots=True)
class Seen:
    """What one finished run says on validation pictures; its scores on test pictures are read when asked for."""

    folder: Path
    seed: int
    val_accuracy: float
    val_mse: float
    attack: AttackResult

    def correct(self) -> NDArray[np.float64]:
        """Of every test picture, ``(n,)``."""
        return np.asarray(task_scores(self.folder), dtype=np.float64)

    def error(self) -> NDArray[np.float64]:
        """Of the attacker on every test picture, ``(n,)``."""
        return np.asarray(attack_errors(self.folder, self.attack), dtype=np.float64)


def analyse(
    cells: Sequence[Cell], out: Path, *, threat: ThreatModel, recipe: str, failed: Mapping[str, str]
) -> ComparisonRecord:
    """Read the finished runs of a comparison.

    Points are selected on validation figures alone: of those of a curve on which every attacker beats its controls,
    those that no other beats in both accuracy and attacker error. Only then are the test scores read, which every run
    took once, and only those of the selected points make curves.

    Args:
        cells: all of the comparison.
        out: folder of the runs.
        threat: of the attacks.
        recipe: name, for the record.
        failed: errors by cell; these are left out.

    Raises:
        InputError: no cell has finished.
    """
    groups: dict[str, list[tuple[Cell, Seen]]] = {}
    for cell in cells:
        if cell.name not in failed:
            label = json.dumps(cell.spec.defense.model_dump(mode="json"), sort_keys=True)
            groups.setdefault(label, []).append((cell, read_cell(cell, out / cell.name, threat)))
    if not groups:
        raise InputError(f"expected a run that finished, got {len(failed)} that failed: read their errors above")
    seen = [(group[0][0].spec.defense, [item for _, item in group]) for group in groups.values()]
    chosen = _select(seen)
    points = [point_of(defense, runs, selected) for (defense, runs), selected in zip(seen, chosen, strict=True)]
    attacks = [run.attack for _, runs in seen for run in runs]
    checks = check_points(points)
    return ComparisonRecord(
        recipe=recipe,
        data=cells[0].spec.data.model_dump(mode="json"),
        seeds=tuple(sorted({cell.spec.seed for cell in cells})),
        points=tuple(points),
        deltas=tuple(_deltas(seen, chosen)),
        checks=checks,
        status=status_of(checks),
        failed=dict(failed),
        converged_share=_converged(attacks),
    )


def read_cell(cell: Cell, folder: Path, threat: ThreatModel) -> Seen:
    """What the finished run of a cell says.

    Raises:
        InputError: it was not attacked, or its log does not say which epoch was selected.
    """
    record = RunRecord(folder)
    wanted = attack_key(cell.attack, threat, cell.spec.seed)
    attack = record.attack(wanted)
    if attack is None:
        raise InputError(
            f"expected the attack '{wanted}' in '{folder}/attacks.json', got none: run the same command again"
        )
    chosen = [event for event in record.events() if event.get("event") == "selected"]
    if not chosen:
        raise InputError(f"expected the selected epoch in '{folder}/events.jsonl', got none: remove the folder")
    return Seen(
        folder=folder,
        seed=cell.spec.seed,
        val_accuracy=chosen[-1]["val_accuracy"],
        val_mse=attack.facts["best_val_mse"],
        attack=attack,
    )


def _mean_validation(runs: Sequence[Seen]) -> tuple[float, float]:
    return float(np.mean([run.val_accuracy for run in runs])), float(np.mean([run.val_mse for run in runs]))


def _select(seen: Sequence[tuple[PlugInSpec, Sequence[Seen]]]) -> list[bool]:
    """Per point, whether it lies on the validation front of its curve.

    A defended point whose attacker does not beat its controls lies on none: its error says nothing of the release.
    """
    chosen = [False] * len(seen)
    sound = [defense.name == UNDEFENDED or _sound(runs) for defense, runs in seen]
    curves: dict[str, list[int]] = {}
    for place, (defense, _) in enumerate(seen):
        if sound[place]:
            curves.setdefault(curve_of(defense), []).append(place)
    for places in curves.values():
        figures = np.array([_mean_validation(seen[place][1]) for place in places])
        for place, kept in zip(places, pareto(figures[:, 0], figures[:, 1]), strict=True):
            chosen[place] = bool(kept)
    return chosen


def _sound(runs: Sequence[Seen]) -> bool:
    return all(run.attack.beats_controls for run in runs)


def _holds_its_own(attack: AttackResult) -> bool:
    """Whether an attack beats its controls, or none of them does better beyond their intervals, as an audit asks."""
    return attack.beats_controls or (bool(attack.controls) and not attack.better_controls)


def _stack(runs: Sequence[Seen], seeds: Sequence[int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Correctness and errors ``(s, n)`` of these seeds."""
    by_seed = {run.seed: run for run in runs}
    return np.stack([by_seed[seed].correct() for seed in seeds]), np.stack([by_seed[seed].error() for seed in seeds])


def point_of(defense: PlugInSpec, runs: Sequence[Seen], selected: bool) -> PointRecord:
    """The record of a point from its runs, one per seed."""
    val_accuracy, val_mse = _mean_validation(runs)
    correct, error = _stack(runs, [run.seed for run in runs])
    psnr = [run.attack.metrics["psnr"].mean for run in runs]
    return PointRecord(
        defense=defense,
        runs={run.seed: run.folder.name for run in runs},
        val_accuracy=val_accuracy,
        val_mse=val_mse,
        selected=selected,
        accuracy=_interval(correct),
        mse=_interval(error),
        psnr_db=float(np.mean(psnr)),
        converged_share=_converged([run.attack for run in runs]),
        controls=tuple(sorted(set.intersection(*({*run.attack.controls} for run in runs)))),
        beats_controls=_sound(runs),
        tells_nothing=not _sound(runs) and all(_holds_its_own(run.attack) for run in runs),
    )


def _interval(values: NDArray[np.float64]) -> Interval:
    """Mean over seeds and pictures ``(s, n)``, both resampled."""
    rng = np.random.default_rng(_KEY)
    seeds, pictures = values.shape
    by_seed = rng.multinomial(seeds, np.full(seeds, 1 / seeds), _RESAMPLES) / seeds
    by_picture = rng.multinomial(pictures, np.full(pictures, 1 / pictures), _RESAMPLES) / pictures
    means = np.einsum("bs,sb->b", by_seed, values @ by_picture.T)
    low, high = np.quantile(means, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return Interval(mean=float(values.mean()), low=float(low), high=float(high))


def _converged(attacks: Sequence[AttackResult]) -> float | None:
    known = [attack.converged for attack in attacks if attack.converged is not None]
    return float(np.mean(known)) if known else None


def _deltas(seen: Sequence[tuple[PlugInSpec, Sequence[Seen]]], chosen: Sequence[bool]) -> list[DeltaRecord]:
    """Every later curve over every earlier one, on the points that were selected and the seeds all of them have."""
    curves: dict[str, list[Sequence[Seen]]] = {}
    for (defense, runs), kept in zip(seen, chosen, strict=True):
        if defense.name != UNDEFENDED:
            curves.setdefault(curve_of(defense), []).extend([runs] if kept else [])
    return [_delta(a, curves[a], b, curves[b]) for a, b in itertools.combinations(curves, 2)]


def _delta(reference: str, below: Sequence[Sequence[Seen]], other: str, above: Sequence[Sequence[Seen]]) -> DeltaRecord:
    if not below or not above:
        return DeltaRecord.without_number(reference, other, "controls not beaten", _LEVEL)
    shared = set.intersection(*({run.seed for run in runs} for runs in (*below, *above)))
    seeds = sorted(shared)
    if not seeds:
        return DeltaRecord.without_number(reference, other, "no shared seed", _LEVEL)

    def gather(points: Sequence[Sequence[Seen]]) -> Points:
        stacks = [_stack(runs, seeds) for runs in points]
        return Points(np.stack([correct for correct, _ in stacks]), np.stack([error for _, error in stacks]))

    found = paired_delta(
        gather(below), gather(above), resamples=_RESAMPLES, level=_LEVEL, rng=np.random.default_rng(_KEY)
    )
    attacks = [run.attack for runs in (*below, *above) for run in runs if run.seed in shared]
    return DeltaRecord.from_summary(reference, other, found, _converged(attacks))
