"""Speed: of training, of serving, of pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.sections.markdown import table

__all__ = ["costs", "pages", "serving", "training"]


def training(found: Mapping[str, Any]) -> str:
    """Speed of the loop."""
    by_case = dict[str, dict[str, float]]()
    for row in found["rows"]:
        if row["part"] == "loop":
            by_case.setdefault(row["case"], {})[row["quantity"]] = row["value"]
    rows = [
        (
            case,
            f"{values['splitveil_pictures_per_s']:,.0f}",
            f"{values['dataloader_pictures_per_s']:,.0f}",
            f"{values['speedup_over_dataloader']:.2f}",
            f"{100 * values['data_overhead']:.1f} %",
        )
        for case, values in by_case.items()
    ]
    summary, said = found["summary"], ""
    if "stream_rate_share" in summary:
        said = (
            f" {summary['stream_pictures']:,} pictures ({summary['stream_decoded_mb']:,.0f} MB decoded) train from "
            f"parquet at {100 * summary['stream_rate_share']:.0f} % of the rate from memory, in "
            f"{summary['stream_peak_mb']:,.0f} MB at most, of which the libraries take "
            f"{summary['stream_bare_peak_mb']:,.0f}."
        )
    head = ("net and pictures", "pictures/s", "plain loop with DataLoader", "ratio", "over a loop without pictures")
    return f"Two cores, medians of {summary['loop_rounds']} rounds in turns.{said}\n\n" + table(head, rows)


def costs(found: Mapping[str, Any]) -> str:
    """What each defense costs in training."""
    over = found["summary"]["cem_over_host"]
    rows = [
        (
            row["defense"],
            f"{row['training_ratio']:.2f}",
            f"{row['spread']:.2f}",
            f"{row['stages_epochs']:g}",
            f"{over[row['defense']]:.2f}",
        )
        for row in found["rows"]
    ]
    return (
        "Time of a training, all stages together, over that of the same training without a defense; an epoch's work of "
        f"both is timed in turn, medians of {found['rows'][0]['rounds']} rounds. *Epochs* are those of all stages over "
        "the recipe's; *with CEM* is over the same defense without it.\n\n"
        + table(("defense", "time", "spread", "epochs", "with CEM"), rows)
    )


def serving(found: Mapping[str, Any]) -> str:
    """What a server costs."""
    summary = found["summary"]
    statuses = summary["parts"].get("schema", {}).get("statuses", {})
    broken = sum(times for status, times in statuses.items() if int(status) >= 500)
    rows = [
        ("throughput over that of ONNX Runtime alone", f"{100 * summary['throughput_share_of_ceiling']:.0f} %"),
        ("throughput over that without batches", f"{summary['speedup_over_unbatched']:.2f}"),
        ("the same of ONNX Runtime alone", f"{summary['tail_alone_over_single_rows']:.2f}"),
        ("processor beyond the tail, per request", f"{summary['cpu_ms_beyond_tail']:.2f} ms"),
        ("p99 over p50 of the latency", f"{summary['p99_over_p50']:.2f}"),
        ("bytes beyond the tensor, request and answer", f"{summary['wire_overhead_bytes']} and "
         f"{summary['wire_overhead_bytes_of_answer']}"),
        ("requests under faults; lost, wrong", f"{summary['requests_under_faults']:,}; "
         f"{summary['requests_lost']}, {summary['requests_wrong']}"),
        ("requests drawn from the description; 5xx", f"{summary['schemathesis_requests']:,}; {broken}"),
    ]  # fmt: skip
    if summary["memory_requests"]:
        grown = f"{summary['memory_growth_mb']:.1f} MB"
        rows.append((f"memory grown over {summary['memory_requests']:,} requests", grown))
    return (
        f"The tail of a VGG-11 of full width, 64 clients and the server on the same {summary['cores']} cores.\n\n"
        + table(("what", "figure"), rows)
    )


def pages(found: Mapping[str, Any]) -> str:
    """The report and the live page."""
    summary = found["summary"]
    rows = [
        ("report of 12 runs", f"{summary['report_mb']:.2f} MB, built in {summary['report_build_s']:.1f} s"),
        ("live page, until it can be used", f"{summary['live_ready_s']:.2f} s"),
        ("serious findings of axe-core", str(summary["axe_serious"])),
        ("releases of browser, edge and torch, largest difference", f"{summary['release_parity']:.1e}"),
    ]
    return table(("what", "figure"), rows)
