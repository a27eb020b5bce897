"""From prices and runs to a plan: which cuts no other cut beats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from splitveil.errors import InputError
from splitveil.experiments.compare.analysis import point_of, read_cell
from splitveil.experiments.compare.plan import Cell
from splitveil.experiments.compare.record import PointRecord, curve_of
from splitveil.experiments.compare.validity import UNDEFENDED, check_undefended, controls_beaten, status_of
from splitveil.experiments.planning.record import CutRecord, PlanRecord, Trial
from splitveil.metrics.front import pareto_front
from splitveil.nets.cutting import Cut
from splitveil.records import Evaluation, RunRecord
from splitveil.threats import ThreatModel

__all__ = ["judge_cuts", "mark_untried"]

_UNTRIED = ("payload_bytes", "edge_parameters", "edge_multiply_adds")
_TRIED = ("accuracy", "attacker_mse", "payload_bytes", "edge_multiply_adds")


def mark_untried(
    model: str, cuts: Sequence[Cut], *, input_shape: Sequence[int], classes: int, bottleneck: int | None
) -> PlanRecord:
    """The plan of a network that nothing was trained of.

    Args:
        model: name of the network.
        cuts: of `list_cuts`, in order.
        input_shape: of a picture.
        classes: k.
        bottleneck: channels on the wire.

    Raises:
        InputError: there is no cut.
    """
    if not cuts:
        raise InputError(f"expected places to cut in '{model}', got none: choose another network, or no bottleneck")
    front = pareto_front([[cut.payload_bytes, cut.edge_parameters, cut.edge_multiply_adds] for cut in cuts])
    return PlanRecord(
        model=model,
        input_shape=tuple(input_shape),
        classes=classes,
        bottleneck=bottleneck,
        objectives=_UNTRIED,
        cuts=tuple(
            CutRecord(
                at=cut.name,
                shape=cut.shape,
                payload_bytes=cut.payload_bytes,
                edge_parameters=cut.edge_parameters,
                edge_multiply_adds=cut.edge_multiply_adds,
                cloud_share=cut.cloud_share,
                front=bool(kept),
            )
            for cut, kept in zip(cuts, front, strict=True)
        ),
    )


def judge_cuts(
    model: str,
    cells: Sequence[Cell],
    runs: Path,
    *,
    known: Sequence[Cut],
    bottleneck: int | None,
    threat: ThreatModel,
    recipe: str,
    failed: Mapping[str, str],
) -> PlanRecord:
    """Read the finished runs of a plan.

    Args:
        model: name of the network.
        cells: one per place and seed, and undefended ones at the first place.
        runs: folder of the runs.
        known: what is known of the places without training.
        bottleneck: channels on the wire, None for the features as they are.
        threat: of the attacks.
        recipe: name, for the record.
        failed: errors by cell; these are left out.

    Raises:
        InputError: no run at any place has finished.
    """
    places = list(dict.fromkeys(cell.spec.model.kwargs["at"] for cell in cells))
    plain = [
        cell for cell in cells if cell.spec.defense.name == UNDEFENDED and cell.spec.model.kwargs["at"] == places[0]
    ]
    undefended = _point(plain, runs, threat, failed)
    defended = [cell for cell in cells if cell.spec.defense == cells[0].spec.defense]
    shares = {cut.name: cut.cloud_share for cut in known}
    found: list[CutRecord] = []
    for place in places:
        group = [cell for cell in defended if cell.spec.model.kwargs["at"] == place]
        point = _point(group, runs, threat, failed)
        if point is not None:
            found.append(_tried(place, point, _evaluation(runs, point), shares.get(place)))
    if not found:
        raise InputError(f"expected a cut whose run finished, got {len(failed)} that failed: read their errors above")
    evaluation, first = _evaluation(runs, _given(found[0])), found[0]
    beside = [_given(first)] if first.at == places[0] and _given(first).defense.name != UNDEFENDED else []
    tried = {curve_of(cells[0].spec.defense): {cut.at: _given(cut) for cut in found}}
    checks = (*check_undefended([*([undefended] if undefended else []), *beside]), controls_beaten(tried))
    return PlanRecord(
        model=model,
        input_shape=evaluation.input_shape,
        classes=len(evaluation.class_names),
        bottleneck=bottleneck,
        objectives=_TRIED,
        cuts=_marked(found),
        trial=Trial(
            data=cells[0].spec.data.model_dump(mode="json"),
            defense=cells[0].spec.defense,
            recipe=recipe,
            seeds=tuple(sorted({cell.spec.seed for cell in cells})),
            threat=threat.to_json(),
            undefended=undefended,
            checks=checks,
            status=status_of(checks),
            failed=dict(failed),
        ),
    )


def _point(cells: Sequence[Cell], runs: Path, threat: ThreatModel, failed: Mapping[str, str]) -> PointRecord | None:
    seen = [read_cell(cell, runs / cell.name, threat) for cell in cells if cell.name not in failed]
    return point_of(cells[0].spec.defense, seen, True) if seen else None


def _evaluation(runs: Path, point: PointRecord) -> Evaluation:
    evaluation = RunRecord(runs / point.runs[min(point.runs)]).evaluation
    if evaluation is None:
        raise InputError(f"expected evaluation.json in '{runs}', got none: run the same command again")
    return evaluation


def _given(cut: CutRecord) -> PointRecord:
    if cut.point is None:
        raise InputError(f"expected runs at '{cut.at}', got none: run the same command again")
    return cut.point


def _tried(place: str, point: PointRecord, evaluation: Evaluation, cloud_share: float | None) -> CutRecord:
    """The price is that of what was trained: mechanism, codec and all."""
    return CutRecord(
        at=place,
        shape=tuple(evaluation.release["shape"]),
        payload_bytes=evaluation.payload_bytes,
        edge_parameters=evaluation.edge_parameters,
        edge_multiply_adds=evaluation.edge_multiply_adds or 0,
        cloud_share=cloud_share,
        front=False,
        point=point,
    )


def _marked(cuts: Sequence[CutRecord]) -> tuple[CutRecord, ...]:
    """On validation figures, as all that is chosen is; where the attacker does not beat its controls, on no front."""
    sound = [cut for cut in cuts if _given(cut).beats_controls]
    front = pareto_front([_costs(cut, _given(cut)) for cut in sound]) if sound else ()
    kept = {cut.at for cut, stays in zip(sound, front, strict=True) if stays}
    return tuple(
        cut.model_copy(
            update={"front": cut.at in kept, "point": _given(cut).model_copy(update={"selected": cut.at in kept})}
        )
        for cut in cuts
    )


def _costs(cut: CutRecord, point: PointRecord) -> list[float]:
    return [-point.val_accuracy, -point.val_mse, cut.payload_bytes, cut.edge_multiply_adds]
