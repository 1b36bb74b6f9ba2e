"""How sure a mean is: percentile bootstrap intervals, in the one form that every result file holds."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np


def bootstrap_interval(values: Iterable[float], *, samples: int = 10_000, seed: int = 0) -> tuple[float, float] | None:
    """95 % percentile interval of the mean of `values` when they are drawn anew with replacement; None without values.

    Exact counterpart of drawing indices: the number of times that each distinct value is drawn is multinomial.
    """
    distinct, numbers = np.unique(np.fromiter(values, np.float64), return_counts=True)
    if len(distinct) == 0:
        return None
    total = int(numbers.sum())
    draws = np.random.default_rng(seed).multinomial(total, numbers / total, size=samples)
    low, high = np.quantile(draws @ distinct / total, (0.025, 0.975))
    return float(low), float(high)


def estimate(values: Sequence[float], *, over: str = "pictures") -> dict[str, Any]:
    """A mean with its 95 % bootstrap interval.

    Args:
        values: one number for each of N >= 1 `over`.
        over: what is drawn anew in the bootstrap: "pictures", "seeds".

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
