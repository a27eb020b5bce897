"""One side of a bundle, for the machine that it is for."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

from splitveil.errors import UnknownNameError
from splitveil.export.folders import write_folder
from splitveil_edge.passport import CLOUD, EDGE, FINISH, PASSPORT, SIGNATURE, read_passport

__all__ = ["SIDES", "part_bundle"]

Side = Literal["cloud", "edge"]

SIDES: dict[str, tuple[str, ...]] = {"cloud": (CLOUD,), "edge": (EDGE, FINISH)}
"""Graphs by side. What the cloud gets is the tail and the passport: nothing of head or finish."""


def part_bundle(bundle: Path, side: str, out: Path) -> Path:
    """Copy what one side needs, once its digests hold.

    Args:
        bundle: folder.
        side: ``cloud`` or ``edge``.
        out: folder; new or empty.

    Raises:
        UnknownNameError: another side.
        TrustError: a file is not what the passport says, or the passport has expired.
        OutputError: `out` holds something.
    """
    if side not in SIDES:
        raise UnknownNameError("side", side, SIDES)
    bundle = Path(bundle)
    passport = read_passport(bundle)
    graphs = [name for name in SIDES[side] if name in passport.files]
    passport.check_files(bundle, graphs)
    names = [PASSPORT, *(name for graph in graphs for name in (graph, f"{graph}.data") if name in passport.files)]
    names += [SIGNATURE] if (bundle / SIGNATURE).is_file() else []

    def fill(folder: Path) -> None:
        for name in names:
            shutil.copyfile(bundle / name, folder / name)

    return write_folder(Path(out), fill)
