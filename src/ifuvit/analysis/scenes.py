"""Held-out scenes as a model sees them: latents and noise."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ifuvit.data.images import to_tensor
from ifuvit.data.scenes import Scene, draw_scene
from ifuvit.diffusion.sampling import initial_noise
from ifuvit.utils.errors import InputError

if TYPE_CHECKING:
    from ifuvit.pipeline import Pipeline


def draw_scenes(number: int, size: int, seed: int) -> list[Scene]:
    """Scenes of the split "val", which training does not see, of `size` pixels.

    Raises:
        InputError: `size` is too small for scenes.
    """
    return [draw_scene(seed, index, size=size, split="val") for index in range(number)]


@torch.no_grad()
def encode_scenes(pipeline: "Pipeline", scenes: Sequence[Scene], *, batch_size: int = 64) -> Tensor:
    """Normalized latents (N, C, H, W) at the mean of the posterior, on the CPU.

    Raises:
        InputError: the scenes are not of the model's image size.
    """
    if scenes and scenes[0].image.shape[0] != pipeline.image_size:
        raise InputError(f"scenes of {scenes[0].image.shape[0]} pixels, the model is for {pipeline.image_size}")
    channels, parts = pipeline.model.config.latent_channels, []
    for start in range(0, len(scenes), batch_size):
        images = np.stack([scene.image for scene in scenes[start : start + batch_size]])
        parts.append(pipeline.autoencoder.moments(to_tensor(images))[:, :channels].cpu().numpy())
    return torch.from_numpy(pipeline.normalization.normalize(np.concatenate(parts)))


def image_noise(latents: Tensor, seed: int) -> Tensor:
    """Standard normal noise (N, C, H, W), each image's from (seed, place) alone."""
    return initial_noise(tuple(latents.shape[1:]), seed, range(len(latents)))
