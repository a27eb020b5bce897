"""The deployment under audit: releases that were attacked, sent through the live server."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from splitveil.errors import CheckFailedError
from splitveil.experiments.target import Target
from splitveil.records import FiledRecord
from splitveil.threats import ThreatModel
from splitveil_edge.client import EdgeClient
from splitveil_edge.graphs import CloudGraph
from splitveil_edge.wire import wire_codec

__all__ = ["ReplayRecord", "replay_releases"]

_TOLERANCE = {"fp32": 1e-4, "fp16": 1e-2, "int8": 1e-2}  # of the reply's largest value: other machines round otherwise
_ALONE = 8


class ReplayRecord(FiledRecord):
    """What a server answered to the audited releases, against the cloud's graph of the bundle.

    Args:
        server: its address.
        passport: digest of the passport that both hold.
        releases: that were sent.
        alone: how many of them were sent a second time, one by one: batching must not mix them.
        largest_difference: of a reply's value.
        limit: that it was held against.
        same_predictions: share of replies with the same largest value.
        status: ``same`` within the limit.
    """

    file: ClassVar[str] = "replay.json"
    what: ClassVar[str] = "a replay"
    command: ClassVar[str] = "audit BUNDLE --server"

    format: Literal[1] = 1
    server: str
    passport: str
    releases: int
    alone: int
    largest_difference: float
    limit: float
    same_predictions: float
    status: Literal["same", "different"]


def replay_releases(target: Target, *, bundle: Path, client: EdgeClient, out: Path) -> ReplayRecord:
    """Send the very releases that attackers saw to the server, and write ``replay.json``.

    Args:
        target: what was audited.
        bundle: its folder, with ``cloud.onnx``.
        client: of the server.
        out: folder of the audit.

    Raises:
        CheckFailedError: the server answers something else than the bundle's graph.
        TrustError: the server holds another passport.
        ServerError: it refuses a release, or does not answer.
    """
    passport = client.edge.passport
    wire, cloud = wire_codec(passport), CloudGraph(bundle, passport)
    once = ThreatModel(target.subject.offers, auxiliary="none")
    r = np.ascontiguousarray(target.releases(once).cpu().numpy())
    expected = cloud.reply(wire.decode(wire.encode(r)))
    client.meet()
    together = np.concatenate([client.ask(rows) for rows in np.array_split(r, -(-len(r) // 64))])
    alone = np.concatenate([client.ask(row[None]) for row in r[:_ALONE]])
    difference = max(_largest(together, expected), _largest(alone, expected[:_ALONE]))
    limit = _TOLERANCE[passport.precision["cloud"]] * max(1.0, float(np.abs(expected).max()))
    found = ReplayRecord(
        server=client.server,
        passport=passport.digest,
        releases=len(r),
        alone=len(alone),
        largest_difference=difference,
        limit=limit,
        same_predictions=float((_best(together) == _best(expected)).mean()),
        status="same" if difference <= limit else "different",
    )
    found.write(out)
    if found.status == "different":
        raise CheckFailedError(
            f"expected replies of '{client.server}' within {limit:.2g} of the bundle's cloud.onnx, got a difference of "
            f"{difference:.3g}: what is served is not what was audited"
        )
    return found


def _largest(got: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return float(np.abs(got - expected).max())


def _best(reply: NDArray[np.float32]) -> NDArray[np.intp]:
    found: NDArray[np.intp] = reply.reshape(len(reply), -1).argmax(1)
    return found
