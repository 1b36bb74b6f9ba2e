"""Answers: which are taken, what is made of changes, and how they look to other programs."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_study import make_study

from ifuvit.studies.answers import (
    Answer,
    as_csv,
    as_json,
    as_label_studio,
    check_entry,
    collect,
    competition_ranks,
    label_studio_interface,
    passed,
    read_answers,
)
from ifuvit.studies.design import Assignment, Study, read_study
from ifuvit.studies.store import Entry, Store
from ifuvit.utils.errors import InputError

AT = "2026-01-01T00:00:00.000+00:00"


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("studies")
    return {kind: make_study(root, kind) for kind in ("count", "preference")}


@pytest.fixture(scope="module")
def studies(directories: dict[str, Path]) -> dict[str, Study]:
    return {kind: read_study(directory) for kind, directory in directories.items()}


def entry(task: int = 0, rater: str = "r01", status: str = "answered", **values) -> Entry:
    return Entry(rater=rater, task=task, status=status, at=AT, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ranks", "kept"),
    [
        ((1, 2, 3, 4), (1, 2, 3, 4)),
        ((1, 1, 2, 3), (1, 1, 3, 4)),
        ((4, 4, 4, 4), (1, 1, 1, 1)),
        ((2, 4, 2, 3), (1, 4, 1, 3)),
    ],
)
def test_ranks_are_kept_in_one_way(ranks: tuple, kept: tuple) -> None:
    assert competition_ranks(ranks) == kept == competition_ranks(kept)


@pytest.mark.parametrize("good", [{"count": 0}, {"count": 99}, {"status": "cannot tell"}, {"count": 3, "seconds": 0.0}])
def test_counts_that_are_taken(studies: dict[str, Study], good: dict) -> None:
    check_entry(studies["count"], entry(**good))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"count": -3}, "count -3"),
        ({"count": 10**9}, "count 1000000000"),
        ({}, "count None"),
        ({"count": 3, "ranks": (1.0,)}, "nothing was to be ranked"),
        ({"status": "cannot tell", "count": 3}, "nothing was to be counted"),
        ({"status": "skipped"}, "not 'skipped'"),
        ({"count": 3, "task": 1000}, "no task 1000"),
        ({"count": 3, "task": -1}, "no task -1"),
        ({"count": 3, "rater": "r99"}, "no rater 'r99'"),
        ({"count": 3, "seconds": -1.0}, "-1.0 seconds"),
        ({"count": 3, "seconds": float("nan")}, "nan seconds"),
    ],
)
def test_counts_that_are_not(studies: dict[str, Study], bad: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_entry(studies["count"], entry(**bad))


@pytest.mark.parametrize(
    "ranks",
    [None, (1.0, 2.0, 3.0), (1.0, 2.0, 3.0, 5.0), (1.0, 1.0, 2.0, 3.0), (0.0, 1.0, 2.0, 3.0), (2.0, 2.0, 3.0, 4.0)],
)
def test_rankings_that_are_not_taken(studies: dict[str, Study], ranks: tuple | None) -> None:
    with pytest.raises(InputError, match="ranks"):
        check_entry(studies["preference"], entry(ranks=ranks))


def test_the_last_answer_counts_and_changes_are_told(studies: dict[str, Study]) -> None:
    study = studies["count"]
    log = [entry(count=1), entry(1, count=2), entry(count=5), entry(status="cannot tell"), entry(count=4)]
    answers = collect(study, log)
    assert [(one.task, one.count, one.changes) for one in answers] == [(0, 4, 3), (1, 2, 0)]
    task = study.raters[0].tasks[0]
    assert (answers[0].item, answers[0].purpose, answers[0].order) == (task.item, task.purpose, ())


def test_checks() -> None:
    count = Assignment(item="c", purpose="check", expected=3)
    base = {"rater": "r", "task": 0, "item": "c", "purpose": "check", "at": AT}
    given = lambda **values: Answer(**{**base, "order": (), "status": "answered", **values})  # type: ignore # noqa: E731
    assert passed(count, given(count=3)) is True
    assert passed(count, given(count=2)) is False
    assert passed(count, given(status="cannot tell")) is False
    ranking = Assignment(item="c", purpose="check", order=(2, 0, 1), expected=0)
    ranked = lambda *ranks: passed(ranking, given(order=(2, 0, 1), ranks=ranks))  # noqa: E731
    assert ranked(1.0, 3.0, 2.0) is True
    assert ranked(1.0, 2.0, 2.0) is True, "another one as bad is no sign of not looking"
    assert ranked(3.0, 1.0, 2.0) is False
    assert ranked(1.0, 1.0, 1.0) is False
    assert passed(ranking, given(order=(2, 0, 1), status="skipped")) is None


# ---------------------------------------------------------------------------------------------------------- exports


def full(study: Study) -> list[Answer]:
    """Everybody answers everything."""
    log = []
    for rater in study.raters:
        for number in range(len(rater.tasks)):
            if number == 1:
                status = "cannot tell" if study.kind == "count" else "skipped"
                log.append(entry(number, rater.id, status))
            elif study.kind == "count":
                log.append(entry(number, rater.id, count=number % 10, seconds=2.5))
            else:
                log.append(entry(number, rater.id, ranks=(1.0, 1.0, 3.0, 4.0)))
    return collect(study, log)


@pytest.mark.parametrize("kind", ["count", "preference"])
def test_what_is_exported_is_read_back(
    studies: dict[str, Study], directories: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    study, answers = studies[kind], full(studies[kind])
    for name, write in (("answers.json", as_json), ("answers.csv", as_csv)):
        there = tmp_path / name.replace(".", "-")
        there.mkdir()
        (there / "study.json").write_bytes((directories[kind] / "study.json").read_bytes())
        with pytest.raises(InputError, match="no answers yet"):
            read_answers(there)
        (there / name).write_text(write(study, answers), encoding="utf-8")
        assert read_answers(there) == answers
    (there / name).write_text("rater,task\nr01,many\n")
    with pytest.raises(InputError, match="row 1 is no answer"):
        read_answers(there)


def test_the_database_goes_first(directories: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "study.json").write_bytes((directories["count"] / "study.json").read_bytes())
    (tmp_path / "answers.json").write_text("[]")
    assert read_answers(tmp_path) == []
    store = Store(tmp_path)
    store.agree("r01", "2026-01-01T00:00:00+00:00")
    store.add(entry(count=3), version=0)
    store.close()
    assert [one.count for one in read_answers(tmp_path)] == [3]


def test_csv_for_spreadsheets(studies: dict[str, Study]) -> None:
    study = studies["count"]
    rows = list(csv.DictReader(io.StringIO(as_csv(study, full(study)))))
    for row in rows:
        item = study.item(row["item"])
        assert row["model"] == ("" if item.model is None else study.models[item.model])
        assert (row["kind"], row["asked"], row["prompt"]) == (item.kind, str(item.count), item.prompt)
    assert len(rows) == sum(len(rater.tasks) for rater in study.raters)


def test_csv_has_models_ranks_by_model_and_passed_checks(studies: dict[str, Study]) -> None:
    study = studies["preference"]
    answers = full(study)
    rows = list(csv.DictReader(io.StringIO(as_csv(study, answers))))
    for row, answer in zip(rows, answers, strict=True):
        assert row["models"] == " | ".join(study.models[index] for index in answer.order)
        for slot, index in enumerate(answer.order):
            assert row[f"rank {study.models[index]}"] == ("" if answer.ranks is None else f"{answer.ranks[slot]:g}")
        rater = study.rater(answer.rater)
        assert rater is not None
        told = passed(rater.tasks[answer.task], answer) if answer.purpose == "check" else None
        assert row["passed"] == {True: "1", False: "0", None: ""}[told]
    assert {row["passed"] for row in rows if row["purpose"] == "check"} <= {"0", "1"}


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_is_a_formula(studies: dict[str, Study], first: str) -> None:
    study = studies["count"]
    prompt = f"{first}2+3+cmd|' /C calc'!A0"
    hostile = replace(
        study, items=tuple(replace(item, prompt=prompt) for item in study.items), models=(f"{first}m", "b", "c", "d")
    )
    rows = list(csv.DictReader(io.StringIO(as_csv(hostile, full(study)), newline="")))
    assert {row["prompt"] for row in rows if row["purpose"] == "rating"} == {f"'{prompt}".replace("\r", "\n")}
    assert {row["model"] for row in rows} >= {f"'{first}m".replace("\r", "\n")}


@pytest.mark.parametrize("kind", ["count", "preference"])
def test_label_studio(studies: dict[str, Study], kind: str) -> None:
    """Every name of a result is declared in the interface, ranks are by model, and images lie under images/."""
    study, answers = studies[kind], full(studies[kind])
    tasks = json.loads(as_label_studio(study, answers))
    interface = label_studio_interface(study)
    assert {task["data"]["item"] for task in tasks} == {answer.item for answer in answers}
    assert sum(len(task["annotations"]) for task in tasks) == len(answers)
    for task in tasks:
        images = [value for key, value in task["data"].items() if key.startswith("image")]
        assert images == [f"/data/local-files/?d=images/{name}" for name in study.item(task["data"]["item"]).images]
        for annotation in task["annotations"]:
            assert annotation["was_cancelled"] == (annotation["result"] == [])
            for result in annotation["result"]:
                assert f'name="{result["from_name"]}" toName="{result["to_name"]}"' in interface
                assert f'<Image name="{result["to_name"]}"' in interface
    if kind == "preference":
        answer = next(one for one in answers if one.ranks is not None)
        results = {
            (result["id"].split("-rank_")[0], result["from_name"]): result["value"]["number"]
            for task in tasks
            for annotation in task["annotations"]
            for result in annotation["result"]
        }
        assert answer.ranks is not None
        for slot, model in enumerate(answer.order):
            assert results[f"{answer.rater}-{answer.task}", f"rank_{model + 1}"] == answer.ranks[slot]


@pytest.mark.parametrize("kind", ["count", "preference"])
def test_label_studios_own_checks(studies: dict[str, Study], kind: str) -> None:
    sdk: Any = pytest.importorskip(
        "label_studio_sdk.label_interface", reason="needs Label Studio's checks: pip install label-studio-sdk"
    )
    interface = sdk.LabelInterface(label_studio_interface(studies[kind]))
    for task in json.loads(as_label_studio(studies[kind], full(studies[kind]))):
        assert interface.validate_task({"data": task["data"]})
        assert all(interface.validate_annotation(annotation) for annotation in task["annotations"])
