"""Weights of a run: architecture edits are replayed on a freshly built model, then the weights are loaded."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from splitveil.errors import InputError, MissingDataError
from splitveil.files import write_text, write_with
from splitveil.nets.surgery import apply_edits, describe_edits, edits_from_json, edits_to_json
from splitveil.records import PREDICTIONS, AttackResult
from splitveil.split_model import SplitModel

__all__ = ["attack_errors", "load_weights", "save_model", "task_scores"]


def save_model(model: SplitModel, built: SplitModel, folder: Path) -> None:
    """Write ``architecture.json`` and ``weights.safetensors``.

    Args:
        model: trained.
        built: as its factory and its defense build it; the difference is recorded as edits.
        folder: of the run.
    """
    write_text(folder / "architecture.json", edits_to_json(describe_edits(built, model)) + "\n")
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    write_with(folder / "weights.safetensors", lambda temporary: save_file(tensors, temporary))


def task_scores(folder: Path) -> Tensor:
    """The task's score of every test picture of a run, ``(n,)``.

    Raises:
        InputError: the file is lost or damaged, or holds neither accuracy nor the score of another task.
    """
    held = _load_scores(folder / PREDICTIONS, f"remove '{folder}' and train again")
    found = held.get("accuracy", held.get("score"))
    if found is None:
        raise InputError(
            f"expected scores in '{folder / PREDICTIONS}', got {', '.join(held) or 'nothing'}: train again"
        )
    return found


def attack_errors(folder: Path, attack: AttackResult) -> Tensor:
    """The squared error of an attack on every test picture that it was scored on, ``(n,)``.

    Raises:
        InputError: the file is lost or damaged, or holds no errors.
    """
    file = folder / attack.samples
    found = _load_scores(file, "remove it and run the same command again").get("mse")
    if found is None:
        raise InputError(f"expected 'mse' in '{file}', got none: remove it and run the same command again")
    return found


def _load_scores(file: Path, cure: str) -> dict[str, Tensor]:
    if not file.is_file():
        raise InputError(f"expected the scores of a run in '{file}', got no file: {cure}")
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise InputError(f"expected a safetensors file at '{file}', got {error}: {cure}") from error


def load_weights(built: SplitModel, folder: Path) -> SplitModel:
    """Replay the edits on a built model, load the weights, and return it in evaluation mode.

    Raises:
        MissingDataError: no weights in the folder.
        InputError: the files are damaged, do not fit the model, or hold NaN.
    """
    weights, architecture = folder / "weights.safetensors", folder / "architecture.json"
    if not weights.is_file():
        raise MissingDataError(f"expected weights in '{weights}', got none: finish training with the same command")
    try:
        edits = architecture.read_text() if architecture.is_file() else "[]"
        tensors = load_file(weights)
    except (SafetensorError, ValueError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the weights of '{folder}': {error}; restore the files or train again") from error
    try:
        apply_edits(built, edits_from_json(edits))
    except InputError as error:
        raise InputError(f"'{architecture}': {error}") from error
    bad = [name for name, value in tensors.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if bad:
        raise InputError(f"expected finite weights in '{weights}', got NaN or infinity in {bad[0]}: train again")
    try:
        built.load_state_dict(tensors)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputError(f"the weights in '{weights}' do not fit the model of spec.json: {reason}") from error
    return built.eval()
