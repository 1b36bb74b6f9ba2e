"""What generated images may differ by from drawn ones: blur, noise, contrast and brightness."""

import math

import numpy as np
import torch
from torch.nn import functional


def blur(images: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian blur of (B, 3, H, W), the border repeated."""
    radius = math.ceil(3 * sigma)
    weights = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
    weights = (weights / weights.sum()).tolist()
    # Sums of shifted images: several times faster on CPUs than convolutions of one channel.
    height, width = images.shape[-2:]
    padded = functional.pad(images, (radius,) * 4, mode="replicate")
    rows = torch.zeros_like(padded[..., :width])
    for shift, weight in enumerate(weights):
        rows.add_(padded[..., shift : shift + width], alpha=weight)
    blurred = torch.zeros_like(images)
    for shift, weight in enumerate(weights):
        blurred.add_(rows[..., shift : shift + height, :], alpha=weight)
    return blurred


def disturb(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """What generated images may differ by from drawn ones, at random strengths image by image: blur (a mixture of
    the image and its blurred self; half of the images), noise (half of the images, up to 0.2 of the range -1 to
    1), and changes of each color's contrast (up to 10 %) and brightness (up to 0.08).

    Args:
        images: (B, 3, H, W) in [-1, 1].
        rng: all draws come from it.
    """
    count = len(images)

    def per_image(*shape: int, low: float, high: float, chance: float = 1.0) -> torch.Tensor:
        values = rng.uniform(low, high, (count, *shape)) * (rng.random((count, *[1] * len(shape))) < chance)
        return torch.from_numpy(values.astype(np.float32)).to(images.device)

    # One convolution for all images; its strength differs by the mixture.
    blurred = blur(images, float(rng.uniform(0.5, 1.5)))
    images = torch.lerp(images, blurred, per_image(1, 1, 1, low=0.2, high=1.0, chance=0.5))
    images = images * per_image(3, 1, 1, low=0.9, high=1.1) + per_image(3, 1, 1, low=-0.08, high=0.08)
    noise = torch.from_numpy(rng.standard_normal(tuple(images.shape), np.float32)).to(images.device)
    return (images + noise * per_image(1, 1, 1, low=0.0, high=0.2, chance=0.5)).clamp(-1, 1)
