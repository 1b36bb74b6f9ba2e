"""Answers and consents on the disk: a SQLite database to which rows are added and in which nothing is ever changed.

A task's last row is its answer, those before it are what the rater changed. SQLite runs in WAL mode with synchronous=FULL:
what `add` has returned from outlives the process and the power.
"""

import json
import sqlite3
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ifuvit.utils.errors import InputError
from ifuvit.utils.files import now

DATABASE = "answers.sqlite"

Status = Literal["answered", "cannot tell", "skipped"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    rater TEXT NOT NULL, task INTEGER NOT NULL, version INTEGER NOT NULL,
    status TEXT NOT NULL, count INTEGER, ranks TEXT, seconds REAL, at TEXT NOT NULL,
    PRIMARY KEY (rater, task, version)
);
CREATE TABLE IF NOT EXISTS consents (rater TEXT PRIMARY KEY, at TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS closings (number INTEGER PRIMARY KEY, closed INTEGER NOT NULL, at TEXT NOT NULL);
"""
_COLUMNS = "rater, task, status, count, ranks, seconds, at"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One time that a rater answered a task."""

    rater: str
    task: int
    status: Status
    count: int | None = None
    ranks: tuple[float, ...] | None = None
    seconds: float | None = None
    at: str


class Outdated(Exception):
    """The task has been answered since the page was opened: it is an answer sent twice, or an old page."""


class Closed(Exception):
    """The study takes no more answers."""


class NotAgreed(Exception):
    """The rater has not agreed to take part."""


class Store:
    """The answers of a study. May be used by several threads, and by several processes at once."""

    def __init__(self, directory: Path) -> None:
        path = directory / DATABASE
        new = not path.exists()
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
        try:
            if new:
                path.chmod(0o600)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")
            self._connection.executescript(_SCHEMA)
        except sqlite3.DatabaseError as error:
            self._connection.close()
            raise InputError(f"{path}: not a database of answers that can be used ({error})") from None

    def add(self, entry: Entry, *, version: int) -> None:
        """Keep an answer for good.

        Args:
            version: how many answers this task had when the rater saw it.

        Raises:
            NotAgreed: the rater has not agreed to take part; nothing is kept.
            Outdated: it has another number of answers by now; nothing is kept.
            Closed: the study is closed; nothing is kept.
        """
        with self._lock, self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            if self._is_closed():
                raise Closed
            if self._agreed(entry.rater) is None:
                raise NotAgreed
            if self._version(entry) != version:
                raise Outdated
            self._insert(entry, version)

    def agree(self, rater: str, at: str) -> None:
        """Keep for good that a rater agreed to take part, and when the first time was."""
        with self._lock:
            self._agree(rater, at)

    def agreed(self, rater: str) -> str | None:
        """When a rater agreed to take part, in UTC; None for one who has not."""
        with self._lock:
            return self._agreed(rater)

    def merge(self, entries: Iterable[Entry], *, agreed: Mapping[str, str]) -> int:
        """Add answers from elsewhere, all or none, in their order; those that are there already (the same rater, task and
        moment) are left out.

        Args:
            agreed: when raters agreed to take part.

        Returns:
            how many were new.
        """
        added = 0
        with self._lock, self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            for rater, at in agreed.items():
                self._agree(rater, at)
            for entry in entries:
                same = "SELECT 1 FROM entries WHERE rater = ? AND task = ? AND at = ?"
                if self._connection.execute(same, (entry.rater, entry.task, entry.at)).fetchone() is None:
                    self._insert(entry, self._version(entry))
                    added += 1
        return added

    def entries(self, rater: str | None = None) -> list[Entry]:
        """All answers, of one rater or of everybody, those of a task in the order in which they were given."""
        where, values = ("", ()) if rater is None else ("WHERE rater = ?", (rater,))
        query = f"SELECT {_COLUMNS} FROM entries {where} ORDER BY rater, task, version"
        with self._lock:
            rows = self._connection.execute(query, values).fetchall()
        return [_entry(row) for row in rows]

    def of_task(self, rater: str, task: int) -> list[Entry]:
        """The answers to one task, in the order in which they were given."""
        query = f"SELECT {_COLUMNS} FROM entries WHERE rater = ? AND task = ? ORDER BY version"
        with self._lock:
            return [_entry(row) for row in self._connection.execute(query, (rater, task)).fetchall()]

    def answered(self, rater: str) -> set[int]:
        """The tasks that have an answer."""
        with self._lock:
            rows = self._connection.execute("SELECT DISTINCT task FROM entries WHERE rater = ?", (rater,)).fetchall()
        return {task for (task,) in rows}

    @property
    def closed(self) -> bool:
        """Whether the study takes no more answers."""
        with self._lock:
            return self._is_closed()

    @closed.setter
    def closed(self, value: bool) -> None:
        with self._lock:
            self._connection.execute("INSERT INTO closings (closed, at) VALUES (?, ?)", (int(value), now()))

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._connection.close()

    def _agree(self, rater: str, at: str) -> None:
        self._connection.execute("INSERT OR IGNORE INTO consents (rater, at) VALUES (?, ?)", (rater, at))

    def _agreed(self, rater: str) -> str | None:
        row = self._connection.execute("SELECT at FROM consents WHERE rater = ?", (rater,)).fetchone()
        return None if row is None else row[0]

    def _is_closed(self) -> bool:
        row = self._connection.execute("SELECT closed FROM closings ORDER BY number DESC LIMIT 1").fetchone()
        return row is not None and bool(row[0])

    def _version(self, entry: Entry) -> int:
        query = "SELECT COUNT(*) FROM entries WHERE rater = ? AND task = ?"
        return self._connection.execute(query, (entry.rater, entry.task)).fetchone()[0]

    def _insert(self, entry: Entry, version: int) -> None:
        ranks = None if entry.ranks is None else json.dumps(entry.ranks)
        self._connection.execute(
            "INSERT INTO entries (rater, task, version, status, count, ranks, seconds, at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (entry.rater, entry.task, version, entry.status, entry.count, ranks, entry.seconds, entry.at),
        )


def _entry(row: tuple) -> Entry:
    rater, task, status, count, ranks, seconds, at = row
    return Entry(
        rater=rater,
        task=task,
        status=status,
        count=count,
        ranks=None if ranks is None else tuple(json.loads(ranks)),
        seconds=seconds,
        at=at,
    )
