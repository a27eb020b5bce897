"""The page's numbers for machines: JSON with everything, CSV with one row per run."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from splitveil import __version__
from splitveil.audit.people_record import PEOPLE_FILE, PeopleRecord
from splitveil.audit.record import FILE as AUDIT_FILE
from splitveil.audit.record import AuditRecord
from splitveil.certificates.card import FILE as CARD_FILE
from splitveil.certificates.card import Card
from splitveil.report.console import COLUMNS, run_rows
from splitveil.report.headline import Headline
from splitveil.report.runs import Run

__all__ = ["as_csv", "as_json"]

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def as_json(
    runs: Sequence[Run], *, title: str, headline: Headline | None, comparison: Mapping[str, Any] | None = None
) -> str:
    """Rows of the table, and the records of attacks, audits, people and certificates that the page draws.

    Args:
        comparison: the record of a comparison, where the page is of one.
    """
    document = {
        "generator": f"splitveil report {__version__}",
        "format": 1,
        "title": title,
        "headline": headline.to_json() if headline else None,
        "runs": run_rows(runs),
        "attacks": [
            {"defense": run.label, "run": run.record.name, **attack.model_dump(mode="json", exclude={"facts"})}
            for run in runs
            for attack in run.attacks
        ],
        "audits": _filed(runs, AUDIT_FILE, AuditRecord),
        "certificates": _filed(runs, CARD_FILE, Card),
        "people": _filed(runs, PEOPLE_FILE, PeopleRecord),
        "comparison": comparison,
    }
    return json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _filed(runs: Sequence[Run], name: str, kind: type[AuditRecord | Card | PeopleRecord]) -> list[dict[str, Any]]:
    return [
        {"defense": run.label, **kind.read(run.record.path).model_dump(mode="json", exclude={"attacks"})}
        for run in runs
        if (run.record.path / name).is_file()
    ]


def as_csv(runs: Sequence[Run]) -> str:
    """One row per run; what is missing is empty.

    Text that a spreadsheet would take for a formula begins with an apostrophe.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in run_rows(runs):
        writer.writerow([_plain(row[column]) for column in COLUMNS])
    return text.getvalue()


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        value = "; ".join(map(str, value))
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
