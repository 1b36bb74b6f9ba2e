"""The database of answers: nothing is lost, nothing is changed, nothing is taken twice."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ifuvit.studies.store import DATABASE, Closed, Entry, NotAgreed, Outdated, Store
from ifuvit.utils.errors import InputError


def entry(
    task: int = 0, *, rater: str = "r01", count: int | None = 3, at: str = "2026-01-01T00:00:00.000+00:00"
) -> Entry:
    return Entry(rater=rater, task=task, status="answered", count=count, seconds=1.5, at=at)


def opened(directory: Path) -> Store:
    """A database in which two raters have agreed to take part."""
    store = Store(directory)
    for rater in ("r01", "r02"):
        store.agree(rater, "2026-01-01T00:00:00+00:00")
    return store


def test_nothing_is_kept_of_who_has_not_agreed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.agreed("r01") is None
    with pytest.raises(NotAgreed):
        store.add(entry(), version=0)
    for day in (1, 2):
        store.agree("r01", f"2026-01-0{day}T00:00:00+00:00")
    assert store.agreed("r01") == "2026-01-01T00:00:00+00:00", "the first time counts"
    store.add(entry(), version=0)
    with pytest.raises(NotAgreed):
        store.add(entry(rater="r02"), version=0)
    assert len(store.entries()) == 1


def test_answers_are_added_and_never_changed(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.add(entry(count=3), version=0)
    store.add(entry(count=4), version=1)
    ranked = Entry(rater="r02", task=5, status="answered", ranks=(1.0, 1.0, 3.0), at="2026-01-01T00:00:00+00:00")
    store.add(ranked, version=0)
    store.close()
    store = Store(tmp_path)
    assert [one.count for one in store.of_task("r01", 0)] == [3, 4]
    assert store.entries("r02") == [ranked]
    assert len(store.entries()) == 3 and store.answered("r01") == {0}


@pytest.mark.parametrize("version", [0, 2, 5])
def test_an_answer_from_an_old_page_is_refused(tmp_path: Path, version: int) -> None:
    store = opened(tmp_path)
    store.add(entry(), version=0)
    with pytest.raises(Outdated):
        store.add(entry(count=9), version=version)
    assert [one.count for one in store.entries()] == [3]


def test_a_closed_study_takes_no_answers_until_it_is_opened_again(tmp_path: Path) -> None:
    store = opened(tmp_path)
    assert not store.closed
    store.closed = True
    with pytest.raises(Closed):
        store.add(entry(), version=0)
    assert Store(tmp_path).closed and store.entries() == []
    store.closed = False
    store.add(entry(), version=0)
    assert len(store.entries()) == 1


def test_merging_twice_is_merging_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    log = [entry(at="2026-01-01T00:00:00.000+00:00"), entry(count=4, at="2026-01-01T00:00:09.000+00:00"), entry(1)]
    agreed = {"r01": "2025-12-31T00:00:00.000+00:00"}
    assert store.merge(log, agreed=agreed) == 3
    assert store.merge([*log, entry(2)], agreed=agreed) == 1
    assert store.agreed("r01") == agreed["r01"] and store.agreed("r02") is None
    assert [one.count for one in store.of_task("r01", 0)] == [3, 4]


def test_the_last_answer_is_that_of_the_last_moment_whenever_it_came(tmp_path: Path) -> None:
    """A form that was filled in first and imported last."""
    store = opened(tmp_path)
    store.add(entry(count=5, at="2026-01-02T00:00:00.000+00:00"), version=0)
    old = entry(count=1, at="2026-01-01T00:00:00.000+00:00")
    assert store.merge([old], agreed={}) == 1
    assert [one.count for one in store.of_task("r01", 0)] == [1, 5] == [one.count for one in store.entries()]
    undone = Entry(rater="r01", task=0, status="undone", at="2026-01-03T00:00:00.000+00:00")
    store.merge([undone], agreed={})
    assert store.answered("r01") == set()
    store.merge([entry(count=2, at="2026-01-01T12:00:00.000+00:00")], agreed={})
    assert store.answered("r01") == set()


def test_a_clock_that_is_set_back_does_not_turn_answers_round(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.add(entry(count=5, at="2026-01-02T00:00:00.000+00:00"), version=0)
    store.add(entry(count=6, at="2026-01-01T00:00:00.000+00:00"), version=1)
    assert [one.count for one in store.of_task("r01", 0)] == [5, 6]


def test_a_closed_study_takes_no_import_unless_told(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.closed = True
    with pytest.raises(Closed):
        store.merge([entry()], agreed={"r03": "2026-01-01T00:00:00.000+00:00"})
    assert store.entries() == [] and store.agreed("r03") is None
    assert store.merge([entry()], agreed={}, even_closed=True) == 1


def test_participants_take_free_places_once(tmp_path: Path) -> None:
    store = opened(tmp_path)  # r01 and r02 have begun
    names, at = ["r01", "r02", "r03", "r04"], "2026-01-01T00:00:00+00:00"
    assert [store.join(who, names, at) for who in ("ann", "bob", "ann", "carl")] == ["r03", "r04", "r03", None]
    assert store.agreed("r03") == at and store.participants() == {"r03": "ann", "r04": "bob"}
    store.closed = True
    assert store.join("ann", names, at) == "r03"
    with pytest.raises(Closed):
        store.join("dora", names, at)


def test_a_database_of_an_earlier_version_is_extended(tmp_path: Path) -> None:
    old = sqlite3.connect(tmp_path / DATABASE)
    old.execute(
        "CREATE TABLE entries (rater TEXT NOT NULL, task INTEGER NOT NULL, version INTEGER NOT NULL, status TEXT NOT NULL, "
        "count INTEGER, ranks TEXT, seconds REAL, at TEXT NOT NULL, PRIMARY KEY (rater, task, version))"
    )
    old.execute("INSERT INTO entries VALUES ('r01', 0, 0, 'answered', 3, NULL, 1.5, '2026-01-01T00:00:00.000+00:00')")
    old.commit()
    old.close()
    assert Store(tmp_path).entries() == [entry()] and Store(tmp_path).entries() == [entry()]


def test_of_answers_at_the_same_moment_one_is_kept(tmp_path: Path) -> None:
    """Two windows, two processes: whoever comes second has an old page."""
    stores = [opened(tmp_path), Store(tmp_path)]
    outcomes: list[bool] = []

    def post(store: Store) -> None:
        try:
            store.add(entry(), version=0)
            outcomes.append(True)
        except Outdated:
            outcomes.append(False)

    threads = [threading.Thread(target=post, args=(stores[number % 2],)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [False] * 15 + [True]
    assert len(stores[0].entries()) == 1


def test_it_is_in_wal_mode_with_full_synchronization_and_private(tmp_path: Path) -> None:
    store = Store(tmp_path)
    pragma = lambda name: store._writer.execute(f"PRAGMA {name}").fetchone()[0]  # noqa: E731
    assert (pragma("journal_mode"), pragma("synchronous")) == ("wal", 2)
    if os.name == "posix":
        assert (tmp_path / DATABASE).stat().st_mode & 0o077 == 0


def test_a_broken_database_is_named(tmp_path: Path) -> None:
    (tmp_path / DATABASE).write_bytes(b"this is no database at all, whatever its name says" * 10)
    with pytest.raises(InputError, match="answers.sqlite: not a database of answers"):
        Store(tmp_path)


_WRITER = """
import sys, threading
from pathlib import Path
from ifuvit.studies.store import Entry, Store
store = Store(Path(sys.argv[1]))
lock = threading.Lock()
def write(rater):
    store.agree(rater, "2026-01-01T00:00:00+00:00")
    for task in range(100_000):
        store.add(Entry(rater=rater, task=task, status="answered", count=task % 10, at="2026-01-01T00:00:00+00:00"), version=0)
        with lock:
            sys.stdout.write(f"{rater} {task}\\n")  # acknowledged
            sys.stdout.flush()
for number in range(4):
    threading.Thread(target=write, args=(f"r{number:02d}",)).start()
"""


@pytest.mark.multiprocess
def test_a_killed_process_loses_no_answer_that_it_acknowledged(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        acknowledged = [process.stdout.readline() for _ in range(200)]
        process.send_signal(signal.SIGKILL)  # in the middle of writing
        acknowledged += process.stdout.readlines()
    whole = {tuple(line.split()) for line in acknowledged if line.endswith("\n")}
    store = Store(tmp_path)
    kept = {(one.rater, str(one.task)) for one in store.entries()}
    assert len(whole) >= 200 and whole <= kept
    assert len(kept - whole) <= 4, "at most one for each thread was kept and not yet acknowledged"
    assert store._writer.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
