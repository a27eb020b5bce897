"""The ledger: what it counts, what it refuses, and that processes share it."""

from __future__ import annotations

import multiprocessing
import sqlite3
from pathlib import Path

import pytest

from splitveil_edge.errors import BudgetError, InputError, OutputError, UsageError
from splitveil_edge.ledger import Budget, Ledger, Spent


def test_it_counts_per_subject_and_in_total(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.spend([b"a", b"b", b"a"], nats=2.0)
    Ledger(tmp_path / "ledger.sqlite").spend([b"b"], nats=0.5)
    assert ledger.spent(b"a") == Spent(2, 4.0)
    assert ledger.spent(b"b") == Spent(2, 2.5)
    assert ledger.spent(b"c") == Spent()
    assert ledger.total() == Spent(4, 6.5)


@pytest.mark.parametrize(
    ("budget", "reason"),
    [
        (Budget(releases=2), "at most 2 releases of one subject, got one that would be number 3"),
        (Budget(nats=3.0), "at most 3 nats of one subject"),
        (Budget(total_releases=3), "at most 3 releases in total"),
        (Budget(total_nats=3.0), "at most 3 nats in total, got a release that would make it 4"),
    ],
)
def test_a_budget_refuses_all_of_a_batch_or_none(tmp_path: Path, budget: Budget, reason: str) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite", budget)
    ledger.spend([b"a"], nats=1.0)
    with pytest.raises(BudgetError, match=reason):
        ledger.spend([b"b", b"a", b"a", b"a"] if "one subject" in reason else [b"b", b"c", b"d"], nats=1.0)
    assert ledger.total() == Spent(1, 1.0)


def test_equal_costs_may_fill_a_budget_exactly(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite", Budget(nats=0.3))
    for _ in range(3):
        ledger.spend([b"a"], nats=0.1)
    with pytest.raises(BudgetError):
        ledger.spend([b"a"], nats=0.1)


def test_a_release_that_is_known_costs_nothing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite", Budget(releases=1))
    ledger.spend([b"a"], nats=1.0, known=[b"passport a"])
    ledger.spend([b"a", b"a"], nats=1.0, known=[b"passport a", b"passport a"])
    assert ledger.spent(b"a") == Spent(1, 1.0)
    with pytest.raises(BudgetError):
        ledger.spend([b"a"], nats=1.0, known=[b"another passport a"])
    with pytest.raises(BudgetError):  # what was refused is not known either
        ledger.spend([b"a"], nats=1.0, known=[b"another passport a"])


def test_nats_need_a_certificate(tmp_path: Path) -> None:
    Ledger(tmp_path / "a.sqlite", Budget(releases=1)).spend([b"a"], nats=None)
    with pytest.raises(UsageError, match="splitveil certify"):
        Ledger(tmp_path / "b.sqlite", Budget(nats=1.0)).spend([b"a"], nats=None)


def test_the_file_holds_neither_pictures_nor_names(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Ledger(tmp_path / name).spend([b"name:Ada Lovelace"], nats=1.0, known=[b"Ada's picture"])
    first, second = ((tmp_path / name).read_bytes() for name in ("a", "b"))
    assert b"Ada" not in first
    with sqlite3.connect(tmp_path / "a") as one, sqlite3.connect(tmp_path / "b") as two:
        tags = [connection.execute("SELECT subject FROM spent").fetchone()[0] for connection in (one, two)]
    one.close()
    two.close()
    assert tags[0] != tags[1]  # each ledger has a salt of its own
    assert tags[0] not in second


def spend_often(file: Path, times: int, refused: multiprocessing.Queue[int]) -> None:
    ledger, count = Ledger(file, Budget(releases=50)), 0
    for _ in range(times):
        try:
            ledger.spend([b"shared"], nats=1.0)
        except BudgetError:
            count += 1
    refused.put(count)


def test_processes_share_it_without_losing_a_count(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    refused: multiprocessing.Queue[int] = context.Queue()
    file = tmp_path / "ledger.sqlite"
    workers = [context.Process(target=spend_often, args=(file, 20, refused)) for _ in range(3)]
    for worker in workers:
        worker.start()
    counts = [refused.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join()
    assert Ledger(file).spent(b"shared") == Spent(50, 50.0)
    assert sum(counts) == 10


def test_files_that_are_no_ledger(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a database, but long enough to be looked at " * 4)
    with pytest.raises(InputError, match="expected a ledger at"):
        Ledger(tmp_path / "text").total()
    with sqlite3.connect(tmp_path / "other") as connection:
        connection.execute("CREATE TABLE things (a)")
    connection.close()
    with pytest.raises(InputError, match="another database"):
        Ledger(tmp_path / "other").total()
    with pytest.raises(OutputError, match="cannot use the ledger"):
        Ledger(tmp_path / "no" / "such" / "folder").total()
    with pytest.raises(UsageError, match="releases > 0"):
        Budget(releases=0)
