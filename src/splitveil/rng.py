"""Randomness as an argument: a key from which every stream is derived by name, never a hidden state.

Two runs with the same key draw the same numbers whatever was drawn before, so a resumed run needs no saved
generator state, and a picture's noise does not depend on its batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch

__all__ = ["Rng"]


@dataclass(frozen=True, slots=True)
class Rng:
    """A key of independent random streams.

    Args:
        seed: the user's seed.
        path: the names below it, such as ``("train", epoch, step)``.

    Example:
        >>> a, b = Rng(0).child("noise"), Rng(0).child("noise")
        >>> float(torch.rand((), generator=a.generator())) == float(torch.rand((), generator=b.generator()))
        True
    """

    seed: int
    path: tuple[str | int, ...] = ()

    def child(self, *names: str | int) -> Rng:
        """The key below this one with these names."""
        return Rng(self.seed, (*self.path, *names))

    def number(self) -> int:
        """63 bits that depend on the seed and the path alone."""
        text = repr((self.seed, self.path)).encode()
        return int.from_bytes(blake2b(text, digest_size=8).digest(), "little") >> 1

    def generator(self, device: torch.device | str = "cpu") -> torch.Generator:
        """A fresh torch generator of this key."""
        return torch.Generator(device=device).manual_seed(self.number())

    def numpy(self) -> np.random.Generator:
        """A fresh NumPy generator of this key."""
        return np.random.default_rng(self.number())

    @contextmanager
    def scoped(self, device: torch.device | str = "cpu") -> Iterator[None]:
        """Run modules that draw from torch's global generator (dropout, initialisation) on this key.

        The global state is put back on leaving, so nothing outside sees a difference.
        """
        device = torch.device(device)
        cuda = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            torch.set_rng_state(self.generator().get_state())
            for gpu in cuda:
                torch.cuda.set_rng_state(self.generator(gpu).get_state(), gpu)
            yield
