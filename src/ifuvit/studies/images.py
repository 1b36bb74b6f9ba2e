"""Blinding: images whose files tell nothing but their pixels."""

import secrets
from pathlib import Path

import numpy as np
from PIL import Image

from ifuvit.data.images import center_crop_resize, load_image
from ifuvit.utils.errors import InputError

SPOILED_TILES = 16
"""How many tiles a side of a spoiled image has."""


def blind_name() -> str:
    """A file name that reveals nothing."""
    return f"{secrets.token_hex(16)}.png"


def common_size(files: list[Path]) -> int:
    """Pixels of the sides of images that are all square and of one size, as they have to be for nobody to tell models
    apart by it.

    Raises:
        InputError: they are not.
    """
    first = None
    for file in files:
        try:
            with Image.open(file) as image:
                size = image.size
        except FileNotFoundError:
            raise InputError(f"{file}: no such file") from None
        except OSError as error:
            raise InputError(f"{file}: not a readable image ({error})") from None
        first = first or size
        if size != first or size[0] != size[1]:
            raise InputError(
                f"{file}: {size[0]} x {size[1]} pixels, where {files[0]} has {first[0]} x {first[1]}; raters would know "
                "models by that: give --size PIXELS to crop and scale all images to squares of one size"
            )
    assert first is not None
    return first[0]


def blind(source: Path, target: Path, *, size: int) -> None:
    """Write an image's pixels, cropped and scaled where it has another size, and nothing else of it.

    Raises:
        InputError: it is not a readable image.
    """
    image = load_image(source)
    write_blind(image if image.size == (size, size) else center_crop_resize(image, size), target)


def write_blind(image: Image.Image, target: Path) -> None:
    """Write an RGB image as PNG with no metadata."""
    bare = Image.fromarray(np.asarray(image.convert("RGB")))  # pixels alone: no text, profile or date comes along
    bare.save(target, format="PNG", optimize=True)


def spoil(image: Image.Image, *, seed: int) -> Image.Image:
    """The image cut into small tiles that are put together at random: nobody who looks can like it best."""
    pixels = np.asarray(image.convert("RGB"))
    edge = max(1, pixels.shape[0] // SPOILED_TILES)
    number = pixels.shape[0] // edge
    tiles = [
        pixels[row * edge : (row + 1) * edge, column * edge : (column + 1) * edge]
        for row in range(number)
        for column in range(number)
    ]
    order = np.random.default_rng((seed, number)).permutation(len(tiles))
    rows = [
        np.concatenate([tiles[order[row * number + column]] for column in range(number)], 1) for row in range(number)
    ]
    spoiled = Image.fromarray(np.concatenate(rows, 0))
    return spoiled if spoiled.size == image.size else spoiled.resize(image.size, Image.Resampling.NEAREST)
