"""A folder of captioned images: sidecar text files, or one metadata.jsonl."""

import json
import os
from pathlib import Path
from typing import Any

from ifuvit.data.images import CaptionedImage
from ifuvit.utils.errors import InputError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""File names that count as images, in upper case too."""

CAPTION_KEYS = ("text", "caption", "captions")
"""Where a line of metadata.jsonl may have its caption or captions."""


def read_folder(folder: str | Path) -> list[CaptionedImage]:
    """The images of a folder and of the folders below it, in the order of their paths; ids are the relative paths.

    If the folder has a metadata.jsonl (as the library `datasets` has it), its lines tell the images and captions:
    {"file_name": "a/1.png", "text": "a bus"}, where "caption", or "captions" with a list, will do too. Otherwise the
    caption of `1.png` is the first line of `1.txt` beside it. A image whose file or caption is missing, or whose
    caption file is not UTF-8, is given with its `problem` set. Names that begin with a dot are passed over.

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
            "of x.txt beside it, or write a metadata.jsonl"
        )
    return images


def _from_sidecars(folder: Path) -> list[CaptionedImage]:
    images = []
    # os.walk instead of rglob: it follows links to folders, and directories of millions of files are read once.
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        present = set(files)
        for name in files:
            path = Path(place, name)
            if name.startswith(".") or path.suffix.lower() not in SUFFIXES:
                continue
            captions, problem = (), f"{path.with_suffix('.txt')}: no such caption file"
            if path.with_suffix(".txt").name in present:
                captions, problem = _first_line(path.with_suffix(".txt"))
            images.append(CaptionedImage(path.relative_to(folder).as_posix(), path, captions, problem))
    if not images:
        raise InputError(f"{folder}: holds no images ({', '.join(SUFFIXES)})")
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
        except json.JSONDecodeError as error:
            raise InputError(f"{where}: not valid JSON ({error}); the file may be truncated") from None
        name, captions = _entry(entry, where)
        if name in seen:
            raise InputError(f'{where}: {name!r} is listed twice; give its captions as a list, "captions"')
        seen.add(name)
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
