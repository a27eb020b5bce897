"""What the first word costs: ``splitveil --help`` against an empty Python process, in turns."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

from benchmarks.harness import publish

COMMANDS = {
    "python": [sys.executable, "-c", "pass"],
    "splitveil --help": [sys.executable, "-m", "splitveil.cli", "--help"],
    "import splitveil": [sys.executable, "-c", "import splitveil"],
    "import torch": [sys.executable, "-c", "import torch"],
}


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        for name, command in COMMANDS.items():
            started = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    rows = [
        {"command": name, "median_s": value, "times_python": value / medians["python"]}
        for name, value in medians.items()
    ]
    publish(
        "startup",
        {
            "rounds": rounds,
            "help_median_s": round(medians["splitveil --help"], 3),
            "help_times_python": round(medians["splitveil --help"] / medians["python"], 1),
            "help_share_of_importing_torch": round(medians["splitveil --help"] / medians["import torch"], 3),
        },
        rows,
    )


if __name__ == "__main__":
    main()
