"""What the tokens of a prompt are: its words, and the start, end and padding around them."""

import re
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from ifuvit.utils.errors import InputError

if TYPE_CHECKING:
    from ifuvit.encoders.text_encoder import TextEncoder

Category = Literal["content", "number", "relation", "function", "special", "padding", "image", "time"]
CATEGORIES: tuple[Category, ...] = get_args(Category)
"""What attention can go to. "content" are words that are none of the other three, "special" the start and end tokens."""

_NUMBERS = frozenset(
    "zero one two three four five six seven eight nine ten eleven twelve dozen pair several many".split()
)
_RELATIONS = frozenset(
    "left right above below over under beneath behind beside between near next inside outside front top bottom".split()
)
_FUNCTION = frozenset(
    "a an the and or but nor of on in at to with without by for from as into onto upon is are was were be been being am it "
    "its this that these those there here who whose which what where when we you they he she i our your their his her my me "
    "us them him can could will would shall should may might must do does did has have had not no nothing else only just "
    "all some any each every both other".split()
)


class Word(NamedTuple):
    """A word of a prompt, as it is written between spaces."""

    text: str
    tokens: tuple[int, ...]
    """Its places among the L tokens."""
    category: Category


class PromptTokens(NamedTuple):
    """A prompt as the text encoder reads it."""

    words: tuple[Word, ...]
    categories: tuple[Category, ...]
    """Of each of the L tokens."""
    texts: tuple[str, ...]
    """The L tokens as text."""


def category_of(word: str) -> Category:
    """The category of a word, whatever its case and punctuation."""
    plain = re.sub(r"\W+", "", word.lower())
    if plain in _NUMBERS or plain.isdigit():
        return "number"
    if plain in _RELATIONS:
        return "relation"
    return "function" if plain in _FUNCTION or not plain else "content"


def read_tokens(encoder: "TextEncoder", prompt: str) -> PromptTokens:
    """The words of a prompt with their tokens.

    Raises:
        InputError: it is empty, longer than the text encoder's limit, or the tokenizer cannot tell where its tokens stand.
    """
    if not prompt.strip():
        raise InputError("a prompt is empty; say what to draw")
    tokenizer = encoder.tokenizer
    if not tokenizer.is_fast:
        raise InputError(f"text encoder {encoder.reference}: its tokenizer does not tell which words its tokens are of")
    found = tokenizer([prompt], return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False)
    ids, offsets, special = (found[name][0] for name in ("input_ids", "offset_mapping", "special_tokens_mask"))
    if len(ids) > encoder.max_tokens:
        raise InputError(
            f"prompt {_shortened(prompt)!r}: has {len(ids)} tokens, the text encoder reads {encoder.max_tokens}; shorten it"
        )
    spans = [match.span() for match in re.finditer(r"\S+", prompt)]
    tokens: list[list[int]] = [[] for _ in spans]
    categories: list[Category] = ["padding"] * encoder.max_tokens
    for place, ((start, end), is_special) in enumerate(zip(offsets, special, strict=True)):
        if is_special:
            categories[place] = "special"
            continue
        # CLIP's tokenizer counts the space before a word to it on some versions: the last character decides.
        word = next(number for number, (low, high) in enumerate(spans) if low < max(end, start + 1) <= high)
        tokens[word].append(place)
        categories[place] = category_of(prompt[slice(*spans[word])])
    words = tuple(
        Word(prompt[low:high], tuple(places), category_of(prompt[low:high]))
        for (low, high), places in zip(spans, tokens, strict=True)
        if places
    )
    texts = [*tokenizer.convert_ids_to_tokens(ids), *["padding"] * (encoder.max_tokens - len(ids))]
    return PromptTokens(words, tuple(categories), tuple(texts))


def _shortened(prompt: str) -> str:
    return prompt if len(prompt) <= 40 else f"{prompt[:39]}…"
