"""Latents as the backbone sees them: centered and scaled by channel, or scaled by one number as Stable Diffusion's are."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ifuvit.utils.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class LatentNormalization:
    """(latents - mean) * scale. A run measures it once and keeps it; its pipeline has it too."""

    mean: tuple[float, ...] = (0.0,)
    """C numbers, or one for all channels."""
    scale: tuple[float, ...]
    """1 / standard deviation; likewise."""

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.scale) or not self.scale:
            raise InputError(f"latent normalization: {len(self.mean)} means and {len(self.scale)} scales")
        if not all(map(math.isfinite, (*self.mean, *self.scale))) or min(self.scale) <= 0:
            raise InputError(
                f"latent normalization: mean {self.mean} and scale {self.scale} must be finite, and the scale must be "
                "positive"
            )

    def check_channels(self, channels: int) -> None:
        """Raise an InputError unless it fits latents of so many channels."""
        if len(self.scale) not in (1, channels):
            raise InputError(f"latent normalization of {len(self.scale)} channels, the backbone has {channels}")

    def normalize(self, latents: np.ndarray) -> np.ndarray:
        """(..., C, H, W) float32 -> the same shape and type, in place."""
        latents -= _by_channel(self.mean, latents.dtype)
        latents *= _by_channel(self.scale, latents.dtype)
        return latents

    def denormalize(self, latents: "Tensor") -> "Tensor":
        """The inverse, for the decoder: (B, C, H, W) float32."""
        mean, scale = (latents.new_tensor(values).view(-1, 1, 1) for values in (self.mean, self.scale))
        return latents / scale + mean


def _by_channel(values: tuple[float, ...], dtype: np.dtype) -> np.ndarray:
    return np.array(values, dtype)[:, None, None]
