"""A ledger of what a device has told: releases and information per subject, and a budget that refuses."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from splitveil_edge.errors import BudgetError, InputError, OutputError, UsageError

__all__ = ["Budget", "Ledger", "Spent"]

_WAIT_S = 30.0
_FORMAT = 1
_ROUNDING = 1e-9  # relative: sums of equal costs may miss a budget by a rounding
_TABLES = """
CREATE TABLE spent (subject BLOB PRIMARY KEY, releases INTEGER NOT NULL, nats REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE known (release BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE facts (salt BLOB NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class Budget:
    """The most that may be told; None for no limit.

    Args:
        releases: of one subject.
        nats: about one subject.
        total_releases: of all subjects together.
        total_nats: about all subjects together.

    Raises:
        UsageError: a limit that is no positive number.
    """

    releases: int | None = None
    nats: float | None = None
    total_releases: int | None = None
    total_nats: float | None = None

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"expected a budget of {name} > 0, got {value}")

    @property
    def counts_nats(self) -> bool:
        """Whether it needs to know what a release tells."""
        return self.nats is not None or self.total_nats is not None


@dataclass(frozen=True, slots=True)
class Spent:
    """What was told, of one subject or of all."""

    releases: int = 0
    nats: float = 0.0


@dataclass(frozen=True, slots=True)
class Ledger:
    """Counts releases before they leave the device, in a file that processes share.

    A subject is whatever the budget is about: by default the picture itself, by its exact bytes, or what the caller
    names (a patient, a room, a day), so that near duplicates add up as well. The file holds no picture and no name,
    only BLAKE2b digests under a salt of its own.

    Information adds up: m releases of one subject tell at most m times what one tells, whatever the attacker does with
    them, as long as each has noise of its own. What was counted stays counted, even if the request fails afterwards.

    Args:
        file: of sqlite; made on first use.
        budget: what is refused.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     ledger = Ledger(Path(folder) / "ledger.sqlite", Budget(releases=2))
        ...     ledger.spend([b"picture", b"picture"], nats=1.5)
        ...     ledger.spent(b"picture")
        Spent(releases=2, nats=3.0)
    """

    file: Path
    budget: Budget = Budget()

    def spend(self, subjects: Sequence[bytes], nats: float | None, known: Sequence[bytes] = ()) -> None:
        """Count one release of each subject, all of them or, if one is beyond the budget, none.

        Args:
            subjects: one per release; the same one may come several times.
            nats: that one release tells at most; None where nobody has certified it.
            known: names the very release of each subject where noise is keyed: one that was sent before tells nothing
                new and costs nothing.

        Raises:
            BudgetError: a limit would be passed; nothing was counted.
            UsageError: the budget is in nats, and nobody has certified what a release tells.
            InputError: the file is no ledger.
            OutputError: it cannot be written.
        """
        if self.budget.counts_nats and nats is None:
            raise UsageError(
                "expected a passport with a certificate of information for a budget in nats, got none: run  "
                "splitveil certify  before  splitveil export,  or set a budget of releases"
            )
        with self._open() as connection:
            salt = _salt(connection)
            fresh = _fresh(connection, salt, subjects, known)
            for subject in fresh:
                self._count(connection, _tag(salt, subject), nats or 0.0)
            self._check_total(connection)

    def spent(self, subject: bytes) -> Spent:
        """What was told about a subject."""
        with self._open() as connection:
            tag = _tag(_salt(connection), subject)
            row = connection.execute("SELECT releases, nats FROM spent WHERE subject = ?", (tag,)).fetchone()
        return Spent(*row) if row else Spent()

    def total(self) -> Spent:
        """What was told about all subjects."""
        with self._open() as connection:
            return _total(connection)

    def _count(self, connection: sqlite3.Connection, tag: bytes, nats: float) -> None:
        connection.execute(
            "INSERT INTO spent VALUES (?, 1, ?) ON CONFLICT (subject) DO UPDATE SET releases = releases + 1, "
            "nats = nats + excluded.nats",
            (tag, nats),
        )
        row = connection.execute("SELECT releases, nats FROM spent WHERE subject = ?", (tag,)).fetchone()
        _refuse(Spent(*row), self.budget.releases, self.budget.nats, "of one subject")

    def _check_total(self, connection: sqlite3.Connection) -> None:
        if self.budget.total_releases is not None or self.budget.total_nats is not None:
            _refuse(_total(connection), self.budget.total_releases, self.budget.total_nats, "in total")

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A transaction that holds the file's lock; rolled back by any exception."""
        try:
            with closing(sqlite3.connect(self.file, timeout=_WAIT_S, isolation_level=None)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                try:
                    _prepare(connection, self.file)
                    yield connection
                except BaseException:
                    connection.execute("ROLLBACK")
                    raise
                connection.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise OutputError(f"cannot use the ledger '{self.file}': {error}; choose another file") from error
        except sqlite3.DatabaseError as error:
            raise InputError(
                f"expected a ledger at '{self.file}', got {error}: restore it; a new file forgets what was told"
            ) from error


def _prepare(connection: sqlite3.Connection, file: Path) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == _FORMAT:
        return
    if version or connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise InputError(
            f"expected a ledger of format {_FORMAT} at '{file}', got another database: choose another file"
        )
    for statement in _TABLES.strip().splitlines():
        connection.execute(statement)
    connection.execute("INSERT INTO facts VALUES (?)", (os.urandom(32),))
    connection.execute(f"PRAGMA user_version = {_FORMAT}")


def _salt(connection: sqlite3.Connection) -> bytes:
    salt: bytes = connection.execute("SELECT salt FROM facts").fetchone()[0]
    return salt


def _tag(salt: bytes, subject: bytes) -> bytes:
    return hashlib.blake2b(subject, key=salt, digest_size=16).digest()


def _fresh(
    connection: sqlite3.Connection, salt: bytes, subjects: Sequence[bytes], known: Sequence[bytes]
) -> list[bytes]:
    """The subjects of releases that were not sent before."""
    if not known:
        return list(subjects)
    fresh = []
    for subject, name in zip(subjects, known, strict=True):
        cursor = connection.execute("INSERT OR IGNORE INTO known VALUES (?)", (_tag(salt, name),))
        if cursor.rowcount:
            fresh.append(subject)
    return fresh


def _total(connection: sqlite3.Connection) -> Spent:
    releases, nats = connection.execute(
        "SELECT coalesce(sum(releases), 0), coalesce(sum(nats), 0.0) FROM spent"
    ).fetchone()
    return Spent(releases, nats)


def _refuse(spent: Spent, releases: int | None, nats: float | None, what: str) -> None:
    if releases is not None and spent.releases > releases:
        raise BudgetError(
            f"expected at most {releases} releases {what}, got one that would be number {spent.releases}: the "
            "budget is spent; nothing was sent"
        )
    if nats is not None and spent.nats > nats * (1 + _ROUNDING):
        raise BudgetError(
            f"expected at most {nats:g} nats {what}, got a release that would make it {spent.nats:g}: the budget is "
            "spent; nothing was sent"
        )
