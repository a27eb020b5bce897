"""From what a user writes to a subject: a file, an address, or a function of theirs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from splitveil.attacks.bundle import BundleSubject, holds_a_bundle
from splitveil.attacks.endpoint import EndpointSubject
from splitveil.attacks.onnx import OnnxSubject
from splitveil.attacks.pairs import PairsSubject
from splitveil.attacks.subjects import CallableSubject, ModelSubject
from splitveil.contracts import Subject
from splitveil.errors import InputError, SpecError, SplitveilError, UsageError
from splitveil.registry import load_attribute
from splitveil.split_model import SplitModel

__all__ = ["load_subject"]

_FORMS = "path.onnx, path.safetensors, the folder of a bundle, http(s)://address or package.module:factory"


def load_subject(text: str, input_shape: Sequence[int] | None = None) -> Subject:
    """The subject that a text names.

    ```
    bundle/                BundleSubject
    encoder.onnx           OnnxSubject        pairs.safetensors     PairsSubject
    http(s)://host/path    EndpointSubject    module:factory        what the factory returns
    ```
    A factory takes no arguments and returns a `SplitModel`, a `Subject`, a module or a function from pictures to
    releases. Only the module that is named is imported.

    Args:
        text: one of these.
        input_shape: ``(c, h, w)``; an endpoint and a function cannot say it, a file is held to it.

    Raises:
        UsageError: the text has another form, or the shape is missing.
        SpecError: the factory cannot be imported, fails, or returns something else.
        MissingDataError: there is no such file, or nobody answers.
        InputError: the file or the reply is not what it should be, or has another shape.

    Example:
        >>> load_subject("torch.nn:Flatten", (1, 8, 8)).release_spec.shape
        (64,)
    """
    shape = _check_shape(input_shape)
    if text.startswith(("http://", "https://")):
        return EndpointSubject(text, _needed(shape, text))
    if holds_a_bundle(text):
        return _fitting(BundleSubject(text), shape, text)
    suffix = Path(text).suffix.lower()
    if suffix == ".onnx":
        return _fitting(OnnxSubject(text), shape, text)
    if suffix == ".safetensors":
        return _fitting(PairsSubject(text), shape, text)
    module, _, factory = text.partition(":")
    if all(part.isidentifier() for part in (*module.split("."), factory)):
        return _fitting(_from_factory(load_attribute(text), shape, text), shape, text)
    raise UsageError(f"expected a subject as {_FORMS}, got '{text}'")


def _from_factory(factory: Any, shape: tuple[int, ...] | None, text: str) -> Subject:
    if not callable(factory):
        raise SpecError(f"expected a function '{text}', got {type(factory).__name__}: name one that builds the encoder")
    try:
        built = factory()
    except SplitveilError:
        raise
    except Exception as error:  # whatever a user's function raises
        raise SpecError(f"expected '{text}' to build an encoder, got {type(error).__name__}: {error}") from error
    if isinstance(built, SplitModel):
        return ModelSubject(built.eval())
    if isinstance(built, nn.Module):
        built.eval()
    elif isinstance(built, Subject):
        return built
    if not callable(built):
        raise SpecError(
            f"expected a SplitModel, a Subject, a module or a function from '{text}', got {type(built).__name__}"
        )
    release: Callable[..., Any] = built
    return CallableSubject(release, _needed(shape, text))


def _check_shape(input_shape: Sequence[int] | None) -> tuple[int, ...] | None:
    if input_shape is None:
        return None
    shape = tuple(input_shape)
    if len(shape) != 3 or not all(type(size) is int and size >= 1 for size in shape):
        raise UsageError(f"expected input_shape (c, h, w) of three integers >= 1, got {shape}")
    return shape


def _needed(shape: tuple[int, ...] | None, text: str) -> tuple[int, ...]:
    if shape is None:
        raise UsageError(
            f"expected input_shape (c, h, w) beside '{text}', got none: it cannot say which pictures it takes"
        )
    return shape


def _fitting(subject: Subject, shape: tuple[int, ...] | None, text: str) -> Subject:
    if shape is not None and tuple(subject.input_shape) != shape:
        raise InputError(
            f"expected pictures {shape} as input of '{text}', got {tuple(subject.input_shape)}: "
            "leave input_shape out, or resize the pictures"
        )
    return subject
