"""Mean and covariance of features, and the .npz files that hold them (pytorch-fid's, clean-fid's and ours)."""

import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ifuvit.utils.errors import InputError
from ifuvit.utils.files import atomic_path


class FeatureStatistics:
    """Mean and covariance of features, gathered batch by batch in float64.

    It keeps the count, the mean, and the sum of the outer products of the deviations from the mean; two of them merge
    exactly (Chan et al. 1979), so that neither the size of batches nor the number of processes matters.

    Attributes:
        count: how many images, or None where a file does not say.
        facts: how they were made, where a file says so.
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
        check_widths(self.width, other.width)
        assert self.count is not None and other.count is not None, "statistics without a count cannot be merged"
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
            with zipfile.ZipFile(path) as archive:
                # All entries: one whose name was damaged would only seem to be absent.
                if (bad := archive.testzip()) is not None:
                    raise ValueError(f"its entry {bad!r} is damaged")
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in ("mu", "sigma", "n", "facts", "features") if name in file}
            facts = json.loads(str(arrays["facts"])) if "facts" in arrays else {}
            count = int(arrays["n"]) if "n" in arrays else None
        except (
            *(ValueError, LookupError, EOFError, TypeError, OSError),
            zipfile.BadZipFile,
            zlib.error,
            NotImplementedError,
        ) as error:
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


def check_widths(one: int, other: int) -> None:
    """Refuse to compare features of different networks.

    Raises:
        InputError: the dimensions differ.
    """
    if one != other:
        raise InputError(
            f"features of {one} dimensions and of {other} cannot be compared; make both with the same feature network"
        )
