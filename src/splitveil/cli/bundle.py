"""``splitveil bundle verify|part|live|keygen``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from splitveil.cli.common import echo_json, trust
from splitveil.errors import CheckFailedError

app = typer.Typer(
    help="Look after bundles: verify them, take one side of them, make keys for them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("verify")
def verify(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle, with both sides.")],
    run: Annotated[Path | None, typer.Option(help="The run it came from, to compare torch with the graphs.")] = None,
    public_key: Annotated[Path | None, typer.Option(help="Of who must have signed the passport, PEM.")] = None,
    pictures: Annotated[int, typer.Option(min=1, help="The most test pictures to compare on.")] = 256,
    model: Annotated[str | None, typer.Option(help="A factory outside splitveil that you trust.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Check digests, signature, expiry, graphs and, with --run, parity: exits with 1 if any check fails."""
    from splitveil.export.verifying import verify_bundle
    from splitveil.records import RunRecord
    from splitveil_edge.signing import read_key_file

    trust(model)
    found = verify_bundle(
        bundle,
        run=None if run is None else RunRecord.open(run),
        public_key=None if public_key is None else read_key_file(public_key),
        trusted=model,
        pictures=pictures,
    )
    if json_:
        echo_json([item.to_json() for item in found])
    else:
        for item in found:
            typer.echo(f"{item.state:<12} {item.name}: {item.detail}")
    failed = [item.name for item in found if item.state == "fail"]
    if failed:
        raise CheckFailedError(f"the bundle '{bundle}' fails: {', '.join(failed)}; do not use it")


@app.command("part")
def part(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    side: Annotated[str, typer.Option(help="cloud or edge.")],
    out: Annotated[Path, typer.Option(help="Folder for that side; new or empty.")],
) -> None:
    """Copy what one side needs: the cloud gets cloud.onnx and the passport, and nothing else."""
    from splitveil.export.parting import part_bundle

    typer.echo(f"{side} side of '{bundle}' in '{part_bundle(bundle, side, out)}'")


@app.command("live")
def live(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle, with both sides.")],
    run: Annotated[Path, typer.Option(help="The run it came from, attacked with a decoder.")],
    undefended: Annotated[Path | None, typer.Option(help="A run without a defense, to stand beside it.")] = None,
    model: Annotated[str | None, typer.Option(help="A factory outside splitveil that you trust.")] = None,
) -> None:
    """Add what the live page shows: attackers, sample pictures, the certificate by noise."""
    from splitveil.export.live import write_live

    trust(model)
    folder = write_live(bundle, run, undefended, trusted=model)
    typer.echo(f"live page in '{folder}': look at it with  splitveil serve {bundle} --ui")


@app.command("keygen")
def keygen(
    key: Annotated[Path, typer.Argument(help="File for the private key, PEM; the public one gets .pub.pem.")],
) -> None:
    """Make a pair of Ed25519 keys; nothing is overwritten."""
    from splitveil.export.keys import write_keys

    private, public = write_keys(key)
    typer.echo(f"private key '{private}' (keep it to yourself), public key '{public}' (give it to every device)")
