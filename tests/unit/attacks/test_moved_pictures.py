"""Decoders that learn from shifted and mirrored pictures, and from the releases of these."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from attack_fixtures import (
    KEY,
    PAIRS_ONLY,
    WHITE_BOX,
    Counting,
    auxiliary,
    budgeted,
    smooth,
    subject,
    table,
    view_of,
)
from splitveil.attacks.decoder import Decoder
from splitveil.attacks.shadow import Shadow
from splitveil.attacks.support import Support
from splitveil.contracts import NoiseSource
from splitveil.defenses.mechanisms.gaussian import Gaussian
from splitveil.errors import SpecError
from splitveil.noise import SeededNoise

PLAIN = Decoder(channels=8, blocks=1, epochs=4, batch_size=16, lr=5e-3)
MOVED = replace(PLAIN, crop=2, flip=True)


class Watching(Counting):
    """Keeps the pictures whose releases were asked for."""

    def release(self, x: torch.Tensor, noise: NoiseSource) -> torch.Tensor:
        self.asked = [*getattr(self, "asked", []), x]
        return super().release(x, noise)


def test_the_releases_learned_from_are_those_of_the_moved_pictures() -> None:
    watched = Watching(subject())
    inverter = MOVED.fit(view_of(watched, budgeted(None)), KEY)
    known = {bytes(x.numpy().tobytes()) for x in auxiliary().get(torch.arange(48))[0]}
    asked = [bytes(x.numpy().tobytes()) for batch in watched.asked for x in batch]
    strange = [x for x in asked if x not in known]
    assert inverter.facts["moved"] is True
    assert len(strange) > 0.5 * MOVED.epochs * 43, "most pictures of the epochs are moved"
    assert set(asked) & known, "and those that are validated on are not"


def test_moving_costs_no_query_more() -> None:
    seen = [view_of(Counting(subject()), budgeted(None)) for _ in range(2)]
    PLAIN.fit(seen[0], KEY)
    MOVED.fit(seen[1], KEY)
    assert seen[0].queries == seen[1].queries


def test_an_attacker_with_pairs_alone_learns_from_its_pictures_as_they_are() -> None:
    attacked = subject()
    inverters = [attack.fit(view_of(attacked, PAIRS_ONLY), KEY) for attack in (PLAIN, MOVED)]
    assert inverters[1].facts["moved"] is False
    for first, second in zip(*(inverter.parameters() for inverter in inverters), strict=True):
        torch.testing.assert_close(first, second, rtol=0.0, atol=0.0)


def mirrored_by_chance(n: int, key: str) -> torch.Tensor:
    pictures = smooth(n, key)
    coin = torch.rand(n, generator=KEY.child(key).generator()) < 0.5
    return torch.where(coin[:, None, None, None], pictures.flip(3), pictures)


def test_where_pictures_are_few_it_wins_by_mirroring_them() -> None:
    attacked = subject(Gaussian(0.1))
    x = table(mirrored_by_chance(256, "test")).get(torch.arange(256))[0]
    r = attacked.release(x, SeededNoise(KEY))

    def error(attack: Decoder) -> float:
        view = view_of(attacked, WHITE_BOX, table(mirrored_by_chance(16, "auxiliary")))
        return float((attack.fit(view, KEY).invert(r) - x).square().mean())

    plain = replace(PLAIN, epochs=60, batch_size=8)
    found = error(plain), error(replace(plain, flip=True))
    assert found[1] < 0.98 * found[0]


@pytest.mark.parametrize("attack", [Support, Shadow])
def test_its_kin_move_pictures_too(attack: type[Support] | type[Shadow]) -> None:
    settings = {"shadow_epochs": 1} if attack is Shadow else {}
    configured = attack(channels=4, blocks=1, epochs=1, batch_size=16, flip=True, **settings)  # type: ignore[arg-type]
    view = view_of(subject())
    view._observed = lambda: subject().release(auxiliary().get(torch.arange(16))[0], None)  # type: ignore[arg-type]
    assert configured.fit(view, KEY).facts["moved"] is True


def test_a_negative_shift_is_refused() -> None:
    with pytest.raises(SpecError, match="crop >= 0"):
        Decoder(crop=-1)
