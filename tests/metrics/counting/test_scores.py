"""The scores agree with hand counts."""

import json

import pytest

from ifuvit.data.scenes import held_out
from ifuvit.metrics.counting.parsing import Asked, AskedRelation, parse_prompt
from ifuvit.metrics.counting.scores import Detection, count_metrics, relation_holds, relation_of, score
from ifuvit.results import CountScores, Estimate, ObjectScores
from ifuvit.utils.config import from_dict, to_dict
from ifuvit.utils.errors import InputError


def values(scores):
    return {name: one.value for name, one in vars(scores).items() if isinstance(one, Estimate)}


def found(*objects):
    return [Detection(kind, x, 30.0, 0.9) for kind, x in objects]


def test_relations():
    assert relation_holds("left of", (10, 30), (50, 35)) and relation_holds("right of", (50, 35), (10, 30))
    assert relation_holds("above", (30, 10), (35, 50)) and relation_holds("below", (35, 50), (30, 10))
    assert not relation_holds("left of", (50, 30), (10, 30))
    assert not relation_holds("left of", (10, 10), (20, 50))  # more above than left
    assert not any(relation_holds(relation, (9, 9), (9, 9)) for relation in ("left of", "right of", "above", "below"))
    objects = [Detection("bus", 50, 30, 0.9), Detection("apple", 10, 30, 0.8), Detection("bus", 1, 30, 0.6)]
    assert relation_of(objects, "bus", "right of", "apple") and not relation_of(objects, "bus", "left of", "apple")
    assert not relation_of(objects, "bus", "right of", "cow")


def test_count_metrics_by_hand():
    asked = [("bus", 3), ("bus", 1), ("sheep", 3), ("sheep", 5)]
    metrics = count_metrics(asked, (3, 2, 0, 9))
    assert metrics.overall.images == 4
    assert values(metrics.overall) == {"average_error": (0 + 1 + 3 + 4) / 4, "match_ratio": 0.25}
    assert metrics.overall.match_ratio.n == 4
    low, high = metrics.overall.match_ratio.interval
    assert 0 <= low < 0.25 < high <= 1
    assert {name: values(one) for name, one in metrics.by_count.items()} == {
        "1": {"average_error": 1.0, "match_ratio": 0.0},
        "3": {"average_error": 1.5, "match_ratio": 0.5},
        "5": {"average_error": 4.0, "match_ratio": 0.0},
    }
    assert values(metrics.by_object["bus"]) == {"average_error": 0.5, "match_ratio": 0.5}
    assert {kind: {count: values(one) for count, one in row.items()} for kind, row in metrics.cells.items()} == {
        "bus": {
            "1": {"average_error": 1.0, "match_ratio": 0.0},
            "3": {"average_error": 0.0, "match_ratio": 1.0},
        },
        "sheep": {
            "3": {"average_error": 3.0, "match_ratio": 0.0},
            "5": {"average_error": 4.0, "match_ratio": 0.0},
        },
    }
    assert metrics.confusion.counted == ("0", "1", "2", "3", "4", "5", "more")
    assert metrics.confusion.asked == {
        "1": (0, 0, 1, 0, 0, 0, 0),
        "2": (0, 0, 0, 0, 0, 0, 0),
        "3": (1, 0, 0, 1, 0, 0, 0),
        "4": (0, 0, 0, 0, 0, 0, 0),
        "5": (0, 0, 0, 0, 0, 0, 1),
    }


def test_count_metrics_of_any_kinds_and_larger_numbers():
    metrics = count_metrics([("zebra", 7)], [8])
    assert metrics.confusion.counted[-1] == "more" and metrics.confusion.asked["7"][8] == 1
    assert len(metrics.confusion.asked["1"]) == len(metrics.confusion.counted) == 9
    assert metrics.by_combination == {} and metrics.overall.right is None


def test_count_metrics_of_nothing_and_of_unequal_lengths():
    assert count_metrics([], []).overall == CountScores(images=0)
    with pytest.raises(InputError, match="2 counted"):
        count_metrics([("bus", 1)], (1, 2))
    with pytest.raises(InputError, match="0 numbers of objects"):
        count_metrics([("bus", 1)], [1], objects=[])


def test_scores_by_hand():
    two, left = Asked("sheep", 2), AskedRelation("bus", "left of", "apple")
    asked = [two, two, Asked("sheep", 3), Asked("bus", 1), left, left, left, left]
    objects = [
        found(("sheep", 10), ("sheep", 40)),  # right
        found(("sheep", 10), ("cow", 40)),  # right number of objects, one of another kind
        found(("sheep", 10), ("sheep", 25), ("sheep", 40), ("cow", 55)),  # three sheep, and a cow
        found(),  # nothing
        found(("bus", 10), ("apple", 50)),  # right
        found(("bus", 50), ("apple", 10)),  # wrong way round
        found(("bus", 10), ("apple", 50), ("apple", 30)),  # one too many
        found(("bus", 10)),  # no apple
    ]
    result = score(asked, objects)
    assert result.counts.overall.images == result.relations.overall.images == 4
    assert values(result.counts.overall) == {
        "right_kind": 0.25,  # an empty image has no right kind
        "right_count": 0.5,
        "right": 0.25,
        "average_error": (0 + 1 + 0 + 1) / 4,
        "match_ratio": 0.5,
    }
    assert values(result.relations.overall) == {
        "both_kinds": 0.75,
        "right_objects": 0.5,
        "right": 0.25,
        "placed_if_both_kinds": pytest.approx(2 / 3),
    }
    assert result.relations.overall.placed_if_both_kinds.n == 3
    assert list(result.relations.by_relation) == ["left of"]
    assert from_dict(ObjectScores, json.loads(json.dumps(to_dict(result)))) == result
    only_asked = score(asked[:3], objects[:3], every_kind=False)
    assert values(only_asked.counts.overall) == {"average_error": 1 / 3, "match_ratio": pytest.approx(2 / 3)}
    assert only_asked.relations is None and score([], []) == ObjectScores()
    alone = score([left], [[]]).relations.overall
    assert alone.placed_if_both_kinds is None and alone.both_kinds.value == 0


def test_held_out_combinations_are_told_apart():
    rare = [held_out()[name][0]["prompt"] for name in ("counts", "relations")]
    result = score([parse_prompt(rare[0]), Asked("bus", 1), parse_prompt(rare[1])], [[], found(("bus", 1)), []])
    assert result.counts.by_combination["held out"].right.value == 0
    assert result.counts.by_combination["in training"].right.value == 1
    assert list(result.relations.by_combination) == ["held out"]
