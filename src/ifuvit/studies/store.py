"""Answers and consents on the disk: a SQLite database to which rows are added and in which no answer is ever changed.

A task's latest row is its answer, those before it are what the rater changed. SQLite runs in WAL mode with synchronous=FULL:
what `add` has returned from outlives the process and the power. Only a withdrawal deletes: all that one rater left.

Reading has a connection of its own, so a database that another process has locked, or a full disk, keeps nobody from
reading. Writing waits `WAIT` seconds at most, then raises sqlite3.OperationalError; nothing is kept then.
"""

import json
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ifuvit.utils.errors import InputError
from ifuvit.utils.files import now

DATABASE = "answers.sqlite"
WAIT = 4.0
"""Seconds."""

Status = Literal["answered", "cannot tell", "skipped", "undone"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    rater TEXT NOT NULL, task INTEGER NOT NULL, version INTEGER NOT NULL,
    status TEXT NOT NULL, count INTEGER, ranks TEXT, seconds REAL, at TEXT NOT NULL, ratings TEXT, comment TEXT,
    PRIMARY KEY (rater, task, version)
);
CREATE TABLE IF NOT EXISTS consents (rater TEXT PRIMARY KEY, at TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS closings (number INTEGER PRIMARY KEY, closed INTEGER NOT NULL, at TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS names (rater TEXT PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS participants (participant TEXT PRIMARY KEY, rater TEXT NOT NULL UNIQUE);
"""
_ADDED = ("ratings", "comment")
"""Columns that databases of earlier versions do not have."""
_COLUMNS = "rater, task, status, count, ranks, ratings, comment, seconds, at"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One time that a rater answered a task, or took the answer back ("undone")."""

    rater: str
    task: int
    status: Status
    count: int | None = None
    ranks: tuple[float, ...] | None = None
    ratings: tuple[int, ...] | None = None
    comment: str | None = None
    seconds: float | None = None
    at: str
    """UTC, ISO 8601, with milliseconds: such texts sort as the moments do."""


class Outdated(Exception):
    """The task has been answered since the page was opened: it is an answer sent twice, or an old page."""


class Closed(Exception):
    """The study takes no more answers."""


class NotAgreed(Exception):
    """The rater has not agreed to take part, or has withdrawn."""


class Store:
    """The answers of a study. May be used by several threads, and by several processes at once."""

    def __init__(self, directory: Path) -> None:
        path = directory / DATABASE
        self._writing_now, self._reading_now = threading.Lock(), threading.Lock()
        try:
            path.touch(mode=0o600)  # before SQLite makes it, with the permissions of everybody
            self._writer = sqlite3.connect(path, timeout=WAIT, isolation_level=None, check_same_thread=False)
            self._writer.execute("PRAGMA journal_mode=WAL")
            self._writer.execute("PRAGMA synchronous=FULL")
            self._writer.execute("PRAGMA secure_delete=ON")
            self._writer.executescript(_SCHEMA)
            known = {row[1] for row in self._writer.execute("PRAGMA table_info(entries)")}
            for column in _ADDED:
                if column not in known:
                    self._writer.execute(f"ALTER TABLE entries ADD COLUMN {column} TEXT")
            self._reader = sqlite3.connect(path, timeout=WAIT, isolation_level=None, check_same_thread=False)
            self._reader.execute("PRAGMA query_only=ON")
        except (sqlite3.Error, OSError) as error:
            raise InputError(f"{path}: not a database of answers that can be used ({error})") from None

    # ------------------------------------------------------------------------------------------------------- answers

    def add(self, entry: Entry, *, version: int) -> None:
        """Keep an answer for good.

        Args:
            version: how many answers this task had when the rater saw it.

        Raises:
            NotAgreed: the rater has not agreed to take part; nothing is kept.
            Outdated: it has another number of answers by now; nothing is kept.
            Closed: the study is closed; nothing is kept.
            sqlite3.Error: the database is locked, or the disk is full; nothing is kept.
        """
        with self._writing() as connection:
            if _is_closed(connection):
                raise Closed
            if _agreed(connection, entry.rater) is None:
                raise NotAgreed
            if _version(connection, entry) != version:
                raise Outdated
            latest = "SELECT MAX(at) FROM entries WHERE rater = ? AND task = ?"
            before = connection.execute(latest, (entry.rater, entry.task)).fetchone()[0]
            # The order of moments is that of answers, even if the clock was set back between them.
            _insert(connection, replace(entry, at=max(entry.at, before or "")), version)

    def merge(self, entries: Iterable[Entry], *, agreed: Mapping[str, str], even_closed: bool = False) -> int:
        """Add answers from elsewhere, all or none; those that are there already (the same rater, task and moment) are left
        out. Which of a task's answers counts is decided by their moments, not by when they were added.

        Args:
            agreed: when raters agreed to take part.
            even_closed: whether a closed study takes them.

        Returns:
            how many were new.

        Raises:
            Closed: the study is closed; nothing is kept.
        """
        added = 0
        with self._writing() as connection:
            if _is_closed(connection) and not even_closed:
                raise Closed
            for rater, at in agreed.items():
                _agree(connection, rater, at)
            for entry in entries:
                same = "SELECT 1 FROM entries WHERE rater = ? AND task = ? AND at = ?"
                if connection.execute(same, (entry.rater, entry.task, entry.at)).fetchone() is None:
                    _insert(connection, entry, _version(connection, entry))
                    added += 1
        return added

    def entries(self, rater: str | None = None) -> list[Entry]:
        """All answers, of one rater or of everybody, those of a task in the order in which they were given."""
        where, values = ("", ()) if rater is None else ("WHERE rater = ?", (rater,))
        rows = self._read(f"SELECT {_COLUMNS} FROM entries {where} ORDER BY rater, task, at, version", values)
        return [_entry(row) for row in rows]

    def of_task(self, rater: str, task: int) -> list[Entry]:
        """The answers to one task, in the order in which they were given."""
        query = f"SELECT {_COLUMNS} FROM entries WHERE rater = ? AND task = ? ORDER BY at, version"
        return [_entry(row) for row in self._read(query, (rater, task))]

    def answered(self, rater: str) -> set[int]:
        """The tasks that have an answer."""
        query = "SELECT task, status FROM entries WHERE rater = ? ORDER BY at, version"
        last = dict(self._read(query, (rater,)))
        return {task for task, status in last.items() if status != "undone"}

    # -------------------------------------------------------------------------------------------------------- people

    def agree(self, rater: str, at: str) -> None:
        """Keep for good that a rater agreed to take part, and when the first time was."""
        with self._writing() as connection:
            _agree(connection, rater, at)

    def agreed(self, rater: str) -> str | None:
        """When a rater agreed to take part, in UTC; None for one who has not."""
        rows = self._read("SELECT at FROM consents WHERE rater = ?", (rater,))
        return rows[0][0] if rows else None

    def join(self, participant: str, raters: Sequence[str], at: str) -> str | None:
        """Give a recruited participant, who agrees to take part, the place of a rater: the one that this participant had
        before, else the first of `raters` whom nobody is; None where no place is left.

        Raises:
            Closed: the study is closed.
        """
        with self._writing() as connection:
            query = "SELECT rater FROM participants WHERE participant = ?"
            if row := connection.execute(query, (participant,)).fetchone():
                return row[0]
            if _is_closed(connection):
                raise Closed
            taken = {
                row[0] for row in connection.execute("SELECT rater FROM participants UNION SELECT rater FROM consents")
            }
            free = next((rater for rater in raters if rater not in taken), None)
            if free is not None:
                connection.execute("INSERT INTO participants (participant, rater) VALUES (?, ?)", (participant, free))
                _agree(connection, free, at)
            return free

    def participants(self) -> dict[str, str]:
        """Who recruited raters are, by rater."""
        return dict(self._read("SELECT rater, participant FROM participants"))

    def name(self, rater: str, name: str) -> None:
        """Keep what the owner calls a rater."""
        with self._writing() as connection:
            connection.execute("INSERT OR REPLACE INTO names (rater, name) VALUES (?, ?)", (rater, name))

    def names(self) -> dict[str, str]:
        """What the owner calls raters."""
        return dict(self._read("SELECT rater, name FROM names"))

    def forget(self, rater: str) -> int:
        """Delete all that a rater left, for good, with what the files still hold of it; returns how many answers there were."""
        with self._writing() as connection:
            deleted = connection.execute("DELETE FROM entries WHERE rater = ?", (rater,)).rowcount
            for table in ("consents", "names", "participants"):
                connection.execute(f"DELETE FROM {table} WHERE rater = ?", (rater,))
        with self._writing_now:
            self._writer.execute("VACUUM")
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return deleted

    # ------------------------------------------------------------------------------------------------------- closing

    @property
    def closed(self) -> bool:
        """Whether the study takes no more answers."""
        with self._reading_now:
            return _is_closed(self._reader)

    @closed.setter
    def closed(self, value: bool) -> None:
        with self._writing() as connection:
            connection.execute("INSERT INTO closings (closed, at) VALUES (?, ?)", (int(value), now()))

    def close(self) -> None:
        """Close the database."""
        with self._writing_now, self._reading_now:
            self._writer.close()
            self._reader.close()

    def _read(self, query: str, values: tuple = ()) -> list[Any]:
        with self._reading_now:
            return self._reader.execute(query, values).fetchall()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction: what was executed in the block is on the disk after it, or, if it raises, nothing of it is."""
        end = time.monotonic() + WAIT
        if not self._writing_now.acquire(timeout=WAIT):
            raise sqlite3.OperationalError("database is locked")
        try:
            left = max(end - time.monotonic(), 0.01)
            self._writer.execute(f"PRAGMA busy_timeout={1000 * left:.0f}")
            with self._writer:
                self._writer.execute("BEGIN IMMEDIATE")
                yield self._writer
        finally:
            self._writing_now.release()


def _agree(connection: sqlite3.Connection, rater: str, at: str) -> None:
    connection.execute("INSERT OR IGNORE INTO consents (rater, at) VALUES (?, ?)", (rater, at))


def _agreed(connection: sqlite3.Connection, rater: str) -> str | None:
    row = connection.execute("SELECT at FROM consents WHERE rater = ?", (rater,)).fetchone()
    return None if row is None else row[0]


def _is_closed(connection: sqlite3.Connection) -> bool:
    row = connection.execute("SELECT closed FROM closings ORDER BY number DESC LIMIT 1").fetchone()
    return row is not None and bool(row[0])


def _version(connection: sqlite3.Connection, entry: Entry) -> int:
    query = "SELECT COUNT(*) FROM entries WHERE rater = ? AND task = ?"
    return connection.execute(query, (entry.rater, entry.task)).fetchone()[0]


def _insert(connection: sqlite3.Connection, entry: Entry, version: int) -> None:
    ranks, ratings = (None if one is None else json.dumps(one) for one in (entry.ranks, entry.ratings))
    connection.execute(
        f"INSERT INTO entries ({_COLUMNS}, version) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(entry.rater, entry.task, entry.status, entry.count, ranks, ratings, entry.comment),
            *(entry.seconds, entry.at, version),
        ),
    )


def _entry(row: tuple) -> Entry:
    rater, task, status, count, ranks, ratings, comment, seconds, at = row
    return Entry(
        rater=rater,
        task=task,
        status=status,
        count=count,
        ranks=None if ranks is None else tuple(json.loads(ranks)),
        ratings=None if ratings is None else tuple(json.loads(ratings)),
        comment=comment,
        seconds=seconds,
        at=at,
    )
