"""Distances between two sets of images, from their features: Fréchet, kernel distances, precision and recall.

Shapes: N generated and M real images, D the width of the features. Everything is computed in float64 on the CPU.

References:
    Heusel et al. 2017, arXiv:1706.08500 (FID); Bińkowski et al. 2018, arXiv:1801.01401 (KID);
    Jayasumana et al. 2024, arXiv:2401.09603 (CMMD); Kynkäänniemi et al. 2019, arXiv:1904.06991 (precision, recall).
"""

import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ifuvit.metrics.intervals import estimate
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import atomic_path

if TYPE_CHECKING:
    from ifuvit.metrics.distances.feature_networks import FeatureNetwork

HALVES = 20
"""Random halves of the generated images from which intervals are made."""


class FeatureStatistics:
    """Mean and covariance of features, gathered batch by batch in float64.

    What is kept are the count, the mean, and the sum of the outer products of the deviations from the mean; two of them
    are concatenated exactly (Chan et al. 1979), so that neither the size of batches nor the number of processes matters.

    Attributes:
        count: how many images, or None where a file does not tell.
        facts: how they came to be, where a file tells.
        features: (N, D) float32 the features themselves, where a file has them.
    """

    def __init__(self, width: int):
        self.count: int | None = 0
        self.facts: dict[str, Any] = {}
        self.features: np.ndarray | None = None
        self._mean = np.zeros(width)
        self._scatter = np.zeros((width, width))

    @classmethod
    def of(cls, features: np.ndarray) -> "FeatureStatistics":
        """The statistics of features (N, D)."""
        statistics = cls(features.shape[1])
        statistics.update(features)
        return statistics

    @property
    def width(self) -> int:
        """D"""
        return len(self._mean)

    @property
    def mean(self) -> np.ndarray:
        """(D,) float64"""
        return self._mean

    @property
    def covariance(self) -> np.ndarray:
        """(D, D) float64, unbiased.

        Raises:
            InputError: of fewer than two images.
        """
        if self.count is None:
            return self._scatter
        if self.count < 2:
            raise InputError(f"statistics of {self.count} images: a covariance needs at least 2")
        return self._scatter / (self.count - 1)

    def update(self, features: np.ndarray) -> None:
        """Add features (B, D)."""
        if not len(features):
            return
        batch = FeatureStatistics(self.width)
        values = np.asarray(features, np.float64)
        batch.count = len(values)
        batch._mean = values.mean(axis=0)
        values = values - batch._mean
        batch._scatter = values.T @ values
        self.merge(batch)

    def merge(self, other: "FeatureStatistics") -> None:
        """Add the images of `other`."""
        _check_widths(self.width, other.width)
        assert self.count is not None and other.count is not None, "statistics without a count cannot be concatenated"
        total = self.count + other.count
        if total == 0:
            return
        difference = other._mean - self._mean
        self._mean = self._mean + difference * (other.count / total)
        self._scatter = self._scatter + other._scatter
        self._scatter += np.outer(difference, difference * (self.count * other.count / total))
        self.count = total

    def save(
        self, path: str | Path, *, facts: Mapping[str, Any] | None = None, features: np.ndarray | None = None
    ) -> None:
        """Write a .npz file as pytorch-fid does (mu, sigma), with the count n and, as JSON, facts; `features` are
        written too where they are given."""
        arrays: dict[str, Any] = {"mu": self.mean, "sigma": self.covariance}
        if self.count is not None:
            arrays["n"] = np.int64(self.count)
        arrays["facts"] = np.str_(json.dumps(dict(facts or self.facts), ensure_ascii=False))
        if features is not None:
            arrays["features"] = np.asarray(features, np.float32)
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)

    @classmethod
    def load(cls, path: str | Path) -> "FeatureStatistics":
        """Read a .npz file with `mu` (D,) and `sigma` (D, D): those of `save`, of pytorch-fid and of clean-fid.

        Raises:
            InputError: there is no such file, or it is not of that kind.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(f"{path}: no such file of statistics")
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in ("mu", "sigma", "n", "facts", "features") if name in file}
            facts = json.loads(str(arrays["facts"])) if "facts" in arrays else {}
            count = int(arrays["n"]) if "n" in arrays else None
        except (ValueError, OSError, EOFError, TypeError, zipfile.BadZipFile) as error:
            raise InputError(f"{path}: not a .npz file of statistics ({error})") from None
        if "mu" not in arrays or "sigma" not in arrays:
            raise InputError(f"{path}: not a file of statistics: it lacks {'sigma' if 'mu' in arrays else 'mu'}")
        mean, covariance = (arrays[name].astype(np.float64) for name in ("mu", "sigma"))
        if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
            raise InputError(f"{path}: mu {mean.shape} and sigma {covariance.shape} do not go together")
        if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
            raise InputError(f"{path}: holds numbers that are not finite")
        statistics = cls(len(mean))
        statistics.count = count
        statistics.facts = facts if isinstance(facts, dict) else {}
        statistics.features = arrays.get("features")
        statistics._mean = mean
        statistics._scatter = covariance if count is None else covariance * (count - 1)
        return statistics


def _check_widths(one: int, other: int) -> None:
    if one != other:
        raise InputError(
            f"features of {one} dimensions and of {other} cannot be compared; make both with the same feature network"
        )


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
    _check_widths(len(first), len(second))
    for array in (mu1, sigma1, mu2, sigma2):
        if not np.isfinite(array).all():
            raise InputError("statistics of features hold numbers that are not finite")
    return _distance(first, _root(np.asarray(sigma1, np.float64)), second, _root(np.asarray(sigma2, np.float64)))


def _root(sigma: np.ndarray) -> np.ndarray:
    """A of sigma = A Aᵀ."""
    values, vectors = np.linalg.eigh((sigma + sigma.T) / 2)
    # Where the covariance is singular, rounding leaves values of this size, whose roots would be felt.
    values[values < len(sigma) * np.finfo(np.float64).eps * values[-1]] = 0
    return vectors * np.sqrt(values)


def _root_of_features(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean of features (N, D), and A (D, N or D) of their covariance A Aᵀ, without making the covariance."""
    values = np.asarray(features, np.float64)
    mean = values.mean(axis=0)
    values = (values - mean) / np.sqrt(len(values) - 1)
    if len(values) > len(mean):
        values = np.asarray(np.linalg.qr(values, mode="r"))
    return mean, values.T


def _distance(mu1: np.ndarray, root1: np.ndarray, mu2: np.ndarray, root2: np.ndarray) -> float:
    cross = np.linalg.svd(root1.T @ root2, compute_uv=False).sum()
    return float(((mu1 - mu2) ** 2).sum() + (root1**2).sum() + (root2**2).sum() - 2 * cross)


# --------------------------------------------------------------------------------------------------- kernel distances


def kernel_distance(
    x: np.ndarray, y: np.ndarray, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Kernel distance (KID): the unbiased squared maximum mean discrepancy with the kernel (xᵀy / D + 1)³.

    The value is that of all pairs of images. The interval comes from random subsets of both sides, drawn without
    replacement: the deviation between subsets of a share f of the images, times √(f / (1 - f)), is that between whole
    sets.

    Args:
        x: (N, D)
        y: (M, D)
        subsets: how many subsets.
        subset_size: images of the smaller side in each of them, but at most half of that side; of the other side
            the same share.
        seed: of the subsets.

    Returns:
        the estimate, with "n" = N.

    Raises:
        InputError: the dimensions differ, or there are fewer than 4 images.
    """
    _check_widths(x.shape[1], y.shape[1])
    smaller = min(len(x), len(y))
    if smaller < 4:
        raise InputError(f"a kernel distance of {smaller} images: give at least 4 on either side")
    fraction = min(0.5, subset_size / smaller)
    sizes = [round(fraction * len(side)) for side in (x, y)]
    rng = np.random.default_rng(seed)
    # Row 0 chooses all images, the others a subset each.
    chosen_x, chosen_y = (np.zeros((subsets + 1, len(side))) for side in (x, y))
    for chosen, size in zip((chosen_x, chosen_y), sizes):
        chosen[0] = 1
        for row in chosen[1:]:
            row[rng.choice(len(row), size, replace=False)] = 1
    values = _kernel_means(x, chosen_x) + _kernel_means(y, chosen_y) - 2 * _kernel_means(x, chosen_x, y, chosen_y)
    spread = 1.96 * values[1:].std(ddof=1) * np.sqrt(fraction / (1 - fraction))
    return {
        "value": float(values[0]),
        "interval": [float(values[0] - spread), float(values[0] + spread)],
        "interval_from": f"{subsets} random subsets of {sizes[0]} against {sizes[1]} images",
        "n": len(x),
    }


def _kernel_means(
    images: np.ndarray, chosen: np.ndarray, others: np.ndarray | None = None, chosen_others: np.ndarray | None = None
) -> np.ndarray:
    """Mean of the polynomial kernel over pairs of a image and one of the others, or, without others, over pairs of
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
    unit length; as in the authors' code, the estimate of least variance, which counts pairs of a image with itself.

    Args:
        x: (N, D)
        y: (M, D)

    Raises:
        InputError: the dimensions differ.
    """
    _check_widths(x.shape[1], y.shape[1])
    x, y = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (x.astype(np.float64), y.astype(np.float64)))

    def mean(first: np.ndarray, second: np.ndarray) -> float:
        # Of unit vectors, |a - b|² / (2 · 10²) = (1 - aᵀb) / 100.
        sums = [np.exp((first[rows] @ second.T - 1) / 100).sum() for rows in _blocks(len(first))]
        return float(sum(sums)) / (len(first) * len(second))

    return 1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y))


# ----------------------------------------------------------------------------------------------- precision and recall


def precision_recall(real: np.ndarray, generated: np.ndarray, *, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall: the share of generated images that lie among the real ones, and of real ones
    that lie among the generated. A image lies among others if it is no farther from one of them than that one's k-th
    nearest neighbor.

    Args:
        real: (M, D)
        generated: (N, D)
        k: which neighbor.

    Raises:
        InputError: the dimensions differ, or a side has no more than k images.
    """
    return float(_lies_among(generated, real, k=k).mean()), float(_lies_among(real, generated, k=k).mean())


def _lies_among(points: np.ndarray, others: np.ndarray, *, k: int = 3) -> np.ndarray:
    """(len(points),) bool"""
    _check_widths(points.shape[1], others.shape[1])
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


# ---------------------------------------------------------------------------------------------------- all of a network


def distances(
    generated: np.ndarray,
    real: np.ndarray | FeatureStatistics,
    network: "FeatureNetwork",
    *,
    other_real: np.ndarray | None = None,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """All distances over one network's features, as estimates by name.

    Names are "FD-EffNetLite0", "KID-EffNetLite0", "precision-EffNetLite0", "recall-EffNetLite0"; over Inception "FID",
    "KID", "precision", "recall"; over CLIP "CMMD" alone. Of statistics without features only the Fréchet distance.

    Intervals: of the Fréchet distance and CMMD from random halves of the generated images (the bootstrap would be
    biased upward, since repeated images narrow the distribution); of KID from its subsets; of precision and recall by
    the bootstrap. A distance's "floor" is what real images have to other real ones; of precision and recall it is
    called "real". The floor is exact only with `other_real`: without them `real` is split, so that the floor's
    reference is smaller than the distance's and its bias higher.

    Args:
        generated: (N, D)
        real: (M, D), or their statistics.
        network: which the features are of.
        other_real: (N, D) real images that are not among `real`, as many as are generated: best those whose captions
            were the prompts.
        seed: of all random subsets.

    Raises:
        InputError: the dimensions differ, the statistics are of another network or another resize, or there are fewer
            than 8 images.
    """
    if isinstance(real, FeatureStatistics):
        check_statistics(real, network)
        if real.features is None:
            _check_sides(generated, other_real)
            return _distances_to_statistics(generated, real, network, other_real, seed=seed)
        real = real.features
    _check_sides(generated, real, other_real)
    return _distances_to_features(generated, real, network, other_real, seed=seed)


def _check_sides(*sides: np.ndarray | None) -> None:
    given = [side for side in sides if side is not None]
    for side in given:
        if len(side) < 8:
            raise InputError(f"distances of {len(side)} images: give at least 8 on either side")
        _check_widths(given[0].shape[1], side.shape[1])


def _distances_to_features(
    generated: np.ndarray, real: np.ndarray, network: "FeatureNetwork", other_real: np.ndarray | None, *, seed: int
) -> dict[str, dict[str, Any]]:
    if other_real is None:
        size = min(len(generated), len(real) // 2)
        order = np.random.default_rng(seed).permutation(len(real))
        some, others = real[order[:size]], real[order[size:]]
    else:
        some, others = other_real, real

    def beside(value: float) -> dict[str, Any]:
        how = f"{len(some)} real images against {len(others)} other real images"
        return {"value": value, "n": len(some), "how": how}

    if network.distance.startswith("CMMD"):
        distance = _halved(lambda features: cmmd(features, real), generated, seed=seed)
        return {network.distance: distance | {"floor": beside(cmmd(some, others))}}
    kernel = kernel_distance(generated, real, seed=seed)
    kernel_floor = kernel_distance(some, others, subsets=2)["value"]
    frechet = _frechet(generated, _root_of_features(real), seed=seed)
    frechet_floor = _distance(*_root_of_features(some), *_root_of_features(others))
    precision, recall = _lies_among(generated, real).tolist(), _lies_among(real, generated).tolist()
    real_precision, real_recall = precision_recall(others, some)
    return {
        f"KID{network.suffix}": kernel | {"floor": beside(kernel_floor)},
        network.distance: frechet | {"floor": beside(frechet_floor)},
        f"precision{network.suffix}": estimate(precision) | {"real": beside(real_precision)},
        f"recall{network.suffix}": estimate(recall) | {"real": beside(real_recall)},
    }


def _distances_to_statistics(
    generated: np.ndarray,
    real: FeatureStatistics,
    network: "FeatureNetwork",
    other_real: np.ndarray | None,
    *,
    seed: int,
) -> dict[str, dict[str, Any]]:
    """What can be told without the real features: the Fréchet distance."""
    root = _root(real.covariance)
    distance = _frechet(generated, (real.mean, root), seed=seed)
    if other_real is None:
        return {network.distance: distance}
    value = _distance(*_root_of_features(other_real), real.mean, root)
    how = f"{len(other_real)} real images against the reference statistics"
    return {network.distance: distance | {"floor": {"value": value, "n": len(other_real), "how": how}}}


def check_statistics(statistics: FeatureStatistics, network: "FeatureNetwork") -> None:
    """See that distances can be had between features of `network` and a reference's statistics. Files of other programs do
    not tell their network; those that do must have been made by the same.

    Raises:
        InputError: they are of another dimension, network or resize, or lack the features that CMMD needs.
    """
    if statistics.width != network.width:
        raise InputError(
            f"the reference statistics have {statistics.width} dimensions, the features of {network.name} {network.width}; "
            "make them with the same feature network (`ifuvit reference-stats`)"
        )
    made = statistics.facts.get("network")
    for name, value in network.facts().items():
        if isinstance(made, Mapping) and made.get(name) != value:
            raise InputError(
                f"the reference statistics were made with the {name} {made.get(name)!r}, the features of the generated "
                f"images with {value!r}; make them anew with `ifuvit reference-stats`"
            )
    if statistics.features is None and network.distance.startswith("CMMD"):
        raise InputError("CMMD needs features, and the reference statistics have none; make them with --keep-features")


def _frechet(generated: np.ndarray, real: tuple[np.ndarray, np.ndarray], *, seed: int) -> dict[str, Any]:
    return _halved(lambda features: _distance(*_root_of_features(features), *real), generated, seed=seed)


def _halved(distance: Callable[[np.ndarray], float], generated: np.ndarray, *, seed: int) -> dict[str, Any]:
    """A distance of the generated images, with an interval.

    Random halves without replacement deviate from their mean as much as whole sets would from theirs: n/2 out of n
    leave the variance s²/(n/2) (1 - 1/2) = s²/n. Their mean is higher, for halves have more bias; it is not used.
    """
    rng = np.random.default_rng(seed)
    size = len(generated) // 2
    halves = [distance(generated[rng.choice(len(generated), size, replace=False)]) for _ in range(HALVES)]
    value, spread = distance(generated), 1.96 * float(np.std(halves, ddof=1))
    return {
        "value": value,
        "interval": [value - spread, value + spread],
        "interval_from": f"{HALVES} random halves of the generated images",
        "n": len(generated),
    }
