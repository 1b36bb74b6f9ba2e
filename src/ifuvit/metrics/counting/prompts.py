"""The prompts of counting: sets of them to draw images from, and what a prompt asks for."""

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from ifuvit.data.prompts import PromptSet
from ifuvit.data.scenes import (
    KINDS,
    MAX_COUNT,
    PAPER_KINDS,
    RELATIONS,
    Relation,
    held_out,
    is_held_out_relation,
    prompt_for,
    relation_prompt_for,
)


class Asked(NamedTuple):
    """Copies of one kind, as in "three sheep"."""

    kind: str
    count: int


class AskedRelation(NamedTuple):
    """One object of each of two kinds, as in "a bus left of an apple"."""

    first: str
    relation: Relation
    second: str


# ------------------------------------------------------------------------------------------------- of OpenMoji Scenes


@functools.cache
def _grammar() -> dict[str, Asked | AskedRelation]:
    names = [kind.name for kind in KINDS]
    grammar: dict[str, Asked | AskedRelation] = {
        prompt_for(name, count): Asked(name, count) for name in names for count in range(1, MAX_COUNT + 1)
    }
    for first in names:
        for relation in RELATIONS:
            for second in names:
                if first != second:
                    grammar[relation_prompt_for(first, relation, second)] = AskedRelation(first, relation, second)
    return grammar


def parse_prompt(prompt: str) -> Asked | AskedRelation | None:
    """What a plain prompt of OpenMoji Scenes asks for (`prompt_for`, `relation_prompt_for`); None for any other text.
    Case and spaces do not matter."""
    return _grammar().get(" ".join(prompt.lower().split()))


# ---------------------------------------------------------------------------------------------------- of photographs

_WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {"a": 1, "an": 1}
_NUMBERS |= {written: count for count, word in enumerate(_WORDS, start=1) for written in (word, str(count))}
# Plurals for which the rules of `_singular` fail.
_SINGULARS = {
    **{"people": "person", "men": "man", "women": "woman", "children": "child", "mice": "mouse", "geese": "goose"},
    **{"knives": "knife", "wolves": "wolf", "calves": "calf", "leaves": "leaf", "loaves": "loaf", "shelves": "shelf"},
    **{
        "feet": "foot",
        "teeth": "tooth",
        "oxen": "ox",
        "shoes": "shoe",
        "toes": "toe",
        "canoes": "canoe",
        "axes": "axe",
    },
    **{"cookies": "cookie", "movies": "movie", "zombies": "zombie"},
    **{word: word for word in ("sheep", "fish", "deer", "moose", "bison", "aircraft", "shrimp")},
}
# End in s and are one.
_ONE_IN_S = frozenset("bus cactus octopus walrus hippopotamus virus lens canvas iris gas".split())
_NO_NOUNS = frozenset(
    "a an the and or of on in at to with without by for from under over above below behind beside near next left right "
    "is are was were it its this that these those there who which no not".split()
)


def _singular(noun: str) -> str | None:
    """The singular of an English plural; None for a word that is none."""
    if noun in _SINGULARS:
        return _SINGULARS[noun]
    if not noun.endswith("s") or noun.endswith("ss") or noun in _ONE_IN_S:
        return None
    if noun.endswith("ies") and len(noun) > 4:
        return noun[:-3] + "y"
    if noun.endswith(("sses", "shes", "ches", "xes", "zzes", "oes", "uses")) and not noun.endswith("ouses"):
        return noun[:-2]
    return noun[:-1]


def parse_noun_phrase(prompt: str) -> Asked | None:
    """What a plain prompt of any kind asks for: an article or a number up to ten, in words or digits, then a noun of one
    or two words whose form fits the number: "a dog", "two traffic lights", "3 people". None for any other text: without
    a number, with a preposition or a conjunction ("a dog on a bench", "a dog and a cat"), or with a command ("a dog
    running"). Case and spaces do not matter. The noun is any: that a detector knows it is the caller's business.
    """
    number, *words = prompt.lower().split() or [""]
    count = _NUMBERS.get(number)
    if count is None or not 1 <= len(words) <= 2:
        return None
    if not all(word.replace("-", "").isalpha() for word in words) or _NO_NOUNS & set(words):
        return None
    if len(words) == 2 and words[-1].endswith("ing"):
        return None
    noun = words[-1]
    singular = _singular(noun)
    if count > 1:
        return None if singular is None else Asked(" ".join([*words[:-1], singular]), count)
    # "a dogs" asks for no number; "a sheep" does.
    return Asked(" ".join(words), 1) if singular in (None, noun) else None


# --------------------------------------------------------------------------------------------------------------- sets


# Those of MS-COCO's 80 kinds that can be counted in plain words: not broccoli, scissors and skis.
_COCO_KINDS = (
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign, "
    "parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, handbag, "
    "tie, suitcase, frisbee, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, "
    "tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, carrot, hot dog, "
    "pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, mouse, remote, keyboard, "
    "cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, teddy bear, hair drier, toothbrush"
).split(", ")
_PLURALS = {"person": "people", "sheep": "sheep", "knife": "knives", "mouse": "mice"}


def _scene_counts(kinds: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(prompt_for(kind, count) for kind in kinds for count in range(1, MAX_COUNT + 1))


def _coco_counts() -> tuple[str, ...]:
    prompts = []
    for kind in _COCO_KINDS:
        plural = _PLURALS.get(kind, f"{kind}es" if kind.endswith(("s", "sh", "ch")) else f"{kind}s")
        prompts.append(f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}")
        prompts += [f"{word} {plural}" for word in _WORDS[1:MAX_COUNT]]
    return tuple(prompts)


def _related_pairs(number: int) -> tuple[tuple[str, str], ...]:
    """Pairs of kinds, each kind first in one of them at most, of which training scenes show every relation."""
    names = [kind.name for kind in KINDS]
    pairs = [(name, names[(place + 17) % len(names)]) for place, name in enumerate(names)]
    shown = [pair for pair in pairs if not any(is_held_out_relation(pair[0], way, pair[1]) for way in RELATIONS)]
    return tuple(shown[:number])


def _some_held_out(number: int) -> tuple[str, ...]:
    """All held-out counts, and `number` held-out relations of each of the four, evenly spaced among all of them."""
    combinations = held_out()
    prompts = [item["prompt"] for item in combinations["counts"]]
    for relation in RELATIONS:
        of_relation = [item["prompt"] for item in combinations["relations"] if item["relation"] == relation]
        prompts += [of_relation[place * len(of_relation) // number] for place in range(number)]
    return tuple(prompts)


PROMPT_SETS: Mapping[PromptSet, tuple[str, ...]] = MappingProxyType(
    {
        "paper": _scene_counts(PAPER_KINDS),
        "all-kinds": _scene_counts(tuple(kind.name for kind in KINDS)),
        "relations": tuple(
            relation_prompt_for(a, relation, b) for a, b in _related_pairs(25) for relation in RELATIONS
        ),
        "held-out": _some_held_out(20),
        "coco": _coco_counts(),
    }
)
"""Prompts to draw images from, in a fixed order. "paper": bus, sheep, person and apple, one to five each. "all-kinds":
the same of all 42 kinds. "relations": 25 pairs of kinds in four relations, all of which training scenes show. "held-out":
what no training scene shows, all 19 counts and 20 of each relation. "coco": for photographs, one to five of 77 of
MS-COCO's kinds."""
