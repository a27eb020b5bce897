"""Pictures on the device and the order they are learned in."""

from __future__ import annotations

import pytest
import torch

from splitveil.data.loader import Pictures, steps
from splitveil.data.tables import ImageTable
from splitveil.errors import InputError
from splitveil.rng import Rng


@pytest.fixture
def table() -> ImageTable:
    images = torch.arange(10 * 4, dtype=torch.uint8).reshape(10, 1, 2, 2) * 6
    return ImageTable(images, torch.arange(10))


def test_get_scales_bytes_to_the_unit_interval(table: ImageTable) -> None:
    x, y = Pictures(table, "cpu").get(torch.tensor([7, 2, 2]))
    assert x.dtype == torch.float32
    assert y.tolist() == [7, 2, 2]
    torch.testing.assert_close(x.double(), table.images[[7, 2, 2]].double() / 255, atol=1e-7, rtol=0)
    full = Pictures(
        ImageTable(torch.full((1, 1, 1, 1), 255, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64)), "cpu"
    )
    assert float(full.get(torch.tensor([0]))[0]) == 1.0


def test_get_leaves_the_bytes_alone(table: ImageTable) -> None:
    pictures = Pictures(table, torch.device("cpu"))
    pictures.get(torch.arange(10))[0].zero_()
    next(pictures.batches(10))[0].zero_()
    assert int(table.images.sum()) > 0
    assert len(pictures) == 10
    assert pictures.device == torch.device("cpu")


def test_batches_come_in_order_and_cover_everything(table: ImageTable) -> None:
    batches = list(Pictures(table, "cpu").batches(4))
    assert [len(y) for _, y in batches] == [4, 4, 2]
    assert torch.cat([y for _, y in batches]).tolist() == list(range(10))
    torch.testing.assert_close(torch.cat([x for x, _ in batches]), table.images.float() / 255)
    with pytest.raises(InputError, match="batch_size >= 1"):
        next(Pictures(table, "cpu").batches(0))


def test_the_order_is_a_function_of_the_key(table: ImageTable) -> None:
    pictures = Pictures(table, "cpu")
    order = pictures.order(Rng(0).child("epoch", 1))
    torch.manual_seed(3)
    assert torch.equal(order, pictures.order(Rng(0).child("epoch", 1)))
    assert not torch.equal(order, pictures.order(Rng(0).child("epoch", 2)))
    assert sorted(order.tolist()) == list(range(10))


@pytest.mark.parametrize(
    ("n", "batch_size", "expected"),
    [(8, 4, 2), (9, 4, 2), (10, 4, 3), (3, 8, 1), (2, 2, 1), (3, 2, 1), (50_000, 128, 391)],
)
def test_no_batch_has_one_picture(n: int, batch_size: int, expected: int) -> None:
    assert steps(n, batch_size) == expected
    sizes = [len(range(n)[step * batch_size : (step + 1) * batch_size]) for step in range(expected)]
    assert min(sizes) >= 2
    assert n - sum(sizes) in (0, 1)


@pytest.mark.parametrize(("n", "batch_size"), [(1, 4), (0, 4), (9, 1)])
def test_too_little_for_batch_norm_is_refused(n: int, batch_size: int) -> None:
    with pytest.raises(InputError, match="at least two"):
        steps(n, batch_size)
