"""Reading the form that a rater's page posts, with suspicion."""

import asyncio
from datetime import datetime, timezone
from urllib.parse import parse_qsl

from fastapi import HTTPException, Request
from starlette.requests import ClientDisconnect

from ifuvit.studies.answers import competition_ranks
from ifuvit.studies.design import Rater, Study
from ifuvit.studies.store import Entry
from ifuvit.utils.errors import InputError

MAX_BODY = 24_576
"""Bytes of a posted form; most have some hundred, a comment has up to nine for each letter."""
BODY_SECONDS = 15.0
"""How long a form may take to arrive."""

CHOICES = {"A": (1, 2), "B": (2, 1), "equal": (1, 1)}
"""Of two images: the ranks that go with a button."""


class Incomplete(InputError):
    """What a rater can do wrong on a page; `key` and `values` are of the study's texts."""

    def __init__(self, key: str, **values: object) -> None:
        super().__init__(key)
        self.key, self.values = key, values


async def form_fields(request: Request) -> dict[str, str]:
    """The fields of a posted form, each there once. Errors are keys of the study's texts."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise HTTPException(415, "no form")
    body = b""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > MAX_BODY:
                    raise HTTPException(413, "too long")
    except TimeoutError:
        raise HTTPException(408, "too slow", headers={"Connection": "close"}) from None
    except ClientDisconnect:  # a phone that lost its connection: nobody reads what we say
        raise HTTPException(400, "no form") from None
    try:
        pairs = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=50
        )
    except ValueError:
        raise HTTPException(400, "no form") from None
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise HTTPException(422, "no form")
    return fields


def read_form(study: Study, rater: Rater, number: int, fields: dict[str, str]) -> tuple[Entry, int]:
    """The answer that a posted form holds, and how many answers its task had when the page was made.

    Raises:
        Incomplete: what a rater can mend on the page.
        InputError: fields that are unknown, missing or not of their kind.
    """
    slots = len(rater.tasks[number].order)
    own = {
        "count": {"count", "more"},
        "preference": {"choice", "ties", *(f"rank{slot}" for slot in range(slots))},
        "rating": {f"rating{place}" for place in range(len(study.aspects))},
    }[study.kind]
    known = {"version", "seconds", "status", *own, *(["comment"] if study.comments else [])}
    if unknown := sorted(set(fields) - known):
        raise InputError(f"unknown field {unknown[0][:40]!r}")
    status = fields.get("status", "answered")
    count = ranks = ratings = None
    if status == "answered":
        match study.kind:
            case "count":
                count = _count(fields)
            case "preference":
                ranks = competition_ranks(_ranks(fields, slots))
            case "rating":
                ratings = tuple(
                    _whole(fields, f"rating{place}", Incomplete("why missing rating"))
                    for place in range(len(study.aspects))
                )
    elif "count" in fields:
        raise InputError("a count, and none")
    entry = Entry(
        rater=rater.id,
        task=number,
        status=status,  # type: ignore[arg-type]  # checked with the rest of it
        count=count,
        ranks=ranks,
        ratings=ratings,
        comment=" ".join(fields.get("comment", "").split()) or None,
        seconds=_seconds(fields.get("seconds", "")),
        at=moment(),
    )
    return entry, _whole(fields, "version", InputError("version is missing"))


def moment() -> str:
    """Now, as answers have it."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def _count(fields: dict[str, str]) -> int:
    if "count" in fields:
        return _whole(fields, "count", Incomplete("why missing count"))
    more = _whole(fields, "more", Incomplete("why missing count"))
    if more < 10:
        raise Incomplete("why below ten", count=more)
    return more


def _ranks(fields: dict[str, str], slots: int) -> list[int]:
    if slots == 2:
        choice = fields.get("choice", "")
        if choice not in CHOICES or any(name.startswith("rank") for name in fields):
            raise InputError(f"choice {choice[:20]!r}: must be A, B or equal")
        return list(CHOICES[choice])
    if "choice" in fields:
        raise InputError("choice: is for two images")
    chosen = [
        _whole(fields, f"rank{slot}", Incomplete("why missing rank", letter=chr(ord("A") + slot)))
        for slot in range(slots)
    ]
    if not all(1 <= rank <= slots for rank in chosen):
        raise InputError(f"ranks {chosen}: must be from 1 to {slots}")
    if len(set(chosen)) < slots and fields.get("ties") != "1":
        raise Incomplete("why same rank")
    return chosen


def _whole(fields: dict[str, str], name: str, missing: InputError) -> int:
    text = fields.get(name, "").strip()
    if not text:
        raise missing
    if not (text.isascii() and text.isdigit() and len(text) <= 6):
        raise InputError(f"{name} {text[:20]!r} is no such number")
    return int(text)


def _seconds(text: str) -> float | None:
    if not text:
        return None
    try:
        return round(float(text), 2)
    except ValueError:
        raise InputError(f"seconds {text[:20]!r} are no number") from None
