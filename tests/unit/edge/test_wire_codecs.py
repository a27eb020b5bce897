"""The codecs of the device are those that the split was trained with."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from splitveil.codecs import Float32Codec, QuantisedCodec
from splitveil.contracts import FeatureSpec
from splitveil_edge.errors import InputError
from splitveil_edge.wire import Float32Wire, QuantisedWire

SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)


@settings(deadline=None, max_examples=80)
@given(
    shape=SHAPES,
    bits=st.integers(1, 16),
    low=st.floats(-10, 9, width=32),
    span=st.floats(0.0625, 20, width=32),
    n=st.integers(0, 3),
    data=st.data(),
)
def test_quantised_bytes_and_values_are_those_of_torch(
    shape: tuple[int, ...], bits: int, low: float, span: float, n: int, data: st.DataObject
) -> None:
    high = low + span
    r = data.draw(arrays.arrays(np.float32, (n, *shape), elements=st.floats(-40, 40, width=32)))
    codec, wire, spec = QuantisedCodec(bits, low, high), QuantisedWire(shape, bits, low, high), FeatureSpec.of(shape)
    sent = wire.encode(r)
    assert (sent.dtype, sent.shape) == (np.uint8, (n, *wire.shape))
    assert sent.tobytes() == codec.encode(torch.from_numpy(r))
    np.testing.assert_array_equal(wire.decode(sent), codec.decode(sent.tobytes(), spec).numpy())


@settings(deadline=None)
@given(shape=SHAPES, data=st.data())
def test_float_bytes_are_those_of_torch(shape: tuple[int, ...], data: st.DataObject) -> None:
    r = data.draw(
        arrays.arrays(np.float32, (2, *shape), elements=st.floats(width=32, allow_nan=False, allow_infinity=False))
    )
    wire = Float32Wire(shape)
    assert wire.encode(r).tobytes() == Float32Codec().encode(torch.from_numpy(r))
    np.testing.assert_array_equal(wire.decode(wire.encode(r)), r)


def test_eight_bits_are_a_quarter_of_the_bytes() -> None:
    r = np.zeros((2, 8, 8, 8), np.float32)
    assert 4 * QuantisedWire((8, 8, 8), 8, 0.0, 1.0).encode(r).nbytes == Float32Wire((8, 8, 8)).encode(r).nbytes


@pytest.mark.parametrize("wire", [Float32Wire((2,)), QuantisedWire((2,), 3, 0.0, 1.0)])
def test_what_is_no_release_is_refused(wire: Float32Wire | QuantisedWire) -> None:
    for value, reason in (
        (np.array([[np.nan, 0.0]]), "1 values of NaN"),
        (np.array([[np.inf, 0.0]]), "NaN or infinity"),
        (np.zeros(2), r"pass r\[None\]"),
        (np.zeros((1, 3)), r"expected r of shape \(n, 2\)"),
    ):
        with pytest.raises(InputError, match=reason):
            wire.encode(value)


def test_sent_bytes_of_another_size_are_refused() -> None:
    for sent in (np.zeros((1, 2), np.uint8), np.zeros((1, 1), np.float32), np.zeros(1, np.uint8)):
        with pytest.raises(InputError, match=r"expected UINT8 of shape \(n, 1\)"):
            QuantisedWire((2,), 3, 0.0, 1.0).decode(sent)
