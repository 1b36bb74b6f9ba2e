"""What raters answered: checked, gathered, and written in formats for other programs."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from ifuvit.studies.design import IMAGES, MAX_RATING, Assignment, Purpose, Study, read_study
from ifuvit.studies.store import DATABASE, Entry, Status, Store
from ifuvit.utils.config import from_dict, to_dict
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import read_json
from ifuvit.utils.spreadsheets import guarded, unguarded

MAX_COUNT = 99
"""A larger count is a slip of the finger."""
MAX_SECONDS = 24 * 60 * 60.0
MAX_COMMENT = 2000
"""Letters."""


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
    ratings: tuple[int, ...] | None = None
    """By aspect, in the order of the study's; 5 is best."""
    comment: str | None = None
    seconds: float | None = None
    """How long the images were looked at before this answer, where the browser reported it."""
    at: str
    """When, in UTC, ISO 8601."""
    changes: int = 0
    """How often the rater answered this task again."""


def passed(task: Assignment, answer: Answer) -> bool | None:
    """Whether an answer to a check is right; None where the rater skipped it.

    A count has to be exact. Of ranked images the spoiled one has to be last, with another one before it. A spoiled image's
    last rating, which is its quality's unless the study has other aspects, has to be low.
    """
    assert task.expected is not None
    if answer.status == "skipped":
        return None
    if answer.ratings is not None:
        return answer.ratings[-1] <= task.expected
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
    if entry.status not in ("answered", other, "undone"):
        raise InputError(f"an answer is a {study.kind}, or {other!r}; not {entry.status!r}")
    answered = entry.status == "answered"
    slots, aspects = len(rater.tasks[entry.task].order), len(study.aspects)
    count, ranks, ratings = entry.count, entry.ranks, entry.ratings
    if not (answered and study.kind == "count"):
        if count is not None:
            raise InputError(f"count {count}: nothing was to be counted")
    elif count is None or not 0 <= count <= MAX_COUNT:
        raise InputError(f"count {count}: must be a number from 0 to {MAX_COUNT}")
    if not (answered and study.kind == "preference"):
        if ranks is not None:
            raise InputError("ranks: nothing was to be ranked")
    elif ranks is None or len(ranks) != slots or ranks != competition_ranks(ranks):
        raise InputError(f"ranks {ranks}: must be one for each of {slots} images, from 1; after a tie as in 1, 1, 3")
    if not (answered and study.kind == "rating"):
        if ratings is not None:
            raise InputError("ratings: nothing was to be rated")
    elif ratings is None or len(ratings) != aspects or not all(1 <= one <= MAX_RATING for one in ratings):
        raise InputError(f"ratings {ratings}: must be one for each of {aspects} questions, from 1 to {MAX_RATING}")
    if entry.comment is not None and not (study.comments and len(entry.comment) <= MAX_COMMENT):
        raise InputError(f"a comment: must be of {MAX_COMMENT} letters at most, in a study that asks for comments")
    if entry.seconds is not None and not 0 <= entry.seconds <= MAX_SECONDS:
        raise InputError(f"{entry.seconds} seconds: must be from 0 to {MAX_SECONDS:.0f}")


# ----------------------------------------------------------------------------------------------------------- gathering


def collect(study: Study, entries: Iterable[Entry]) -> list[Answer]:
    """The last answer of every task that has one, by the moments of the entries; of those of one moment the later in
    `entries`. Who has withdrawn has none."""
    by_task: dict[tuple[str, int], list[Entry]] = {}
    for entry in sorted(entries, key=lambda one: one.at):
        by_task.setdefault((entry.rater, entry.task), []).append(entry)
    answers = []
    for rater in study.active:
        for number, task in enumerate(rater.tasks):
            given = by_task.get((rater.id, number), [])
            if given and given[-1].status != "undone":
                answers.append(
                    Answer(
                        **vars(given[-1]),
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
        found = [from_dict(Answer, value, where=f"{file}: answer {n}") for n, value in enumerate(_list(file))]
    elif (file := directory / "answers.csv").is_file():
        found = _from_csv(file)
    else:
        raise InputError(f"{directory}: no answers yet; `ifuvit study serve {directory}` collects them")
    here = {rater.id for rater in study.active}  # a file may be older than a withdrawal
    return [answer for answer in found if answer.rater in here]


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
                    "ratings": [int(rating) for rating in row["ratings"].split()] or None,
                    "comment": unguarded(row["comment"]) or None,
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
    """A row an answer: the fields of `Answer`, then what the item is, the answer by model or by aspect, and whether a check
    was passed. Lists are separated by spaces, names of models by " | "."""
    out = io.StringIO()
    columns = list(Answer.__dataclass_fields__)
    ranked = study.models if study.kind == "preference" else ()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        [
            *columns,
            *("model", "models", "kind", "asked", "index", "prompt", "passed"),
            *(f"rank {model}" for model in ranked),
            *(f"rating {aspect}" for aspect in study.aspects),
        ]
    )
    for answer in answers:
        item, rater = study.item(answer.item), study.rater(answer.rater)
        model = study.models[item.model] if study.kind != "preference" and item.model is not None else None
        models = " | ".join(study.models[index] for index in answer.order)
        right = passed(rater.tasks[answer.task], answer) if rater and answer.purpose == "check" else None
        by_model = dict(zip(answer.order, answer.ranks or ()))
        values = [
            *(getattr(answer, column) for column in columns),
            *(model, models, item.kind, item.count, item.index, item.prompt, None if right is None else int(right)),
            *(by_model.get(index) for index in range(len(ranked))),
            *(answer.ratings or (None,) * len(study.aspects)),
        ]
        writer.writerow([_cell(value) for value in values])
    return out.getvalue()


def _cell(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(_cell(one) for one in value)
    if isinstance(value, float):
        return f"{value:g}"
    return "" if value is None else guarded(str(value)) if isinstance(value, str) else str(value)


def as_label_studio(study: Study, answers: Sequence[Answer]) -> str:
    """Label Studio's JSON of annotated tasks: a task an item that has an answer, an annotation a rater, with results "count",
    or "rank_1" ... in the order of the study's models, or the names of aspects. `label_studio_interface` is the labeling
    interface that shows them."""
    tasks: dict[str, dict[str, Any]] = {}
    for answer in answers:
        item = study.item(answer.item)
        task = tasks.setdefault(item.id, {"data": _label_studio_data(study, item.id, item.images), "annotations": []})
        result = []
        if answer.count is not None:
            result = [_label_studio_result("count", "image", "number", answer.count, answer)]
        elif answer.ranks is not None:
            by_model = [answer.ranks[answer.order.index(model)] for model in range(len(study.models))]
            result = [
                _label_studio_result(f"rank_{n}", f"image_{n}", "number", rank, answer)
                for n, rank in enumerate(by_model, start=1)
            ]
        elif answer.ratings is not None:
            result = [
                _label_studio_result(aspect, "image", "rating", rating, answer)
                for aspect, rating in zip(study.aspects, answer.ratings)
            ]
        task["annotations"].append(
            {
                "result": result,
                "was_cancelled": answer.status != "answered",
                "created_at": answer.at,
                "lead_time": answer.seconds,
            }
        )
    return _label_studio_json(list(tasks.values()))


def as_label_studio_tasks(study: Study, answers: Sequence[Answer]) -> str:
    """Label Studio's JSON of tasks to be annotated there: one for every task of every rater, without practice, images in the
    order in which this rater is to see them. Its "study", "rater" and "task" are what `ifuvit study import` puts the
    annotations back by. Answers are not looked at."""
    return _label_studio_json(
        [
            {
                "data": {
                    **_label_studio_data(study, None, study.images(task)),
                    **_label_studio_question(study, task),
                    "study": study.id,
                    "rater": rater.id,
                    "task": number,
                }
            }
            for rater in study.active
            for number, task in enumerate(rater.tasks)
            if task.purpose != "practice"
        ]
    )


def label_studio_interface(study: Study) -> str:
    """The labeling interface (XML) for `as_label_studio` and `as_label_studio_tasks`."""
    match study.kind:
        case "count":
            inside = (
                '<Header value="How many: $kind"/><Image name="image" value="$image"/>'
                '<Number name="count" toName="image"/>'
            )
        case "preference":
            inside = '<Header value="$prompt"/><Header value="Rank the images: 1 is best"/>' + "".join(
                f'<Image name="image_{n}" value="$image_{n}"/><Number name="rank_{n}" toName="image_{n}" min="1"/>'
                for n in range(1, len(study.models) + 1)
            )
        case "rating":
            inside = '<Header value="$prompt"/><Image name="image" value="$image"/>' + "".join(
                f'<Header value={quoteattr(aspect)}/><Rating name={quoteattr(aspect)} toName="image" maxRating="{MAX_RATING}"/>'
                for aspect in study.aspects
            )
    return f"<View>{inside}</View>\n"


def _label_studio_data(study: Study, item: str | None, images: Sequence[str]) -> dict[str, Any]:
    places = [f"/data/local-files/?d={IMAGES}/{name}" for name in images]
    numbered = {f"image_{number}": place for number, place in enumerate(places, start=1)}
    shown = numbered if study.kind == "preference" else {"image": places[0]}
    if item is None:
        return shown
    return {"item": item, "prompt": study.item(item).prompt, "kind": study.item(item).kind, **shown}


def _label_studio_question(study: Study, task: Assignment) -> dict[str, Any]:
    """What the interface asks; a count's prompt would give the answer away."""
    item = study.item(task.item)
    return {"kind": item.kind} if study.kind == "count" else {"prompt": item.prompt}


def _label_studio_json(tasks: list[dict[str, Any]]) -> str:
    return json.dumps(tasks, indent=2, ensure_ascii=False) + "\n"


def _label_studio_result(name: str, image: str, kind: str, value: float, answer: Answer) -> dict[str, Any]:
    return {
        "id": f"{answer.rater}-{answer.task}-{name}",
        "from_name": name,
        "to_name": image,
        "type": kind,
        "value": {kind: value},
        "meta": {"text": [answer.rater, answer.purpose]},
    }


EXPORTS = {
    "csv": ("answers.csv", as_csv),
    "json": ("answers.json", as_json),
    "label-studio": ("label-studio.json", as_label_studio),
    "label-studio-tasks": ("label-studio-tasks.json", as_label_studio_tasks),
}
"""By format: the file's name, and what writes it."""
