"""The errors of the edge and of bundles, with the exit code that each has on the command line.

```
EdgeError                      1
├── UsageError                 2    a call or a command line that cannot be meant
├── InputError                 3    a picture or a tensor that is not what it should be
├── PassportError              3    a passport that is no passport
│   └── TrustError             1    a check that failed: digest, signature, expiry, another server's passport
├── OutputError                3    a place that cannot be written, or holds something else
├── MissingFileError           4    a bundle, or a file of it, that is not there
├── MissingExtraError          4    an optional dependency that is not installed
├── BudgetError                1    a release that would spend more than the ledger allows
└── ServerError                1    a server that answered with an error, or not at all
    └── UnavailableError       1    no good answer within all attempts: the same call may succeed later
```
"""

from __future__ import annotations

from importlib.util import find_spec

__all__ = [
    "BudgetError",
    "EdgeError",
    "InputError",
    "MissingExtraError",
    "MissingFileError",
    "OutputError",
    "PassportError",
    "ServerError",
    "TrustError",
    "UnavailableError",
    "UsageError",
]


class EdgeError(Exception):
    """Base of all errors that the edge raises on purpose."""

    exit_code = 1


class UsageError(EdgeError):
    """A call or a command line that cannot be meant."""

    exit_code = 2


class InputError(EdgeError):
    """A picture or a tensor that is not what it should be."""

    exit_code = 3


class PassportError(EdgeError):
    """A passport that is no passport: not JSON, unknown keys, impossible values."""

    exit_code = 3


class TrustError(PassportError):
    """A check that failed: a file of another digest, a wrong signature, an expired passport, another server's."""

    exit_code = 1


class OutputError(EdgeError):
    """A place that cannot be written to, or that holds something else."""

    exit_code = 3


class MissingFileError(EdgeError):
    """A bundle, or a file of it, that is not there."""

    exit_code = 4


class MissingExtraError(EdgeError):
    """An optional dependency that is not installed.

    Example:
        >>> print(MissingExtraError("cryptography", "sign", "signing"))  # doctest: +ELLIPSIS
        signing needs the package 'cryptography', which is not installed: run  pip install 'splitveil...'
    """

    exit_code = 4

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package '{package}', which is not installed: run  pip install '{_holder(extra)}'"
        )


class BudgetError(EdgeError):
    """A release that would spend more than the ledger allows."""


class ServerError(EdgeError):
    """A server that answered with an error, or not at all.

    Args:
        message: expected, got, cure.
        status: of HTTP, or None where there was no answer.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class UnavailableError(ServerError):
    """No good answer within all attempts: the same call may succeed later."""


_IN_SPLITVEIL = {"png": "splitveil", "sign": "splitveil[serve]"}


def _holder(extra: str) -> str:
    """What to install: splitveil holds these very files too, and a second wheel would write over them."""
    return f"splitveil-edge[{extra}]" if find_spec("splitveil") is None else _IN_SPLITVEIL[extra]
