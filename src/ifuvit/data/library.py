"""Data sets of many images in few files: WebDataset, parquet, and what the library `datasets` has from the Hugging Face hub."""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ifuvit.data.images import CaptionedImage, EncodedImage
from ifuvit.data.parquet import image_bytes, read_tables
from ifuvit.data.storage import stored_files
from ifuvit.data.webdataset import caption_list, read_archives
from ifuvit.utils.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset

CAPTION_COLUMNS = ("caption", "captions", "text", "txt", "json.caption")
"""Looked for in this order where no column is named."""

READERS = {".tar": read_archives, ".parquet": read_tables}
"""How files are read, by the ends of their names."""


def read_dataset(
    sources: Sequence[str],
    *,
    name: str | None = None,
    split: str = "train",
    image_column: str | None = None,
    caption_column: str | None = None,
) -> list[CaptionedImage]:
    """The rows of a data set in their order. Images stay where they are, encoded, until they are asked for.

    Args:
        sources: files ending in .tar or .parquet (patterns with * are understood), on this machine or where fsspec reads
            them (s3://bucket/train-*.tar), or one name or directory of a data set of the hub's layout, which the library
            `datasets` keeps in its cache (in HF_HOME).
        name: the configuration of a data set that has several.
        split: of a data set that has several; slices such as "train[:1000]" are understood.
        image_column: by default the only column with images.
        caption_column: text or lists of text; "json.caption" reaches into a column of JSON objects. By default the
            first of `CAPTION_COLUMNS` that exists.

    Raises:
        InputError: no such file, data set, split or column; a column that holds something else.
    """
    if not sources:
        raise InputError("no data set given: files ending in .tar or .parquet, or a name of the hub")
    if packed := [source for source in sources if source.lower().endswith((".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"))]:
        raise InputError(f"{packed[0]}: a compressed archive; unpack it to a plain .tar (gunzip) first")
    suffixes = {Path(source).suffix.lower() for source in sources}
    if len(suffixes) == 1 and (reader := READERS.get(suffixes.pop())):
        if name is not None:
            raise InputError(f"--name {name}: is for a data set of the hub; {sources[0]} is a file")
        images = reader(stored_files(sources), CAPTION_COLUMNS, image_column, caption_column)
        images = images[_slice(split, len(images))]
        if not images:
            raise InputError(f"{sources[0]}: the split {split!r} has no rows")
        return images
    if len(sources) > 1:
        raise InputError(
            f"{' '.join(sources)}: several sources have to be all .tar or all .parquet files; a data set of the hub is "
            "given alone"
        )
    return _read_hub(sources, name, split, image_column, caption_column)


def _slice(split: str, rows: int) -> slice:
    """The rows of files that a split names: all of "train", or a part of it.

    Raises:
        InputError: it is another split.
    """
    if split == "train":
        return slice(None)
    if not re.fullmatch(r"train\[-?\d*%?:-?\d*%?\]", split):
        raise InputError(f"--split {split}: files have the split train alone, or a part of it, as train[:1000]")
    from datasets import ReadInstruction

    (part,) = ReadInstruction.from_spec(split).to_absolute({"train": rows})
    return slice(part.from_, part.to)


def _read_hub(
    sources: Sequence[str], name: str | None, split: str, image_column: str | None, caption_column: str | None
) -> list[CaptionedImage]:
    import datasets

    datasets.disable_progress_bars()
    data = _load(sources[0], name, split)
    image_column = image_column or _image_column(data, sources)
    caption_column = caption_column or _caption_column(data, sources)
    if image_column not in data.column_names:
        raise InputError(f"{sources[0]}: no column {image_column!r}; it has {', '.join(data.column_names)}")
    if isinstance(data.features[image_column], datasets.Image):
        data = data.cast_column(image_column, datasets.Image(decode=False))
    captions = _captions(data, caption_column, sources)
    keys = data.with_format(None)["__key__"] if "__key__" in data.column_names else range(len(data))
    images = data.select_columns([image_column])
    return [
        CaptionedImage(str(key), _reader(images, image_column, row, str(key), sources), caption)
        for row, (key, caption) in enumerate(zip(keys, captions, strict=True))
    ]


def _load(source: str, name: str | None, split: str) -> "Dataset":
    import datasets
    from datasets.exceptions import DatasetsError
    from pyarrow import ArrowException

    try:
        data = datasets.load_dataset(source, name, split=split)
    except OSError as error:
        if error.errno is not None and not isinstance(error, FileNotFoundError):
            raise
        raise InputError(f"{source}: cannot be read as a data set ({_reason(error)})") from None
    except (ValueError, LookupError, TypeError, AttributeError, DatasetsError, ArrowException) as error:
        raise InputError(f"{source}: cannot be read as a data set ({_reason(error)})") from None
    if len(data) == 0:
        raise InputError(f"{source}: the split {split!r} has no rows")
    return data


def _reason(error: BaseException) -> str:
    causes = [error, *([error.__cause__] if error.__cause__ else [])]
    return "; ".join(" ".join(str(cause).split())[:200] for cause in causes)


def _image_column(data: "Dataset", sources: Sequence[str]) -> str:
    import datasets

    found = [column for column, feature in data.features.items() if isinstance(feature, datasets.Image)]
    if not found and "image" in data.column_names:
        return "image"
    if len(found) != 1:
        has = f"its columns are {', '.join(data.column_names)}"
        what = f"{len(found)} columns of images ({', '.join(found)})" if found else "no column of images"
        raise InputError(f"{sources[0]}: has {what}; name one with --image-column; {has}")
    return found[0]


def _caption_column(data: "Dataset", sources: Sequence[str]) -> str:
    for column in CAPTION_COLUMNS:
        head, _, field = column.partition(".")
        feature = data.features.get(head)
        if feature is not None and (not field or isinstance(feature, dict) and field in feature):
            return column
    raise InputError(
        f"{sources[0]}: has no column {', '.join(CAPTION_COLUMNS)}; name one with --caption-column; its columns are "
        f"{', '.join(data.column_names)}"
    )


def _captions(data: "Dataset", column: str, sources: Sequence[str]) -> list[tuple[str, ...]]:
    head, _, field = column.partition(".")
    if column in data.column_names:
        head, field = column, ""
    if head not in data.column_names:
        raise InputError(f"{sources[0]}: no column {head!r}; it has {', '.join(data.column_names)}")
    captions = []
    for row, value in enumerate(data.select_columns([head])[head]):
        if field:
            value = value.get(field) if isinstance(value, dict) else None
        if isinstance(value, bytes):
            value = value.decode("utf-8", errors="surrogateescape")  # which is left out, and said to be
        captions.append(caption_list(value, column, f"{sources[0]}: row {row}"))
    return captions


def _reader(data: "Dataset", column: str, row: int, key: str, sources: Sequence[str]) -> EncodedImage:
    return EncodedImage(f"image {key}", partial(_encoded, data, column, row, f"{sources[0]}: row {row}"))


def _encoded(data: "Dataset", column: str, row: int, where: str) -> bytes:
    """The bytes of one encoded image."""
    return image_bytes(data[row][column], column, where, folder=Path("/"))  # the library's own files lie anywhere
