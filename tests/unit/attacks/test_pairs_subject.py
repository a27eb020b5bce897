"""Files of pairs: what is served, what is counted, and which files are refused before they are read."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from attack_fixtures import KEY, PICTURE, auxiliary, noisy, smooth, subject
from splitveil.attacks.controls import ClassMean, MeanImage, Ridge
from splitveil.attacks.metadata import RELEASE_KEY
from splitveil.attacks.pairs import PairsSubject, save_pairs
from splitveil.attacks.subjects import ModelSubject
from splitveil.attacks.view import AttackerView
from splitveil.contracts import FeatureSpec, Subject
from splitveil.data.paired import PairedPictures
from splitveil.data.tables import ImageTable
from splitveil.errors import InputError, MissingDataError, SpecError, ThreatModelError
from splitveil.experiments.scoring import release_all
from splitveil.noise import SeededNoise
from splitveil.rng import Rng
from splitveil.threats import ThreatModel

HELD = ThreatModel(frozenset({"pairs", "labels"}))


def pairs(n: int = 48) -> dict[str, Tensor]:
    x, y = auxiliary(n).get(torch.arange(n))
    return {"x": x, "r": subject().release(x, SeededNoise(KEY)), "labels": y}


def stored(folder: Path, **changes: Any) -> PairsSubject:
    path = folder / "pairs.safetensors"
    save_pairs(path, **{**pairs(), **changes})
    return PairsSubject(path)


def view_of_pairs(attacked: PairsSubject, threat: ThreatModel = HELD, *, rows: slice = slice(None)) -> AttackerView:
    held = attacked.pictures.take(torch.arange(len(attacked.pictures))[rows])
    return AttackerView(attacked, threat, auxiliary=held, rng=Rng(4))


# ------------------------------------------------------------------------------------------------ what is served


def test_pairs_are_served_as_they_are_stored(tmp_path: Path) -> None:
    known, attacked = pairs(), stored(tmp_path)
    assert isinstance(attacked, Subject)
    assert (attacked.input_shape, attacked.release_spec) == (PICTURE, FeatureSpec.of((4, 4, 4)))
    view = view_of_pairs(attacked)
    for indices in ([5, 3, 5], [47]):
        x, r = view.pairs(torch.tensor(indices), KEY)
        torch.testing.assert_close(x, known["x"][indices], rtol=0.0, atol=1e-7)
        assert torch.equal(r, known["r"][indices])
    assert torch.equal(view.labels, known["labels"])
    assert view.queries == 3  # 5, 3 and 47: a pair is paid for once


def test_a_budget_counts_stored_pairs_too(tmp_path: Path) -> None:
    view = view_of_pairs(stored(tmp_path), ThreatModel(HELD.grants, query_budget=2))
    view.pairs(torch.tensor([0, 1]), KEY)
    with pytest.raises(ThreatModelError, match="expected at most 2 queries, got 2 and 1 more"):
        view.pairs(torch.tensor([1, 2]), KEY)


def test_an_attack_on_the_file_is_the_attack_on_the_encoder(tmp_path: Path) -> None:
    """Ridge from stored pairs equals ridge on the live, noise-free subject."""
    attacked = stored(tmp_path)
    offline = Ridge().fit(view_of_pairs(attacked), KEY)
    online = Ridge().fit(AttackerView(subject(), HELD, auxiliary=auxiliary(), rng=Rng(4)), KEY)
    for name, value in online.state_dict().items():
        torch.testing.assert_close(offline.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    ClassMean().fit(view_of_pairs(attacked), KEY)
    MeanImage().fit(view_of_pairs(attacked), KEY)


def test_nobody_can_ask_a_file(tmp_path: Path) -> None:
    attacked = stored(tmp_path)
    assert attacked.offers == {"pairs", "labels"}
    with pytest.raises(ThreatModelError, match="got one that grants query too"):
        view_of_pairs(attacked, ThreatModel(frozenset({"query"})))
    with pytest.raises(ThreatModelError, match="a file answers none"):
        attacked.release(torch.zeros(1, *PICTURE), SeededNoise(KEY))
    with pytest.raises(ThreatModelError, match="a file answers none"):  # of pictures that are not in it
        AttackerView(attacked, HELD, auxiliary=auxiliary(), rng=Rng(4)).pairs(torch.tensor([0]), KEY)
    with pytest.raises(ThreatModelError, match="expected observations = 1 with stored pairs, got 2"):
        view_of_pairs(attacked, ThreatModel(HELD.grants, observations=2))


def test_one_who_may_query_gets_fresh_releases_beside_stored_ones(tmp_path: Path) -> None:
    held = stored(tmp_path).pictures
    view = AttackerView(ModelSubject(noisy()), ThreatModel(frozenset({"query"})), auxiliary=held, rng=Rng(4))
    first, second = (view.pairs(torch.tensor([0]), KEY.child(step))[1] for step in range(2))
    assert not torch.equal(first, second)


def test_without_labels_none_are_offered(tmp_path: Path) -> None:
    assert stored(tmp_path, labels=None).offers == {"pairs"}


def test_test_releases_come_from_the_file(tmp_path: Path) -> None:
    attacked = stored(tmp_path)
    known, test = attacked.pictures.split(0.25, Rng(0))
    assert (len(known), len(test)) == (36, 12)
    assert torch.equal(release_all(attacked, test, HELD, KEY), test.releases)
    live = subject()
    assert not torch.equal(release_all(live, test, HELD, KEY)[:1], torch.zeros(1, 4, 4, 4))


def test_copies_of_a_picture_stay_on_one_side() -> None:
    images = smooth(10).repeat(3, 1, 1, 1)
    releases = torch.arange(30.0)[:, None]
    whole = PairedPictures(ImageTable(images, torch.arange(30)), releases)
    for seed in range(5):
        known, test = whole.split(0.3, Rng(seed))
        sides = [{int(label) % 10 for label in side.labels} for side in (known, test)]
        assert not sides[0] & sides[1]
        assert sorted(torch.cat([known.releases, test.releases]).flatten().tolist()) == list(range(30))
        assert len(test) == 9
    with pytest.raises(SpecError, match="expected test_share between 0 and 1"):
        whole.split(1.0, Rng(0))
    with pytest.raises(InputError, match="at least two different pictures"):
        whole.take(torch.tensor([0, 10])).split(0.5, Rng(0))


# ------------------------------------------------------------------------------------------------ what is read


def test_other_types_are_read(tmp_path: Path) -> None:
    known = pairs()
    attacked = stored(tmp_path, x=smooth(48), r=known["r"].to(torch.bfloat16), labels=known["labels"].to(torch.int32))
    assert torch.equal(attacked.pictures.images, smooth(48))
    assert torch.equal(attacked.pictures.releases, known["r"].to(torch.bfloat16).float())
    assert attacked.pictures.labels.dtype == torch.int64


def test_a_spec_in_the_file_is_kept(tmp_path: Path) -> None:
    path, spec = tmp_path / "tokens.safetensors", FeatureSpec.of((5, 3), prefix_tokens=1)
    save_pairs(path, torch.zeros(4, *PICTURE), torch.rand(4, 5, 3), release_spec=spec)
    assert PairsSubject(path).release_spec == spec
    save_pairs(path, torch.zeros(4, *PICTURE), torch.rand(4, 6, 3), release_spec=spec)
    with pytest.raises(InputError, match=r"expected the spec of the release .* got shape \(5, 3\)"):
        PairsSubject(path)


BROKEN: dict[str, tuple[Callable[[dict[str, Tensor]], dict[str, Tensor]], str]] = {
    "no_x": (lambda p: {"r": p["r"]}, "expected tensors x and r in .* got no x"),
    "no_r": (lambda p: {"x": p["x"]}, "expected tensors x and r in .* got no r"),
    "flat_x": (lambda p: {**p, "x": p["x"].flatten(1)}, r"expected x \(n, c, h, w\)"),
    "scalar_r": (lambda p: {**p, "r": torch.zeros(())}, r"expected x \(n, c, h, w\)"),
    "vector_r": (lambda p: {**p, "r": p["r"].flatten(1)[:, 0].contiguous()}, r"expected x \(n, c, h, w\)"),
    "five_axes": (lambda p: {**p, "r": p["r"][:, None].contiguous()}, r"expected x \(n, c, h, w\)"),
    "fewer_r": (lambda p: {**p, "r": p["r"][:47].contiguous()}, r"expected x \(n, c, h, w\)"),
    "empty": (lambda p: {name: value[:0] for name, value in p.items()}, r"expected x \(n, c, h, w\)"),
    "no_pixels": (lambda p: {**p, "x": torch.zeros(48, 1, 0, 8)}, r"expected x \(n, c, h, w\)"),
    "fewer_labels": (lambda p: {**p, "labels": p["labels"][:3].clone()}, r"expected x \(n, c, h, w\)"),
    "double_r": (lambda p: {**p, "r": p["r"].double()}, "expected r of type F32 or F16 or BF16"),
    "signed_x": (lambda p: {**p, "x": torch.zeros(48, *PICTURE, dtype=torch.int8)}, "expected x of type F32 or U8"),
    "float_labels": (lambda p: {**p, "labels": p["labels"].float()}, "expected labels of type I64 or I32"),
    "nan_r": (lambda p: {**p, "r": p["r"].index_fill(0, torch.tensor(3), torch.nan)}, "expected finite numbers"),
    "nan_x": (lambda p: {**p, "x": p["x"].index_fill(0, torch.tensor(3), torch.nan)}, r"expected x in \[0, 1\]"),
    "bright_x": (lambda p: {**p, "x": p["x"] * 255}, r"expected x in \[0, 1\]"),
    "huge_label": (lambda p: {**p, "labels": p["labels"] + 2**40}, "expected labels from 0 to 47"),
    "negative_label": (lambda p: {**p, "labels": p["labels"] - 1}, "expected labels from 0 to 47"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused(tmp_path: Path, name: str) -> None:
    spoil, message = BROKEN[name]
    path = tmp_path / "pairs.safetensors"
    save_file(spoil(pairs()), path)
    with pytest.raises(InputError, match=message):
        PairsSubject(path)


@pytest.mark.parametrize("content", [b"", b"pairs", struct.pack("<Q", 2**60) + b"{}", struct.pack("<Q", 2) + b"[]"])
def test_what_is_no_safetensors_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "pairs.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match="expected safetensors"):
        PairsSubject(path)
    with pytest.raises(MissingDataError, match="expected a file of pairs"):
        PairsSubject(tmp_path / "none.safetensors")


@pytest.mark.parametrize("shape", [[2**40, 1, 8, 8], [2**62, 2**62, 1, 1], [2, 0, 2**60, 1]])
def test_a_header_that_promises_more_than_the_file_holds_is_refused(tmp_path: Path, shape: list[int]) -> None:
    header = {
        "x": {"dtype": "U8", "shape": shape, "data_offsets": [0, 2]},
        "r": {"dtype": "F32", "shape": [2, 1], "data_offsets": [2, 10]},
    }
    text = json.dumps(header).encode()
    path = tmp_path / "pairs.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(10))
    with pytest.raises(InputError, match="expected"):
        PairsSubject(path)


def test_a_hostile_spec_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pairs.safetensors"
    for text in ("{", "[]", '{"shape": [4, 4, 4], "kind": "map", "channel_axis": 9}', "[" * 100_000):
        save_file(pairs(), path, metadata={RELEASE_KEY: text})
        with pytest.raises(InputError, match=r"under 'splitveil\.release'"):
            PairsSubject(path)
