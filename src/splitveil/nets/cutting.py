"""Cut any network: a live module, or one of torchvision or timm by its name."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from splitveil.contracts import FeatureSpec
from splitveil.errors import InputError, MissingDataError, MissingExtraError, SpecError, UnknownNameError
from splitveil.metrics.cost import count_parameters, multiply_adds
from splitveil.nets.graphs import trace
from splitveil.nets.layers import Normalise, check_picture, expansion, narrow_end
from splitveil.nets.parts import SplitParts

__all__ = ["Cut", "cut_model", "list_cuts", "make_network", "split", "uncut_network"]

_FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Cut:
    """What one place to cut costs.

    Args:
        name: what ``at`` takes.
        shape: of the features of one picture.
        payload_bytes: of one release in float32.
        edge_parameters: of the head.
        edge_multiply_adds: of the head, per picture.
        cloud_share: of all multiply-adds, in [0, 1].
    """

    name: str
    shape: tuple[int, ...]
    payload_bytes: int
    edge_parameters: int
    edge_multiply_adds: int
    cloud_share: float


def split(
    model: nn.Module | str,
    at: str,
    *,
    input_shape: Sequence[int],
    classes: int | None = None,
    weights: str | Path | None = None,
    bottleneck: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> SplitParts:
    """Cut a network behind one of its modules.

    ```
    head: normalise - modules up to `at` [- to `bottleneck` channels - sigmoid]
    tail: [back to the channels -] the rest
    ```

    The network is followed through its operations, so that a cut inside a residual block, which would need two tensors
    to cross the wire, is refused with the places that need one. Its weights are copied.

    Args:
        model: a module of one input and one output, or a name: ``vgg11`` of torchvision, ``timm:resnet18``.
        at: module path, such as ``layer2.0``: behind that module.
        input_shape: ``(c, h, w)``.
        classes: k, for a network by name.
        weights: safetensors of the whole network, for a network by name.
        bottleneck: channels on the wire, in (0, 1) behind a sigmoid; None leaves the features as they are.
        mean: per channel, of the pictures that the network was trained on; None for 0.
        std: per channel, of these; None for 1.

    Returns:
        Head and tail, for `splitveil.protect`, or for a factory of your own.

    Raises:
        SpecError: no such network or place; the network cannot be followed.
        MissingExtraError: timm is not installed.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(144, 2))
        >>> split(net, "1", input_shape=(1, 8, 8)).feature.shape
        (4, 6, 6)
    """
    sizes = check_picture(input_shape, 1, "one pixel")
    network = make_network(model, classes, sizes, weights) if isinstance(model, str) else copy.deepcopy(model)
    head, tail, shape = trace(network, sizes).cut(at)
    prefix = getattr(network, "num_prefix_tokens", 0)
    spec = FeatureSpec.of(shape, prefix_tokens=prefix if len(shape) == 2 and type(prefix) is int else 0)
    ends = _narrowed(spec, bottleneck)
    edge = OrderedDict[str, nn.Module](normalise=Normalise(sizes[0], mean, std), network=head)
    cloud = OrderedDict[str, nn.Module]()
    if ends is not None:
        edge["bottleneck"], cloud["expansion"], spec = ends
    cloud["network"] = tail
    return SplitParts(nn.Sequential(edge), nn.Sequential(cloud), sizes, feature=spec)


def cut_model(
    *,
    model: str,
    at: str,
    classes: int,
    input_shape: Sequence[int] = (3, 32, 32),
    weights: str | None = None,
    bottleneck: int | None = 8,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> SplitParts:
    """`split` by name, as a factory that a spec can name: ``--model cut --model-param model=timm:resnet18``.

    Args:
        model: see `split`.
        at: see `split`.
        classes: see `split`.
        input_shape: see `split`.
        weights: see `split`.
        bottleneck: see `split`.
        mean: see `split`.
        std: see `split`.
    """
    return split(
        model, at, input_shape=input_shape, classes=classes, weights=weights, bottleneck=bottleneck, mean=mean, std=std
    )


def uncut_network(
    *,
    model: str,
    classes: int,
    input_shape: Sequence[int] = (3, 32, 32),
    weights: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> nn.Module:
    """The network of `cut_model` before it is cut: pictures in [0, 1] to outputs.

    Args:
        model: see `split`.
        classes: see `split`.
        input_shape: see `split`.
        weights: see `split`.
        mean: see `split`.
        std: see `split`.
    """
    sizes = check_picture(input_shape, 1, "one pixel")
    network = make_network(model, classes, sizes, weights)
    return nn.Sequential(OrderedDict(normalise=Normalise(sizes[0], mean, std), network=network))


def list_cuts(
    model: nn.Module | str, *, input_shape: Sequence[int], classes: int = 10, bottleneck: int | None = None
) -> list[Cut]:
    """All places where a network can be cut, with what each costs.

    Args:
        model: see `split`.
        input_shape: ``(c, h, w)``.
        classes: for a network by name.
        bottleneck: see `split`; places with nothing behind them are left out then.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> [(item.name, item.payload_bytes) for item in list_cuts(net, input_shape=(1, 8, 8))]
        [('0', 576), ('1', 576), ('2', 576), ('3', 8)]
        >>> [(item.name, item.payload_bytes) for item in list_cuts(net, input_shape=(1, 8, 8), bottleneck=2)]
        [('0', 288), ('1', 288), ('2', 8)]
    """
    sizes = check_picture(input_shape, 1, "one pixel")
    network = make_network(model, classes, sizes) if isinstance(model, str) else model
    traced, whole = trace(network, sizes), multiply_adds(network, sizes)
    found: list[Cut] = []
    for point in traced.points():
        try:
            head, _, shape = traced.cut(point.name)
        except SpecError:  # both sides would share weights
            continue
        cut = _priced(point.name, head, shape, sizes, whole, bottleneck)
        if cut is not None:
            found.append(cut)
    return found


def _priced(
    name: str, head: nn.Module, shape: tuple[int, ...], sizes: tuple[int, int, int], whole: int, bottleneck: int | None
) -> Cut | None:
    """What a cut costs, its bottleneck included; None for a bottleneck with nothing behind it."""
    edge, parameters = multiply_adds(head, sizes), count_parameters(head)
    cloud = whole - edge
    if bottleneck is not None and cloud <= 0:
        return None
    ends = _narrowed(FeatureSpec.of(shape), bottleneck)
    if ends is not None:
        narrow, wide, spec = ends
        edge += multiply_adds(narrow, shape)
        cloud += multiply_adds(wide, spec.shape)
        parameters, shape = parameters + count_parameters(narrow), spec.shape
    return Cut(name, shape, _FLOAT_BYTES * math.prod(shape), parameters, edge, cloud / max(edge + cloud, 1))


def make_network(
    name: str, classes: int | None, input_shape: tuple[int, int, int], weights: str | Path | None = None
) -> nn.Module:
    """A network of torchvision, or of timm after ``timm:``, with fresh or given weights.

    Raises:
        SpecError: no such network.
        MissingExtraError: timm is not installed.
        InputError: weights of another network.
    """
    if classes is None:
        raise SpecError(f"expected classes beside the name '{name}', got none")
    source, _, rest = name.rpartition(":")
    network = _from_timm(rest, classes, input_shape) if source == "timm" else _from_torchvision(name, classes)
    if weights is not None:
        _fill(network, Path(weights))
    return network


def _from_timm(name: str, classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    if find_spec("timm") is None:
        raise MissingExtraError("timm", "zoo", f"the network 'timm:{name}'")
    timm = import_module("timm")
    if not timm.is_model(name):
        raise UnknownNameError("network of timm", name, timm.list_models())
    size = {"img_size": input_shape[1:]}
    options = {"pretrained": False, "num_classes": classes, "in_chans": input_shape[0]}
    try:
        return cast(nn.Module, timm.create_model(name, **options, **size))
    except TypeError:  # convolutional networks take pictures of any size
        return cast(nn.Module, timm.create_model(name, **options))


def _from_torchvision(name: str, classes: int) -> nn.Module:
    models = import_module("torchvision.models")
    known = models.list_models(module=models)
    if name not in known:
        raise UnknownNameError("network of torchvision (or timm:NAME)", name, known)
    return cast(nn.Module, models.get_model(name, weights=None, num_classes=classes))


def _fill(network: nn.Module, path: Path) -> None:
    """Read weights; the last layer may be for other classes, and keeps its fresh ones then."""
    if not path.is_file():
        raise MissingDataError(f"expected weights in '{path}', got no file: give a safetensors file")
    try:
        tensors = load_file(path)
    except (SafetensorError, ValueError) as error:
        raise InputError(
            f"expected safetensors in '{path}', got {error}: turn a .pth file into one by  splitveil convert"
        ) from error
    own = network.state_dict()
    last = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)][-1:]
    other = _misfits(own, tensors)
    allowed = {f"{name}.{part}" for name in last for part in ("weight", "bias")}
    if other - allowed:
        raise InputError(
            f"expected the weights of this network in '{path}', got another '{min(other - allowed)}': choose its name"
        )
    network.load_state_dict({**own, **{name: value for name, value in tensors.items() if name not in other}})


def _misfits(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> set[str]:
    missing = set(own) ^ set(given)
    return missing | {name for name in set(own) & set(given) if own[name].shape != given[name].shape}


def _narrowed(spec: FeatureSpec, narrow: int | None) -> tuple[nn.Module, nn.Module, FeatureSpec] | None:
    """The end of a head, the start of a tail, and the spec between them."""
    if narrow is None:
        return None
    if not (isinstance(narrow, int) and narrow >= 1):
        raise SpecError(f"expected bottleneck >= 1 channels or None, got {narrow!r}")
    channels = spec.shape[spec.channel_axis]
    shape = tuple(narrow if axis == spec.channel_axis else size for axis, size in enumerate(spec.shape))
    made = replace(spec, shape=shape, range=(0.0, 1.0))
    if spec.kind == "map":
        return narrow_end(channels, narrow), expansion(narrow, channels), made
    layers: dict[str, Any] = {"linear": nn.Linear(channels, narrow), "squash": nn.Sigmoid()}
    return nn.Sequential(OrderedDict(layers)), nn.Linear(narrow, channels), made
