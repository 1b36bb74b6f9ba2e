"""Images with captions, as every source of data gives them, and how an image becomes a square of pixels."""

import io
import os
import struct
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ifuvit.utils.errors import InputError

if TYPE_CHECKING:
    import torch

S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """An image (PNG, JPEG, ...) that is no file of its own, such as a row of a table."""

    name: str
    """For messages."""
    read: Callable[[], bytes]

    def __str__(self) -> str:
        return self.name


ImageSource = Path | EncodedImage


def fingerprint_of(source: ImageSource) -> tuple[str, int, int]:
    """What changes when an image does, without reading a file: its path, size and time; of an encoded image its name,
    size and checksum."""
    if isinstance(source, EncodedImage):
        content = source.read()
        return source.name, len(content), zlib.crc32(content)
    status = source.stat()
    return str(source.resolve()), status.st_size, status.st_mtime_ns


class Box(NamedTuple):
    """An object in an image, in shares of the side of the centered square, from its top left corner."""

    kind: int
    """Its number, from 0, in the source's list of kinds."""
    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class CaptionedImage:
    """One image of a data set and its captions. Nothing is read until `load_image` is called on `source`."""

    id: str
    """Unique in its data set; names the image in messages and in the encoded data set."""
    source: ImageSource
    captions: tuple[str, ...]
    """As the data set has them; they may be empty strings."""
    problem: str | None = None
    """Why the image cannot be used, where the source already knows (no file, no caption file)."""
    boxes: tuple[Box, ...] | None = None
    """Its objects, where the source knows them."""


def is_text(value: str) -> bool:
    """Whether UTF-8 can hold a text: not half a surrogate pair, nor a file name of other bytes."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_inside(name: str, where: str) -> None:
    """Refuse the name of an image that leads out of its folder.

    Raises:
        InputError: it does; `where` says what names it.
    """
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise InputError(f"{where}: {name!r} lies outside the folder of the images; give a path inside it")


SUFFIXES = frozenset(
    [
        ".avif",
        ".bmp",
        ".gif",
        ".jfif",
        ".jp2",
        ".jpe",
        ".jpeg",
        ".jpg",
        ".pgm",
        ".png",
        ".ppm",
        ".tif",
        ".tiff",
        ".webp",
    ]
)
"""Endings of image files, in upper case too."""


def list_images(folder: Path) -> tuple[list[Path], list[Path]]:
    """The image files in a folder and in the folders below it, and the other files there; both sorted by path.

    Links are followed, but no folder is visited twice. Hidden files and folders (names that begin with a dot) are
    skipped; pipes, sockets and links that lead nowhere count as other files.

    Raises:
        InputError: no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of images")
    images: list[Path] = []
    others: list[Path] = []
    visited: set[str] = set()
    # os.walk instead of rglob: it follows links to folders, and directories of millions of files are read once.
    for place, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(place)) in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            path = Path(place, name)
            if not name.startswith("."):
                (images if path.suffix.lower() in SUFFIXES and path.is_file() else others).append(path)
    return sorted(images), sorted(others)


def load_image(source: str | bytes | ImageSource, *, name: str | None = None) -> Image.Image:
    """Read an image as RGB. Transparent pixels and palettes with transparency are put on white, 16-bit grey and floats from 0
    to 1 are scaled to 8 bits, a rotation noted by a camera (EXIF) is applied, and of an animation the first frame is taken.

    Args:
        source: a path, the bytes of an encoded image, or where to read them.
        name: what to call it in errors; the path by default.

    Raises:
        InputError: the file is missing, is not an image, or is broken. A fault of the system that another attempt
            might not meet (too many open files, an unreadable disk) stays an OSError.
    """
    name = name or ("image" if isinstance(source, bytes) else str(source))
    if isinstance(source, EncodedImage):
        source = source.read()
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        raise InputError(f"{name}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{name}: is a directory, not an image") from None
    except OSError as error:
        if error.errno is not None:
            raise
        raise InputError(f"{name}: not a readable image ({_one_line(error)})") from None
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    except (
        *(SyntaxError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, EOFError, RuntimeError),
        *(NotImplementedError, struct.error, zlib.error, Image.DecompressionBombError),
    ) as error:
        raise InputError(f"{name}: not a readable image ({_one_line(error)})") from None


def center_crop_resize(image: Image.Image, size: int) -> Image.Image:
    """The largest centered square of `image`, resized to (size, size) with the Lanczos filter, as U-ViT does
    (its datasets.py, `center_crop`)."""
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return image.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.LANCZOS)


def pad_resize(image: Image.Image, size: int) -> Image.Image:
    """The whole `image` in the middle of a white square, (size, size), resized with the Lanczos filter."""
    side = max(image.size)
    square = Image.new("RGB", (side, side), "white")
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square.resize((size, size), Image.Resampling.LANCZOS)


def read_ahead(read: Callable[[S], T], items: Iterable[S], *, workers: int, ahead: int) -> Iterator[T]:
    """`read` of each item, in order, by threads that are up to `ahead` items further on. What they have not begun when the
    caller stops is left."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="read")
    try:
        pending: deque[Future[T]] = deque()
        for item in items:
            pending.append(pool.submit(read, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def to_tensor(images: np.ndarray) -> "torch.Tensor":
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32 in [-1, 1]."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1


def to_images(images: "torch.Tensor") -> np.ndarray:
    """(B, 3, H, W) -> (B, H, W, 3) uint8: the inverse of `to_tensor`, where values beyond [-1, 1] become 0 or 255."""
    import torch

    pixels = ((images.clamp(-1, 1) + 1) * 127.5).round()
    return pixels.to("cpu", torch.uint8).permute(0, 2, 3, 1).numpy()


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        # Pillow's own conversion clips at 255 instead of scaling.
        values = np.asarray(image).astype(np.float64)
        low, high = values.min(initial=0), values.max(initial=0)
        if image.mode.startswith("F"):
            if not (low >= 0 and high <= 255):
                raise InputError(f"has float values from {low:g} to {high:g}; scale them to 0 ... 1, or to 0 ... 255")
            values = values * 255 if high <= 1 else values
        elif image.mode.startswith("I;16") or high > 255:  # mode I may be 8-bit values in 32 bits
            values = values / 257
        image = Image.fromarray(values.clip(0, 255).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _one_line(error: BaseException) -> str:
    if isinstance(error, UnidentifiedImageError):  # whose words are an address in memory
        return "of no known format"
    return " ".join(str(error).split()) or type(error).__name__
