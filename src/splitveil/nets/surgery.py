"""Structured pruning as a record: which sizes of a built network changed, whichever library changed them.

A run stores the edits beside its weights. To load it, the network is built anew, the edits are replayed, and the
weights are read. The edits come from a file, so they are checked before anything is touched: they can only shrink.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, fx, nn

from splitveil.errors import ContractError, InputError

__all__ = ["ModuleEdit", "apply_edits", "describe_edits", "edits_from_json", "edits_to_json"]

_SIZES = frozenset(
    {"in_channels", "out_channels", "in_features", "out_features", "num_features", "num_channels", "groups"}
)


@dataclass(frozen=True)
class ModuleEdit:
    """The new sizes of one module, its children not counted.

    Args:
        module: dotted name.
        attributes: size attributes that changed, such as ``out_channels``.
        parameters: shapes of the parameters and buffers that changed.
    """

    module: str
    attributes: dict[str, int]
    parameters: dict[str, list[int]]


def _kind(module: nn.Module) -> type[nn.Module]:
    """Its class; torch makes one for every instance of a graph."""
    return fx.GraphModule if isinstance(module, fx.GraphModule) else type(module)


def describe_edits(built: nn.Module, changed: nn.Module) -> list[ModuleEdit]:
    """What was done to `changed` since it was built like `built`.

    Args:
        built: as the factory returns it.
        changed: the same modules, with smaller sizes.

    Returns:
        One edit per module whose sizes differ.

    Raises:
        ContractError: modules, classes, parameters or ranks differ, or a size grew or is of a kind that edits cannot
            express.

    Example:
        >>> describe_edits(nn.Linear(4, 4), nn.Linear(4, 3))
        [ModuleEdit(module='', attributes={'out_features': 3}, parameters={'weight': [3, 4], 'bias': [3]})]
    """
    before, after = dict(built.named_modules()), dict(changed.named_modules())
    if list(before) != list(after):
        names = ", ".join(sorted(set(before) ^ set(after))) or "their order"
        raise ContractError(
            f"expected the modules of the built network, got a difference in {names}: "
            "edits record new sizes only, so put other changes into the factory"
        )
    edits = []
    for name, module in before.items():
        if _kind(module) is not _kind(after[name]):
            raise ContractError(
                f"expected '{name}' to be a {type(module).__name__}, got a "
                f"{type(after[name]).__name__}: edits record new sizes only"
            )
        edit = _difference(name, module, after[name])
        if edit.attributes or edit.parameters:
            edits.append(edit)
    try:
        _plan(built, edits)
    except InputError as error:
        raise ContractError(f"this change cannot be recorded as smaller sizes: {error}") from error
    return edits


def apply_edits(built: nn.Module, edits: list[ModuleEdit]) -> None:
    """Give a freshly built network its recorded sizes, in place; new parameters are zeros, to be loaded.

    Args:
        built: as the factory returns it.
        edits: of `describe_edits`, or from a file.

    Raises:
        InputError: an edit that does not fit the network; nothing is changed then.

    Example:
        >>> layer = nn.Linear(4, 4)
        >>> apply_edits(layer, describe_edits(layer, nn.Linear(4, 3)))
        >>> layer(torch.zeros(2, 4)).shape
        torch.Size([2, 3])
    """
    for module, edit in _plan(built, edits):
        for name, size in edit.attributes.items():
            setattr(module, name, size)
        for name, shape in edit.parameters.items():
            old = _tensors(module)[name]
            fresh = torch.zeros(shape, dtype=old.dtype, device=old.device)
            if isinstance(old, nn.Parameter):
                module.register_parameter(name, nn.Parameter(fresh, requires_grad=old.requires_grad))
            else:
                setattr(module, name, fresh)


def edits_to_json(edits: list[ModuleEdit]) -> str:
    """The edits as JSON text."""
    return json.dumps([asdict(edit) for edit in edits], indent=2) + "\n"


def edits_from_json(text: str) -> list[ModuleEdit]:
    """The inverse of `edits_to_json`.

    Raises:
        InputError: the text is not a list of edits.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"expected edits as JSON, got {error}: restore the file") from error
    if not isinstance(data, list):
        raise InputError(f"expected a list of edits, got {type(data).__name__}: restore the file")
    return [_parse(item) for item in data]


def _parse(item: Any) -> ModuleEdit:
    names = {field.name for field in fields(ModuleEdit)}
    if not isinstance(item, dict) or set(item) != names:
        raise InputError(f"expected an edit with the keys {', '.join(sorted(names))}, got {item!r}")
    attributes, parameters = item["attributes"], item["parameters"]
    valid = (
        isinstance(item["module"], str)
        and isinstance(attributes, dict)
        and all(_is_size(size) for size in attributes.values())
        and isinstance(parameters, dict)
        and all(isinstance(shape, list) and all(map(_is_size, shape)) for shape in parameters.values())
    )
    if not valid:
        raise InputError(f"expected an edit of sizes >= 1, got {item!r}: restore the file")
    return ModuleEdit(item["module"], attributes, parameters)


def _is_size(value: Any) -> bool:
    return type(value) is int and value >= 1


def _difference(name: str, before: nn.Module, after: nn.Module) -> ModuleEdit:
    attributes = {
        key: getattr(after, key) for key in sorted(_sizes(before)) if getattr(after, key, None) != getattr(before, key)
    }
    old, new = _tensors(before), _tensors(after)
    if set(old) != set(new):
        raise ContractError(f"expected '{name}' with {', '.join(sorted(old))}, got {', '.join(sorted(new)) or 'none'}")
    shapes = {key: list(new[key].shape) for key in old if new[key].shape != old[key].shape}
    return ModuleEdit(name, attributes, shapes)


def _sizes(module: nn.Module) -> set[str]:
    return {name for name in _SIZES if type(getattr(module, name, None)) is int}


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    named = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    return dict(named)


def _plan(built: nn.Module, edits: list[ModuleEdit]) -> list[tuple[nn.Module, ModuleEdit]]:
    """Pairs of module and edit, after every edit was found to fit."""
    modules = dict(built.named_modules())
    plan, seen = [], set()
    for edit in edits:
        if edit.module not in modules or edit.module in seen:
            problem = "two edits of it" if edit.module in seen else "no such module"
            raise InputError(f"expected one edit of a module of the network for '{edit.module}', got {problem}")
        seen.add(edit.module)
        module = modules[edit.module]
        _check_attributes(module, edit)
        _check_shapes(module, edit)
        _check_agreement(module, edit)
        plan.append((module, edit))
    return plan


def _check_attributes(module: nn.Module, edit: ModuleEdit) -> None:
    known = _sizes(module)
    for name, size in edit.attributes.items():
        if name not in known:
            raise InputError(
                f"expected a size of '{edit.module}' ({', '.join(sorted(known)) or 'it has none'}), got '{name}'"
            )
        if not _is_size(size) or size > getattr(module, name):
            raise InputError(f"expected '{edit.module}.{name}' between 1 and {getattr(module, name)}, got {size!r}")


def _check_shapes(module: nn.Module, edit: ModuleEdit) -> None:
    known = _tensors(module)
    for name, shape in edit.parameters.items():
        if name not in known:
            raise InputError(
                f"expected a parameter of '{edit.module}' ({', '.join(known) or 'it has none'}), got '{name}'"
            )
        old = list(known[name].shape)
        shrinks = len(shape) == len(old) and all(
            _is_size(new) and new <= size for new, size in zip(shape, old, strict=True)
        )
        if not shrinks:
            raise InputError(
                f"expected '{edit.module}.{name}' of rank {len(old)} with sizes from 1 to {old}, got {shape!r}"
            )


def _check_agreement(module: nn.Module, edit: ModuleEdit) -> None:
    """Sizes and shapes of one module are two tellings of one thing; a module whose two differ would fail when run."""
    sizes = {name: edit.attributes.get(name, getattr(module, name)) for name in _sizes(module)}
    shapes = {name: edit.parameters.get(name, list(tensor.shape)) for name, tensor in _tensors(module).items()}
    for name, expected in _expected(module, sizes).items():
        if name in shapes and shapes[name] != expected:
            raise InputError(f"expected '{edit.module}.{name}' of shape {expected} for {sizes}, got {shapes[name]}")


def _expected(module: nn.Module, sizes: Mapping[str, int]) -> dict[str, list[int]]:
    if isinstance(module, nn.Linear):
        return {"weight": [sizes["out_features"], sizes["in_features"]], "bias": [sizes["out_features"]]}
    if isinstance(module, nn.modules.conv._ConvNd):
        groups, into, out = sizes["groups"], sizes["in_channels"], sizes["out_channels"]
        if into % groups or out % groups:
            raise InputError(f"expected channels that {groups} groups divide, got {into} in and {out} out")
        rows = [into, out // groups] if module.transposed else [out, into // groups]
        return {"weight": [*rows, *module.kernel_size], "bias": [out]}
    if isinstance(module, nn.modules.batchnorm._NormBase):
        names = ("weight", "bias", "running_mean", "running_var")
        return {name: [sizes["num_features"]] for name in names}
    if isinstance(module, nn.GroupNorm):
        return {name: [sizes["num_channels"]] for name in ("weight", "bias")}
    if isinstance(module, nn.LayerNorm):  # its sizes are a tuple, which no edit changes
        return {name: list(module.normalized_shape) for name in ("weight", "bias")}
    return {}
