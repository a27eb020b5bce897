"""What a spec with faults is told."""

from __future__ import annotations

import pytest

from splitveil.errors import SpecError
from splitveil.specs import RunSpec, TrainingSpec, parse


def test_a_missing_key_is_named_without_the_rest() -> None:
    with pytest.raises(SpecError) as caught:
        parse(TrainingSpec, {"lr": 0.1}, "spec.json")
    assert str(caught.value) == "spec.json: expected the key 'epochs', got none"


def test_a_dotted_key_is_named_whole() -> None:
    with pytest.raises(SpecError, match=r"unknown key 'augment\.crop': did you mean 'augment'"):
        parse(TrainingSpec, {"epochs": 1, "augment.crop": 2}, "--set")


def test_many_faults_are_counted() -> None:
    with pytest.raises(SpecError, match=r"and 7 more$"):
        parse(RunSpec, {f"strange{index}": 1 for index in range(6)}, "spec.json")
