"""How sure a mean is: percentile bootstrap intervals, in the one form that every result file holds."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

_DRAWS = 10_000_000
"""How many binomial draws an interval may take: about a second."""


def bootstrap_interval(values: Iterable[float], *, samples: int = 10_000, seed: int = 0) -> tuple[float, float] | None:
    """95 % percentile interval of the mean of `values` when they are drawn anew with replacement; None without values.

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


def estimate(values: Sequence[float], *, over: str = "images") -> dict[str, Any]:
    """A mean with its 95 % bootstrap interval.

    Args:
        values: one number for each of N >= 1 `over`.
        over: what is drawn anew in the bootstrap: "images", "seeds".

    Returns:
        {"value", "interval": [low, high], "interval_from": "bootstrap over …", "n"}.
    """
    assert len(values) > 0
    interval = bootstrap_interval(values)
    return {
        "value": float(np.mean(np.asarray(values, np.float64))),
        "interval": None if interval is None else list(interval),
        "interval_from": f"bootstrap over {over}",
        "n": len(values),
    }
