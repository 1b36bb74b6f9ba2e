"""What a prompt asks for: the kinds and counts of objects, their relation, and the ground that they stand on."""

import re
from typing import NamedTuple

from ifuvit.data.scenes import BACKGROUNDS, KINDS, Relation


class Asked(NamedTuple):
    """Copies of one kind, as in "three sheep on grass"."""

    kind: str
    count: int
    ground: str | None = None
    """Name of the background; None if the prompt names none."""


class AskedRelation(NamedTuple):
    """One object of each of two kinds, as in "a bus left of an apple"."""

    first: str
    relation: Relation
    second: str
    ground: str | None = None


_WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {"a": 1, "an": 1}
_NUMBERS |= {written: count for count, word in enumerate(_WORDS, start=1) for written in (word, str(count))}

# ------------------------------------------------------------------------------------------------- of OpenMoji Scenes

RELATION_PHRASES: dict[str, Relation] = {
    **dict.fromkeys(("left of", "to the left of", "on the left of"), "left of"),
    **dict.fromkeys(("right of", "to the right of", "on the right of"), "right of"),
    **dict.fromkeys(("above", "over"), "above"),
    **dict.fromkeys(("below", "under"), "below"),
}
"""How a prompt may call a relation."""
PLACE_PHRASES: dict[tuple[str, str], Relation] = {
    ("on the left", "on the right"): "left of",
    ("on the right", "on the left"): "right of",
    ("at the top", "at the bottom"): "above",
    ("at the bottom", "at the top"): "below",
}
"""How it may tell the places of both objects instead."""
# Words around what is asked for that ask for nothing else. Any other word makes a prompt one that is not read: nobody could
# say whether "two red apples" are shown.
_FRAME = frozenset(
    "a an the and in of with that is are be there here this it i we you me us can could would will want like to see seen "
    "show shows shown draw paint make give get please just only exactly simply nothing else all contains picture image "
    "drawing illustration scene photo simple".split()
)


def _any_of(words: "list[str]") -> str:
    return "|".join(sorted(map(re.escape, words), key=len, reverse=True))


_NOUNS = frozenset(kind.name for kind in KINDS)
_PLURALS_OF_SCENES = {kind.plural: kind.name for kind in KINDS}
_GROUNDS = {background.phrase: background.name for background in BACKGROUNDS}
_GROUND = re.compile(rf"\b({_any_of(list(_GROUNDS))})\b")
_OBJECTS = re.compile(rf"\b({_any_of(list(_NUMBERS))}) ({_any_of([*_NOUNS, *_PLURALS_OF_SCENES])})\b")
_FRAME_WORDS = rf"(?:(?:{_any_of(list(_FRAME))}) )*"
_RELATED = re.compile(rf"{_FRAME_WORDS}@ (?:is )?({_any_of(list(RELATION_PHRASES))}) @ {_FRAME_WORDS}")
_PLACES = _any_of([here for here, _ in PLACE_PHRASES])
_PLACED_AFTER = re.compile(rf"{_FRAME_WORDS}@ (?:is )?({_PLACES}) and @ (?:is )?({_PLACES}) {_FRAME_WORDS}")
_PLACED_BEFORE = re.compile(rf"{_FRAME_WORDS}({_PLACES}) (?:is )?@ and ({_PLACES}) (?:is )?@ {_FRAME_WORDS}")
_COUNTED = re.compile(rf"{_FRAME_WORDS}@ {_FRAME_WORDS}")


def parse_prompt(prompt: str) -> Asked | AskedRelation | None:
    """What a prompt of OpenMoji Scenes asks for: a number up to ten, in words or digits, of one of its kinds, or two of its
    kinds in a relation, with or without one of its grounds, among words that ask for nothing else ("a picture of exactly
    three sheep on grass, please"). None for any other text: unknown kinds, other adjectives, several kinds without a
    relation, a noun whose form does not fit its number. Case, spaces and punctuation do not matter.
    """
    text = " ".join(re.sub(r"[.,;:!?\"']", " ", prompt.lower()).split())
    grounds = [_GROUNDS[phrase] for phrase in _GROUND.findall(text)]
    text = " ".join(_GROUND.sub(" ", text).split())
    objects = [_object(number, noun) for number, noun in _OBJECTS.findall(text)]
    if len(grounds) > 1 or None in objects:
        return None
    ground = grounds[0] if grounds else None
    frame = _OBJECTS.sub("@", text) + " "
    match [one for one in objects if one is not None]:
        case [(kind, count)] if _COUNTED.fullmatch(frame):
            return Asked(kind, count, ground)
        case [(first, 1), (second, 1)] if first != second and (relation := _relation(frame)) is not None:
            return AskedRelation(first, relation, second, ground)
    return None


def _object(number: str, noun: str) -> tuple[str, int] | None:
    """(kind, count) of "three sheep"; None for "three bus" and "a buses"."""
    count = _NUMBERS[number]
    kind = noun if count == 1 else _PLURALS_OF_SCENES.get(noun)
    return None if kind not in _NOUNS else (kind, count)


def _relation(frame: str) -> Relation | None:
    """Of the first @ to the second."""
    if found := _RELATED.fullmatch(frame):
        return RELATION_PHRASES[found[1]]
    if found := _PLACED_AFTER.fullmatch(frame) or _PLACED_BEFORE.fullmatch(frame):
        return PLACE_PHRASES.get((found[1], found[2]))
    return None


# ---------------------------------------------------------------------------------------------------- of photographs

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
