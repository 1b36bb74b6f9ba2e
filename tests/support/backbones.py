"""Small backbones of every setting, and their inputs."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ifuvit.model.settings import IFUViTConfig
from ifuvit.model.uvit import IFUViT

TINY = IFUViTConfig(latent_size=8, embed_dim=32, depth=4, num_heads=4, text_width=24, text_tokens=7, n_image=1)
N, L = 17, 7  # image and text tokens of TINY

ASYMMETRIC = [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)]
PLACES: list[tuple[int, Any]] = [(1, n) for n in [0, 1, 2, *ASYMMETRIC]] + [(0, 0), (0, 1), (2, 1), (2, (2, 0))]
OPTIONS = (
    "double_blocks",
    "modulation",
    "pooled_text",
    "norm",
    "qk_norm",
    "positions",
    "mlp",
    "value_residual",
    "text_gates",
    "text_mix",
)
PAPERS = [("concat", "added"), ("cross", "added"), ("cross", "joint")]
OTHERS = [("cross-separate", "added"), ("cross-separate", "joint"), ("mmdit", "added"), ("adaln", "added")]
FEW_PLACES: list[tuple[int, Any]] = [(0, 0), (1, 1), (1, (0, 2)), (1, (1, 0)), (2, (2, 1))]
READINGS = PAPERS + OTHERS
SETTINGS = [
    replace(TINY, conditioning=conditioning, cross_attention=reading, n_text=n_text, n_image=n_image)  # type: ignore[arg-type]
    for readings, places in ((PAPERS, PLACES), (OTHERS, FEW_PLACES))
    for conditioning, reading in readings
    for n_text, n_image in places
]
SETTINGS += [
    replace(TINY, conditioning="mmdit", double_blocks=2, n_image=(1, 0)),
    replace(TINY, conditioning="concat", text_layers=3, text_mix="shared"),
    replace(TINY, conditioning="cross", text_layers=3, text_mix="block", modulation="adaln", pooled_text=True),
    replace(TINY, conditioning="mmdit", modulation="adaln", pooled_text=True, qk_norm=True, n_image=(0, 1)),
    replace(TINY, conditioning="concat", modulation="adaln-single", mlp="swiglu", norm="rms", positions="rotary"),
    replace(TINY, conditioning="cross-separate", modulation="adaln-single", qk_norm=True, text_gates=True),
    replace(TINY, conditioning="adaln", value_residual=True, n_image=0),
    replace(TINY, conditioning="concat", value_residual=True, text_gates=True, positions="rotary", qk_norm=True),
    replace(TINY, conditioning="mmdit", value_residual=True, text_gates=True, positions="rotary", norm="rms"),
    replace(TINY, conditioning="cross", text_gates=True, value_residual=True, modulation="adaln", mlp="swiglu"),
]


PAPER_SETTINGS = SETTINGS[: len(PAPERS) * len(PLACES)]
OTHER_SETTINGS = SETTINGS[len(PAPER_SETTINGS) :]


def setting_name(config: IFUViTConfig) -> str:
    reading = f"-{config.cross_attention}" if "cross" in config.conditioning else ""
    mask = "-masked" if config.mask_padding else ""
    plain = IFUViTConfig()
    for name in OPTIONS:
        if getattr(config, name) != getattr(plain, name):
            mask += f"-{name}"
    return f"{config.conditioning}{reading}{mask}-{config.n_text}-{config.image_only[0]},{config.image_only[1]}"


every_setting = pytest.mark.parametrize("config", SETTINGS, ids=setting_name)
every_reading = pytest.mark.parametrize(("conditioning", "reading"), READINGS)


def make(config: IFUViTConfig, seed: int = 0) -> IFUViT:
    """A model with weights far larger than at initialization, so that text, skips and time all matter."""
    model = IFUViT(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            center = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            parameter.copy_(center + 0.15 * torch.randn(parameter.shape, generator=generator))
    return model


def inputs(config: IFUViTConfig, batch: int = 3, seed: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Latents, timesteps, text embeddings and a mask whose captions have different lengths."""
    generator = torch.Generator().manual_seed(seed)
    side, length = config.latent_size, config.text_tokens
    latents = torch.randn(batch, config.latent_channels, side, side, generator=generator)
    states = torch.randn(batch, length, config.text_width, generator=generator)
    lengths = 2 + torch.arange(batch) % (length - 1)
    return latents, torch.tensor([1.0, 480.5, 1000.0])[:batch], states, torch.arange(length) < lengths[:, None]


def assert_same(got: Tensor, expected: Tensor, tolerance: float = 2e-5) -> None:
    assert got.shape == expected.shape
    assert (got - expected).abs().max() <= tolerance * expected.abs().max()
