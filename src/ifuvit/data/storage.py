"""Files wherever fsspec reads them: on this machine, or in object storage (s3://, gs://, https://, memory://, ...)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from glob import has_magic
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from ifuvit.utils.errors import InputError, UnreachableError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_BLOCK = 256 * 1024
# Bytes that one request for a part of a remote file fetches. A tar archive is listed by hopping from header to header: images
# larger than this are hopped over, smaller ones come along with one request for many.


class StoredFile:
    """A file that is read in parts. Parts may be read by several threads at once, and nothing is kept on disk.

    Raises of all methods:
        InputError: it cannot be read: no such file, no such host, no permission, or its file system requires a package.
    """

    def __init__(self, place: str) -> None:
        self.place = place

    def __str__(self) -> str:
        return self.place

    @property
    def folder(self) -> Path | None:
        """The folder of a file on this machine."""
        return None if "://" in self.place else Path(self.place).parent

    @cached_property
    def _location(self) -> "tuple[AbstractFileSystem, str]":
        return _location(self.place)

    @cached_property
    def size(self) -> int:
        """Bytes."""
        fs, path = self._location
        with _told(self.place):
            return int(fs.size(path) or 0)

    def read(self, start: int, end: int) -> bytes:
        """The bytes from `start` up to `end`; a remote file is asked for these alone."""
        fs, path = self._location
        with _told(self.place):
            return cast(bytes, fs.cat_file(path, start=start, end=end))

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """A file object that can seek; a remote one reads ahead."""
        fs, path = self._location
        with _told(self.place), fs.open(path, "rb", block_size=_BLOCK, cache_type="readahead") as file:
            yield cast(BinaryIO, file)


def stored_files(sources: Sequence[str]) -> list[StoredFile]:
    """The files of names and patterns with *, in the order given and sorted within a pattern.

    Raises:
        InputError: there is none of that name or pattern, or its file system cannot be reached.
    """
    return [StoredFile(place) for source in sources for place in _expand(source)]


def _expand(source: str) -> list[str]:
    fs, path = _location(source)
    with _told(source):
        if fs.isfile(path):
            return [source]  # whose name may have brackets
        found = sorted(map(str, fs.glob(path))) if has_magic(path) else []
        if not found or not all(fs.isfile(name) for name in found):
            raise InputError(f"{source}: no such file")
    return [str(fs.unstrip_protocol(name)) if "://" in source else name for name in found]


def _location(place: str) -> "tuple[AbstractFileSystem, str]":
    from fsspec.core import url_to_fs

    with _told(place):
        fs, path = url_to_fs(place if "://" in place else str(Path(place).absolute()))
    return fs, str(path)


@contextmanager
def _told(place: str) -> Iterator[None]:
    """One line for what a file system raises. Each has errors of its own, so that all are caught where it is remote."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{place}: no such file") from None
    except Exception as error:
        if "://" not in place:
            raise
        raise UnreachableError(f"{place}: cannot be read ({_reason(error)})") from None


def _reason(error: Any) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
