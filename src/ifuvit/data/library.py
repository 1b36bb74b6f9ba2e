"""Data sets that the library `datasets` reads: WebDataset and parquet files, and what the Hugging Face hub has."""

import sys
import tarfile
from collections.abc import Sequence
from functools import partial
from glob import escape, glob, has_magic
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ifuvit.data.images import CaptionedImage, EncodedImage
from ifuvit.utils.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset

CAPTION_COLUMNS = ("caption", "captions", "text", "txt", "json.caption")
"""Looked for in this order where no column is named."""

BUILDERS = {".tar": "webdataset", ".parquet": "parquet"}
"""How files are read, by the ends of their names."""


def read_dataset(
    sources: Sequence[str],
    *,
    name: str | None = None,
    split: str = "train",
    image_column: str | None = None,
    caption_column: str | None = None,
) -> list[CaptionedImage]:
    """The rows of a data set in their order; images stay encoded and on disk until they are asked for.

    The library converts WebDataset and parquet files to Arrow files in its cache (in HF_HOME), once.

    Args:
        sources: files ending in .tar or .parquet (patterns with * are understood), or one name or directory of a data
            set of the hub's layout.
        name: the configuration of a data set that has several.
        split: of a data set that has several; slices such as "train[:1000]" are understood.
        image_column: by default the only column with images.
        caption_column: text or lists of text; "json.caption" reaches into a column of JSON objects. By default the
            first of `CAPTION_COLUMNS` that exists.

    Raises:
        InputError: no such file, data set, split or column; a column that holds something else.
    """
    import datasets

    datasets.disable_progress_bars()
    data = _load(sources, name, split)
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


def _load(sources: Sequence[str], name: str | None, split: str) -> "Dataset":
    import datasets
    from datasets.exceptions import DatasetsError
    from pyarrow import ArrowException

    suffixes = {Path(source).suffix.lower() for source in sources}
    if packed := [source for source in sources if source.lower().endswith((".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"))]:
        raise InputError(f"{packed[0]}: a compressed archive; unpack it to a plain .tar (gunzip) first")
    if not sources:
        raise InputError("no data set given: files ending in .tar or .parquet, or a name of the hub")
    try:
        if len(suffixes) == 1 and (builder := BUILDERS.get(suffixes.pop())):
            if name is not None:
                raise InputError(f"--name {name}: is for a data set of the hub; {sources[0]} is a file")
            files = [file for source in sources for file in _files(source)]
            for file in files:
                if builder == "webdataset" and "://" not in file:
                    _check_archive(Path(file))
            # A name may have brackets, which would be a pattern.
            patterns = [file if "://" in file else escape(file) for file in files]
            data = datasets.load_dataset(builder, data_files={"train": patterns}, split=split)
        elif len(sources) == 1:
            data = datasets.load_dataset(sources[0], name, split=split)
        else:
            raise InputError(
                f"{' '.join(sources)}: several sources have to be all .tar or all .parquet files; a data set of the "
                "hub is given alone"
            )
    except InputError:
        raise
    except OSError as error:
        if error.errno is not None and not isinstance(error, FileNotFoundError):
            raise
        raise InputError(f"{sources[0]}: cannot be read as a data set ({_reason(error)})") from None
    except (
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        DatasetsError,
        ArrowException,
        tarfile.TarError,
    ) as error:
        raise InputError(f"{sources[0]}: cannot be read as a data set ({_reason(error)})") from None
    if len(data) == 0:
        raise InputError(f"{sources[0]}: the split {split!r} has no rows")
    return data


def _reason(error: BaseException) -> str:
    causes = [error, *([error.__cause__] if error.__cause__ else [])]
    return "; ".join(" ".join(str(cause).split())[:200] for cause in causes)


def _check_archive(path: Path) -> None:
    """Refuse a tar archive that the library would read in part, or with an error that names another file.

    Raises:
        InputError: it is no tar archive, was cut short, is empty, or has text that is not UTF-8.
    """
    end, files = 0, 0
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                end, files = member.offset_data + -(-member.size // 512) * 512, files + member.isfile()
                if member.isfile() and member.name.endswith((".txt", ".json")):
                    content = archive.extractfile(member)
                    try:
                        content.read().decode() if content else None
                    except UnicodeDecodeError:
                        raise InputError(f"{path}: {member.name}: not UTF-8 text; repair it, or take it out") from None
    except tarfile.TarError as error:
        what = "holds nothing" if path.stat().st_size == 0 else f"not a tar archive, or cut short ({error})"
        raise InputError(f"{path}: {what}; copy it again") from None
    if not files:
        raise InputError(f"{path}: a tar archive without files")
    with open(path, "rb") as file:
        file.seek(end)
        rest = file.read(512)
    if not rest:
        print(f"{path}: ends without the end mark of a tar archive; was it cut short?", file=sys.stderr)
    elif rest.strip(b"\0"):
        raise InputError(f"{path}: cut short after {files:,} files; copy it again")


def _files(source: str) -> list[str]:
    if "://" in source:
        return [source]
    is_pattern = has_magic(source) and not Path(source).is_file()
    files = sorted(glob(source, recursive=True)) if is_pattern else [source]
    if not files or not all(Path(file).is_file() for file in files):
        raise InputError(f"{source}: no such file")
    return files


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
            value = value.decode("utf-8", errors="replace")
        values = [] if value is None else value if isinstance(value, list) else [value]
        if not all(item is None or isinstance(item, str) for item in values):
            raise InputError(
                f"{sources[0]}: row {row}: {column} is a {type(value).__name__}, not text or a list of text"
            )
        captions.append(tuple(item or "" for item in values))
    if head == "txt":  # WebDataset's text files, which are read as those of a folder are
        captions = [tuple(caption.removeprefix("\ufeff").partition("\n")[0] for caption in row) for row in captions]
    return captions


def _reader(data: "Dataset", column: str, row: int, key: str, sources: Sequence[str]) -> EncodedImage:
    return EncodedImage(f"image {key}", partial(_encoded, data, column, row, f"{sources[0]}: row {row}"))


def _encoded(data: "Dataset", column: str, row: int, where: str) -> bytes:
    """The bytes of one encoded image."""
    value: Any = data[row][column]
    if isinstance(value, dict):
        content, path = value.get("bytes"), value.get("path")
        if content is None and path:
            try:
                return Path(path).read_bytes()
            except FileNotFoundError:
                raise InputError(f"{where}: {path}: no such file") from None
        value = content
    if value is None:
        raise InputError(f"{where}: has no image")
    if not isinstance(value, bytes):
        raise InputError(f"{where}: {column} is a {type(value).__name__}, not an image")
    return value
