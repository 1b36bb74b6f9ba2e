"""Backbones by name.

The paper's four settings (Table 1), U-ViT-S/2 and its width: FID-30K 5.98, 5.77, 6.48, 5.68 after 1,000,000 steps of 256
on MS-COCO. `-deep` is U-ViT-S/2 Deep's depth 16 with five fused blocks as in the paper. `openmoji-` are small ones for
the embedded data set: 8x16x16 latents and 16 tokens of three layers of MiniLM, standardized, with padding masked.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from ifuvit.model.settings import IFUViTConfig

_PAPER = IFUViTConfig()  # 4x32x32 latents, patch 2, D = 512, 8 heads, 77 tokens of CLIP ViT-L/14
_DEEP = replace(_PAPER, depth=16)
_OPENMOJI = replace(
    _PAPER,
    latent_size=16,
    latent_channels=8,
    embed_dim=192,
    num_heads=6,
    depth=6,
    text_width=3 * 384,
    text_tokens=16,
    n_image=2,
    mask_padding=True,
    text_norm="standardize",
    position_std=0.2,
)


def _four(base: IFUViTConfig, n_image: int, prefix: str = "", suffix: str = "") -> dict[str, IFUViTConfig]:
    return {
        f"{prefix}{conditioning}-{fusion}{suffix}": replace(
            base, conditioning=conditioning, n_text=n_text, n_image=n_image if n_text else 0
        )
        for conditioning in ("concat", "cross")
        for fusion, n_text in (("early", 0), ("intermediate", 1))
    }


presets: Mapping[str, IFUViTConfig] = MappingProxyType(
    {
        **_four(_PAPER, n_image=4),
        **_four(_DEEP, n_image=6, suffix="-deep"),
        **_four(_OPENMOJI, n_image=2, prefix="openmoji-"),
    }
)
