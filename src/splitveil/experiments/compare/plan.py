"""What a comparison runs: defenses, a grid of their parameters, seeds."""

from __future__ import annotations

import inspect
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from splitveil.defenses import load_defense
from splitveil.errors import SpecError, UnknownNameError
from splitveil.registry import DEFENSES
from splitveil.specs import PlugInSpec, RunSpec

__all__ = ["Cell", "Grid", "cell_of", "expand"]

Grid = Mapping[str, Sequence[Any]]
"""Values by parameter; ``weight`` goes to every defense that has it, ``cem.weight`` to that one only."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of a comparison with its attack.

    Args:
        name: of its folder: the defense, and a digest of all that decides the run's numbers.
        spec: of the run.
        attack: on it.
    """

    name: str
    spec: RunSpec
    attack: PlugInSpec


def expand(defenses: Sequence[str], grid: Grid) -> list[PlugInSpec]:
    """Every defense with every combination of the grid's values that apply to it, in order, each once.

    Raises:
        UnknownNameError: a defense that is not registered, or a parameter that none of the defenses has.
        SpecError: a value that a defense refuses, or the same defense twice.

    Example:
        >>> [cell.params for cell in expand(["none", "cem"], {"noise_std": [0.1], "cem.weight": [1, 2]})]
        [{}, {'noise_std': 0.1, 'weight': 1}, {'noise_std': 0.1, 'weight': 2}]
    """
    if len(set(defenses)) != len(defenses) or not defenses:
        raise SpecError(f"expected different defenses, got {', '.join(defenses) or 'none'}: name each once")
    known = {name: _parameters(name) for name in defenses}
    _check_keys(known, grid)
    chosen: list[PlugInSpec] = []
    for name in defenses:
        for params in _combinations(_values_for(name, known[name], grid)):
            load_defense(name, params)
            chosen.append(PlugInSpec(name=name, params=params))
    return chosen


def _parameters(defense: str) -> list[str]:
    """As `load_defense` takes them: those of a second defense behind its name and a dot."""
    first, *rest = [part.strip() for part in defense.split("+")]
    found = list(inspect.signature(DEFENSES.load(first)).parameters)
    for part in rest:
        found += [f"{part}.{name}" for name in inspect.signature(DEFENSES.load(part)).parameters]
    return found


def _owner(key: str, known: Iterable[str]) -> tuple[str, str]:
    """The defense that a key of the grid is for, empty for all that have it, and the parameter."""
    owners = [name for name in known if key.startswith(f"{name}.")]
    if not owners:
        return "", key
    owner = max(owners, key=len)
    return owner, key[len(owner) + 1 :]


def _check_keys(known: Mapping[str, Sequence[str]], grid: Grid) -> None:
    for key, values in grid.items():
        owner, parameter = _owner(key, known)
        before = key.partition(".")[0]
        if not owner and "." in key and not any(before in name.split("+") for name in known):
            raise UnknownNameError("defense of the grid", before, known)
        names = {name for defense, found in known.items() if owner in ("", defense) for name in found}
        if parameter not in names:
            raise UnknownNameError("parameter of the grid", parameter, names)
        told = {_telling(value) for value in values}
        if not values or "" in told or len(told) != len(values):
            raise SpecError(
                f"expected different finite values for '{key}' in the grid, none of them empty, got {list(values)}: "
                "name each once"
            )


def _telling(value: Any) -> str:
    """A text that two values share if they mean the same, as 1 and 1.0 do; empty for what cannot be recorded."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return repr(float(value)) if math.isfinite(value) else ""
    return json.dumps(value) if value not in ("", None) else ""


def _values_for(name: str, parameters: Sequence[str], grid: Grid) -> dict[str, Sequence[Any]]:
    shared = {key: values for key, values in grid.items() if key in parameters}
    own = {key[len(name) + 1 :]: values for key, values in grid.items() if key.startswith(f"{name}.")}
    chosen = {**shared, **own}
    return {key: chosen[key] for key in parameters if key in chosen}


def _combinations(values: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    for row in itertools.product(*values.values()):
        yield dict(zip(values, row, strict=True))


def cell_of(spec: RunSpec, attack: PlugInSpec) -> Cell:
    """The cell of a run; where its pictures lie does not change its name, since their digest says which they are.

    Raises:
        SpecError: the spec does not say the digest of its pictures.
    """
    if spec.data.digest is None:
        raise SpecError("expected the digest of the pictures in the spec, got none: load them first")
    text = json.dumps([spec.identity(), attack.model_dump(mode="json")], sort_keys=True)
    return Cell(f"{spec.defense.name}-{sha256(text.encode()).hexdigest()[:12]}", spec, attack)
