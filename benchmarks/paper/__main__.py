"""The paper's rows: ``python -m benchmarks.paper --data FOLDER --row noise_arl --scale reduced [--minutes 10]``.

Rows of its table, and of its figure 4: ``noise_arl-lambda8``, ``noise_arl-cut2``. Trains the row's defense in its kinds
(see `benchmarks.paper.scales`) at each noise level and seed; attacks each as the paper does and honestly; writes
``results/paper/ROW@SCALE.json`` once all of it is there. Stopped, or out of its minutes, it goes on where it was; of a
row that is there it computes the points whose settings have changed.
A point that fails, as one whose training diverges, keeps the others from nothing; its row waits for it.
``--publish`` builds ``results/paper/cifar10.json``, the curves and the page of results from the rows that are there.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from benchmarks.paper.computing import compute
from benchmarks.paper.curves import publish_curves
from benchmarks.paper.points import Place, pictures_of, points_of, seal_of
from benchmarks.paper.publishing import FOLDER, build, stored
from benchmarks.paper.scales import ROWS, SCALES, Scale
from benchmarks.results_page import write_page
from splitveil.errors import SpecError, SplitveilError
from splitveil.files import write_text

_STEPS = ("training", "train", "infer", "refine", "honest")
_CIFAR10 = ((3, 32, 32), 10)


def main() -> int:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder of CIFAR-10 as parquet")
    parser.add_argument("--row", choices=ROWS, nargs="*", default=[])
    parser.add_argument("--scale", choices=SCALES, default="reduced")
    parser.add_argument("--out", type=Path, default=Path("runs/paper"), help="runs, and points that are done")
    parser.add_argument("--minutes", type=float, help="then stop, to go on with the same command")
    parser.add_argument("--workers", type=int, default=1, help="points that are computed at the same time")
    parser.add_argument("--publish", action="store_true", help="build the table of the rows that are there")
    options = parser.parse_args()
    if options.row and options.data is None:
        parser.error("expected --data beside --row")
    if options.workers < 1:
        parser.error(f"expected --workers of at least 1, got {options.workers}")
    until = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    failed = list[str]()
    for row in options.row:
        if not _run_row(row, options, until, failed) and not failed:
            print("out of time: the same command goes on")
            return 0
    if failed:
        print(f"expected all points, got {len(failed)} that failed: {'; '.join(failed)}")
        return 1
    if options.publish:
        rows = stored()
        build(rows)
        publish_curves(rows)
        write_page()
    return 0


def digest_of(scale: Scale, place: Place) -> str:
    """Of the pictures of a scale.

    Raises:
        SpecError: they are not of the shape and the classes of CIFAR-10, whose table this is.
    """
    found = pictures_of(scale, place)
    shape = (found.source.input_shape, len(found.source.class_names))
    if shape != _CIFAR10:
        raise SpecError(f"expected the pictures of CIFAR-10, {_CIFAR10}, got {shape}: pass its folder as --data")
    return found.splits.digest


def _run_row(row: str, options: argparse.Namespace, until: float | None, failed: list[str]) -> bool:
    """Whether all points of a row are there now; those that cannot be are named."""
    file, scale = FOLDER / f"{row}@{options.scale}.json", SCALES[options.scale]
    place = Place(options.data, options.out / options.scale, until)
    digest = digest_of(scale, place)
    held: list[dict[str, Any]] = json.loads(file.read_text())["points"] if file.is_file() else []
    of_seal = {point["settings"]: point for point in held if point.get("data_digest") == digest}
    wanted = {point: seal_of(point, scale) for point in points_of(row, scale)}
    missing = [point for point, seal in wanted.items() if seal not in of_seal]
    for point, found in compute(missing, scale, place, options.workers):
        if isinstance(found, SplitveilError):
            failed.append(f"{point.name}: {found}")
        elif found is not None:
            of_seal[wanted[point]] = found
            print(f"{point.name}: accuracy {found['accuracy']['mean']:.3f}, error {found['honest']['mse']['mean']:.4f}")
    if not all(seal in of_seal for seal in wanted.values()):
        return False
    done = [of_seal[seal] for seal in wanted.values()]
    if done == held:
        return True
    teachers = {point["seed"]: point["seconds"].get("teacher", 0.0) for point in done if "teacher" in point["seconds"]}
    record = {
        "row": row,
        "scale": options.scale,
        "seeds": scale.seeds_of(ROWS[row]),
        "settings": {
            "preset": ROWS[row].preset,
            "cut": ROWS[row].cut,
            "paper_weight": ROWS[row].strength * scale.paper_weight,
            "our_weights": {
                f"{noise_std:g}": scale.our_weight(ROWS[row], noise_std) for noise_std in scale.noise_of(ROWS[row])
            },
            "recipe": scale.recipe,
            "training": dict(scale.training),
            "limit": scale.limit,
            "settle": scale.settle,
            "draw": scale.draw,
            "honest": [attack.model_dump() for attack in scale.honest],
            "decoder": dict(scale.decoder),
        },
        "seconds": {
            "teachers": sum(teachers.values()),
            **{step: sum(point["seconds"].get(step, 0.0) for point in done) for step in _STEPS},
        },
        "points": done,
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(record, indent=1, allow_nan=False) + "\n")
    return True


if __name__ == "__main__":
    raise SystemExit(main())
