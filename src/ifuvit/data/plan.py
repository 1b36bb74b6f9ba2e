"""What is to be encoded, in which order: settled before the first picture is read, from the data alone, so that every
process and every restart settles it the same way."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ifuvit.data.images import Picture
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import write_text


class Plan(NamedTuple):
    """What is to be encoded, in which order."""

    pictures: list[Picture]
    """Those that have captions."""
    captions: list[str]
    """The distinct captions, in the order of their first appearance."""
    rows: list[list[int]]
    """For every picture, the rows of its captions."""
    skipped: list[dict[str, str]]
    """Empty captions, and pictures without any other."""
    listed: int
    """Pictures the source listed."""
    digest: str
    """SHA-256 over ids and captions."""


def make_plan(pictures: Sequence[Picture]) -> Plan:
    """Clean the captions (whitespace becomes single spaces), leave out empty ones, and number the distinct ones."""
    digest = hashlib.sha256()
    numbers: dict[str, int] = {}
    kept, rows, skipped = [], [], []
    for picture in pictures:
        captions = [" ".join(caption.split()) for caption in picture.captions]
        digest.update(repr((picture.id, captions)).encode("utf-8", "surrogatepass"))
        good = [caption for caption in captions if caption]
        if good:
            kept.append(picture)
            rows.append([numbers.setdefault(caption, len(numbers)) for caption in good])
            skipped += [skip_entry(picture, "empty", "caption")] * (len(captions) - len(good))
        else:
            skipped.append(
                skip_entry(picture, picture.problem or ("only empty captions" if captions else "no caption"))
            )
    return Plan(kept, list(numbers), rows, skipped, len(pictures), digest.hexdigest())


def skip_entry(picture: Picture, reason: str, what: str = "picture") -> dict[str, str]:
    """A line of skipped.jsonl."""
    return {"id": picture.id, "what": what, "reason": reason}


class Skips:
    """Counts what is left out, and stops past a limit."""

    def __init__(self, out: Path, limit: int, entries: Iterable[dict[str, str]]) -> None:
        self.out, self.limit, self.entries = out, limit, list(entries)

    def add(self, entries: Iterable[dict[str, str]]) -> None:
        self.entries += entries

    def check(self, coming: Sequence[dict[str, str]] = ()) -> None:
        """Count.

        Args:
            coming: what will be left out, known beforehand.

        Raises:
            InputError: it is more than the limit; OUT/skipped.jsonl lists it.
        """
        entries = [*self.entries, *coming]
        if len(entries) <= self.limit:
            return
        lines = (json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
        write_text(self.out / "skipped.jsonl", "".join(lines))
        first = entries[0]
        raise InputError(
            f"{len(entries):,} pictures or captions cannot be used (the first: {first['what']} {first['id']}: "
            f"{first['reason']}), more than --max-skipped {self.limit}; {self.out / 'skipped.jsonl'} lists them"
        )
