"""The prompts of counting: sets of them to draw pictures from, and what a prompt asks for."""

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

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

_NUMBERS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8}
_NUMBERS |= {"nine": 9, "ten": 10} | {str(number): number for number in range(1, 11)}
# Where the rules of `_singular` fail.
_SINGULARS = {
    **{"people": "person", "men": "man", "women": "woman", "children": "child", "mice": "mouse", "geese": "goose"},
    **{"knives": "knife", "wolves": "wolf", "calves": "calf", "leaves": "leaf", "loaves": "loaf", "feet": "foot"},
    **{"teeth": "tooth", "oxen": "ox", "buses": "bus", "shelves": "shelf"},
    **{"bookcases": "bookcase", "suitcases": "suitcase", "vases": "vase", "horses": "horse", "houses": "house"},
    **{"noses": "nose", "roses": "rose", "shoes": "shoe", "toes": "toe", "axes": "axe", "cookies": "cookie"},
    **{"ties": "tie", "pies": "pie", "zombies": "zombie", "movies": "movie", "causes": "cause", "cheeses": "cheese"},
    **{word: word for word in ("sheep", "fish", "deer", "moose", "bison", "aircraft", "skis", "scissors", "shrimp")},
}
# Ends in s and is one.
_ONE_IN_S = {
    "bus",
    "skis",
    "scissors",
    "glass",
    "cactus",
    "octopus",
    "lens",
    "walrus",
    "hippopotamus",
    "canvas",
    "iris",
}
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
    if noun.endswith(("sses", "shes", "ches", "xes", "zzes", "oes", "uses")):
        return noun[:-2]
    return noun[:-1]


def parse_noun_phrase(prompt: str) -> Asked | None:
    """What a plain prompt of any kind asks for: an article or a number up to ten, in words or digits, then a noun of one
    or two words whose form fits the number: "a dog", "two traffic lights", "3 people". None for any other text: without
    a number, with a preposition or a conjunction ("a dog on a bench", "a dog and a cat"), or with a verb ("a dog
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


def _all_counts(kinds: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(prompt_for(kind, count) for kind in kinds for count in range(1, MAX_COUNT + 1))


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


PROMPT_SETS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "paper": _all_counts(PAPER_KINDS),
        "all-kinds": _all_counts(tuple(kind.name for kind in KINDS)),
        "relations": tuple(
            relation_prompt_for(a, relation, b) for a, b in _related_pairs(25) for relation in RELATIONS
        ),
        "held-out": _some_held_out(20),
    }
)
"""Prompts to draw pictures from, in a fixed order. "paper": bus, sheep, person and apple, one to five each. "all-kinds":
the same of all 42 kinds. "relations": 25 pairs of kinds in four relations, all of which training scenes show. "held-out":
what no training scene shows, all 19 counts and 20 of each relation."""
