"""The form without a server: one file that holds everything and tells nothing, and what comes back from it."""

import base64
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from tiny_study import MODELS, make_study

from ifuvit.studies.answers import as_label_studio_tasks, read_answers
from ifuvit.studies.config import StudyImportConfig
from ifuvit.studies.design import Study, read_study
from ifuvit.studies.form import form, read_returned, write_forms
from ifuvit.studies.run import import_answers
from ifuvit.utils.errors import InputError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("studies")
    return {kind: make_study(root, kind) for kind in ("count", "preference", "rating")}


@pytest.mark.parametrize("kind", ["count", "preference"])
def test_a_form_needs_no_other_file_and_tells_nothing(made: dict[str, Path], kind: str) -> None:
    study = read_study(made[kind])
    rater = study.raters[0]
    page = form(study, rater, made[kind] / "images", seconds=6)
    assert not re.search(r'(src|href)="(?!data:|#)', page) and "@import" not in page and "url(" not in page
    shown = re.findall(r'src="data:image/png;base64,([^"]+)" alt', page)
    expected = [name for task in rater.tasks for name in study.images(task)]
    assert [base64.b64decode(one) for one in shown] == [
        (made[kind] / "images" / name).read_bytes() for name in expected
    ]
    telling = [*MODELS, *(item.id for item in (*study.items, *study.checks)), *expected, study.owner_token]
    telling += [other.token for other in study.raters[1:]]
    bare = re.sub(r"data:image/png;base64,[^\"]+", "", page)
    assert not [word for word in telling if re.search(rf"\b{re.escape(word)}\b", bare)]
    assert "<script src" not in page and "default-src 'none'" in page


def test_forms_are_written_for_everybody(made: dict[str, Path], tmp_path: Path) -> None:
    study = read_study(made["count"])
    for _ in range(2):  # again: they replace themselves
        write_forms(study, made["count"], tmp_path / "forms", seconds=6)
    assert {path.name for path in (tmp_path / "forms").iterdir()} == {"r01.html", "r02.html"}
    (tmp_path / "forms" / "thesis.doc").touch()
    with pytest.raises(InputError, match="holds something else"):
        write_forms(study, made["count"], tmp_path / "forms", seconds=6)


AGREED = "2026-01-01T11:59:00.000+00:00"


def returned(study: Study, *answers: dict[str, Any], **who: Any) -> dict[str, Any]:
    rater = study.raters[0]
    return {
        "study": study.id,
        "rater": rater.id,
        "token": rater.token,
        "agreed": AGREED,
        "answers": list(answers),
        **who,
    }


def counted(task: int = 0, **changes: Any) -> dict[str, Any]:
    base = {
        "task": task,
        "status": "answered",
        "count": 3,
        "ranks": None,
        "seconds": 2.5,
        "at": "2026-01-01T12:00:00.123+00:00",
    }
    return base | changes


def test_what_comes_back(made: dict[str, Path], tmp_path: Path) -> None:
    study = read_study(made["count"])
    log = [
        counted(),
        counted(at="2026-01-01T14:00:05+02:00", count=4),
        counted(1, status="cannot tell", count=None, seconds=None),
    ]
    (tmp_path / "back.json").write_text(json.dumps(returned(study, *log)))
    entries, agreed = read_returned(study, tmp_path / "back.json")
    assert agreed == {"r01": AGREED}
    assert [(one.task, one.status, one.count, one.seconds) for one in entries] == [
        (0, "answered", 3, 2.5), (0, "answered", 4, 2.5), (1, "cannot tell", None, None),
    ]  # fmt: skip
    assert entries[1].at == "2026-01-01T12:00:05.000+00:00"
    rater = study.raters[0]
    lines = ["study,rater,token,agreed,task,status,count,ranks,ratings,comment,seconds,at"]
    for one in log:
        cells = [
            study.id,
            rater.id,
            rater.token,
            AGREED,
            one["task"],
            one["status"],
            one["count"],
            None,
            None,
            None,
            one["seconds"],
            one["at"],
        ]
        lines.append(",".join("" if cell is None else str(cell) for cell in cells))
    (tmp_path / "back.csv").write_text(
        "\ufeff" + "\r\n".join(lines) + "\r\n", encoding="utf-8"
    )  # as spreadsheets save it
    assert read_returned(study, tmp_path / "back.csv") == (entries, agreed)


def test_rankings_come_back(made: dict[str, Path], tmp_path: Path) -> None:
    study = read_study(made["preference"])
    (tmp_path / "back.json").write_text(json.dumps(returned(study, counted(count=None, ranks=[1, 3, 1, 4]))))
    (entry,), _ = read_returned(study, tmp_path / "back.json")
    assert entry.ranks == (1.0, 3.0, 1.0, 4.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda back: back.update(study="other"), "of another study"),
        (lambda back: back.update(rater="r02"), "'r02' has no such token"),
        (lambda back: back.update(rater="r99"), "'r99' has no such token"),
        (lambda back: back.update(token=None), "has no such token"),
        (lambda back: back["answers"].append(counted(count=-3)), "answer 2: count -3"),
        (lambda back: back["answers"].append(counted(count="3")), "whole numbers"),
        (lambda back: back["answers"].append(counted(count=3.5)), "whole numbers"),
        (lambda back: back["answers"].append(counted(count=True)), "whole numbers"),
        (lambda back: back["answers"].append(counted(task=1000)), "no task 1000"),
        (lambda back: back["answers"].append(counted(status="done")), "not 'done'"),
        (lambda back: back["answers"].append(counted(status=[])), r"not \[\]"),
        (lambda back: back["answers"].append(counted(ranks=[1])), "nothing was to be ranked"),
        (lambda back: back["answers"].append(counted(ranks="1")), "ranks must be numbers"),
        (lambda back: back["answers"].append(counted(seconds=float("nan"))), "seconds must be"),
        (lambda back: back["answers"].append(counted(at="yesterday")), "no moment with a time zone"),
        (lambda back: back["answers"].append(counted(at="2026-01-01T12:00:00")), "no moment with a time zone"),
        *(
            (lambda back, at=at: back["answers"].append(counted(at=at)), message)
            for at, message in (
                ("2099-01-01T00:00:00+00:00", "is in the future"),
                ("9999-12-31T23:59:59-12:00", "no moment"),
                ("0001-01-01T00:00:00+12:00", "no moment"),
                (1767225600, "no moment"),
                (None, "no moment"),
            )
        ),
        (lambda back: back.update(agreed="2099-01-01T00:00:00+00:00"), "agreed .* is in the future"),
        (lambda back: back["answers"].append(counted(seconds=10**400)), "answer 2"),
        (lambda back: back["answers"].append(counted(ranks=[10**400])), "answer 2"),
        (lambda back: back["answers"].append(counted(count=10**400)), "answer 2"),
        (lambda back: back["answers"].append(counted(comment="c")), "in a study that asks for comments"),
        (lambda back: back["answers"].append(counted(comment=3)), "a comment must be a text"),
        (lambda back: back["answers"].append(counted(count=None, ratings=[4])), "count None"),
        (lambda back: back["answers"].append("3"), "of another study"),
        (lambda back: back.update(agreed=None), "agreed 'None': no moment"),
        (lambda back: back.update(answers=None), "no answers of a study's form"),
    ],
)
def test_what_is_not_taken(
    made: dict[str, Path], tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    study = read_study(made["count"])
    back = returned(study, counted())
    change(back)
    (tmp_path / "back.json").write_text(json.dumps(back))
    with pytest.raises(InputError, match=message):
        read_returned(study, tmp_path / "back.json")


def test_a_clock_may_be_a_little_ahead(made: dict[str, Path], tmp_path: Path) -> None:
    study = read_study(made["count"])
    soon = (datetime.now(timezone.utc) + timedelta(minutes=5)).isoformat()
    (tmp_path / "back.json").write_text(json.dumps(returned(study, counted(at=soon))))
    assert len(read_returned(study, tmp_path / "back.json")[0]) == 1


def test_nested_without_end(made: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "back.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="back.json"):
        read_returned(read_study(made["count"]), tmp_path / "back.json")


def test_nothing_comes_in_of_who_has_withdrawn(made: dict[str, Path], tmp_path: Path) -> None:
    study = read_study(made["count"])
    gone = replace(study, raters=(replace(study.raters[0], withdrawn="2026-01-02T00:00:00+00:00"), *study.raters[1:]))
    (tmp_path / "back.json").write_text(json.dumps(returned(study, counted())))
    with pytest.raises(InputError, match="rater r01 has withdrawn"):
        read_returned(gone, tmp_path / "back.json")
    write_forms(gone, made["count"], tmp_path / "forms", seconds=6)
    assert {path.name for path in (tmp_path / "forms").iterdir()} == {"r02.html"}


# --------------------------------------------------------------------------------------------------------- Label Studio


def annotated(study: Study, number: int = 0, **changes: Any) -> dict[str, Any]:
    """A task as Label Studio exports it: the task that it was given, and an annotation."""
    task = json.loads(as_label_studio_tasks(study, []))[number]
    values = {
        "count": [("count", "number", 3)],
        "preference": [(f"rank_{n}", "number", rank) for n, rank in enumerate((2, 1, 2, 4), start=1)],
        "rating": [("alignment", "rating", 4), ("quality", "rating", 1)],
    }[study.kind]
    result = [
        {"id": name, "from_name": name, "to_name": "image", "type": kind, "origin": "manual", "value": {kind: value}}
        for name, kind, value in values
    ]
    annotation = {
        "id": 7, "completed_by": 1, "result": result, "was_cancelled": False, "ground_truth": False,
        "created_at": "2026-01-01T12:00:00.123456Z", "updated_at": "2026-01-01T12:00:01.000123Z", "lead_time": 4.25, **changes,
    }  # fmt: skip
    return {"id": 11, "annotations": [annotation], "file_upload": "x.json", "predictions": [], "project": 1, **task}


@pytest.mark.parametrize("kind", ["count", "preference", "rating"])
def test_tasks_of_label_studio_come_back_as_answers(made: dict[str, Path], tmp_path: Path, kind: str) -> None:
    study = read_study(made[kind])
    tasks = json.loads(as_label_studio_tasks(study, []))
    assert len(tasks) == sum(len(rater.tasks) for rater in study.raters), "practice is left out, and there is none"
    text = json.dumps(tasks)
    assert not [
        word for word in (*MODELS, study.owner_token, study.raters[0].token, "repeat", "check", "i0000") if word in text
    ]
    for task in tasks:
        rater = study.rater(task["data"]["rater"])
        assert rater is not None
        images = [value.rpartition("/")[2] for key, value in task["data"].items() if key.startswith("image")]
        assert tuple(images) == study.images(rater.tasks[task["data"]["task"]]), "in the rater's own order"
    skipped = annotated(study, 1, was_cancelled=True, result=[])
    (tmp_path / "export.json").write_text(json.dumps([annotated(study), skipped, tasks[2]]))
    (first, second), agreed = read_returned(study, tmp_path / "export.json")
    assert agreed == {} and (first.rater, first.task, first.seconds) == ("r01", 0, 4.25)
    assert first.at == "2026-01-01T12:00:01.000+00:00"
    assert {"count": first.count, "preference": first.ranks, "rating": first.ratings}[kind] == {
        "count": 3, "preference": (2.0, 1.0, 2.0, 4.0), "rating": (4, 1)
    }[kind]  # fmt: skip
    assert (second.task, second.status) == (1, "cannot tell" if kind == "count" else "skipped")


def test_an_annotation_that_was_changed_after_an_import_is_taken_again(made: dict[str, Path], tmp_path: Path) -> None:
    """Label Studio 1.23 keeps `created_at` then (tried on its server), and sets `updated_at`."""
    directory = shutil.copytree(made["count"], tmp_path / "count")
    task = annotated(read_study(directory))
    for count, moment, new in ((3, "12:00:01", 1), (4, "12:30:00", 1), (4, "12:30:00", 0)):
        annotation = task["annotations"][0]
        annotation["result"][0]["value"]["number"] = count
        annotation["updated_at"] = f"2026-01-01T{moment}.000000Z"
        (tmp_path / "export.json").write_text(json.dumps([task]))
        config = StudyImportConfig(study=directory, files=(tmp_path / "export.json",))
        assert import_answers(config) == (1, new)
    (answer,) = read_answers(directory)
    assert (answer.count, answer.changes) == (4, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda task: task["data"].update(study="other"), "of another study"),
        (lambda task: task["data"].update(rater="r77"), "rater 'r77': there is none"),
        (lambda task: task["data"].update(task=1000), "no task 1000"),
        (lambda task: task.update(data=None), "is no task of Label Studio"),
        (lambda task: task.update(annotations=3), "is no task of Label Studio"),
        (lambda task: task["annotations"][0]["result"][0].update(value={"text": ["3"]}), "'count' is no number"),
        (lambda task: task["annotations"][0]["result"][0].update(from_name="many"), "result 'count' is missing"),
        (lambda task: task["annotations"][0]["result"][0].update(value={"number": 3.5}), "whole numbers"),
        (lambda task: task["annotations"][0]["result"][0].update(value={"number": -1}), "count -1"),
        (lambda task: task["annotations"][0].update(updated_at="2099-01-01T00:00:00Z"), "in the future"),
    ],
)
def test_what_label_studio_does_not_export(
    made: dict[str, Path], tmp_path: Path, change: Callable[[Any], None], message: str
) -> None:
    study = read_study(made["count"])
    task = annotated(study)
    change(task)
    (tmp_path / "export.json").write_text(json.dumps([task]))
    with pytest.raises(InputError, match=f"export.json: task 1: .*{message}.*; nothing was taken"):
        read_returned(study, tmp_path / "export.json")


@pytest.mark.parametrize(
    "text",
    ["", "a,b\n1,2\n", "study,rater,token,agreed,task,status,count,ranks,ratings,comment,seconds,at\nx\n", "\x00"],
)
def test_csv_files_of_something_else(made: dict[str, Path], tmp_path: Path, text: str) -> None:
    (tmp_path / "back.csv").write_text(text)
    study = read_study(made["count"])
    with pytest.raises(InputError, match="back.csv"):
        read_returned(study, tmp_path / "back.csv")
    with pytest.raises(InputError, match="missing.csv: no such file"):
        read_returned(study, tmp_path / "missing.csv")
