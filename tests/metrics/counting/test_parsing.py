"""What a prompt asks for: plain prompts, training captions, other words around them, and what is refused."""

import pytest

from ifuvit.data.scenes import INVERSE, KINDS, draw_scene, prompt_for, relation_prompt_for
from ifuvit.metrics.counting.parsing import Asked, AskedRelation, parse_noun_phrase, parse_prompt
from ifuvit.metrics.counting.prompts import PROMPT_SETS


def test_prompts_are_read_back():
    for kind in KINDS:
        for count in range(1, 6):
            assert parse_prompt(prompt_for(kind.name, count)) == Asked(kind.name, count)
    assert parse_prompt("  Three   SHEEP ") == Asked("sheep", 3)
    assert parse_prompt("a sheep") == Asked("sheep", 1)
    assert parse_prompt("four people") == Asked("person", 4)
    assert parse_prompt(relation_prompt_for("bus", "left of", "apple")) == AskedRelation("bus", "left of", "apple")


@pytest.mark.parametrize(
    ("prompt", "asked"),
    [
        ("a picture of exactly three sheep, please", Asked("sheep", 3)),
        ("Could you draw me 2 buses on a blue background?", Asked("bus", 2, "blue")),
        ("on snow there are four people", Asked("person", 4, "snow")),
        ("six sheep", Asked("sheep", 6)),
        ("an apple is to the left of a bus on sand", AskedRelation("apple", "left of", "bus", "sand")),
        ("a lion at the bottom and a tree at the top", AskedRelation("lion", "below", "tree")),
        ("on the left a crab and on the right a bee", AskedRelation("crab", "left of", "bee")),
        ("please show a cat under a star", AskedRelation("cat", "below", "star")),
    ],
)
def test_other_words_ask_for_nothing_else(prompt, asked):
    assert parse_prompt(prompt) == asked


@pytest.mark.parametrize(
    "prompt",
    [
        *("two bus", "a buses", "a bus left of a bus", "a dog", "", "sheep", "two red apples", "not three sheep"),
        *("a bus and a car", "two buses left of a car", "a sheep in a bus", "three sheep in a field", "no sheep"),
        *("a lion on the left and a tree at the top", "three sheep on grass on snow", "a bus left of", "seventy sheep"),
        *("a picture of sheep", "a bus left of an apple above a star", "three sheep without grass"),
    ],
)
def test_prompts_that_ask_for_something_else_are_not_read(prompt):
    assert parse_prompt(prompt) is None


def test_training_captions_are_read_as_what_the_scene_shows():
    """But "a bus and a car", which names no relation."""
    for index in range(60):
        scene = draw_scene(3, index, split="val")
        kinds = [kind for kind, _ in scene.objects]
        for caption in scene.captions:
            read = parse_prompt(caption)
            if isinstance(read, AskedRelation):
                assert scene.relation is not None
                either = ((kinds[0], scene.relation, kinds[1]), (kinds[1], INVERSE[scene.relation], kinds[0]))
                assert read[:3] in either
            elif isinstance(read, Asked):
                assert (read.kind, read.count) == (kinds[0], len(kinds))
            else:
                assert " and " in caption and scene.relation is not None, caption
            if read is not None:
                assert read.ground == (scene.background if " on " in f" {caption}" and read.ground else None)


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
