"""Skills from what was counted, and what paraphrases lose."""

import pytest

from ifuvit.metrics.counting.parsing import Asked, AskedRelation
from ifuvit.metrics.counting.scores import Detection, score
from ifuvit.metrics.counting.skills import SKILLS, skill_metrics
from ifuvit.results import CountedImage, ObjectCounts, by_name


def sheep(count: int) -> list[Detection]:
    return [Detection("sheep", 10.0 * place, 5.0, 0.9) for place in range(count)]


def counted(asked, found, right, grounds=None) -> ObjectCounts:
    images = tuple(CountedImage(file="", prompt="", counted={}, right=one) for one in right)
    return ObjectCounts(**vars(score(asked, found, grounds=grounds)), images=images)


def test_each_skill_is_of_its_own_prompts():
    three, side = Asked("sheep", 3), AskedRelation("bus", "left of", "apple")
    bus, apple = Detection("bus", 10, 30, 0.9), Detection("apple", 50, 30, 0.8)
    found = by_name(
        skill_metrics(
            {
                "paper": counted([three] * 2, [sheep(3), sheep(2)], [True, False]),
                "grounds": counted(
                    [Asked("sheep", 1, "grass")] * 4,
                    [sheep(1)] * 3 + [[]],
                    [True] * 3 + [False],
                    ["grass", "snow", "other", "grass"],
                ),
                "relations": counted([side] * 2, [[bus, apple], [bus, apple, apple]], [True, False]),
                "paraphrases": counted([three] * 2, [sheep(4), sheep(3)], [False, True]),
                "held-out-counts": counted([three], [sheep(3)], [True]),
            }
        )
    )
    values = {name: metric.value for name, metric in found.items()}
    assert values == {
        "right kind": 0.75,
        "right ground": 0.5,
        "right kind and count": 0.5,
        "match ratio of counts": 0.5,
        "average error of counts": 0.5,
        "relation": 0.5,
        "held-out counts": 1.0,
        "paraphrased counts": 0.5,
        "lost by paraphrase, counts": 0.0,
    }
    assert found["held-out counts"].interval is None  # of one image
    assert all(metric.subject == "counts" for metric in found.values())
    assert list(SKILLS)[:2] == ["right kind", "right ground"]


def test_losses_are_paired_by_image():
    """90 of 100 in both sets: no loss, and an interval that knows in how many images they differ."""
    asked = [Asked("sheep", 1)] * 100
    first, same, other = [True] * 90 + [False] * 10, [True] * 90 + [False] * 10, [False] * 10 + [True] * 90
    found = sheep(1)

    def lost(right):
        sets = {"paper": counted(asked, [found] * 100, first), "paraphrases": counted(asked, [found] * 100, right)}
        return by_name(skill_metrics(sets))["lost by paraphrase, counts"]

    assert lost(same).interval == (0.0, 0.0)
    low, high = lost(other).interval
    assert lost(other).value == 0 and low < -0.05 and high > 0.05
    shorter = {
        "paper": counted(asked, [found] * 100, first),
        "paraphrases": counted(asked[:50], [found] * 50, first[:50]),
    }
    unpaired = by_name(skill_metrics(shorter))["lost by paraphrase, counts"]
    assert unpaired.value == pytest.approx(-0.1) and unpaired.interval is None
