"""Raters who are added, replaced, and who withdraw."""

import os
import sqlite3
from collections import Counter
from pathlib import Path

import pytest
from tiny_study import make_study

from ifuvit.studies.analysis import analyze_study
from ifuvit.studies.answers import Answer, read_answers
from ifuvit.studies.config import StudyAddRatersConfig, StudyWithdrawConfig
from ifuvit.studies.design import Study, read_study
from ifuvit.studies.people import short_of
from ifuvit.studies.run import add, withdraw
from ifuvit.studies.store import DATABASE, Entry, Store
from ifuvit.utils.errors import InputError

AT = "2026-01-01T00:00:00.000+00:00"


def answered(directory: Path, rater: str, tasks: int) -> list[Answer]:
    """A rater answers the first tasks."""
    store = Store(directory)
    store.agree(rater, AT)
    for task in range(tasks):
        entry = Entry(rater=rater, task=task, status="answered", count=3, comment=None, at=AT)
        store.add(entry, version=0)
    store.close()
    return read_answers(directory)


def cared_for(study: Study) -> Counter[str]:
    """For how many raters each item is."""
    return Counter(task.item for rater in study.active for task in rater.tasks if task.purpose == "rating")


def test_who_withdrew_is_replaced(tmp_path: Path) -> None:
    directory = make_study(tmp_path, "count", raters=4, raters_per_item=2, practice=1, checks=2)
    before = read_study(directory)
    with pytest.raises(InputError, match="every item has its 2 raters; give --raters-per-item"):
        add(StudyAddRatersConfig(study=directory, number=1))
    answered(directory, "r03", 5)
    withdraw(StudyWithdrawConfig(study=directory, rater="r03"))
    new, lacking = add(StudyAddRatersConfig(study=directory, number=2))
    study = read_study(directory)
    assert [rater.id for rater in new] == ["r05", "r06"] and lacking == 0
    assert cared_for(study) == {item.id: 2 for item in study.items}
    assert study.raters[:2] == before.raters[:2] and len({rater.token for rater in study.raters}) == 6
    left = {task.item for task in before.raters[2].tasks if task.purpose == "rating"}
    for rater in new:
        purposes = Counter(task.purpose for task in rater.tasks)
        assert (purposes["practice"], purposes["check"], purposes["repeat"]) == (1, 2, 1)
        assert {task.item for task in rater.tasks if task.purpose == "rating"} <= left
    if os.name == "posix":
        assert (directory / "study.json").stat().st_mode & 0o077 == 0


def test_who_stopped_is_replaced_in_what_was_left(tmp_path: Path) -> None:
    directory = make_study(tmp_path, "count", raters=3, raters_per_item=2)
    answers = answered(directory, "r02", 6)
    study = read_study(directory)
    done = {study.raters[1].tasks[answer.task].item for answer in answers if answer.purpose == "rating"}
    missing = {task.item for task in study.raters[1].tasks if task.purpose == "rating"} - done
    assert short_of(study, answers) == {} and short_of(study, answers, replacing=["r02"]) == dict.fromkeys(missing, 1)
    (new,), lacking = add(StudyAddRatersConfig(study=directory, number=1, replacing=("r02",)))
    assert {task.item for task in new.tasks if task.purpose == "rating"} == missing and lacking == 0
    with pytest.raises(InputError, match="rater 'r99': there is none; the raters are r01, r02, r03, r04"):
        add(StudyAddRatersConfig(study=directory, number=1, replacing=("r99",)))


def test_more_raters_for_each_item(tmp_path: Path) -> None:
    directory = make_study(tmp_path, "preference", raters=2, raters_per_item=2)
    new, lacking = add(StudyAddRatersConfig(study=directory, number=1, raters_per_item=4))
    study = read_study(directory)
    assert study.raters_per_item == 4 and lacking == len(study.items), "each item only once with the new rater"
    _, lacking = add(StudyAddRatersConfig(study=directory, number=3))
    study = read_study(directory)
    assert lacking == 0 and cared_for(study) == {item.id: 4 for item in study.items}


def test_a_withdrawal_leaves_no_trace_of_the_answers(tmp_path: Path) -> None:
    directory = make_study(tmp_path, "count", comments=True)
    store = Store(directory)
    for rater in ("r01", "r02"):
        store.agree(rater, AT)
        store.name(rater, f"Name-of-{rater}")
        for task in range(4):
            store.add(
                Entry(rater=rater, task=task, status="answered", count=3, comment=f"secret-{rater}", at=AT), version=0
            )
    store.join("participant-x", ["r09"], AT)
    for _ in range(2):  # a command that was killed may be given again
        deleted = withdraw(StudyWithdrawConfig(study=directory, rater="r01"))
        files = b"".join(file.read_bytes() for file in directory.glob(f"{DATABASE}*"))
        assert b"secret-r01" not in files and b"Name-of-r01" not in files and b"secret-r02" in files
    assert deleted == 0
    study = read_study(directory)
    assert [rater.id for rater in study.active] == ["r02"] and study.raters[0].withdrawn is not None
    assert [one.rater for one in store.entries()] == ["r02"] * 4 and store.names() == {"r02": "Name-of-r02"}
    result = analyze_study(study, read_answers(directory), samples=100)
    assert [row["rater"] for row in result["raters"]] == ["r02"]
    assert result["answers"]["expected"] == sum(task.purpose == "rating" for task in study.raters[1].tasks)
    with pytest.raises(InputError, match="rater 'r99': there is none"):
        withdraw(StudyWithdrawConfig(study=directory, rater="r99"))


def test_a_locked_database_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = make_study(tmp_path, "count")
    answered(directory, "r01", 2)
    other = sqlite3.connect(directory / DATABASE, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    monkeypatch.setattr("ifuvit.studies.store.WAIT", 0.1)
    with pytest.raises(InputError, match="answers.sqlite: nothing was changed .*locked.*; try again"):
        withdraw(StudyWithdrawConfig(study=directory, rater="r01"))
