"""``splitveil-edge`` and ``splitveil infer``: what they print, refuse, and how they exit."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from bundle_fixtures import make_bundle
from edge_fixtures import Cloud
from splitveil import cli as workstation
from splitveil_edge import cli, client
from splitveil_edge.errors import InputError
from splitveil_edge.pictures import read_picture
from splitveil_edge.signing import make_key

HERE = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("cli") / "bundle", finish=True)


@pytest.fixture
def cloud(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """Whoever is asked over HTTP is the cloud's side of the bundle."""
    found = Cloud(bundle)
    real = client.client_options

    def options(server: str, security: object, timeout_s: float, transport: object) -> dict[str, object]:
        return real(server, security, timeout_s, httpx.MockTransport(found))  # type: ignore[arg-type]

    monkeypatch.setattr(client, "client_options", options)
    return found


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    file = tmp_path / "picture.png"
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 4).save(file)
    return file


def test_a_picture_gets_its_classes(
    bundle: Path, cloud: Cloud, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["infer", str(picture), str(picture), "--bundle", str(bundle), "--server", HERE, "--top", "3"]
    assert cli.main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [item["picture"] for item in found] == [str(picture)] * 2
    scores = [choice["score"] for choice in found[0]["classes"]]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    assert cli.main(words) == 0
    assert capsys.readouterr().out.startswith(f"{picture}: ")


def test_splitveil_infer_is_the_same(
    bundle: Path, cloud: Cloud, picture: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["infer", str(picture), "--bundle", str(bundle), "--server", HERE, "--json"]
    monkeypatch.setattr(sys, "argv", ["splitveil", *words])
    with pytest.raises(SystemExit) as stop:
        workstation.main()
    assert stop.value.code == 0
    assert json.loads(capsys.readouterr().out)[0]["picture"] == str(picture)
    monkeypatch.setattr(sys, "argv", ["splitveil", "infer", "--help"])
    with pytest.raises(SystemExit) as stop:
        workstation.main()
    assert stop.value.code == 0
    assert "--most-nats" in capsys.readouterr().out


def test_budget_token_and_secret(bundle: Path, cloud: Cloud, picture: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret-token\n")
    (tmp_path / "secret").write_bytes(bytes(32))
    words = ["infer", str(picture), "--bundle", str(bundle), "--server", HERE]
    counted = ["--ledger", str(tmp_path / "ledger.sqlite"), "--most-releases", "1"]
    assert cli.main([*words, *counted, "--token-file", str(tmp_path / "token")]) == 0
    assert cloud.requests[-1].headers["authorization"] == "Bearer secret-token"
    assert cli.main([*words, *counted]) == 1
    keyed = [*words, "--ledger", str(tmp_path / "other.sqlite"), "--most-releases", "1"]
    for _ in range(2):
        assert cli.main([*keyed, "--noise-secret", str(tmp_path / "secret")]) == 0
    assert cloud.posted[-1] == cloud.posted[-2]


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["--bundle", "{bundle}", "--server", "http://tail.example"], 2, "expected https"),
        (["--bundle", "{bundle}", "--server", HERE, "--most-releases", "1"], 2, "expected --ledger"),
        (["--bundle", "{bundle}", "--server", HERE, "--top", "0"], 2, "expected --top"),
        (["--bundle", "{bundle}", "--server", HERE, "--token-file", "none"], 4, "expected a token in 'none'"),
        (["--bundle", "none", "--server", HERE], 4, "expected a bundle"),
        (["--bundle", "{bundle}", "--server", HERE, "--public-key", "{key}"], 1, "expected a signed passport"),
        (["--bundle", "{tampered}", "--server", HERE], 1, "the file was changed or swapped"),
        (["--bundle", "{expired}", "--server", HERE], 1, "one that expired at"),
        (["--bundle", "{other}", "--server", HERE], 1, "nothing was sent"),
    ],
)
def test_refusals(
    bundle: Path,
    cloud: Cloud,
    picture: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    reason: str,
) -> None:
    places = {"bundle": bundle, "key": tmp_path / "key"}
    (tmp_path / "key").write_bytes(make_key()[1])
    places["tampered"] = make_bundle(tmp_path / "tampered", finish=True)
    (places["tampered"] / "finish.onnx").write_bytes(b"x")
    places["expired"] = make_bundle(tmp_path / "expired", finish=True, expires="2025-02-01T00:00:00Z")
    places["other"] = make_bundle(tmp_path / "other", finish=True, name="other")
    assert cli.main(["infer", str(picture), *(word.format(**places) for word in words)]) == code
    said = capsys.readouterr()
    assert said.err.startswith("error: ")
    assert reason in said.err
    assert said.out == ""
    assert cloud.posted == []


def test_usage_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["infer"], ["infer", "--unknown"]):
        with pytest.raises(SystemExit) as stop:
            cli.main(words)
        assert stop.value.code == 2


def test_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    private, public = make_key()
    folder = make_bundle(tmp_path / "bundle", finish=True, key=private)
    (tmp_path / "key").write_bytes(public)
    assert cli.main(["check", "--bundle", str(folder), "--public-key", str(tmp_path / "key")]) == 0
    assert "signed with the given key, expires never" in capsys.readouterr().out


def test_pictures_are_read_as_training_reads_them(tmp_path: Path) -> None:
    from splitveil.data.images import decode

    colours = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(colours).save(tmp_path / "rgb.png")
    Image.fromarray(colours[..., 0]).save(tmp_path / "grey.png")
    with (tmp_path / "rgb.png").open("rb") as stream:
        expected = decode(stream, "rgb.png").transpose(2, 0, 1)[None] / np.float32(255)
    np.testing.assert_array_equal(read_picture(tmp_path / "rgb.png", (3, 8, 8)), expected)
    np.testing.assert_array_equal(
        read_picture(tmp_path / "grey.png", (1, 8, 8))[0, 0], colours[..., 0] / np.float32(255)
    )
    assert read_picture(tmp_path / "rgb.png", (3, 4, 6), fit="resize").shape == (1, 3, 4, 6)
    expected = np.asarray(Image.fromarray(colours).convert("L"), np.float32) / np.float32(255)
    np.testing.assert_array_equal(read_picture(tmp_path / "rgb.png", (1, 8, 8))[0, 0], expected)
    with pytest.raises(InputError, match=r"expected 6x4 pixels .* got 8x8: resize it, or pass --resize"):
        read_picture(tmp_path / "rgb.png", (3, 4, 6))
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(InputError, match="expected a picture in"):
        read_picture(tmp_path / "text.png", (1, 8, 8))


@pytest.mark.parametrize("kind", ["grey", "colour", "deep", "clear", "palette"])
@pytest.mark.parametrize("sides", [(13, 40), (40, 13), (30, 30), (16, 16)], ids=["wide", "tall", "square", "exact"])
def test_pictures_are_resized_as_training_resizes_them(tmp_path: Path, kind: str, sides: tuple[int, int]) -> None:
    from splitveil.data.images import open_picture

    rng, file = np.random.default_rng(0), tmp_path / "picture.png"
    colours = rng.integers(0, 256, (*sides, 4), dtype=np.uint8)
    pictures = {
        "grey": lambda: Image.fromarray(colours[..., 0]),
        "colour": lambda: Image.fromarray(colours[..., :3].copy()),
        "deep": lambda: Image.fromarray(rng.integers(0, 65536, sides, dtype=np.uint16)),
        "clear": lambda: Image.fromarray(colours),
        "palette": lambda: Image.fromarray(colours[..., :3].copy()).quantize(16),
    }
    pictures[kind]().save(file)
    pixels = open_picture((file.name, lambda: file.open("rb")), 16)
    planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    expected = (np.broadcast_to(planes, (3, 16, 16)) / np.float32(255))[None]
    np.testing.assert_array_equal(read_picture(file, (3, 16, 16), fit="resize"), expected)
    if len(planes) == 1:
        np.testing.assert_array_equal(read_picture(file, (1, 16, 16), fit="resize"), expected[:, :1])


def test_a_picture_without_a_range_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((8, 8), np.float32)).save(tmp_path / "floats.tiff")
    with pytest.raises(InputError, match=r"expected whole numbers as pixels .* got floats: convert it to 8 bits"):
        read_picture(tmp_path / "floats.tiff", (1, 8, 8))
    Image.fromarray(np.full((8, 8), 70000, np.int32)).save(tmp_path / "deep.tiff")
    with pytest.raises(InputError, match="expected at most 16 bits per pixel"):
        read_picture(tmp_path / "deep.tiff", (1, 8, 8))
