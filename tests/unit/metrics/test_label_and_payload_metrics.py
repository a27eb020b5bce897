"""Accuracy and payload."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import accuracy_score

from splitveil.codecs import Float32Codec
from splitveil.contracts import FeatureSpec
from splitveil.errors import InputError
from splitveil.metrics.labels import accuracy
from splitveil.metrics.payload import payload_bytes
from splitveil.rng import Rng


def test_accuracy_agrees_with_sklearn() -> None:
    generator = Rng(1).generator()
    output, target = torch.randn(50, 4, generator=generator), torch.randint(4, (50,), generator=generator)
    score = accuracy(output, target)
    assert set(score.tolist()) == {0.0, 1.0}
    assert float(score.mean()) == pytest.approx(accuracy_score(target.numpy(), output.argmax(1).numpy()))


def test_an_output_with_nan_is_wrong_whatever_the_target() -> None:
    output = torch.tensor([[torch.nan, 1.0], [torch.nan, 1.0], [0.0, 1.0]])
    assert accuracy(output, torch.tensor([0, 1, 1])).tolist() == [0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("output", "target"),
    [
        (torch.zeros(3, 2), torch.zeros(2, dtype=torch.long)),
        (torch.zeros(3), torch.zeros(3, dtype=torch.long)),
        (torch.zeros(3, 2), torch.zeros(3, 1, dtype=torch.long)),
        (torch.zeros(3, 2), torch.zeros(3)),
    ],
)
def test_what_does_not_belong_together_is_refused(output: torch.Tensor, target: torch.Tensor) -> None:
    with pytest.raises(InputError, match="expected"):
        accuracy(output, target)


@pytest.mark.parametrize("shape", [(8, 8, 8), (17, 64), (10,)])
def test_payload_is_that_of_one_release(shape: tuple[int, ...]) -> None:
    spec, codec = FeatureSpec.of(shape), Float32Codec()
    assert payload_bytes(codec, spec) == 4 * spec.numel
    assert codec.decode(codec.encode(torch.ones(1, *shape)), spec).shape == (1, *shape)
