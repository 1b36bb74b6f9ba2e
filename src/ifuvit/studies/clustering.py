"""How sure numbers of a study are, when both other items and other raters would have given other ones.

Answers to one item resemble each other, and so do those of one rater. A bootstrap over answers takes them for independent
and is too narrow; one that draws items and raters at once counts the answers' own noise three times (Owen and Eckles,
Annals of Applied Statistics 2012) and is too wide. So there are three bootstraps, and their variances make one (Cameron,
Gelbach and Miller, Journal of Business & Economic Statistics 2011): that of whole items drawn again, and on top of it what
that of whole raters has more than that of single answers, if it has. The interval takes Student's t at Satterthwaite's
degrees of freedom, for ten raters tell little of how much raters differ. Near a least or a greatest value that a number can
have, its variance falls; so a share has Wilson's interval for the number of independent answers that would have the found
variance (Dean and Pagano, Journal of Survey Statistics and Methodology 2015), and a mean of numbers from 0 on its limit.
These stay within the bounds, are not symmetric near them, and have a width even where all answers agree. Ten items with a
wrong one or none know too little of their own variance; where like items are many, it is taken to be at least what it is
there (`Dispersion`), as quasi-likelihood takes one dispersion for all cells of a table.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

SAMPLES = 10_000
_AT_ONCE = 1000
"""Samples whose statistic is computed together."""

Statistic = Callable[[np.ndarray], np.ndarray]
"""Q numbers from sums over answers: (B, F) sums of F features, for B samples, to (B, Q). NaN where undefined."""


@dataclass(frozen=True, kw_only=True)
class Dispersion:
    """How much items like these scatter, in units of what a number's bounds let it have at its mean: without an upper bound,
    variance over mean."""

    of_item: np.ndarray
    """(Q,), 0 for a number whose own variance is taken as it is."""
    items: int
    """On how many it was found."""
    name: str
    """Which those are, for "interval_from"."""


def two_way(
    features: np.ndarray,
    items: np.ndarray,
    raters: np.ndarray,
    statistic: Statistic,
    *,
    bounds: tuple[ArrayLike, ArrayLike] = (-np.inf, np.inf),
    dispersion: Dispersion | None = None,
    samples: int = SAMPLES,
    seed: int = 0,
) -> list[dict[str, Any] | None]:
    """Numbers of a study with their 95 % intervals.

    Args:
        features: (A, F), a row for each of A answers.
        items: (A,) which item each is about.
        raters: (A,) who gave it.
        statistic: the numbers, from the features' sums.
        bounds: the least and the greatest values that the numbers can have, one for all or (Q,).
        dispersion: what an interval takes at least, for few items.
        samples: how often each bootstrap draws.

    Returns:
        {"value", "interval", "interval_from", "n": A} for each of the Q numbers; None for one that is undefined. An
        interval from one rater alone, or one item, says nothing about others; "interval_from" says so.
    """
    if len(features) == 0:
        return []
    values = statistic(features.sum(0, keepdims=True))[0]
    rng = np.random.default_rng(seed)

    def of(clusters: np.ndarray) -> np.ndarray:
        return _variance(features, clusters, statistic, samples, rng)

    numbers = {"item": len(np.unique(items)), "rater": len(np.unique(raters))}
    variances = {
        "answer": of(np.arange(len(features))),
        **{name: of(ids) for name, ids in (("item", items), ("rater", raters)) if numbers[name] > 1},
    }
    return _estimates(values, variances, numbers, bounds, dispersion=dispersion, how="bootstrap", answers=len(features))


def mirrored(estimate: dict[str, Any] | None) -> dict[str, Any] | None:
    """The estimate of the opposite difference: B - A from A - B."""
    if estimate is None:
        return None
    interval = estimate["interval"]
    return {
        **estimate,
        "value": -estimate["value"],
        "interval": None if interval is None else [-interval[1], -interval[0]],
    }


GROUPS = 50


def jackknife(
    statistic: Callable[[np.ndarray], np.ndarray],
    items: np.ndarray,
    raters: np.ndarray,
    *,
    bounds: tuple[ArrayLike, ArrayLike] = (-np.inf, np.inf),
) -> list[dict[str, Any] | None]:
    """As `two_way` for numbers that are no function of sums over answers, as agreement, in which a rater who is drawn twice
    would agree with himself: items, raters and answers are left out instead, in up to `GROUPS` groups.

    Args:
        statistic: the numbers of the answers that a mask (A,) chooses: (Q,), NaN where undefined.
    """
    rng = np.random.default_rng(0)

    def of(clusters: np.ndarray) -> np.ndarray:
        of_answer = np.unique(clusters, return_inverse=True)[1].reshape(-1)
        number = of_answer.max() + 1
        group = (rng.permutation(number) % GROUPS)[of_answer]
        left = np.array([statistic(group != one) for one in range(min(number, GROUPS))])
        return (len(left) - 1) * left.var(0)

    numbers = {"item": len(np.unique(items)), "rater": len(np.unique(raters))}
    variances = {
        "answer": of(np.arange(len(items))),
        **{name: of(ids) for name, ids in (("item", items), ("rater", raters)) if numbers[name] > 1},
    }
    values = statistic(np.ones(len(items), bool))
    return _estimates(values, variances, numbers, bounds, how="jackknife", answers=len(items))


def _estimates(
    values: np.ndarray,
    variances: dict[str, np.ndarray],
    numbers: dict[str, int],
    bounds: tuple[ArrayLike, ArrayLike],
    *,
    dispersion: Dispersion | None = None,
    how: str,
    answers: int,
) -> list[dict[str, Any] | None]:
    """Values with intervals from their (Q,) variances between answers, items and raters."""
    freedom = (numbers["item"] if "item" in variances else answers) - 1
    variance = variances.get("item", variances["answer"])
    uncertainty = variance**2 / max(freedom, 1)
    if "rater" in variances:
        excess = np.maximum(variances["rater"] - variances["answer"], 0)
        variance, uncertainty = variance + excess, uncertainty + excess**2 / (numbers["rater"] - 1)
    over = [f"{number} {name}s" for name, number in numbers.items() if number > 1]
    sources = [f"{how} over {' and '.join(over) or 'answers'}"] * len(values)
    least = np.zeros_like(values)
    degrees = _freedom(variance, uncertainty, least=freedom)
    if dispersion is not None:
        least = dispersion.of_item / numbers["item"]
        degrees = np.where(least > 0, dispersion.items - 1, degrees)
        sources = [f"{one}, at least as {dispersion.name}" if floor else one for one, floor in zip(sources, least > 0)]
    low, high = _interval(values, variance, degrees, bounds, clusters=freedom + 1, least=least)
    return [
        {
            "value": float(value),
            "interval": [float(bottom), float(top)] if np.isfinite(bottom) and np.isfinite(top) else None,
            "interval_from": source,
            "n": answers,
        }
        if np.isfinite(value)
        else None
        for value, bottom, top, source in zip(values, low, high, sources)
    ]


def means(sums: np.ndarray) -> np.ndarray:
    """The statistic of means: the first feature is every answer's weight, the others are added up."""
    return sums[:, 1:] / sums[:, :1]


def _variance(
    features: np.ndarray, clusters: np.ndarray, statistic: Statistic, samples: int, rng: np.random.Generator
) -> np.ndarray:
    """(Q,) variance of the numbers when whole clusters of answers are drawn again with replacement. Of G clusters the
    bootstrap gives (G - 1) / G of it, which is corrected."""
    if len(features) < 2:
        return np.full(statistic(features).shape[1], np.nan)
    of_answer = np.unique(clusters, return_inverse=True)[1].reshape(-1)
    number = int(of_answer.max()) + 1
    sums = np.zeros((number, features.shape[1]))
    np.add.at(sums, of_answer, features)
    # Clusters with the same sums need no draws of their own.
    distinct, times = np.unique(sums, axis=0, return_counts=True)
    drawn = rng.multinomial(number, times / number, size=samples)
    values = np.concatenate(
        [statistic(drawn[first : first + _AT_ONCE] @ distinct) for first in range(0, samples, _AT_ONCE)]
    )
    defined = np.isfinite(values)
    few = defined.sum(0) < 2
    values = np.where(defined, values, np.nan)
    values[:2, few] = 0.0  # no warning of numpy's; the result is discarded
    return np.where(few, np.nan, np.nanvar(values, axis=0, ddof=1)) * number / (number - 1)


def _freedom(variance: np.ndarray, uncertainty: np.ndarray, *, least: int) -> np.ndarray:
    """Satterthwaite's degrees of freedom, or `least` where nothing varies."""
    freedom = np.divide(variance**2, uncertainty, out=np.full_like(variance, least), where=uncertainty > 0)
    return np.maximum(freedom, 1)


def _interval(
    values: np.ndarray,
    variance: np.ndarray,
    freedom: np.ndarray,
    bounds: tuple[ArrayLike, ArrayLike],
    *,
    clusters: int,
    least: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """(Q,) lower and upper ends: the numbers m from which the found values v are t deviations away, t being Student's 97.5 % quantile.

    The variance at m is `scale` (m - low) (high - m), or without an upper bound `scale` (m - low), as of a Poisson
    distribution, or without any the same everywhere; `scale` makes it what was found at v, and is not below
    `least`. Where nothing varies, it is that of one answer a cluster, right or wrong.
    """
    from scipy.stats import t as student

    t = student.ppf(0.975, freedom)
    low, high = np.broadcast_arrays(*(np.asarray(bound, float) for bound in bounds), values)[:2]
    one, two = np.isfinite(low), np.isfinite(high)
    assert one[two].all(), "an upper bound alone"
    low, high = np.where(one, low, 0), np.where(two, high, 0)
    # The variance's shape, as a polynomial of m.
    square = np.where(two, -1, 0)
    linear = np.where(two, low + high, one)
    constant = np.where(two, -low * high, np.where(one, -low, 1))
    here = np.maximum(square * values**2 + linear * values + constant, 1e-9)
    scale = np.maximum(np.where((variance == 0) & one, 1 / clusters, variance / here), least)
    # (v - m)² = t² scale shape(m)
    a = 1 - t**2 * scale * square
    b = values + t**2 * scale * linear / 2
    root = np.sqrt(np.maximum(b**2 - a * (values**2 - t**2 * scale * constant), 0))
    return (b - root) / a, (b + root) / a
