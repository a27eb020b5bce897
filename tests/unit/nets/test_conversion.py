"""PyTorch's files become safetensors where they hold tensors alone; nothing in them runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from splitveil.errors import InputError, MissingDataError, OutputError
from splitveil.nets.conversion import convert_weights


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"state_dict": state, "epoch": 3}])
def test_a_state_is_converted(tmp_path: Path, wrap: object) -> None:
    layer = nn.Linear(3, 2)
    state = {f"module.{name}": value for name, value in layer.state_dict().items()}
    torch.save(wrap(state), tmp_path / "net.pth")  # type: ignore[operator]
    names = convert_weights(tmp_path / "net.pth", tmp_path / "net.safetensors")
    assert names == ["bias", "weight"]
    layer.load_state_dict(load_file(tmp_path / "net.safetensors"))


class Danger:
    ran = False

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("import splitveil; splitveil.ran = True",)


def test_code_in_a_file_does_not_run(tmp_path: Path) -> None:
    import splitveil

    torch.save({"state_dict": {"a": torch.zeros(1)}, "extra": Danger()}, tmp_path / "net.pth")
    with pytest.raises(InputError, match="expected nothing but tensors"):
        convert_weights(tmp_path / "net.pth", tmp_path / "net.safetensors")
    assert "ran" not in vars(splitveil)
    assert not (tmp_path / "net.safetensors").exists()


def test_what_is_no_state_is_refused(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"epoch": 3}, tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("hello")
    for name in ("list", "none", "text"):
        with pytest.raises(InputError, match="expected"):
            convert_weights(tmp_path / f"{name}.pth", tmp_path / "out.safetensors")
    with pytest.raises(MissingDataError):
        convert_weights(tmp_path / "absent.pth", tmp_path / "out.safetensors")
    torch.save({"a": torch.zeros(1)}, tmp_path / "good.pth")
    (tmp_path / "out.safetensors").write_text("mine")
    with pytest.raises(OutputError, match="is there already"):
        convert_weights(tmp_path / "good.pth", tmp_path / "out.safetensors")
    assert (tmp_path / "out.safetensors").read_text() == "mine"
