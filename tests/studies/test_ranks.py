"""Places with ties, and agreement about one item."""

import numpy as np
import pytest
from scipy import stats

from ifuvit.studies.ranks import average_ranks, kendalls_w


def test_average_ranks_as_scipy() -> None:
    ranks = np.random.default_rng(1).integers(0, 4, (50, 4)).astype(float)
    assert np.array_equal(average_ranks(ranks), stats.rankdata(ranks, axis=1))
    assert average_ranks(np.array([[1, 1, 3, 4], [2, 2, 2, 2], [4, 1, 1, 1]])).tolist() == [
        [1.5, 1.5, 3, 4],
        [2.5, 2.5, 2.5, 2.5],
        [4, 2, 2, 2],
    ]


def test_kendalls_w_by_hand() -> None:
    assert kendalls_w(np.array([[1, 2, 3, 4]] * 3)) == 1
    assert kendalls_w(np.array([[1, 2, 3], [3, 2, 1]])) == 0
    # Sums 4, 6, 8, 12 deviate from 7.5 by squares that sum to 35: 12 * 35 / (9 * 60).
    assert kendalls_w(np.array([[1, 2, 3, 4], [2, 1, 3, 4], [1, 3, 2, 4]])) == pytest.approx(7 / 9)
    assert kendalls_w(np.array([[1, 1, 3], [1, 1, 3]])) == 1
    assert kendalls_w(np.array([[1, 1, 1], [1, 1, 1]])) is None
    assert kendalls_w(np.array([[1, 2, 3]])) is None
