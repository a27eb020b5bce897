"""What benchmarks share: the environment, the table, the file."""

from __future__ import annotations

import json
import zlib
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from splitveil.defenses import Defense
from splitveil.errors import SpecError
from splitveil.experiments.environment import describe_environment, pick_device
from splitveil.experiments.storage import attack_errors
from splitveil.files import write_text
from splitveil.metrics.tradeoff import Delta
from splitveil.records import AttackResult, MetricResult, RunRecord
from splitveil.specs import PlugInSpec

RESULTS = Path(__file__).with_name("results")
MILLIONTHS = 1e6
RESAMPLES = 2000
SMALLER: dict[str, dict[str, Any]] = {
    "ressfl": {"channels": 32},
    "noise_arl": {"channels": 32},
    "patrol": {"deeper": 4},
}
"""Inner decoders, and PATROL's further layer, in the recipe ``quick``: as small as its networks and attackers are."""


def publish(
    name: str, summary: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], *, device: str | None = None
) -> None:
    """Print the rows as a table and write all to ``results/NAME.json``.

    Args:
        name: of the benchmark.
        summary: the figures it exists for.
        rows: what was measured, one mapping each.
        device: that it ran on.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in rows[0]:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    console = Console(width=160)
    console.print(table)
    console.print_json(json.dumps(summary))
    record = {
        "benchmark": name,
        "date": datetime.now(UTC).date().isoformat(),
        "environment": describe_environment(pick_device(device)),
        "summary": dict(summary),
        "rows": [dict(row) for row in rows],
    }
    write_text(RESULTS / f"{name}.json", json.dumps(record, indent=2, allow_nan=False) + "\n")


def on_file(name: str) -> dict[str, Any] | None:
    """What a benchmark has written, or None."""
    file = RESULTS / f"{name}.json"
    found: dict[str, Any] | None = json.loads(file.read_text()) if file.is_file() else None
    return found


def plug_in(defense: Defense) -> PlugInSpec:
    """A defense as a spec names it."""
    written = defense.to_json()
    return PlugInSpec(name=written["name"], params=written["params"])


def gain_percent(found: Delta | None) -> float | None:
    """How much more an attacker errs at equal accuracy; None where accuracies do not overlap."""
    return None if found is None else gain_percent_of(found.mse_db)


def gain_percent_of(db: float) -> float:
    """How much more an error is that is so many decibels above another."""
    return 100 * (10 ** (db / 10) - 1)


def rising_weight(ends: tuple[float, float], levels: Sequence[float], level: float) -> float:
    """Of a penalty at one of the levels of a sweep: from end to end by one factor from each level to the next."""
    return float(np.geomspace(*ends, len(levels))[list(levels).index(level)].round(3))


def accuracy_of(record: RunRecord) -> MetricResult:
    """Of a finished run.

    Raises:
        SpecError: it is not finished, or does not classify.
    """
    if record.evaluation is None or record.evaluation.accuracy is None:
        raise SpecError(f"expected a finished run that classifies in '{record.path}', got another: train it")
    return record.evaluation.accuracy


def errors_of(record: RunRecord, attack: AttackResult) -> NDArray[np.float64]:
    """Mean squared error of each test picture."""
    return np.asarray(attack_errors(record.path, attack), dtype=np.float64)


def gain_db(better: NDArray[np.float64], worse: NDArray[np.float64]) -> tuple[float, float, float]:
    """``10 log10(worse / better)`` of the mean errors of the same pictures, with a paired bootstrap interval."""
    drawn = np.random.default_rng(0).integers(0, len(better), size=(RESAMPLES, len(better)))
    ratios = 10 * np.log10(worse[drawn].mean(1) / better[drawn].mean(1))
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(10 * np.log10(worse.mean() / better.mean())), float(low), float(high)


def at_least(ours: tuple[float, NDArray[np.float64]], theirs: tuple[float, NDArray[np.float64]]) -> dict[str, Any]:
    """What ours, the more accurate, gains at the accuracy of the other, where it would err by as much at least.

    Args:
        ours: accuracy, and the attacker's error on each picture.
        theirs: likewise.
    """
    db, low, high = gain_db(theirs[1], ours[1])
    return {"db": db, "low": low, "high": high, "is": "at least", "points_more_accurate": 100 * (ours[0] - theirs[0])}


def gain_at_accuracy(
    point: str, curve: tuple[str, str], accuracy: Mapping[str, float], errors: Mapping[str, NDArray[np.float64]]
) -> tuple[float, float, float]:
    """How many dB an attacker errs more on a point than on a curve at the point's accuracy, with an interval.

    The curve's error there is interpolated between its two ends, in dB over accuracy. The bootstrap draws pictures, the
    same for all; accuracies stand as they are.

    Args:
        point: a name.
        curve: two names.
        accuracy: by name.
        errors: of each picture, by name.
    """
    one, two = curve
    share = (accuracy[point] - accuracy[two]) / (accuracy[one] - accuracy[two])
    count = len(errors[point])
    drawn = np.random.default_rng(0).integers(0, count, size=(RESAMPLES, count))

    def gap(pick: Any) -> Any:
        level = {name: 10 * np.log10(pick(errors[name])) for name in (point, one, two)}
        return level[point] - (share * level[one] + (1 - share) * level[two])

    low, high = np.quantile(gap(lambda table: table[drawn].mean(1)), [0.025, 0.975])
    return float(gap(lambda table: table.mean())), float(low), float(high)


def pack(values: NDArray[Any], scale: float = MILLIONTHS) -> str:
    """Values of many pictures as text: whole multiples of ``1 / scale``, deflated."""
    whole = (values * scale).round().astype("<i4")
    return b64encode(zlib.compress(whole.tobytes(), 9)).decode()


def unpack(text: str, scale: float = MILLIONTHS) -> NDArray[np.float32]:
    """What `pack` was given, to that precision."""
    whole = np.frombuffer(zlib.decompress(b64decode(text)), dtype="<i4").astype(np.float32)
    return whole / np.float32(scale)


def least_error(attacks: Sequence[AttackResult]) -> AttackResult:
    """The attack that errs least, of those that are scored on all test pictures."""
    every = max(attack.metrics["mse"].n for attack in attacks)
    return min(
        (attack for attack in attacks if attack.metrics["mse"].n == every),
        key=lambda attack: attack.metrics["mse"].mean,
    )


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
