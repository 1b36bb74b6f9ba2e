"""The settings of the backbone, in a module that does not import torch, so that presets and `--help` load fast."""

import math
from dataclasses import dataclass, replace
from typing import Literal

from ifuvit.results import CONDITIONINGS, Conditioning
from ifuvit.utils.errors import InputError


@dataclass(frozen=True, kw_only=True)
class IFUViTConfig:
    """All settings of the backbone. Impossible values raise InputError, a ValueError, that shows them."""

    latent_size: int = 32
    """Height and width of the latent, in cells."""
    latent_channels: int = 4
    """Channels of the latent."""
    patch_size: int = 2
    """Latent cells along each side of a patch."""
    embed_dim: int = 512
    """Width D of every token."""
    depth: int = 12
    """Blocks without the middle one: depth/2 in-blocks and depth/2 out-blocks."""
    num_heads: int = 8
    """Attention heads; they divide embed_dim."""
    mlp_ratio: float = 4.0
    """Hidden width of the MLP over embed_dim."""
    text_width: int = 768
    """Width of the text encoder's hidden states."""
    text_tokens: int = 77
    """Text tokens L of every caption, padding included."""
    conditioning: Conditioning = "cross"
    """How text enters a fused block: as further tokens of the sequence, or as further keys and values."""
    n_text: int = 1
    """Trainable transformer blocks on the text alone."""
    n_image: int | tuple[int, int] = 4
    """Image-only blocks on each side, or (front, back): fusion early (0, x), in the middle, or late (x, 0)."""
    cross_attention: Literal["added", "joint"] = "added"
    """Two softmaxes whose outputs are summed, or one softmax over image and text keys; only read by "cross"."""
    mask_padding: bool = False
    """Whether padded text tokens are hidden from attention (U-ViT shows them)."""
    text_norm: Literal["none", "standardize"] = "none"
    """Text embeddings as they are, or each feature centered and scaled by its mean and deviation over captions of the
    training data: shared offsets and large features otherwise hide what tells one caption from another."""
    layout_kinds: int = 0
    """Kinds of objects that a head on the middle block tells apart in training, by their places; 0 for no head, as in the
    paper. Images are generated without it."""
    position_std: float = 0.02
    """Deviation of the position embeddings before training (U-ViT: 0.02)."""

    def __post_init__(self) -> None:
        for name in (
            "latent_size",
            "latent_channels",
            "patch_size",
            "embed_dim",
            "num_heads",
            "text_width",
            "text_tokens",
        ):
            if not _is_count(getattr(self, name), at_least=1):
                raise InputError(f"{name}={getattr(self, name)!r}: must be a whole number, at least 1")
        if self.latent_size % self.patch_size:
            raise InputError(f"latent_size={self.latent_size} is not a multiple of patch_size={self.patch_size}")
        if self.embed_dim % self.num_heads or self.embed_dim % 2:
            raise InputError(f"embed_dim={self.embed_dim} must be even and a multiple of num_heads={self.num_heads}")
        if not _is_count(self.depth, at_least=2) or self.depth % 2:
            raise InputError(f"depth={self.depth!r}: must be even and at least 2 (as many out-blocks as in-blocks)")
        if not 1 <= self.embed_dim * self.mlp_ratio < math.inf:
            raise InputError(f"mlp_ratio={self.mlp_ratio}: must be positive, and embed_dim x mlp_ratio at least 1")
        if self.conditioning not in CONDITIONINGS:
            raise InputError(f"conditioning={self.conditioning!r}: choose {' or '.join(map(repr, CONDITIONINGS))}")
        if self.cross_attention not in ("added", "joint"):
            raise InputError(f"cross_attention={self.cross_attention!r}: choose 'added' or 'joint'")
        if self.text_norm not in ("none", "standardize"):
            raise InputError(f"text_norm={self.text_norm!r}: choose 'none' or 'standardize'")
        if not 0 < self.position_std < math.inf:
            raise InputError(f"position_std={self.position_std}: must be positive")
        for name in ("n_text", "layout_kinds"):
            if not _is_count(getattr(self, name)):
                raise InputError(f"{name}={getattr(self, name)!r}: must be a whole number, not negative")
        if len(self.image_only) != 2 or not all(_is_count(n) and n <= self.depth // 2 for n in self.image_only):
            raise InputError(
                f"n_image={self.n_image!r}: one number, or (front, back), each in 0 … depth/2 = {self.depth // 2}"
            )

    @property
    def image_only(self) -> tuple[int, int]:
        """Image-only blocks at the (front, back)."""
        return self.n_image if isinstance(self.n_image, tuple) else (self.n_image, self.n_image)

    @property
    def num_patches(self) -> int:
        """P, the patches of a latent."""
        return (self.latent_size // self.patch_size) ** 2

    @property
    def num_fused(self) -> int:
        """F, the blocks that see text; the middle block always does."""
        return self.depth + 1 - sum(self.image_only)


def as_uvit(config: IFUViTConfig) -> IFUViTConfig:
    """The setting of the same size that is U-ViT."""
    return replace(
        config, conditioning="concat", n_text=0, n_image=0, mask_padding=False, text_norm="none", layout_kinds=0
    )


def _is_count(value: object, at_least: int = 0) -> bool:
    return type(value) is int and value >= at_least
