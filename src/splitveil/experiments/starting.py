"""Trained models to start from: an uncut network, or an earlier run."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from splitveil.contracts import Task
from splitveil.data.loader import Pictures
from splitveil.data.tables import Source
from splitveil.errors import InputError, MissingDataError, SpecError
from splitveil.experiments.building import build_parts, build_run, count_groups, trusted_factory
from splitveil.experiments.storage import load_weights
from splitveil.modes import evaluating
from splitveil.nets.cutting import cut_model, uncut_network
from splitveil.nets.parts import SplitParts
from splitveil.noise import SeededNoise
from splitveil.records import RunRecord
from splitveil.rng import Rng
from splitveil.specs import DataSpec, ModelSpec, WeightsSpec
from splitveil.split_model import SplitModel

__all__ = ["Original", "find_weights", "load_original", "mean_score", "seal_weights"]

_BATCH = 512
_PARTS = ("head.", "tail.", "finish.", "mechanism.")


@dataclass(frozen=True, slots=True, eq=False)
class Original:
    """A trained model that a run starts from.

    Args:
        weights: where they lie, sealed.
        parts: head, tail and finish, with its weights.
        model: pictures in [0, 1] to outputs; None where the weights end in other classes, or where the factory is not
            ours and nobody can say what the uncut network is.
        fresh: whether the tail holds layers that the weights do not fill.
    """

    weights: WeightsSpec
    parts: SplitParts
    model: nn.Module | None
    fresh: bool = False

    @property
    def outputs(self) -> int:
        """Outputs per picture of the original.

        Raises:
            SpecError: nobody can say what the original is.
        """
        device = next(self.told.parameters(), torch.zeros(0)).device
        with evaluating(self.told), torch.no_grad():
            return int(self.told(torch.zeros(1, *self.parts.input_shape, device=device)).shape[1])

    @property
    def told(self) -> nn.Module:
        """The model, which must be known.

        Raises:
            SpecError: it is not.
        """
        if self.model is None:
            raise SpecError(
                f"expected the weights of a whole network with its last layer in '{self.weights.path}', got others: "
                "without the original model nothing can be distilled from it, and no budget can count from it"
            )
        return self.model


class _Run(nn.Module):
    """An earlier run as one function: through its own wire."""

    def __init__(self, model: SplitModel) -> None:
        super().__init__()
        self.split = model

    def forward(self, x: Tensor) -> Tensor:
        noise = SeededNoise(Rng(0).child("original"))
        return self.split.predict(self.split.release(x, noise=noise))


class _Joined(nn.Module):
    """Head, tail and finish without anything at the wire."""

    def __init__(self, parts: SplitParts) -> None:
        super().__init__()
        self.whole = nn.Sequential(parts.head, parts.tail, parts.finish)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.whole(x)
        return output


def find_weights(path: str | Path) -> tuple[WeightsSpec, ModelSpec | None]:
    """What a user means by a path of weights, and the model where an earlier run lies there.

    Raises:
        MissingDataError: neither a run nor a file is there.
    """
    place = Path(path).expanduser().resolve()
    if place.is_dir():
        record = RunRecord.open(place)
        if not record.finished:
            raise SpecError(f"expected a finished run in '{place}', got one in training: finish it first")
        return WeightsSpec(path=str(place)), record.spec.model
    if not place.is_file():
        raise MissingDataError(
            f"expected weights in '{place}', got nothing: give a safetensors file, or a run's folder"
        )
    return WeightsSpec(path=str(place)), None


def seal_weights(weights: WeightsSpec) -> WeightsSpec:
    """With the digest of the file.

    Raises:
        MissingDataError: nothing is there.
        InputError: other weights than those of the seal.
    """
    file = _file_of(weights)
    if not file.is_file():
        raise MissingDataError(f"expected weights in '{file}', got no file: give a safetensors file, or a run's folder")
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if weights.digest not in (None, digest):
        raise InputError(f"expected the weights that the run began with in '{file}', got others: restore the file")
    return WeightsSpec(path=weights.path, digest=digest)


def _file_of(weights: WeightsSpec) -> Path:
    path = Path(weights.path)
    return path / "weights.safetensors" if path.is_dir() else path


def load_original(
    weights: WeightsSpec, model: ModelSpec, data: DataSpec, source: Source, rng: Rng, trusted: str | None = None
) -> Original:
    """Read the weights that a run starts from.

    ```
    folder of a run                  its parts, as they were pruned and trained; the original is the run
    safetensors of head., tail. …    into the parts of the model; the original is these, joined
    safetensors of another network   to the model's factory, which takes `weights`; the original is the uncut network
    ```

    Args:
        weights: path, and digest where it is sealed.
        model: factory and keyword arguments.
        data: of the new run, with its digest.
        source: the pictures.
        rng: key of what the weights do not fill.
        trusted: a model factory outside splitveil that the user named.

    Raises:
        MissingDataError: nothing is there.
        InputError: other weights than those of the seal, or of another network.
        SpecError: an earlier run of another model, or one that was trained on the pictures to be tested.
    """
    path, file, sealed = Path(weights.path), _file_of(weights), seal_weights(weights)
    if path.is_dir():
        return _from_run(sealed, RunRecord.open(path), model, data, source, trusted)
    tensors = _read(file)
    if all(name.startswith(_PARTS) for name in tensors):
        return _from_parts(sealed, tensors, model, rng, trusted)
    return _from_whole(sealed, tensors, model, rng, trusted)


def _read(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (SafetensorError, ValueError) as error:
        raise InputError(
            f"expected safetensors in '{file}', got {error}: turn a .pth file into one by  splitveil convert"
        ) from error


def _from_run(
    weights: WeightsSpec, record: RunRecord, model: ModelSpec, data: DataSpec, source: Source, trusted: str | None
) -> Original:
    before = record.spec
    if before.model != model:
        raise SpecError(
            f"expected the model of the run in '{weights.path}', got another: leave out the model, the run decides it"
        )
    same = (before.data.source, before.data.path) == (data.source, data.path)
    if same and before.data.digest != data.digest:
        raise SpecError(
            f"expected the splits of the run in '{weights.path}', got others of the same pictures, so that some it has "
            "learned would be tested: use its limit, size and shares"
        )
    classes = count_groups(before, source.classes)
    earlier = load_weights(build_run(before, classes, trusted)[0], record.path)
    parts = SplitParts(earlier.head, earlier.tail, earlier.input_shape, earlier.finish, earlier.feature_spec)
    return Original(weights, parts, _Run(earlier))


def _from_parts(
    weights: WeightsSpec, tensors: Mapping[str, Tensor], model: ModelSpec, rng: Rng, trusted: str | None
) -> Original:
    parts = build_parts(model, rng, trusted)
    for name, part in (("head", parts.head), ("tail", parts.tail), ("finish", parts.finish)):
        held = {key[len(name) + 1 :]: value for key, value in tensors.items() if key.startswith(f"{name}.")}
        try:
            part.load_state_dict(held)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise InputError(
                f"expected the weights of this {name} in '{weights.path}', got others: {reason}; name their model, or "
                "give the folder of their run"
            ) from error
    return Original(weights, parts, _Joined(parts))


def _from_whole(
    weights: WeightsSpec, tensors: Mapping[str, Tensor], model: ModelSpec, rng: Rng, trusted: str | None
) -> Original:
    factory = trusted_factory(model, trusted)
    if "weights" not in inspect.signature(factory).parameters:
        raise SpecError(
            f"expected weights named head. and tail. for '{model.factory}' in '{weights.path}', got those of a whole "
            "network: choose the model 'cut', which cuts one, or give the folder of a run"
        )
    if model.kwargs.get("weights") is not None:
        raise SpecError("expected weights once, got them as a parameter of the model too: leave out one")
    parts = build_parts(
        ModelSpec(factory=model.factory, kwargs={**model.kwargs, "weights": weights.path}), rng, trusted
    )
    if factory is not cut_model:
        return Original(weights, parts, None, fresh=False)
    uncut = uncut_network(**_known(model.kwargs), weights=weights.path)
    state = uncut.state_dict()
    whole = all(name in tensors and tensors[name].shape == state[f"network.{name}"].shape for name in _inner(state))
    narrow = model.kwargs.get("bottleneck", inspect.signature(cut_model).parameters["bottleneck"].default)
    return Original(weights, parts, uncut if whole else None, fresh=narrow is not None or not whole)


def _inner(state: Mapping[str, Any]) -> list[str]:
    return [name.removeprefix("network.") for name in state if name.startswith("network.")]


def _known(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    names = inspect.signature(uncut_network).parameters
    return {name: value for name, value in kwargs.items() if name in names and name != "weights"}


def mean_score(model: nn.Module, task: Task, pictures: Pictures) -> float:
    """The task's mean score of a model that has no wire."""
    scores = []
    with evaluating(model), torch.no_grad():
        for x, y in pictures.batches(_BATCH):
            scores.append(task.score(model(x), task.target(x, y)).double().cpu())
    return float(torch.cat(scores).mean())
