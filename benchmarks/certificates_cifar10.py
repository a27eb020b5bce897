"""What no attacker can beat on CIFAR-10, noise against CEM: the card, the sandwich, and how far apart its sides are.

``python -m benchmarks.certificates_cifar10 --runs runs/quick_cifar10/runs --out runs/certificates_cifar10`` certifies
seed 0 of what `benchmarks.quick_cifar10` trained, first without the Fisher family, then with it. The attacks are those
that the runs hold.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import torch

from benchmarks.attacks_cifar10 import MODELS, open_copy
from benchmarks.harness import on_file, publish
from splitveil.bounds import information_bound
from splitveil.certificates.card import Card
from splitveil.certificates.channel import Features
from splitveil.certificates.information import fit_bounds
from splitveil.certificates.run import certify_run
from splitveil.certificates.slopes import SlopeSettings
from splitveil.rng import Rng

NAMES = ("none", "gaussian .1", "gaussian .2", "cem")
RESAMPLES = 200
LEVEL = 0.95


def coverage() -> dict[str, float]:
    """How often limits of 95 % lie above the information, on Gaussian features whose information is known.

    Held out, and of the same mixture on the 60 samples that it was fitted to.
    """
    q, std, noise = 16, 0.12, 0.3
    true = 0.5 * q * math.log1p((std / noise) ** 2)
    held_out, inside = 0, 0
    for seed in range(RESAMPLES):
        generator = torch.Generator().manual_seed(seed)
        drawn = (0.5 + std * torch.randn(60 + 300, q, generator=generator)).clamp(0, 1)
        fitted, rest = (Features(part, torch.zeros(len(part)).long()) for part in (drawn[:60], drawn[60:]))
        [bound] = [item for item in fit_bounds(fitted, 1, Rng(seed)) if item.name == "gaussian_channel"]
        variance = torch.full((q,), noise**2, dtype=torch.float64)
        held_out += bound.upper(rest, variance, 1.0, LEVEL).upper_nats >= true
        own = information_bound(fitted.mean, variance.float(), fitted.labels, bound.mixture)
        inside += float(own.mean()) >= true
    return {"stated": LEVEL, "held_out": held_out / RESAMPLES, "in_sample": inside / RESAMPLES}


def best(card: Card, name: str) -> float | None:
    """The largest of the estimates of this name that no attack voided."""
    values = [
        rung.bound
        for rung in card.sandwich
        if rung.quantity == "mse" and rung.statement.startswith(name) and not rung.violated
    ]
    return max(values, default=None)


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--without-slopes", action="store_true", help="Leave the Fisher family out.")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--seconds", action="store_true", help="Time the cards without slopes again, and nothing else.")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.seconds:
        time_again(options)
        return
    rows: list[dict[str, Any]] = []
    seconds, with_slopes = dict[str, float](), dict[str, float]()
    for name in options.only:
        record = open_copy(options.runs, options.out, name)
        card = certify_run(record)
        seconds[name] = card.elapsed_s
        if MODELS[name].name != "none" and not options.without_slopes:
            card = certify_run(record, slopes=SlopeSettings())
            with_slopes[name] = card.elapsed_s
        rows.append(row(name, card))
    summary = {
        "attack_over_bound": {item["defense"]: item["attack_over_bound"] for item in rows},
        "capacity_nats": {item["defense"]: item["capacity_nats"] for item in rows},
        "mixture_nats": {item["defense"]: item["mixture_nats"] for item in rows},
        "gaussian_channel_nats": {item["defense"]: item["gaussian_channel_nats"] for item in rows},
        "blocks_over_shannon": {item["defense"]: item["blocks_over_shannon"] for item in rows},
        "card_seconds": seconds,
        "card_with_slopes_seconds": with_slopes,
        "coverage": coverage(),
        "seeds": 1,
    }
    publish("certificates_cifar10", summary, rows)


def time_again(options: argparse.Namespace) -> None:
    """Replace the seconds of cards on file, for a machine that did something else when they were made."""
    found = on_file("certificates_cifar10")
    if found is None:
        raise SystemExit("expected cards on file, got none: run without --seconds first")
    for name in options.only:
        found["summary"]["card_seconds"][name] = certify_run(open_copy(options.runs, options.out, name)).elapsed_s
    publish("certificates_cifar10", found["summary"], found["rows"])


def row(name: str, card: Card) -> dict[str, Any]:
    """One line of the table."""
    nats = {item.name: item.value for item in card.statements if item.quantity == "information"}
    attack = min((rung.reached for rung in card.sandwich if rung.quantity == "mse"), default=None)
    found = {kind: best(card, kind) for kind in ("shannon", "blocks", "fisher", "spectrum")}
    strongest = max((value for value in found.values() if value is not None), default=None)
    shown = [rung.reached for rung in card.sandwich if rung.quantity == "information"]
    return {
        "defense": name,
        "capacity_nats": nats.get("capacity"),
        "mixture_nats": nats.get("mixture"),
        "gaussian_channel_nats": nats.get("gaussian_channel"),
        "demonstrated_nats": max(shown, default=None),
        "floor_nats": nats["utility floor"],
        **{f"{kind}_mse": value for kind, value in found.items()},
        "attack_mse": attack,
        "attack_over_bound": None if not strongest or attack is None else attack / strongest,
        "blocks_over_shannon": None
        if not found["shannon"] or not found["blocks"]
        else found["blocks"] / found["shannon"],
        "void": len(card.void),
        "status": card.status,
    }


if __name__ == "__main__":
    main()
