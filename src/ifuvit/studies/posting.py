"""Reading the form that a rater's page posts, with suspicion."""

from datetime import datetime, timezone
from urllib.parse import parse_qsl

from fastapi import HTTPException, Request

from ifuvit.studies.answers import competition_ranks
from ifuvit.studies.design import Rater, Study
from ifuvit.studies.store import Entry
from ifuvit.utils.errors import InputError

MAX_BODY = 8192
"""Bytes of a posted form; ours have some hundred."""


async def form_fields(request: Request) -> dict[str, str]:
    """The fields of a posted form, each there once."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise HTTPException(415, "This is not a form of this study.")
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            raise HTTPException(413, "This is too long for an answer.")
    try:
        pairs = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=50
        )
    except ValueError:
        raise HTTPException(400, "This is not a form of this study.") from None
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise HTTPException(422, "This answer cannot be taken: a field is there twice.")
    return fields


def read_form(study: Study, rater: Rater, number: int, fields: dict[str, str]) -> tuple[Entry, int]:
    """The answer that a posted form holds, and how many answers its task had when the page was made.

    Raises:
        InputError: fields that are unknown, missing or not of their kind.
    """
    slots = len(rater.tasks[number].order)
    rank_fields = [f"rank{slot}" for slot in range(slots)]
    known = {"version", "seconds", "status", *(["count"] if study.kind == "count" else ["ties", *rank_fields])}
    if unknown := sorted(set(fields) - known):
        raise InputError(f"unknown field {unknown[0][:40]!r}")
    status = fields.get("status", "answered")
    count = ranks = None
    if status == "answered" and study.kind == "count":
        count = _whole(fields, "count")
    elif "count" in fields:
        raise InputError("a count, and none")
    elif status == "answered":
        chosen = [_whole(fields, name) for name in rank_fields]
        if not all(1 <= rank <= slots for rank in chosen):
            raise InputError(f"ranks {chosen}: must be from 1 to {slots}")
        if len(set(chosen)) < slots and fields.get("ties") != "1":
            raise InputError("the same rank twice; switch ties on, or give every image a rank of its own")
        ranks = competition_ranks(chosen)
    entry = Entry(
        rater=rater.id,
        task=number,
        status=status,  # type: ignore[arg-type]  # checked with the rest of it
        count=count,
        ranks=ranks,
        seconds=_seconds(fields.get("seconds", "")),
        at=datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
    )
    return entry, _whole(fields, "version")


def _whole(fields: dict[str, str], name: str) -> int:
    text = fields.get(name, "").strip()
    if not (text.isascii() and text.isdigit() and len(text) <= 6):
        label = f"rank of image {chr(ord('A') + int(name[4:]))}" if name.startswith("rank") else name
        raise InputError(f"{label} is missing" if not text else f"{label} {text[:20]!r} is no such number")
    return int(text)


def _seconds(text: str) -> float | None:
    if not text:
        return None
    try:
        return round(float(text), 2)
    except ValueError:
        raise InputError(f"seconds {text[:20]!r} are no number") from None
