"""Whether a bundle is what it says: digests, signature, expiry, graphs, and parity with the run it came from."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from splitveil.attacks.metadata import NOISE_KEY
from splitveil.data.holding import hold
from splitveil.errors import CheckFailedError, SplitveilError
from splitveil.experiments.attacking import load_model
from splitveil.experiments.training import load_data_spec
from splitveil.export.bundle import evaluation_rng, task_of
from splitveil.export.measuring import Measured, measure, said_of_predictions
from splitveil.export.page_seals import LIVE, check_page
from splitveil.export.parity import check_part, like_passport
from splitveil.records import RunRecord
from splitveil_edge.errors import EdgeError
from splitveil_edge.graphs import CloudGraph, EdgeGraphs
from splitveil_edge.noise import EntropyNoise
from splitveil_edge.passport import CLOUD, EDGE, FINISH, PASSPORT, SIGNATURE, Passport, read_passport
from splitveil_edge.wire import wire_codec

__all__ = ["Check", "verify_bundle"]

_PROBES = 16


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was checked; `detail` is the evidence, or the reason."""

    name: str
    state: Literal["pass", "fail", "not checked"]
    detail: str

    def to_json(self) -> dict[str, str]:
        """Plain data."""
        return asdict(self)


def verify_bundle(
    bundle: Path,
    *,
    run: RunRecord | None = None,
    public_key: bytes | None = None,
    trusted: str | None = None,
    pictures: int = 256,
    now: datetime | None = None,
) -> list[Check]:
    """Check everything that can be checked of a whole bundle; a check that fails does not stop the others.

    Args:
        bundle: folder with both sides.
        run: where it came from; with it, torch and the graphs are compared on equal pictures and noise.
        public_key: of who must have signed, PEM or 32 bytes.
        trusted: a model factory outside splitveil that the user named.
        pictures: the most test pictures to compare on.
        now: the time to hold the expiry against.

    Raises:
        PassportError: there is no passport to check against.
        MissingFileError: neither is there a file.
    """
    bundle = Path(bundle)
    passport = _unsealed(bundle)
    whole = [EDGE, CLOUD, *([FINISH] if FINISH in passport.files else [])]
    found = [
        _signed(passport, public_key),
        _check("expiry", lambda: _expiry(passport, now)),
        *(_check(f"digest of {name}", partial(_digest, passport, bundle, name)) for name in whole),
        _check("nothing else", lambda: _nothing_else(passport, bundle)),
    ]
    if (bundle / LIVE).is_dir():
        found.append(_check("live page", lambda: check_page(bundle, passport)))
    if any(item.state == "fail" for item in found if item.name.startswith("digest")):
        skipped = "the files are not those of the passport"
        return [*found, *(Check(name, "not checked", skipped) for name in ("graphs", "parity"))]
    found.append(_check("graphs", lambda: _runs(passport, bundle)))
    if run is None:
        return [*found, Check("parity", "not checked", "no run given: pass --run to compare with torch")]
    return [*found, _check("parity", lambda: _parity(passport, bundle, run, trusted, pictures))]


def _unsealed(bundle: Path) -> Passport:
    """The passport, with neither expiry nor signature held against anything yet."""
    return read_passport(bundle, now=datetime.min.replace(tzinfo=UTC))


def _check(name: str, run: Callable[[], str]) -> Check:
    try:
        return Check(name, "pass", run())
    except (EdgeError, SplitveilError) as error:
        return Check(name, "fail", str(error))


def _signed(passport: Passport, public_key: bytes | None) -> Check:
    signature = passport.signature
    if public_key is None:
        signer = "nobody has signed" if signature is None else f"says {signature.public_key.hex()[:16]}…"
        return Check("signature", "not checked", f"{signer}; pass --public-key to hold it against a key you know")
    if signature is None:
        return Check("signature", "fail", "expected passport.sig, got none: export the run again with --key")

    def verify() -> str:
        signature.check(passport.body, public_key)
        return f"Ed25519 of {signature.public_key.hex()[:16]}… over sha256 {passport.digest[:16]}…"

    return _check("signature", verify)


def _expiry(passport: Passport, now: datetime | None) -> str:
    passport.check_expiry(now)
    return "never expires" if passport.expires is None else f"until {passport.expires:%Y-%m-%d %H:%M} UTC"


def _digest(passport: Passport, bundle: Path, name: str) -> str:
    passport.check_files(bundle, [name])
    return f"sha256 {passport.files[name].sha256[:16]}…"


def _nothing_else(passport: Passport, bundle: Path) -> str:
    known = {PASSPORT, SIGNATURE, *passport.files}
    others = (item for item in bundle.iterdir() if item.name not in known)
    strangers = sorted(item.name for item in others if not (item.name == LIVE and item.is_dir()))
    if strangers:
        raise CheckFailedError(
            f"expected only files of the passport in '{bundle}', got {', '.join(strangers[:3])}: remove them"
        )
    return f"{len(passport.files)} graphs and their passport"


def _runs(passport: Passport, bundle: Path) -> str:
    """Edge and cloud on random pictures with the device's own noise, through the wire."""
    edge, cloud, wire = EdgeGraphs(bundle, passport), CloudGraph(bundle, passport), wire_codec(passport)
    _laws(passport, bundle)
    x = np.random.default_rng(0).random((_PROBES, *passport.input_shape), dtype=np.float32)
    r = edge.release(x, {law.name: EntropyNoise().draw(law, x, b"") for law in passport.noise})
    output = edge.finish(cloud.reply(wire.decode(wire.encode(r))))
    if not np.isfinite(output).all():
        raise CheckFailedError("expected finite outputs on random pictures, got NaN or infinity: export it again")
    limits = passport.release_range
    if limits is not None and not limits[0] <= float(r.min()) <= float(r.max()) <= limits[1]:
        raise CheckFailedError(
            f"expected releases within {limits[0]:g} to {limits[1]:g}, got {r.min():g} to {r.max():g}: the edge is not "
            "the one of the passport"
        )
    return f"{_PROBES} random pictures, releases from {r.min():.3g} to {r.max():.3g}"


def _laws(passport: Passport, bundle: Path) -> None:
    """Raise unless edge.onnx itself names the same noise as the passport: an audit of the file rests on it."""
    session = import_module("onnxruntime").InferenceSession(str(bundle / EDGE), providers=["CPUExecutionProvider"])
    said = json.loads(session.get_modelmeta().custom_metadata_map.get(NOISE_KEY, "[]"))
    expected = [{"name": law.name, "shape": list(law.shape), "law": law.law} for law in passport.noise]
    if said != expected:
        raise CheckFailedError(f"expected the noise {expected} in '{EDGE}', got {said}: export the bundle again")


def _parity(passport: Passport, bundle: Path, run: RunRecord, trusted: str | None, pictures: int) -> str:
    if passport.data["digest"] != run.spec.data.digest:
        raise CheckFailedError(
            f"expected a run on the data {str(passport.data['digest'])[:16]}…, got one on "
            f"{str(run.spec.data.digest)[:16]}…: it is not the run of this bundle"
        )
    data = load_data_spec(run.spec.data)
    model = like_passport(load_model(run, data, trusted=trusted).to(memory_format=torch.contiguous_format), passport)
    test = hold(data.splits.test, targets=data.splits.test.targets)
    few = test.take(torch.arange(min(pictures, len(test))))
    measured = measure(model, bundle, passport, few, evaluation_rng(run), task_of(run, data, trusted))
    _hold(measured, passport)
    parts = f"releases within {measured.edge.largest:.2g}, replies within {measured.cloud.largest:.2g}"
    return f"{parts} of torch on {measured.pictures} pictures{said_of_predictions(measured)}"


def _hold(measured: Measured, passport: Passport) -> None:
    parts = {"edge": measured.edge, "cloud": measured.cloud, "finish": measured.finish}
    for name, part in parts.items():
        if part is not None:
            check_part(name, part, passport)
