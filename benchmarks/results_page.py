"""The page of results, written from the files of the benchmarks: ``python -m benchmarks.results_page``.

A test holds the page to the files, so no number on it can be older than its record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import on_file
from splitveil.files import write_text

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
INTRODUCTION = """# Results

Every number here is read from a file below `benchmarks/results/`, which holds the machine, the seeds and each row. The
copy of CIFAR-10 is JPEG, so errors are compared with each other and not with other publications. "Quick" models are
quarter-width VGG-11 trained on 12,000 pictures on two cores.

![Reconstructions of one picture, and accuracy against attacker error for noise and CEM](images/quick_cifar10.png)
"""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown."""
    lines = [f"| {' | '.join(head)} |", f"|{'|'.join('---' for _ in head)}|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def compared(found: Mapping[str, Any]) -> str:
    """CEM against noise at equal accuracy."""
    summary = found["summary"]
    low, high = (100 * value for value in summary["accuracy_range"])
    rows = [
        (
            row["point"],
            f"{100 * row['accuracy']:.1f} %",
            f"{row['mse']:.4f} [{row['mse_low']:.4f}, {row['mse_high']:.4f}]",
        )
        for row in found["rows"]
    ]
    return (
        f"At equal accuracy, between {low:.0f} and {high:.0f} %, the attacker errs by "
        f"**{summary['cem_over_gaussian_db']:.2f} dB more on CEM than on noise** "
        f"({summary['lower_db']:.2f} to {summary['upper_db']:.2f}; {summary['seeds']} seeds, "
        f"{summary['test_pictures']:,} test pictures), or CEM is "
        f"{summary['accuracy_points_at_equal_mse']:.1f} points more accurate at equal error. "
        f"{100 * summary['converged_share']:.0f} % of the attackers had stopped improving.\n\n"
        + table(("point", "accuracy", "attacker's MSE"), rows)
    )


def modes(found: Mapping[str, Any]) -> str:
    """The kinds of covariance."""
    rows = [
        (row["curve"], f"{row['mse_db']:+.2f} dB [{row['low']:.2f}, {row['high']:.2f}]")
        for row in found["rows"]
        if row.get("mse_db") is not None and row["over"] == "gaussian"
    ]
    return "Gain over noise at equal accuracy, one seed.\n\n" + table(("penalty", "gain"), rows)


def attacks(found: Mapping[str, Any]) -> str:
    """All attacks on the quick models."""
    rows = [
        (
            row["defense"],
            row["attack"],
            f"{row['mse']:.4f} [{row['low']:.4f}, {row['high']:.4f}]",
            f"{row['psnr_db']:.1f}",
            f"{row['ssim']:.2f}",
            f"{row['pictures']:,}",
            "yes" if row["beats_mean"] else "**no**",
            f"{row['elapsed_s'] / 60:.1f}",
        )
        for row in sorted(found["rows"], key=lambda row: (row["defense"], row["mse"]))
    ]
    over = found["summary"]["strong_over_paper"]
    said = [
        f"On `{name}` the strongest ({item['by']}) recovers pictures {item['db']:.2f} dB better "
        f"({item['low']:.2f} to {item['high']:.2f}) than the decoder of the paper."
        for name, item in over.items()
    ]
    said += [
        f"CEM gains {gain['db']:.2f} dB ({gain['low']:.2f} to {gain['high']:.2f}) over noise of its accuracy in one "
        f"training, under {', '.join(gain['under'])}."
        for gain in reversed(found["summary"]["cem_gain_by_training"].values())
    ]
    several = found["summary"]["cem_gain_16_releases"]
    if several is not None:
        said.append(
            f"To attackers who see sixteen releases of each picture, or of near duplicates, it gains "
            f"{several['db']:.2f} dB ({several['low']:.2f} to {several['high']:.2f})."
        )
    head = ("model", "attack", "MSE", "PSNR, dB", "SSIM", "pictures", "beats the mean picture", "minutes")
    said.append(
        "Attacks that do not beat the mean picture say nothing of the model. Minutes are of one thread beside another "
        "job, with what an attack borrows from another left out."
    )
    return " ".join(["One seed, white box.", *said]) + "\n\n" + table(head, rows)


def exact(found: Mapping[str, Any]) -> str:
    """Attacks where the least error is known."""
    rows = [
        (row["attack"], f"{row['mse_over_least']:.4f} [{row['low']:.4f}, {row['high']:.4f}]") for row in found["rows"]
    ]
    first = found["rows"][0]
    return (
        f"Gaussian pictures behind a linear head (d {first['d']}, q {first['q']}, {first['pictures']:,} pictures), "
        "where the least error of any attacker is known. Error over least error:\n\n" + table(("attack", "ratio"), rows)
    )


def faces(found: Mapping[str, Any]) -> str:
    """Re-identification."""
    summary = found["summary"]
    rows = [(row["defense"], f"{row['rank1']:.3f} [{row['low']:.3f}, {row['high']:.3f}]") for row in found["rows"]]
    return (
        f"{summary['pictures']} faces of {summary['people']} people, head trained {summary['task_of_the_head']}; rank "
        f"1 among {summary['people_in_a_gallery']}, chance {summary['reid_chance']:.3f}; by the pixels, without a head "
        f"that knows these people, the same attackers find {summary['reid_on_pixels']:.3f}. What "
        "the task needs, no defense of features hides.\n\n" + table(("defense", "found"), rows)
    )


def certificates(found: Mapping[str, Any]) -> str:
    """What no attacker can beat."""

    def nats(value: float | None) -> str:
        return "none" if value is None else f"{value:.0f}"

    def error(value: float | None) -> str:
        return "none" if value is None else f"{value:.1e}"

    rows = [
        (
            row["defense"],
            nats(row["capacity_nats"]),
            nats(row["mixture_nats"]),
            nats(row["gaussian_channel_nats"]),
            *(error(row.get(f"{kind}_mse")) for kind in ("shannon", "blocks", "fisher", "spectrum")),
            "none" if row["attack_over_bound"] is None else f"{row['attack_over_bound']:.1f}",
        )
        for row in found["rows"]
    ]
    cover = found["summary"]["coverage"]
    head = (
        "model",
        "capacity",
        "mixture",
        "one Gaussian",
        "shannon",
        "blocks",
        "fisher",
        "spectrum",
        "attack over best",
    )
    return (
        "Information of a release in nats: what the clip and the noise allow, and limits of 99.9 % on held-out "
        "pictures. Then four *estimates* of the mean squared error that no attacker can beat, and the error of the "
        "best attack over the largest of them. They rest on how random pictures are: `blocks` looks at small blocks, "
        "where that can be estimated; the Fisher family needs the slope of the density of whole pictures, which is so "
        "steep that little is left.\n\n"
        + table(head, rows)
        + f"\n\nLimits stated at {100 * cover['stated']:.0f} % covered a known truth in "
        f"{100 * cover['held_out']:.0f} % of 200 draws held out, and in {100 * cover['in_sample']:.0f} % in sample."
    )


def transfer(found: Mapping[str, Any]) -> str:
    """One weight on two data sets and three batch sizes."""
    summary = found["summary"]
    keys = [key for key in summary if key.endswith("_largest_over_smallest_nats")]
    rows = [(key.removesuffix("_largest_over_smallest_nats").replace("_", " "), f"{summary[key]:.2f}") for key in keys]
    return (
        "Information per feature dimension, largest over smallest, on the digits and CIFAR-10 and batches of "
        f"{', '.join(map(str, summary['batches']))}.\n\n" + table(("penalty and weight", "ratio"), rows)
    )


def defenses(found: Mapping[str, Any]) -> str:
    """Every defense with and without CEM."""
    summary = found["summary"]
    rows = [
        (
            row["row"],
            f"{100 * row['accuracy']:.1f} %",
            f"{row['mse']:.4f} [{row['mse_low']:.4f}, {row['mse_high']:.4f}]",
            f"{row['psnr_db']:.1f}",
            f"{row['ssim']:.2f}",
            row["attack"],
            f"{row['edge_parameters']:,}",
            f"{row['edge_multiply_adds'] / 1e6:.1f}",
            f"{row['payload_bytes']:,}",
            row["status"],
        )
        for row in found["rows"]
    ]
    gains = [
        f"{name} {percent:+.0f} % ({low:+.2f} to {high:+.2f} dB)"
        for name, (low, high) in summary["gain_db"].items()
        if (percent := summary["gain_pct"].get(name)) is not None
    ]
    said = f"`{summary['scale']}` models, {summary['seeds']} seed, the worst attacker of `standard`, intervals of 95 %."
    if gains:
        said += f" The attacker's error gained by CEM at equal accuracy: {'; '.join(gains)}."
    for text, names in (
        ("Harmed beyond the interval", summary["presets_harmed"]),
        ("Without accuracies in common, so without a number", summary["without_overlap"]),
        ("Invalid by a control, so left out of gains", summary["invalid_rows"]),
    ):
        said += f" {text}: {', '.join(names)}." if names else ""
    head = (
        *("defense", "accuracy", "attacker's MSE", "PSNR, dB", "SSIM", "by", "edge parameters"),
        *("edge MMAC", "payload, bytes", "audit"),
    )
    return said + "\n\n" + table(head, rows)


def paper(found: Mapping[str, Any]) -> str:
    """The paper's rows beside ours, in both protocols."""

    def error(value: float | None) -> str:
        return "" if value is None else f"{value:.4f}"

    rows = [
        (
            row["row"],
            {
                "without": "",
                "paper": "paper's CEM",
                "paper_settled": "paper's CEM, taught",
                "ours": "our CEM, taught",
            }[row["kind"]],
            row["scale"],
            f"{row['noise_std']:g}",
            f"{100 * row['accuracy']:.1f} %",
            error(row["train_mse"]),
            error(row["infer_mse"]),
            error(row["honest_mse"]),
            f"{100 * row['printed_accuracy']:.1f} %",
            error(row["printed_train_mse"]),
            error(row["printed_infer_mse"]),
        )
        for row in found["rows"]
    ]
    head = ("row", "with", "scale", "noise", "accuracy", "train *", "infer *", "honest", "printed", "train", "infer")
    summary, said = found["summary"], list[str]()
    for scale in summary["seeds"]:
        part = summary[scale]
        gain, printed = part["gain_paper_protocol_pct"]["train"], part["printed_gain_pct"]["train"]
        if gain is not None:
            low, high = part["gain_paper_protocol_limits_pct"]
            said.append(
                f"At {scale} scale, in the paper's protocol and at equal noise, CEM gains {gain:.0f} % ({low:.0f} to "
                f"{high:.0f}) and costs {-part['accuracy_points_at_equal_noise']:.1f} points; the same sum over these "
                f"rows of the paper is {printed:.0f} % and {-part['printed_accuracy_points']:.1f} points."
            )
        honest, rows_in = part["gain_honest_pct"], part["gain_honest_rows"]
        said.append(
            f"In the honest one, at equal accuracy, {'nothing can be said' if honest is None else f'{honest:.0f} %'}: "
            f"{rows_in}."
        )
        for name, over in (("ours_over_paper_cem", "the paper's CEM"), ("ours_over_paper_cem_taught", "it, taught")):
            gains = [
                f"{row} {_ahead(item)} {item['db']:+.2f} dB ({item['low']:.2f} to {item['high']:.2f})"
                for row, item in part[name]["rows"].items()
                if item is not None
            ]
            if gains:
                said.append(f"Ours over {over}: {', '.join(gains)}.")
    return (
        "`*` is the paper's protocol, **not honest**: its attacker learns from the training pictures (train) or from "
        "nine tenths of the test pictures (infer). *Honest* is the worst of a decoder, the strongest of `standard` on "
        "one release, and the closed form, both from pictures of their own. *Taught* has three times the epochs: it "
        "starts from the undefended model, learns from its answers too, and lets the tail settle. *Printed* are the "
        "paper's figures, at its full scale and its own noise. Our pictures are JPEG: compare gains, not errors. "
        f"Weights were chosen on another draw of the pictures. {' '.join(said)}\n\n" + table(head, rows)
    )


def _ahead(item: Mapping[str, Any]) -> str:
    if item["is"] == "equal accuracy":
        return "at equal accuracy"
    return f"with {item['points_more_accurate']:.1f} points more accuracy at least"


def curves(found: Mapping[str, Any]) -> str:
    """Over lambda and the cut."""
    rows = [
        (
            row["curve"],
            f"{row['noise_std']:g}",
            f"{100 * row['accuracy']:.1f} %",
            f"{row['train_mse']:.4f}",
            f"{row['honest_mse']:.4f}",
        )
        for row in found["rows"]
    ]
    return (
        "`noise_arl` with the paper's CEM, its lambda and the cut changed. Lambdas are the paper's; at reduced scale "
        "all are an eighth of that. `*` as above.\n\n"
        "![Accuracy against attacker error, over lambda and the cut, measured and printed](images/paper_curves.png)"
        "\n\n" + table(("curve", "noise", "accuracy", "train *", "honest"), rows)
    )


def settled(found: Mapping[str, Any]) -> str:
    """Accuracy that costs no privacy."""
    summary = found["summary"]
    said = {
        "none": "no defense",
        "paper 2": "the paper's CEM, lambda 2",
        "paper 2 settled": "the paper's CEM, the same head, settled",
        "paper 2 taught": "the paper's CEM, taught",
        "ours .2": "our CEM, weight 0.2",
        "ours .2 settled": "our CEM, the same head, settled",
        "ours .4 taught": "our CEM, weight 0.4, taught",
        "ours 1.6 taught": "our CEM, weight 1.6, taught",
    }
    rows = [
        (said[row["row"]], f"{100 * row['accuracy']:.1f} %", f"{row['mse']:.4f}", f"{row['psnr_of_mean_db']:.1f}")
        for row in found["rows"]
    ]
    gains = [
        f"{item['db']:+.2f} dB ({item['low']:.2f} to {item['high']:.2f}; {item['is']}"
        + (f", and {item['points_more_accurate']:.1f} points more accurate" if "points_more_accurate" in item else "")
        + f") over {said[name.removeprefix('ours_over_').replace('_', ' ')]}"
        for name, item in summary.items()
        if name.startswith("ours_over_")
    ]
    return (
        "*Taught* starts from the undefended model, learns from its answers beside the labels, and lets the tail "
        "settle with the head frozen. Noise of 0.1, one seed, under the second decoder of `standard`. Our CEM, taught: "
        f"{'; '.join(gains)}.\n\n" + table(("trained with", "accuracy", "attacker's MSE", "dB"), rows)
    )


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


SECTIONS: tuple[tuple[str, str, Callable[[Mapping[str, Any]], str]], ...] = (
    ("CEM over noise at equal accuracy", "quick_cifar10", compared),
    ("Kinds of covariance", "cem_modes", modes),
    ("Every attack", "attacks_cifar10", attacks),
    ("Attacks where the least error is known", "gaussian_linear", exact),
    ("Every defense, with CEM and without", "defenses_cifar10", defenses),
    ("The paper's table", "paper/cifar10", paper),
    ("The paper's curves", "paper/curves", curves),
    ("Accuracy that costs no privacy", "settling", settled),
    ("Faces", "reid_faces", faces),
    ("What no attacker can beat", "certificates_cifar10", certificates),
    ("One weight, any data", "weight_transfer", transfer),
    ("Training speed", "training", training),
    ("Serving", "serving", serving),
    ("Pages", "pages", pages),
)


def page() -> str:
    """The whole page; a benchmark that has not run has no section."""
    parts = [INTRODUCTION]
    for title, name, draw in SECTIONS:
        found = on_file(name)
        if found is not None:
            parts.append(f"## {title}\n\n{draw(found)}\n\n*`benchmarks/results/{name}.json`, {found['date']}*\n")
    return "\n".join(parts)


if __name__ == "__main__":
    write_text(PAGE, page())
