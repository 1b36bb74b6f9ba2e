"""Sets of prompts to generate images from, in a fixed order: what a model is evaluated by, skill by skill."""

from collections.abc import Mapping
from types import MappingProxyType

from ifuvit.data.prompts import PromptSet
from ifuvit.data.scenes import (
    BACKGROUNDS,
    INVERSE,
    KINDS,
    MAX_COUNT,
    PAPER_KINDS,
    RELATIONS,
    held_out,
    is_held_out_relation,
    prompt_for,
    relation_prompt_for,
)

_WORDS = ("one", "two", "three", "four", "five")


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


def _grounds() -> tuple[str, ...]:
    """One object of every kind on three of the six grounds each, every ground equally often."""
    return tuple(
        f"{prompt_for(kind.name, 1)} {BACKGROUNDS[(place + turn) % len(BACKGROUNDS)].phrase}"
        for place, kind in enumerate(KINDS)
        for turn in (0, 2, 4)
    )


def _held_out_relations(number: int) -> tuple[str, ...]:
    """`number` held-out relations of each of the four, evenly spaced among all of them."""
    prompts = []
    for relation in RELATIONS:
        of_relation = [item["prompt"] for item in held_out()["relations"] if item["relation"] == relation]
        prompts += [of_relation[place * len(of_relation) // number] for place in range(number)]
    return tuple(prompts)


# Five that training captions have, five of words that none has. {x}: the plain prompt; {n}: the number; {noun}.
_COUNT_PHRASINGS = (
    "a picture of {x}",
    "there {is} {x}",
    "{x} and nothing else",
    "you can see {x}",
    "{n} {noun} in all",
    "a picture of exactly {x}, please",
    "please draw {x}",
    "I would like to see {x}",
    "just {x}",
    "could you show me {x}?",
)
# Five that training captions have, four of words that none has: nine, so that every relation meets each of them. {a} and
# {b} have articles; {rel} is the relation of a to b, {long} in other words, {back} that of b to a.
_RELATION_PHRASINGS = (
    "a picture of {a} {rel} {b}",
    "{a} is {long} {b}",
    "there is {b} {back} {a}",
    "{a} {here} and {b} {there}",
    "{here} {a} and {there} {b}",
    "a picture of {a} {rel} {b}, please",
    "please draw {b} {back} {a}",
    "I would like to see {a} {rel} {b}",
    "just {a} {long} {b}",
)
_LONG = {"left of": "to the left of", "right of": "to the right of", "above": "over", "below": "under"}
_PLACES = {
    "left of": ("on the left", "on the right"),
    "right of": ("on the right", "on the left"),
    "above": ("at the top", "at the bottom"),
    "below": ("at the bottom", "at the top"),
}


def _count_paraphrases() -> tuple[str, ...]:
    """Every prompt of "paper" in ten other ways."""
    prompts = []
    for kind in PAPER_KINDS:
        for count in range(1, MAX_COUNT + 1):
            x = prompt_for(kind, count)
            noun = x.split(" ", 1)[1]
            words = {"x": x, "n": count, "noun": noun, "is": "is" if count == 1 else "are"}
            prompts += [phrasing.format(**words) for phrasing in _COUNT_PHRASINGS]
    return tuple(prompts)


def _relation_paraphrases() -> tuple[str, ...]:
    """Every prompt of "relations" in one of nine other ways, in turn."""
    prompts = []
    for a, b in _related_pairs(25):
        for relation in RELATIONS:
            here, there = _PLACES[relation]
            words = {
                **{"a": prompt_for(a, 1), "b": prompt_for(b, 1), "here": here, "there": there},
                **{"rel": relation, "long": _LONG[relation], "back": INVERSE[relation]},
            }
            prompts.append(_RELATION_PHRASINGS[len(prompts) % len(_RELATION_PHRASINGS)].format(**words))
    return tuple(prompts)


PROMPT_SETS: Mapping[PromptSet, tuple[str, ...]] = MappingProxyType(
    {
        "paper": _scene_counts(PAPER_KINDS),
        "all-kinds": _scene_counts(tuple(kind.name for kind in KINDS)),
        "relations": tuple(
            relation_prompt_for(a, relation, b) for a, b in _related_pairs(25) for relation in RELATIONS
        ),
        "grounds": _grounds(),
        "held-out-counts": tuple(item["prompt"] for item in held_out()["counts"]),
        "held-out-relations": _held_out_relations(25),
        "paraphrases": _count_paraphrases(),
        "relation-paraphrases": _relation_paraphrases(),
        "coco": _coco_counts(),
    }
)
"""In a fixed order. "paper": bus, sheep, person and apple, one to five each. "all-kinds": the same of all 42 kinds.
"relations": 25 pairs of kinds in four relations, all of which training scenes show. "grounds": one object of every kind on
three of the six grounds. "held-out-counts": the 19 counts that no training scene shows; "held-out-relations": 25 such of each
relation. "paraphrases": every prompt of "paper" in ten other ways, half of them in words that no training caption has;
"relation-paraphrases": every prompt of "relations" in one of nine other ways. "coco": for photographs, one to five of 77 of
MS-COCO's kinds."""
