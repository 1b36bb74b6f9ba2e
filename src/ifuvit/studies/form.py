"""Forms that require no server: one self-contained HTML file per rater, and the answers that come back."""

import base64
import csv
import hmac
import math
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from ifuvit.studies.answers import check_entry, competition_ranks
from ifuvit.studies.design import IMAGES, Rater, Study
from ifuvit.studies.pages import instructions, length, paragraphs, render, static_file, view_task
from ifuvit.studies.store import Entry
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import OutputDirectory, read_json

_COLUMNS = {
    *("study", "rater", "token", "agreed", "task"),
    *("status", "count", "ranks", "ratings", "comment", "seconds", "at"),
}
CLOCK_AHEAD = timedelta(minutes=10)
"""How far a rater's clock may be ahead of ours."""


def write_forms(study: Study, directory: Path, out: Path, *, seconds: float) -> None:
    """Write every active rater's form as `out`/RATER.html; only their owner may read them, for they hold the tokens.

    Args:
        seconds: what a task takes (`progress.task_seconds`).

    Raises:
        InputError: `out` holds something else.
    """
    names = tuple(f"{rater.id}.html" for rater in study.raters)
    with OutputDirectory(out, "study export", own=names).replace(private=("*.html",)) as temporary:
        for rater in study.active:
            (temporary / f"{rater.id}.html").write_text(
                form(study, rater, directory / IMAGES, seconds=seconds), encoding="utf-8"
            )


def form(study: Study, rater: Rater, images: Path, *, seconds: float) -> str:
    """A rater's form as HTML that needs no other file."""
    from markupsafe import Markup

    def source(name: str) -> str:
        return f"data:image/png;base64,{base64.b64encode((images / name).read_bytes()).decode()}"

    return render(
        "offline.html.j2",
        study,
        title=study.title,
        paragraphs=paragraphs(study.consent),
        instructions=instructions(study),
        length=length(study, rater, seconds),
        rater=rater,
        views=[view_task(study, rater, number, [], source) for number in range(len(rater.tasks))],
        style=Markup(static_file("study.css")),
        script=Markup(static_file("study.js") + static_file("offline.js")),
    )


# -------------------------------------------------------------------------------------------------------- what returns


def read_returned(study: Study, file: Path) -> tuple[list[Entry], dict[str, str]]:
    """The answers of a file that a form saved, in the order in which they were given, and when their raters agreed to take
    part.

    Raises:
        InputError: it is no such file, of another study or of nobody in this one, or an answer is none.
    """
    if file.suffix.lower() == ".csv":
        rows = _read_csv(file)
    else:
        returned = read_json(file)
        if isinstance(returned, list):
            return _read_label_studio(study, file, returned), {}
        if not isinstance(returned, dict) or not isinstance(returned.get("answers"), list):
            raise InputError(f"{file}: no answers of a study's form")
        who = {key: returned.get(key) for key in ("study", "rater", "token", "agreed")}
        rows = [{**row, **who} if isinstance(row, dict) else {} for row in returned["answers"]]
    entries, agreed = [], {}
    for number, row in enumerate(rows, start=1):
        try:
            entry = _entry(study, row)
            check_entry(study, entry)
            agreed[entry.rater] = _moment(row, "agreed")
        except (InputError, OverflowError) as error:  # the latter of numbers with hundreds of digits
            raise InputError(f"{file}: answer {number}: {error}; nothing was taken") from None
        entries.append(entry)
    return entries, agreed


def _read_csv(file: Path) -> list[dict[str, Any]]:
    """The rows with values as JSON has them."""
    try:
        with open(file, newline="", encoding="utf-8-sig") as opened:
            reader = csv.DictReader(opened)
            if set(reader.fieldnames or ()) != _COLUMNS:
                raise InputError(
                    f"{file}: not the CSV file of a study's form; its columns would be {', '.join(sorted(_COLUMNS))}"
                )
            return [
                {
                    **row,
                    "task": int(row["task"]),
                    "count": int(row["count"]) if row["count"] else None,
                    "ranks": [float(rank) for rank in row["ranks"].split()] or None,
                    "ratings": [int(rating) for rating in row["ratings"].split()] or None,
                    "comment": row["comment"] or None,
                    "seconds": float(row["seconds"]) if row["seconds"] else None,
                }
                for row in reader
            ]
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{file}: no such file") from None
    except (UnicodeDecodeError, IsADirectoryError, csv.Error):
        raise InputError(f"{file}: not a CSV file") from None
    except (ValueError, AttributeError, TypeError) as error:
        raise InputError(f"{file}: a row is no answer of a study's form ({error})") from None


def _entry(study: Study, row: Mapping[str, Any]) -> Entry:
    if row.get("study") != study.id:
        raise InputError(f"of another study ({str(row.get('study'))[:40]!r})")
    rater = study.rater(str(row.get("rater")))
    if rater is None or not hmac.compare_digest(rater.token.encode(), str(row.get("token")).encode()):
        raise InputError(f"rater {str(row.get('rater'))[:40]!r} has no such token")
    if rater.withdrawn is not None:
        raise InputError(f"rater {rater.id} has withdrawn, and wants no answers to be stored")
    return _checked(rater, row)


def _checked(rater: Rater, row: Mapping[str, Any]) -> Entry:
    task, count, ranks, ratings, comment, seconds = (
        row.get(key) for key in ("task", "count", "ranks", "ratings", "comment", "seconds")
    )
    if type(task) is not int or (count is not None and type(count) is not int):
        raise InputError("task and count must be whole numbers")
    for name, values, kinds in (("ranks", ranks, (int, float)), ("ratings", ratings, (int,))):
        if values is not None and not (isinstance(values, list) and all(type(one) in kinds for one in values)):
            raise InputError(f"{name} must be numbers")
    if comment is not None and not isinstance(comment, str):
        raise InputError("a comment must be a text")
    if seconds is not None and not (type(seconds) in (int, float) and math.isfinite(seconds)):
        raise InputError("seconds must be a number")
    return Entry(
        rater=rater.id,
        task=task,
        status=row.get("status"),  # type: ignore[arg-type]  # checked with the rest of it
        count=count,
        ranks=None if ranks is None else tuple(float(rank) for rank in ranks),
        ratings=None if ratings is None else tuple(ratings),
        comment=" ".join(comment.split()) or None if comment else None,
        seconds=None if seconds is None else float(seconds),
        at=_moment(row, "at"),
    )


def _read_label_studio(study: Study, file: Path, tasks: list[Any]) -> list[Entry]:
    """The answers of Label Studio's JSON export of the tasks that `answers.as_label_studio_tasks` wrote. Of a task that was
    annotated several times all annotations are taken; the last one counts.

    Raises:
        InputError: it is no such export, or an annotation does not fit its task.
    """
    entries = []
    for number, task in enumerate(tasks, start=1):
        try:
            data = _object(_object(task).get("data"))
            if data.get("study") != study.id:
                raise InputError(f"of another study ({str(data.get('study'))[:40]!r})")
            rater = study.rater(str(data.get("rater")))
            if rater is None or rater.withdrawn is not None:
                raise InputError(f"rater {str(data.get('rater'))[:40]!r}: there is none, or has withdrawn")
            annotations = _object(task).get("annotations", [])
            for annotation in annotations if isinstance(annotations, list) else [None]:
                entry = _checked(rater, {**_of_annotation(study, _object(annotation)), "task": data.get("task")})
                check_entry(study, entry)
                entries.append(entry)
        except (InputError, OverflowError) as error:
            raise InputError(f"{file}: task {number}: {error}; nothing was taken") from None
    return entries


def _of_annotation(study: Study, annotation: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an answer. Ranks are brought into the one form that answers have (`competition_ranks`)."""
    values = {}
    results = annotation.get("result")
    for result in map(_object, results if isinstance(results, list) else []):
        value = _object(result.get("value"))
        found = value.get("number", value.get("rating"))
        if type(found) not in (int, float) or not math.isfinite(found):
            raise InputError(f"result {str(result.get('from_name'))[:40]!r} is no number")
        values[result.get("from_name")] = found
    # One that was changed in Label Studio keeps its creation; the answer is of the change.
    at = annotation.get("updated_at") or annotation.get("created_at")
    given: dict[str, Any] = {"at": at, "seconds": annotation.get("lead_time")}
    other = "cannot tell" if study.kind == "count" else "skipped"
    names = {
        "count": ["count"],
        "preference": [f"rank_{slot}" for slot in range(1, len(study.models) + 1)],
        "rating": list(study.aspects),
    }[study.kind]
    if annotation.get("was_cancelled") is True or not values:
        return {**given, "status": other}
    if missing := [name for name in names if name not in values]:
        raise InputError(f"result {missing[0]!r} is missing")
    numbers = [values[name] for name in names]
    whole = [int(number) if number == int(number) else number for number in numbers]
    match study.kind:
        case "count":
            return {**given, "status": "answered", "count": whole[0]}
        case "preference":
            return {**given, "status": "answered", "ranks": list(competition_ranks(numbers))}
        case "rating":
            return {**given, "status": "answered", "ratings": whole}


def _object(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InputError("is no task of Label Studio's JSON export")
    return value


def _moment(row: Mapping[str, Any], name: str) -> str:
    """A moment of the past, in UTC."""
    text = str(row.get(name))
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise ValueError
        moment = moment.astimezone(timezone.utc)
        ahead = moment - datetime.now(timezone.utc)
    except (ValueError, OverflowError):
        raise InputError(f"{name} {text[:40]!r}: no moment with a time zone") from None
    if ahead > CLOCK_AHEAD:
        raise InputError(f"{name} {text[:40]!r}: is in the future; the clock there is wrong, correct the moments")
    return moment.isoformat(timespec="milliseconds")
