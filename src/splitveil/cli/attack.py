"""``splitveil attack``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from splitveil.cli.common import echo_json, parse_options, progress_bar, show_table, trust
from splitveil.errors import CheckFailedError


def attack(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, or folders that hold runs.")],
    attack: Annotated[str, typer.Option(help="See  splitveil list attacks.")] = "decoder",
    param: Annotated[list[str] | None, typer.Option("--param", "-p", help="Of the attack: epochs=50.")] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="tiny, quick or full, for what -p leaves out; none for the attack's own defaults. By default tiny for "
            "the digits, else quick."
        ),
    ] = None,
    threat: Annotated[str, typer.Option(help="white_box, black_box, pairs_only or query_free.")] = "white_box",
    seed: Annotated[int, typer.Option(help="Of the attack.")] = 0,
    model: Annotated[str | None, typer.Option(help="A factory outside splitveil that you trust.")] = None,
    device: Annotated[str | None, typer.Option(help="cuda or cpu; the first GPU by default.")] = None,
    strict: Annotated[bool, typer.Option(help="Exit with 1 if the attack does not beat its controls.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Try to rebuild the test pictures from what a run releases."""
    from splitveil.experiments.api import default_recipe
    from splitveil.experiments.attacking import attack_run
    from splitveil.experiments.recipes import load_recipe
    from splitveil.records import RunRecord
    from splitveil.specs import PlugInSpec
    from splitveil.threats import ThreatModel

    trust(model)
    options = parse_options(param or [])
    records = RunRecord.gather(runs)
    granted = ThreatModel.preset(threat)
    results = []
    for record in records:
        plan = None if recipe == "none" else load_recipe(recipe or default_recipe(record.spec.data.source))
        base = plan.attack.params if plan is not None and attack == plan.attack.name else {}
        chosen = PlugInSpec(name=attack, params={**base, **options})
        results.append(
            attack_run(
                record,
                chosen,
                threat=granted,
                seed=seed,
                observer=progress_bar(record.name),
                device=device,
                trusted=model,
            )
        )
    if json_:
        pairs = zip(records, results, strict=True)
        echo_json([{"run": str(record.path), **result.model_dump(mode="json")} for record, result in pairs])
    else:
        show_table(records)
    weak = [record.name for record, result in zip(records, results, strict=True) if not result.beats_controls]
    if strict and weak:
        raise CheckFailedError(f"the attack does not beat its controls on {', '.join(weak)}: its score proves nothing")
