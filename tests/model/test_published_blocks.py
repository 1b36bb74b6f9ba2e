"""The blocks against those of published models, as diffusers has them, with equal weights.

Where a block of ours leaves something out (an approximate GELU, biases, norms behind a sublayer), the published one is brought to
the same arithmetic first, and the test says so.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from backbones import TINY, L, N, assert_same
from torch import Tensor, nn

from ifuvit.model.blocks import Block, JointBlock, Stream, rotary_angles
from ifuvit.model.settings import IFUViTConfig

D, HEADS, P = TINY.embed_dim, TINY.num_heads, TINY.num_patches
SIZES: dict[str, Any] = {"dim": D, "num_attention_heads": HEADS, "attention_head_dim": D // HEADS}


def randomized(block: nn.Module) -> Any:
    """With random weights: biases and modulation too."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return block.eval()


def copy(target: Any, *sources: Any) -> None:
    """Give a published layer the weights of ours, in parts below each other."""
    with torch.no_grad():
        for name in ("weight", "bias"):
            own = [getattr(source, name, None) for source in sources]
            if getattr(target, name, None) is None:
                assert own == [None] or not any(part.any() for part in own if part is not None)
            elif own[0] is None:
                nn.init.zeros_(getattr(target, name))
            else:
                getattr(target, name).copy_(torch.cat(own))


def matrix(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(*reversed(weight.shape), bias=False)
    layer.weight = nn.Parameter(weight.detach())
    return layer


def copy_attention(target: Any, stream: Stream, names: tuple[str, ...] = ("to_q", "to_k", "to_v")) -> None:
    for name, weight in zip(names, stream.attn.qkv.weight.chunk(3), strict=True):
        copy(getattr(target, name), matrix(weight))


def copy_mlp(target: Any, stream: Stream) -> None:
    copy(target.net[0].proj, stream.mlp.fc1)
    copy(target.net[2], stream.mlp.fc2)


def approximate_gelu(*streams: Stream) -> None:
    for stream in streams:
        stream.mlp.act = nn.GELU(approximate="tanh")


def tokens(seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Image tokens, text tokens, and what modulates."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(shape, generator=generator) for shape in ((2, N, D), (2, L, D), (2, D)))  # type: ignore[return-value]


@torch.no_grad()
def test_stable_diffusion() -> None:
    """Self-attention, cross-attention by weights of its own, MLP."""
    from diffusers.models.attention import BasicTransformerBlock

    ours: Block = randomized(Block(replace(TINY, conditioning="cross-separate"), fused=True))
    theirs = BasicTransformerBlock(**SIZES, cross_attention_dim=D, activation_fn="gelu").eval()
    assert ours.cross is not None and ours.text is not None
    copy(theirs.norm1, ours.norm1)
    copy(theirs.norm2, ours.cross.norm)
    copy(theirs.norm3, ours.norm2)
    copy_attention(theirs.attn1, ours)
    copy(theirs.attn1.to_out[0], ours.attn.proj)
    copy(theirs.attn2.to_q, ours.cross.q)
    for layer, weight in zip((theirs.attn2.to_k, theirs.attn2.to_v), ours.text.kv.weight.chunk(2), strict=True):
        copy(layer, matrix(weight))
    copy(theirs.attn2.to_out[0], ours.cross.proj)
    copy_mlp(theirs.ff, ours)
    image, text, _ = tokens()
    expected = theirs(
        image, encoder_hidden_states=ours.text.norm(text)
    )  # Stable Diffusion normalizes text once, in CLIP
    assert_same(ours(image, text=ours.text_keys_values(text)), expected, 1e-5)


@torch.no_grad()
def test_pixart() -> None:
    """The same with adaLN-single; PixArt normalizes nothing before cross-attention."""
    from diffusers.models.attention import BasicTransformerBlock

    config = replace(TINY, conditioning="cross-separate", modulation="adaln-single")
    ours: Block = randomized(Block(config, fused=True))
    approximate_gelu(ours)
    assert ours.cross is not None and ours.text is not None and ours.modulation is not None
    ours.cross.norm = nn.Identity()
    ours.text.norm = nn.Identity()
    theirs = BasicTransformerBlock(
        **SIZES,
        cross_attention_dim=D,
        activation_fn="gelu-approximate",
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
    ).eval()
    theirs.scale_shift_table.copy_(ours.modulation.table)
    copy_attention(theirs.attn1, ours)
    copy(theirs.attn1.to_out[0], ours.attn.proj)
    copy(theirs.attn2.to_q, ours.cross.q)
    for layer, weight in zip((theirs.attn2.to_k, theirs.attn2.to_v), ours.text.kv.weight.chunk(2), strict=True):
        copy(layer, matrix(weight))
    copy(theirs.attn2.to_out[0], ours.cross.proj)
    copy_mlp(theirs.ff, ours)
    image, text, _ = tokens()
    six = torch.randn(2, 6 * D)
    expected = theirs(image, encoder_hidden_states=text, timestep=six)
    assert_same(ours(image, text=ours.text_keys_values(text), vector=six), expected, 1e-5)


@torch.no_grad()
def test_dit() -> None:
    """adaLN-Zero."""
    from diffusers.models.attention import BasicTransformerBlock

    ours: Block = randomized(Block(replace(TINY, conditioning="adaln"), fused=True))
    approximate_gelu(ours)
    theirs = BasicTransformerBlock(
        **SIZES,
        activation_fn="gelu-approximate",
        norm_type="ada_norm_zero",
        num_embeds_ada_norm=2,
        norm_elementwise_affine=False,
        norm_eps=1e-6,
    ).eval()
    image, _, vector = tokens()

    class Given(nn.Module):
        def forward(self, *_: Any, **__: Any) -> Tensor:
            return vector

    theirs.norm1.emb = Given()  # instead of the embedded timestep and class
    assert ours.modulation is not None
    copy(theirs.norm1.linear, ours.modulation.linear)
    copy_attention(theirs.attn1, ours)
    copy(theirs.attn1.to_out[0], ours.attn.proj)
    copy_mlp(theirs.ff, ours)
    assert_same(ours(image, vector=vector), theirs(image), 1e-5)


def published_joint(theirs: Any, ours: JointBlock, *, last: bool) -> None:
    text = ours.text_stream
    assert ours.modulation is not None and text.modulation is not None
    copy(theirs.norm1.linear, ours.modulation.linear)
    copy_attention(theirs.attn, ours)
    copy_attention(theirs.attn, text, ("add_q_proj", "add_k_proj", "add_v_proj"))
    copy(theirs.attn.to_out[0], ours.attn.proj)
    copy_mlp(theirs.ff, ours)
    if last:  # scale stands before shift, and there is nothing else
        shift, scale, *_ = text.modulation.linear.weight.chunk(6)  # type: ignore[union-attr]
        shift_bias, scale_bias, *_ = text.modulation.linear.bias.chunk(6)  # type: ignore[union-attr]
        theirs.norm1_context.linear.weight.copy_(torch.cat([scale, shift]))
        theirs.norm1_context.linear.bias.copy_(torch.cat([scale_bias, shift_bias]))
    else:
        copy(theirs.norm1_context.linear, text.modulation.linear)
        copy(theirs.attn.to_add_out, text.attn.proj)
        copy_mlp(theirs.ff_context, text)
    if ours.attn.heads.q_norm.__class__ is nn.RMSNorm:
        for name, own in (
            ("norm_q", ours.attn.heads.q_norm),
            ("norm_k", ours.attn.heads.k_norm),
            ("norm_added_q", text.attn.heads.q_norm),
            ("norm_added_k", text.attn.heads.k_norm),
        ):
            if not (last and name == "norm_added_q"):
                copy(getattr(theirs.attn, name), own)


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("last", [False, True])
@torch.no_grad()
def test_stable_diffusion_3(last: bool, qk_norm: bool) -> None:
    from diffusers.models.attention import JointTransformerBlock

    config = replace(TINY, conditioning="mmdit", modulation="adaln", qk_norm=qk_norm)
    ours: JointBlock = randomized(JointBlock(config, skip=False, text_skip=False, last=last, first=False))
    approximate_gelu(ours, *([] if last else [ours.text_stream]))
    theirs = JointTransformerBlock(**SIZES, context_pre_only=last, qk_norm="rms_norm" if qk_norm else None).eval()
    published_joint(theirs, ours, last=last)
    image, text, vector = tokens()
    of_text, of_image = theirs(image, text, vector)
    got = ours(torch.cat([text, image], 1), vector=vector)
    assert_same(got, of_image if last else torch.cat([of_text, of_image], 1), 1e-5)


@torch.no_grad()
def test_flux_double_block() -> None:
    """QK normalization and rotary positions: row and column of the patches, none of text and time."""
    from diffusers.models.transformers.transformer_flux import FluxPosEmbed, FluxTransformerBlock

    config = replace(TINY, conditioning="mmdit", modulation="adaln", qk_norm=True, positions="rotary")
    ours: JointBlock = randomized(JointBlock(config, skip=False, text_skip=False, last=False, first=False))
    approximate_gelu(ours, ours.text_stream)
    theirs = FluxTransformerBlock(**SIZES).eval()
    published_joint(theirs, ours, last=False)
    image, text, vector = tokens()
    of_text, of_image = theirs(image, text, vector, image_rotary_emb=flux_positions(FluxPosEmbed))
    assert_same(ours(torch.cat([text, image], 1), vector=vector), torch.cat([of_text, of_image], 1), 1e-5)


def flux_positions(embed: Any) -> Any:
    side = TINY.latent_size // TINY.patch_size
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    ids = torch.cat([torch.zeros(L + 1, 2), torch.stack([rows, columns], -1).reshape(P, 2)])
    return embed(10_000, [D // HEADS // 2] * 2)(ids)


@pytest.mark.parametrize("masked", [False, True])
@torch.no_grad()
def test_prx(masked: bool) -> None:
    """Image queries over image keys and keys of static text. PRX gates its MLP by GELU and has no time token."""
    from diffusers.models.transformers.transformer_prx import PRXBlock

    config = replace(
        TINY,
        conditioning="cross-separate",
        cross_attention="joint",
        modulation="adaln",
        qk_norm=True,
        positions="rotary",
        mlp="swiglu",
    )
    ours: Block = randomized(Block(config, fused=True))
    for layer in (ours.attn.proj, ours.mlp.fc1, ours.mlp.fc2):
        nn.init.zeros_(layer.bias)
    theirs = PRXBlock(D, HEADS).eval()
    theirs.mlp_act = nn.SiLU()
    assert ours.text is not None and ours.modulation is not None
    copy(theirs.modulation.lin, ours.modulation.linear)
    copy(theirs.attention.img_qkv_proj, ours.attn.qkv)
    copy(theirs.attention.txt_kv_proj, ours.text.kv)
    copy(theirs.attention.norm_q, ours.attn.heads.q_norm)
    copy(theirs.attention.norm_k, ours.attn.heads.k_norm)
    copy(theirs.attention.norm_added_k, ours.text.k_norm)
    copy(theirs.attention.to_out[0], ours.attn.proj)
    gate, up = ours.mlp.fc1.weight.chunk(2)
    copy(theirs.gate_proj, matrix(gate))
    copy(theirs.up_proj, matrix(up))
    copy(theirs.down_proj, ours.mlp.fc2)
    image, text, vector = tokens()
    angles = torch.cat([torch.zeros(1, D // HEADS // 2), rotary_angles(config)])
    cos, sin = angles.cos(), angles.sin()
    turns = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)[None, None]
    mask = torch.arange(L) < torch.tensor([[3], [7]]) if masked else None
    expected = theirs(image, ours.text.norm(text), vector, turns, attention_mask=mask)
    got = ours(
        image, text=ours.text_keys_values(text), vector=vector, mask=None if mask is None else mask[:, None, None]
    )
    assert_same(got, expected, 1e-5)


@torch.no_grad()
def test_lumina_2_refiner() -> None:
    """RMSNorm, QK normalization, SwiGLU; without Lumina's norms behind attention and MLP."""
    from diffusers.models.transformers.transformer_lumina2 import Lumina2TransformerBlock

    config: IFUViTConfig = replace(TINY, conditioning="concat", norm="rms", qk_norm=True, mlp="swiglu")
    ours: Block = randomized(Block(config, text=True))
    for layer in (ours.attn.proj, ours.mlp.fc1, ours.mlp.fc2):
        nn.init.zeros_(layer.bias)
    theirs: Any = Lumina2TransformerBlock(D, HEADS, HEADS, 1, 1.0, 1e-6, modulation=False).eval()
    theirs.norm2, theirs.ffn_norm2 = nn.Identity(), nn.Identity()
    theirs.attn.norm_q.eps = theirs.attn.norm_k.eps = 1e-6
    copy(theirs.norm1, ours.norm1)
    copy(theirs.ffn_norm1, ours.norm2)
    copy_attention(theirs.attn, ours)
    copy(theirs.attn.norm_q, ours.attn.heads.q_norm)
    copy(theirs.attn.norm_k, ours.attn.heads.k_norm)
    copy(theirs.attn.to_out[0], ours.attn.proj)
    gate, up = ours.mlp.fc1.weight.chunk(2)
    copy(theirs.feed_forward.linear_1, matrix(gate))
    copy(theirs.feed_forward.linear_3, matrix(up))
    copy(theirs.feed_forward.linear_2, ours.mlp.fc2)
    _, text, _ = tokens()
    assert_same(ours(text), theirs(text, None, None), 1e-5)
