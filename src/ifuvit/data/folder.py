"""A folder of captioned images: sidecar text files, or one metadata.jsonl."""

import json
import sys
from pathlib import Path
from typing import Any

from ifuvit.data.images import SUFFIXES, CaptionedImage, check_inside, list_images
from ifuvit.utils.errors import InputError

CAPTION_KEYS = ("text", "caption", "captions")
"""Where a line of metadata.jsonl may have its caption or captions."""


def read_folder(folder: str | Path) -> list[CaptionedImage]:
    """The images of a folder and of the folders below it, in the order of their paths; ids are the relative paths.

    If the folder has a metadata.jsonl (the layout of the library `datasets`), its lines name the images and captions:
    {"file_name": "a/1.png", "text": "a bus"}; "caption", or "captions" with a list, works too. Otherwise the caption of
    `1.png` is the first line of `1.txt` next to it. An image whose file or caption is missing, or whose caption file is
    not UTF-8, has its `problem` set.

    Raises:
        InputError: no such folder; no image, or no caption at all in it; a malformed line of metadata.jsonl.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of images")
    metadata = folder / "metadata.jsonl"
    images = _from_metadata(folder, metadata) if metadata.exists() else _from_sidecars(folder)
    if not any(image.captions for image in images):
        raise InputError(
            f"{folder}: none of {len(images):,} images has a caption; put the caption of x.png in the first line "
            "of x.txt next to it, or write a metadata.jsonl"
        )
    return images


def _from_sidecars(folder: Path) -> list[CaptionedImage]:
    files, others = list_images(folder)
    if not files:
        raise InputError(f"{folder}: holds no images ({', '.join(sorted(SUFFIXES))})")
    texts = set(others)
    images = []
    for path in files:
        text = path.with_suffix(".txt")
        captions, problem = _first_line(text) if text in texts else ((), f"{text}: no such caption file")
        texts.discard(text)
        images.append(CaptionedImage(path.relative_to(folder).as_posix(), path, captions, problem))
    if texts:
        print(f"{folder}: {len(texts):,} files are neither images nor captions, such as {min(texts)}", file=sys.stderr)
    return sorted(images, key=lambda image: image.id)


def _first_line(path: Path) -> tuple[tuple[str, ...], str | None]:
    try:
        with open(path, encoding="utf-8-sig") as file:
            return (file.readline(),), None
    except UnicodeDecodeError:
        return (), f"{path}: not UTF-8 text"


def _from_metadata(folder: Path, metadata: Path) -> list[CaptionedImage]:
    images = []
    seen: set[str] = set()
    try:
        lines = metadata.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{metadata}: not UTF-8 text ({error})") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{metadata}:{number}"
        try:
            entry = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise InputError(f"{where}: not valid JSON ({error}); the file may be truncated") from None
        name, captions = _entry(entry, where)
        if name in seen:
            raise InputError(f'{where}: {name!r} is listed twice; give its captions as a list, "captions"')
        seen.add(name)
        check_inside(name, where)
        path = folder / name
        images.append(CaptionedImage(name, path, captions, None if path.is_file() else f"{path}: no such file"))
    if not images:
        raise InputError(f"{metadata}: lists no images")
    return sorted(images, key=lambda image: image.id)


def _entry(entry: Any, where: str) -> tuple[str, tuple[str, ...]]:
    if not isinstance(entry, dict) or not isinstance(entry.get("file_name"), str):
        raise InputError(f'{where}: has no "file_name"')
    keys = [key for key in CAPTION_KEYS if key in entry]
    if not keys:
        raise InputError(f"{where}: has no caption; its key must be one of {', '.join(CAPTION_KEYS)}")
    value = entry[keys[0]]
    captions = value if isinstance(value, list) else [value]
    for caption in captions:
        if not isinstance(caption, str):
            raise InputError(f"{where}: {keys[0]} is {value!r}, neither text nor a list of text")
    return entry["file_name"], tuple(captions)
