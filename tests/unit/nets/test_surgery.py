"""Edits: a pruned network comes back from its record and its weights, and a record that does not fit is refused."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from splitveil.errors import ContractError, InputError
from splitveil.nets.small import small
from splitveil.nets.surgery import ModuleEdit, apply_edits, describe_edits, edits_from_json, edits_to_json
from splitveil.nets.vgg import vgg11
from splitveil.rng import Rng


def build(seed: int = 0) -> nn.Module:
    """The head of a built-in network: two convolutions of 16 channels with batch norm, then a bottleneck."""
    with Rng(seed).scoped():
        return small(classes=10).head


def slice_output(conv: nn.Module, norm: nn.Module, keep: Tensor) -> None:
    conv.weight, conv.bias = nn.Parameter(conv.weight[keep]), nn.Parameter(conv.bias[keep])
    norm.weight, norm.bias = nn.Parameter(norm.weight[keep]), nn.Parameter(norm.bias[keep])
    norm.running_mean, norm.running_var = norm.running_mean[keep], norm.running_var[keep]
    conv.out_channels = norm.num_features = len(keep)


def slice_input(conv: nn.Module, keep: Tensor) -> None:
    conv.weight, conv.in_channels = nn.Parameter(conv.weight[:, keep]), len(keep)


def prune(head: nn.Module, keep: tuple[int, ...] = (0, 3, 5, 6, 15)) -> nn.Module:
    """The head without some channels between its two convolutions."""
    pruned, kept = copy.deepcopy(head), torch.tensor(keep)
    first, second = pruned.get_submodule("features.0"), pruned.get_submodule("features.1")
    slice_output(first.get_submodule("conv"), first.get_submodule("norm"), kept)
    slice_input(second.get_submodule("conv"), kept)
    return pruned


def trained(head: nn.Module) -> nn.Module:
    """A head whose statistics have moved."""
    with torch.no_grad():
        head.train()(torch.rand(8, 1, 8, 8, generator=Rng(1).generator()))
    return head.eval()


def replay(built: nn.Module, changed: nn.Module) -> nn.Module:
    """The way of a file: edits as text, a freshly built network, its weights."""
    text = edits_to_json(describe_edits(built, changed))
    apply_edits(built, edits_from_json(text))
    built.load_state_dict(changed.state_dict())
    return built.train(changed.training)


# ------------------------------------------------------------------------------------------------ round trips


@given(keep=st.sets(st.integers(0, 15), min_size=1))
@settings(max_examples=20, deadline=None)
def test_a_pruned_head_comes_back_with_the_same_bits(keep: set[int]) -> None:
    pruned = trained(prune(build(), tuple(sorted(keep))))
    loaded = replay(build(seed=7), pruned)
    x = torch.rand(3, 1, 8, 8, generator=Rng(2).generator())
    with torch.no_grad():
        assert torch.equal(loaded(x), pruned(x))
    assert describe_edits(pruned, loaded) == []
    sizes = loaded.get_submodule("features.0.conv"), loaded.get_submodule("features.1.conv")
    assert [sizes[0].out_channels, sizes[1].in_channels] == [len(keep)] * 2


def test_the_record_names_what_changed_and_nothing_else() -> None:
    edits = {edit.module: edit for edit in describe_edits(build(), prune(build()))}
    assert set(edits) == {"features.0.conv", "features.0.norm", "features.1.conv"}
    assert edits["features.0.conv"].attributes == {"out_channels": 5}
    assert edits["features.0.conv"].parameters == {"weight": [5, 1, 3, 3], "bias": [5]}
    assert edits["features.1.conv"].attributes == {"in_channels": 5}
    assert edits["features.1.conv"].parameters == {"weight": [16, 5, 3, 3]}
    assert set(edits["features.0.norm"].parameters) == {"weight", "bias", "running_mean", "running_var"}


def test_no_change_is_no_edit() -> None:
    assert describe_edits(build(), build(seed=1)) == []
    assert edits_from_json(edits_to_json([])) == []


def test_a_head_of_vgg_is_pruned_at_its_bottleneck() -> None:
    def make(width: float) -> nn.Module:
        with Rng(0).scoped():
            return vgg11(classes=10, width=width).head

    built, pruned = make(0.25), trained_vgg(make(0.125))
    assert [layer.out_channels for layer in built.modules() if isinstance(layer, nn.Conv2d)] == [16, 32, 8]
    x = torch.rand(2, 3, 32, 32, generator=Rng(2).generator())
    with torch.no_grad():
        assert torch.equal(replay(built, pruned)(x), pruned(x))


def trained_vgg(head: nn.Module) -> nn.Module:
    with torch.no_grad():
        head.train()(torch.rand(4, 3, 32, 32, generator=Rng(1).generator()))
    return head.eval()


def test_each_layer_with_sizes_can_shrink() -> None:
    pairs: list[tuple[nn.Module, nn.Module, tuple[int, ...]]] = [
        (nn.Linear(6, 4), nn.Linear(3, 2), (3,)),
        (nn.Linear(6, 4, bias=False), nn.Linear(6, 2, bias=False), (6,)),
        (nn.Conv1d(4, 4, 3), nn.Conv1d(2, 3, 3), (2, 7)),
        (nn.Conv2d(4, 6, 3, bias=False), nn.Conv2d(2, 3, 3, bias=False), (2, 5, 5)),
        (nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(4, 4, 3, groups=4), (4, 5, 5)),
        (nn.ConvTranspose2d(4, 6, 2), nn.ConvTranspose2d(3, 2, 2), (3, 5, 5)),
        (nn.BatchNorm2d(6), nn.BatchNorm2d(2), (2, 5, 5)),
        (nn.BatchNorm2d(6, affine=False), nn.BatchNorm2d(2, affine=False), (2, 5, 5)),
        (nn.GroupNorm(2, 6), nn.GroupNorm(2, 4), (4, 5, 5)),
    ]
    for built, changed, shape in pairs:
        x = torch.randn(3, *shape, generator=Rng(0).generator())
        loaded = replay(built, changed.eval())
        assert torch.equal(loaded(x), changed(x)), changed


def test_a_frozen_parameter_stays_frozen() -> None:
    built = build()
    built.get_submodule("features.0.conv").weight.requires_grad_(False)
    apply_edits(built, describe_edits(build(), prune(build())))
    assert not built.get_submodule("features.0.conv").weight.requires_grad
    assert built.get_submodule("features.0.conv").bias.requires_grad


# ------------------------------------------------------------------------------------------------ other changes


@pytest.mark.parametrize(
    ("built", "changed"),
    [
        (nn.Linear(4, 4), nn.Linear(4, 5)),
        (nn.Linear(4, 4), nn.Linear(4, 4, bias=False)),
        (nn.Linear(4, 4, bias=False), nn.Linear(4, 4)),
        (nn.Linear(4, 4), nn.Conv2d(4, 4, 1)),
        (nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 1)),
        (nn.Sequential(nn.Linear(4, 4)), nn.Sequential(nn.Linear(4, 4), nn.ReLU())),
        (nn.Sequential(nn.Linear(4, 4)), nn.Sequential(nn.ReLU())),
        (nn.Sequential(nn.ReLU(), nn.Linear(4, 4)), nn.Sequential(nn.Linear(4, 4), nn.ReLU())),
        (nn.LayerNorm(8), nn.LayerNorm(4)),
    ],
    ids=["grown", "lost", "gained", "class", "kernel", "longer", "replaced", "order", "tuple_of_sizes"],
)
def test_a_change_that_edits_cannot_express_is_refused(built: nn.Module, changed: nn.Module) -> None:
    with pytest.raises(ContractError):
        describe_edits(built, changed)


def test_sizes_and_shapes_that_disagree_are_refused() -> None:
    changed = nn.Linear(4, 4)
    changed.out_features = 3
    with pytest.raises(ContractError, match="cannot be recorded as smaller sizes"):
        describe_edits(nn.Linear(4, 4), changed)


# ------------------------------------------------------------------------------------------------ hostile records

CONV = {
    "module": "features.0.conv",
    "attributes": {"out_channels": 5},
    "parameters": {"weight": [5, 1, 3, 3], "bias": [5]},
}


def changed(**values: Any) -> list[dict[str, Any]]:
    return [{**CONV, **values}]


HOSTILE: dict[str, Any] = {
    "number": 3,
    "mapping": {},
    "null": None,
    "no_edit": [3],
    "nested": [[CONV]],
    "missing_key": [{"module": "", "attributes": {}}],
    "extra_key": changed(code="import os"),
    "module_is_a_number": changed(module=0),
    "no_such_module": changed(module="features.9"),
    "private_module": changed(module="__class__"),
    "twice": [CONV, CONV],
    "attributes_is_a_list": changed(attributes=["out_channels"]),
    "parameters_is_a_list": changed(parameters=["weight"]),
    "method": changed(attributes={"forward": 5}),
    "class_of_the_module": changed(attributes={"__class__": 5}),
    "another_attribute": changed(attributes={"out_channels": 5, "training": 1}),
    "size_zero": changed(attributes={"out_channels": 0}),
    "size_negative": changed(attributes={"out_channels": -5}),
    "size_text": changed(attributes={"out_channels": "5"}),
    "size_bool": changed(attributes={"out_channels": True}),
    "size_float": changed(attributes={"out_channels": 5.0}),
    "size_grown": changed(attributes={"out_channels": 17}),
    "size_huge": changed(attributes={"out_channels": 10**30}),
    "no_such_parameter": changed(parameters={"weights": [5]}),
    "shape_is_a_number": changed(parameters={"weight": 5}),
    "shape_of_another_rank": changed(parameters={"weight": [5]}),
    "shape_empty": changed(parameters={"weight": []}),
    "shape_grown": changed(parameters={"weight": [5, 1, 3, 4], "bias": [5]}),
    "shape_huge": changed(parameters={"weight": [2**40, 1, 3, 3], "bias": [5]}),
    "shape_zero": changed(parameters={"weight": [0, 1, 3, 3], "bias": [5]}),
    "shape_float": changed(parameters={"weight": [5.0, 1, 3, 3], "bias": [5]}),
    "other_kernel": changed(parameters={"weight": [5, 1, 1, 1], "bias": [5]}),
    "shape_without_attribute": changed(attributes={}),
    "attribute_without_shape": changed(parameters={}),
    "bias_of_another_size": changed(parameters={"weight": [5, 1, 3, 3], "bias": [4]}),
    "second_edit_is_wrong": [CONV, {"module": "features.1.conv", "attributes": {"in_channels": 99}, "parameters": {}}],
    "groups_that_do_not_divide": [
        {
            "module": "features.1.conv",
            "attributes": {"in_channels": 5, "groups": 1},
            "parameters": {"weight": [16, 4, 3, 3]},
        }
    ],
}


def shapes(module: nn.Module) -> dict[str, Any]:
    return {
        name: (tuple(value.shape), getattr(value, "requires_grad", None)) for name, value in module.state_dict().items()
    }


def load(text: str) -> nn.Module:
    head = build()
    apply_edits(head, edits_from_json(text))
    return head


def test_the_record_that_the_hostile_ones_vary_is_a_good_one() -> None:
    assert load(json.dumps([CONV])).get_submodule("features.0.conv").out_channels == 5


@pytest.mark.parametrize("name", HOSTILE)
def test_a_record_that_does_not_fit_changes_nothing(name: str) -> None:
    head = build()
    before = {key: value.clone() for key, value in head.state_dict().items()}
    attributes = repr(head)
    with pytest.raises(InputError, match="expected"):
        apply_edits(head, edits_from_json(json.dumps(HOSTILE[name])))
    after = head.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert repr(head) == attributes


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 100_000, "NaN", "\x00", "[" + "9" * 5000 + "]", "import os", '{"module": 1'], ids=range(8)
)
def test_text_that_is_no_record_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="expected"):
        load(text)


NAMES = st.sampled_from(["", "features.0.conv", "features.0.norm", "bottleneck.conv", "features", "nothing"])
SIZES = st.one_of(st.integers(-1, 20), st.integers(), st.booleans(), st.none(), st.text(max_size=3))
EDITS = st.fixed_dictionaries(
    {
        "module": NAMES,
        "attributes": st.dictionaries(
            st.sampled_from(["out_channels", "num_features", "groups", "bias"]), SIZES, max_size=2
        ),
        "parameters": st.dictionaries(st.sampled_from(["weight", "bias"]), st.lists(SIZES, max_size=4), max_size=2),
    }
)
RECORDS = st.one_of(
    st.recursive(SIZES, lambda inner: st.lists(inner, max_size=3), max_leaves=5), st.lists(EDITS, max_size=3)
)


@given(record=RECORDS)
@settings(max_examples=20, deadline=None)
def test_whatever_the_record_there_is_one_kind_of_error(record: Any) -> None:
    try:
        head = load(json.dumps(record))
    except InputError:
        return
    whole = shapes(build())
    assert all(
        all(new <= old for new, old in zip(shape, whole[key][0], strict=True))
        for key, (shape, _) in shapes(head).items()
    )


def test_an_edit_made_in_code_is_checked_as_one_from_a_file() -> None:
    with pytest.raises(InputError, match="between 1 and 16"):
        apply_edits(build(), [ModuleEdit("features.0.conv", {"out_channels": 32}, {})])


def test_no_parameter_grows_even_of_a_layer_that_is_not_known() -> None:
    with pytest.raises(InputError, match=r"with sizes from 1 to \[4, 3\]"):
        apply_edits(nn.Embedding(4, 3), [ModuleEdit("", {}, {"weight": [2**40, 3]})])
