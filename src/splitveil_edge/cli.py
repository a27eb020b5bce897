"""The command line of the device: ``splitveil-edge infer`` and ``splitveil-edge check``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splitveil_edge import __version__
from splitveil_edge.errors import EdgeError, InputError, MissingFileError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from splitveil_edge.ledger import Ledger
    from splitveil_edge.noise import Noise
    from splitveil_edge.passport import Passport

__all__ = ["main", "read_token"]

_INTERRUPTED = 130
_TOKEN = "SPLITVEIL_TOKEN"
_MOST_VALUES = 8


def main(arguments: Sequence[str] | None = None, program: str = "splitveil-edge") -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; those of the process by default.
        program: its name, for usage and help.

    Returns:
        The exit code.
    """
    options = _parser(program).parse_args(arguments)
    try:
        found: int = options.run(options)
        return found
    except EdgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return _INTERRUPTED


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(program, description="The device's half of a split: it keeps the picture.")
    parser.add_argument("--version", action="version", version=f"splitveil-edge {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    infer = commands.add_parser("infer", help="ask the cloud about pictures, without showing them")
    infer.set_defaults(run=_infer)
    infer.add_argument("pictures", nargs="+", type=Path, metavar="PICTURE")
    infer.add_argument("--server", required=True, help="https://host:port")
    _add_bundle(infer)
    infer.add_argument("--token-file", type=Path, help=f"file with the bearer token; else the variable {_TOKEN}")
    infer.add_argument("--ca", type=Path, help="certificates to trust in place of the usual ones, PEM")
    infer.add_argument("--plain", action="append", default=[], metavar="HOST", help="host that may go without TLS")
    infer.add_argument("--timeout", type=float, default=30.0, metavar="S", help="of each wait for bytes, seconds")
    infer.add_argument("--attempts", type=int, default=5, help="in all, for errors that pass")
    infer.add_argument(
        "--resize",
        action="store_const",
        const="resize",
        default="exact",
        help="scale until it covers the size needed, and keep the middle, as in training",
    )
    infer.add_argument("--noise-secret", type=Path, help="file of a secret: the same picture gets the same noise")
    infer.add_argument("--ledger", type=Path, help="file that counts what is told; made on first use")
    infer.add_argument("--about", help="whom the ledger counts it for; the picture itself by default")
    infer.add_argument("--most-releases", type=int, help="of one picture, or of --about; needs --ledger")
    infer.add_argument("--most-nats", type=float, help="about one picture, or --about; needs --ledger")
    infer.add_argument("--top", type=int, default=1, help="classes to show")
    infer.add_argument("--json", action="store_true", help="JSON on stdout")
    check = commands.add_parser("check", help="hold a bundle, or its edge side, against its passport")
    check.set_defaults(run=_check)
    _add_bundle(check)
    return parser


def _add_bundle(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bundle", required=True, type=Path, help="folder of the bundle, or of its edge side")
    parser.add_argument("--public-key", type=Path, help="of who must have signed the passport, PEM")


def _infer(options: argparse.Namespace) -> int:
    import numpy as np

    from splitveil_edge.client import EdgeClient
    from splitveil_edge.pictures import read_picture
    from splitveil_edge.retrying import Retries

    if options.top < 1:
        raise UsageError(f"expected --top >= 1, got {options.top}")
    with EdgeClient(
        options.bundle,
        options.server,
        token=read_token(options.token_file),
        ca=options.ca,
        plain=options.plain,
        public_key=_key(options.public_key),
        noise=_noise(options.noise_secret),
        ledger=_ledger(options),
        timeout_s=options.timeout,
        retries=Retries(attempts=options.attempts),
    ) as client:
        passport = client.edge.passport
        shape = passport.input_shape
        sized = (shape[0], shape[1], shape[2])
        x = np.concatenate([read_picture(file, sized, fit=options.resize) for file in options.pictures])
        scores = client.predict(x, about=options.about)
    found = [_described(file, row, passport, options.top) for file, row in zip(options.pictures, scores, strict=True)]
    if options.json:
        print(json.dumps(found, indent=2, allow_nan=False))
    else:
        for item, row in zip(found, scores, strict=True):
            print(f"{item['picture']}: {_named(item, row)}")
    return 0


def _check(options: argparse.Namespace) -> int:
    from splitveil_edge.edge import Edge

    passport = Edge(options.bundle, public_key=_key(options.public_key)).passport
    signed = "signed with the given key" if options.public_key else "signature not checked"
    expires = "never" if passport.expires is None else f"{passport.expires:%Y-%m-%d %H:%M} UTC"
    print(f"{passport.name}: sha256 {passport.digest}, {signed}, expires {expires}")
    return 0


def _named(item: dict[str, Any], row: NDArray[np.float32]) -> str:
    if "classes" in item:
        return "  ".join(f"{choice['class']} {choice['score']:.3f}" for choice in item["classes"])
    if row.size <= _MOST_VALUES:
        return "  ".join(f"{value:.3f}" for value in row.reshape(-1))
    shape = " x ".join(map(str, row.shape))
    return f"{shape} values from {row.min():.3f} to {row.max():.3f}; --json has them all"


def _of_classes(passport: Passport) -> bool:
    """Whether outputs are scores of classes: as the score says that the bundle was measured with."""
    score = passport.parity.get("score", {"name": "accuracy"})
    return score["name"] in ("accuracy", "agreement")


def _described(file: Path, row: NDArray[np.float32], passport: Passport, top: int) -> dict[str, Any]:
    """The highest scores of a picture, or its whole output where that is no list of scores, one per class.

    A score is the output's value, as the model defines it.
    """
    values = row.reshape(-1)
    if row.ndim != 1 or not _of_classes(passport):
        return {"picture": str(file), "output": row.tolist()}
    order = (-values).argsort(kind="stable")[:top]
    names = passport.class_names
    classes = [
        {
            "class": names[index] if index < len(names) else str(index),
            "index": int(index),
            "score": float(values[index]),
        }
        for index in order
    ]
    return {"picture": str(file), "classes": classes}


def read_token(file: Path | None) -> str | None:
    """The token of a file, or of the environment; never of an argument: those show in the list of processes."""
    if file is None:
        return os.environ.get(_TOKEN) or None
    return _read(file, "a token").decode("utf-8", "replace").strip()


def _key(file: Path | None) -> bytes | None:
    from splitveil_edge.signing import read_key_file

    return None if file is None else read_key_file(file)


def _noise(file: Path | None) -> Noise | None:
    from splitveil_edge.noise import KeyedNoise

    return None if file is None else KeyedNoise(_read(file, "a secret"))


def _ledger(options: argparse.Namespace) -> Ledger | None:
    from splitveil_edge.ledger import Budget, Ledger

    budget = Budget(releases=options.most_releases, nats=options.most_nats)
    if options.ledger is None:
        if budget != Budget() or options.about is not None:
            raise UsageError("expected --ledger beside a budget or --about, got none: name a file to count in")
        return None
    return Ledger(options.ledger, budget)


def _read(file: Path, what: str) -> bytes:
    try:
        with file.open("rb") as stream:
            data = stream.read(4097)
    except OSError as error:
        raise MissingFileError(f"expected {what} in '{file}', got {error.strerror}: check the path") from error
    if not 1 <= len(data) <= 4096:
        raise InputError(f"expected {what} of 1 to 4096 bytes in '{file}', got {len(data)}")
    return data
