"""The exceptions of splitveil. Every message says what was expected, what came, and the cure.

```
SplitveilError                 exit code 1   base of all; catch this one
├── UsageError                 2             a call or a command line that cannot be meant
├── SpecError                  3             a configuration that is not valid
│   └── UnknownNameError       3             a name that no registry holds (carries the nearest ones)
├── InputError                 3             data, files or tensors that are not what they should be
│   └── ContractError          3             a plug-in that does not keep its declared contract
├── OutputError                3             a place that cannot be written, or holds something else
├── ThreatModelError           3             an attacker that asks for what its threat model does not grant
├── MissingDataError           4             data that is not there
├── MissingExtraError          4             an optional dependency that is not installed
├── TrainingError              1             training that diverged or collapsed
└── CheckFailedError                1             a check that was asked for and did not hold
```
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = [
    "CheckFailedError",
    "ContractError",
    "InputError",
    "MissingDataError",
    "MissingExtraError",
    "OutputError",
    "SpecError",
    "SplitveilError",
    "ThreatModelError",
    "TrainingError",
    "UnknownNameError",
    "UsageError",
]


class SplitveilError(Exception):
    """Base of all errors that splitveil raises on purpose."""

    exit_code = 1


class UsageError(SplitveilError):
    """A call or a command line that cannot be meant."""

    exit_code = 2


class SpecError(SplitveilError):
    """A configuration that is not valid."""

    exit_code = 3


_MOST_NAMES = 40


class UnknownNameError(SpecError):
    """A name that is not known; the message offers the nearest ones.

    Example:
        >>> print(UnknownNameError("defense", "gausian", ["cem", "gaussian", "none"]))
        unknown defense 'gausian': did you mean 'gaussian'? Known: cem, gaussian, none
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        choices = sorted(known)
        near = get_close_matches(name, choices, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'? " if near else ""
        super().__init__(f"unknown {kind} '{name}': {hint}{_listed(choices)}")
        self.kind, self.name, self.known = kind, name, choices


def _listed(choices: list[str]) -> str:
    if not choices:
        return "there is none to give, leave it out"
    more = len(choices) - _MOST_NAMES
    return f"Known: {', '.join(choices[:_MOST_NAMES])}" + (f" and {more} more" if more > 0 else "")


class InputError(SplitveilError):
    """Data, files or tensors that are not what they should be."""

    exit_code = 3


class ContractError(InputError):
    """A plug-in that does not keep the contract it declares."""


class OutputError(SplitveilError):
    """A place that cannot be written to, or that holds something else."""

    exit_code = 3


class ThreatModelError(SplitveilError):
    """An attacker that asks for what its threat model does not grant."""

    exit_code = 3


class MissingDataError(SplitveilError):
    """Data that is not there."""

    exit_code = 4


class MissingExtraError(SplitveilError):
    """An optional dependency that is not installed."""

    exit_code = 4

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package '{package}', which is not installed: run  pip install 'splitveil[{extra}]'"
        )


class TrainingError(SplitveilError):
    """Training that diverged or collapsed."""


class CheckFailedError(SplitveilError):
    """A check that was asked for and did not hold."""
