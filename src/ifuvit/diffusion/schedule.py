"""The forward process: discrete variance-preserving diffusion with Stable Diffusion's betas, as U-ViT trains it.

Timesteps are n = 1 … 1000; n = 0 would be clean data. diffusers counts t = n - 1.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from ifuvit.diffusion.objective import NUM_TIMESTEPS

BETA_START, BETA_END = 0.00085, 0.012
SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": NUM_TIMESTEPS,
    "beta_start": BETA_START,
    "beta_end": BETA_END,
    "beta_schedule": "scaled_linear",
}
"""The same in diffusers' words."""


@cache
def alphas_cumprod() -> Tensor:
    """(1000,) float64, entry n - 1 is the product of 1 - beta up to step n; the betas are linear in their roots."""
    betas = torch.linspace(BETA_START**0.5, BETA_END**0.5, NUM_TIMESTEPS, dtype=torch.float64) ** 2
    return (1 - betas).cumprod(0)


@cache
def _scales(device: torch.device) -> Tensor:
    """(3, 1000) float32: sqrt(a_n), sqrt(1 - a_n) and a_n / (1 - a_n), computed in float64 (which not every device has), and
    copied to a device once: a copy waits for it."""
    a = alphas_cumprod()
    return torch.stack([a.sqrt(), (1 - a).sqrt(), a / (1 - a)]).float().to(device)


def add_noise(latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """q(x_n | x_0): sqrt(a_n) x_0 + sqrt(1 - a_n) noise; (B, C, H, W), (B, C, H, W), (B,) int n -> (B, C, H, W)."""
    signal, deviation, _ = _scales(timesteps.device)[:, timesteps.long() - 1].to(latents.dtype)
    return signal.view(-1, 1, 1, 1) * latents + deviation.view(-1, 1, 1, 1) * noise


def remove_noise(latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """The inverse of `add_noise`: x_0 from x_n, and the noise that is in it."""
    signal, deviation, _ = _scales(timesteps.device)[:, timesteps.long() - 1].to(latents.dtype)
    return (latents - deviation.view(-1, 1, 1, 1) * noise) / signal.view(-1, 1, 1, 1)


def signal_to_noise(timesteps: Tensor) -> Tensor:
    """a_n / (1 - a_n): (B,) int n -> (B,) float32."""
    return _scales(timesteps.device)[2, timesteps.long() - 1]
