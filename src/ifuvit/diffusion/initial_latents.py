"""The distribution of initial latents: a correction for a schedule whose terminal signal-to-noise ratio is not zero.

The schedule does not end in pure noise (a_1000 = 0.0047), and noise averages out over the latents' positions: the spatial
mean of noisy latents still shows the spatial mean of the image's latents, its mean color. A network learns to read it
there. Sampling from pure noise, whose mean is near 0, then gives images of that one color, which hardly any training image
has. So initial latents get a mean color as training images have it: a normal variable with their mean and covariance,
scaled and noised as in training. (The bias: Lin et al. 2024, arXiv 2305.08891. Initial latents that model what the
schedule leaves: Everaert et al. 2024, arXiv 2309.15842, of whose distributions this is the simplest.)
"""

from dataclasses import dataclass

import numpy as np

from ifuvit.utils.errors import InputError


@dataclass(frozen=True, kw_only=True)
class InitialLatentsDistribution:
    """The normal distribution of the spatial means of training images' normalized latents, C channels."""

    mean: tuple[float, ...]
    """C numbers."""
    covariance: tuple[tuple[float, ...], ...]
    """C x C."""

    def __post_init__(self) -> None:
        mean = np.array(self.mean)
        if {len(self.covariance), *map(len, self.covariance)} != {len(mean)}:
            raise InputError(f"initial_latents: the covariance does not have {len(mean)} channels")
        if not (np.isfinite(mean).all() and np.isfinite(self.covariance).all()):
            raise InputError("initial_latents: has numbers that are not finite")

    @classmethod
    def fit(cls, means: np.ndarray) -> "InitialLatentsDistribution":
        """Fit to the spatial means (N, C) of N images' latents; one image has covariance zero."""
        means = np.asarray(means, np.float64)
        covariance = np.atleast_2d(np.cov(means.T, ddof=1 if len(means) > 1 else 0))
        return cls(mean=tuple(means.mean(0).tolist()), covariance=tuple(tuple(row.tolist()) for row in covariance))

    def draw(self, normal: np.ndarray) -> np.ndarray:
        """Spatial means from standard normal numbers, one row per image: (B, C) -> (B, C) float32."""
        values, vectors = np.linalg.eigh(np.array(self.covariance))
        root = vectors * np.sqrt(values.clip(min=0))  # root root^T is the covariance, singular ones too
        return (np.array(self.mean) + normal @ root.T).astype(np.float32)
