"""The tables of the page as text, cell by cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from splitveil.records import AttackResult, Evaluation, MetricResult
from splitveil.report.runs import METRIC_NAMES, Run
from splitveil.report.validity import CONTROL_NAMES, Judgement
from splitveil.report.wording import DASH, INVALID, amount, fixed, interval, joined, scalar, size_bytes

__all__ = ["Cell", "ControlRow", "ResultRow", "ThreatBox", "control_names", "control_rows", "result_rows", "threats"]

_GRANTS = {
    "weights": "the weights of the head",
    "architecture": "its architecture",
    "query": "releases of pictures of its choice",
    "pairs": "pairs of picture and release",
    "tail": "the half that runs in the cloud",
    "labels": "the labels of its own pictures",
}
_AUXILIARY = {
    "train": "the training pictures themselves",
    "same": "of the same kind, none of them scored or trained on",
    "shifted": "of another kind",
    "none": "none",
}


@dataclass(frozen=True, slots=True)
class Cell:
    """A number, what stands below it in small print, how it is marked (``''``, ``invalid``, ``best``), and by whom."""

    text: str
    small: str = ""
    mark: str = ""
    by: str = ""


@dataclass(frozen=True, slots=True)
class ResultRow:
    """One run in the table of results."""

    label: str
    colour: int
    note: str
    accuracy: Cell
    scores: tuple[Cell, ...]
    worst_picture: Cell
    payload: str
    edge_parameters: Cell
    converged: str
    beats_controls: str


def result_rows(runs: Sequence[Run], judgements: Sequence[Judgement]) -> list[ResultRow]:
    """One row per run; an invalid score is the word and not the number."""
    several = len({attack.key for run in runs for attack in run.attacks}) > 1
    return [_result(run, judgement, several) for run, judgement in zip(runs, judgements, strict=True)]


def _result(run: Run, judgement: Judgement, several_attacks: bool) -> ResultRow:
    evaluation, headline = run.evaluation, run.headline
    accuracy = evaluation.score.result if evaluation else None
    invalid = judgement.status == "invalid"
    scores, worst = [], Cell(DASH)
    for name in METRIC_NAMES:
        finding = run.worst.get(name)
        if finding is None:
            scores.append(Cell(DASH))
            continue
        small, by = interval(name, finding.result), _who(finding.attack) if several_attacks else ""
        scores.append(Cell(INVALID, "", "invalid") if invalid else Cell(amount(name, finding.result), small, "", by))
        if name == "psnr":
            among = f"of {scalar(finding.result.n)}"
            worst = Cell(INVALID, "", "invalid") if invalid else Cell(fixed(finding.result.worst, 1), among)
    notes = [judgement.reason, *run.notes]
    return ResultRow(
        label=run.label,
        colour=run.colour,
        note="; ".join(note for note in notes if note),
        accuracy=Cell(amount("accuracy", accuracy), interval("accuracy", accuracy)),
        scores=tuple(scores),
        worst_picture=worst,
        payload=size_bytes(evaluation.payload_bytes if evaluation else None),
        edge_parameters=_edge(evaluation),
        converged=scalar(headline.converged if headline else None),
        beats_controls=scalar(headline.beats_controls if headline else None),
    )


def _who(attack: AttackResult) -> str:
    """An attack in few words; what tells it from others of its name stands where all of them are listed."""
    seen = int(attack.threat.get("observations", 1))
    near = "near duplicates" if attack.threat.get("duplicates") == "near" else "releases"
    return attack.attack.name + (f", {seen} {near}" if seen > 1 else "")


def _edge(evaluation: Evaluation | None) -> Cell:
    """Parameters on the device, and multiply-adds per picture where they were counted."""
    spent = evaluation.edge_multiply_adds if evaluation else None
    told = "" if spent is None else f"{spent / 1e6:.3g} M MACs"
    return Cell(scalar(evaluation.edge_parameters if evaluation else None), told)


@dataclass(frozen=True, slots=True)
class ControlRow:
    """One attack on one run beside its controls; the strongest attacker's cell is marked ``best``."""

    label: str
    colour: int
    attack: str
    cells: tuple[Cell, ...]
    beats_controls: bool


def control_names(runs: Sequence[Run]) -> list[str]:
    """The controls that any run has, the known ones first."""
    found = {name for run in runs for attack in run.attacks for name in attack.controls}
    return [*(name for name in CONTROL_NAMES if name in found), *sorted(found - set(CONTROL_NAMES))]


def control_rows(runs: Sequence[Run]) -> list[ControlRow]:
    """Every attack of every run beside its controls: PSNR, with the MSE below."""
    names = control_names(runs)
    return [
        ControlRow(run.label, run.colour, run.name_of(attack), _control_cells(attack, names), attack.beats_controls)
        for run in runs
        for attack in run.attacks
    ]


def _control_cells(attack: AttackResult, names: Sequence[str]) -> tuple[Cell, ...]:
    scores = [*(attack.controls.get(name, {}) for name in names), attack.metrics]
    errors = [score["mse"].mean if "mse" in score else float("inf") for score in scores]
    strongest = errors.index(min(errors))
    return tuple(
        Cell(amount("psnr", score.get("psnr")), _error(score.get("mse")), "best" if number == strongest else "")
        for number, score in enumerate(scores)
    )


def _error(result: MetricResult | None) -> str:
    return f"MSE {amount('mse', result)}" if result else ""


@dataclass(frozen=True, slots=True)
class ThreatBox:
    """What the attacker of some runs was granted."""

    runs: str
    rows: tuple[tuple[str, str], ...]


def threats(runs: Sequence[Run]) -> list[ThreatBox]:
    """What attackers were granted, once per set of equal grants; after the first only what differs from it."""
    boxes: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for run in runs:
        for attack in run.attacks:
            boxes.setdefault(_threat(run, attack), []).append(run.label)
    first = next(iter(boxes), ())
    return [
        ThreatBox(
            joined(list(dict.fromkeys(labels))),
            rows if rows == first else tuple(row for row in rows if row[0] == "Attack" or row not in first),
        )
        for rows, labels in boxes.items()
    ]


def _threat(run: Run, attack: AttackResult) -> tuple[tuple[str, str], ...]:
    threat = attack.threat
    grants = [str(grant) for grant in threat.get("grants", [])]
    held = [_GRANTS.get(grant, grant) for grant in (*(g for g in _GRANTS if g in grants), *grants)]
    denied = [text for grant, text in _GRANTS.items() if grant not in grants]
    budget = threat.get("query_budget")
    scored = next(iter(attack.metrics.values()), None)
    auxiliary = str(threat.get("auxiliary", DASH))
    own = attack.facts.get("auxiliary_pictures", run.evaluation.splits.get("aux") if run.evaluation else None)
    count = "" if auxiliary == "none" or own is None else f"{scalar(own)}, "
    return (
        ("Attack", run.name_of(attack)),
        ("Holds", joined(list(dict.fromkeys(held))) or "nothing"),
        ("Does not hold", joined(denied) or "nothing of the kind"),
        ("Knows the mechanism", scalar(threat.get("knows_mechanism"))),
        ("Own pictures", f"{count}{_AUXILIARY.get(auxiliary, auxiliary)}"),
        ("Queries", f"{scalar(attack.facts.get('queries'))} used, {'no limit' if budget is None else scalar(budget)}"),
        ("Releases seen per picture", scalar(threat.get("observations"))),
        ("Pictures scored", scalar(scored.n if scored else None)),
    )
