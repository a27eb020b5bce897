"""Fitted attackers as files: tensors only, with the facts of the fit in the header."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from splitveil.contracts import Inverter
from splitveil.errors import InputError
from splitveil.files import write_with

__all__ = ["load_inverter", "save_inverter"]


def save_inverter(path: Path, inverter: Inverter) -> None:
    """Write the inverter's tensors and facts."""
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in inverter.state_dict().items()}
    header = {"facts": json.dumps(inverter.facts)}
    write_with(path, lambda temporary: save_file(tensors, temporary, header))


def load_inverter(path: Path, inverter: Inverter) -> Inverter:
    """Load a file into an inverter that was built for the same release and picture.

    Raises:
        InputError: the file is damaged or belongs to another inverter.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})["facts"])
        inverter.load_state_dict(load_file(path))
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputError(f"cannot read the attacker '{path}': {reason}; run the attack again") from error
    inverter.facts = facts
    return inverter
