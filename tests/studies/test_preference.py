"""Points, win rates and strengths against hand-worked examples and against choix and scipy."""

import itertools

import numpy as np
import pytest
from scipy import stats
from study_simulation import RaterModel, simulate_preference

from ifuvit.studies.preference import (
    PENALTY,
    by_slot,
    choice_stages,
    fit_strengths,
    preference_numbers,
    slot_test,
)
from ifuvit.studies.ranks import Rankings, average_ranks, rankings

STRENGTHS = {"a": 1.0, "b": 0.5, "c": 0.0, "d": -0.5}


def random_ranks(answers: int, models: int = 4, *, ties: bool = True, seed: int = 0) -> np.ndarray:
    utility = np.random.default_rng(seed).gumbel(size=(answers, models)) + np.linspace(1, -0.5, models)
    return average_ranks(-np.round(utility, 0 if ties else 9))


def table(ranks: np.ndarray, slots: np.ndarray | None = None) -> Rankings:
    places = np.arange(len(ranks))
    return Rankings(
        models=tuple("abcdefg"[: ranks.shape[1]]),
        ranks=ranks,
        slots=np.tile(np.arange(ranks.shape[1]), (len(ranks), 1)) if slots is None else slots,
        items=places // 3,
        raters=places % 3,
    )


def test_points_by_hand() -> None:
    """The paper's 4-3-2-1; who shares a place shares its points."""
    found = table(average_ranks(np.array([[1, 2, 3, 4], [1, 1, 3, 4], [2, 2, 1, 2]])))
    assert found.points.tolist() == [[4, 3, 2, 1], [3.5, 3.5, 2, 1], [2, 2, 4, 2]]
    numbers = preference_numbers(found, samples=100)
    assert numbers["points"]["a"]["value"] == pytest.approx(9.5 / 3)
    assert numbers["win_rates"]["a"]["b"]["value"] == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert numbers["win_rates"]["c"]["d"]["value"] == 1
    assert sum(one["value"] for one in numbers["best"].values()) == pytest.approx(1)


def strict_orders(ranks: np.ndarray) -> list[tuple[int, ...]]:
    """All orders, best first, that agree with ranks but for ties."""
    orders = itertools.permutations(range(len(ranks)))
    return [order for order in orders if all(np.diff(ranks[list(order)]) >= 0)]


def test_stages_of_a_tie_are_those_of_its_orders() -> None:
    for row in ([1.5, 1.5, 3], [2, 2, 2], [1, 3, 3, 3], [1.5, 1.5, 3.5, 3.5], [2.5] * 4):
        orders = strict_orders(np.array(row))
        untied = np.array([np.argsort(order) + 1.0 for order in orders])
        expected, found = (choice_stages(ranks) for ranks in (untied, np.array([row])))
        number = len(row)
        for sets, stages in (expected, found):
            assert sets.sum(1).min() > 1 and stages.shape[1] == number + len(sets)
        shares = [
            {tuple(members): times for members, times in zip(sets.tolist(), stages.mean(0)[number:])}
            for sets, stages in (expected, found)
        ]
        assert shares[0] == pytest.approx(shares[1])
        assert found[1][0, :number] == pytest.approx(expected[1].mean(0)[:number])


def test_strengths_of_two_models_are_the_log_odds() -> None:
    """Of 30 answers 20 prefer the first and 4 are ties: 22 to 8."""
    ranks = average_ranks(np.array([[1, 2]] * 20 + [[2, 1]] * 6 + [[1, 1]] * 4))
    sets, stages = choice_stages(ranks)
    strengths = fit_strengths(stages.sum(0, keepdims=True), sets)[0]
    assert strengths[0] - strengths[1] == pytest.approx(np.log(22 / 8), abs=0.01)  # up to the penalty
    assert strengths.sum() == pytest.approx(0)


@pytest.mark.parametrize(("models", "ties"), [(4, False), (4, True), (3, True), (5, False)])
def test_strengths_as_choix(models: int, ties: bool) -> None:
    """choix knows no weights, so every ranking is repeated until the shares of its broken ties are whole numbers."""
    choix = pytest.importorskip("choix")
    ranks = random_ranks(25, models, ties=ties, seed=models)
    orders = [strict_orders(row) for row in ranks]
    whole = int(np.lcm.reduce([len(one) for one in orders]))
    repeated = [order for one in orders for order in one for _ in range(whole // len(one))]
    expected = choix.opt_rankings(models, repeated, alpha=PENALTY * whole, method="BFGS", tol=1e-6)
    sets, stages = choice_stages(ranks)
    found = fit_strengths(np.stack([stages.sum(0), stages[:9].sum(0)]), sets)
    assert found[0] == pytest.approx(expected - expected.mean(), abs=1e-5)
    assert found[1] == pytest.approx(fit_strengths(stages[None, :9].sum(1), sets)[0]), "samples don't mix"


def test_a_model_that_always_wins_has_a_finite_strength() -> None:
    ranks = np.tile([1.0, 2.0, 3.0], (40, 1))
    numbers = preference_numbers(table(ranks), samples=100)
    assert numbers["order"] == ["a", "b", "c"]
    assert 2 < numbers["strengths"]["a"]["value"] < 15
    low, high = numbers["points"]["a"]["interval"]
    assert 2 < low < 2.7 and high == pytest.approx(3), "14 items tell no more, however much they agree"


def test_one_answer_has_no_interval() -> None:
    numbers = preference_numbers(table(np.array([[1.0, 2.0, 3.0, 4.0]])), samples=100)
    assert numbers["points"]["a"]["value"] == 4 and numbers["points"]["a"]["interval"] is None


def test_answers_that_are_all_ties() -> None:
    numbers = preference_numbers(table(np.full((6, 3), 2.0)), samples=100)
    assert numbers["slots"]["p"] is None
    assert all(one["value"] == 2 for one in numbers["points"].values())
    assert all(one["value"] == pytest.approx(0) for one in numbers["strengths"].values())


# --------------------------------------------------------------------------------------------------------------- slots


def test_ranks_go_from_slots_to_models() -> None:
    study, answers = simulate_preference(STRENGTHS, items=10, raters=3, raters_per_item=2, how=RaterModel(), seed=0)
    ratings = [one for one in answers if one.purpose == "rating"]
    found = rankings(study, ratings)
    for row, slots, points, one in zip(found.ranks, found.slots, by_slot(found), filter(lambda a: a.ranks, ratings)):
        assert one.ranks is not None
        assert [one.order[slot] for slot in slots] == [0, 1, 2, 3]
        assert np.array_equal(row, average_ranks(np.array([one.ranks]))[0][slots])
        assert np.array_equal(points, 5 - average_ranks(np.array([one.ranks]))[0])


@pytest.mark.parametrize("ties", [False, True])
def test_slot_test_as_scipy(ties: bool) -> None:
    rng = np.random.default_rng(3)
    ranks = random_ranks(40, ties=ties, seed=9)
    found = table(ranks, slots=np.stack([rng.permutation(4) for _ in ranks]))
    expected = stats.friedmanchisquare(*by_slot(found).T)
    tested = slot_test(found)
    assert tested["statistic"] == pytest.approx(expected.statistic)
    assert tested["p"] == pytest.approx(expected.pvalue)


def test_slot_bias_is_found_where_it_is() -> None:
    p = []
    for bias in (0.0, 0.8):
        how = RaterModel(slot_bias=bias)
        study, answers = simulate_preference(STRENGTHS, items=60, raters=6, raters_per_item=5, how=how, seed=4)
        found = rankings(study, [one for one in answers if one.purpose == "rating"])
        p.append(slot_test(found)["p"])
        if bias:
            assert by_slot(found).mean(0).argmax() == 0
    assert p[0] > 0.01 and p[1] < 1e-4
