"""The transformer blocks of the backbone: one of U-ViT, what other conditionings add to it, and the options of modern blocks.

A block without options is U-ViT's, parameter names included; whatever an option adds has names of its own.

Shapes, as in `ifuvit.model.uvit`: B batch, L text tokens, P patches, N = 1 + P image tokens (time first), D width, h heads, d = D / h.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ifuvit.model.kernels import Linear, attend, linear
from ifuvit.model.settings import IFUViTConfig


class Modulated(NamedTuple):
    """What the timestep, and in some fused blocks the pooled caption, does to attention or MLP: (B, 1, D) each."""

    shift: Tensor
    scale: Tensor
    gate: Tensor

    @staticmethod
    def input(x: Tensor, by: "Modulated | None") -> Tensor:
        return x if by is None else x * (1 + by.scale) + by.shift

    @staticmethod
    def output(x: Tensor, by: "Modulated | None") -> Tensor:
        return x if by is None else by.gate * x


class Modulation(nn.Module):
    """Adaptive layer normalization that starts as the identity: a linear layer of the block ("adaln": DiT's adaLN-Zero), or a
    table that is added to the output of one linear layer for all blocks ("adaln-single": PixArt)."""

    def __init__(self, config: IFUViTConfig) -> None:
        super().__init__()
        width, single = config.embed_dim, config.modulation == "adaln-single"
        self.linear = None if single else Linear(width, 6 * width)
        self.table = nn.Parameter(torch.zeros(6, width)) if single else None

    def forward(self, vector: Tensor) -> tuple[Modulated, Modulated]:
        """Of attention and of the MLP, from the vector (B, D), or for "adaln-single" (B, 6 D)."""
        six = vector if self.linear is None else self.linear(F.silu(vector))
        six = six.unflatten(-1, (6, -1))
        if self.table is not None:
            six = six + self.table
        parts = six[:, :, None].unbind(1)
        return Modulated(*parts[:3]), Modulated(*parts[3:])


class Heads(nn.Module):
    """Projected tokens -> queries, keys and values by head, the first two normalized and rotated if so configured."""

    angles: Tensor | None

    def __init__(self, config: IFUViTConfig, *, image: bool) -> None:
        super().__init__()
        self.num_heads, width = config.num_heads, config.embed_dim // config.num_heads
        self.q_norm = nn.RMSNorm(width, eps=1e-6) if config.qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(width, eps=1e-6) if config.qk_norm else nn.Identity()
        rotated = config.positions == "rotary" and image
        self.register_buffer("angles", rotary_angles(config) if rotated else None, persistent=False)

    def forward(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, tokens, 3 D) -> (B, h, tokens, d) each; the tokens end with the patches."""
        queries, keys, values = split_heads(qkv, 3, self.num_heads)
        queries, keys = self.q_norm(queries), self.k_norm(keys)
        if self.angles is not None:
            queries, keys = rotate(queries, self.angles), rotate(keys, self.angles)
        return queries, keys, values

    def keys_values(self, kv: Tensor) -> tuple[Tensor, Tensor]:
        """Those of text, which are not rotated: (B, L, 2 D) -> (B, h, L, d) each."""
        keys, values = split_heads(kv, 2, self.num_heads)
        return self.k_norm(keys), values


class Attention(nn.Module):
    """Multi-head self-attention that can take further keys and values from text."""

    def __init__(self, config: IFUViTConfig, *, image: bool = True, gates: bool = False, mixes: bool = False) -> None:
        super().__init__()
        self.num_heads, self.text_tokens = config.num_heads, config.text_tokens
        self.joint = config.cross_attention == "joint"
        self.qkv = Linear(config.embed_dim, 3 * config.embed_dim, bias=False)
        self.heads = Heads(config, image=image)
        self.proj = Linear(config.embed_dim, config.embed_dim)
        self.text_gate = nn.Parameter(torch.ones(config.num_heads)) if gates else None
        self.value_mix = nn.Parameter(torch.full((2,), 0.5)) if mixes else None

    def keys_values(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Normalized text (B, L, D) -> keys and values (B, h, L, d), by the weights that serve the image tokens."""
        _, weight = self.qkv.weight.split([text.shape[-1], 2 * text.shape[-1]])
        keys, values = self.heads.keys_values(linear(text, weight))
        return keys, gated(values, self.text_gate)

    def project(self, x: Tensor, first_values: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B, h, tokens, d) of the sequence; text, where it has any, stands first.

        Args:
            first_values: (B, h, N, d) of the image tokens in the first block, for the value residual.
        """
        queries, keys, values = self.heads(self.qkv(x))
        if self.value_mix is not None and first_values is not None:
            text, image = values.tensor_split([-first_values.shape[2]], 2)
            values = torch.cat([text, self.value_mix[0] * first_values + self.value_mix[1] * image], 2)
        return queries, keys, values

    def forward(
        self,
        x: Tensor,
        text: tuple[Tensor, Tensor] | None = None,
        mask: Tensor | None = None,
        first_values: Tensor | None = None,
    ) -> Tensor:
        queries, keys, values = self.project(x, first_values)
        if text is None:
            if self.text_gate is not None:  # concatenation
                of_text, of_image = values.tensor_split([self.text_tokens], 2)
                values = torch.cat([gated(of_text, self.text_gate), of_image], 2)
            out = attend(queries, keys, values, mask)
        elif self.joint:  # one softmax over [image; text] keys
            both = None if mask is None else F.pad(mask, (x.shape[1], 0), value=True)
            out = attend(queries, torch.cat([keys, text[0]], 2), torch.cat([values, text[1]], 2), both)
        else:  # two softmaxes, outputs added
            out = attend(queries, keys, values, None) + attend(queries, *text, mask)
        return self.proj(out.transpose(1, 2).flatten(2))  # (B, N, D)


class TextKeysValues(nn.Module):
    """Text tokens (B, L, D) -> keys and values (B, h, L, d), by a normalization and weights of their own."""

    def __init__(self, config: IFUViTConfig) -> None:
        super().__init__()
        self.num_heads, width = config.num_heads, config.embed_dim
        self.norm = make_norm(config)
        self.kv = Linear(width, 2 * width, bias=False)
        self.text_gate = nn.Parameter(torch.ones(config.num_heads)) if config.text_gates else None
        self.k_norm = nn.RMSNorm(width // config.num_heads, eps=1e-6) if config.qk_norm else nn.Identity()

    def forward(self, text: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = split_heads(self.kv(self.norm(text)), 2, self.num_heads)
        return self.k_norm(keys), gated(values, self.text_gate)


class CrossAttention(nn.Module):
    """Image tokens read text by a sublayer of their own (Stable Diffusion; PixArt's has no normalization)."""

    def __init__(self, config: IFUViTConfig) -> None:
        super().__init__()
        self.num_heads, width = config.num_heads, config.embed_dim
        self.norm = make_norm(config)
        self.q = Linear(width, width, bias=False)
        self.q_norm = nn.RMSNorm(width // config.num_heads, eps=1e-6) if config.qk_norm else nn.Identity()
        self.proj = Linear(width, width)

    def forward(self, x: Tensor, text: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        (queries,) = split_heads(self.q(self.norm(x)), 1, self.num_heads)
        return self.proj(attend(self.q_norm(queries), *text, mask).transpose(1, 2).flatten(2))  # (B, N, D)


class JointAttention(nn.Module):
    """One softmax over text and image, whose projections came from weights of their own."""

    def forward(
        self, image: tuple[Tensor, Tensor, Tensor], text: tuple[Tensor | None, Tensor, Tensor], mask: Tensor | None
    ) -> Tensor:
        """Queries, keys and values (B, h, N, d) and (B, h, L, d) -> (B, L + N, D), or (B, N, D) where text has no queries."""
        queries = image[0] if text[0] is None else torch.cat([text[0], image[0]], 2)
        keys, values = torch.cat([text[1], image[1]], 2), torch.cat([text[2], image[2]], 2)
        return attend(queries, keys, values, mask).transpose(1, 2).flatten(2)


class SwiGLU(nn.Module):
    """fc2(silu(a) b) with [a, b] = fc1(x)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = Linear(width, 2 * hidden)
        self.fc2 = Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.fc1(x).chunk(2, -1)
        return self.fc2(F.silu(a) * b)


class Stream(nn.Module):
    """The weights of a pre-norm transformer block for one kind of tokens; with `skip` it begins with a linear layer on
    [x, skip] (the long skip)."""

    def __init__(
        self,
        config: IFUViTConfig,
        *,
        skip: bool,
        image: bool,
        modulated: bool,
        gates: bool = False,
        mixes: bool = False,
    ) -> None:
        super().__init__()
        width, hidden = config.embed_dim, int(config.embed_dim * config.mlp_ratio)
        self.skip_linear = Linear(2 * width, width) if skip else None
        self.modulation = Modulation(config) if modulated else None
        self.norm1 = make_norm(config, modulated=modulated)
        self.attn = Attention(config, image=image, gates=gates, mixes=mixes)
        self.norm2 = make_norm(config, modulated=modulated)
        if config.mlp == "swiglu":
            self.mlp = SwiGLU(width, hidden)
        else:
            self.mlp = nn.Sequential()
            self.mlp.add_module("fc1", Linear(width, hidden))
            self.mlp.add_module("act", nn.GELU())
            self.mlp.add_module("fc2", Linear(hidden, width))

    def join(self, x: Tensor, skip: Tensor) -> Tensor:
        """The long skip. Text tokens stand first in a sequence that has them: where only x has text, it bypasses the
        linear layer; where only the skip has text, it is sliced off."""
        assert self.skip_linear is not None
        text = max(x.shape[1] - skip.shape[1], 0)
        concatenated = self.skip_linear(torch.cat([x[:, text:], skip[:, skip.shape[1] - x.shape[1] + text :]], -1))
        return torch.cat([x[:, :text], concatenated], 1) if text else concatenated

    def modulate(self, vector: Tensor | None) -> tuple[Modulated | None, Modulated | None]:
        """Of attention and of the MLP; nothing where the block is not modulated."""
        if self.modulation is None:
            return None, None
        assert vector is not None
        return self.modulation(vector)


class Block(Stream):
    """A transformer block on one sequence.

    Args:
        skip: whether it begins with the long skip.
        fused: whether it sees text, by the way of the config.
        text: whether it is one of those on text alone, which nothing modulates.
        first: whether it is the image's first, whose values others mix with their own.
    """

    def __init__(
        self, config: IFUViTConfig, *, skip: bool = False, fused: bool = False, text: bool = False, first: bool = False
    ) -> None:
        separate = fused and config.conditioning == "cross-separate"
        super().__init__(
            config,
            skip=skip,
            image=not text,
            modulated=not text and (config.modulation != "none" or (fused and config.conditioning == "adaln")),
            gates=fused and config.text_gates and not separate,
            mixes=config.value_residual and not text and not first,
        )
        self.text = TextKeysValues(config) if separate else None
        self.cross = CrossAttention(config) if separate and config.cross_attention == "added" else None

    def text_keys_values(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Text tokens (B, L, D) -> this block's text keys and values (B, h, L, d): by weights of their own where it has any,
        else K, V = W_kv norm1(text)."""
        return self.attn.keys_values(self.norm1(text)) if self.text is None else self.text(text)

    @property
    def text_gate(self) -> Tensor | None:
        """The factors (h,) on the values of text, if it has any."""
        return self.attn.text_gate if self.text is None else self.text.text_gate

    def image_values(self, image: Tensor, vector: Tensor | None) -> Tensor:
        """The values (B, h, N, d) of image tokens (B, N, D) that enter the block."""
        attention, _ = self.modulate(vector)
        return self.attn.project(Modulated.input(self.norm1(image), attention))[2]

    def forward(
        self,
        x: Tensor,
        skip: Tensor | None = None,
        text: tuple[Tensor, Tensor] | None = None,
        mask: Tensor | None = None,
        vector: Tensor | None = None,
        first_values: Tensor | None = None,
    ) -> Tensor:
        if skip is not None:
            x = self.join(x, skip)
        attention, mlp = self.modulate(vector)
        normal = Modulated.input(self.norm1(x), attention)
        if self.cross is None:
            x = x + Modulated.output(self.attn(normal, text, mask, first_values), attention)
        else:
            assert text is not None
            x = x + Modulated.output(self.attn(normal, None, None, first_values), attention)
            x = x + self.cross(x, text, mask)
        return x + Modulated.output(self.mlp(Modulated.input(self.norm2(x), mlp)), mlp)


class JointBlock(Stream):
    """A block of MM-DiT (Stable Diffusion 3): text and image tokens have weights of their own and one attention. The sequence
    is that of concatenation, text first.

    Args:
        skip: whether image tokens have a long skip.
        text_skip: whether text tokens have one too.
        last: whether text ends here: then it only gives keys and values.
    """

    def __init__(self, config: IFUViTConfig, *, skip: bool, text_skip: bool, last: bool, first: bool) -> None:
        modulated = config.modulation != "none"
        super().__init__(config, skip=skip, image=True, modulated=modulated, mixes=config.value_residual and not first)
        self.text_tokens, self.last = config.text_tokens, last
        self.text_stream = Stream(config, skip=text_skip, image=False, modulated=modulated, gates=config.text_gates)
        self.joint = JointAttention()
        if last:  # a parameter without a gradient would stop distributed training
            del self.text_stream.attn.proj, self.text_stream.norm2, self.text_stream.mlp
            self.text_stream.attn.heads.q_norm = nn.Identity()

    @property
    def text_gate(self) -> Tensor | None:
        """The factors (h,) on the values of text, if it has any."""
        return self.text_stream.attn.text_gate

    image_values = Block.image_values

    def forward(
        self,
        x: Tensor,
        skip: Tensor | None = None,
        text: tuple[Tensor, Tensor] | None = None,
        mask: Tensor | None = None,
        vector: Tensor | None = None,
        first_values: Tensor | None = None,
    ) -> Tensor:
        other = self.text_stream
        words, image = x[:, : self.text_tokens], x[:, self.text_tokens :]
        if skip is not None:
            image = self.join(image, skip[:, -image.shape[1] :])
            if skip.shape[1] == x.shape[1]:
                words = other.join(words, skip[:, : self.text_tokens])
        attention, mlp = self.modulate(vector)
        text_attention, text_mlp = other.modulate(vector)

        normal = Modulated.input(other.norm1(words), text_attention)
        queries, keys, values = self.attn.project(Modulated.input(self.norm1(image), attention), first_values)
        if self.last:
            text_queries, (text_keys, text_values) = None, other.attn.keys_values(normal)
        else:
            text_queries, text_keys, text_values = other.attn.project(normal)
            text_values = gated(text_values, other.attn.text_gate)
        out = self.joint((queries, keys, values), (text_queries, text_keys, text_values), mask)

        image = image + Modulated.output(self.attn.proj(out[:, -image.shape[1] :]), attention)
        image = image + Modulated.output(self.mlp(Modulated.input(self.norm2(image), mlp)), mlp)
        if self.last:
            return image
        words = words + Modulated.output(other.attn.proj(out[:, : self.text_tokens]), text_attention)
        words = words + Modulated.output(other.mlp(Modulated.input(other.norm2(words), text_mlp)), text_mlp)
        return torch.cat([words, image], 1)


def make_norm(config: IFUViTConfig, *, modulated: bool = False) -> nn.Module:
    """The normalization of tokens; where it is modulated it has no weights of its own, and DiT's epsilon."""
    if config.norm == "rms":
        return nn.RMSNorm(config.embed_dim, eps=1e-6, elementwise_affine=not modulated)
    if modulated:
        return nn.LayerNorm(config.embed_dim, eps=1e-6, elementwise_affine=False)
    return nn.LayerNorm(config.embed_dim)


def gated(values: Tensor, gate: Tensor | None) -> Tensor:
    """Values of text (B, h, L, d), by the gate of each head (h,)."""
    return values if gate is None else values * gate[:, None, None]


def split_heads(x: Tensor, parts: int, num_heads: int) -> tuple[Tensor, ...]:
    """(B, N, parts * D) -> `parts` tensors (B, h, N, d)."""
    return x.unflatten(-1, (parts, num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


def rotary_angles(config: IFUViTConfig) -> Tensor:
    """Angles of the patches, (P, d / 2): a quarter of the width by row, a quarter by column, frequencies 1 … 1/10000."""
    side = config.latent_size // config.patch_size
    quarter = config.embed_dim // config.num_heads // 4
    frequencies = torch.exp(-math.log(10000.0) * torch.arange(quarter, dtype=torch.float32) / quarter)
    places = torch.arange(side, dtype=torch.float32)[:, None] * frequencies
    rows = places[:, None].expand(side, side, quarter)
    return torch.cat([rows, rows.transpose(0, 1)], -1).flatten(0, 1)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate pairs of the last P tokens of (B, h, tokens, d) by angles (P, d / 2)."""
    others, patches = x.tensor_split([-len(angles)], 2)
    even, odd = patches.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = angles.float().cos(), angles.float().sin()
    turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)
    return torch.cat([others, turned.to(x.dtype)], 2)
