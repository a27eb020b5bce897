"""Attacks where the least error is known: Gaussian pictures, a linear head, Gaussian noise.

``python -m benchmarks.gaussian_linear`` prints by how much each attack's error exceeds the mean squared error of the
posterior mean, the trace of the posterior covariance over d, which no attacker beats.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.harness import publish
from splitveil.attacks.decoder import Decoder
from splitveil.attacks.linear import Linear
from splitveil.attacks.optimise import Optimise
from splitveil.attacks.subjects import ModelSubject
from splitveil.attacks.view import AttackerView
from splitveil.contracts import Attack
from splitveil.data.loader import Pictures
from splitveil.data.tables import ImageTable
from splitveil.defenses.mechanisms.gaussian import Gaussian
from splitveil.metrics.summary import summarize
from splitveil.nets.parts import SplitParts
from splitveil.noise import SeededNoise
from splitveil.rng import Rng
from splitveil.split_model import SplitModel
from splitveil.threats import ThreatModel

SIDE, Q, NOISE_STD = 8, 32, 0.1
AUXILIARY, TESTED = 20_000, 4000
DECODER = {"channels": 32, "blocks": 1, "epochs": 25, "batch_size": 128, "lr": 2e-3}
ATTACKS: dict[str, Attack] = {
    "linear": Linear(),
    "decoder": Decoder(**DECODER),  # type: ignore[arg-type]
    "optimise gaussian": Optimise(steps=200),
}


def covariance() -> np.ndarray[Any, np.dtype[np.float64]]:
    """Of the pictures: neighbours are alike; the standard deviation is 0.12."""
    rows, columns = np.divmod(np.arange(SIDE**2), SIDE)
    distance = np.hypot(rows[:, None] - rows, columns[:, None] - columns)
    return np.asarray(0.12**2 * np.exp(-distance / 3))


def pictures(n: int, key: str) -> Pictures:
    """Draws around grey, as bytes."""
    factor = np.linalg.cholesky(covariance())
    drawn = 0.5 + Rng(1).child(key).numpy().standard_normal((n, SIDE**2)) @ factor.T
    images = torch.from_numpy((255 * drawn).round().clip(0, 255).astype(np.uint8)).reshape(n, 1, SIDE, SIDE)
    return Pictures(ImageTable(images, torch.zeros(n, dtype=torch.int64)))


def world() -> tuple[ModelSubject, float]:
    """The subject, and the least error."""
    with Rng(2).scoped():
        layer = nn.Linear(SIDE**2, Q)
        nn.init.orthogonal_(layer.weight)
        parts = SplitParts(nn.Sequential(nn.Flatten(), layer), nn.Linear(Q, 2), (1, SIDE, SIDE))
    a, s = layer.weight.detach().double().numpy(), covariance()
    seen = a @ s @ a.T + NOISE_STD**2 * np.eye(Q)
    least = float(np.trace(s - s @ a.T @ np.linalg.solve(seen, a @ s)) / SIDE**2)
    return ModelSubject(SplitModel(parts, Gaussian(NOISE_STD))), least


def measure() -> list[dict[str, Any]]:
    """A row per attack."""
    subject, least = world()
    x = pictures(TESTED, "test").get(torch.arange(TESTED))[0]
    r = subject.release(x, SeededNoise(Rng(3)))
    rows: list[dict[str, Any]] = []
    for name, attack in ATTACKS.items():
        view = AttackerView(subject, ThreatModel.preset("white_box"), auxiliary=pictures(AUXILIARY, "aux"), rng=Rng(4))
        inverter = attack.fit(view, Rng(5))
        errors = (inverter.invert(r) - x).double().square().flatten(1).mean(1)
        found = summarize(errors, rng=Rng(6), safer="higher")
        rows.append(
            {
                "attack": name,
                "mse_over_least": found.mean / least,
                "low": found.low / least,
                "high": found.high / least,
                "d": SIDE**2,
                "q": Q,
                "pictures": TESTED,
                "auxiliary": AUXILIARY,
            }
        )
    return rows


def main() -> None:
    """Run."""
    rows = measure()
    worst = max(rows, key=lambda row: row["mse_over_least"])
    summary = {
        "excess_max": worst["mse_over_least"] - 1,
        "of": worst["attack"],
        "none_below": all(row["high"] >= 1 for row in rows),
    }
    publish("gaussian_linear", summary, rows)


if __name__ == "__main__":
    main()
