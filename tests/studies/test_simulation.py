"""Simulated raters: their planted truth, and how often the analysis finds it."""

import numpy as np
import pytest

from ifuvit.studies.simulation import (
    RaterModel,
    count_coverage,
    count_truth,
    preference_coverage,
    preference_truth,
    simulate_count,
    simulate_preference,
)

STRENGTHS = {"a": 1.0, "b": 0.5, "c": 0.0, "d": -0.5}
RIGHT = {"x": 0.8, "y": 0.6}


def every(covered: dict[str, dict[str, float]]) -> list[float]:
    return [share for parts in covered.values() for share in parts.values()]


def test_without_spreads_and_ties_the_truth_is_a_plackett_luce_model() -> None:
    how = RaterModel(picture_spread=0, taste_spread=0, tie_below=0)
    truth = preference_truth(STRENGTHS, how=how, answers=60_000)
    expected = np.array(list(STRENGTHS.values()))
    assert truth["strengths"] == pytest.approx(expected - expected.mean(), abs=0.02)
    assert truth["win_rates"][0, 3] == pytest.approx(1 / (1 + np.exp(-1.5)), abs=0.01)
    assert truth["points"].sum() == pytest.approx(10)


def test_planted_bias_and_ties() -> None:
    how = RaterModel(slot_bias=1.0, tie_below=0.3, skipped=0.2)
    study, answers = simulate_preference(STRENGTHS, items=40, raters=5, raters_per_item=5, how=how, seed=0)
    rated = [one for one in answers if one.purpose == "rating"]
    assert len(rated) == 200 and len({(one.rater, one.item) for one in rated}) == 200
    assert 0.1 < np.mean([one.status == "skipped" for one in rated]) < 0.3
    ranks = [one.ranks for one in rated if one.ranks]
    assert any(len(set(one)) < 4 for one in ranks) and all(min(one) == 1 for one in ranks)
    assert np.mean([one[0] for one in ranks]) < 2.2
    assert [task.purpose for task in study.raters[0].tasks][-5:] == ["repeat"] * 2 + ["check"] * 3


def test_truth_of_counts() -> None:
    exact = count_truth({"x": 0.7}, how=RaterModel(miscounts=0))["x"]
    assert exact == pytest.approx((0.3 * 4 / 3, 0.7))
    how = RaterModel(miscounts=0.2)
    study, answers, shown = simulate_count({"x": 0.7}, raters=9, raters_per_item=3, how=how, seed=1)
    told = [(study.item(one.item), one.count) for one in answers if one.purpose == "rating" and one.count is not None]
    errors = np.array([abs(count - (item.count or 0)) for item, count in told])
    assert (errors.mean(), (errors == 0).mean()) == pytest.approx(count_truth({"x": 0.7}, how=how)["x"], abs=0.12)
    assert len(shown) == 200 == len(study.items)


def test_a_few_studies_find_what_was_planted() -> None:
    found = preference_coverage(STRENGTHS, how=RaterModel(), studies=6, items=80, raters_per_item=4, samples=150)
    assert found["order_found"] > 0.8
    assert np.mean(every(found["covered"])) > 0.8
    counted = count_coverage(RIGHT, how=RaterModel(), studies=12, samples=150)
    assert counted["order_found"] == 1
    assert np.mean(every(counted["covered"])) > 0.8


@pytest.mark.slow
def test_intervals_cover_the_truth() -> None:
    """Each number's interval in 90 to 98 % of 200 studies of 10 raters; three standard errors of a share are 4.6 %."""
    found = preference_coverage(STRENGTHS, how=RaterModel(), studies=200, items=100)
    counted = count_coverage(RIGHT, how=RaterModel(), studies=200)
    for one in (found, counted):
        assert one["order_found"] > 0.95
        assert 0.9 <= np.mean(every(one["covered"])) <= 0.98
        assert all(0.88 <= share <= 0.99 for share in every(one["covered"]))
