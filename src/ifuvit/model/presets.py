"""Backbones by name.

The paper's four settings (Table 1), U-ViT-S/2 and its width: FID-30K 5.98, 5.77, 6.48, 5.68 after 1,000,000 steps of 256
on MS-COCO. `-deep` is U-ViT-S/2 Deep's depth 16 with five fused blocks as in the paper. `openmoji-` are small ones for
the embedded data set: 8x16x16 latents and 16 tokens of three layers of MiniLM, standardized, with padding masked.

`uvit-m`, `-l`, `-h` are the larger sizes of U-ViT's paper (131M, 287M and 501M parameters there, of classes or without text),
`uvit-1b` one of about a billion; `-intermediate` has fusion by cross-attention in the middle third. None of them has been
trained here.

`PUBLISHED` are the ways of other models, at the same two sizes (`pixart`, `openmoji-pixart`): where and how text enters, and
their blocks. What is said there to be left out is what an original has and the preset has not. None has what all presets
share with U-ViT: the long skips, the time token, learned position embeddings of text, the last convolution. Text encoders,
autoencoders and objectives are those of the training, not of the original. None of them has been trained at the paper's size here.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

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


_SIZES: Mapping[str, Mapping[str, int]] = {
    "m": {"embed_dim": 768, "depth": 16, "num_heads": 12},
    "l": {"embed_dim": 1024, "depth": 20, "num_heads": 16},
    "h": {"embed_dim": 1152, "depth": 28, "num_heads": 16},
    "1b": {"embed_dim": 1536, "depth": 32, "num_heads": 24},
}
"""U-ViT's own M, L and H (Bao et al. 2023, Table 1), and one beyond."""


def _large() -> dict[str, IFUViTConfig]:
    found = {}
    for name, size in _SIZES.items():
        base = replace(_PAPER, **size, n_text=0, n_image=0)
        found[f"uvit-{name}"] = replace(base, conditioning="concat")
        found[f"uvit-{name}-intermediate"] = replace(base, conditioning="cross", n_text=1, n_image=base.depth // 3)
    return found


def lumina2(base: IFUViTConfig) -> IFUViTConfig:
    """Lumina-Image 2.0 (Qin et al. 2025), and Z-Image: two refiner blocks on text and two on the image, then joint blocks by
    concatenation; RMSNorm, QK normalization, SwiGLU, rotary positions, blocks modulated by time.

    Left out: the second norm behind attention and MLP and the tanh of the gates; grouped-query attention; rotary positions
    of text. SwiGLU has 8/3 of the width, not 4.
    """
    return replace(base, **_MODERN, conditioning="concat", n_text=2, n_image=(2, 0), norm="rms", modulation="adaln")


def prx(base: IFUViTConfig) -> IFUViTConfig:
    """PRX (Photoroom 2025): text is never updated; in every block image queries read one softmax over text and image, with
    keys and values of text by weights of their own.

    Left out: nothing of the attention. The original's MLP is gated by GELU, its projections have no biases, and its blocks do
    not normalize text.
    """
    return replace(
        base,
        **_MODERN,
        conditioning="cross-separate",
        cross_attention="joint",
        n_text=0,
        n_image=0,
        modulation="adaln",
    )


def ddt(base: IFUViTConfig) -> IFUViTConfig:
    """DDT (Wang et al. 2025), its condition-free end: 6 of 28 blocks, here a quarter of the depth, see no condition; RMSNorm,
    SwiGLU, rotary positions, QK normalization, blocks modulated by time.

    Left out: the decoder, whose tokens are modulated by those of the encoder (here it goes on with them), and the reuse of
    the encoder over steps. The condition, a class added to the time in the original, is text by concatenation.
    """
    return replace(
        base,
        **_MODERN,
        conditioning="concat",
        n_text=0,
        n_image=(0, base.depth // 4),
        norm="rms",
        modulation="adaln",
    )


def sd3(base: IFUViTConfig) -> IFUViTConfig:
    """Stable Diffusion 3 (Esser et al. 2024): MM-DiT in every block, modulated by time and pooled text.

    Left out: three text encoders (the pooled caption is the mean token), fixed sinusoidal positions, biases of queries, keys
    and values, the approximate GELU; QK normalization is that of 3.5.
    """
    return replace(base, conditioning="mmdit", n_text=0, n_image=0, modulation="adaln", pooled_text=True)


def flux(base: IFUViTConfig) -> IFUViTConfig:
    """FLUX.1 (Black Forest Labs 2024): a third of the blocks are double (MM-DiT), the others single: one set of weights for
    text and image; QK normalization, rotary positions, modulated by time and pooled text.

    Left out: attention and MLP side by side in single blocks (here one after the other), the embedded guidance scale,
    biases of queries, keys and values, the approximate GELU.
    """
    return replace(
        base,
        conditioning="mmdit",
        n_text=0,
        n_image=0,
        double_blocks=(base.depth + 1) // 3,
        modulation="adaln",
        pooled_text=True,
        qk_norm=True,
        positions="rotary",
    )


def pixart(base: IFUViTConfig) -> IFUViTConfig:
    """PixArt-alpha (Chen et al. 2023): cross-attention of its own in every block, adaLN-single for the time.

    Left out: the MLP that projects the caption (here a linear layer), fixed sinusoidal positions, the projection of
    cross-attention that starts at zero, the approximate GELU. Here cross-attention also normalizes what it reads.
    """
    return replace(
        base,
        conditioning="cross-separate",
        cross_attention="added",
        n_text=0,
        n_image=0,
        modulation="adaln-single",
    )


def dit_air(base: IFUViTConfig) -> IFUViTConfig:
    """DiT-Air (Chen et al. 2025), from its description: plain concatenation in every block, with one modulation by time for
    all of them.

    Left out: what blocks share beyond that in its Lite version. Here each block adds a table of its own, as in PixArt.
    """
    return replace(base, conditioning="concat", n_text=0, n_image=0, modulation="adaln-single")


_MODERN: Mapping[str, Any] = {"qk_norm": True, "positions": "rotary", "mlp": "swiglu", "mlp_ratio": 8 / 3}

PUBLISHED: Mapping[str, Callable[[IFUViTConfig], IFUViTConfig]] = MappingProxyType(
    {
        "lumina2": lumina2,
        "prx": prx,
        "ddt": ddt,
        "sd3": sd3,
        "flux": flux,
        "pixart": pixart,
        "dit-air": dit_air,
    }
)
"""The ways of published models, by name."""


presets: Mapping[str, IFUViTConfig] = MappingProxyType(
    {
        **_four(_PAPER, n_image=4),
        **_four(_DEEP, n_image=6, suffix="-deep"),
        **_large(),
        **_four(_OPENMOJI, n_image=2, prefix="openmoji-"),
        **{name: published(_PAPER) for name, published in PUBLISHED.items()},
        **{f"openmoji-{name}": published(_OPENMOJI) for name, published in PUBLISHED.items()},
    }
)
