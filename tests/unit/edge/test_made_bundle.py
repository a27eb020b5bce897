"""What tests of edge, server and page build on is a bundle."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from bundle_fixtures import make_bundle
from splitveil.export.graph import run_onnx
from splitveil_edge.errors import TrustError
from splitveil_edge.passport import CLOUD, EDGE, FINISH, read_passport
from splitveil_edge.signing import make_key
from splitveil_edge.wire import wire_codec


def test_it_can_be_read_and_run(tmp_path: Path) -> None:
    private, public = make_key()
    folder = make_bundle(tmp_path / "bundle", finish=True, bits=8, key=private)
    passport = read_passport(folder, public_key=public)
    passport.check_files(folder, [EDGE, CLOUD, FINISH])
    x = np.random.default_rng(0).random((3, *passport.input_shape), dtype=np.float32)
    noise = {law.name: np.full((3, *law.shape), 0.5, np.float32) for law in passport.noise}
    r = run_onnx(folder / EDGE, {"x": x, **noise})["r"]
    wire = wire_codec(passport)
    sent = wire.encode(r)
    assert (wire.datatype, sent.nbytes) == ("UINT8", r.nbytes // 4)
    np.testing.assert_allclose(wire.decode(sent), r, atol=1e-6)
    reply = run_onnx(folder / CLOUD, {"r": r})["reply"]
    assert reply.shape == (3, *passport.reply_shape)
    assert run_onnx(folder / FINISH, {"reply": reply})["output"].shape == (3, *passport.output_shape)


def test_changes_reach_the_passport(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path, finish=True, expires="2025-02-01T00:00:00Z", name="other")
    assert read_passport(folder, now=datetime(2025, 1, 2, tzinfo=UTC)).name == "other"
    with pytest.raises(TrustError, match="expired at 2025-02-01"):
        read_passport(folder)
