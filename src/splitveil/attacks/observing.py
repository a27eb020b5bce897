"""What an attacker sees of a picture: one release, or several that amount to one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from splitveil.attacks.subjects import ModelSubject
from splitveil.contracts import NoiseSource, NoiseSpec, Subject
from splitveil.noise import SeededNoise
from splitveil.rng import Rng
from splitveil.threats import ThreatModel

__all__ = ["IndexedNoise", "near_duplicate", "observe"]

_LEVEL = 1 / 255


def observe(
    subject: Subject, x: Tensor, threat: ThreatModel, *, source: Callable[[Rng], NoiseSource], rng: Rng, start: int = 0
) -> Tensor:
    """The releases of each picture under a threat model, combined as the mechanism says.

    ```
    x --[ m copies, or near duplicates ]--[ release with fresh noise ]-- (n, m, *r) --[ combine ]-- (n, *r)
    ```

    Args:
        subject: what releases.
        x: ``(n, c, h, w)`` in [0, 1].
        threat: says how many releases m of one picture there are, and of what.
        source: makes the noise of one observation from its key.
        rng: key of noise and duplicates.
        start: the row of the first picture in its table, so that a picture's duplicates do not depend on the batch.

    Returns:
        ``(n, *r)``.
    """
    known = isinstance(subject, ModelSubject) and not subject.model.noise_specs
    silent = known and threat.duplicates == "exact"  # every release is the same
    if threat.observations == 1 or silent:
        return subject.release(x, source(rng))
    sources = [source(rng.child("observation", m)) for m in range(threat.observations)]
    if threat.duplicates == "near":
        releases = [
            subject.release(near_duplicate(x, rng.child("duplicate", m), start) if m else x, noise)
            for m, noise in enumerate(sources)
        ]
    elif isinstance(subject, ModelSubject):
        releases = subject.release_each(x, sources)
    else:
        releases = [subject.release(x, noise) for noise in sources]
    return subject.combine(torch.stack(releases, dim=1))


def near_duplicate(x: Tensor, rng: Rng, start: int = 0) -> Tensor:
    """Almost the same pictures: moved by at most a pixel each way, every value by at most one level of 255.

    Args:
        x: ``(n, c, h, w)`` in [0, 1].
        rng: key; picture i is changed by ``rng.child(start + i)``, whatever the batch.
        start: row of the first picture.

    Example:
        >>> x = torch.full((1, 1, 4, 4), 0.5)
        >>> bool((near_duplicate(x, Rng(0)) - x).abs().max() <= 1 / 255 + 1e-6)
        True
    """
    height, width = x.shape[-2:]
    padded = functional.pad(x, (1, 1, 1, 1), mode="replicate")
    changed = torch.empty_like(x)
    for row in range(len(x)):
        generator = rng.child(start + row).generator()
        top, left = torch.randint(0, 3, (2,), generator=generator).tolist()
        levels = torch.randint(-1, 2, x.shape[1:], generator=generator).to(x)
        changed[row] = padded[row, :, top : top + height, left : left + width] + _LEVEL * levels
    return changed.clamp_(0.0, 1.0)


@dataclass(frozen=True, slots=True)
class IndexedNoise:
    """Noise whose row belongs to a picture, not to a place in the batch."""

    rng: Rng
    indices: Tensor

    def draw(self, spec: NoiseSpec, n: int) -> Tensor:
        rows, places = torch.unique(self.indices, return_inverse=True)
        source = self.rng.child("pairs")
        drawn = [SeededNoise(source, start=start).draw(spec, count) for start, count in _runs(rows.tolist())]
        return torch.cat(drawn)[places] if drawn else torch.zeros(0, *spec.shape)


def _runs(rows: list[int]) -> Iterator[tuple[int, int]]:
    """Sorted whole numbers as runs of neighbours: first and length."""
    start = 0
    for stop in range(1, len(rows) + 1):
        if stop == len(rows) or rows[stop] != rows[stop - 1] + 1:
            yield rows[start], stop - start
            start = stop
