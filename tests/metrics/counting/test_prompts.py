"""Prompts are read back, and the sets of them are what they are said to be."""

import pytest

from ifuvit.data.scenes import (
    KINDS,
    RELATIONS,
    is_held_out_count,
    is_held_out_relation,
    prompt_for,
    relation_prompt_for,
)
from ifuvit.metrics.counting.prompts import PROMPT_SETS, Asked, AskedRelation, parse_noun_phrase, parse_prompt


def test_prompts_are_read_back():
    for kind in KINDS:
        for count in range(1, 6):
            assert parse_prompt(prompt_for(kind.name, count)) == Asked(kind.name, count)
    assert parse_prompt("  Three   SHEEP ") == Asked("sheep", 3)
    assert parse_prompt("a sheep") == Asked("sheep", 1)
    assert parse_prompt("four people") == Asked("person", 4)
    assert parse_prompt(relation_prompt_for("bus", "left of", "apple")) == AskedRelation("bus", "left of", "apple")
    for other in ("six sheep", "three sheep on grass", "two bus", "a bus left of a bus", "a dog", ""):
        assert parse_prompt(other) is None


@pytest.mark.parametrize(
    ("prompt", "asked"),
    [
        ("a dog", ("dog", 1)),
        ("an  ORANGE", ("orange", 1)),
        ("one wine glass", ("wine glass", 1)),
        ("3 people", ("person", 3)),
        ("ten traffic lights", ("traffic light", 10)),
        ("two buses", ("bus", 2)),
        ("two houses", ("house", 2)),
        ("five strawberries", ("strawberry", 5)),
        ("four sheep", ("sheep", 4)),
        ("a sheep", ("sheep", 1)),
        ("two teddy-bear toys", ("teddy-bear toy", 2)),
    ],
)
def test_noun_phrases_are_read(prompt, asked):
    assert parse_noun_phrase(prompt) == Asked(*asked)


@pytest.mark.parametrize(
    "prompt",
    [
        *("", "two", "dogs", "the dog", "some dogs", "eleven dogs", "a dogs", "two dog", "a dog on a bench"),
        *("a dog and a cat", "a bus left of an apple", "a dog running", "two dogs, playing", "a big brown dog"),
    ],
)
def test_what_is_no_plain_noun_phrase_is_not_judged(prompt):
    assert parse_noun_phrase(prompt) is None


def test_both_grammars_agree_about_copies_of_one_kind():
    for prompt in PROMPT_SETS["all-kinds"]:
        assert parse_noun_phrase(prompt) == parse_prompt(prompt)


def test_sets_of_prompts():
    assert {name: len(prompts) for name, prompts in PROMPT_SETS.items()} == {
        "paper": 20,
        "all-kinds": 42 * 5,
        "relations": 25 * 4,
        "held-out": 19 + 4 * 20,
        "coco": 77 * 5,
    }
    assert all(len(set(prompts)) == len(prompts) for prompts in PROMPT_SETS.values())
    assert PROMPT_SETS["paper"][:6] == ("a bus", "two buses", "three buses", "four buses", "five buses", "a sheep")
    assert PROMPT_SETS["coco"][:5] == ("a person", "two people", "three people", "four people", "five people")
    assert set(PROMPT_SETS["paper"]) <= set(PROMPT_SETS["all-kinds"])
    read = [parse_noun_phrase(prompt) for prompt in PROMPT_SETS["coco"]]
    assert [asked and asked.count for asked in read] == 77 * [1, 2, 3, 4, 5]
    assert all(len({asked and asked.kind for asked in read[start : start + 5]}) == 1 for start in range(0, 385, 5))


def test_what_training_shows_and_what_it_does_not():
    def held_out(name):
        asked = [parse_prompt(prompt) for prompt in PROMPT_SETS[name]]
        return [is_held_out_count(*one) if isinstance(one, Asked) else is_held_out_relation(*one) for one in asked]

    assert all(held_out("held-out")) and not any(held_out("relations")) and not any(held_out("paper"))
    relations = [parse_prompt(prompt) for prompt in PROMPT_SETS["held-out"][19:]]
    assert [one.relation for one in relations] == [relation for relation in RELATIONS for _ in range(20)]
    firsts = [parse_prompt(prompt).first for prompt in PROMPT_SETS["relations"][::4]]
    assert len(set(firsts)) == 25
