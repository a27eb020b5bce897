"""Specs: what a run is asked to be. Frozen, plain data; an unknown key is refused with the nearest known one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from splitveil.errors import InputError, MissingDataError, SpecError, UnknownNameError
from splitveil.migrations import migrated
from splitveil.registry import TASKS

__all__ = [
    "AugmentSpec",
    "DataSpec",
    "Frozen",
    "ModelSpec",
    "PlugInSpec",
    "RunSpec",
    "TrainingSpec",
    "WeightsSpec",
    "parse",
    "read_json",
]

_SHOWN_FAULTS = 3
_LATER: dict[str, dict[str, Any]] = {
    "": {"weights": None},
    "data": {"size": None, "skip_corrupt": False},
    "training": {"precision": "auto", "compile": False, "sampling": "uniform", "freeze_tail": False, "settle": 0.0},
}

_Model = TypeVar("_Model", bound=BaseModel)


class Frozen(BaseModel):
    """Plain data that does not change, without NaN and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PlugInSpec(Frozen):
    """A plug-in by name with its parameters."""

    name: str
    params: dict[str, Any] = Field(default_factory=dict)


class DataSpec(Frozen):
    """Where the pictures come from and how they are split.

    `seed` is the split's own, so that runs with different training seeds share their pictures. Shares are of the
    training table where the source has a test table of its own, else of all pictures.
    """

    source: str
    path: str | None = None
    limit: int | None = Field(default=None, ge=1, description="the most pictures to use, stratified")
    seed: int = 0
    val_share: float = Field(default=0.1, gt=0, lt=1)
    aux_share: float = Field(default=0.25, gt=0, lt=1)
    test_share: float = Field(default=0.2, gt=0, lt=1)
    size: int | None = Field(default=None, ge=1, description="side in pixels to resize and crop to; None: as they are")
    skip_corrupt: bool = Field(default=False, description="leave out pictures that do not decode")
    stream: bool | None = Field(default=None, description="from a file, not from memory; None: where memory is short")
    digest: str | None = Field(default=None, description="seal of pictures, labels and splits; checked when given")


class ModelSpec(Frozen):
    """A factory ``package.module:function`` that returns `SplitParts`, and its keyword arguments.

    A run that was started with a live instance records no factory: who loads it must name one.
    """

    factory: str | None
    kwargs: dict[str, Any] = Field(default_factory=dict)


class AugmentSpec(Frozen):
    """Random changes of training pictures: crop padding in pixels, flip, rotation in degrees."""

    crop: int = Field(default=0, ge=0)
    flip: bool = False
    rotation: float = Field(default=0.0, ge=0, le=180)


class TrainingSpec(Frozen):
    """SGD with momentum; `milestones` are shares of the epochs at which the rate is multiplied by `gamma`."""

    epochs: int = Field(ge=1)
    batch_size: int = Field(default=128, ge=2)
    lr: float = Field(default=0.05, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0)
    schedule: Literal["multistep", "cosine", "constant"] = "cosine"
    milestones: tuple[float, ...] = (0.25, 0.5, 0.75, 0.875)
    gamma: float = Field(default=0.2, gt=0, le=1)
    clip_norm: float | None = Field(default=5.0, gt=0, description="largest gradient norm, None for no limit")
    augment: AugmentSpec = AugmentSpec()
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="of the network's passes; auto is bfloat16 on GPUs that have it, else float32"
    )
    compile: bool = Field(default=False, description="torch.compile: slow to start, then faster on most GPUs")
    sampling: Literal["uniform", "balanced"] = Field(
        default="uniform", description="each picture once an epoch, or each class as often as the others"
    )
    freeze_tail: bool = Field(default=False, description="leave the cloud's part as the weights have it")
    settle: float = Field(
        default=0.0,
        ge=0,
        description="share of the epochs that the cloud's part learns on for, once the head is trained",
    )


class WeightsSpec(Frozen):
    """Weights to start from: a safetensors file of head and tail or of a whole network, or the folder of a run."""

    path: str
    digest: str | None = Field(default=None, description="SHA-256 of the file; checked when given")


class RunSpec(Frozen):
    """Everything that determines a run's weights, together with the versions in its environment."""

    format: Literal[1] = 1
    seed: int = 0
    data: DataSpec
    model: ModelSpec
    defense: PlugInSpec
    training: TrainingSpec
    task: str | PlugInSpec = "classification"
    weights: WeightsSpec | None = None

    @field_validator("task")
    @classmethod
    def _known_task(cls, value: str | PlugInSpec) -> str | PlugInSpec:
        name = value if isinstance(value, str) else value.name
        if name not in TASKS:
            raise UnknownNameError("task", name, [entry.name for entry in TASKS])
        return value

    @property
    def learns(self) -> PlugInSpec:
        """The task with its parameters."""
        return PlugInSpec(name=self.task) if isinstance(self.task, str) else self.task

    def is_control_of(self, other: RunSpec) -> bool:
        """Whether it is the undefended run of the same data, wherever they lie, and of the same model."""
        mine, theirs = self.identity(), other.identity()
        same = all(mine[part] == theirs[part] for part in ("data", "model"))
        return self.defense.name == "none" and same

    def identity(self) -> dict[str, Any]:
        """All that decides a run's numbers, as plain data: not where pictures lie, nor whether they are streamed.

        What came later than the first format, and has its default, is left out: older specs keep their identity.
        """
        plain = self.model_dump(mode="json")
        for name in ("path", "stream"):
            plain["data"].pop(name)
        plain |= {"weights": self.weights.digest} if self.weights is not None else {}
        for part, fields in _LATER.items():
            held = plain if not part else plain[part]
            for name, default in fields.items():
                if held[name] == default:
                    held.pop(name)
        return plain


def parse(model: type[_Model], data: Any, source: str) -> _Model:
    """Validate plain data, older formats of it too; an unknown key is named with the nearest known one.

    Raises:
        SpecError: names the first faults, or a format that is newer than this version.
    """
    data = migrated(model, data, source)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        faults = [_explain(model, item) for item in error.errors()]
        more = f"; and {len(faults) - _SHOWN_FAULTS} more" if len(faults) > _SHOWN_FAULTS else ""
        raise SpecError(f"{source}: {'; '.join(faults[:_SHOWN_FAULTS])}{more}") from error


def _explain(model: type[BaseModel], item: Any) -> str:
    path = ".".join(str(part) for part in item["loc"])
    if item["type"] == "missing":
        return f"expected the key '{path}', got none"
    if item["type"] != "extra_forbidden":
        return f"{path or 'value'}: {item['msg']}, got {item.get('input')!r}"
    owner: Any = model
    for part in item["loc"][:-1]:
        annotation = owner.model_fields[part].annotation if hasattr(owner, "model_fields") else None
        owner = annotation if annotation is not None else owner
    return str(UnknownNameError("key", str(item["loc"][-1]), getattr(owner, "model_fields", {})))


def read_json(file: Path) -> Any:
    """JSON from a file.

    Raises:
        MissingDataError: no such file.
        InputError: not JSON, or NaN in it.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except OSError as error:
        raise MissingDataError(f"expected the file '{file}', got: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"expected JSON in '{file}', got {error}: restore the file or run again") from error


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text}, which is not JSON")
