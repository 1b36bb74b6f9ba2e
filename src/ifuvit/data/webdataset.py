"""WebDataset: tar archives in which the files of one image are neighbors and share a name up to the first dot.

An archive is read twice: its headers and texts when it is listed, and every image when it is wanted, by its position. So an
image can be had in any order, by any process, and an archive in object storage is never copied to this machine.
"""

import json
import sys
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import BinaryIO, NamedTuple

from ifuvit.data.images import SUFFIXES, CaptionedImage, EncodedImage
from ifuvit.data.storage import StoredFile
from ifuvit.utils.errors import InputError

_TEXTS = (".txt", ".text", ".caption", ".captions", ".json")
_LISTED_AT_ONCE = 8


class _Part(NamedTuple):
    """A file in an archive."""

    offset: int
    size: int
    text: str | None
    """Its content, of a text."""


class _Sample(NamedTuple):
    """The files of one image."""

    archive: StoredFile
    key: str
    parts: dict[str, _Part]
    """By what follows the first dot of their names, in lower case."""


def read_archives(
    archives: Sequence[StoredFile],
    captions_of: tuple[str, ...],
    image_column: str | None = None,
    caption_column: str | None = None,
) -> list[CaptionedImage]:
    """The images of archives in their order.

    Args:
        archives: plain tar files.
        captions_of: endings of captions, looked for in this order where none is named; "json.caption" is a field of the
            .json file.
        image_column: the ending of the images. By default the one file of each that ends as images do.
        caption_column: the ending of the captions.

    Raises:
        InputError: an archive is none, was cut short or is empty; a text is not UTF-8; no such ending, or several images.
    """
    with ThreadPoolExecutor(_LISTED_AT_ONCE) as pool:
        samples = [sample for listed in pool.map(_samples, archives) for sample in listed]
    columns = dict.fromkeys(name for sample in samples for name in sample.parts)
    where, has = archives[0], f"its columns are {', '.join(columns)}"
    if image_column is not None and image_column not in columns:
        raise InputError(f"{where}: no column {image_column!r}; it has {', '.join(columns)}")
    if image_column is None and not any(_is_image(name) for name in columns):
        raise InputError(f"{where}: has no column of images; name one with --image-column; {has}")
    column = caption_column or next((name for name in captions_of if name.partition(".")[0] in columns), None)
    if column is None:
        raise InputError(f"{where}: has no column {', '.join(captions_of)}; name one with --caption-column; {has}")
    if column not in columns and column.partition(".")[0] not in columns:
        raise InputError(f"{where}: no column {column!r}; it has {', '.join(columns)}")
    return [CaptionedImage(one.key, _image(one, image_column), _captions(one, column)) for one in samples]


def _samples(archive: StoredFile) -> list[_Sample]:
    samples: list[_Sample] = []
    with archive.open() as file:
        for name, part in _parts(archive, file):
            folder, _, base = name.rpartition("/")
            stem, _, ending = base.partition(".")
            if not stem or not ending:
                continue  # hidden, or of no image
            key = f"{folder}/{stem}" if folder else stem
            if not samples or samples[-1].key != key:
                samples.append(_Sample(archive, key, {}))
            samples[-1].parts[ending.lower()] = part
    return samples


def _parts(archive: StoredFile, file: BinaryIO) -> Iterator[tuple[str, _Part]]:
    """The files in an archive, in order.

    Raises:
        InputError: it is no tar archive, was cut short, is empty, or has text that is not UTF-8, or an image or a text that is
            a link.
    """
    end, files = 0, 0
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                end = member.offset_data + -(-member.size // 512) * 512
                tar.members = []  # type: ignore[attr-defined]  # millions of them would stay in memory
                if (member.issym() or member.islnk()) and member.name.lower().endswith((*SUFFIXES, *_TEXTS)):
                    raise InputError(
                        f"{archive}: {member.name}: is a link; archive the files themselves (tar --dereference --hard-dereference)"
                    )
                if not member.isfile():
                    continue
                files += 1
                if end > archive.size:
                    raise tarfile.ReadError("unexpected end of data")
                text = None
                if member.name.lower().endswith(_TEXTS):
                    content = tar.extractfile(member)
                    try:
                        text = content.read().decode() if content else ""
                    except UnicodeDecodeError:
                        raise InputError(
                            f"{archive}: {member.name}: not UTF-8 text; repair it, or take it out"
                        ) from None
                yield member.name.removeprefix("./"), _Part(member.offset_data, member.size, text)
    except tarfile.TarError as error:
        what = "holds nothing" if archive.size == 0 else f"not a tar archive, or cut short ({error})"
        raise InputError(f"{archive}: {what}; copy it again") from None
    if not files:
        raise InputError(f"{archive}: a tar archive without files")
    if end >= archive.size:
        print(f"{archive}: ends without the end mark of a tar archive; was it cut short?", file=sys.stderr)
    elif archive.read(end, min(end + 512, archive.size)).strip(b"\0"):
        raise InputError(f"{archive}: cut short after {files:,} files; copy it again")


def _is_image(column: str) -> bool:
    return "." + column.rpartition(".")[2] in SUFFIXES


def _image(sample: _Sample, column: str | None) -> EncodedImage:
    found = [column] if column else [name for name in sample.parts if _is_image(name)]
    if len(found) > 1:
        raise InputError(
            f"{sample.archive}: {sample.key} has {len(found)} images ({', '.join(found)}); name one with --image-column"
        )
    part = sample.parts.get(found[0]) if found else None
    return EncodedImage(f"image {sample.key}", partial(_read, sample.archive, sample.key, part))


def _read(archive: StoredFile, key: str, part: _Part | None) -> bytes:
    if part is None:
        raise InputError(f"{archive}: {key}: has no image")
    return archive.read(part.offset, part.offset + part.size)


def _captions(sample: _Sample, column: str) -> tuple[str, ...]:
    ending, _, field = (column, "", "") if column in sample.parts else column.partition(".")
    part = sample.parts.get(ending)
    if part is None:
        return ()
    where = f"{sample.archive}: {sample.key}"
    if part.text is None:
        raise InputError(f"{where}: {column} is no text; name another --caption-column")
    if not field and ending != "json":
        return (part.text.removeprefix("\ufeff").partition("\n")[0],)  # as of a folder
    try:
        value = json.loads(part.text.removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}.json: not JSON ({error})") from None
    if field:
        value = value.get(field) if isinstance(value, dict) else None
    return caption_list(value, column, where)


def caption_list(value: object, column: str, where: str) -> tuple[str, ...]:
    """A caption, or several.

    Raises:
        InputError: it is neither.
    """
    values = [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]
    if not all(item is None or isinstance(item, str) for item in values):
        raise InputError(f"{where}: {column} is a {type(value).__name__}, not text or a list of text")
    return tuple(item or "" for item in values)  # type: ignore[misc]
