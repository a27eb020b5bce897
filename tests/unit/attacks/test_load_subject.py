"""From a text to a subject."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from attack_fixtures import KEY, PICTURE, noisy
from splitveil.attacks.endpoint import EndpointSubject
from splitveil.attacks.loading import load_subject
from splitveil.attacks.onnx import OnnxSubject
from splitveil.attacks.pairs import PairsSubject, save_pairs
from splitveil.attacks.subjects import CallableSubject, ModelSubject
from splitveil.errors import InputError, MissingDataError, SpecError, UsageError
from splitveil.export.graph import export_edge
from splitveil.noise import SeededNoise

FACTORIES = """
import attack_fixtures
from torch import nn

CONSTANT = 3

def split():
    return attack_fixtures.noisy()

def subject():
    return attack_fixtures.subject()

def module():
    return nn.Sequential(nn.Dropout(0.5), nn.Flatten())

def function():
    return lambda x: x.mean((2, 3))

def nothing():
    return None

def broken():
    raise ZeroDivisionError("no such camera")

def with_argument(width):
    return width
"""


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_encoders.py").write_text(FACTORIES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_encoders", raising=False)
    return "my_encoders"


def test_files(tmp_path: Path) -> None:
    edge = export_edge(noisy(), tmp_path / "edge.onnx")
    assert isinstance(load_subject(str(edge)), OnnxSubject)
    assert load_subject(str(edge), PICTURE).input_shape == PICTURE
    pairs = tmp_path / "PAIRS.SAFETENSORS"
    save_pairs(pairs, torch.zeros(4, *PICTURE), torch.zeros(4, 3))
    assert isinstance(load_subject(str(pairs)), PairsSubject)
    for file in (edge, pairs):
        with pytest.raises(InputError, match=r"expected pictures \(3, 8, 8\) as input of .*, got \(1, 8, 8\)"):
            load_subject(str(file), (3, 8, 8))
    for name in ("none.onnx", "none.safetensors"):
        with pytest.raises(MissingDataError, match="check the path"):
            load_subject(str(tmp_path / name))


def test_factories(factories: str) -> None:
    assert isinstance(load_subject(f"{factories}:split"), ModelSubject)
    assert isinstance(load_subject(f"{factories}:subject"), ModelSubject)
    module = load_subject(f"{factories}:module", PICTURE)
    assert isinstance(module, CallableSubject)
    x = torch.rand(2, *PICTURE)
    assert torch.equal(module.release(x, SeededNoise(KEY)), x.flatten(1))  # in evaluation mode
    assert load_subject(f"{factories}:function", list(PICTURE)).release_spec.shape == (1,)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("nothing", "expected a SplitModel, a Subject, a module or a function from .*, got NoneType"),
        ("broken", "expected .* to build an encoder, got ZeroDivisionError: no such camera"),
        ("with_argument", "expected .* to build an encoder, got TypeError"),
        ("CONSTANT", "expected a function .*, got int"),
        ("absent", "has no 'absent'"),
    ],
)
def test_factories_that_fail(factories: str, factory: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        load_subject(f"{factories}:{factory}", PICTURE)


def test_only_what_is_named_is_imported(factories: str) -> None:
    for text in (
        factories,
        f"{factories}.py",
        f"./{factories}:split",
        f"{factories}:",
        ":split",
        "",
        "a b:c",
        "enc.pth",
    ):
        with pytest.raises(UsageError, match=r"expected a subject as path\.onnx"):
            load_subject(text, PICTURE)
    assert factories not in sys.modules
    with pytest.raises(SpecError, match="cannot import 'no_such_module'"):
        load_subject("no_such_module:build", PICTURE)


def test_shapes_that_are_missing_or_wrong(factories: str) -> None:
    for text in (f"{factories}:function", "http://127.0.0.1:9/"):
        with pytest.raises(UsageError, match=r"expected input_shape \(c, h, w\) beside"):
            load_subject(text)
    with pytest.raises(InputError, match="expected pictures"):
        load_subject(f"{factories}:split", (3, 8, 8))
    for shape in ((8, 8), (1, 8, 0), (1, 8, 8.0)):
        with pytest.raises(UsageError, match="expected input_shape"):
            load_subject("torch.nn:Flatten", shape)  # type: ignore[arg-type]


def test_an_address_becomes_an_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EndpointSubject, "_ask", lambda self, x: x.flatten(1))
    attacked = load_subject("https://127.0.0.1/release", PICTURE)
    assert isinstance(attacked, EndpointSubject)
    assert attacked.release_spec.shape == (64,)
    attacked.close()
