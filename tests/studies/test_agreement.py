"""Agreement against hand-worked and published examples, scipy, and raters who are known."""

import itertools
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from scipy import stats
from study_simulation import RaterModel, simulate_count, simulate_preference

from ifuvit.studies.agreement import (
    krippendorffs_alpha,
    ranking_agreement,
    rater_rows,
    repeated,
    self_consistency,
)
from ifuvit.studies.answers import Answer
from ifuvit.studies.ranks import Rankings, average_ranks, kendalls_w

STRENGTHS = {"a": 1.0, "b": 0.5, "c": 0.0, "d": -0.5}


@pytest.mark.parametrize("seed", range(4))
def test_kendalls_w_as_scipy(seed: int) -> None:
    """Friedman's statistic is raters x (things - 1) x W, both with the correction for ties; and the mean of Spearman's
    correlations between raters follows from W where there are no ties."""
    values = np.random.default_rng(seed).integers(1, 4, (5, 6)).astype(float)
    w = kendalls_w(values)
    assert w is not None
    assert 5 * 5 * w == pytest.approx(stats.friedmanchisquare(*values.T).statistic)
    distinct = np.stack([np.random.default_rng((seed, row)).permutation(6) for row in range(5)])
    items, places = np.zeros(5), np.tile(np.arange(6), (5, 1))
    table = Rankings(
        models=tuple("abcdef"), ranks=average_ranks(distinct), slots=places, items=items, raters=np.arange(5)
    )
    expected = np.mean([stats.spearmanr(a, b).statistic for a, b in itertools.combinations(distinct, 2)])
    assert ranking_agreement(table)["rank_correlation"]["value"] == pytest.approx(expected)


# Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), example C: four observers, twelve units.
PUBLISHED = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
    [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
]


@pytest.mark.parametrize(("level", "expected"), [("ordinal", 0.815), ("ratio", 0.797)])
def test_alpha_as_published(level: Literal["ordinal", "ratio"], expected: float) -> None:
    pytest.importorskip("krippendorff")
    told = [
        (value, unit, rater)
        for rater, row in enumerate(PUBLISHED)
        for unit, value in enumerate(row)
        if value is not None
    ]
    values, units, raters = (np.array(part) for part in zip(*told))
    found = krippendorffs_alpha(values[:, None], units, raters, level)
    assert found is not None
    assert round(found["value"], 3) == expected
    low, high = found["interval"]
    assert 0 < low < found["value"] < high <= 1
    assert found["interval_from"] == "jackknife over 12 items and 4 raters"


def test_alpha_of_ranks_takes_every_model_of_an_item_as_a_unit() -> None:
    krippendorff = pytest.importorskip("krippendorff")
    ranks = average_ranks(np.random.default_rng(0).integers(1, 5, (12, 4)))
    items = np.repeat(np.arange(4), 3)
    found = krippendorffs_alpha(ranks, items, np.tile(np.arange(3), 4), "ordinal")
    as_raters = ranks.reshape(4, 3, 4).transpose(1, 0, 2).reshape(3, 16)
    assert found is not None
    assert found["value"] == pytest.approx(krippendorff.alpha(as_raters, level_of_measurement="ordinal"))


def test_alpha_where_there_is_none() -> None:
    pytest.importorskip("krippendorff")
    assert krippendorffs_alpha(np.array([[1], [2]]), np.array([0, 1]), np.array([0, 1]), "ratio") is None
    assert krippendorffs_alpha(np.array([[3], [3]]), np.array([0, 0]), np.array([0, 1]), "ratio") is None


def test_careless_raters_are_flagged_and_others_are_not() -> None:
    study, answers = simulate_preference(
        STRENGTHS, items=20, raters=8, raters_per_item=4, how=RaterModel(careless=2), seed=1, checks=6, repeats=4
    )
    rows = rater_rows(study, answers, least_passed=0.6, least_pace=0.33)
    assert [row["flagged"] for row in rows] == [False] * 6 + [True] * 2
    assert all((row["checks"], row["passed"]) == (6, 6) for row in rows[:6])
    assert all(row["answered"] + row["not_told"] == 10 for row in rows)


def test_who_skips_checks_is_flagged() -> None:
    study, answers, _ = simulate_count({"x": 0.8}, raters=4, raters_per_item=1, how=RaterModel(), seed=0)
    lazy = [
        replace(one, status="skipped", count=None) if one.purpose == "check" and one.rater == "rater-0001" else one
        for one in answers
    ]
    assert [row["rater"] for row in rater_rows(study, lazy, least_passed=0.6, least_pace=0.33) if row["flagged"]] == [
        "rater-0001"
    ]
    unchecked = [one for one in answers if one.purpose != "check"]
    assert not any(row["flagged"] for row in rater_rows(study, unchecked, least_passed=0.6, least_pace=0.33))


@pytest.mark.parametrize(
    ("checks", "failed", "flagged"), [(1, 1, False), (3, 1, False), (3, 2, True), (4, 1, False), (4, 2, True)]
)
def test_one_slip_flags_nobody(checks: int, failed: int, flagged: bool) -> None:
    study, answers, _ = simulate_count({"x": 0.8}, raters=2, raters_per_item=1, how=RaterModel(), seed=0, checks=checks)
    own = [one for one in answers if one.rater == "rater-0000" and one.purpose == "check"]
    slips = [replace(one, count=99) if one in own[:failed] else one for one in answers]
    rows = rater_rows(study, slips, least_passed=0.6, least_pace=0.33)
    assert (rows[0]["passed"], rows[0]["flagged"]) == (checks - failed, flagged)


def test_who_is_much_faster_than_the_others_is_flagged() -> None:
    study, answers, _ = simulate_count({"x": 0.8}, raters=4, raters_per_item=1, how=RaterModel(), seed=0)
    usual = {"rater-0000": 6.0, "rater-0001": 8.0, "rater-0002": 10.0, "rater-0003": 1.0}
    timed = [replace(one, seconds=usual[one.rater]) for one in answers]

    def flagged(given: list[Answer], pace: float = 0.33) -> list[str]:
        rows = rater_rows(study, given, least_passed=0.6, least_pace=pace)
        assert all(row["fast"] == row["flagged"] for row in rows)
        return [row["rater"] for row in rows if row["fast"]]

    assert flagged(timed) == ["rater-0003"]  # the median of medians is 7
    assert flagged(timed, 0.0) == [] and flagged(timed, 0.9) == ["rater-0000", "rater-0003"]
    assert flagged([one for one in timed if one.rater in ("rater-0002", "rater-0003")]) == [], "of two nobody is usual"
    few = [one for one in timed if one.rater == "rater-0003" and one.purpose == "rating"][:4]
    assert flagged([*few, *(one for one in timed if one.rater != "rater-0003")]) == [], "four times say little"


def test_self_consistency() -> None:
    """Raters who never miscount repeat themselves; rankings of noisy ones keep more pairs than whole orders."""
    exact = RaterModel(miscounts=0, skipped=0)
    study, answers, _ = simulate_count({"x": 0.8}, raters=4, raters_per_item=2, how=exact, seed=0, repeats=5)
    found = self_consistency(study, answers, samples=100)
    assert (found["repeats"], found["same"]["value"], found["difference"]["value"]) == (20, 1, 0)
    study, answers = simulate_preference(
        STRENGTHS, items=30, raters=5, raters_per_item=3, how=RaterModel(skipped=0), seed=0, repeats=8
    )
    found = self_consistency(study, answers, samples=100)
    assert found["repeats"] == len(repeated(answers)) == 40
    assert found["same"]["value"] < 0.5 < found["pairs_kept"]["value"] < 1
    assert self_consistency(study, [one for one in answers if one.purpose != "repeat"], samples=100)["repeats"] == 0


def test_a_repeat_in_another_order_of_slots_is_the_same_ranking() -> None:
    study, answers = simulate_preference(
        STRENGTHS, items=6, raters=2, raters_per_item=2, how=RaterModel(skipped=0), seed=0, repeats=1
    )
    first, second = repeated(answers)[0]
    by_model = dict(zip(first.order, first.ranks or ()))
    turned = replace(second, order=(3, 1, 0, 2), ranks=tuple(by_model[model] for model in (3, 1, 0, 2)))
    found = self_consistency(study, [first, turned], samples=100)
    assert (found["same"]["value"], found["pairs_kept"]["value"]) == (1, 1)
