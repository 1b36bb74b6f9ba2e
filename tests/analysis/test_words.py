"""Words, their tokens and categories."""

import pytest
from tiny_pipeline import TOKENS, write_text_encoder

from ifuvit.analysis.words import category_of, read_tokens
from ifuvit.encoders.text_encoder import TextEncoder
from ifuvit.utils.errors import InputError


@pytest.mark.parametrize(
    ("word", "category"),
    [
        *[("sheep", "content"), ("Three", "number"), ("3", "number"), ("left", "relation"), ("of", "function")],
        *[("grass,", "content"), ("ABOVE.", "relation"), ("a", "function"), ("--", "function")],
    ],
)
def test_categories(word: str, category: str) -> None:
    assert category_of(word) == category


def test_tokens_of_minilm() -> None:
    """Sub-tokens are merged to the word they are of; start, end and padding are told apart."""
    encoder = TextEncoder.from_pretrained("minilm")
    found = read_tokens(encoder, "three strawberries left-of  a zeppelin!")
    assert [word.text for word in found.words] == ["three", "strawberries", "left-of", "a", "zeppelin!"]
    ids = encoder.tokenizer(["three strawberries left-of  a zeppelin!"])["input_ids"][0]
    assert sorted(place for word in found.words for place in word.tokens) == list(range(1, len(ids) - 1))
    assert found.words[1].tokens == (2, 3) and len(found.words[2].tokens) == 3 and len(found.words[4].tokens) > 1
    assert len(found.categories) == len(found.texts) == encoder.max_tokens
    assert found.categories[0] == found.categories[len(ids) - 1] == "special"
    assert set(found.categories[len(ids) :]) == {"padding"}
    assert found.texts[2:4] == ("straw", "##berries")


def test_bad_prompts_are_refused(tmp_path) -> None:
    encoder = TextEncoder.from_pretrained(write_text_encoder(tmp_path), max_tokens=TOKENS)
    assert len(read_tokens(encoder, "a bus on grass").words) == 4
    with pytest.raises(InputError, match="has 9 tokens, the text encoder reads 8"):
        read_tokens(encoder, "a bus left of two sheep red")
    with pytest.raises(InputError, match="empty"):
        read_tokens(encoder, "  ")
