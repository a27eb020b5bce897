"""What is installed is said as it is."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from splitveil import doctor
from splitveil.cli.doctor import doctor as command


def by_name() -> dict[str, doctor.Finding]:
    return {item.name: item for item in doctor.examine()}


def test_a_complete_installation_is_not_broken() -> None:
    found = by_name()
    assert not [item for item in found.values() if item.state == "broken"]
    assert found["extra export"].state == "ok"
    assert version("onnxruntime") in found["extra export"].found
    assert "extra dev" not in found


def test_what_an_extra_lacks_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ['numpy>=1; extra == "more"', 'no-such-thing>=1; extra == "more"', "torch>=2"]
    monkeypatch.setattr(doctor, "requires", lambda _: lines)
    item = by_name()["extra more"]
    assert (item.state, item.found) == ("missing", "no-such-thing is not installed")
    assert item.cure == "pip install 'splitveil[more]'"


def test_brackets_of_a_cure_are_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "requires", lambda _: ['no-such-thing>=1; extra == "serve"'])
    command()
    assert "pip install 'splitveil[serve]'" in capsys.readouterr().out


@pytest.mark.parametrize("line", ["no-such-thing>=1", "numpy>=900"])
def test_what_every_command_needs_is_broken_without_it(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "requires", lambda _: [line])
    assert by_name()[Requirement(line).name].state == "broken"


def test_a_full_disk_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Usage:
        free = 5

    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: Usage)
    [disk] = [item for item in doctor.examine(tmp_path) if item.name == "disk"]
    assert disk.state == "missing"
    assert disk.cure
