"""What a scene can show: kinds of objects, relations, backgrounds, and which combinations are held out of training."""

import functools
import zlib
from dataclasses import dataclass
from typing import Literal

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


# ---------------------------------------------------------------------------------------------------- combinations


@functools.cache
def _held_out_counts() -> frozenset[tuple[int, int]]:
    # Every second of the kinds that are not the paper's loses one count of 2 to 5, so that every count of every kind
    # can be composed from what is left.
    others = [number for number, kind in enumerate(KINDS) if kind.name not in PAPER_KINDS]
    return frozenset((number, 2 + place % (MAX_COUNT - 1)) for place, number in enumerate(others[::2]))


@functools.cache
def _is_held_out_pair(first: int, relation: str, second: int) -> bool:
    # "a left of b" and "b right of a" are one image: both are counted by their "left of" or "above" form.
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
def count_combinations(held_out: bool) -> tuple[tuple[int, int], ...]:
    """(number of the kind, count): those held out of training, or all others."""
    combinations = [(number, count) for number in range(len(KINDS)) for count in range(1, MAX_COUNT + 1)]
    return tuple(pair for pair in combinations if (pair in _held_out_counts()) == held_out)


@functools.cache
def relation_combinations(held_out: bool) -> tuple[tuple[int, Relation, int], ...]:
    """(number of the first kind, its relation to the second, number of the second): those held out, or all others."""
    numbers = range(len(KINDS))
    combinations: list[tuple[int, Relation, int]] = [
        (a, relation, b) for a in numbers for relation in RELATIONS for b in numbers if a != b
    ]
    return tuple(triple for triple in combinations if _is_held_out_pair(*triple) == held_out)
