"""How raters rank models: the paper's points, pairwise win rates, Plackett-Luce strengths, and whether the slot mattered."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from ifuvit.studies.clustering import means, two_way
from ifuvit.studies.ranks import Rankings, kendalls_w

PENALTY = 0.01
"""Times the sum of squared log-strengths, as in choix. It keeps the strength of a model that always wins finite, and is
negligible next to dozens of answers."""


def preference_numbers(table: Rankings, *, samples: int, seed: int = 0) -> dict[str, Any]:
    """What the rankings say of the models.

    Returns:
        {"answers", "order": the models by strength, "points": {model: mean points}, "win_rates": {model: {other: share of
        answers that prefer the model, ties count half}}, "strengths": {model: log-strength, 0 on average}, "best": {model:
        chance to be ranked first, by its strength}, "slots": the test for slot bias}, estimates.
    """
    models, number = table.models, len(table.models)
    pairs = list(itertools.permutations(range(number), 2))
    wins = np.stack([preferred(table.ranks[:, a], table.ranks[:, b]) for a, b in pairs], axis=1)
    sets, stages = choice_stages(table.ranks)
    averaged = np.concatenate([np.ones((len(wins), 1)), table.points, wins, by_slot(table)], axis=1)

    def statistic(sums: np.ndarray) -> np.ndarray:
        of_means, of_stages = np.split(sums, [averaged.shape[1]], axis=1)
        strengths = fit_strengths(of_stages, sets)
        best = np.exp(strengths) / np.exp(strengths).sum(1, keepdims=True)
        return np.concatenate([means(of_means), strengths, best], axis=1)

    sizes = [number, len(pairs), number, number, number]
    least, most = np.repeat([1, 0, 1, -np.inf, 0], sizes), np.repeat([number, 1, number, np.inf, 1], sizes)
    estimates: Iterator[Any] = iter(
        two_way(
            np.concatenate([averaged, stages], axis=1),
            table.items,
            table.raters,
            statistic,
            bounds=(least, most),
            samples=samples,
            seed=seed,
        )
    )
    points = {model: next(estimates) for model in models}
    win_rates: dict[str, dict[str, Any]] = {model: {} for model in models}
    for a, b in pairs:
        win_rates[models[a]][models[b]] = next(estimates)
    slots = [next(estimates) for _ in range(number)]
    strengths = {model: next(estimates) for model in models}
    return {
        "answers": len(table.ranks),
        "order": sorted(models, key=lambda model: -strengths[model]["value"]),
        "points": points,
        "win_rates": win_rates,
        "strengths": strengths,
        "best": {model: next(estimates) for model in models},
        "slots": {"points": slots, **slot_test(table)},
    }


def preferred(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """1 where `one` has the better rank, 1/2 where both have the same."""
    return (one < other) + (one == other) / 2


# ------------------------------------------------------------------------------------------------------ Plackett-Luce


def choice_stages(ranks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All that the likelihood of a Plackett-Luce model needs to know of rankings, in which one model after the other is
    chosen from those that are left. Ties are broken in every way, at equal weights that sum to 1.

    Args:
        ranks: (A, M).

    Returns:
        (S, M) the sets of two or more models that were chosen from; (A, M + S) how often each model was chosen from such
        a set, and how often each set was chosen from.
    """
    distinct, of_answer = np.unique(ranks, axis=0, return_inverse=True)
    number, sets = ranks.shape[1], {}
    chosen = []
    for row in distinct:
        of_row: dict[Any, float] = {}
        left = frozenset(range(number))
        for rank in np.unique(row):
            tied = np.flatnonzero(row == rank).tolist()
            left -= frozenset(tied)
            # Of all orders of the tied ones every part of them is what comes last equally often.
            for size in range(1, len(tied) + 1):
                share = 1 / math.comb(len(tied), size)
                for part in itertools.combinations(tied, size):
                    choice = left | frozenset(part)
                    if len(choice) > 1:
                        sets.setdefault(choice, len(sets))
                        of_row[choice] = share
                        for model in part:
                            of_row[model] = of_row.get(model, 0.0) + share / size
        chosen.append(of_row)
    stages = np.zeros((len(distinct), number + len(sets)))
    for row, of_row in zip(stages, chosen):
        for key, times in of_row.items():
            row[number + sets[key] if isinstance(key, frozenset) else key] = times
    members = np.array([[model in one for model in range(number)] for one in sets]).reshape(len(sets), number)
    return members, stages[of_answer.reshape(-1)]


def fit_strengths(stages: np.ndarray, sets: np.ndarray) -> np.ndarray:
    """Maximum-likelihood log-strengths of a Plackett-Luce model: those of `choix.opt_rankings`, which takes neither weights
    nor a thousand bootstrap samples at once.

    Args:
        stages: (B, M + S) sums of `choice_stages`.
        sets: (S, M).

    Returns:
        (B, M), 0 on average.
    """
    number = sets.shape[1]
    wins, times = stages[:, :number], stages[:, number:]
    strengths = np.zeros_like(wins)
    for _ in range(100):
        # Newton's method; a step of more than 1 is shortened, which the strict convexity makes safe enough.
        weights = np.where(sets, np.exp(strengths)[:, None, :], 0.0)
        shares = weights / weights.sum(2, keepdims=True)  # (B, S, M)
        gradient = wins - np.einsum("bs,bsm->bm", times, shares) - 2 * PENALTY * strengths
        hessian = -np.einsum("bs,bsm,bsn->bmn", times, shares, shares)
        diagonal = np.arange(number)
        hessian[:, diagonal, diagonal] += np.einsum("bs,bsm->bm", times, shares) + 2 * PENALTY
        step = np.linalg.solve(hessian, gradient[..., None])[..., 0]
        largest = np.abs(step).max(1, keepdims=True)
        strengths = strengths + step / np.maximum(largest, 1)
        if largest.max(initial=0) < 1e-9:
            break
    return strengths - strengths.mean(1, keepdims=True)


# ------------------------------------------------------------------------------------------------------------- slots


def by_slot(table: Rankings) -> np.ndarray:
    """(A, M) points by slot."""
    return np.take_along_axis(table.points, np.argsort(table.slots, axis=1), axis=1)


def slot_test(table: Rankings) -> dict[str, Any]:
    """Friedman's test, corrected for ties, of whether a slot earns points by itself. The order of every answer was drawn
    at random and independently, so it holds whatever raters and items have in common.

    Returns:
        {"statistic", "p"}; None each where all images of every answer are tied.
    """
    from scipy.stats import chi2

    points = by_slot(table)
    concordance = kendalls_w(points)
    if concordance is None:
        return {"statistic": None, "p": None}
    statistic = len(points) * (points.shape[1] - 1) * concordance
    return {"statistic": statistic, "p": float(chi2.sf(statistic, points.shape[1] - 1))}
