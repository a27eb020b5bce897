"""What a server costs beyond its tail: full-width VGG-11 from cut 4, 64 clients on the same machine.

``python -m benchmarks.serving`` measures all parts and writes ``results/serving.json``; it wants a machine of its own
for half an hour. ``--part load --seconds 5`` measures one; parts are kept in ``--work`` and put together by
``--part publish``.

- load: requests per second with batching and without; the ceiling is ONNX Runtime alone in a loop, at its best batch,
  layout and number of threads, while the same load process talks to an echo of its own at the rate that was served.
  CPU beyond the tail is that of the server's main thread, which does all but run batches.
- memory: resident memory over 100,000 requests to a quarter-width net.
- wire: bytes of a request, and of an answer, beyond the tensor, one picture.
- faults: load while the server is killed and started anew, while clients are cut off, slow, or send bombs. A request is
  lost if no attempt of its client was answered within a minute; every answer is compared with the right one.
- ray: load on two replicas of Ray Serve, one of them killed.
- schema: requests that schemathesis draws from the OpenAPI description.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import publish
from benchmarks.serving_faults import measure_faults, measure_ray
from benchmarks.serving_parts import MODEL, make_bundle, read_load, serving, start_load
from splitveil.cloud.settings import cores
from splitveil.cloud.sizing import Sizing, measure
from splitveil.cloud.tails import open_bundle
from splitveil.files import write_text

_REPOSITORY = Path(__file__).parents[1]
_WARM_S = 3.0


def measure_load(arguments: argparse.Namespace, bundle: Path) -> dict[str, Any]:
    """Batched, unbatched, and the ceiling."""
    count = cores()
    layout = ["--slots", str(arguments.slots), "--threads", str(arguments.threads or max(1, count // arguments.slots))]
    batched = _served(arguments, bundle, [*layout, "--max-batch", str(arguments.max_batch)])
    unbatched = max(
        (
            _served(arguments, bundle, ["--max-batch", "1", "--slots", str(slots), "--threads", str(count // slots)])
            for slots in {1, count}
        ),
        key=lambda found: found["requests_per_s"],
    )
    ceiling = measure_ceiling(arguments, bundle, batched["requests_per_s"])
    best = max(ceiling, key=lambda sizing: sizing["rows_per_s"])
    return {"batched": batched, "unbatched": unbatched, "ceiling": best, "ceilings": ceiling}


def _served(arguments: argparse.Namespace, bundle: Path, options: list[str]) -> dict[str, Any]:
    with serving(bundle, options) as server:
        read_load(start_load(bundle, server.port, arguments.clients, _WARM_S))
        rows, batches = server.metric("splitveil_rows_total"), server.metric("splitveil_batch_rows_count")
        before = server.cpu_s()
        found = read_load(start_load(bundle, server.port, arguments.clients, arguments.seconds))
        after = server.cpu_s()
        rows = server.metric("splitveil_rows_total") - rows
        batches = server.metric("splitveil_batch_rows_count") - batches
    per_request = [1000 * (end - begin) / found["requests"] for begin, end in zip(before, after, strict=True)]
    return {
        **found,
        "options": " ".join(options),
        "server_cpu_ms_per_request": per_request[0],
        "main_thread_cpu_ms_per_request": per_request[1],
        "rows_per_batch": rows / batches,
    }


def measure_ceiling(arguments: argparse.Namespace, bundle: Path, rate: float) -> list[dict[str, Any]]:
    """ONNX Runtime in a loop, with the load beside it."""
    served, count = open_bundle(bundle), cores()
    found: list[Sizing] = []
    from splitveil.cloud.tails import onnx_tail

    load = start_load(bundle, 0, arguments.clients, 3600, echo=rate)
    try:
        time.sleep(_WARM_S)
        for slots in sorted({1, count}):
            tail = onnx_tail(served, count // slots)
            for size in arguments.sizes:
                found += measure(tail, served, [size], slots, count // slots, least_s=arguments.ceiling_seconds)
    finally:
        load.kill()
        load.communicate()
    return [
        {
            "max_batch": sizing.max_batch,
            "slots": sizing.slots,
            "threads": sizing.threads,
            "rows_per_s": sizing.rows_per_s,
        }
        for sizing in found
    ]


def measure_memory(arguments: argparse.Namespace, bundle: Path) -> dict[str, Any]:
    """Resident memory of the server over the requests, with a narrow net: what leaks is not the tail's arithmetic.

    The first tenth is warm-up.
    """
    bundle = make_bundle(arguments.work / f"width-{arguments.memory_width:g}" / "bundle", arguments.memory_width)
    found: list[float] = []
    done = 0
    with serving(
        bundle, ["--max-batch", str(arguments.max_batch), "--slots", "1", "--threads", str(cores())]
    ) as server:
        while done < arguments.memory_requests:
            load = read_load(start_load(bundle, server.port, arguments.clients, arguments.memory_seconds))
            done += load["requests"]
            found.append(server.memory_mb())
    return {"requests": done, "memory_mb": found, "growth_mb": found[-1] - found[len(found) // 10]}


def measure_wire(arguments: argparse.Namespace, bundle: Path) -> dict[str, Any]:
    """Bytes as they go over a socket, beyond the tensors."""
    import socket

    from benchmarks.serving_load import make_cases

    [case, *_] = make_cases(bundle / "cases.npz", MODEL)
    with (
        serving(bundle, ["--max-batch", "1", "--slots", "1", "--threads", "1"]) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection,
    ):
        connection.sendall(case.request)
        answer = connection.recv(65536)
    values = open_bundle(bundle).passport.release_shape
    tensor = 4 * values[0] * values[1] * values[2]
    return {
        "request_bytes": len(case.request) - tensor,
        "answer_bytes": len(answer) - case.reply.nbytes,
        "tensor": tensor,
    }


def measure_schema(arguments: argparse.Namespace, bundle: Path) -> dict[str, Any]:
    """The test of the suite, at length."""
    sys.path[:0] = [str(_REPOSITORY / "tests"), str(_REPOSITORY / "tests" / "unit" / "cloud")]
    from test_serve_schema import attack

    seen = attack(bundle, arguments.schema_examples)
    return {"requests": seen.total(), "statuses": {str(status): times for status, times in sorted(seen.items())}}


PARTS: dict[str, Callable[[argparse.Namespace, Path], dict[str, Any]]] = {
    "load": measure_load,
    "memory": measure_memory,
    "wire": measure_wire,
    "faults": measure_faults,
    "ray": measure_ray,
    "schema": measure_schema,
}


def put_together(work: Path, width: float) -> None:
    """Write the results of all parts that have been measured."""
    parts = {
        name: json.loads((work / f"{name}.json").read_text()) for name in PARTS if (work / f"{name}.json").is_file()
    }
    load, wire = parts["load"], parts["wire"]
    batched = load["batched"]
    faults = [parts[name] for name in ("faults", "ray") if name in parts]
    summary = {
        "throughput_share_of_ceiling": batched["requests_per_s"] / load["ceiling"]["rows_per_s"],
        "speedup_over_unbatched": batched["requests_per_s"] / load["unbatched"]["requests_per_s"],
        "tail_alone_over_single_rows": load["ceiling"]["rows_per_s"]
        / max(sizing["rows_per_s"] for sizing in load["ceilings"] if sizing["max_batch"] == 1),
        "cpu_ms_beyond_tail": batched["main_thread_cpu_ms_per_request"],
        "p99_over_p50": batched["p99_ms"] / batched["p50_ms"],
        "wire_overhead_bytes": wire["request_bytes"],
        "wire_overhead_bytes_of_answer": wire["answer_bytes"],
        "requests_lost": sum(part["lost"] for part in faults),
        "requests_wrong": sum(part["wrong"] for part in faults) + batched["wrong"],
        "requests_under_faults": sum(part["requests"] for part in faults),
        "memory_growth_mb": parts["memory"]["growth_mb"] if "memory" in parts else None,
        "memory_requests": parts["memory"]["requests"] if "memory" in parts else 0,
        "schemathesis_requests": parts["schema"]["requests"] if "schema" in parts else 0,
        "width": width,
        "cores": cores(),
    }
    rows = [
        {"what": "batched", **_row(batched)},
        {"what": "unbatched", **_row(load["unbatched"])},
        {"what": "ceiling", **_row({}), "requests_per_s": load["ceiling"]["rows_per_s"]},
        *({"what": part["what"], **_row(part)} for part in faults),
    ]
    publish("serving", {**summary, "parts": parts}, rows, device="cpu")


def _row(found: dict[str, Any]) -> dict[str, Any]:
    keys = ("requests", "requests_per_s", "p50_ms", "p99_ms", "main_thread_cpu_ms_per_request", "rows_per_batch")
    return {key: found.get(key, "") for key in (*keys, "lost", "wrong")}


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=[*PARTS, "publish"], help="all by default")
    parser.add_argument("--work", type=Path, default=Path("runs/serving"), help="bundle, and results of parts")
    parser.add_argument("--width", type=float, default=1.0, help="of the VGG-11")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60.0, help="of load, each time")
    parser.add_argument("--ceiling-seconds", type=float, default=8.0, help="for each size")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 8, 16, 32, 64])
    parser.add_argument("--max-batch", type=int, default=32)
    parser.add_argument("--slots", type=int, default=cores(), help="batches at the same time")
    parser.add_argument("--threads", type=int, help="of each slot; the cores shared evenly by default")
    parser.add_argument("--memory-requests", type=int, default=100_000)
    parser.add_argument("--memory-width", type=float, default=0.25, help="of the VGG-11 of that part")
    parser.add_argument("--memory-seconds", type=float, default=20.0, help="between two looks")
    parser.add_argument("--schema-examples", type=int, default=600)
    arguments = parser.parse_args()
    work = arguments.work / f"width-{arguments.width:g}"
    bundle = make_bundle(work / "bundle", arguments.width)
    for name in [arguments.part] if arguments.part else [*PARTS, "publish"]:
        if name == "publish":
            put_together(work, arguments.width)
            continue
        found = PARTS[name](arguments, bundle)
        write_text(work / f"{name}.json", json.dumps(found, indent=2) + "\n")
        print(name, json.dumps(found))


if __name__ == "__main__":
    main()
