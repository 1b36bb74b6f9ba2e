import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from tiny_networks import check_widths, cloud

from ifuvit.metrics.distances import frechet
from ifuvit.metrics.distances.frechet import (
    cmmd,
    frechet_distance,
    kernel_distance,
    precision_recall,
)
from ifuvit.utils.errors import InputError


def between(x, y):
    return frechet_distance(x.mean(0), np.cov(x, rowvar=False), y.mean(0), np.cov(y, rowvar=False))


# ------------------------------------------------------------------------------------------------- Fréchet's distance


def test_frechet_of_commuting_covariances():
    """For diagonal covariances it is the sum of squared differences of the standard deviations."""
    rng = np.random.default_rng(0)
    one, other = rng.uniform(0, 3, (2, 12))
    shift = rng.standard_normal(12)
    expected = (shift**2).sum() + ((one - other) ** 2).sum()
    assert frechet_distance(shift, np.diag(one**2), np.zeros(12), np.diag(other**2)) == pytest.approx(expected)


def test_frechet_agrees_with_scipy():
    x, y = cloud(300, 40), cloud(200, 40, seed=1, shift=0.2, mixing=1)
    covariances = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = sqrtm(covariances[0] @ covariances[1])
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(covariances[0] + covariances[1] - 2 * root.real)
    assert between(x, y) == pytest.approx(expected, rel=1e-5)


def test_frechet_agrees_with_torchmetrics():
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Given(torch.nn.Module):
        num_features = 40

        def forward(self, features):
            return features.double()

    x, y = cloud(300, 40), cloud(200, 40, seed=1, shift=0.2, mixing=1)
    theirs = FrechetInceptionDistance(feature=Given()).set_dtype(torch.float64)
    theirs.update(torch.from_numpy(x), real=True)
    theirs.update(torch.from_numpy(y), real=False)
    assert between(x, y) == pytest.approx(float(theirs.compute()), rel=1e-5)


@pytest.mark.parametrize("count", [20, 60])
def test_frechet_of_fewer_images_than_dimensions(count):
    """A rotation into more dimensions changes no distance, though it makes the covariances singular."""
    x, y = cloud(count, 30), cloud(count, 30, seed=1, shift=0.3, mixing=1)
    turn = np.linalg.qr(np.random.default_rng(5).standard_normal((200, 30)))[0].T
    assert between(x @ turn, y @ turn) == pytest.approx(between(x, y), rel=1e-6)
    assert between(x @ turn, x @ turn) == pytest.approx(0, abs=1e-6)
    # In directions at right angles nothing is shared.
    apart = frechet_distance(np.zeros(4), np.diag([1.0, 2, 0, 0]), np.zeros(4), np.diag([0.0, 0, 3, 4]))
    assert apart == pytest.approx(10)


def test_frechet_refuses():
    with pytest.raises(InputError, match="4 dimensions and of 5"):
        frechet_distance(np.zeros(4), np.eye(4), np.zeros(5), np.eye(5))
    with pytest.raises(InputError, match="not finite"):
        frechet_distance(np.full(4, np.nan), np.eye(4), np.zeros(4), np.eye(4))


# --------------------------------------------------------------------------------------------------- kernel distances


def test_kernel_distance_agrees_with_torchmetrics():
    from torchmetrics.image.kid import KernelInceptionDistance

    x, y = cloud(90), cloud(90, seed=1, shift=0.5)
    theirs = KernelInceptionDistance(feature=torch.nn.Identity(), subsets=1, subset_size=90)
    theirs.update(torch.from_numpy(y).double(), real=True)
    theirs.update(torch.from_numpy(x).double(), real=False)
    mean, _ = theirs.compute()
    assert kernel_distance(x, y).value == pytest.approx(float(mean), rel=1e-5)


def test_kernel_distance_of_unequal_sides_and_in_blocks(monkeypatch):
    x, y = cloud(30), cloud(50, seed=1, shift=0.5)

    def kernel(a, b):
        return (float(a.astype(np.float64) @ b) / 16 + 1) ** 3

    within = [np.mean([kernel(a, b) for i, a in enumerate(s) for j, b in enumerate(s) if i != j]) for s in (x, y)]
    expected = sum(within) - 2 * np.mean([kernel(a, b) for a in x for b in y])
    found = kernel_distance(x, y)
    assert found.value == pytest.approx(expected, rel=1e-6)
    assert found.n == 30 and found.interval_from == "100 random subsets of 15 against 25 images"
    blocks = frechet._blocks
    monkeypatch.setattr(frechet, "_blocks", lambda length: blocks(length, 7))
    assert kernel_distance(x, y).value == pytest.approx(found.value, rel=1e-12)
    # Also of a set with itself, where the pairs of an image with itself count between the sides only.
    assert kernel_distance(x, x).value == pytest.approx(
        2 * within[0] - 2 * np.mean([kernel(a, b) for a in x for b in x])
    )


def test_kernel_distance_is_unbiased():
    values = [kernel_distance(cloud(20, seed=seed), cloud(20, seed=seed + 500)).value for seed in range(200)]
    assert abs(np.mean(values)) < 3 * np.std(values) / math.sqrt(200)


def test_kernel_intervals_are_as_wide_as_other_images_would_make_them():
    sets = [(cloud(60, seed=seed, shift=0.5), cloud(120, seed=seed + 500)) for seed in range(60)]
    check_widths([kernel_distance(generated, real) for generated, real in sets])


def test_cmmd():
    x, y = cloud(20), cloud(30, seed=1, shift=0.5)
    a, b = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (x.astype(np.float64), y.astype(np.float64)))

    def mean(first, second):
        return np.mean([math.exp(-((p - q) ** 2).sum() / (2 * 10**2)) for p in first for q in second])

    assert cmmd(x, y) == pytest.approx(1000 * (mean(a, a) + mean(b, b) - 2 * mean(a, b)), rel=1e-8)
    assert cmmd(x, x) == pytest.approx(0, abs=1e-9)


# ----------------------------------------------------------------------------------------------- precision and recall


def test_precision_recall_by_loops(monkeypatch):
    real, generated = cloud(40, 6), cloud(30, 6, seed=1, shift=0.4)

    def share(points, others, k):
        radii = [sorted(np.linalg.norm(o - p) for p in others)[k] for o in others]
        return np.mean([any(np.linalg.norm(p - o) <= r for o, r in zip(others, radii)) for p in points])

    blocks = frechet._blocks
    monkeypatch.setattr(frechet, "_blocks", lambda length: blocks(length, 11))
    for k in (1, 3):
        expected = share(generated, real, k), share(real, generated, k)
        assert precision_recall(real, generated, k=k) == expected
        assert 0 < min(expected) < max(expected) < 1


def test_precision_recall_at_the_ends():
    real = cloud(30)
    assert precision_recall(real, real) == (1, 1)
    assert precision_recall(real, real + 1000) == (0, 0)
    few = np.repeat(real[:1], 30, axis=0)  # one and the same image: among the real ones, but covers none of the rest
    precision, recall = precision_recall(real, few)
    assert precision == 1 and recall < 0.1
    with pytest.raises(InputError, match="3 images: .* more than 3"):
        precision_recall(real[:3], real)
