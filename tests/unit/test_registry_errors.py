"""Names of plug-ins, and the tree of errors."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import Any

import numpy as np
import pytest

from splitveil import errors, registry
from splitveil.errors import (
    ContractError,
    InputError,
    MissingExtraError,
    SpecError,
    SplitveilError,
    UnknownNameError,
)
from splitveil.registry import Registry, build, load_attribute

BUILT_IN = [value for value in vars(registry).values() if isinstance(value, Registry)]


@pytest.fixture
def shapes() -> Registry:
    made = Registry("shape", "splitveil.no_such_group")
    made.add("square", "math:e", "four corners")
    made.add("circle", "math:pi", "round")
    return made


# ------------------------------------------------------------------------------------------------ registry


def test_entries_come_sorted_with_their_help(shapes: Registry) -> None:
    assert [(entry.name, entry.target, entry.help) for entry in shapes] == [
        ("circle", "math:pi", "round"),
        ("square", "math:e", "four corners"),
    ]
    assert "circle" in shapes
    assert "triangle" not in shapes
    assert 3 not in shapes


def test_load_imports_the_target(shapes: Registry) -> None:
    assert shapes.load("circle") == pytest.approx(3.14159, abs=1e-5)


def test_a_taken_name_is_refused_and_the_first_stays(shapes: Registry) -> None:
    with pytest.raises(SpecError, match=r"shape 'circle' is registered already, as math:pi"):
        shapes.add("circle", "math:tau", "another")
    assert shapes.entry("circle").target == "math:pi"


def test_an_unknown_name_offers_the_nearest(shapes: Registry) -> None:
    with pytest.raises(
        UnknownNameError, match=r"unknown shape 'circel': did you mean 'circle'\? Known: circle, square"
    ):
        shapes.load("circel")


def test_a_name_far_from_all_offers_the_list_only(shapes: Registry) -> None:
    with pytest.raises(UnknownNameError) as caught:
        shapes.entry("zzz")
    assert "did you mean" not in str(caught.value)
    assert caught.value.known == ["circle", "square"]
    assert (caught.value.kind, caught.value.name) == ("shape", "zzz")


@pytest.mark.parametrize("target", ["", "math", "math:", ":pi", "math.pi", "./math.py:pi", "math:pi.x", ".math:pi"])
def test_a_target_of_another_form_is_refused(target: str) -> None:
    with pytest.raises(SpecError, match=r"expected 'package\.module:attribute', got"):
        load_attribute(target)


def test_a_missing_module_is_named() -> None:
    with pytest.raises(
        SpecError, match=r"cannot import 'no_such_package\.module' .* no module named 'no_such_package'"
    ):
        load_attribute("no_such_package.module:thing")


def test_a_missing_attribute_is_named() -> None:
    with pytest.raises(SpecError, match="module 'math' has no 'square'"):
        load_attribute("math:square")


def test_an_error_inside_a_module_is_not_hidden(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    with open(f"{tmp_path}/broken_plug_in.py", "w") as file:
        file.write("1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        load_attribute("broken_plug_in:thing")


@dataclass
class Points:
    """Stands for the installed entry points."""

    points: list[EntryPoint]
    calls: int = 0

    def __call__(self, *, group: str) -> list[EntryPoint]:
        self.calls += 1
        return [point for point in self.points if point.group == group]


def test_entry_points_are_found_once_and_only_when_asked(shapes: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    group = "splitveil.no_such_group"
    points = Points([EntryPoint("oval", "math:tau", group), EntryPoint("foreign", "math:inf", "another.group")])
    monkeypatch.setattr(registry, "entry_points", points)
    shapes.add("line", "math:inf", "straight")
    assert points.calls == 0
    assert [entry.name for entry in shapes] == ["circle", "line", "oval", "square"]
    assert shapes.load("oval") == pytest.approx(6.28318, abs=1e-5)
    assert shapes.entry("oval").help == "from a plug-in"
    assert points.calls == 1


def test_an_entry_point_may_not_take_a_built_in_name(shapes: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    points = Points([EntryPoint("circle", "math:tau", "splitveil.no_such_group")])
    monkeypatch.setattr(registry, "entry_points", points)
    with pytest.raises(SpecError, match="registered already"):
        list(shapes)
    with pytest.raises(SpecError, match="registered already"):
        shapes.load("square")


@pytest.mark.parametrize("built_in", BUILT_IN, ids=lambda item: item.kind)
def test_built_in_registries_have_help_and_a_well_formed_target(built_in: Registry) -> None:
    for entry in built_in:
        assert re.fullmatch(r"[a-z][a-z0-9_]*", entry.name)
        assert re.fullmatch(r"[\w.]+:\w+", entry.target)
        assert entry.help
        assert "\n" not in entry.help


def test_registries_have_groups_of_their_own() -> None:
    assert len({item.group for item in BUILT_IN}) == len({item.kind for item in BUILT_IN}) == len(BUILT_IN)


# ------------------------------------------------------------------------------------------------ errors


def _plug_in(*, epochs: int, rate: float = 0.1, depth: int | None = None, weight: float | list[int] = 1.0) -> str:
    return f"{epochs} {rate} {depth} {weight}"


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"epochs": 1.5}, "expected a whole number for epochs of plug-in 'x', got 1.5"),
        ({"epochs": True}, "expected a whole number for epochs of plug-in 'x', got True"),
        ({"epochs": 1, "rate": "fast"}, "expected a number for rate of plug-in 'x', got 'fast'"),
        ({"epochs": 1, "depth": 0.5}, "expected a whole number or null for depth of plug-in 'x', got 0.5"),
    ],
)
def test_scalars_of_a_user_have_the_annotated_type(params: dict[str, object], said: str) -> None:
    with pytest.raises(SpecError) as caught:
        build(_plug_in, params, "plug-in 'x'")
    assert str(caught.value) == said


class _Plug:
    def __init__(self, epochs: int, rate: float = 0.5) -> None:
        self.told = f"{epochs} {rate}"

    @classmethod
    def from_spec(cls, spec: str, depth: int = 1, **params: Any) -> _Plug:
        return cls(**params)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"epochs": 1.5}, "expected a whole number for epochs of plug-in 'x', got 1.5"),
        ({"epochs": 1, "rate": None}, "expected a number for rate of plug-in 'x', got None"),
        ({"epochs": 1, "depth": 0.5}, "expected a whole number for depth of plug-in 'x', got 0.5"),
    ],
)
def test_what_a_class_method_passes_on_has_the_type_of_its_class(params: dict[str, object], said: str) -> None:
    with pytest.raises(SpecError) as caught:
        build(_Plug.from_spec, params, "plug-in 'x'", spec="s")
    assert str(caught.value) == said
    assert build(_Plug.from_spec, {"epochs": 2, "rate": np.float64(0.25)}, "x", spec="s").told == "2 0.25"


def test_values_that_annotations_allow_pass() -> None:
    assert build(_plug_in, {"epochs": 1, "rate": 2, "depth": None, "weight": [3]}, "x") == "1 2 None [3]"


def test_where_there_is_nothing_to_know_the_message_says_so() -> None:
    assert str(UnknownNameError("parameter", "a", [])) == "unknown parameter 'a': there is none to give, leave it out"


def drawn_tree() -> dict[str, tuple[str, int]]:
    """Class to parent and exit code, as the docstring of `errors` draws them."""
    tree: dict[str, tuple[str, int]] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"^([│├└─ ]*)([A-Z]\w+) +(?:exit code )?(\d) ", line)
        if found:
            depth = len(found.group(1)) // 4
            path = [*path[:depth], found.group(2)]
            tree[found.group(2)] = (path[-2] if depth else "Exception", int(found.group(3)))
    return tree


def test_the_drawing_in_the_docstring_is_the_tree() -> None:
    classes = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    actual = {item.__name__: (item.__bases__[0].__name__, item.exit_code) for item in classes}
    assert drawn_tree() == actual
    assert len(actual) > 5
    assert sorted(actual) == errors.__all__


def test_contract_errors_are_input_errors() -> None:
    assert issubclass(ContractError, InputError)
    assert not issubclass(InputError, ValueError)
    assert issubclass(UnknownNameError, SplitveilError)


def test_a_missing_extra_says_the_command() -> None:
    text = str(MissingExtraError("onnxscript", "export", "exporting"))
    assert text == (
        "exporting needs the package 'onnxscript', which is not installed: run  pip install 'splitveil[export]'"
    )


def test_the_nearest_name_does_not_depend_on_the_order() -> None:
    for known in (["cem", "gaussian", "none"], ["none", "gaussian", "cem"]):
        assert str(UnknownNameError("defense", "gausian", known)) == (
            "unknown defense 'gausian': did you mean 'gaussian'? Known: cem, gaussian, none"
        )
