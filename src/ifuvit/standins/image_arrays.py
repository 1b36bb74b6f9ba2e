"""Many images of one size as one array, for training that reads pixels."""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ifuvit.data.images import SUFFIXES, center_crop_resize, list_images, load_image
from ifuvit.utils.errors import InputError


def find_images(folders: Sequence[Path]) -> list[Path]:
    """The image files of some folders and of those below, sorted within each.

    Raises:
        InputError: a folder is missing or holds none.
    """
    files: list[Path] = []
    for folder in folders:
        found, _ = list_images(folder)
        if not found:
            raise InputError(f"{folder}: holds no images ({', '.join(SUFFIXES)})")
        files += found
    return files


def _read(path: Path, size: int) -> np.ndarray:
    """One image as (size, size, 3) uint8."""
    image = load_image(path)
    if min(image.size) < size:
        raise InputError(f"{path}: {image.width}x{image.height} pixels; smaller than --size {size}")
    if image.size != (size, size):
        image = center_crop_resize(image, size)
    return np.asarray(image)


def load_images(files: list[Path], size: int, memory_gib: float, spill: Path) -> np.ndarray:
    """All images as (N, size, size, 3) uint8, in memory or, if that is too much, in the memory-mapped file `spill`.

    Args:
        files: N images.
        size: side of the square they are cropped and resized to.
        memory_gib: what may be held in memory.
        spill: written if they take more.

    Raises:
        InputError: a file is not an image, or one smaller than `size`.
    """
    from tqdm import tqdm

    shape = (len(files), size, size, 3)
    if math.prod(shape) <= memory_gib * 2**30:
        images = np.empty(shape, np.uint8)
    else:
        images = np.memmap(spill, np.uint8, "w+", shape=shape)
    for index, path in enumerate(tqdm(files, desc="images", unit="", leave=False, mininterval=1, disable=None)):
        images[index] = _read(path, size)
    return images


def fingerprint(*arrays: np.ndarray) -> str:
    """SHA-256 over shapes and bytes."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(repr(array.shape).encode())
        for start in range(0, len(array), 4096):
            digest.update(np.ascontiguousarray(array[start : start + 4096]).data)
    return digest.hexdigest()
