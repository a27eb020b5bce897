"""Curves of training and of attacks, from the event log and the attacks' facts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from splitveil.report.lineplot import DASHES, Line, line_plot
from splitveil.report.runs import Run
from splitveil.report.wording import scalar, score_word

__all__ = ["Curve", "Legend", "attack_curves", "fact_rows", "training_curves"]


@dataclass(frozen=True, slots=True)
class Legend:
    """One entry: the page's colour, the name, and the dash pattern as the legend draws it."""

    colour: int
    name: str
    dash: int = 0

    @property
    def dash_array(self) -> str:
        """The value of ``stroke-dasharray`` for a stroke 2 wide; empty for a solid line."""
        return " ".join(f"{2 * length:g}" for length in DASHES[self.dash % len(DASHES)])


@dataclass(frozen=True, slots=True)
class Curve:
    """A plot, its legend, and what it says in words for those who do not see it."""

    title: str
    svg: Markup
    legend: tuple[Legend, ...]
    description: str

    @classmethod
    def drawn(cls, title: str, lines: Sequence[Line], legend: Sequence[Legend], said: str, y_label: str = "") -> Curve:
        """Draw lines over epochs; each line has a name of its own."""
        svg = line_plot(lines, y_label=y_label, said=f"{title}: {said}")
        return cls(title, svg, tuple(legend), said)


def training_curves(run: Run) -> list[Curve]:
    """The loss term by term with its effective weight, the accuracy, and the information, over the epochs of a run."""
    drawn = (_loss_curve(run), _accuracy_curve(run), _information_curve(run))
    return [curve for curve in drawn if curve]


def _loss_curve(run: Run) -> Curve | None:
    totals = _series(run.epochs, "loss")
    names = list(dict.fromkeys(name for epoch in run.epochs for name in _mapping(epoch, "terms")))
    if not _any(totals) and not names:
        return None
    # a second curve on top of the first would say nothing
    whole, names = (f"loss ({names[0]} alone)", []) if len(names) == 1 else ("loss", names)
    lines, legend = [Line(run.colour, totals, 0, whole)], [Legend(run.colour, whole)]
    for dash, name in enumerate(names, start=1):
        values = _number_list(_mapping(epoch, "terms").get(name) for epoch in run.epochs)
        weights = _number_list(_mapping(epoch, "weights").get(name, 1.0) for epoch in run.epochs)
        weighted = tuple(value * weight for value, weight in zip(values, weights, strict=True))
        legend.append(Legend(run.colour, _weighted_name(name, weights), dash))
        lines.append(Line(run.colour, weighted, dash, legend[-1].name))
    said = "; ".join(f"{entry.name}: {_ends(line.values)}" for entry, line in zip(legend, lines, strict=True))
    return Curve.drawn("Loss, each term times its weight", lines, legend, said)


def _weighted_name(name: str, weights: Sequence[float]) -> str:
    known = [weight for weight in weights if math.isfinite(weight)]
    if not known or set(known) == {1.0}:
        return name
    low, high = min(known), max(known)
    span = scalar(high) if low == high else f"{scalar(low)} to {scalar(high)}"
    return f"{name} × {span}"  # noqa: RUF001 - a multiplication sign


def _accuracy_curve(run: Run) -> Curve | None:
    train, val = (_series(run.epochs, name, 100.0) for name in ("train_accuracy", "val_accuracy"))
    colour = run.colour
    entries = [
        (Line(colour, val, 0, "validation"), Legend(colour, "validation")),
        (Line(colour, train, 1, "training"), Legend(colour, "training", 1)),
    ]
    shown = [(line, entry) for line, entry in entries if _any(line.values)]
    if not shown:
        return None
    said = "; ".join(f"{entry.name}: {_ends(line.values)}" for line, entry in shown)
    lines, legend = [line for line, _ in shown], [entry for _, entry in shown]
    word = score_word([run.evaluation.score.name] if run.evaluation else [])
    return Curve.drawn(f"{word[:1].upper()}{word[1:]}, %", lines, legend, said)


def _information_curve(run: Run) -> Curve | None:
    """What a penalty's mixture says of the information in a release, on pictures that it was not fitted to."""
    names = {
        "held_out_nats": "held out, mean",
        "upper_nats": "held out, 99.9 % limit",
        "theorem2_nats": "Theorem 2, in sample: no bound",
    }
    facts = [_mapping(epoch, "facts") for epoch in run.epochs]
    lines, legend = [], []
    for dash, (fact, name) in enumerate(names.items()):
        values = _number_list(
            next((found[fact] for found in epoch.values() if isinstance(found, Mapping) and fact in found), None)
            for epoch in facts
        )
        if _any(values):
            lines.append(Line(run.colour, values, dash, name))
            legend.append(Legend(run.colour, name, dash))
    if not lines:
        return None
    said = "; ".join(f"{entry.name}: {_ends(line.values)}" for entry, line in zip(legend, lines, strict=True))
    return Curve.drawn("Information in a release, nats at most", lines, legend, said)


def attack_curves(runs: Sequence[Run]) -> list[Curve]:
    """The attacker's own error over its epochs, one plot per attack, one colour per run."""
    curves = []
    names = list(dict.fromkeys(attack.key for run in runs for attack in run.attacks))
    for attack_key in names:
        name = next(run.name_of(attack) for run in runs for attack in run.attacks if attack.key == attack_key)
        lines, legend, said = [], [], []
        for run in runs:
            for attack in run.attacks:
                train, val = _history(attack.facts, "train_mse"), _history(attack.facts, "val_mse")
                if attack.key != attack_key or not (_any(train) or _any(val)):
                    continue
                lines += [
                    Line(run.colour, val, 0, f"{run.label}, kept aside"),
                    Line(run.colour, train, 1, f"{run.label}, learned from"),
                ]
                legend.append(Legend(run.colour, run.label))
                said.append(f"{run.label}: {_ends(val if _any(val) else train)}")
        if lines:
            title = f"The {name} attack, MSE of its pictures"
            words = "; ".join(said)
            curves.append(Curve.drawn(title, lines, legend, words, "MSE"))
    return curves


def fact_rows(run: Run) -> list[tuple[str, str, str, str]]:
    """What penalties report of themselves: penalty, fact, value in the first epoch that has it, value in the last."""
    seen: dict[tuple[str, str], list[Any]] = {}
    for epoch in run.epochs:
        facts = _mapping(epoch, "facts")
        for penalty in facts:
            for fact, value in _mapping(facts, penalty).items():
                seen.setdefault((penalty, fact), []).append(value)
    return [(penalty, fact, scalar(found[0]), scalar(found[-1])) for (penalty, fact), found in seen.items()]


def _mapping(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = data.get(key)
    return value if isinstance(value, Mapping) else {}


def _history(facts: Mapping[str, Any], name: str) -> tuple[float, ...]:
    rows = facts.get("history")
    rows = rows if isinstance(rows, Sequence) else []
    return _number_list(row.get(name) if isinstance(row, Mapping) else None for row in rows)


def _series(epochs: Sequence[Mapping[str, Any]], name: str, scale: float = 1.0) -> tuple[float, ...]:
    return tuple(scale * value for value in _number_list(epoch.get(name) for epoch in epochs))


def _number_list(values: Any) -> tuple[float, ...]:
    """Numbers, with NaN for what is not one."""
    return tuple(
        float(value) if isinstance(value, (int, float)) and math.isfinite(value) else math.nan for value in values
    )


def _any(values: Sequence[float]) -> bool:
    return any(math.isfinite(value) for value in values)


def _ends(values: Sequence[float]) -> str:
    known = [value for value in values if math.isfinite(value)]
    return f"from {scalar(known[0])} to {scalar(known[-1])}" if known else "no values"
