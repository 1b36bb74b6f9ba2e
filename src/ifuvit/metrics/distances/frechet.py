"""Distances between two sets of images, from their features: Fréchet, kernel distances, precision and recall.

Shapes: N generated and M real images, D the width of the features. Everything is computed in float64 on the CPU.

References:
    Heusel et al. 2017, arXiv:1706.08500 (FID); Bińkowski et al. 2018, arXiv:1801.01401 (KID);
    Jayasumana et al. 2024, arXiv:2401.09603 (CMMD); Kynkäänniemi et al. 2019, arXiv:1904.06991 (precision, recall).
"""

from collections.abc import Iterator

import numpy as np

from ifuvit.metrics.distances.statistics import check_widths
from ifuvit.results import Estimate
from ifuvit.utils.errors import InputError

# ------------------------------------------------------------------------------------------------- Fréchet's distance


def frechet_distance(mu1: np.ndarray, sigma1: np.ndarray, mu2: np.ndarray, sigma2: np.ndarray) -> float:
    """Squared Fréchet distance between two normal distributions: |mu1 - mu2|² + tr(sigma1 + sigma2 - 2 √(sigma1 sigma2)).

    With sigma1 = A Aᵀ and sigma2 = B Bᵀ, the trace of the root is the sum of the singular values of Aᵀ B. So nothing is
    squared, no complex numbers turn up, and singular covariances (fewer images than dimensions) are no special case.

    Args:
        mu1, mu2: (D,)
        sigma1, sigma2: (D, D), symmetric and positive semidefinite but for rounding.

    Raises:
        InputError: the dimensions differ, or there are numbers that are not finite.
    """
    first, second = (np.asarray(mu, np.float64) for mu in (mu1, mu2))
    check_widths(len(first), len(second))
    for array in (mu1, sigma1, mu2, sigma2):
        if not np.isfinite(array).all():
            raise InputError("statistics of features hold numbers that are not finite")
    return distance_of_roots(
        first,
        root_of_covariance(np.asarray(sigma1, np.float64)),
        second,
        root_of_covariance(np.asarray(sigma2, np.float64)),
    )


def root_of_covariance(sigma: np.ndarray) -> np.ndarray:
    """A of sigma = A Aᵀ."""
    values, vectors = np.linalg.eigh((sigma + sigma.T) / 2)
    # Where the covariance is singular, rounding leaves values of this size, whose roots would be felt.
    values[values < len(sigma) * np.finfo(np.float64).eps * values[-1]] = 0
    return vectors * np.sqrt(values)


def root_of_features(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean of features (N, D), and A (D, N or D) of their covariance A Aᵀ, without making the covariance."""
    values = np.asarray(features, np.float64)
    mean = values.mean(axis=0)
    values = (values - mean) / np.sqrt(len(values) - 1)
    if len(values) > len(mean):
        values = np.asarray(np.linalg.qr(values, mode="r"))
    return mean, values.T


def distance_of_roots(mu1: np.ndarray, root1: np.ndarray, mu2: np.ndarray, root2: np.ndarray) -> float:
    cross = np.linalg.svd(root1.T @ root2, compute_uv=False).sum()
    return float(((mu1 - mu2) ** 2).sum() + (root1**2).sum() + (root2**2).sum() - 2 * cross)


# --------------------------------------------------------------------------------------------------- kernel distances


def kernel_distance(x: np.ndarray, y: np.ndarray, *, subsets: int = 100, seed: int = 0) -> Estimate:
    """Kernel distance (KID): the unbiased squared maximum mean discrepancy with the kernel (xᵀy / D + 1)³.

    The value is that of all pairs of images. The interval comes from random subsets of both sides, drawn without
    replacement: the deviation between subsets of a share f of the images, times √(f / (1 - f)), is that between whole
    sets.

    Args:
        x: (N, D)
        y: (M, D)
        subsets: how many subsets, of 1,000 images of the smaller side, but at most half of that side, and of the same
            share of the other.
        seed: of the subsets.

    Returns:
        The estimate, with n = N.

    Raises:
        InputError: the dimensions differ, or there are fewer than 4 images.
    """
    check_widths(x.shape[1], y.shape[1])
    smaller = min(len(x), len(y))
    if smaller < 4:
        raise InputError(f"a kernel distance of {smaller} images: give at least 4 on either side")
    fraction = min(0.5, 1000 / smaller)
    sizes = [round(fraction * len(side)) for side in (x, y)]
    rng = np.random.default_rng(seed)
    # Row 0 chooses all images, the others a subset each.
    chosen_x, chosen_y = (np.zeros((subsets + 1, len(side))) for side in (x, y))
    for chosen, size in zip((chosen_x, chosen_y), sizes):
        chosen[0] = 1
        for row in chosen[1:]:
            row[rng.choice(len(row), size, replace=False)] = 1
    values = _kernel_means(x, chosen_x) + _kernel_means(y, chosen_y) - 2 * _kernel_means(x, chosen_x, y, chosen_y)
    spread = float(1.96 * values[1:].std(ddof=1) * np.sqrt(fraction / (1 - fraction)))
    value = float(values[0])
    return Estimate(
        value=value,
        interval=(value - spread, value + spread),
        interval_from=f"{subsets} random subsets of {sizes[0]} against {sizes[1]} images",
        n=len(x),
    )


def _kernel_means(
    images: np.ndarray, chosen: np.ndarray, others: np.ndarray | None = None, chosen_others: np.ndarray | None = None
) -> np.ndarray:
    """Mean of the polynomial kernel over pairs of an image and one of the others, or, without others, over pairs of
    different images; one mean for each choice (rows of 0 and 1)."""
    second = images if others is None else others
    chosen_second = chosen if chosen_others is None else chosen_others
    columns = second.astype(np.float64).T / images.shape[1]
    sums = np.zeros(len(chosen))
    for rows in _blocks(len(images)):
        kernel = images[rows].astype(np.float64) @ columns + 1
        kernel *= kernel * kernel
        if others is None:
            np.fill_diagonal(kernel[:, rows], 0)
        sums += ((chosen[:, rows] @ kernel) * chosen_second).sum(axis=1)
    numbers = chosen.sum(axis=1)
    return sums / (numbers * (numbers - 1 if others is None else chosen_second.sum(axis=1)))


def _blocks(length: int, size: int = 2048) -> Iterator[slice]:
    """Rows in portions, so that a matrix of all pairs is never in memory at once."""
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def cmmd(x: np.ndarray, y: np.ndarray) -> float:
    """CMMD: 1000 x the squared maximum mean discrepancy with a Gaussian kernel of width 10 between CLIP embeddings of
    unit length; as in the authors' code, the estimate of least variance, which counts pairs of an image with itself.

    Args:
        x: (N, D)
        y: (M, D)

    Raises:
        InputError: the dimensions differ.
    """
    check_widths(x.shape[1], y.shape[1])
    x, y = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (x.astype(np.float64), y.astype(np.float64)))

    def mean(first: np.ndarray, second: np.ndarray) -> float:
        # Of unit vectors, |a - b|² / (2 · 10²) = (1 - aᵀb) / 100.
        sums = [np.exp((first[rows] @ second.T - 1) / 100).sum() for rows in _blocks(len(first))]
        return float(sum(sums)) / (len(first) * len(second))

    return 1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y))


# ----------------------------------------------------------------------------------------------- precision and recall


def precision_recall(real: np.ndarray, generated: np.ndarray, *, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall: the share of generated images that lie among the real ones, and of real ones
    that lie among the generated. An image lies among others if it is no farther from one of them than that one's k-th
    nearest neighbor.

    Args:
        real: (M, D)
        generated: (N, D)
        k: which neighbor.

    Raises:
        InputError: the dimensions differ, or a side has no more than k images.
    """
    return float(lies_among(generated, real, k=k).mean()), float(lies_among(real, generated, k=k).mean())


def lies_among(points: np.ndarray, others: np.ndarray, *, k: int = 3) -> np.ndarray:
    """(len(points),) bool"""
    check_widths(points.shape[1], others.shape[1])
    if len(others) <= k:
        raise InputError(f"{len(others)} images: precision and recall with k = {k} need more than {k}")
    # Neighbor 0 is the image itself.
    radii = np.concatenate([np.partition(part, k, axis=1)[:, k] for part in _squared_distances(others, others)])
    return np.concatenate([(part <= radii).any(axis=1) for part in _squared_distances(points, others)])


def _squared_distances(x: np.ndarray, y: np.ndarray) -> Iterator[np.ndarray]:
    """Squared distances of each of `x` to each of `y`, in portions of rows."""
    # From a common center the products are small, and little is lost where they cancel.
    center = y.mean(axis=0, dtype=np.float64)
    x, y = x - center, y - center
    norms = (y**2).sum(axis=1)
    for rows in _blocks(len(x)):
        part = (x[rows] ** 2).sum(axis=1)[:, None] + norms - 2 * x[rows] @ y.T
        yield part.clip(min=0)
