"""A network as a graph of operations: where it can be cut, and its two sides."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, cast

import torch
from torch import fx, nn
from torch.fx.node import map_aggregate
from torch.fx.passes.shape_prop import ShapeProp, TensorMetadata

from splitveil.errors import SpecError
from splitveil.modes import evaluating

__all__ = ["CutPoint", "Traced", "trace"]

_IN_PLACE: dict[Callable[..., Any], Callable[..., Any]] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
}
_ROWS = 2
_MOST_AXES = 4
_SHOWN = 8  # places that an error offers


@dataclass(frozen=True)
class CutPoint:
    """A place where one tensor is all that the rest of a network needs.

    Args:
        name: module path or node, as `Traced.cut` takes it.
        shape: of one sample of that tensor.
    """

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Traced:
    """A network that was followed through its operations.

    Args:
        model: the network.
        graph: of its operations, with the shapes of an example.
        names: of each node that computes, the module path it belongs to.
    """

    model: nn.Module
    graph: fx.GraphModule
    names: dict[fx.Node, str]

    def points(self) -> list[CutPoint]:
        """All places to cut, in order: module paths where a module ends there, else nodes."""
        found: list[CutPoint] = []
        seen: set[fx.Node] = set()
        for path, _ in self.model.named_modules():
            node = self._last(path) if path else None
            if node is not None and node not in seen and self._frontier(node) == [node] and _shape(node):
                seen.add(node)
                found.append(CutPoint(path, cast(tuple[int, ...], _shape(node))))
        order = {node: place for place, node in enumerate(self.graph.graph.nodes)}
        places = {point.name: order[cast(fx.Node, self._last(point.name))] for point in found}
        return sorted(found, key=lambda point: places[point.name])

    def cut(self, at: str) -> tuple[nn.Module, nn.Module, tuple[int, ...]]:
        """Both sides of a cut, which share no module, and the shape of one sample of what crosses.

        Args:
            at: module path: behind that module.

        Raises:
            SpecError: no such place, or more than one tensor would have to cross.
        """
        node = self._last(at)
        if node is None:
            raise SpecError(f"expected a module of the network to cut behind, got '{at}': {self._choices(at)}")
        crossing = self._frontier(node)
        shape = _shape(node)
        if crossing != [node] or shape is None:
            others = ", ".join(self.names.get(other, other.name) for other in crossing if other is not node)
            why = f"what '{others}' computed is needed behind it too" if others else "no tensor of samples ends there"
            raise SpecError(f"cannot cut behind '{at}': {why}; {self._choices(at)}")
        head, tail = self._head(node), self._tail(node)
        shared = {id(parameter) for parameter in head.parameters()} & {id(parameter) for parameter in tail.parameters()}
        if shared:
            raise SpecError(f"cannot cut behind '{at}': both sides use the same weights; {self._choices(at)}")
        return head, tail, shape

    def _choices(self, at: str) -> str:
        """What can be cut instead, the nearest ones by name."""
        valid = [point.name for point in self.points() if point.name != at]
        if not valid:
            return "the network has no place to cut"
        first = at.split(".")[0]
        near = [name for name in valid if name.split(".")[0] == first] or valid
        more = len(near) - _SHOWN
        return f"choose one of {', '.join(near[:_SHOWN])}" + (f" and {more} more" if more > 0 else "")

    def _last(self, at: str) -> fx.Node | None:
        inside = [node for node, name in self.names.items() if name == at or name.startswith(f"{at}.")]
        return inside[-1] if inside else None

    def _frontier(self, node: fx.Node) -> list[fx.Node]:
        """Nodes up to this one that later ones read; parameters and sizes of the batch can be had on both sides."""
        before: set[fx.Node] = set()
        for item in self.graph.graph.nodes:
            before.add(item)
            if item is node:
                break
        crossing: list[fx.Node] = []
        for item in self.graph.graph.nodes:
            if item in before or _only_counts(item):
                continue
            for read in self._needs(item, before):
                if read not in crossing:
                    crossing.append(read)
        return crossing

    def _needs(self, node: fx.Node, before: set[fx.Node]) -> list[fx.Node]:
        found: list[fx.Node] = []
        for read in node.all_input_nodes:
            if read not in before or _batch_size(read) or not _depends(read):
                continue
            found.append(read)
        return found

    def _head(self, node: fx.Node) -> nn.Module:
        graph, known = fx.Graph(), dict[fx.Node, fx.Node]()
        for item in self.graph.graph.nodes:
            known[item] = _copied(graph, item, known)
            if item is node:
                break
        graph.output(known[node])
        return _built(self.graph, graph)

    def _tail(self, node: fx.Node) -> nn.Module:
        graph, known = fx.Graph(), dict[fx.Node, fx.Node]()
        released = graph.placeholder("r")

        def copy(item: fx.Node) -> fx.Node:
            if item not in known:
                if _batch_size(item):
                    known[item] = graph.call_method("size", (released, 0))
                else:
                    for read in item.all_input_nodes:
                        copy(read)
                    known[item] = _copied(graph, item, known)
            return known[item]

        behind = False
        known[node] = released
        for item in self.graph.graph.nodes:
            if behind and item.op == "output":
                graph.output(fx.map_arg(item.args[0], copy))
            elif behind and not _only_counts(item):
                copy(item)
            behind = behind or item is node
        return _built(self.graph, graph)


def trace(model: nn.Module, input_shape: Sequence[int]) -> Traced:
    """Follow a network through its operations.

    Args:
        model: of one input ``(n, c, h, w)`` and one output.
        input_shape: ``(c, h, w)``.

    Raises:
        SpecError: its operations depend on values, so that they cannot be followed.
    """
    from torchvision.models.feature_extraction import NodePathTracer

    try:
        with evaluating(model), torch.no_grad():
            tracer = NodePathTracer(autowrap_functions=tuple(_opaque_functions()), leaf_modules=[*_opaque_modules()])
            graph = fx.GraphModule(model, _with_defaults(tracer.trace(model)))
            ShapeProp(graph).propagate(torch.zeros(_ROWS, *input_shape))
    except (fx.proxy.TraceError, TypeError, RuntimeError, ValueError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise SpecError(
            f"cannot follow the operations of {type(model).__name__}: {reason}; write a factory that returns "
            "SplitParts(head, tail, input_shape)"
        ) from error
    by_name = {node.name: node for node in graph.graph.nodes}
    names = {
        by_name[node.name]: path
        for node, path in tracer.node_to_qualname.items()
        if node.name in by_name and node.op not in ("placeholder", "output")
    }
    return Traced(model, graph, names)


def _with_defaults(graph: fx.Graph) -> fx.Graph:
    """The graph with the pictures as its only input: what else the network takes has its default value."""
    for extra in [node for node in graph.nodes if node.op == "placeholder"][1:]:
        if not extra.args:
            raise SpecError(f"expected a network of one input, got another without a default: '{extra.name}'")
        (default,) = extra.args
        for user in list(extra.users):
            user.args = map_aggregate(user.args, lambda read: default if read is extra else read)  # noqa: B023
            user.kwargs = map_aggregate(user.kwargs, lambda read: default if read is extra else read)  # noqa: B023
        graph.erase_node(extra)
    return graph


def _opaque_functions() -> Iterable[Callable[..., Any]]:
    """Functions of timm that look at values, where it is installed."""
    if find_spec("timm") is None:
        return []
    from timm.models._features_fx import get_notrace_functions

    return cast(Iterable[Callable[..., Any]], get_notrace_functions())


def _opaque_modules() -> Iterable[type[nn.Module]]:
    """Modules that look at values: attention of any kind, and what timm marks."""
    found: list[type[nn.Module]] = [nn.MultiheadAttention]
    if find_spec("timm") is not None:
        from timm.models._features_fx import get_notrace_modules

        found += get_notrace_modules()
    return found


def _copied(graph: fx.Graph, node: fx.Node, known: dict[fx.Node, fx.Node]) -> fx.Node:
    made = graph.node_copy(node, lambda read: known[read])
    if made.op == "call_function" and made.target in _IN_PLACE:
        made.target = _IN_PLACE[made.target]  # what crosses the wire must not change after it
    return made


def _built(root: fx.GraphModule, graph: fx.Graph) -> nn.Module:
    module = fx.GraphModule(root, graph)
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.recompile()
    module.delete_all_unused_submodules()
    for child in module.modules():
        if getattr(child, "inplace", False) is True:
            child.inplace = False  # type: ignore[assignment]
    return module


def _shape(node: fx.Node) -> tuple[int, ...] | None:
    """Of one sample, where the node is a tensor whose first axis is the batch and that features may have."""
    found = node.meta.get("tensor_meta")
    if not isinstance(found, TensorMetadata) or not found.dtype.is_floating_point:
        return None
    shape = tuple(found.shape)
    return shape[1:] if 2 <= len(shape) <= _MOST_AXES and shape[0] == _ROWS else None


def _depends(node: fx.Node) -> bool:
    """Whether a node computes something from the pictures; parameters and what follows from them alone do not."""
    if node.op == "placeholder":
        return True
    return any(_depends(read) for read in node.all_input_nodes)


def _batch_size(node: fx.Node) -> bool:
    """Whether a node reads the size of the batch, ``x.size(0)`` or ``x.shape[0]``."""
    if node.op == "call_method" and node.target == "size":
        return tuple(node.args[1:]) == (0,) or dict(node.kwargs) == {"dim": 0}
    if node.op == "call_function" and node.target is operator.getitem:
        source, index = node.args[0], node.args[1]
        return isinstance(source, fx.Node) and bool(index == 0) and _is_shape(source)
    return False


def _only_counts(node: fx.Node) -> bool:
    """Whether all that comes of a node is how many samples there are."""
    return _batch_size(node) or (_is_shape(node) and all(map(_batch_size, node.users)))


def _is_shape(node: fx.Node) -> bool:
    if node.op == "call_function" and node.target is getattr:
        return bool(node.args[1] == "shape")
    return node.op == "call_method" and node.target == "size" and len(node.args) == 1
