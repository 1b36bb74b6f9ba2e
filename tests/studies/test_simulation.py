"""Simulated raters, and how often the analysis finds what they were planted with."""

import numpy as np
import pytest
from study_simulation import (
    RaterModel,
    Simulated,
    coverage,
    expected_order,
    flat_estimates,
    simulate_count,
    simulate_preference,
)

from ifuvit.studies.analysis import analyze_study

STRENGTHS = {"a": 1.5, "b": 0.75, "c": 0.0, "d": -0.75}
RIGHT = {"x": 0.8, "y": 0.6}
ORDINARY = RaterModel()


def preferences(seed: int, *, items: int = 100, raters: int = 10, how: RaterModel = ORDINARY) -> Simulated:
    study, answers = simulate_preference(STRENGTHS, items=items, raters=raters, raters_per_item=5, how=how, seed=seed)
    return study, answers, None


def counts(seed: int, *, images_per_prompt: int = 10, raters: int = 10) -> Simulated:
    return simulate_count(
        RIGHT, raters=raters, raters_per_item=3, how=RaterModel(), seed=seed, images_per_prompt=images_per_prompt
    )


def test_without_spreads_and_ties_strengths_are_those_planted() -> None:
    how = RaterModel(image_spread=0, taste_spread=0, tie_below=0, skipped=0)
    study, answers, _ = preferences(0, items=2000, raters=20, how=how)
    numbers = analyze_study(study, answers, samples=2)["everyone"]
    expected = np.array(list(STRENGTHS.values()))
    found = [numbers["strengths"][model]["value"] for model in STRENGTHS]
    assert found == pytest.approx(expected - expected.mean(), abs=0.06)
    assert numbers["win_rates"]["a"]["d"]["value"] == pytest.approx(1 / (1 + np.exp(-2.25)), abs=0.02)
    assert sum(numbers["points"][model]["value"] for model in STRENGTHS) == pytest.approx(10)


def test_planted_bias_and_ties() -> None:
    how = RaterModel(slot_bias=1.0, tie_below=0.3, skipped=0.2)
    study, answers, _ = preferences(0, items=40, raters=5, how=how)
    rated = [one for one in answers if one.purpose == "rating"]
    assert len(rated) == 200 and len({(one.rater, one.item) for one in rated}) == 200
    assert 0.1 < np.mean([one.status == "skipped" for one in rated]) < 0.3
    ranks = [one.ranks for one in rated if one.ranks]
    assert any(len(set(one)) < 4 for one in ranks) and all(min(one) == 1 for one in ranks)
    assert np.mean([one[0] for one in ranks]) < 2.2
    assert [task.purpose for task in study.raters[0].tasks][-5:] == ["repeat"] * 2 + ["check"] * 3


def test_planted_counts() -> None:
    how = RaterModel(miscounts=0)
    study, answers, shown = simulate_count(
        {"x": 0.7}, raters=9, raters_per_item=3, how=how, seed=1, images_per_prompt=100
    )
    numbers = analyze_study(study, answers, automatic=shown, samples=2)["everyone"]
    scores = numbers["models"]["x"]["overall"]
    # Wrong ones are wrong by 1, 1 or 2.
    assert scores["match_ratio"]["value"] == pytest.approx(0.7, abs=0.04)
    assert scores["average_error"]["value"] == pytest.approx(0.3 * 4 / 3, abs=0.06)
    assert numbers["counter"]["same"]["value"] == 1


def test_every_number_with_an_interval_is_found() -> None:
    study, answers, shown = counts(0)
    numbers = analyze_study(study, answers, automatic=shown, samples=2)["everyone"]
    names = set(flat_estimates(numbers))
    assert len(names) == 2 * 2 * (1 + 4 + 5 + 20) + 2 * 2 + 2 + 5 + 8 + 2
    assert {"models / x / cells / bus / 3 / match_ratio", "differences / y / x / average_error"} <= names
    assert {"agreement / krippendorffs_alpha", "counter / correlation", "self_consistency / same"} <= names


def test_the_expected_chance_to_find_the_order() -> None:
    """Two models: that of a normal number, whose variance tastes alone make here."""
    from scipy.stats import norm

    how = RaterModel(image_spread=0, taste_spread=1.0, tie_below=0)
    found = expected_order({"a": 0.3, "b": 0.0}, items=4000, raters=10, raters_per_item=5, how=how)
    assert found == pytest.approx(norm.cdf(0.3 / np.sqrt(2 * 1.0 / 10)), abs=0.03)
    design = {"items": 100, "raters_per_item": 5}
    near = {model: 0.5 * strength for model, strength in STRENGTHS.items()}
    strong = RaterModel(taste_spread=0.8)
    assert expected_order(STRENGTHS, raters=10, how=RaterModel(), **design) > 0.998
    assert expected_order(near, raters=10, how=strong, **design) < expected_order(near, raters=40, how=strong, **design)


def test_a_few_studies_find_what_was_planted() -> None:
    found = coverage(preferences, truth=preferences(99, items=1500, raters=300), planted="abcd", studies=5, samples=150)
    assert found["order_found"] == 1
    assert np.mean(list(found["covered"].values())) > 0.8
    counted = coverage(counts, truth=counts(99, images_per_prompt=60, raters=60), planted="xy", studies=4, samples=150)
    assert counted["order_found"] == 1
    assert np.mean(list(counted["covered"].values())) > 0.8


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["preference", "count"])
def test_intervals_cover_the_truth(kind: str) -> None:
    """Those of 100 studies of 10 raters; three standard errors of one number's share are 6.5 %. Of 200 studies:
    results/human-study-simulation."""
    if kind == "preference":
        found = coverage(preferences, truth=preferences(999, items=8000, raters=2000), planted="abcd", studies=100)
    else:
        truth = counts(999, images_per_prompt=300, raters=800)
        found = coverage(counts, truth=truth, planted="xy", studies=100)
    assert found["order_found"] == 1
    shares = np.array(list(found["covered"].values()))
    assert 0.92 <= shares.mean() <= 0.97
    assert (shares >= 0.86).all()
