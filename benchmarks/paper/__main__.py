"""The paper's rows: ``python -m benchmarks.paper --data FOLDER --row noise_arl --scale reduced [--minutes 10]``.

Rows of its table, and of its figure 4: ``noise_arl-lambda8``, ``noise_arl-cut2``. Trains the row's defense in its kinds
(see `benchmarks.paper.scales`) at each noise level and seed; attacks each as the paper does and honestly; writes
``results/paper/ROW@SCALE.json`` once all of it is there. Stopped, or out of its minutes, it goes on where it was; of a
row that is there it computes the points whose settings have changed.
``--publish`` builds ``results/paper/cifar10.json``, and the curves, from the rows that are there.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from benchmarks.paper.computing import compute
from benchmarks.paper.curves import publish_curves
from benchmarks.paper.points import Place, points_of, seal_of
from benchmarks.paper.publishing import FOLDER, build, check_settings, stored
from benchmarks.paper.scales import ROWS, SCALES
from splitveil.experiments.environment import describe_environment, pick_device
from splitveil.files import write_text


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
    until = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    for row in options.row:
        if not _run_row(row, options, until):
            print("out of time: the same command goes on")
            return 0
    if options.publish:
        check_settings(stored())
        build()
        publish_curves()
    return 0


def _run_row(row: str, options: argparse.Namespace, until: float | None) -> bool:
    file, scale = FOLDER / f"{row}@{options.scale}.json", SCALES[options.scale]
    held: list[dict[str, Any]] = json.loads(file.read_text())["points"] if file.is_file() else []
    of_seal = {point["settings"]: point for point in held}
    wanted = {point: seal_of(point, scale) for point in points_of(row, scale)}
    missing = [point for point, seal in wanted.items() if seal not in of_seal]
    place = Place(options.data, options.out / options.scale, until)
    for point, found in compute(missing, scale, place, options.workers):
        if found is not None:
            of_seal[wanted[point]] = found
            print(f"{point.name}: accuracy {found['accuracy']['mean']:.3f}, error {found['honest']['mse']['mean']:.4f}")
    if not all(seal in of_seal for seal in wanted.values()):
        return False
    done = [of_seal[seal] for seal in wanted.values()]
    if done == held:
        return True
    record = {
        "row": row,
        "scale": options.scale,
        "seeds": scale.seeds,
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
        "environment": describe_environment(pick_device(None)),
        "seconds": {
            step: sum(point["seconds"].get(step, 0.0) for point in done)
            for step in ("training", "train", "infer", "honest")
        },
        "points": done,
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(record, indent=1, allow_nan=False) + "\n")
    return True


if __name__ == "__main__":
    raise SystemExit(main())
