"""What assuming real noise is worth: float32 releases show their features to whoever knows those of candidates."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from splitveil.bounds import capacity_box, identification
from splitveil.codecs import QuantisedCodec
from splitveil.contracts import FeatureSpec
from splitveil.defenses.mechanisms.chain import Chain
from splitveil.defenses.mechanisms.clip import Clip
from splitveil.defenses.mechanisms.gaussian import Gaussian
from splitveil.noise import EntropyNoise

Q, GALLERY, RELEASES, STD = 512, 10, 200, 10.0


def reachable(release: Tensor, z: Tensor) -> Tensor:
    """Of each row, in how many dimensions some float32 noise takes z to the release."""
    up = down = ((release.double() - z.double()) / STD).float()
    found, top = torch.zeros_like(release, dtype=torch.bool), torch.tensor(torch.inf)
    for _ in range(6):
        found |= (z + STD * up == release) | (z + STD * down == release)
        up, down = torch.nextafter(up, top), torch.nextafter(down, -top)
    return found.sum(1)


def released() -> tuple[Tensor, Tensor, Tensor]:
    """A gallery of features, which of them were released, and the releases."""
    generator = torch.Generator().manual_seed(1)
    gallery, chosen = (
        torch.rand(GALLERY, Q, generator=generator),
        torch.randint(GALLERY, (RELEASES,), generator=generator),
    )
    mechanism, spec = Chain(Clip(0.0, 1.0), Gaussian(STD)), FeatureSpec.of((Q,))
    noise = EntropyNoise().draw(mechanism.noise_spec(spec)[0], RELEASES)
    return gallery, chosen, mechanism(gallery[chosen], (noise,))


def rate(scores: Tensor, chosen: Tensor) -> float:
    """How often the best score is the right one, ties broken at random."""
    best = scores == scores.amax(1, keepdim=True)
    return float((best.gather(1, chosen[:, None])[:, 0] / best.sum(1)).mean())


def test_float32_noise_gives_away_more_than_the_certificate_of_real_noise() -> None:
    gallery, chosen, release = released()
    scores = torch.stack([reachable(release, z.expand_as(release)) for z in gallery], 1)
    assert identification(capacity_box(Q, 1.0, STD), GALLERY) < 0.6
    assert rate(scores, chosen) > 0.99


def test_levels_on_the_wire_give_no_more_than_it() -> None:
    """Each level is within reach of noise from every candidate; the best guess is that of real noise."""
    gallery, chosen, release = released()
    sent = QuantisedCodec(12, -8 * STD, 8 * STD).roundtrip(release)
    step = 16 * STD / (2**12 - 1)
    inside = torch.stack([((sent - z).abs() < 7 * STD).sum(1) for z in gallery], 1)  # levels hold thousands of floats
    assert step > 1000 * float(np.spacing(np.float32(8 * STD)))
    assert rate(inside, chosen) < 0.2
    nearest = torch.stack([-(sent - z).square().sum(1) for z in gallery], 1)
    assert rate(nearest, chosen) < identification(capacity_box(Q, 1.0, STD), GALLERY)
