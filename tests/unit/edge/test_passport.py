"""Passports: what is refused, and why."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundle_fixtures import make_bundle
from splitveil_edge import errors
from splitveil_edge.edge import Edge
from splitveil_edge.errors import (
    EdgeError,
    InputError,
    MissingExtraError,
    MissingFileError,
    PassportError,
    TrustError,
)
from splitveil_edge.passport import CLOUD, EDGE, PASSPORT, SIGNATURE, parse_passport, read_passport
from splitveil_edge.reading import dump_json
from splitveil_edge.signing import Signature, make_key, sign

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("passport") / "bundle", finish=True)


@pytest.fixture(scope="module")
def facts(bundle: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((bundle / PASSPORT).read_bytes())
    return found


def test_what_is_written_is_what_is_read(facts: dict[str, Any]) -> None:
    passport = parse_passport(dump_json(facts))
    assert passport.name == "digits"
    assert passport.input_shape == (1, 8, 8)
    assert passport.release_shape == (4, 8, 8)
    assert [(law.name, law.shape, law.law) for law in passport.noise] == [("gaussian", (4, 8, 8), "standard_normal")]
    assert passport.release_range == (-4.0, 5.0)
    assert passport.created == datetime(2025, 1, 1, tzinfo=UTC)
    assert passport.expires is None
    assert passport.release_nats is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format": 2}, "expected an integer from 1 to 1 at passport.format, got 2"),
        ({"format": True}, "passport.format"),
        ({"name": "../etc"}, "letters, digits"),
        ({"name": "a" * 65}, "1 to 64 characters"),
        ({"created": "yesterday"}, "ISO 8601"),
        ({"created": "2025-01-01T00:00:00"}, "in UTC"),
        ({"expires": "2025-01-01T00:00:00+02:00"}, "in UTC"),
        ({"input_shape": [1, 8]}, "3 to 3 sizes"),
        ({"input_shape": [1, 8, -8]}, "sizes from 1"),
        ({"input_shape": [2**20, 2**20, 2**20]}, "at most"),
        ({"noise": [{"name": "x", "shape": [1], "law": "uniform"}]}, "different names"),
        ({"noise": [{"name": "a", "shape": [1], "law": "cauchy"}]}, "one of standard_normal, uniform"),
        ({"codec": {"name": "quantise", "bits": 17, "low": 0.0, "high": 1.0}}, "1 to 16"),
        ({"codec": {"name": "quantise", "bits": 8, "low": 1.0, "high": 1.0}}, "high above low"),
        ({"codec": {"name": "zip"}}, "one of float32, quantise"),
        ({"precision": {"edge": "fp8", "cloud": "fp32"}}, "fp16"),
        ({"files": {}}, "'edge.onnx' among the files"),
        ({"files": {"../edge.onnx": {"sha256": "0" * 64, "bytes": 1}}}, "expected files of"),
        ({"release_range": {"low": 2.0, "high": 1.0}}, "low < high"),
        ({"extra": 1}, "only known keys at passport, got 'extra'"),
        ({"reply": {"shape": [10], "secret": 1}}, "only known keys at passport.reply"),
        ({"certificates": []}, "an object at passport.certificates"),
        ({"class_names": [1]}, "texts"),
        ({"feature": {"shape": [4]}}, "a value at passport.feature.kind, got none"),
    ],
)
def test_impossible_values_are_refused_by_name(facts: dict[str, Any], changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(PassportError, match=reason):
        parse_passport(dump_json({**facts, **changes}))


@pytest.mark.parametrize("key", ["format", "splitveil", "noise", "files", "parity", "release_range", "certificates"])
def test_a_missing_key_is_named(facts: dict[str, Any], key: str) -> None:
    with pytest.raises(PassportError, match=rf"expected a value at passport\.{key}, got none"):
        parse_passport(dump_json({name: value for name, value in facts.items() if name != key}))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b"\xff\xfe",
        b'{"format": 1, "format": 1}',
        b'{"parity": NaN}',
        b'{"parity": 1e999}',
        b'{"a": "\\ud800"}',
        b'{"a":' * 100 + b"1" + b"}" * 100,
        b"[" * 100_000,
        b'{"a": ' + b"9" * 5000 + b"}",
        b" " * (5 * 2**20),
    ],
)
def test_hostile_json_is_refused(body: bytes) -> None:
    with pytest.raises(PassportError, match="expected"):
        parse_passport(body)


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_no_value_anywhere_does_more_than_raise(facts: dict[str, Any], data: st.DataObject) -> None:
    changed = json.loads(json.dumps(facts))
    place, key = changed, data.draw(st.sampled_from(sorted(changed)))
    while isinstance(place[key], dict) and place[key] and data.draw(st.booleans()):
        place = place[key]
        key = data.draw(st.sampled_from(sorted(place)))
    place[key] = data.draw(JSON)
    body = json.dumps(changed).encode()
    try:
        passport = parse_passport(body)
    except PassportError:
        return
    assert passport.body == body
    assert passport.release_nats is None or passport.release_nats >= 0


@pytest.mark.parametrize("text", ["ä" * 44, "=" * 44, "A" * 40, "A"])
def test_a_signature_that_is_no_base64(text: str) -> None:
    seal = {"algorithm": "ed25519", "public_key": text, "signature": "A" * 88}
    with pytest.raises(PassportError, match="public_key"):
        Signature.parse(json.dumps(seal).encode())


@pytest.mark.parametrize(
    ("extra", "alone", "beside"),
    [("png", "splitveil-edge[png]", "splitveil"), ("sign", "splitveil-edge[sign]", "splitveil[serve]")],
)
def test_what_is_missing_is_installed_with_what_is_there(
    monkeypatch: pytest.MonkeyPatch, extra: str, alone: str, beside: str
) -> None:
    for found, wanted in ((None, alone), (object(), beside)):
        monkeypatch.setattr(errors, "find_spec", lambda name, found=found: found)
        assert str(MissingExtraError("package", extra, "a test")).endswith(f"run  pip install '{wanted}'")


@settings(deadline=None, max_examples=100)
@given(body=st.binary(max_size=200))
def test_no_bytes_do_more_than_raise(body: bytes) -> None:
    with pytest.raises(PassportError):
        parse_passport(body)
    with pytest.raises(PassportError):
        Signature.parse(body)


def test_the_least_certificate_of_one_release_counts(facts: dict[str, Any]) -> None:
    def stated(value: float, **changes: Any) -> dict[str, Any]:
        one = {"kind": "certificate", "quantity": "information", "relation": "<=", "unit": "nats", "observations": 1}
        return {**one, "value": value, **changes}

    statements = [stated(9.0), stated(7.0), stated(1.0, kind="estimate"), stated(2.0, observations=4)]
    found = parse_passport(dump_json({**facts, "certificates": {"statements": [*statements, "x", None]}}))
    assert found.release_nats == 7.0
    lowered = {"precision": {"edge": "int8", "cloud": "fp32"}}
    sampled = {"certificates": {"statements": [stated(7.0, n=359), stated(9.0, n=None)]}}
    assert parse_passport(dump_json({**facts, **sampled})).release_nats == 7.0
    # those that were computed from features are of another head
    assert parse_passport(dump_json({**facts, **sampled, **lowered})).release_nats == 9.0


def test_an_expired_passport_is_refused(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path, finish=True, expires="2025-06-01T00:00:00Z")
    assert read_passport(folder, now=datetime(2025, 5, 31, tzinfo=UTC)).name == "digits"
    with pytest.raises(TrustError, match="one that expired at 2025-06-01 00:00 UTC: audit and export the run again"):
        read_passport(folder, now=datetime(2025, 6, 1, tzinfo=UTC))


def test_a_tampered_file_is_refused(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path, finish=True)
    data = bytearray((folder / EDGE).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / EDGE).write_bytes(data)
    with pytest.raises(TrustError, match=r"edge\.onnx' of sha256 .* the file was changed or swapped"):
        Edge(folder)
    (folder / EDGE).write_bytes(data + b"more")
    with pytest.raises(TrustError, match=f"got {len(data) + 4} bytes"):
        Edge(folder)


def test_a_swapped_graph_is_refused(tmp_path: Path) -> None:
    folder, other = make_bundle(tmp_path / "a", finish=True), make_bundle(tmp_path / "b", finish=True, seed=1)
    shutil.copyfile(other / EDGE, folder / EDGE)
    with pytest.raises(TrustError, match="the file was changed or swapped"):
        Edge(folder)


def test_a_swapped_graph_with_a_forged_digest_is_refused_by_its_inputs(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path, finish=True)
    facts = json.loads((folder / PASSPORT).read_bytes())
    shutil.copyfile(folder / CLOUD, folder / EDGE)
    facts["files"][EDGE] = facts["files"][CLOUD]
    (folder / PASSPORT).write_bytes(dump_json(facts))
    with pytest.raises(TrustError, match="a file was swapped"):
        Edge(folder)


def test_signatures(tmp_path: Path) -> None:
    (private, public), (_, stranger) = make_key(), make_key()
    folder = make_bundle(tmp_path, finish=True, key=private)
    assert read_passport(folder, public_key=public).signature is not None
    with pytest.raises(TrustError, match="expected a passport signed with the key"):
        read_passport(folder, public_key=stranger)
    (folder / PASSPORT).write_bytes((folder / PASSPORT).read_bytes() + b"\n")
    with pytest.raises(TrustError, match="the passport was changed after it was signed"):
        read_passport(folder, public_key=public)
    (folder / SIGNATURE).unlink()
    with pytest.raises(TrustError, match=r"got no passport\.sig"):
        read_passport(folder, public_key=public)


def test_a_signature_by_a_stranger_under_the_right_name_is_refused(tmp_path: Path) -> None:
    (_, public), (stranger, _) = make_key(), make_key()
    folder = make_bundle(tmp_path, finish=True)
    forged = sign((folder / PASSPORT).read_bytes(), stranger)
    trusted = read_passport(make_bundle(tmp_path / "other", finish=True, key=make_key()[0])).signature
    assert trusted is not None
    from splitveil_edge.signing import parse_public_key

    (folder / SIGNATURE).write_bytes(Signature(parse_public_key(public), forged.signature).to_bytes())
    with pytest.raises(TrustError, match="expected the signature of these very bytes"):
        read_passport(folder, public_key=public)


def test_keys_that_are_none(tmp_path: Path) -> None:
    private, public = make_key()
    with pytest.raises(InputError, match="expected a private key as PEM"):
        sign(b"", public)
    with pytest.raises(InputError, match="expected a public key as PEM or 32 bytes"):
        read_passport(make_bundle(tmp_path, finish=True, key=private), public_key=b"short")


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"passport\.json"):
        read_passport(tmp_path)
    folder = make_bundle(tmp_path / "bundle", finish=True)
    (folder / CLOUD).unlink()
    assert Edge(folder).passport.name == "digits"  # the device needs its side only
    (folder / EDGE).unlink()
    with pytest.raises(MissingFileError, match=r"edge\.onnx"):
        Edge(folder)


def test_exit_codes_are_those_of_the_house() -> None:
    codes = {item.__name__: item.exit_code for item in (EdgeError, InputError, PassportError, TrustError)}
    assert codes == {"EdgeError": 1, "InputError": 3, "PassportError": 3, "TrustError": 1}
