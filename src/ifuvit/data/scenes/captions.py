"""What is said of a scene: the plain prompt, and paraphrases from a grammar."""

import numpy as np

from ifuvit.data.scenes.contents import INVERSE, KIND_INDEX, KINDS, MAX_COUNT, RELATIONS, Background, Kind, Relation
from ifuvit.utils.errors import InputError

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


def count_captions(rng: np.random.Generator, kind: Kind, count: int, background: Background) -> tuple[str, ...]:
    """Five captions of copies of one kind, the plainest first; all draws come from `rng`."""
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


def relation_captions(
    rng: np.random.Generator, first: Kind, relation: Relation, second: Kind, background: Background
) -> tuple[str, ...]:
    """Five captions of two kinds with a relation, the plainest first; all draws come from `rng`."""
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
