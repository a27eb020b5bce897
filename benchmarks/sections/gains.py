"""What conditional entropy gains over other defenses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.sections.markdown import table

__all__ = ["compared", "defenses", "modes", "transfer"]


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
    said = (
        f"`{summary['scale']}` models, {summary['seeds']} seed, CEM (surrogate "
        f"`{summary.get('surrogate', 'bound')}`) of weight {summary['weights'][0]:g} at the "
        f"lowest level of each defense to {summary['weights'][1]:g} at its highest, the worst attacker of `standard`, "
        "intervals of 95 %. Where the best attacker was still learning, it was given twice its epochs, and twice again."
    )
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


def transfer(found: Mapping[str, Any]) -> str:
    """One weight on two data sets and three batch sizes."""
    summary = found["summary"]
    keys = [key for key in summary if key.endswith("_largest_over_smallest_nats")]
    rows = [(key.removesuffix("_largest_over_smallest_nats").replace("_", " "), f"{summary[key]:.2f}") for key in keys]
    return (
        "Information per feature dimension, largest over smallest, on the digits and CIFAR-10 and batches of "
        f"{', '.join(map(str, summary['batches']))}.\n\n" + table(("penalty and weight", "ratio"), rows)
    )
