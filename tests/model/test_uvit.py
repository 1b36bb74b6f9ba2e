"""The backbone: its arithmetic, what guidance may share, what masking hides, and what is kept on disk."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference_uvit
import torch
import torch.nn.functional as F
from backbones import READINGS, TINY, L, N, assert_same, every_reading, every_setting, inputs, make
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ifuvit.model import blocks
from ifuvit.model.blocks import Attention
from ifuvit.model.flops import guided_step_flops, parameters
from ifuvit.model.intermediates import record_intermediates
from ifuvit.model.presets import presets
from ifuvit.model.settings import IFUViTConfig
from ifuvit.model.uvit import EncodedText, IFUViT, timestep_embedding, unpatchify
from ifuvit.utils.errors import InputError

# --- the arithmetic ---


@pytest.mark.parametrize("seed", range(3))
def test_concat_early_is_uvit(seed: int) -> None:
    shapes: dict[str, int] = {
        "latent_size": 8,
        "channels": 3,
        "patch": 2,
        "dim": 32,
        "depth": 6,
        "mlp": 96,
        "text_width": 20,
        "text_tokens": 5,
    }
    state = reference_uvit.random_state(**shapes, seed=seed)
    config = IFUViTConfig(
        latent_size=8,
        latent_channels=3,
        embed_dim=32,
        depth=6,
        num_heads=4,
        mlp_ratio=3.0,
        text_width=20,
        text_tokens=5,
        conditioning="concat",
        n_text=0,
        n_image=0,
    )
    model = IFUViT(config)
    model.load_state_dict(state)  # the very names of U-ViT
    latents, timesteps, states, _ = inputs(config, seed=seed)
    with torch.no_grad():
        got = model(latents, timesteps, states)
        expected = reference_uvit.forward(state, latents, timesteps, states, heads=4, patch=2)
    assert expected.abs().max() > 0.1
    assert_same(got, expected, 1e-5)


def test_patch_size_four() -> None:
    state = reference_uvit.random_state(patch=4, channels=2)
    config = replace(TINY, patch_size=4, latent_channels=2, conditioning="concat", n_text=0, n_image=0)
    model = IFUViT(config)
    model.load_state_dict(state)
    latents, timesteps, states, _ = inputs(config)
    with torch.no_grad():
        expected = reference_uvit.forward(state, latents, timesteps, states, heads=4, patch=4)
        assert_same(model(latents, timesteps, states), expected, 1e-5)


def _softmax_attention(queries: Tensor, keys: Tensor, values: Tensor, hidden: Tensor | None = None) -> Tensor:
    scores = torch.einsum("bhnd,bhmd->bhnm", queries, keys) / math.sqrt(queries.shape[-1])
    if hidden is not None:
        scores = scores.masked_fill(hidden[:, None, None], -math.inf)
    return torch.einsum("bhnm,bhmd->bhnd", scores.softmax(-1), values)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("reading", ["added", "joint"])
def test_two_readings_of_cross_attention(reading: Any, masked: bool) -> None:
    torch.manual_seed(0)
    attention = Attention(replace(TINY, cross_attention=reading))
    x, text = torch.randn(2, N, 32), torch.randn(2, L, 32)
    mask = torch.arange(L) < torch.tensor([[3], [7]])

    def heads(tokens: Tensor, part: int) -> Tensor:
        weight = attention.qkv.weight[32 * part : 32 * (part + 1)]
        return (tokens @ weight.T).reshape(2, -1, 4, 8).transpose(1, 2)

    q, k, v = (heads(x, part) for part in range(3))
    text_k, text_v = heads(text, 1), heads(text, 2)  # text shares the weights of the image
    hidden = ~mask if masked else None
    if reading == "added":
        out = _softmax_attention(q, k, v) + _softmax_attention(q, text_k, text_v, hidden)
    else:
        shown = torch.zeros(2, N, dtype=torch.bool)
        both = torch.cat([shown, ~mask], 1) if masked else None
        out = _softmax_attention(q, torch.cat([k, text_k], 2), torch.cat([v, text_v], 2), both)
    expected = attention.proj(out.transpose(1, 2).reshape(2, N, 32))
    got = attention(x, attention.keys_values(text), mask[:, None, None] if masked else None)
    assert_same(got, expected, 1e-5)


def test_text_enters_by_the_blocks_own_norm_and_weights() -> None:
    """K, V = W_kv norm1(text), in every fused block; there are no parameters for text alone."""
    model = make(TINY)
    states = inputs(TINY)[2]
    with torch.no_grad():
        tokens = model.context_embed(states) + model.pos_embed[:, 1 : 1 + L]
        text = model.text_blocks[0](tokens)
        encoded = model.encode_text(states)
    for index, (_, block) in enumerate(model.fused_blocks()):
        norm = F.layer_norm(text, (32,), block.norm1.weight, block.norm1.bias)
        weight = block.attn.qkv.weight
        for got, rows in ((encoded.keys, weight[32:64]), (encoded.values, weight[64:])):
            assert got is not None
            assert_same(got[:, index].transpose(1, 2).flatten(2), norm @ rows.T, 1e-5)


def test_the_readings_differ_only_in_arithmetic() -> None:
    added, joint = make(TINY), make(replace(TINY, cross_attention="joint"))
    assert {n: p.shape for n, p in added.named_parameters()} == {n: p.shape for n, p in joint.named_parameters()}
    arguments = inputs(TINY)[:3]
    with torch.no_grad():
        assert not torch.allclose(added(*arguments), joint(*arguments), rtol=1e-2)


@pytest.mark.parametrize(
    ("n_image", "bypass", "sliced"), [((0, 2), 0, 2), ((2, 0), 2, 0), ((0, 0), 0, 0), ((1, 1), 0, 0)]
)
def test_asymmetric_concat_skips(n_image: tuple[int, int], bypass: int, sliced: int) -> None:
    """Text tokens bypass a skip that has none; a skip's text is sliced off where the sequence has none."""
    model = make(replace(TINY, conditioning="concat", n_image=n_image))
    seen = []
    for block in model.out_blocks:
        block.register_forward_pre_hook(lambda _, args: seen.append((args[0].shape[1], args[1].shape[1])))
    with torch.no_grad():
        model(*inputs(TINY)[:3])
    assert sum(x > skip for x, skip in seen) == bypass
    assert sum(x < skip for x, skip in seen) == sliced

    block = model.out_blocks[0]
    text, image, skip = torch.randn(2, L, 32), torch.randn(2, N, 32), torch.randn(2, N, 32)
    concatenated = block.skip_linear(torch.cat([image, skip], -1))  # type: ignore[operator]
    assert torch.equal(block.join(torch.cat([text, image], 1), skip), torch.cat([text, concatenated], 1))  # type: ignore[operator]
    assert torch.equal(block.join(image, torch.cat([text, skip], 1)), concatenated)  # type: ignore[operator]


@pytest.mark.parametrize("conditioning", ["concat", "cross"])
def test_long_skips_reach_the_image_only_out_blocks(conditioning: Any) -> None:
    """The last out-block joins the first in-block's output, the one before it the second's."""
    model = make(replace(TINY, conditioning=conditioning, depth=6, n_image=2))
    latents, times, text, _ = inputs(model.config)
    image = model.encode_image(latents, times)
    skips = list(image.skips)
    joined: dict[int, Tensor] = {}
    for index in (1, 2):
        join = model.out_blocks[index].join  # type: ignore[union-attr]
        model.out_blocks[index].join = (  # type: ignore[union-attr]
            lambda x, skip, index=index, join=join: joined.update({index: skip}) or join(x, skip)
        )
    model.fuse(image, model.encode_text(text))
    assert len(skips) == 2 and torch.equal(joined[1], skips[1]) and torch.equal(joined[2], skips[0])
    assert not torch.equal(skips[0], skips[1]) and skips[0].abs().max() > 0


def test_timestep_embedding() -> None:
    got = timestep_embedding(torch.tensor([0, 7.5, 1000]), 8)
    for row, n in zip(got, (0, 7.5, 1000)):
        angles = [n * 10000 ** (-i / 4) for i in range(4)]
        expected = [math.cos(a) for a in angles] + [math.sin(a) for a in angles]
        assert row.tolist() == pytest.approx(expected, abs=1e-4)


def test_unpatchify_undoes_cutting_into_patches() -> None:
    latents = torch.arange(2 * 3 * 6 * 6.0).reshape(2, 3, 6, 6)
    cells = F.unfold(latents, 2, stride=2).transpose(1, 2).reshape(2, 9, 3, 2, 2)  # B, P, C, py, px
    assert torch.equal(unpatchify(cells.permute(0, 1, 3, 4, 2).flatten(2), 2, 3), latents)


def test_initialization_is_uvits() -> None:
    torch.manual_seed(0)
    for name, parameter in IFUViT(replace(TINY, embed_dim=64)).named_parameters():
        if name.startswith(("patch_embed", "final_layer")):
            continue  # convolutions keep PyTorch's, but for the last one's kernel
        if "norm" in name:
            assert (parameter == (1 if name.endswith("weight") else 0)).all(), name
        elif name.endswith("bias"):
            assert (parameter == 0).all(), name
        else:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.15), name


def test_last_convolution_starts_as_the_identity_with_the_gain_of_a_random_kernel() -> None:
    model = IFUViT(TINY)
    latents = torch.randn(2, TINY.latent_channels, 8, 8)
    out = model.final_layer(latents) - model.final_layer.bias.view(1, -1, 1, 1)
    torch.testing.assert_close(out, latents / 3**0.5)
    torch.manual_seed(0)
    random = nn.Conv2d(128, 128, 3, padding=1, bias=False)
    gain = random(torch.randn(4, 128, 16, 16))[:, :, 1:-1, 1:-1].std().item()
    assert gain == pytest.approx(3**-0.5, rel=0.05)


# --- what the text reaches ---


@every_setting
def test_image_only_blocks_see_no_text(config: IFUViTConfig) -> None:
    model = make(config)
    latents, timesteps, states, _ = inputs(config)
    with torch.no_grad():
        with record_intermediates(model) as first:
            one = model(latents, timesteps, states)
        with record_intermediates(model) as second:
            other = model(latents, timesteps, states.flip(0))
    assert (one - other).abs().max() > 1e-3 * one.abs().max()  # text matters
    front = config.image_only[0]
    for index in range(config.depth // 2):
        name = f"in_blocks.{index}"
        if index < front:
            assert torch.equal(first[f"{name}.queries"], second[f"{name}.queries"])
        elif index > front:  # its input has passed a fused block
            assert not torch.equal(first[f"{name}.queries"], second[f"{name}.queries"])
    with_text = {n.rsplit(".", 1)[0] for n in first if n.endswith("text_keys")}
    longer = {n.rsplit(".", 1)[0] for n, t in first.items() if n.endswith(".input") and t.shape[1] == N + L}
    fused = {name for name, _ in model.fused_blocks()}
    if config.conditioning in ("cross", "cross-separate"):
        assert with_text == fused and not longer
    elif config.conditioning == "adaln":
        assert not with_text and not longer
    else:
        assert longer == fused and len(with_text) == (config.conditioning == "mmdit" and config.double_blocks is None)
    assert sum(1 for _ in model.fused_blocks()) == config.num_fused


@every_reading
def test_encoded_text_depends_on_the_caption_alone(conditioning: Any, reading: Any) -> None:
    model = make(replace(TINY, conditioning=conditioning, cross_attention=reading, n_text=2, n_image=1))
    states = inputs(TINY)[2]
    with torch.no_grad():
        batch, single = model.encode_text(states), model.encode_text(states[1:2])
    for part, alone in zip(batch, single):
        assert (part is None) == (alone is None)
        if part is not None and alone is not None:
            assert_same(part[1:2], alone, 1e-5)


def test_encoded_text_shapes() -> None:
    states, mask = inputs(TINY)[2:]
    cross = make(replace(TINY, n_image=1, mask_padding=True)).encode_text(states, mask)
    assert cross.tokens is None and cross.mask is mask
    assert cross.keys is not None and cross.values is not None
    assert cross.keys.shape == cross.values.shape == (3, 3, 4, L, 8)  # batch, fused blocks, heads, tokens, width
    concat = make(replace(TINY, conditioning="concat", n_image=1)).encode_text(states, mask)
    assert concat.tokens is not None and concat.tokens.shape == (3, L, 32)
    assert concat.keys is None and concat.values is None and concat.mask is None


@pytest.mark.parametrize("n_text", [0, 1, 2])
@pytest.mark.parametrize("n_image", [0, 1, (0, 2), (2, 0)])
@every_reading
def test_masking_hides_padding(conditioning: Any, reading: Any, n_image: Any, n_text: int) -> None:
    """What stands at padded positions changes nothing where padding is masked, and something where it is not."""
    config = replace(TINY, conditioning=conditioning, cross_attention=reading, n_text=n_text, n_image=n_image)
    latents, timesteps, states, mask = inputs(config)
    garbage = torch.where(mask[..., None], states, 100 * torch.randn_like(states))
    with torch.no_grad():
        for hide in (True, False):
            model = make(replace(config, mask_padding=hide))
            clean, dirty = (model(latents, timesteps, s, mask) for s in (states, garbage))
            if hide:
                assert_same(dirty, clean, 1e-5)
            else:
                assert (dirty - clean).abs().max() > 1e-3 * clean.abs().max()
                assert torch.equal(clean, model(latents, timesteps, states))  # the mask is not read


def test_standardized_text_is_centered_and_scaled_by_feature() -> None:
    config = replace(TINY, text_norm="standardize")
    latents, timesteps, states, mask = inputs(config)
    model, plain = make(config), make(TINY)
    mean, std = np.linspace(-1, 1, config.text_width, dtype=np.float32), np.full(config.text_width, 2, np.float32)
    shared = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("text_norm")}
    plain.load_state_dict(shared)
    model.text_norm.set(0 * mean, std / std)
    assert_same(model(latents, timesteps, states, mask), plain(latents, timesteps, states, mask), 1e-6)
    model.text_norm.set(mean, std)
    normal = (states - torch.from_numpy(mean)) / 2
    assert_same(model(latents, timesteps, states, mask), plain(latents, timesteps, normal, mask), 1e-5)


def test_a_mix_of_layers_is_theirs_by_weight() -> None:
    """Equal weights at the start; with all the weight on one layer it is as if only that one were there, block by block."""
    config = replace(TINY, text_layers=3, text_mix="block", n_image=1)
    model, single = make(config), make(replace(TINY, text_width=8, n_image=1))
    assert model.text_mix is not None
    single.load_state_dict({n: t for n, t in model.state_dict().items() if not n.startswith("text_mix")})
    states = inputs(config)[2]
    layers = states.chunk(3, -1)
    with torch.no_grad():
        model.text_mix.logits.zero_()
        encoded, expected = model.encode_text(states), single.encode_text(sum(layers) / 3)
        assert encoded.keys is not None and expected.keys is not None
        assert_same(encoded.keys, expected.keys, 1e-5)
        model.text_mix.logits.copy_(100 * torch.eye(3))
        encoded = model.encode_text(states)
        for block in range(3):
            own = single.encode_text(layers[block])
            assert encoded.keys is not None and own.keys is not None and encoded.values is not None
            assert_same(encoded.keys[:, block], own.keys[:, block], 1e-5)


@pytest.mark.parametrize(("conditioning", "reading"), [r for r in READINGS if r[0] != "adaln"])
def test_gates_of_zero_close_the_block_to_text(conditioning: Any, reading: Any) -> None:
    """Gates start at 1, where they change nothing; at 0 what the values of text say is lost, their attention is not."""
    config = replace(TINY, conditioning=conditioning, cross_attention=reading, n_text=0, n_image=2, text_gates=True)
    model, plain = make(config), make(replace(config, text_gates=False))
    gates = [p for n, p in model.named_parameters() if n.endswith("text_gate")]
    assert len(gates) == 1 and all((p == 1).all() for n, p in IFUViT(config).named_parameters() if "text_gate" in n)
    plain.load_state_dict({n: t for n, t in model.state_dict().items() if not n.endswith("text_gate")})
    arguments = inputs(config)[:3]
    with torch.no_grad():
        gates[0].fill_(1)
        assert_same(model(*arguments), plain(*arguments), 1e-6)
        gates[0].zero_()
        latents, timesteps, states = arguments
        values: list[Tensor] = []
        real = blocks.attend

        def seen(queries: Tensor, keys: Tensor, of: Tensor, mask: Tensor | None) -> Tensor:
            values.append(of)
            return real(queries, keys, of, mask)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(blocks, "attend", seen)
            model(latents, timesteps, states)
    closed = [(of == 0).all(-1).sum(-1) for of in values if (of == 0).any()]
    assert len(closed) == 1 and (closed[0] == L).all()


@every_reading
def test_modulation_starts_as_the_identity(conditioning: Any, reading: Any) -> None:
    """DiT's zero initialization: at the start only the long skips' linear layers change the image tokens."""
    for modulation in ("adaln", "adaln-single"):
        config = replace(TINY, conditioning=conditioning, cross_attention=reading, modulation=modulation, n_image=0)
        model = IFUViT(config)
        with torch.no_grad(), record_intermediates(model) as named:
            model(*inputs(config)[:3])
        if config.conditioning == "cross-separate" and reading == "added":
            continue  # its sublayer is not modulated, as PixArt's is not
        for name in ("in_blocks.0", "in_blocks.1", "mid_block"):
            assert torch.equal(named[f"{name}.input"][:, -N:], named[f"{name}.output"][:, -N:])


def test_a_full_mask_changes_nothing() -> None:
    for conditioning, reading in READINGS:
        config = replace(TINY, conditioning=conditioning, cross_attention=reading, n_image=1)  # type: ignore[arg-type]
        latents, timesteps, states, mask = inputs(config)
        with torch.no_grad():
            shown = make(replace(config, mask_padding=True))(latents, timesteps, states, torch.ones_like(mask))
            assert_same(shown, make(config)(latents, timesteps, states))


# --- guidance ---


def two_passes(
    model: IFUViT, latents: Tensor, n: Tensor, states: Tensor, mask: Tensor, null: Tensor, null_mask: Tensor, w: Any
) -> Tensor:
    conditional = model(latents, n, states, mask)
    unconditional = model(latents, n, null.expand_as(states), null_mask.expand_as(mask))
    return unconditional + w * (conditional - unconditional)


@pytest.mark.parametrize("mask_padding", [False, True], ids=["shown", "masked"])
@every_setting
def test_guided_equals_two_forward_passes(config: IFUViTConfig, mask_padding: bool) -> None:
    config = replace(config, mask_padding=mask_padding)
    model = make(config)
    latents, timesteps, states, mask = inputs(config)
    null, null_mask = inputs(config, 1, seed=2)[2:]
    with torch.no_grad():
        text, null_text = model.encode_text(states, mask), model.encode_text(null, null_mask)
        got = model.guided(latents, timesteps, text, null_text, 4.0)
        assert_same(got, two_passes(model, latents, timesteps, states, mask, null, null_mask, 4.0))


@pytest.mark.parametrize("mask_padding", [False, True], ids=["shown", "masked"])
@every_reading
def test_guided_takes_negative_prompts_and_a_scale_an_image(
    conditioning: Any, reading: Any, mask_padding: bool
) -> None:
    config = replace(TINY, conditioning=conditioning, cross_attention=reading, n_image=1, mask_padding=mask_padding)
    model = make(config)
    latents, timesteps, states, mask = inputs(config)
    negative, negative_mask = inputs(config, seed=3)[2:]  # one negative prompt an image
    scale = torch.tensor([1.0, 2.5, 7.0])
    with torch.no_grad():
        text, against = model.encode_text(states, mask), model.encode_text(negative, negative_mask)
        got = model.guided(latents, timesteps, text, against, scale)
        expected = two_passes(
            model, latents, timesteps, states, mask, negative, negative_mask, scale.reshape(3, 1, 1, 1)
        )
        assert_same(got, expected)
        # The same prompt may be asked for several images without encoding it again.
        chosen = torch.tensor([2, 0, 2])
        got = model.guided(latents, timesteps, text.rows(chosen), against.rows(torch.tensor([1])), 3)
        expected = two_passes(
            model, latents, timesteps, states[chosen], mask[chosen], negative[1:2], negative_mask[1:2], 3.0
        )
        assert_same(got, expected)


@every_reading
@pytest.mark.parametrize("n_image", [1, (2, 1)])
def test_the_branch_without_text_skips_the_fused_blocks(conditioning: Any, reading: Any, n_image: Any) -> None:
    """In training by sample; in guidance for one branch, which then costs less and reads no null text."""
    config = replace(TINY, conditioning=conditioning, cross_attention=reading, n_image=n_image, path_drop=True)
    model = make(config)
    latents, timesteps, states, mask = inputs(config)
    skips = torch.tensor([True, False, True])
    with torch.no_grad():
        text, image = model.encode_text(states, mask), model.encode_image(latents, timesteps)
        alone, fused = model.skip_text(image), model.fuse(image, text)
        assert not torch.allclose(alone, fused)
        mixed = model(latents, timesteps, states, mask, skips)
        assert_same(mixed, torch.where(skips[:, None, None, None], alone, fused))
        null = model.encode_text(*inputs(config, 1, seed=2)[2:])
        assert_same(model.guided(latents, timesteps, text, null, 4.0), alone + 4 * (fused - alone))
        assert_same(model.guided(latents, timesteps, text, null, 1.0), fused)
        # No fused block runs for it.
        for _, block in model.fused_blocks():
            block.forward = None  # type: ignore[method-assign,assignment]
        assert_same(model.skip_text(image), alone)
    plain, dropped = (guided_step_flops(replace(config, path_drop=on), shared=True).total for on in (False, True))
    assert dropped < plain and parameters(config) == parameters(replace(config, path_drop=False))


@every_reading
def test_guidance_scale_one_is_the_conditional_branch_alone(conditioning: Any, reading: Any) -> None:
    config = replace(TINY, conditioning=conditioning, cross_attention=reading, n_image=1)
    model = make(config)
    latents, timesteps, states, _ = inputs(config)
    batches = []
    model.mid_block.register_forward_pre_hook(lambda _, args: batches.append(len(args[0])))
    with torch.no_grad():
        text, null_text = model.encode_text(states), model.encode_text(torch.zeros_like(states[:1]))
        for scale in (1, 1.0):
            assert_same(model.guided(latents, timesteps, text, null_text, scale), model(latents, timesteps, states))
    assert set(batches) == {3}


@every_reading
def test_guided_runs_the_prefix_once(conditioning: Any, reading: Any) -> None:
    model = make(replace(TINY, conditioning=conditioning, cross_attention=reading, n_image=(1, 0)))
    latents, timesteps, states, _ = inputs(TINY)
    batches: dict[str, list[int]] = {}
    for name, block in model.named_modules():
        if name in ("text_blocks.0", "in_blocks.0", "in_blocks.1", "mid_block", "out_blocks.1"):
            block.register_forward_pre_hook(
                lambda _, args, name=name: batches.setdefault(name, []).append(len(args[0]))
            )
    with torch.no_grad():
        text = model.encode_text(states)
        model.guided(latents, timesteps, text, text.rows(torch.tensor([0])))
    assert batches == {
        "text_blocks.0": [3],
        "in_blocks.0": [3],
        "in_blocks.1": [6],
        "mid_block": [6],
        "out_blocks.1": [6],
    }


@pytest.mark.parametrize("conditioning", ["concat", "cross"])
def test_encoded_text_rows_expand_joined(conditioning: Any) -> None:
    model = make(replace(TINY, conditioning=conditioning, mask_padding=True, n_image=1))
    _, _, states, mask = inputs(TINY)
    with torch.no_grad():
        text, one = model.encode_text(states, mask), model.encode_text(states[:1], mask[:1])

    def parts(encoded: EncodedText) -> list[Tensor]:
        return [part for part in encoded if part is not None]

    for whole, single, expanded in zip(parts(text), parts(one), parts(one.expand(4)), strict=True):
        assert expanded.shape == (4, *single.shape[1:]) and torch.equal(expanded[3], single[0])
        assert expanded.data_ptr() == single.data_ptr()  # not copied
        assert whole.shape[0] == 3
    for whole, again in zip(parts(text), parts(text.expand(3)), strict=True):
        assert torch.equal(whole, again)
    for whole, chosen in zip(parts(text), parts(text.rows(torch.tensor([2, 2, 0, 1]))), strict=True):
        assert torch.equal(chosen, torch.stack([whole[2], whole[2], whole[0], whole[1]]))
    for whole, single, concatenated in zip(parts(text), parts(one), parts(text.concatenated(one)), strict=True):
        assert torch.equal(concatenated, torch.cat([whole, single]))
    assert [part is None for part in text.concatenated(one)] == [part is None for part in text]


# --- gradients, precision ---


def gradients(model: IFUViT, *arguments: Tensor, intermediates: bool = False) -> dict[str, Tensor | None]:
    model.zero_grad()
    if intermediates:
        with record_intermediates(model) as named:
            out = model(*arguments)
        loss = out.square().mean() + sum(named[n].square().mean() for n in ("mid_block.input", "in_blocks.1.queries"))
    else:
        loss = model(*arguments).square().mean()
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters()}


@every_setting
def test_every_parameter_gets_a_gradient(config: IFUViTConfig) -> None:
    """Data-parallel training waits for the gradient of every parameter."""
    for name, gradient in gradients(make(config), *inputs(config)[:3]).items():
        assert gradient is not None and gradient.abs().max() > 0, name


@pytest.mark.parametrize("intermediates", [False, True])
@every_reading
def test_gradient_checkpointing_changes_no_gradient(conditioning: Any, reading: Any, intermediates: bool) -> None:
    config = replace(TINY, conditioning=conditioning, cross_attention=reading, n_image=1, mask_padding=True)
    model, arguments = make(config), inputs(config)
    kept = {n: g.clone() for n, g in gradients(model, *arguments, intermediates=intermediates).items() if g is not None}
    model.gradient_checkpointing = True
    for name, gradient in gradients(model, *arguments, intermediates=intermediates).items():
        assert gradient is not None
        assert_same(gradient, kept[name], 1e-6)


@pytest.mark.parametrize("mask_padding", [False, True], ids=["shown", "masked"])
@every_reading
def test_bfloat16_autocast_on_the_cpu_is_close(conditioning: Any, reading: Any, mask_padding: bool) -> None:
    """It takes another path through attention than full precision does."""
    config = replace(TINY, conditioning=conditioning, cross_attention=reading, n_image=1, mask_padding=mask_padding)
    model, arguments = make(config), inputs(config)
    with torch.no_grad():
        exact = model(*arguments)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = model(*arguments)
    assert_same(rounded.float(), exact, 0.05)
    low = model.to(torch.bfloat16)
    with torch.no_grad():
        rounded = low(arguments[0].bfloat16(), arguments[1], arguments[2].bfloat16(), arguments[3])
    assert rounded.dtype == torch.bfloat16
    assert_same(rounded.float(), exact, 0.1)


# --- what is refused ---


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({"latent_size": 0}, "latent_size=0"),
        ({"latent_size": 9}, "latent_size=9"),
        ({"latent_channels": -4}, "latent_channels=-4"),
        ({"patch_size": 0}, "patch_size=0"),
        ({"patch_size": 2.0}, "patch_size=2.0"),
        ({"embed_dim": 30}, "embed_dim=30"),
        ({"embed_dim": 9, "num_heads": 3}, "embed_dim=9"),
        ({"num_heads": 5}, "num_heads=5"),
        ({"num_heads": 0}, "num_heads=0"),
        ({"depth": 0}, "depth=0"),
        ({"depth": 5}, "depth=5"),
        ({"depth": 4.0}, "depth=4.0"),
        ({"mlp_ratio": 0}, "mlp_ratio=0"),
        ({"mlp_ratio": -1.0}, "mlp_ratio=-1.0"),
        ({"mlp_ratio": 0.01}, "mlp_ratio=0.01"),
        ({"mlp_ratio": math.nan}, "mlp_ratio=nan"),
        ({"mlp_ratio": math.inf}, "mlp_ratio=inf"),
        ({"text_width": 0}, "text_width=0"),
        ({"text_tokens": 0}, "text_tokens=0"),
        ({"conditioning": "pooled"}, "conditioning='pooled'"),
        ({"modulation": "adaln-zero"}, "modulation='adaln-zero'"),
        ({"norm": "batch"}, "norm='batch'"),
        ({"double_blocks": 2}, "double_blocks=2 and conditioning='cross'"),
        ({"conditioning": "mmdit", "double_blocks": 4}, "double_blocks=4 and n_image=1: a number in 1 … 3"),
        ({"text_mix": "shared"}, "text_mix='shared' and text_layers=1"),
        ({"text_mix": "shared", "text_layers": 5}, "text_mix='shared' and text_layers=5"),
        (
            {"conditioning": "concat", "text_mix": "block", "text_layers": 3},
            "text_mix='block' and conditioning='concat'",
        ),
        ({"pooled_text": True}, "pooled_text=True and modulation='none'"),
        ({"conditioning": "adaln", "text_gates": True}, "text_gates=True and conditioning='adaln'"),
        ({"positions": "rotary", "num_heads": 16}, "positions='rotary' and num_heads=16"),
        ({"path_drop": True, "n_image": 0}, "path_drop=True and n_image=0"),
        ({"path_drop": True, "n_image": (1, 2)}, "path_drop=True and n_image=(1, 2)"),
        ({"cross_attention": "both"}, "cross_attention='both'"),
        ({"n_text": -1}, "n_text=-1"),
        ({"n_text": 1.5}, "n_text=1.5"),
        ({"n_image": -1}, "n_image=-1"),
        ({"n_image": 3}, "n_image=3"),
        ({"n_image": (0, 3)}, "n_image=(0, 3)"),
        ({"n_image": (-1, 0)}, "n_image=(-1, 0)"),
        ({"n_image": (1, 1, 1)}, "n_image=(1, 1, 1)"),
        ({"n_image": (1,)}, "n_image=(1,)"),
        ({"n_image": (0.5, 1)}, "n_image=(0.5, 1)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_impossible_settings_show_the_value(change: dict[str, Any], shown: str) -> None:
    with pytest.raises(ValueError) as caught:
        replace(TINY, **change)
    assert isinstance(caught.value, InputError)
    assert shown in str(caught.value) and "\n" not in str(caught.value)


def test_wrong_shapes_are_refused() -> None:
    model = make(TINY)
    latents, timesteps, states, _ = inputs(TINY)
    for wrong in (latents[:, :3], latents[..., :6], torch.zeros(3, 4, 16, 16)):
        with pytest.raises(InputError, match="latents of shape"):
            model(wrong, timesteps, states)
    for wrong in (states[:, :5], states[..., :8]):
        with pytest.raises(InputError, match="text embeddings of shape"):
            model(latents, timesteps, wrong)
    with pytest.raises(InputError, match="text_mask"):
        make(replace(TINY, mask_padding=True))(latents, timesteps, states)


# --- on disk ---


@every_setting
def test_saved_and_loaded(config: IFUViTConfig, tmp_path: Path) -> None:
    model = make(config)
    model.save_pretrained(tmp_path / "model")
    again = IFUViT.from_pretrained(tmp_path / "model")
    assert again.config == config and not again.training
    arguments = inputs(config)[:3]
    with torch.no_grad():
        assert torch.equal(model(*arguments), again(*arguments))
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "checksums.json",
        "config.json",
        "model.safetensors",
    ]


def test_saving_replaces_what_was_there(tmp_path: Path) -> None:
    make(TINY, seed=0).save_pretrained(tmp_path)
    model = make(TINY, seed=1)
    model.save_pretrained(tmp_path)
    assert torch.equal(IFUViT.from_pretrained(tmp_path).pos_embed, model.pos_embed)
    # Others may read the weights as they may any new file.
    (tmp_path / "new").touch()
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "new").stat().st_mode


def test_saved_in_half_precision(tmp_path: Path) -> None:
    model = make(TINY)
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "half", dtype=torch.float16)
    assert next(model.parameters()).dtype == torch.float32  # the model itself is as it was
    stored = load_file(tmp_path / "half" / "model.safetensors")
    assert {t.dtype for t in stored.values()} == {torch.float16}
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("half", "whole")]
    assert sizes[0] < 0.6 * sizes[1]
    again = IFUViT.from_pretrained(tmp_path / "half")
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    arguments = inputs(TINY)[:3]
    with torch.no_grad():
        assert_same(again(*arguments), model(*arguments), 5e-3)


def test_loaded_from_a_pipeline_or_run_directory(tmp_path: Path) -> None:
    model = make(TINY)
    model.save_pretrained(tmp_path / "run" / "pipeline" / "transformer")
    (tmp_path / "run" / "pipeline" / "model_index.json").write_text("{}")
    for directory in (tmp_path / "run", tmp_path / "run" / "pipeline", str(tmp_path / "run")):
        assert torch.equal(IFUViT.from_pretrained(directory).pos_embed, model.pos_embed)


def refusal(directory: Path | str) -> str:
    with pytest.raises(InputError) as caught:
        IFUViT.from_pretrained(directory)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_nothing_to_load(tmp_path: Path) -> None:
    assert "no-such-model" in refusal("no-such-model")
    assert str(tmp_path) in refusal(tmp_path)
    make(TINY).save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    assert "config.json" in refusal(tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, 0.999])
def test_truncated_weights(tmp_path: Path, keep: float) -> None:
    make(TINY).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: keep if isinstance(keep, int) else int(keep * len(data))])
    message = refusal(tmp_path)
    assert str(path) in message and "truncated" in message


def test_weights_of_another_model(tmp_path: Path) -> None:
    model = make(TINY)
    model.save_pretrained(tmp_path)
    path, state = tmp_path / "model.safetensors", model.state_dict()

    save_file({n: t for n, t in state.items() if n != "mid_block.norm1.weight"}, path)
    assert "'mid_block.norm1.weight' is missing" in refusal(tmp_path)
    save_file({**state, "label_emb.weight": torch.zeros(2)}, path)
    assert "'label_emb.weight' is not in the model" in refusal(tmp_path)
    save_file({**state, "pos_embed": torch.zeros(1, 3, 32)}, path)
    message = refusal(tmp_path)
    assert "pos_embed" in message and "(1, 3, 32)" in message and "(1, 24, 32)" in message


@pytest.mark.parametrize(
    ("change", "shown"),
    [({"depth": 3}, "depth=3"), ({"depth": "four"}, "four"), ({"width": 3}, "width"), ({"n_image": [9, 0]}, "9")],
)
def test_damaged_configuration(tmp_path: Path, change: dict[str, Any], shown: str) -> None:
    make(TINY).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert shown in refusal(tmp_path)
    path.write_text('{"latent_size": 8, "lat')
    assert str(path) in refusal(tmp_path)


def test_settings_of_one_seed_start_from_equal_weights() -> None:
    """Wherever both have a parameter; another seed gives others, and no two parameters are alike."""

    def start(seed: int, **setting: Any) -> dict[str, torch.Tensor]:
        torch.manual_seed(seed)
        return IFUViT(replace(presets["openmoji-cross-early"], **setting)).state_dict()

    early = start(5)
    for setting in ({"n_text": 2, "n_image": 2}, {"conditioning": "concat"}, {"n_image": (3, 0)}):
        other = start(5, **setting)
        assert all(torch.equal(other[name], weights) for name, weights in early.items()), setting
    another = start(6)
    drawn = [name for name, weights in early.items() if weights.ndim > 1 and name != "final_layer.weight"]
    assert len(drawn) > 20 and not any(torch.equal(early[name], another[name]) for name in drawn)
    first, second = early["in_blocks.0.attn.qkv.weight"], early["in_blocks.1.attn.qkv.weight"]
    assert not torch.equal(first, second) and first.std().item() == pytest.approx(0.02, rel=0.05)
