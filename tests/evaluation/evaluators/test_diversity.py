"""Diversity against plain loops."""

import numpy as np
import pytest

from ifuvit.evaluation.evaluators.diversity import pairwise_distances
from ifuvit.utils.errors import InputError


def test_mean_distances_of_pairs_by_prompt():
    features = np.random.default_rng(0).standard_normal((7, 5)).astype(np.float32)
    prompts = ["a", "b", "a", "b", "a", "alone", "b"]

    def distance(one, other):
        return 1 - one @ other / np.linalg.norm(one) / np.linalg.norm(other)

    expected = [
        np.mean([distance(features[i], features[j]) for i in rows for j in rows if i < j])
        for rows in ([0, 2, 4], [1, 3, 6])
    ]
    assert pairwise_distances(features, prompts) == pytest.approx(expected, rel=1e-5)


def test_the_same_image_again_and_again_has_none():
    assert pairwise_distances(np.ones((4, 3), np.float32), ["a"] * 4) == pytest.approx([0], abs=1e-12)
    with pytest.raises(InputError, match="several images of a prompt"):
        pairwise_distances(np.ones((2, 3), np.float32), ["a", "b"])
