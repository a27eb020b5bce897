"""``splitveil serve``."""

from __future__ import annotations

from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from splitveil.errors import MissingDataError, MissingExtraError, UsageError


class Engine(StrEnum):
    """What runs the application."""

    local = "local"
    ray = "ray"


class Runtime(StrEnum):
    """What runs the tail."""

    onnx = "onnx"
    torch = "torch"


class Level(StrEnum):
    """The least that is logged; each request is an info."""

    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


class Layout(StrEnum):
    """What is written instead of serving."""

    triton = "triton"


def serve(
    bundle: Annotated[Path, typer.Argument(help="Folder with cloud.onnx and passport.json.")],
    host: Annotated[str, typer.Option(help="Name or address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 lets the system choose.")] = 8000,
    grpc_port: Annotated[int | None, typer.Option(help="gRPC beside REST; 0 lets the system choose.")] = None,
    engine: Annotated[Engine, typer.Option(help="One process, or replicas on Ray Serve.")] = Engine.local,
    replicas: Annotated[int, typer.Option(help="With --engine ray: copies of the application.")] = 1,
    max_replicas: Annotated[int | None, typer.Option(help="With --engine ray: where load may take it.")] = None,
    runtime: Annotated[Runtime, typer.Option(help="ONNX Runtime, or torch with --run.")] = Runtime.onnx,
    run: Annotated[Path | None, typer.Option(help="With --runtime torch: the run that was exported.")] = None,
    max_batch: Annotated[int | None, typer.Option(help="Rows that run together; measured if left out.")] = None,
    max_delay_ms: Annotated[float, typer.Option(help="That the first of a batch waits for others.")] = 2.0,
    slots: Annotated[int | None, typer.Option(help="Batches at the same time; measured if left out.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of a batch; measured if left out.")] = None,
    ui: Annotated[bool, typer.Option("--ui", help="The live page too, at /ui/; see  splitveil bundle live.")] = False,
    token_file: Annotated[Path | None, typer.Option(help="Tokens that open the door, one a line.")] = None,
    public_key: Annotated[Path | None, typer.Option(help="Who must have signed the passport, PEM.")] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key, PEM.")] = None,
    max_rows: Annotated[int, typer.Option(help="Limit: rows of one request.")] = 256,
    max_body_bytes: Annotated[int | None, typer.Option(help="Limit: of a body; else what max-rows need.")] = None,
    max_inflated_bytes: Annotated[int | None, typer.Option(help="Limit: of a compressed body, inflated.")] = None,
    max_queue_rows: Annotated[int, typer.Option(help="Limit: rows that wait; more get 429.")] = 1024,
    rate_per_s: Annotated[float | None, typer.Option(help="Limit: requests per second of one client.")] = None,
    burst: Annotated[int, typer.Option(help="Limit: requests of one client at once.")] = 100,
    body_timeout_s: Annotated[float, typer.Option(help="Limit: from the headers to the end of a body.")] = 10.0,
    request_timeout_s: Annotated[float, typer.Option(help="Limit: from a body to its answer.")] = 30.0,
    drain_s: Annotated[float, typer.Option(help="After SIGTERM: answering, but not ready.")] = 5.0,
    grace_s: Annotated[int, typer.Option(help="After that: for requests that still run.")] = 30,
    log_level: Annotated[Level, typer.Option(help="Of the log, JSON lines on stderr.")] = Level.info,
    layout: Annotated[Layout | None, typer.Option(help="Write a model repository instead, to --out.")] = None,
    out: Annotated[Path | None, typer.Option(help="With --layout: the repository.")] = None,
) -> None:
    """Serve the cloud's side of a bundle over the Open Inference Protocol v2."""
    if (layout is None) != (out is None):
        raise UsageError("expected --layout with --out, got one of them")
    if layout is not None and out is not None:
        _write(bundle, out, max_batch, max_delay_ms, public_key)
        return
    if engine is Engine.local and (replicas != 1 or max_replicas is not None):
        raise UsageError("expected --replicas and --max-replicas with --engine ray, got another engine")
    from splitveil.cloud.settings import Limits, ServeSettings

    limits = Limits(
        max_rows=max_rows,
        max_body_bytes=max_body_bytes,
        max_inflated_bytes=max_inflated_bytes,
        max_queue_rows=max_queue_rows,
        rate_per_s=rate_per_s,
        burst=burst,
        body_timeout_s=body_timeout_s,
        header_timeout_s=body_timeout_s,
        request_timeout_s=request_timeout_s,
    )
    settings = ServeSettings(
        runtime=runtime.value,
        run=None if run is None else str(run),
        max_batch=max_batch,
        max_delay_ms=max_delay_ms,
        slots=slots,
        threads=threads,
        token_digests=_tokens(token_file),
        public_key=_bytes(public_key),
        limits=limits,
        ui=ui,
    )
    check_extra()
    from splitveil.cloud.logs import configure
    from splitveil.cloud.server import Place

    configure(log_level.value)
    place = Place(host, port, grpc_port, tls_cert, tls_key, drain_s, grace_s)
    if engine is Engine.ray:
        from splitveil.cloud.scale import Replicas, serve_on_ray

        serve_on_ray(bundle, settings, place, Replicas(replicas, max_replicas))
    else:
        from splitveil.cloud.server import serve as serve_here

        serve_here(bundle, settings, place)


def check_extra() -> None:
    """That all is installed which serving needs, or a `MissingExtraError`."""
    for package in ("fastapi", "uvicorn", "httptools", "onnxruntime", "prometheus_client"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "serve", "serving a bundle")


def _write(bundle: Path, out: Path, max_batch: int | None, max_delay_ms: float, public_key: Path | None) -> None:
    from splitveil.cloud.triton import triton_repository

    more = {} if max_batch is None else {"max_batch": max_batch}
    folder = triton_repository(bundle, out, max_delay_ms=max_delay_ms, public_key=_bytes(public_key), **more)
    typer.echo(f"model repository: {folder}")


def _tokens(file: Path | None) -> tuple[bytes, ...]:
    if file is None:
        return ()
    from splitveil.cloud.access import read_tokens

    return read_tokens(file)


def _bytes(file: Path | None) -> bytes | None:
    if file is None:
        return None
    try:
        return file.read_bytes()
    except OSError as error:
        raise MissingDataError(f"expected a public key at '{file}', got {error.strerror}") from error
