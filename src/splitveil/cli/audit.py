"""``splitveil audit``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from splitveil.cli.audit_table import show_audit, show_people
from splitveil.cli.common import echo_json, progress_bar, trust
from splitveil.cli.engines import Address, CpusPerRun, GpusPerRun, Retries, make_engine
from splitveil.errors import CheckFailedError, UsageError

if TYPE_CHECKING:
    from splitveil.audit.people_record import PeopleRecord
    from splitveil.audit.record import AuditRecord
    from splitveil.experiments.engines.jobs import Engine
    from splitveil.experiments.target import Target
    from splitveil.records import RunRecord
    from splitveil.threats import ThreatModel
    from splitveil.training.observer import Observer


def audit(
    subjects: Annotated[
        list[str],
        typer.Argument(
            help="Folders of runs, or one encoder: bundle/, file.onnx, pairs.safetensors, http(s)://…, module:factory."
        ),
    ],
    suite: Annotated[str, typer.Option(help="quick, standard or strong; see  splitveil list suites.")] = "standard",
    recipe: Annotated[str | None, typer.Option(help="tiny, quick or full; tiny for the digits, else quick.")] = None,
    effort: Annotated[
        int, typer.Option(min=1, help="Times the recipe's epochs, for attackers that were still learning.")
    ] = 1,
    threat: Annotated[
        str | None, typer.Option(help="white_box, black_box, pairs_only or query_free; all there is by default.")
    ] = None,
    observations: Annotated[
        int | None, typer.Option(min=1, help="Releases of one picture that an attacker sees; 1, or 4 of an encoder.")
    ] = None,
    duplicates: Annotated[
        str, typer.Option(help="exact: releases of the same bytes; near: of almost the same picture.")
    ] = "exact",
    auxiliary: Annotated[
        str, typer.Option(help="Where attackers' pictures come from: same, train, shifted or none.")
    ] = "same",
    shift: Annotated[
        str | None, typer.Option(help="With shifted: corruptions, held_out_classes, or another data set.")
    ] = None,
    query_budget: Annotated[
        int | None, typer.Option(min=1, help="The most releases that each attack may ask for; no limit by default.")
    ] = None,
    undefended: Annotated[Path | None, typer.Option(help="The undefended run, where it is not among the runs.")] = None,
    data: Annotated[str | None, typer.Option(help="Pictures for an encoder; see  splitveil train --help.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The most pictures to use for an encoder.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the audit of an encoder; a run keeps its own.")] = None,
    server: Annotated[
        str | None, typer.Option(help="Replay the audited releases of a bundle through this server, https://host:port.")
    ] = None,
    token_file: Annotated[Path | None, typer.Option(help="File with the server's bearer token.")] = None,
    ca: Annotated[Path | None, typer.Option(help="Certificates to trust the server by, PEM.")] = None,
    lpips_weights: Annotated[
        Path | None, typer.Option(help="A safetensors file of weights to measure LPIPS with.")
    ] = None,
    people: Annotated[
        bool, typer.Option("--people", help="Labels are people: look for them by their releases, too.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the attacks.")] = 0,
    model: Annotated[str | None, typer.Option(help="A factory outside splitveil that you trust.")] = None,
    device: Annotated[str | None, typer.Option(help="cuda or cpu; the first GPU by default.")] = None,
    engine: Annotated[
        str | None, typer.Option(help="local or ray: each run by itself; one after another here by default.")
    ] = None,
    address: Address = None,
    cpus_per_run: CpusPerRun = None,
    gpus_per_run: GpusPerRun = None,
    retries: Retries = None,
    strict: Annotated[bool, typer.Option(help="Exit with 1 unless every audit is valid.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Try every attack of a suite that a threat model grants, and report the worst over all of them."""
    from splitveil.records import RunRecord
    from splitveil.threats import ThreatModel

    def granted(seen: int) -> ThreatModel:
        plain = ThreatModel.preset(threat or "white_box").to_json()
        wanted = {"observations": observations or seen, "duplicates": duplicates, "auxiliary": auxiliary}
        return ThreatModel.from_json({**plain, **wanted, "shift": shift, "query_budget": query_budget})

    chosen = _engine(engine, device, address, cpus_per_run, gpus_per_run, retries)
    of_runs: dict[str, Any] = {
        "--people": people, "--undefended": undefended, "--device": device, "--engine": engine, "--model": model,
    }  # fmt: skip
    of_encoders: dict[str, Any] = {"--data": data, "--limit": limit, "--out": out}
    of_bundles: dict[str, Any] = {"--server": server, "--token-file": token_file, "--ca": ca}
    failed: dict[str, str] = {}
    searched: list[PeopleRecord] = []
    settings: dict[str, Any] = {"suite": suite, "effort": effort, "seed": seed, "lpips_weights": lpips_weights}
    if any(_names_an_encoder(text) for text in subjects):
        _refuse(of_runs, "with runs only, got it with an encoder: drop it")
        if server is None:
            _refuse(of_bundles, "beside --server, got no server: name it, or drop this")
        text, folder = _check_encoder(subjects, out)
        settings |= {"data": data, "limit": limit}
        after = _replayed(text, folder, server, token_file, ca)
        found = [_audit_encoder(text, folder, recipe, granted, after, settings)]
    else:
        _refuse(of_encoders, "with an encoder only, got it with a run: drop it")
        _refuse(of_bundles, "with a bundle only, got it with a run: export the run first")
        trust(model)
        records = RunRecord.gather([Path(text) for text in subjects])
        beside = [RunRecord.open(undefended)] if undefended is not None else records
        settings |= {"threat": granted(1), "trusted": model}
        if chosen is None:
            found = _one_by_one(records, beside, recipe, device, settings)
        else:
            found, failed = _on_engine(chosen, records, beside, recipe, settings)
        if people:
            searched = _search_people(records, granted(1), seed, device, model)
    _show(found, searched, json_)
    for name, error in failed.items():
        typer.echo(f"failed: {name}: {error}", err=True)
    if failed:
        raise CheckFailedError(f"{len(failed)} of {len(found) + len(failed)} audits failed")
    unsound = [item.subject for item in found if item.status != "valid"]
    if strict and unsound:
        raise CheckFailedError(f"the audit of {', '.join(unsound)} is not valid: see its controls")


def _show(found: Sequence[AuditRecord], searched: Sequence[PeopleRecord], json_: bool) -> None:
    if json_:
        echo_json([item.model_dump(mode="json") for item in (*found, *searched)])
        return
    for item in found:
        show_audit(item)
    for whose in searched:
        show_people(whose)


def _names_an_encoder(text: str) -> bool:
    if (Path(text) / "passport.json").is_file():
        return True
    return not Path(text).is_dir() and (text.endswith((".onnx", ".safetensors")) or ":" in text)


def _refuse(given: Mapping[str, Any], why: str) -> None:
    """Options that would be of no effect here are a mistake of the user's."""
    for name, value in given.items():
        if value is not None and value is not False:
            raise UsageError(f"expected {name} {why}")


def _check_encoder(subjects: Sequence[str], out: Path | None) -> tuple[str, Path]:
    """The encoder, and the folder to write to."""
    if len(subjects) > 1:
        raise UsageError(f"expected one encoder, got {len(subjects)} subjects: audit them one by one")
    if out is None:
        raise UsageError("expected --out for the audit of an encoder, got none: name a folder")
    return subjects[0], out


def _audit_encoder(
    text: str,
    folder: Path,
    recipe: str | None,
    granted: Callable[[int], ThreatModel],
    after: Callable[[Target], None],
    settings: dict[str, Any],
) -> AuditRecord:
    from splitveil.audit.foreign import FRESH_RELEASES, audit_encoder
    from splitveil.data.sources import guess_source
    from splitveil.experiments.api import default_recipe
    from splitveil.experiments.recipes import load_recipe

    trust(text if ":" in text and "//" not in text else None)
    pairs, data = text.endswith(".safetensors"), settings["data"]
    scale = recipe or default_recipe(guess_source(data)[0] if data else "pairs")
    return audit_encoder(
        text,
        folder,
        recipe=load_recipe(scale),
        threat=granted(1 if pairs else FRESH_RELEASES),
        observe=partial(_bar, Path(text).name),
        after=after,
        **settings,
    )


def _search_people(
    records: Sequence[RunRecord], threat: ThreatModel, seed: int, device: str | None, model: str | None
) -> list[PeopleRecord]:
    """Those who search for people hold their releases and names, and see as much of each picture as is granted."""
    from splitveil.audit.people import SEARCHERS, find_people

    searcher = replace(
        SEARCHERS, observations=threat.observations, duplicates=threat.duplicates, query_budget=threat.query_budget
    )
    return [
        find_people(
            record, threat=searcher, seed=seed, observer=_bar(record.name, "people"), device=device, trusted=model
        )
        for record in records
    ]


def _engine(engine: str | None, device: str | None, address: str | None, *resources: float | None) -> Engine | None:
    """The engine that the user named; without one, audits follow each other in this process."""
    cpus, gpus, retries = resources
    given = {"address": address, "cpus_per_run": cpus, "gpus_per_run": gpus, "retries": retries}
    if engine is not None:
        return make_engine(engine, device=device, **given)
    if any(value is not None for value in given.values()):
        raise UsageError("expected --engine ray beside --address and what each run gets, got none: add it")
    return None


def _one_by_one(
    records: Sequence[RunRecord],
    beside: Sequence[RunRecord],
    recipe: str | None,
    device: str | None,
    settings: dict[str, Any],
) -> list[AuditRecord]:
    from splitveil.audit.run import audit_run, find_undefended
    from splitveil.experiments.api import default_recipe
    from splitveil.experiments.recipes import load_recipe

    return [
        audit_run(
            record,
            recipe=load_recipe(recipe or default_recipe(record.spec.data.source)),
            undefended=find_undefended(record, beside),
            observe=partial(_bar, record.name),
            device=device,
            **settings,
        )
        for record in records
    ]


def _on_engine(
    engine: Engine,
    records: Sequence[RunRecord],
    beside: Sequence[RunRecord],
    recipe: str | None,
    settings: dict[str, Any],
) -> tuple[list[AuditRecord], dict[str, str]]:
    from splitveil.audit.many import audit_runs
    from splitveil.cli.board import make_board

    with make_board(len(records)) as board:
        return audit_runs(records, engine=engine, board=board, recipe=recipe, beside=beside, **settings)


def _replayed(
    text: str, out: Path, server: str | None, token_file: Path | None, ca: Path | None
) -> Callable[[Target], None]:
    """What happens after the audit of an encoder."""
    if server is None:
        return lambda _: None
    if not (Path(text) / "passport.json").is_file():
        raise UsageError("expected --server with a bundle, got another encoder: only a bundle says what is served")
    from splitveil.audit.replay import replay_releases
    from splitveil_edge.cli import read_token
    from splitveil_edge.client import EdgeClient

    client = EdgeClient(text, server, token=read_token(token_file), ca=ca)  # before hours of attacks, not after them
    client.meet()

    def replay(target: Target) -> None:
        found = replay_releases(target, bundle=Path(text), client=client, out=out)
        typer.echo(
            f"replayed {found.releases} releases through {found.server}: replies within {found.largest_difference:.2g} "
            f"of cloud.onnx, {found.same_predictions:.1%} of predictions the same",
            err=True,
        )

    return replay


def _bar(name: str, part: str) -> Observer:
    return progress_bar(f"{name}: {part}")
