"""The counts on the meta device against counts of passes that really ran."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from ifuvit.model.flops import (
    Flops,
    forward_flops,
    fused_flops,
    guided_step_flops,
    parameters,
    prefix_flops,
    text_flops,
    training_flops,
)
from ifuvit.model.presets import presets
from ifuvit.model.settings import IFUViTConfig
from ifuvit.model.uvit import IFUViT

TINY = IFUViTConfig(
    latent_size=8, embed_dim=32, depth=4, num_heads=4, mlp_ratio=3.0, text_width=24, text_tokens=7, n_image=1
)
PLACES: list[tuple[int, Any]] = [(0, 0), (0, 2), (2, 0)] + [
    (1, n) for n in (0, 1, 2, (0, 1), (0, 2), (1, 0), (2, 0), (2, 1))
]
SETTINGS = [
    replace(TINY, conditioning=conditioning, cross_attention=reading, n_text=n_text, n_image=n_image)  # type: ignore[arg-type]
    for conditioning, reading in (("concat", "added"), ("cross", "added"), ("cross", "joint"))
    for n_text, n_image in PLACES
]
SETTINGS += [
    replace(TINY, conditioning="cross-separate", n_image=(1, 0), mlp="swiglu"),
    replace(TINY, conditioning="cross-separate", cross_attention="joint", modulation="adaln-single"),
    replace(TINY, conditioning="mmdit", n_image=(0, 1), modulation="adaln", pooled_text=True),
    replace(TINY, conditioning="mmdit", double_blocks=1, value_residual=True),
    replace(TINY, conditioning="adaln", n_image=(1, 2)),
]
every_setting = pytest.mark.parametrize(
    "config", SETTINGS, ids=lambda c: f"{c.conditioning}-{c.cross_attention}-{c.n_text}-{c.n_image}"
)


class Executed(TorchDispatchMode):
    """Counts the FLOPs of the operations that run: matrices and convolutions as layers, batched products and fused
    attention as attention. (torch's FlopCounterMode counts no fused attention on the CPU.)"""

    def __init__(self) -> None:
        super().__init__()
        self.layers = self.attention = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in ("mm", "addmm"):
            a, b = args[-2:]
            self.layers += 2 * a.shape[0] * a.shape[1] * b.shape[1]
        elif name == "_linear_pointwise":  # oneDNN's, see ifuvit.model.kernels
            self.layers += 2 * out.numel() * args[1].shape[1]
        elif name == "convolution":
            _, per_group, height, width = args[1].shape
            self.layers += 2 * out.numel() * per_group * height * width
        elif name == "bmm":
            a, b = args
            self.attention += 2 * a.shape[0] * a.shape[1] * a.shape[2] * b.shape[2]
        elif "scaled_dot_product" in name:
            queries, keys, values = args[:3]
            batch, heads, tokens, width = queries.shape
            self.attention += 2 * batch * heads * tokens * keys.shape[2] * (width + values.shape[3])
        else:
            assert not any(word in name for word in ("matmul", "linear", "einsum", "conv", "baddbmm")), name
        return out

    def flops(self, images: int) -> Flops:
        assert self.layers % images == 0 and self.attention % images == 0
        return Flops(layers=self.layers // images, attention=self.attention // images)


def executed(run: Callable[[], Any], images: int = 1) -> Flops:
    with torch.no_grad(), Executed() as counted:
        run()
    return counted.flops(images)


def arguments(config: IFUViTConfig, batch: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    side = config.latent_size
    latents = torch.zeros(batch, config.latent_channels, side, side)
    return latents, torch.ones(batch), torch.zeros(batch, config.text_tokens, config.text_width)


def test_the_counter_counts_attention() -> None:
    """Fused, by parts, and convolutions: the counter itself is right."""
    q = torch.zeros(2, 4, 5, 8)
    k = torch.zeros(2, 4, 7, 8)
    fused = executed(lambda: nn.functional.scaled_dot_product_attention(q, k, k))
    by_parts = executed(lambda: (q @ k.transpose(-1, -2)).softmax(-1) @ k)
    assert fused == by_parts == Flops(layers=0, attention=2 * 2 * 2 * 4 * 5 * 7 * 8)
    assert executed(lambda: nn.Linear(3, 5)(torch.zeros(2, 7, 3))) == Flops(layers=2 * 14 * 15, attention=0)
    assert executed(lambda: nn.Linear(3, 5, bias=False)(torch.zeros(2, 7, 3))) == Flops(layers=2 * 14 * 15, attention=0)
    assert executed(lambda: nn.Conv2d(3, 5, 2, 2)(torch.zeros(1, 3, 4, 4))).layers == 2 * 5 * 4 * 12


@every_setting
def test_each_part_counts_what_runs(config: IFUViTConfig) -> None:
    model = IFUViT(config)
    latents, timesteps, states = arguments(config, 2)
    with torch.no_grad():
        text = model.encode_text(states)
        image = model.encode_image(latents, timesteps)
    assert executed(lambda: model.encode_text(states), 2) == text_flops(config)
    assert executed(lambda: model.encode_image(latents, timesteps), 2) == prefix_flops(config)
    assert executed(lambda: model.fuse(image, text), 2) == fused_flops(config)
    assert executed(lambda: model(latents, timesteps, states), 2) == forward_flops(config)


@every_setting
def test_a_guided_step_counts_what_runs(config: IFUViTConfig) -> None:
    model = IFUViT(config)
    latents, timesteps, states = arguments(config, 2)
    with torch.no_grad():
        text = model.encode_text(states)
        null = text.rows(torch.tensor([0]))

    def plain() -> None:
        model(latents, timesteps, states)
        model(latents, timesteps, torch.zeros_like(states))

    assert executed(plain, 2) == guided_step_flops(config, shared=False)
    shared = executed(lambda: model.guided(latents, timesteps, text, null, 4.0), 2)
    assert shared == guided_step_flops(config, shared=True)
    assert executed(lambda: model.guided(latents, timesteps, text, null, 1.0), 2) == prefix_flops(config) + fused_flops(
        config
    )


def test_masking_padding_costs_nothing() -> None:
    config = replace(TINY, mask_padding=True)
    mask = torch.ones(1, config.text_tokens, dtype=torch.bool)
    assert executed(lambda: IFUViT(config)(*arguments(config), mask)) == forward_flops(TINY) == forward_flops(config)


# PAPER: Table 1's GFLOPs are 29.56, 25.84, 23.82, 23.66: 0.07 higher (norms and activations).
GIGA = {
    "concat-early": (29.49, 32.46, 29.56),
    "concat-intermediate": (25.77, 28.01, 25.84),
    "cross-early": (23.76, 26.04, 23.82),
    "cross-intermediate": (23.59, 25.57, 23.66),
}


@pytest.mark.parametrize("name", GIGA)
def test_paper_size(name: str) -> None:
    """The four settings of Table 1: counted by torch's counter, by this test's own, and published."""
    config = presets[name]
    without, with_attention, published = GIGA[name]
    flops = forward_flops(config)
    assert (round(flops.layers / 1e9, 2), round(flops.total / 1e9, 2)) == (without, with_attention)
    assert parameters(config) == (44_692_644 if "early" in name else 47_843_492)
    assert flops.layers / 1e9 == pytest.approx(published, rel=0.003)
    with torch.device("meta"):
        model = IFUViT(config)
        latents, timesteps, states = arguments(config)
        assert executed(lambda: model(latents, timesteps, states)) == flops


@pytest.mark.parametrize("name", sorted(presets))
def test_what_sharing_saves(name: str) -> None:
    """Sharing saves one prefix and both encodings of text, nothing else; cross-attention gains most."""
    config = presets[name]
    plain, shared = guided_step_flops(config, shared=False), guided_step_flops(config, shared=True)
    saved = prefix_flops(config) + text_flops(config) * 2
    assert shared + saved == plain
    if name == "cross-intermediate":
        assert plain.total / shared.total == pytest.approx(1.21, abs=0.005)


def test_flops_add_and_multiply() -> None:
    flops = Flops(layers=3, attention=4)
    assert flops.total == 7
    assert flops + flops == flops * 2 == Flops(layers=6, attention=8)


def test_a_training_step_is_three_forward_passes() -> None:
    """Forward, and the gradients of inputs and of weights. Two gradients nobody needs: those of latents and embeddings."""
    config, images = TINY, 2
    flops = forward_flops(config)
    assert training_flops(config, images) == 3 * flops.total * images
    with torch.device("meta"), FlopCounterMode(display=False) as counted:
        IFUViT(config)(*arguments(config, images)).square().mean().backward()
    aten = torch.ops.aten
    executed = counted.get_flop_counts()["Global"]
    layers = sum(executed[op] for op in (aten.mm, aten.addmm, aten.convolution, aten.convolution_backward))
    latents = config.num_patches * config.patch_size**2 * config.latent_channels * config.embed_dim
    embeddings = config.text_tokens * config.text_width * config.embed_dim
    assert layers == (3 * flops.layers - 2 * latents - 2 * embeddings) * images
