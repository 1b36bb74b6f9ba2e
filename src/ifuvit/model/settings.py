"""The settings of the backbone, in a module that does not import torch, so that presets and `--help` load fast."""

import math
from dataclasses import dataclass
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
    """How text enters a fused block: as further tokens of the sequence ("concat"); as further keys and values, by the
    block's own weights ("cross") or by weights of their own ("cross-separate": Stable Diffusion, PixArt, PRX); as tokens with
    weights of their own in a joint attention ("mmdit": Stable Diffusion 3, FLUX); or pooled, with the timestep, as shift,
    scale and gate of the block ("adaln": DiT)."""
    n_text: int = 1
    """Trainable transformer blocks on the text alone."""
    n_image: int | tuple[int, int] = 4
    """Image-only blocks on each side, or (front, back): fusion early (0, x), in the middle, or late (x, 0)."""
    cross_attention: Literal["added", "joint"] = "added"
    """Two softmaxes whose outputs are summed, or one softmax over image and text keys; read by "cross" and by
    "cross-separate", whose second softmax has queries and a projection of its own, after those of self-attention."""
    double_blocks: int | None = None
    """How many fused blocks, the first ones, have weights of their own for text; in later ones text shares those of the image,
    as in FLUX. Default: all. Only read by "mmdit"."""
    modulation: Literal["none", "adaln", "adaln-single"] = "none"
    """Whether the timestep also modulates every block by which the image goes: by a linear layer of each block (DiT), or by
    one for all of them and a table of each (PixArt). With "none" only the blocks of "adaln" are modulated. They start as
    the identity."""
    pooled_text: bool = False
    """Whether the pooled caption joins the timestep in the modulation of the fused blocks (Stable Diffusion 3, FLUX)."""
    norm: Literal["layer", "rms"] = "layer"
    """LayerNorm as in U-ViT, or RMSNorm."""
    qk_norm: bool = False
    """Whether queries and keys are normalized by head (RMSNorm)."""
    positions: Literal["learned", "rotary"] = "learned"
    """Learned position embeddings of patches, or rotation of their queries and keys by row and column. Time and text keep
    learned ones."""
    mlp: Literal["gelu", "swiglu"] = "gelu"
    """The MLP of every block; SwiGLU has a third matrix of the same hidden width (mlp_ratio 2.667 costs what GELU with 4 does)."""
    value_residual: bool = False
    """Whether every block mixes its values of image tokens with those of the first block, by two learned scalars."""
    text_gates: bool = False
    """Whether every fused block has a learned factor by head on the values of text, 1 at the start: where does the network
    want text?"""
    mask_padding: bool = False
    """Whether padded text tokens are hidden from attention (U-ViT shows them)."""
    text_norm: Literal["none", "standardize"] = "none"
    """Text embeddings as they are, or each feature centered and scaled by its mean and deviation over captions of the
    training data: shared offsets and large features otherwise hide what tells one caption from another."""
    text_layers: int = 1
    """Layers of the text encoder that stand side by side in the embeddings (`ifuvit prepare --text-layer 0 3 6`: 3). Only read
    with text_mix."""
    text_mix: Literal["none", "shared", "block"] = "none"
    """Layers side by side are projected together ("none"), or mixed before by a learned softmax: one for all blocks, or one for
    each fused block, whose text then goes through the text blocks apart."""
    path_drop: bool = False
    """Whether the branch of guidance without a caption skips the fused blocks (SPRINT's path-drop guidance): it goes from the
    image-only in-blocks to the image-only out-blocks, which training teaches with the samples whose caption is dropped. A
    guided step then costs less, and there is no negative prompt."""
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
            "text_layers",
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
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise InputError(f"{name}={getattr(self, name)!r}: choose {' or '.join(map(repr, choices))}")
        if not 0 < self.position_std < math.inf:
            raise InputError(f"position_std={self.position_std}: must be positive")
        for name in ("n_text", "layout_kinds"):
            if not _is_count(getattr(self, name)):
                raise InputError(f"{name}={getattr(self, name)!r}: must be a whole number, not negative")
        if len(self.image_only) != 2 or not all(_is_count(n) and n <= self.depth // 2 for n in self.image_only):
            raise InputError(
                f"n_image={self.n_image!r}: one number, or (front, back), each in 0 … depth/2 = {self.depth // 2}"
            )

        self._check_combinations()

    def _check_combinations(self) -> None:
        if self.double_blocks is not None:
            if self.conditioning != "mmdit":
                raise InputError(
                    f"double_blocks={self.double_blocks!r} and conditioning={self.conditioning!r}: only 'mmdit' has blocks with "
                    "weights of their own for text"
                )
            if not _is_count(self.double_blocks, at_least=1) or self.double_blocks > self.num_fused:
                raise InputError(
                    f"double_blocks={self.double_blocks!r} and n_image={self.n_image!r}: a number in 1 … {self.num_fused}, the "
                    "fused blocks"
                )
        if self.text_mix != "none" and (self.text_layers < 2 or self.text_width % self.text_layers):
            raise InputError(
                f"text_mix={self.text_mix!r} and text_layers={self.text_layers}: needs two or more layers of equal width side by "
                f"side in text_width={self.text_width}; prepare with --text-layer 0 3 6 and set --text-layers 3"
            )
        if self.text_mix == "block" and self.conditioning not in ("cross", "cross-separate"):
            raise InputError(
                f"text_mix='block' and conditioning={self.conditioning!r}: the blocks do not read text each for itself; choose "
                "text_mix 'shared', or conditioning 'cross' or 'cross-separate'"
            )
        if self.pooled_text and self.modulation == "none":
            raise InputError(
                "pooled_text=True and modulation='none': nothing reads the pooled caption; choose modulation 'adaln' or "
                "'adaln-single', or conditioning 'adaln'"
            )
        if self.text_gates and self.conditioning == "adaln":
            raise InputError(
                "text_gates=True and conditioning='adaln': its blocks have no keys and values of text; choose conditioning "
                "'concat', 'cross', 'cross-separate' or 'mmdit'"
            )
        front, back = self.image_only
        if self.path_drop and not front >= back >= 1:
            raise InputError(
                f"path_drop=True and n_image={self.n_image!r}: the branch without text goes by image-only blocks at both ends, "
                "whose long skips must not come from fused ones; choose n_image (front, back) with front >= back >= 1"
            )
        if self.positions == "rotary" and self.embed_dim // self.num_heads % 4:
            raise InputError(
                f"positions='rotary' and num_heads={self.num_heads}: embed_dim / num_heads = "
                f"{self.embed_dim // self.num_heads} must be a multiple of 4, for pairs of rows and of columns"
            )

    @property
    def pools_text(self) -> bool:
        """Whether the pooled caption modulates the fused blocks."""
        return self.conditioning == "adaln" or self.pooled_text

    @property
    def two_softmaxes(self) -> bool:
        """Whether image tokens read text by a softmax of its own."""
        return self.conditioning in ("cross", "cross-separate") and self.cross_attention == "added"

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


_CHOICES = {
    "cross_attention": ("added", "joint"),
    "modulation": ("none", "adaln", "adaln-single"),
    "norm": ("layer", "rms"),
    "positions": ("learned", "rotary"),
    "mlp": ("gelu", "swiglu"),
    "text_norm": ("none", "standardize"),
    "text_mix": ("none", "shared", "block"),
}


def as_uvit(config: IFUViTConfig) -> IFUViTConfig:
    """The setting of the same size that is U-ViT."""
    size = (
        "latent_size",
        "latent_channels",
        "patch_size",
        "embed_dim",
        "depth",
        "num_heads",
        "mlp_ratio",
        "text_width",
        "text_tokens",
        "position_std",
    )
    return IFUViTConfig(conditioning="concat", n_text=0, n_image=0, **{name: getattr(config, name) for name in size})


def _is_count(value: object, at_least: int = 0) -> bool:
    return type(value) is int and value >= at_least
