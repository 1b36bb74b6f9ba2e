"""Forms that require no server: one self-contained HTML file per rater, and the answers that come back."""

import base64
import csv
import hmac
import math
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ifuvit.studies.answers import check_entry
from ifuvit.studies.design import IMAGES, Rater, Study
from ifuvit.studies.pages import paragraphs, render, static_file, view_task
from ifuvit.studies.store import Entry
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import OutputDirectory, read_json

_COLUMNS = {"study", "rater", "token", "agreed", "task", "status", "count", "ranks", "seconds", "at"}


def write_forms(study: Study, directory: Path, out: Path) -> None:
    """Write every rater's form as `out`/RATER.html.

    Raises:
        InputError: `out` holds something else.
    """
    names = tuple(f"{rater.id}.html" for rater in study.raters)
    with OutputDirectory(out, "study export", own=names).replace() as temporary:
        for rater in study.raters:
            (temporary / f"{rater.id}.html").write_text(form(study, rater, directory / IMAGES), encoding="utf-8")


def form(study: Study, rater: Rater, images: Path) -> str:
    """A rater's form as HTML that needs no other file."""
    from markupsafe import Markup

    def source(name: str) -> str:
        return f"data:image/png;base64,{base64.b64encode((images / name).read_bytes()).decode()}"

    return render(
        "offline.html.j2",
        title=study.title,
        paragraphs=paragraphs(study.consent),
        study=study,
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
        except InputError as error:
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
    task, count, ranks, seconds = (row.get(key) for key in ("task", "count", "ranks", "seconds"))
    if type(task) is not int or (count is not None and type(count) is not int):
        raise InputError("task and count must be whole numbers")
    if ranks is not None and not (isinstance(ranks, list) and all(type(rank) in (int, float) for rank in ranks)):
        raise InputError("ranks must be numbers")
    if seconds is not None and not (type(seconds) in (int, float) and math.isfinite(seconds)):
        raise InputError("seconds must be a number")
    return Entry(
        rater=rater.id,
        task=task,
        status=row.get("status"),  # type: ignore[arg-type]  # checked with the rest of it
        count=count,
        ranks=None if ranks is None else tuple(float(rank) for rank in ranks),
        seconds=None if seconds is None else float(seconds),
        at=_moment(row, "at"),
    )


def _moment(row: Mapping[str, Any], name: str) -> str:
    """A moment in UTC."""
    text = str(row.get(name))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise InputError(f"{name} {text[:40]!r}: no moment with a time zone")
    return moment.astimezone(timezone.utc).isoformat(timespec="milliseconds")
