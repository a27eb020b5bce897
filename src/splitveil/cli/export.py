"""``splitveil export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from splitveil.cli.common import echo_json, progress_bar, trust

if TYPE_CHECKING:
    from splitveil.export.bundle import Exported


def export(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    out: Annotated[Path, typer.Option(help="Folder of the bundle; new or empty.")],
    precision: Annotated[str, typer.Option(help="fp32, fp16 or int8; clip and noise stay float32 in each.")] = "fp32",
    key: Annotated[
        Path | None, typer.Option(help="Private key to sign the passport with; see  splitveil bundle keygen.")
    ] = None,
    expires_days: Annotated[float | None, typer.Option(help="Days from now; the passport never expires else.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the model on servers; the run's by default.")] = None,
    wire_bits: Annotated[
        int | None, typer.Option(min=1, max=16, help="Quantise releases to so many bits on the wire.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="A factory outside splitveil that you trust.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Write the bundle of a run: the edge's and the cloud's graph, and the passport that says what they are."""
    from splitveil.export.bundle import export as write_bundle

    trust(model)
    found = write_bundle(
        run,
        out,
        precision=precision,  # type: ignore[arg-type]  # checked there
        key=key,
        expires_days=expires_days,
        name=name,
        wire_bits=wire_bits,
        model=model,
        observer=progress_bar("export"),
    )
    if json_:
        echo_json(_plain(found))
    else:
        _show(found)


def _plain(found: Exported) -> dict[str, Any]:
    passport = found.passport
    return {
        "path": str(found.path),
        "name": passport.name,
        "digest": passport.digest,
        "signed": (found.path / "passport.sig").is_file(),
        "expires": None if passport.expires is None else passport.expires.isoformat(),
        "precision": dict(passport.precision),
        "bytes": {name: seal.size for name, seal in passport.files.items()},
        "parity": found.measured.to_json(),
        "cautions": list(found.cautions),
    }


def _show(found: Exported) -> None:
    from splitveil.export.measuring import said_of_predictions

    passport, measured = found.passport, found.measured
    score = measured.score
    signed = "signed" if (found.path / "passport.sig").is_file() else "not signed"
    expires = "never expires" if passport.expires is None else f"expires {passport.expires:%Y-%m-%d %H:%M} UTC"
    typer.echo(f"bundle {found.path}: model '{passport.name}', {passport.precision['edge']}, {signed}, {expires}")
    for name, seal in passport.files.items():
        typer.echo(f"  {name:<12} {seal.size:>12,} bytes  sha256 {seal.sha256[:16]}…")
    typer.echo(
        f"  {score['name']} {score['mean']:.1%} [{score['low']:.1%}, {score['high']:.1%}] through "
        f"ONNX Runtime, {measured.score_torch:.1%} through torch, on {measured.pictures} pictures"
    )
    typer.echo(
        f"  parity: releases within {measured.edge.largest:.2g}, replies within {measured.cloud.largest:.2g}"
        f"{said_of_predictions(measured)}"
    )
    told = passport.release_nats
    typer.echo("  one release: " + ("nothing is certified" if told is None else f"at most {told:.4g} nats, certified"))
    for caution in found.cautions:
        typer.echo(f"  caution: {caution}")
    if passport.audit is None:
        typer.echo("  not audited: run  splitveil audit  and export again to have it in the passport")
