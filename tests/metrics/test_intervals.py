import numpy as np
import pytest
from scipy.stats import binomtest

from ifuvit.metrics.intervals import bootstrap_interval, estimate, share


def test_bootstrap_interval():
    assert bootstrap_interval([]) is None
    assert bootstrap_interval([1.0, 1.0]) == (1.0, 1.0)
    values = [0.0] * 50 + [1.0] * 150
    low, high = bootstrap_interval(values)
    # Normal approximation: 0.75 +- 1.96 sqrt(0.75 * 0.25 / 200).
    assert low == pytest.approx(0.69, abs=0.008) and high == pytest.approx(0.81, abs=0.008)
    assert bootstrap_interval(values) == (low, high)
    # The same as drawing indices.
    rng = np.random.default_rng(1)
    skewed = np.array([0.0] * 30 + [1.0] * 6 + [4.0] * 4)
    direct = np.quantile(rng.choice(skewed, (20000, len(skewed))).mean(1), (0.025, 0.975))
    assert bootstrap_interval(skewed) == pytest.approx(direct, abs=0.03)


def test_estimate():
    values = [0.0, 1.0, 1.0, 1.0]
    made = estimate(values, over="seeds")
    assert made.value == 0.75 and made.n == 4 and made.interval_from == "bootstrap over seeds"
    assert made.interval == bootstrap_interval(values)


def test_shares_have_wilsons_interval():
    for count, n in ((7, 10), (150, 200), (1, 100), (0, 5), (5, 5)):
        found, wilson = share([1.0] * count + [0.0] * (n - count)), binomtest(count, n).proportion_ci(method="wilson")
        assert found.value == count / n and found.n == n
        assert found.interval == pytest.approx((wilson.low, wilson.high), abs=1e-6)
    z = 1.959964
    for count in (2, 20, 1000):
        every, none = share([1.0] * count), share([0.0] * count)
        assert every.value == 1.0 and every.interval == pytest.approx((count / (count + z**2), 1.0))
        assert none.value == 0.0 and none.interval == pytest.approx((0.0, z**2 / (count + z**2)))
        assert every.n == count and every.interval_from == "Wilson's over images"
    assert share([1.0]).interval is None and share([0.0], over="scenes").interval_from == "one of the scenes"
