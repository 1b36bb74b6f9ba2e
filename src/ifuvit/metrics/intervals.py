"""How sure a number is: bootstrap intervals of means, Wilson's of shares, and intervals from random halves."""

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from ifuvit.results import Estimate

HALVES = 20
"""Random halves of the generated images from which the interval of a distance is made."""
# The normal distribution's 97.5 % quantile.
_Z = 1.959964
_DRAWS = 10_000_000
"""How many binomial draws an interval may take: about a second."""


def bootstrap_interval(values: Iterable[float], *, samples: int = 10_000, seed: int = 0) -> tuple[float, float] | None:
    """95 % percentile interval of the mean of `values` when they are drawn again with replacement; None without values.

    Exact counterpart of drawing indices: the number of times that each distinct value is drawn is multinomial. Of more
    than a thousand distinct values fewer samples are taken, a thousand at least: their mean is nearly normal.
    """
    distinct, numbers = np.unique(np.fromiter(values, np.float64), return_counts=True)
    if len(distinct) == 0:
        return None
    total, rng = int(numbers.sum()), np.random.default_rng(seed)
    samples = min(samples, max(1000, _DRAWS // len(distinct)))
    portion = max(1, _DRAWS // 10 // len(distinct))  # so that they are never in memory all at once
    means = [
        rng.multinomial(total, numbers / total, size=min(portion, samples - done)) @ distinct / total
        for done in range(0, samples, portion)
    ]
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    return float(low), float(high)


def estimate(values: Sequence[float] | np.ndarray, *, over: str = "images") -> Estimate:
    """A mean with its 95 % bootstrap interval.

    Args:
        values: one number for each of N >= 1 `over`.
        over: what is resampled in the bootstrap: "images", "prompts", "seeds".
    """
    assert len(values) > 0
    return Estimate(
        value=float(np.mean(np.asarray(values, np.float64))),
        interval=bootstrap_interval(values),
        interval_from=f"bootstrap over {over}",
        n=len(values),
    )


def share(values: Sequence[float] | np.ndarray, *, over: str = "images") -> Estimate:
    """A share with Wilson's 95 % interval (Wilson 1927), which also has a width where all values are equal; none from a
    single value.

    Args:
        values: 0 or 1 for each of N >= 1 `over`.
        over: what they are values of.
    """
    count, value = len(values), float(np.mean(np.asarray(values, np.float64)))
    if count == 1:
        return Estimate(value=value, interval_from=f"one of the {over}", n=1)
    low, high = wilson_interval(value, count)
    return Estimate(value=value, interval=(low, high), interval_from=f"Wilson's over {over}", n=count)


def wilson_interval(value: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of `count` >= 1."""
    beyond = _Z**2 / count
    middle = (value + beyond / 2) / (1 + beyond)
    half = _Z / (1 + beyond) * math.sqrt(value * (1 - value) / count + beyond / (4 * count))
    # Rounding must not push the bound beyond the share at 0 and 1.
    return min(max(0.0, middle - half), value), max(min(1.0, middle + half), value)


def estimate_from_halves(distance: Callable[[np.ndarray], float], features: np.ndarray, *, seed: int = 0) -> Estimate:
    """A distance of a set of images, with its 95 % interval from random halves of the set.

    Random halves without replacement deviate from their mean as much as whole sets would from theirs: n/2 out of n
    leave the variance s²/(n/2) (1 - 1/2) = s²/n. Their mean is higher, for halves have more bias; it is not used.

    Args:
        distance: of features (N, D) from a reference.
        features: (N, D) of the generated images.
        seed: of the halves.
    """
    rng = np.random.default_rng(seed)
    size = len(features) // 2
    halves = [distance(features[rng.choice(len(features), size, replace=False)]) for _ in range(HALVES)]
    value, spread = distance(features), 1.96 * float(np.std(halves, ddof=1))
    return Estimate(
        value=value,
        interval=(value - spread, value + spread),
        interval_from=f"{HALVES} random halves of the generated images",
        n=len(features),
    )
