"""The layers of the house, its one door, and what an import may cost."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import splitveil

SOURCE = Path(splitveil.__file__).parent
LAYERS = (
    (
        "doctor",
        "errors",
        "registry",
        "contracts",
        "threats",
        "rng",
        "noise",
        "combining",
        "stepping",
        "modes",
        "precision",
        "memory",
        "codecs",
        "schedules",
        "files",
        "migrations",
        "specs",
        "rooms",
    ),
    ("data", "nets", "metrics", "mixtures", "bounds"),
    ("split_model", "defenses"),
    ("training", "attacks"),
    ("records", "audit", "certificates", "experiments"),
    ("report", "export", "cloud"),
    ("cli", "__main__"),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
FILES = sorted(SOURCE.rglob("*.py"))
DOORS = {"splitveil.split_model", "splitveil.defenses.mechanisms.chain"}


def module_name(file: Path) -> str:
    """The dotted name of a file of the package."""
    parts = ("splitveil", *file.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): file for file in FILES}


def imports(source: str) -> Iterator[str]:
    """All modules of the package that a source imports, at the top, inside functions or for type checking."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "splitveil")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute, so that this test can read them"
            if node.module is not None and node.module.split(".")[0] == "splitveil":
                for alias in node.names:
                    if (node.module, alias.name) == ("splitveil", "__version__"):
                        continue  # stands there without any import
                    whole = f"{node.module}.{alias.name}"
                    yield whole if whole in MODULES else node.module


def upward(name: str, source: str) -> list[str]:
    """The imports of a module that lie above its layer."""
    return [target for target in imports(source) if level(target) > level(name)]


def level(name: str) -> int:
    """The layer of a module; the package itself holds the facade, so it may import all and none may import it."""
    parts = name.split(".")
    return LEVEL[parts[1]] if len(parts) > 1 else len(LAYERS)


def cycles(edges: dict[str, set[str]]) -> list[str]:
    """One line per cycle that a depth-first walk meets."""
    done: set[str] = set()
    found: list[str] = []

    def walk(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            found.append(" -> ".join((*path[path.index(name) :], name)))
        elif name not in done:
            for target in sorted(edges.get(name, ())):
                walk(target, (*path, name))
            done.add(name)

    for name in sorted(edges):
        walk(name, ())
    return found


def mechanism_calls(source: str) -> list[int]:
    """Lines that call something named `mechanism`, another name for it, or its `forward`."""
    tree = ast.parse(source)
    names = {"mechanism"}

    def named(node: ast.expr) -> bool:
        name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
        return name in names

    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and named(node.value):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}

    def is_door(call: ast.Call) -> bool:
        function = call.func
        through_forward = isinstance(function, ast.Attribute) and function.attr in ("forward", "__call__")
        return named(function) or (through_forward and named(function.value))

    return [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Call) and is_door(node)]


@pytest.mark.parametrize("name", sorted(MODULES))
def test_nothing_imports_upward(name: str) -> None:
    assert upward(name, MODULES[name].read_text()) == []


def test_every_room_has_a_layer() -> None:
    rooms = {name.split(".")[1] for name in MODULES if "." in name}
    assert sorted(rooms - set(LEVEL)) == []


def test_no_cycles() -> None:
    assert cycles({name: set(imports(file.read_text())) for name, file in MODULES.items()}) == []


@pytest.mark.parametrize("name", sorted(set(MODULES) - DOORS))
def test_one_door(name: str) -> None:
    assert mechanism_calls(MODULES[name].read_text()) == [], (
        "only SplitModel calls a mechanism: use release or simulate"
    )


def test_the_door_itself_is_seen() -> None:
    assert mechanism_calls(MODULES["splitveil.split_model"].read_text())


@pytest.mark.parametrize(
    "source",
    [
        "from splitveil.cli import main",
        "import splitveil.training.loop",
        "def late():\n    from splitveil.export.graph import run_onnx",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from splitveil.attacks.view import AttackerView",
        "import splitveil",
    ],
)
def test_an_upward_import_is_found(source: str) -> None:
    assert upward("splitveil.nets.small", source)


@pytest.mark.parametrize(
    "source", ["import torch", "from splitveil.errors import SpecError", "from splitveil import __version__"]
)
def test_a_downward_import_is_allowed(source: str) -> None:
    assert upward("splitveil.nets.small", source) == []


def test_a_cycle_is_found() -> None:
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == ["a -> b -> c -> a"]
    assert cycles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


@pytest.mark.parametrize(
    "source",
    [
        "r = mechanism(z, ())",
        "r = model.mechanism(z, noises)",
        "r = model.mechanism.forward(z, noises)",
        "r = self.model.mechanism.__call__(z, noises)",
        "wire = model.mechanism\nr = wire(z, noises)",
        "def late(mechanism):\n    return [mechanism(z, ()) for z in zs]",
    ],
)
def test_a_second_door_is_found(source: str) -> None:
    assert mechanism_calls(source)


@pytest.mark.parametrize("source", ["model.mechanism.combine(r)", "mechanism = build(spec)", "model.release(x)"])
def test_other_uses_of_a_mechanism_are_allowed(source: str) -> None:
    assert mechanism_calls(source) == []


def imported_by(statement: str) -> set[str]:
    """The modules that a fresh interpreter holds after a statement."""
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(answer.stdout.split())


HEAVY = {"torch", "torchvision", "sklearn", "scipy", "matplotlib", "pyarrow", "onnx", "onnxruntime"}


def test_importing_the_package_is_cheap() -> None:
    assert HEAVY & imported_by("import splitveil") == set()


def test_importing_the_command_line_is_cheap() -> None:
    if "def main" not in MODULES["splitveil.cli"].read_text():
        pytest.skip("the command line is not there yet")
    assert HEAVY & imported_by("import splitveil.cli") == set()


def test_the_edge_imports_nothing_above_itself_and_no_torch() -> None:
    root = SOURCE.parent / "splitveil_edge"
    named = {
        name.split(".")[0]
        for file in root.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    allowed = {"splitveil_edge", "numpy", "httpx", "anyio", "__future__"}
    assert named - allowed <= set(sys.stdlib_module_names)


def test_importing_the_edge_is_cheap() -> None:
    assert HEAVY & imported_by("import splitveil_edge, splitveil_edge.cli, splitveil_edge.client") == set()


def test_both_wheels_have_one_version() -> None:
    import splitveil_edge

    assert splitveil_edge.__version__ == splitveil.__version__


def test_importing_configures_no_logging() -> None:
    code = "import logging, splitveil; print(len(logging.getLogger().handlers))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "0"
