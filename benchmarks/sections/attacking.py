"""What attackers reach, and what none can beat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.sections.markdown import table

__all__ = ["attacks", "certificates", "exact", "faces"]


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
