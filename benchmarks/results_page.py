"""The page of results, written from the files of the benchmarks: ``python -m benchmarks.results_page``.

A test holds the page to the files, so no number on it can be older than its record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.harness import on_file
from benchmarks.sections import attacking, gains, paper, running
from splitveil.files import write_text

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
INTRODUCTION = """# Results

Every number here is read from a file below `benchmarks/results/`, which holds the machine, the seeds and each row. The
copy of CIFAR-10 is JPEG, so errors are compared with each other and not with other publications. "Quick" models are
quarter-width VGG-11 trained on 12,000 pictures on two cores.

![Reconstructions of one picture, and accuracy against attacker error for noise and CEM](images/quick_cifar10.png)
"""

SECTIONS: tuple[tuple[str, str, Callable[[Mapping[str, Any]], str]], ...] = (
    ("CEM over noise at equal accuracy", "quick_cifar10", gains.compared),
    ("Kinds of covariance", "cem_modes", gains.modes),
    ("Every attack", "attacks_cifar10", attacking.attacks),
    ("Attacks where the least error is known", "gaussian_linear", attacking.exact),
    ("Every defense, with CEM and without", "defenses_cifar10", gains.defenses),
    ("The paper's table", "paper/cifar10", paper.paper),
    ("The paper's curves", "paper/curves", paper.curves),
    ("Accuracy that costs no privacy", "settling", paper.settled),
    ("Faces", "reid_faces", attacking.faces),
    ("What no attacker can beat", "certificates_cifar10", attacking.certificates),
    ("One weight, any data", "weight_transfer", gains.transfer),
    ("Training speed", "training", running.training),
    ("What a defense costs in training", "defense_cost", running.costs),
    ("Serving", "serving", running.serving),
    ("Pages", "pages", running.pages),
)


def page() -> str:
    """The whole page; a benchmark that has not run has no section."""
    parts = [INTRODUCTION]
    for title, name, draw in SECTIONS:
        found = on_file(name)
        if found is not None:
            parts.append(f"## {title}\n\n{draw(found)}\n\n*`benchmarks/results/{name}.json`, {found['date']}*\n")
    return "\n".join(parts)


def write_page() -> None:
    """Write it anew."""
    write_text(PAGE, page())


if __name__ == "__main__":
    write_page()
