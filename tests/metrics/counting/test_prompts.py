"""The sets of prompts are what they are said to be."""

from collections import Counter

import pytest

from ifuvit.data.scenes import BACKGROUNDS, KINDS, RELATIONS, is_held_out_count, is_held_out_relation
from ifuvit.encoders.text_encoder import TextEncoder
from ifuvit.metrics.counting.parsing import Asked, AskedRelation, parse_noun_phrase, parse_prompt
from ifuvit.metrics.counting.prompts import PROMPT_SETS


def test_sets_of_prompts():
    assert {name: len(prompts) for name, prompts in PROMPT_SETS.items()} == {
        "paper": 20,
        "all-kinds": 42 * 5,
        "relations": 25 * 4,
        "grounds": 42 * 3,
        "held-out-counts": 19,
        "held-out-relations": 4 * 25,
        "paraphrases": 20 * 10,
        "relation-paraphrases": 100,
        "coco": 77 * 5,
    }
    assert all(len(set(prompts)) == len(prompts) for prompts in PROMPT_SETS.values())
    assert PROMPT_SETS["paper"][:6] == ("a bus", "two buses", "three buses", "four buses", "five buses", "a sheep")
    assert PROMPT_SETS["coco"][:5] == ("a person", "two people", "three people", "four people", "five people")
    assert set(PROMPT_SETS["paper"]) <= set(PROMPT_SETS["all-kinds"])
    read = [parse_noun_phrase(prompt) for prompt in PROMPT_SETS["coco"]]
    assert [asked and asked.count for asked in read] == 77 * [1, 2, 3, 4, 5]
    assert all(len({asked and asked.kind for asked in read[start : start + 5]}) == 1 for start in range(0, 385, 5))


def read(name):
    return [parse_prompt(prompt) for prompt in PROMPT_SETS[name]]


def test_what_training_shows_and_what_it_does_not():
    def held_out(name):
        return [
            is_held_out_count(one.kind, one.count) if isinstance(one, Asked) else is_held_out_relation(*one[:3])
            for one in read(name)
        ]

    assert all(held_out("held-out-counts")) and all(held_out("held-out-relations"))
    assert not any(
        any(held_out(name)) for name in ("relations", "paper", "grounds", "paraphrases", "relation-paraphrases")
    )
    assert [one.relation for one in read("held-out-relations")] == [way for way in RELATIONS for _ in range(25)]
    assert len({one.first for one in read("relations")[::4]}) == 25


def test_grounds_are_of_every_kind_and_even():
    asked = read("grounds")
    assert {(one.kind, one.count) for one in asked} == {(kind.name, 1) for kind in KINDS}
    assert Counter(one.ground for one in asked) == {one.name: 21 for one in BACKGROUNDS}


@pytest.mark.parametrize(
    ("plain", "paraphrased", "each"), [("paper", "paraphrases", 10), ("relations", "relation-paraphrases", 1)]
)
def test_paraphrases_ask_for_the_same_at_the_same_place(plain, paraphrased, each):
    """So that images of one place, of the same noise, make a pair."""
    expected = [one for one in read(plain) for _ in range(each)]
    for one, other in zip(expected, read(paraphrased), strict=True):
        same = [(one.first, one.relation, one.second)] if isinstance(one, AskedRelation) else [one[:2]]
        if isinstance(one, AskedRelation):
            inverse = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
            same.append((one.second, inverse[one.relation], one.first))
        assert other is not None and other[: len(same[0])] in same
    assert not set(PROMPT_SETS[plain]) & set(PROMPT_SETS[paraphrased])


def test_no_prompt_is_longer_than_the_models_see():
    text_encoder = TextEncoder.from_pretrained("minilm", max_tokens=16)
    for name in set(PROMPT_SETS) - {"coco"}:
        assert text_encoder.tokenize(list(PROMPT_SETS[name])).truncated == 0, name
