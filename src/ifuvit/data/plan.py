"""What is to be encoded, in which order: settled before the first image is read, from the data alone, so that every
process and every restart settles it the same way."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ifuvit.data.images import CaptionedImage, is_text
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import write_text


class Plan(NamedTuple):
    """What is to be encoded, in which order."""

    images: list[CaptionedImage]
    """Those that have captions."""
    captions: list[str]
    """The distinct captions, in the order of their first appearance."""
    rows: list[list[int]]
    """For every image, the rows of its captions."""
    skipped: list[dict[str, str]]
    """Empty captions, those that are no text, and images without any other."""
    listed: int
    """Images the source listed."""
    digest: str
    """SHA-256 over ids, captions and boxes."""


def make_plan(images: Sequence[CaptionedImage]) -> Plan:
    """Clean the captions (whitespace becomes single spaces), leave out empty ones and what UTF-8 cannot hold, and number the
    distinct ones. What UTF-8 cannot hold of an image's id is escaped."""
    digest = hashlib.sha256()
    numbers: dict[str, int] = {}
    kept, rows, skipped = [], [], []
    for image in images:
        image = replace(image, id=image.id.encode("utf-8", "backslashreplace").decode())
        captions = [" ".join(caption.split()) for caption in image.captions]
        content = (image.id, captions) if image.boxes is None else (image.id, captions, image.boxes)
        digest.update(repr(content).encode("utf-8", "surrogatepass"))
        good = [caption for caption in captions if caption and is_text(caption)]
        if good:
            kept.append(image)
            rows.append([numbers.setdefault(caption, len(numbers)) for caption in good])
            bad = [caption for caption in captions if caption not in good]
            skipped += [skip_entry(image, "not UTF-8 text" if one else "empty", "caption") for one in bad]
        else:
            empty = "only empty captions" if not any(captions) else "no caption is UTF-8 text"
            skipped.append(skip_entry(image, image.problem or (empty if captions else "no caption")))
    return Plan(kept, list(numbers), rows, skipped, len(images), digest.hexdigest())


def skip_entry(image: CaptionedImage, reason: str, what: str = "image") -> dict[str, str]:
    """A line of skipped.jsonl."""
    return {"id": image.id, "what": what, "reason": reason}


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
            f"{len(entries):,} images or captions cannot be used (the first: {first['what']} {first['id']}: "
            f"{first['reason']}), more than --max-skipped {self.limit}; {self.out / 'skipped.jsonl'} lists them"
        )
