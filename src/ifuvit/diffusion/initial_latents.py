"""Where sampling starts: what diffusion leaves of a image at n = 1000.

The schedule does not end in pure noise (a_1000 = 0.0047), and over many places noise averages out: the mean of noisy latents
over their places still tells the mean of the image's, its color. A network learns to read it there. Started from pure
noise, whose mean is near 0, it draws images of that one color, though hardly any training image has it. So the start is
given a color as training images have: a normal variable of their mean and covariance, weighted and noised as in training.
(The bias: Lin et al. 2024, arXiv:2305.08891. A start that models what the schedule leaves: Everaert et al. 2024,
arXiv:2309.15842, of whose distribution this is the simplest.)
"""

from dataclasses import dataclass

import numpy as np

from ifuvit.utils.errors import InputError


@dataclass(frozen=True, kw_only=True)
class LatentColor:
    """How the colors of images are distributed: the means over all places of their scaled latents, C channels."""

    mean: tuple[float, ...]
    """C numbers."""
    covariance: tuple[tuple[float, ...], ...]
    """C x C."""

    def __post_init__(self) -> None:
        mean = np.array(self.mean)
        if {len(self.covariance), *map(len, self.covariance)} != {len(mean)}:
            raise InputError(f"latent_color: its covariance is not that of {len(mean)} channels")
        if not (np.isfinite(mean).all() and np.isfinite(self.covariance).all()):
            raise InputError("latent_color: holds numbers that are not finite")

    @classmethod
    def of(cls, colors: np.ndarray) -> "LatentColor":
        """The mean and covariance of colors (N, C); one color has no spread."""
        colors = np.asarray(colors, np.float64)
        covariance = np.atleast_2d(np.cov(colors.T, ddof=1 if len(colors) > 1 else 0))
        return cls(mean=tuple(colors.mean(0).tolist()), covariance=tuple(tuple(row.tolist()) for row in covariance))

    def draw(self, normal: np.ndarray) -> np.ndarray:
        """Colors from standard normal numbers, one a image: (B, C) -> (B, C) float32."""
        values, vectors = np.linalg.eigh(np.array(self.covariance))
        root = vectors * np.sqrt(values.clip(min=0))  # root root^T is the covariance, singular ones too
        return (np.array(self.mean) + normal @ root.T).astype(np.float32)
