"""Parameters and floating point operations of any setting, from its configuration alone.

A FLOP is half a multiply-add. Counted are linear layers, convolutions and, apart, the two products of attention;
left out are norms, activations, softmax and additions. The paper's GFLOPs leave the attention products out.
"""

from dataclasses import dataclass
from typing import Any

from ifuvit.model.settings import IFUViTConfig


@dataclass(frozen=True, kw_only=True)
class Flops:
    """FLOPs for one image."""

    layers: int
    """Linear and convolution layers: the paper's count."""
    attention: int
    """The products of queries with keys and of weights with values."""

    @property
    def total(self) -> int:
        return self.layers + self.attention

    def __add__(self, other: "Flops") -> "Flops":
        return Flops(layers=self.layers + other.layers, attention=self.attention + other.attention)

    def __mul__(self, times: int) -> "Flops":
        return Flops(layers=self.layers * times, attention=self.attention * times)


def _hidden(c: IFUViTConfig) -> int:
    return int(c.embed_dim * c.mlp_ratio)


def parameters(c: IFUViTConfig) -> int:
    """Number of trainable parameters."""
    d, half = c.embed_dim, c.depth // 2
    block = 4 * d + 3 * d * d + d * d + d + (2 * d * _hidden(c) + _hidden(c) + d)  # norms, qkv, proj, MLP
    skip = 2 * d * d + d
    cells = c.patch_size**2 * c.latent_channels
    return (
        cells * d
        + d  # patch embedding
        + c.text_width * d
        + d  # text projection
        + (1 + c.text_tokens + c.num_patches) * d  # positions
        + (c.n_text + c.depth + 1) * block
        + half * skip
        + 2 * d  # final norm
        + d * cells
        + cells  # to patches
        + 9 * c.latent_channels**2
        + c.latent_channels  # last convolution
    )


def _block(c: IFUViTConfig, tokens: int, keys: int, skipped: int = 0) -> Flops:
    """A block on `tokens` tokens that attend to `keys` keys; the long skip joins `skipped` of the tokens."""
    d = c.embed_dim
    layers = tokens * (4 * d * d + 2 * d * _hidden(c)) + skipped * 2 * d * d
    return Flops(layers=2 * layers, attention=2 * 2 * tokens * keys * d)


def text_flops(c: IFUViTConfig) -> Flops:
    """`IFUViT.encode_text` on one caption: what a sampler pays once a prompt instead of once a step."""
    length, d = c.text_tokens, c.embed_dim
    flops = Flops(layers=2 * length * c.text_width * d, attention=0) + _block(c, length, length) * c.n_text
    if c.conditioning == "cross":
        flops += Flops(layers=2 * length * 2 * d * d, attention=0) * c.num_fused
    return flops


def prefix_flops(c: IFUViTConfig) -> Flops:
    """`IFUViT.encode_image`: what both guidance branches share."""
    tokens = 1 + c.num_patches
    patches = Flops(layers=2 * c.num_patches * c.patch_size**2 * c.latent_channels * c.embed_dim, attention=0)
    return patches + _block(c, tokens, tokens) * c.image_only[0]


def fused_flops(c: IFUViTConfig) -> Flops:
    """`IFUViT.fuse`: what each guidance branch needs for itself."""
    image, half, (front, back) = 1 + c.num_patches, c.depth // 2, c.image_only
    concat = c.conditioning == "concat"
    tokens = image + c.text_tokens if concat else image
    keys = image + c.text_tokens
    flops = _block(c, tokens, keys) * (half - front + 1)  # in-blocks and the middle one
    for index in range(half):
        partner_has_text = half - 1 - index >= front  # the skip of out-block i comes from in-block half - 1 - i
        if index < half - back:
            flops += _block(c, tokens, keys, skipped=tokens if partner_has_text else image)
        else:
            flops += _block(c, image, image, skipped=image)
    cells = c.patch_size**2 * c.latent_channels
    last = c.num_patches * c.embed_dim * cells + c.latent_size**2 * 9 * c.latent_channels**2
    return flops + Flops(layers=2 * last, attention=0)


def forward_flops(c: IFUViTConfig) -> Flops:
    """One forward pass for one image."""
    return text_flops(c) + prefix_flops(c) + fused_flops(c)


def guided_step_flops(c: IFUViTConfig, *, shared: bool) -> Flops:
    """One step of guided sampling for one image: plainly two forward passes, or with the text encoded beforehand and
    the text-free prefix computed once for both branches."""
    return prefix_flops(c) + fused_flops(c) * 2 if shared else forward_flops(c) * 2


def cost_of(c: IFUViTConfig) -> dict[str, Any]:
    """Parameters, GFLOPs of a forward pass and of a guided step, as the JSON values that results hold."""
    flops = forward_flops(c)

    def giga(value: int) -> float:
        return round(value / 1e9, 4 if value < 1e10 else 2)

    return {
        "parameters": parameters(c),
        "gflops": {"without_attention": giga(flops.layers), "with_attention": giga(flops.total)},
        "guided_step_gflops": {
            "plain": giga(guided_step_flops(c, shared=False).total),
            "shared": giga(guided_step_flops(c, shared=True).total),
        },
    }
