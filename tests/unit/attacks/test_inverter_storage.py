"""Fitted attackers on disk: the same bits when they come back, one clear error when the file is hostile."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from attack_fixtures import CLASSES, KEY, PICTURE, auxiliary, noisy, subject, view_of
from splitveil.attacks.controls import ClassMean, MeanImage, Ridge
from splitveil.attacks.decoder import Decoder
from splitveil.attacks.inverters import DecoderInverter, FittedInverter
from splitveil.attacks.storage import load_inverter, save_inverter
from splitveil.attacks.subjects import ModelSubject
from splitveil.contracts import Attack, FeatureSpec, Inverter
from splitveil.errors import InputError, MissingDataError, SpecError, SplitveilError
from splitveil.rng import Rng

Header = dict[str, Any]
Change = Callable[[Header, dict[str, Tensor]], object]
KEY_OF_HEADER = "splitveil.inverter"
ATTACKS: tuple[Attack, ...] = (
    Decoder(channels=4, blocks=1, epochs=1, batch_size=16),
    Ridge(),
    MeanImage(),
    ClassMean(),
)
each_attack = pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)


def fitted(attack: Attack) -> Inverter:
    return attack.fit(view_of(ModelSubject(noisy())), KEY)


def releases(n: int = 5, shape: tuple[int, ...] = (4, 4, 4)) -> Tensor:
    return torch.rand(n, *shape, generator=Rng(0).generator())


def read(path: Path) -> tuple[Header, dict[str, Tensor]]:
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()[KEY_OF_HEADER]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def write(path: Path, header: Any, tensors: dict[str, Tensor]) -> Path:
    save_file(tensors, path, metadata={KEY_OF_HEADER: json.dumps(header)})
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A good file of each kind."""
    folder = tmp_path_factory.mktemp("attackers")
    paths = {}
    for attack in ATTACKS:
        paths[attack.name] = folder / f"{attack.name}.safetensors"
        save_inverter(paths[attack.name], fitted(attack), {"name": attack.name})
    return paths


# ------------------------------------------------------------------------------------------------ round trips


@each_attack
def test_it_comes_back_with_the_same_bits(attack: Attack, tmp_path: Path) -> None:
    inverter = fitted(attack)
    path = tmp_path / "attackers" / "one.safetensors"
    save_inverter(path, inverter, {"name": attack.name, "params": {}})
    loaded = load_inverter(path)
    assert type(loaded) is type(inverter)
    assert isinstance(loaded, FittedInverter)
    for n in (1, 5, 70):
        assert torch.equal(loaded.invert(releases(n)), inverter.invert(releases(n)))
    assert loaded.facts == json.loads(json.dumps(inverter.facts))
    assert not any(module.training for module in loaded.modules())
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@each_attack
def test_what_was_read_can_be_written(attack: Attack, files: dict[str, Path], tmp_path: Path) -> None:
    again = tmp_path / "again.safetensors"
    save_inverter(again, load_inverter(files[attack.name]), {"name": attack.name})
    assert read(again)[0] == read(files[attack.name])[0]
    assert again.read_bytes() == files[attack.name].read_bytes()


@pytest.mark.parametrize(
    "release",
    [
        FeatureSpec.of((3, 5, 2), range=(0.0, 1.0)),
        FeatureSpec.of((17, 6), prefix_tokens=1),
        FeatureSpec.of((7, 6)),
        FeatureSpec.of((9,)),
        FeatureSpec((4, 4, 3), "map", 2, (4, 4)),
    ],
    ids=lambda spec: f"{spec.kind}{spec.shape}",
)
def test_any_release_comes_back(release: FeatureSpec, tmp_path: Path) -> None:
    with Rng(1).scoped():
        inverter = DecoderInverter(release, (3, 9, 11), channels=3, blocks=2)
    inverter.standardise.fit([releases(20, release.shape)])
    inverter.start_from(torch.rand(3, 9, 11, generator=Rng(2).generator()))
    save_inverter(tmp_path / "a", inverter, {})
    loaded = load_inverter(tmp_path / "a")
    assert loaded.release == release
    r = releases(3, release.shape)
    assert torch.equal(loaded.invert(r), inverter.invert(r))


@pytest.mark.parametrize("standardise", ["affine", "whiten"])
@pytest.mark.parametrize("architecture", ["residual", "subpixel", "unet", "tokens"])
def test_any_choice_comes_back(architecture: str, standardise: str, tmp_path: Path) -> None:
    with Rng(1).scoped():
        inverter = DecoderInverter(
            FeatureSpec.of((3, 4, 4)),
            (1, 8, 8),
            channels=3,
            blocks=1,
            architecture=architecture,
            standardise=standardise,
        )
    inverter.standardise.fit([releases(20, (3, 4, 4))])
    save_inverter(tmp_path / "a", inverter, {})
    loaded = load_inverter(tmp_path / "a")
    assert loaded.choices == {"architecture": architecture, "standardise": standardise, "reads": "values"}
    r = releases(3, (3, 4, 4))
    assert torch.equal(loaded.invert(r), inverter.invert(r))


def test_a_file_from_before_there_was_a_choice_is_read(files: dict[str, Path], tmp_path: Path) -> None:
    header, tensors = read(files["decoder"])
    del header["choices"]
    loaded = load_inverter(write(tmp_path / "file", header, tensors))
    assert torch.equal(loaded.invert(releases()), load_inverter(files["decoder"]).invert(releases()))


def test_the_file_names_its_attack(files: dict[str, Path]) -> None:
    assert read(files["ridge"])[0]["attack"] == {"name": "ridge"}


def test_an_inverter_that_is_no_data_is_not_written(tmp_path: Path) -> None:
    class Closure(Inverter):
        def reconstruct(self, r: Tensor) -> Tensor:
            return r

    with pytest.raises(SpecError, match="expected an inverter that can be stored"):
        save_inverter(tmp_path / "closure", Closure(), {})
    assert not (tmp_path / "closure").exists()


def test_facts_that_are_no_json_leave_no_file(tmp_path: Path) -> None:
    inverter = fitted(MeanImage())
    inverter.facts = {"error": float("nan")}
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_inverter(tmp_path / "nan", inverter, {})
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------ no such file


def test_a_missing_file_is_missing_data(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.safetensors", tmp_path, tmp_path / "a" / "b"):
        with pytest.raises(MissingDataError, match="run the attack first"):
            load_inverter(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00", b"not safetensors at all", b"\xff" * 100, b"PK\x03\x04" * 20, b"\x02\x00\x00\x00\x00\x00\x00\x00{}"],
    ids=range(6),
)
def test_another_kind_of_file_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(InputError, match="expected"):
        load_inverter(path)


def test_a_pickle_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "file"
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="expected safetensors"):
        load_inverter(path)


def test_safetensors_of_another_program_are_refused(tmp_path: Path) -> None:
    for metadata in (None, {"format": "pt"}, {KEY_OF_HEADER: ""}, {KEY_OF_HEADER: "{"}, {KEY_OF_HEADER: "[" * 50_000}):
        save_file({"image": torch.zeros(1, 8, 8)}, tmp_path / "file", metadata=metadata)
        with pytest.raises(InputError, match="expected a fitted attacker"):
            load_inverter(tmp_path / "file")


# ------------------------------------------------------------------------------------------------ hostile headers


def release(**values: Any) -> Header:
    return {**FeatureSpec.of((4, 4, 4)).to_json(), **values}


HEADERS: dict[str, Header] = {
    "another_format": {"format": 2},
    "format_text": {"format": "1"},
    "unknown_kind": {"kind": "gan"},
    "kind_of_another_file": {"kind": "constant"},
    "kind_list": {"kind": []},
    "kind_null": {"kind": None},
    "release_null": {"release": None},
    "release_text": {"release": "map"},
    "release_list": {"release": [4, 4, 4]},
    "release_unknown_key": {"release": release(code=1)},
    "release_no_shape": {"release": {"kind": "map"}},
    "release_unknown_kind": {"release": release(kind="graph")},
    "release_other_rank": {"release": release(shape=[4, 4])},
    "release_zero": {"release": release(shape=[4, 0, 4])},
    "release_float": {"release": release(shape=[4, 4.0, 4])},
    "release_text_sizes": {"release": release(shape=["4", "4", "4"])},
    "release_huge": {"release": release(shape=[1 << 16] * 3)},
    "release_beyond_memory": {"release": release(shape=[10**30, 1, 1])},
    "release_channel_axis": {"release": release(channel_axis=7)},
    "release_negative_axis": {"release": release(channel_axis=-9)},
    "release_axis_text": {"release": release(channel_axis="0")},
    "release_grid_number": {"release": release(grid=4)},
    "release_grid_zero": {"release": release(grid=[0, 4])},
    "release_grid_text": {"release": release(grid="44")},
    "release_grid_long": {"release": release(grid=[4, 4, 4])},
    "picture_number": {"picture": 8},
    "picture_null": {"picture": None},
    "picture_text": {"picture": "188"},
    "picture_empty": {"picture": []},
    "picture_without_channels": {"picture": [8, 8]},
    "picture_negative": {"picture": [1, -8, 8]},
    "picture_huge": {"picture": [1, 1 << 16, 1 << 16]},
    "picture_beyond_memory": {"picture": [10**30, 8, 8]},
    "picture_of_many_axes": {"picture": [1 << 16] * 5},
    "picture_of_another_size": {"picture": [1, 8, 9]},
    "sizes_null": {"sizes": None},
    "sizes_list": {"sizes": [4, 1]},
    "sizes_unknown": {"sizes": {"channels": 4, "blocks": 1, "depth": 1}},
    "sizes_negative": {"sizes": {"channels": -4, "blocks": 1}},
    "sizes_bool": {"sizes": {"channels": 4, "blocks": True}},
    "sizes_text": {"sizes": {"channels": "4", "blocks": 1}},
    "sizes_huge": {"sizes": {"channels": 1 << 16, "blocks": 1}},
    "blocks_without_end": {"sizes": {"channels": 4, "blocks": 1 << 16}},
    "choices_null": {"choices": None},
    "choices_list": {"choices": ["residual"]},
    "choices_unknown": {"choices": {"depth": "deep"}},
    "choices_number": {"choices": {"architecture": 1}},
    "choices_of_sizes": {"choices": {"channels": "4"}},
    "architecture_unknown": {"choices": {"architecture": "gan"}},
    "architecture_of_another_file": {"choices": {"architecture": "unet"}},
    "standardise_unknown": {"choices": {"standardise": "none"}},
    "standardise_of_another_file": {"choices": {"standardise": "whiten"}},
    "choice_of_the_release": {"choices": {"release": "map"}},
    "facts_null": {"facts": None},
    "facts_list": {"facts": [1]},
}


def refused(path: Path) -> None:
    with pytest.raises(InputError, match="expected a fitted attacker") as caught:
        load_inverter(path)
    assert "run the attack again" in str(caught.value)
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("name", HEADERS)
@pytest.mark.timeout(10)
def test_a_header_that_does_not_fit_is_refused(name: str, files: dict[str, Path], tmp_path: Path) -> None:
    header, tensors = read(files["decoder"])
    refused(write(tmp_path / "file", {**header, **HEADERS[name]}, tensors))


@pytest.mark.parametrize("key", ["format", "kind", "release", "picture", "sizes", "facts"])
@each_attack
def test_a_header_without_a_key_is_refused(attack: Attack, key: str, files: dict[str, Path], tmp_path: Path) -> None:
    header, tensors = read(files[attack.name])
    del header[key]
    refused(write(tmp_path / "file", header, tensors))


@pytest.mark.parametrize("header", [None, 1, "text", [], {}, [[]]], ids=str)
def test_a_header_that_is_no_mapping_is_refused(header: Any, files: dict[str, Path], tmp_path: Path) -> None:
    refused(write(tmp_path / "file", header, read(files["ridge"])[1]))


HUGE = release(shape=[1 << 16] * 3)  # of which a constant picture reads nothing


@pytest.mark.parametrize(
    ("attack", "change"),
    [("ridge", {"release": HUGE}), ("class_mean", {"release": HUGE})]
    + [
        (attack, change)
        for attack in ("ridge", "class_mean", "mean_image")
        for change in (
            {"picture": [1 << 16] * 3},
            {"picture": [1 << 16] * 5},
            {"picture": [64]},
            {"picture": [8, 8]},
            {"sizes": {"classes": 1 << 16}},
            {"sizes": [4]},
        )
    ],
    ids=str,
)
@pytest.mark.timeout(10)
def test_no_control_is_built_from_a_hostile_header(
    attack: str, change: Header, files: dict[str, Path], tmp_path: Path
) -> None:
    header, tensors = read(files[attack])
    if "image" in tensors and len(change.get("picture", ())) < 3 and "picture" in change:
        tensors["image"] = tensors["image"].reshape(change["picture"])
    refused(write(tmp_path / "file", {**header, **change}, tensors))


def test_tokens_that_leave_no_grid_are_refused(tmp_path: Path) -> None:
    """A grid of 4 x 4 cannot hold 17 tokens; without a check the attacker would break when it is used."""
    inverter = DecoderInverter(FeatureSpec.of((17, 6), prefix_tokens=1), PICTURE, channels=2, blocks=1)
    save_inverter(tmp_path / "good", inverter, {})
    header, tensors = read(tmp_path / "good")
    for prefix in (0, 2, -1, 1.0):
        header["release"]["prefix_tokens"] = prefix
        refused(write(tmp_path / "file", header, tensors))


# ------------------------------------------------------------------------------------------------ hostile tensors


def drop(name: str) -> Change:
    return lambda header, tensors: tensors.pop(name)


def put(name: str, change: Callable[[Tensor], Tensor]) -> Change:
    return lambda header, tensors: tensors.update({name: change(tensors[name]).contiguous()})


def poison(value: float) -> Callable[[Tensor], Tensor]:
    def change(tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        tensor.flatten()[-1] = value
        return tensor

    return change


STATE = {"decoder": "net.body.0.conv1.weight", "ridge": "weight", "mean_image": "image", "class_mean": "centres"}


@pytest.mark.parametrize(
    "change",
    [
        lambda tensor: tensor.double(),
        lambda tensor: tensor.half(),
        lambda tensor: tensor.to(torch.bfloat16),
        lambda tensor: tensor.long(),
        lambda tensor: tensor[..., :-1],
        lambda tensor: tensor[:0],
        lambda tensor: tensor.flatten(),
        lambda tensor: tensor.unsqueeze(0),
        lambda tensor: tensor.repeat(2, *[1] * (tensor.ndim - 1)),
        poison(float("nan")),
        poison(float("inf")),
        poison(float("-inf")),
    ],
    ids=["double", "half", "bfloat16", "long", "cut", "empty", "flat", "axis", "twice", "nan", "inf", "-inf"],
)
@each_attack
def test_a_tensor_that_does_not_fit_is_refused(
    attack: Attack, change: Callable[[Tensor], Tensor], files: dict[str, Path], tmp_path: Path
) -> None:
    header, tensors = read(files[attack.name])
    put(STATE[attack.name], change)(header, tensors)
    refused(write(tmp_path / "file", header, tensors))


@each_attack
def test_every_tensor_is_needed_and_no_other(attack: Attack, files: dict[str, Path], tmp_path: Path) -> None:
    header, tensors = read(files[attack.name])
    for name in tensors:
        rest = dict(tensors)
        drop(name)(header, rest)
        refused(write(tmp_path / "file", header, rest))
    refused(write(tmp_path / "file", header, {**tensors, "more": torch.zeros(1)}))
    load_inverter(write(tmp_path / "file", header, tensors))


# ------------------------------------------------------------------------------------------------ damage


@given(data=st.data())
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_truncated_file_is_refused(data: st.DataObject, files: dict[str, Path], tmp_path: Path) -> None:
    content = files[data.draw(st.sampled_from(sorted(files)))].read_bytes()
    (tmp_path / "file").write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(InputError, match="expected"):
        load_inverter(tmp_path / "file")


@given(data=st.data())
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_byte_of_the_header_is_refused_or_harmless(
    data: st.DataObject, files: dict[str, Path], tmp_path: Path
) -> None:
    """No other error than ours, and what is read can invert."""
    content = bytearray(files[data.draw(st.sampled_from(sorted(files)))].read_bytes())
    length = 8 + int.from_bytes(content[:8], "little")
    content[data.draw(st.integers(0, length - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "file").write_bytes(content)
    try:
        inverter = load_inverter(tmp_path / "file")
    except InputError:
        return
    assert inverter.invert(releases(2, inverter.release.shape)).shape == (2, *inverter.picture)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-2, 9), st.integers(), st.floats(), st.text(max_size=4)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=6,
)


@given(key=st.sampled_from(["format", "kind", "release", "picture", "sizes", "facts", "attack"]), value=JSON)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_of_a_header_gives_one_kind_of_error(
    key: str, value: Any, files: dict[str, Path], tmp_path: Path
) -> None:
    header, tensors = read(files["class_mean"])
    try:
        load_inverter(write(tmp_path / "file", {**header, key: value}, tensors))
    except SplitveilError as error:
        assert type(error) is InputError  # noqa: PT017 - to load it is good, too


def test_the_classes_of_a_file_are_those_of_its_pictures(files: dict[str, Path], tmp_path: Path) -> None:
    header, tensors = read(files["class_mean"])
    assert header["sizes"] == {"classes": CLASSES}
    header["sizes"] = {"classes": CLASSES + 1}
    refused(write(tmp_path / "file", header, tensors))


def test_the_pictures_of_the_attacker_are_not_in_the_file(files: dict[str, Path]) -> None:
    """A decoder's file holds its net, its standardisation and the mean picture, and no auxiliary picture."""
    tensors = read(files["decoder"])[1]
    assert sum(value.numel() for value in tensors.values()) < auxiliary().images.numel()
    reference = DecoderInverter(subject().release_spec, PICTURE, channels=4, blocks=1)
    assert isinstance(reference, nn.Module)
    assert set(tensors) == set(reference.state_dict())
