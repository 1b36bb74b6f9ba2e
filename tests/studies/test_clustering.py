"""Intervals over items and raters against the variances that they should have."""

import numpy as np
import pytest
from scipy.stats import binomtest, t

from ifuvit.studies.clustering import Dispersion, jackknife, means, two_way


def answers(items: int, raters: int, *, item: float, rater: float, noise: float, seed: int) -> tuple[np.ndarray, ...]:
    """Every rater's number for every item."""
    rng = np.random.default_rng(seed)
    values = rng.normal(scale=item, size=(items, 1)) + rng.normal(scale=rater, size=(1, raters))
    values = (values + rng.normal(scale=noise, size=(items, raters))).reshape(-1)
    of_item, of_rater = (part.reshape(-1) for part in np.indices((items, raters)))
    return np.stack([np.ones_like(values), values], axis=1), of_item, of_rater


def half_width(estimate: dict) -> float:
    return (estimate["interval"][1] - estimate["interval"][0]) / 2


def test_independent_answers_have_the_interval_of_a_mean() -> None:
    """Here a bootstrap of items and raters at once would be 1.7 times too wide."""
    features, items, raters = answers(60, 12, item=0, rater=0, noise=1, seed=1)
    (estimate,) = two_way(features, np.arange(len(items)), np.arange(len(items)), means, samples=4000)
    values = features[:, 1]
    assert estimate is not None
    assert estimate["value"] == pytest.approx(values.mean())
    expected = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    assert half_width(estimate) == pytest.approx(expected, rel=0.08)


@pytest.mark.parametrize(("item", "rater"), [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
def test_of_what_items_and_raters_have_in_common(item: float, rater: float) -> None:
    """The variance of a mean in a complete table, by the means of its rows and columns."""
    features, items, raters = answers(60, 12, item=item, rater=rater, noise=0.5, seed=2)
    (estimate,) = two_way(features, items, raters, means, samples=4000)
    table = features[:, 1].reshape(60, 12)
    alone, of_items, of_raters = table.var(ddof=1) / 720, table.mean(1).var(ddof=1) / 60, table.mean(0).var(ddof=1) / 12
    excess = max(of_raters - alone, 0)
    variance = of_items + excess
    freedom = variance**2 / (of_items**2 / 59 + excess**2 / 11)
    assert estimate is not None
    assert half_width(estimate) == pytest.approx(t.ppf(0.975, freedom) * variance**0.5, rel=0.08)
    assert half_width(estimate) > 2.5 * 1.96 * alone**0.5


def test_what_an_interval_is_from() -> None:
    features, items, raters = answers(20, 1, item=1, rater=0, noise=1, seed=3)
    (estimate,) = two_way(features, items, raters, means, samples=200)
    assert estimate is not None
    assert (estimate["interval_from"], estimate["n"]) == ("bootstrap over 20 items", 20)
    assert two_way(features[:0], items[:0], raters[:0], means) == []
    (single,) = two_way(features[:1], items[:1], raters[:1], means)
    assert single is not None and single["interval"] is None


@pytest.mark.parametrize("right", [0, 3, 150, 299, 300])
def test_shares_have_wilsons_interval(right: int) -> None:
    features = np.stack([np.ones(300), np.arange(300) < right], axis=1).astype(float)
    alone = np.arange(300)
    (estimate,) = two_way(features, alone, alone, means, bounds=(0, 1), samples=4000)
    expected = binomtest(right, 300).proportion_ci(0.95, "wilson")
    assert estimate is not None
    assert estimate["interval"] == pytest.approx([expected.low, expected.high], abs=0.004)
    # The same on another scale.
    (points,) = two_way(features, alone, alone, lambda sums: 1 + 3 * means(sums), bounds=(1, 4), samples=4000)
    assert points is not None
    assert points["interval"] == pytest.approx([1 + 3 * bound for bound in estimate["interval"]])


def test_errors_have_an_interval_above_zero() -> None:
    """The numbers whose Poisson distribution has the found variance at their own mean."""
    values = np.repeat([0.0, 1.0, 2.0], [80, 15, 5])
    features, alone = np.stack([np.ones(100), values], axis=1), np.arange(100)
    (estimate,) = two_way(features, alone, alone, means, bounds=(0, np.inf), samples=4000)
    assert estimate is not None
    low, high = estimate["interval"]
    scale = values.var(ddof=1) / 100 / values.mean()
    for bound in (low, high):
        assert (bound - values.mean()) ** 2 == pytest.approx(t.ppf(0.975, 99) ** 2 * scale * bound, rel=0.1)
    assert 0 < low and high - values.mean() > values.mean() - low
    (none,) = two_way(features * [1, 0], alone, alone, means, bounds=(0, np.inf), samples=100)
    assert none is not None and none["interval"] == pytest.approx([0, t.ppf(0.975, 99) ** 2 / 100], abs=1e-9)


@pytest.mark.parametrize("wrong", [0, 1, 4])
def test_few_items_scatter_at_least_as_many_like_them(wrong: int) -> None:
    """Of 10 items; the known dispersion has 199 degrees of freedom, and shares keep their own variance."""
    error = np.repeat([0.0, 1.0], [10 - wrong, wrong])
    features, alone = np.stack([np.ones(10), error, error], axis=1), np.arange(10)
    bounds = (0, [np.inf, 1])
    many = Dispersion(of_item=np.array([2.0, 0.0]), items=200, name="all 200 items")
    floored, share = two_way(features, alone, alone, means, bounds=bounds, dispersion=many, samples=100)
    own, same_share = two_way(features, alone, alone, means, bounds=bounds, samples=100)
    assert floored is not None and share is not None and own is not None
    assert share == same_share
    for bound in floored["interval"]:
        assert (bound - error.mean()) ** 2 == pytest.approx(t.ppf(0.975, 199) ** 2 * 2.0 / 10 * bound, abs=1e-9)
    assert own["interval"][1] < floored["interval"][1]
    assert floored["interval_from"] == own["interval_from"] + ", at least as all 200 items"
    # Items that scatter more than the many keep their variance.
    less = Dispersion(of_item=np.array([1e-6, 0.0]), items=200, name="all 200 items")
    (kept, _) = two_way(features, alone, alone, means, bounds=bounds, dispersion=less, samples=100)
    assert kept is not None
    ratio = (t.ppf(0.975, 9) / t.ppf(0.975, 199)) ** 2
    expected, found = (
        ((one["interval"][1] - error.mean()) ** 2 / max(one["interval"][1], 1e-9)) for one in (own, kept)
    )
    assert expected / found == pytest.approx(ratio)


@pytest.mark.parametrize(("item", "rater"), [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
def test_leaving_out_tells_the_same_of_a_mean_as_drawing_anew(item: float, rater: float) -> None:
    features, items, raters = answers(70, 8, item=item, rater=rater, noise=1, seed=6)
    (drawn,) = two_way(features, items, raters, means, samples=4000)
    (left,) = jackknife(lambda chosen: features[chosen, 1:].mean(0), items, raters)
    assert drawn is not None and left is not None
    assert left["value"] == pytest.approx(drawn["value"])
    assert half_width(left) == pytest.approx(half_width(drawn), rel=0.15)
    assert left["interval_from"] == "jackknife over 70 items and 8 raters"


def test_undefined_numbers() -> None:
    features, items, raters = answers(12, 3, item=5, rater=5, noise=5, seed=4)
    zero_over_zero = np.zeros((len(features), 1))

    def statistic(sums: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return np.concatenate([means(sums[:, :2]), sums[:, 2:] / sums[:, 2:]], axis=1)

    both = np.concatenate([features, zero_over_zero], axis=1)
    defined, undefined = two_way(both, items, raters, statistic, samples=200)
    assert defined is not None and undefined is None


def test_the_same_seed_gives_the_same_interval() -> None:
    features, items, raters = answers(15, 4, item=1, rater=1, noise=1, seed=5)
    first, second, other = (two_way(features, items, raters, means, samples=200, seed=seed) for seed in (7, 7, 8))
    assert first == second != other
