"""What raters answered: checked, gathered, and written in formats for other programs."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ifuvit.studies.design import IMAGES, Assignment, Purpose, Study, read_study
from ifuvit.studies.store import DATABASE, Entry, Status, Store
from ifuvit.utils.config import from_dict, to_dict
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import read_json

MAX_COUNT = 99
"""A larger count is a slip of the finger."""
MAX_SECONDS = 24 * 60 * 60.0


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A rater's last answer to one task."""

    rater: str
    task: int
    """Index into the rater's tasks."""
    item: str
    purpose: Purpose
    order: tuple[int, ...]
    """The models by slot, from left to right; empty for a count."""
    status: Status
    count: int | None = None
    ranks: tuple[float, ...] | None = None
    """By slot, 1 is best; of tied images each has the best rank of theirs: 1, 1, 3."""
    seconds: float | None = None
    """How long the page was looked at before this answer, where the browser reported it."""
    at: str
    """When, in UTC, ISO 8601."""
    changes: int = 0
    """How often the rater answered this task again."""


def passed(task: Assignment, answer: Answer) -> bool | None:
    """Whether an answer to a check is right; None where the rater skipped it.

    A count has to be exact. Of ranked images the spoiled one has to be last, with another one before it.
    """
    assert task.expected is not None
    if answer.status == "skipped":
        return None
    if answer.ranks is None:
        return answer.count == task.expected
    spoiled = answer.ranks[task.order.index(task.expected)]
    return spoiled == max(answer.ranks) > min(answer.ranks)


# ------------------------------------------------------------------------------------------------------------ checking


def competition_ranks(ranks: Sequence[float]) -> tuple[float, ...]:
    """The same order in the one way that answers are kept: an image's rank is one more than how many are better."""
    return tuple(float(1 + sum(other < rank for other in ranks)) for rank in ranks)


def check_entry(study: Study, entry: Entry) -> None:
    """Take an answer only if the study's form can give it.

    Raises:
        InputError: a rater or a task that there is not, or an answer that does not fit the task.
    """
    rater = study.rater(entry.rater)
    if rater is None:
        raise InputError(f"there is no rater {entry.rater!r}")
    if not 0 <= entry.task < len(rater.tasks):
        raise InputError(f"rater {rater.id} has no task {entry.task}")
    other: Status = "cannot tell" if study.kind == "count" else "skipped"
    if entry.status not in ("answered", other):
        raise InputError(f"an answer is a {study.kind}, or {other!r}; not {entry.status!r}")
    slots = len(rater.tasks[entry.task].order)
    count, ranks = entry.count, entry.ranks
    if entry.status != "answered" or study.kind == "preference":
        if count is not None:
            raise InputError(f"count {count}: nothing was to be counted")
    elif count is None or not 0 <= count <= MAX_COUNT:
        raise InputError(f"count {count}: must be a number from 0 to {MAX_COUNT}")
    if entry.status != "answered" or study.kind == "count":
        if ranks is not None:
            raise InputError("ranks: nothing was to be ranked")
    elif ranks is None or len(ranks) != slots or ranks != competition_ranks(ranks):
        raise InputError(f"ranks {ranks}: must be one for each of {slots} images, from 1; after a tie as in 1, 1, 3")
    if entry.seconds is not None and not 0 <= entry.seconds <= MAX_SECONDS:
        raise InputError(f"{entry.seconds} seconds: must be from 0 to {MAX_SECONDS:.0f}")


# ----------------------------------------------------------------------------------------------------------- gathering


def collect(study: Study, entries: Iterable[Entry]) -> list[Answer]:
    """The last answer of every task that has one; `entries` are in the order in which they were given."""
    by_task: dict[tuple[str, int], list[Entry]] = {}
    for entry in entries:
        by_task.setdefault((entry.rater, entry.task), []).append(entry)
    answers = []
    for rater in study.raters:
        for number, task in enumerate(rater.tasks):
            if given := by_task.get((rater.id, number)):
                last = to_dict(given[-1])
                answers.append(
                    Answer(
                        **{**last, "ranks": given[-1].ranks},
                        item=task.item,
                        purpose=task.purpose,
                        order=task.order,
                        changes=len(given) - 1,
                    )
                )
    return answers


def read_answers(directory: Path) -> list[Answer]:
    """A study's answers: from its database, which has the imported ones too; where there is none, from the answers.json or
    answers.csv that `ifuvit study export` wrote.

    Raises:
        InputError: no study, no answers, or broken ones.
    """
    study = read_study(directory)
    if (directory / DATABASE).is_file():
        store = Store(directory)
        try:
            return collect(study, store.entries())
        finally:
            store.close()
    if (file := directory / "answers.json").is_file():
        return [from_dict(Answer, value, where=f"{file}: answer {n}") for n, value in enumerate(_list(file))]
    if (file := directory / "answers.csv").is_file():
        return _from_csv(file)
    raise InputError(f"{directory}: no answers yet; `ifuvit study serve {directory}` collects them")


def _list(file: Path) -> list[Any]:
    values = read_json(file)
    if not isinstance(values, list):
        raise InputError(f"{file}: holds no list of answers")
    return values


def _from_csv(file: Path) -> list[Answer]:
    answers = []
    with open(file, newline="", encoding="utf-8-sig") as opened:
        for row in csv.DictReader(opened):
            try:
                values: dict[str, Any] = {key: row[key] for key in ("rater", "item", "purpose", "status", "at")}
                values |= {
                    "task": int(row["task"]),
                    "order": [int(model) for model in row["order"].split()],
                    "count": int(row["count"]) if row["count"] else None,
                    "ranks": [float(rank) for rank in row["ranks"].split()] or None,
                    "seconds": float(row["seconds"]) if row["seconds"] else None,
                    "changes": int(row["changes"]),
                }
            except (KeyError, ValueError, AttributeError) as error:
                raise InputError(f"{file}: row {len(answers) + 1} is no answer ({error})") from None
            answers.append(from_dict(Answer, values, where=f"{file}: row {len(answers) + 1}"))
    return answers


# ------------------------------------------------------------------------------------------------- for other programs


def as_json(study: Study, answers: Sequence[Answer]) -> str:
    """A list of answers, with the fields of `Answer`."""
    return json.dumps([to_dict(answer) for answer in answers], indent=2) + "\n"


def as_csv(study: Study, answers: Sequence[Answer]) -> str:
    """A row an answer: the fields of `Answer`, then what the item is. Lists are separated by spaces."""
    out = io.StringIO()
    columns = list(Answer.__dataclass_fields__)
    facts = ["model", "kind", "asked", "index", "prompt"]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*columns, *facts])
    for answer in answers:
        item = study.item(answer.item)
        model = study.models[item.model] if study.kind == "count" and item.model is not None else None
        values = [_cell(getattr(answer, column)) for column in columns]
        writer.writerow([*values, *(_cell(value) for value in (model, item.kind, item.count, item.index, item.prompt))])
    return out.getvalue()


def _cell(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(_cell(one) for one in value)
    if isinstance(value, float):
        return f"{value:g}"
    text = "" if value is None else str(value)
    return f"'{text}" if text[:1] in ("=", "+", "@", "\t") else text  # a prompt must not become a spreadsheet's formula


def as_label_studio(study: Study, answers: Sequence[Answer]) -> str:
    """Label Studio's JSON of annotated tasks: a task an item, an annotation a rater, with Number results "count", or
    "rank_1" ... in the order of the study's models. `label_studio_interface` is the labeling interface that shows them."""
    tasks: dict[str, dict[str, Any]] = {}
    for answer in answers:
        item = study.item(answer.item)
        places = [f"/data/local-files/?d={IMAGES}/{name}" for name in item.images]
        images = {"image": places[0]} if study.kind == "count" else _numbered("image", places)
        task = tasks.setdefault(
            item.id, {"data": {"item": item.id, "prompt": item.prompt, "kind": item.kind, **images}, "annotations": []}
        )
        result = []
        if answer.count is not None:
            result = [_number("count", "image", answer.count, answer)]
        elif answer.ranks is not None:
            by_model = [answer.ranks[answer.order.index(model)] for model in range(len(study.models))]
            result = [_number(f"rank_{n}", f"image_{n}", rank, answer) for n, rank in enumerate(by_model, start=1)]
        task["annotations"].append(
            {
                "result": result,
                "was_cancelled": answer.status != "answered",
                "created_at": answer.at,
                "lead_time": answer.seconds,
            }
        )
    return json.dumps(list(tasks.values()), indent=2, ensure_ascii=False) + "\n"


def label_studio_interface(study: Study) -> str:
    """The labeling interface (XML) for `as_label_studio`."""
    if study.kind == "count":
        inside = (
            '<Header value="How many: $kind"/><Image name="image" value="$image"/><Number name="count" toName="image"/>'
        )
    else:
        inside = '<Header value="$prompt"/>' + "".join(
            f'<Image name="image_{n}" value="$image_{n}"/><Number name="rank_{n}" toName="image_{n}" min="1"/>'
            for n in range(1, len(study.models) + 1)
        )
    return f"<View>{inside}</View>\n"


def _numbered(name: str, values: Sequence[str]) -> dict[str, str]:
    return {f"{name}_{number}": value for number, value in enumerate(values, start=1)}


def _number(name: str, image: str, value: float, answer: Answer) -> dict[str, Any]:
    return {
        "id": f"{answer.rater}-{answer.task}-{name}",
        "from_name": name,
        "to_name": image,
        "type": "number",
        "value": {"number": value},
        "meta": {"text": [answer.rater, answer.purpose]},
    }


EXPORTS = {
    "csv": ("answers.csv", as_csv),
    "json": ("answers.json", as_json),
    "label-studio": ("label-studio.json", as_label_studio),
}
"""By format: the file's name, and what writes it."""
