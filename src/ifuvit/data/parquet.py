"""Parquet files of images: the captions are read when they are listed, a group of rows' images when one of them is wanted."""

import bisect
import itertools
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ifuvit.data.images import CaptionedImage, EncodedImage
from ifuvit.data.storage import StoredFile
from ifuvit.data.webdataset import caption_list
from ifuvit.utils.errors import InputError

if TYPE_CHECKING:
    from pyarrow import DataType, Schema
    from pyarrow.parquet import ParquetFile

_GROUPS_KEPT = 2
# Of one file: threads that read ahead are in one group of rows, or at the end of one and the beginning of the next.


def read_tables(
    files: Sequence[StoredFile],
    captions_of: tuple[str, ...],
    image_column: str | None = None,
    caption_column: str | None = None,
) -> list[CaptionedImage]:
    """The rows of parquet files in their order, all with the columns of the first.

    Args:
        files: parquet files; images are binary, or structures with "bytes" or "path" as the library `datasets` writes them.
        captions_of: columns of captions, looked for in this order where none is named; "json.caption" is a field.
        image_column: by default the only column with such structures, or "image".
        caption_column: text, or lists of text.

    Raises:
        InputError: a file is none, no such column, or a column that holds something else.
    """
    tables = [_Table(file) for file in files]
    schema, where = tables[0].schema, files[0]
    image = image_column or _image_column(schema, where)
    caption = caption_column or _caption_column(schema, captions_of, where)
    images = []
    for table in tables:
        for row, captions in enumerate(table.captions(caption, image)):
            read = partial(table.image, image, row)
            images.append(CaptionedImage(str(len(images)), EncodedImage(f"image {len(images)}", read), captions))
    return images


class _Table:
    """One file."""

    def __init__(self, file: StoredFile) -> None:
        self._file, self._lock = file, threading.Lock()
        self._groups: OrderedDict[int, list[Any]] = OrderedDict()
        with _reading(self._file) as parquet:
            self.schema: Schema = parquet.schema_arrow
            sizes = [parquet.metadata.row_group(number).num_rows for number in range(parquet.num_row_groups)]
        self._starts = [0, *itertools.accumulate(sizes)]

    def captions(self, column: str, image: str) -> list[tuple[str, ...]]:
        """Those of all rows."""
        head, _, field = (column, "", "") if column in self.schema.names else column.partition(".")
        for name in (head, image):
            if name not in self.schema.names:
                raise InputError(f"{self._file}: no column {name!r}; it has {', '.join(self.schema.names)}")
        with _reading(self._file) as parquet:
            values = parquet.read(columns=[head]).column(head).to_pylist()
        captions = []
        for row, value in enumerate(values):
            if field:
                value = value.get(field) if isinstance(value, dict) else None
            if isinstance(value, bytes):
                value = value.decode("utf-8", errors="surrogateescape")  # which is left out, and said to be
            captions.append(caption_list(value, column, f"{self._file}: row {row}"))
        return captions

    def image(self, column: str, row: int) -> bytes:
        """The bytes of one encoded image."""
        number = bisect.bisect_right(self._starts, row) - 1
        with self._lock:
            if number not in self._groups:
                with _reading(self._file) as parquet:
                    self._groups[number] = parquet.read_row_group(number, columns=[column]).column(column).to_pylist()
                while len(self._groups) > _GROUPS_KEPT:
                    self._groups.popitem(last=False)
            value = self._groups[number][row - self._starts[number]]
        return image_bytes(value, column, f"{self._file}: row {row}", folder=self._file.folder)


@contextmanager
def _reading(file: StoredFile) -> "Iterator[ParquetFile]":
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with file.open() as opened:
            yield ParquetFile(opened)
    except (ArrowException, OSError) as error:
        if (
            isinstance(error, OSError) and error.errno is not None
        ):  # the system's own; without a number, of damaged pages
            raise
        raise InputError(f"{file}: cannot be read as a data set ({' '.join(str(error).split())[:200]})") from None


def image_bytes(value: object, column: str, where: str, *, folder: Path | None) -> bytes:
    """The content of an image's cell.

    Args:
        folder: where the files lie that cells name; None for cells that may name no file.

    Raises:
        InputError: it has none, or names a file that is missing or lies elsewhere.
    """
    if isinstance(value, dict):
        content, path = value.get("bytes"), value.get("path")
        if content is None and path:
            return _file_bytes(path, where, folder)
        value = content
    if value is None:
        raise InputError(f"{where}: has no image")
    if not isinstance(value, bytes):
        raise InputError(f"{where}: {column} is a {type(value).__name__}, not an image")
    return value


def _file_bytes(path: str, where: str, folder: Path | None) -> bytes:
    if folder is None:
        raise InputError(f"{where}: has no image, but names the file {path!r}; write the table with the images inside")
    file = folder / path
    if not file.resolve().is_relative_to(folder.resolve()):
        raise InputError(
            f"{where}: {path!r} lies outside the folder of the table; put the images below it, or inside it"
        )
    try:
        return file.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise InputError(f"{where}: {path}: no such file") from None


def _is_image(kind: "DataType") -> bool:
    import pyarrow

    return pyarrow.types.is_struct(kind) and {field.name for field in kind} == {"bytes", "path"}


def _image_column(schema: "Schema", where: StoredFile) -> str:
    found = [name for name in schema.names if _is_image(schema.field(name).type)]
    if not found and "image" in schema.names:
        return "image"
    if len(found) != 1:
        what = f"{len(found)} columns of images ({', '.join(found)})" if found else "no column of images"
        raise InputError(
            f"{where}: has {what}; name one with --image-column; its columns are {', '.join(schema.names)}"
        )
    return found[0]


def _caption_column(schema: "Schema", captions_of: tuple[str, ...], where: StoredFile) -> str:
    import pyarrow

    for column in captions_of:
        head, _, field = column.partition(".")
        if head in schema.names:
            kind = schema.field(head).type
            if not field or pyarrow.types.is_struct(kind) and kind.get_field_index(field) >= 0:
                return column
    raise InputError(
        f"{where}: has no column {', '.join(captions_of)}; name one with --caption-column; its columns are "
        f"{', '.join(schema.names)}"
    )
