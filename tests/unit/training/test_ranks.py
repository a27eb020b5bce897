"""Two processes train as one: terms, weights, statistics, refits, failures."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from rank_fixtures import PENALTIES, gather_rows, train_case, train_cases, train_failing
from splitveil.contracts import ALONE
from splitveil.errors import SpecError, TrainingError
from splitveil.experiments.devices import _culprit, spread
from splitveil.training.observer import Observer
from splitveil.training.ranks import Ranks, Share, deal
from training_fixtures import Listener

pytest.importorskip("lightning_fabric")

NUMBERS = ("loss", "train_accuracy", "val_loss", "val_accuracy", "val_objective", "lr")


def close(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Epochs alike to 1e-5, terms and facts of penalties too."""
    for name in NUMBERS:
        assert found[name] == pytest.approx(expected[name], rel=1e-5, abs=1e-5), name
    for name in ("terms", "val_terms"):
        assert found[name] == pytest.approx(expected[name], rel=1e-5, abs=1e-5), name
    for penalty, facts in expected["facts"].items():
        assert found["facts"][penalty] == pytest.approx(facts, rel=1e-4, abs=1e-5), penalty


def two_equal_one(cases: list[tuple[str, str]], folder: Path) -> None:
    listener = Listener()
    spread(train_cases, [cases, folder], devices=2, accelerator="cpu", observer=listener)
    for case, norm in cases:
        weights, epochs = train_case(Ranks(), torch.device("cpu"), Observer(), case, norm, None)
        together = [event for event in listener.epochs() if tuple(event["case"]) == (case, norm)]
        assert len(together) == len(epochs) == 2
        for found, expected in zip(together, epochs, strict=True):
            close(found, expected)
        ranks = [load_file(folder / f"{case}-{norm}-{rank}.safetensors") for rank in range(2)]
        for name, value in weights.items():
            torch.testing.assert_close(ranks[0][name], value, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
            assert torch.equal(ranks[0][name], ranks[1][name]), f"the processes part in {name} of {case}"


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    two_equal_one([("cem", "batch")], tmp_path)


@pytest.mark.long
def test_two_processes_train_as_one_whatever_the_penalty(tmp_path: Path) -> None:
    cases = [(case, norm) for case in PENALTIES for norm in ("batch", "group")]
    two_equal_one([*cases, ("task", "spare")], tmp_path)


@pytest.mark.long
def test_gathered_rows_have_the_gradient_of_the_whole_batch() -> None:
    listener = Listener()
    spread(gather_rows, [], devices=2, accelerator="cpu", observer=listener)
    torch.manual_seed(0)
    whole = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    whole.cumsum(0).square().sum().backward()
    [event] = listener.events
    torch.testing.assert_close(torch.tensor(event["values"], dtype=torch.float64), whole.grad)
    assert event["agreed"] is True


@pytest.mark.long
@pytest.mark.parametrize(
    ("how", "error", "text"),
    [
        ("refused", SpecError, "^no such thing$"),
        ("broken", TrainingError, "process 2 of 2 stopped with ZeroDivisionError: no such thing"),
        ("killed", TrainingError, r"process 2 of 2 was killed \(SIGKILL\)"),
    ],
)
def test_a_process_that_fails_stops_the_others_and_is_named(how: str, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        spread(train_failing, [how], devices=2, accelerator="cpu", observer=Listener())


@pytest.mark.long
def test_a_process_that_falls_silent_is_not_waited_for_forever() -> None:
    started = time.monotonic()
    with pytest.raises(TrainingError, match=r"process 1 of 2 stopped with .*(?i:timed out|timeout)"):
        spread(train_failing, ["silent"], devices=2, accelerator="cpu", timeout_s=5.0)
    assert time.monotonic() - started < 280, "the test's own limit, so that a hang is told from an error"


def test_rows_are_dealt_in_order_and_all_of_them() -> None:
    for n in range(4, 30):
        for world_size in (1, 2, 3, 4):
            seen: list[int] = []
            for rank in range(world_size):
                comm, rows = Ranks(rank, world_size).share(n)
                seen += list(range(n))[rows]
                assert comm.first == rows.start
            assert seen == list(range(n))
            assert sum(deal(n, world_size)) == n


def test_shares_average_to_the_mean_over_samples() -> None:
    values = torch.arange(7.0)
    shares = [Ranks(rank, 3).share(7) for rank in range(3)]
    terms = [comm.share * values[rows].mean() for comm, rows in shares]
    assert float(torch.stack(terms).mean()) == pytest.approx(float(values.mean()))


def test_fewer_rows_than_processes_are_everybodys() -> None:
    comm, rows = Ranks(3, 4).share(3)
    assert comm is ALONE
    assert rows == slice(0, 3)


def test_alone_changes_nothing() -> None:
    rows: Tensor = torch.rand(3, 2)
    assert ALONE.gather(rows) is rows
    assert ALONE.mean(rows) is rows
    assert Share(0, (4,)).share == 1.0


def test_who_only_lost_the_other_is_not_named() -> None:
    lost, cause = ("RuntimeError", "[gloo] Connection closed by peer"), ("SpecError", "no such thing")
    assert _culprit(0, {0: lost, 1: cause}) == 1
    assert _culprit(1, {0: lost, 1: cause}) == 1
    assert _culprit(0, {0: lost}) == 0
    assert _culprit(1, {0: lost}) == 1
