"""Where sampling starts: what diffusion leaves of a picture at n = 1000.

The schedule does not end in pure noise (a_1000 = 0.0047), and over many places noise averages out: the mean of noisy latents
over their places still tells the mean of the picture's, its color. A network learns to read it there. Started from pure
noise, whose mean is near 0, it draws pictures of that one color, though hardly any training picture has it. So the start is
given a color as training pictures have: a normal variable of their mean and covariance, weighted and noised as in training.
(The bias: Lin et al. 2024, arXiv:2305.08891. A start that models what the schedule leaves: Everaert et al. 2024,
arXiv:2309.15842, of whose distribution this is the simplest.)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ifuvit.errors import InputError


@dataclass(frozen=True, kw_only=True)
class LatentColor:
    """How the colors of pictures are distributed: the means over all places of their scaled latents, C channels."""

    mean: tuple[float, ...]
    """C numbers."""
    covariance: tuple[tuple[float, ...], ...]
    """C x C."""

    @classmethod
    def of(cls, colors: np.ndarray) -> "LatentColor":
        """The mean and covariance of colors (N, C), of one picture without spread."""
        colors = np.asarray(colors, np.float64)
        covariance = np.cov(colors.T, ddof=1 if len(colors) > 1 else 0).reshape(colors.shape[1], -1)
        return cls._of_arrays(colors.mean(0), covariance)

    @classmethod
    def read(cls, value: Any, *, channels: int, where: str) -> "LatentColor":
        """From JSON.

        Raises:
            InputError: it is not {"mean", "covariance"} of so many channels.
        """
        try:
            mean, covariance = np.array(value["mean"], np.float64), np.array(value["covariance"], np.float64)
        except (TypeError, KeyError, ValueError):
            mean = covariance = np.empty(0)
        if mean.shape != (channels,) or covariance.shape != (channels, channels) or not np.isfinite(covariance).all():
            raise InputError(f"{where}: latent_color is not the mean and covariance of {channels} channels")
        return cls._of_arrays(mean, covariance)

    @classmethod
    def _of_arrays(cls, mean: np.ndarray, covariance: np.ndarray) -> "LatentColor":
        return cls(mean=tuple(map(float, mean)), covariance=tuple(tuple(map(float, row)) for row in covariance))

    def draw(self, normal: np.ndarray) -> np.ndarray:
        """Colors from standard normal numbers, one a picture: (B, C) -> (B, C) float32."""
        values, vectors = np.linalg.eigh(np.array(self.covariance))
        root = vectors * np.sqrt(values.clip(min=0))  # root root^T is the covariance, singular ones too
        return (np.array(self.mean) + normal @ root.T).astype(np.float32)

    def to_json(self) -> Mapping[str, Any]:
        """{"mean", "covariance"} as lists."""
        return {"mean": list(self.mean), "covariance": list(map(list, self.covariance))}
