"""Parameters and floating point operations of a setting, counted on the real module.

The module runs on the meta device, where tensors have shapes and no contents, under torch's FLOP counter. (On a CPU that
counter silently misses fused attention.) A multiply-add is two FLOPs. Counted are linear layers, convolutions and, apart,
the two products of attention; norms, activations, softmax and additions are left out. The paper's GFLOPs leave the
products of attention out too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from ifuvit.model.settings import IFUViTConfig
from ifuvit.model.uvit import IFUViT

_LAYERS = (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.convolution)
"""Linear layers and convolutions. All other operations that the counter knows are products of attention."""


@dataclass(frozen=True, kw_only=True)
class Flops:
    """FLOPs for one image."""

    layers: int
    """Linear layers and convolutions: the paper's count."""
    attention: int
    """The products of queries with keys and of weights with values."""

    @property
    def total(self) -> int:
        return self.layers + self.attention

    def __add__(self, other: "Flops") -> "Flops":
        return Flops(layers=self.layers + other.layers, attention=self.attention + other.attention)

    def __mul__(self, times: int) -> "Flops":
        return Flops(layers=self.layers * times, attention=self.attention * times)


class _Counts(NamedTuple):
    parameters: int
    text: Flops
    prefix: Flops
    fused: Flops
    skipped: Flops


@cache
def _count(c: IFUViTConfig) -> _Counts:
    """Build the module without contents and run its three parts on one image."""
    with torch.device("meta"), torch.no_grad():
        model = IFUViT(c)
        latents = torch.empty(1, c.latent_channels, c.latent_size, c.latent_size)
        embeddings, mask = torch.empty(1, c.text_tokens, c.text_width), torch.empty(1, c.text_tokens, dtype=torch.bool)
        text, text_flops = _run(lambda: model.encode_text(embeddings, mask))
        image, prefix_flops = _run(lambda: model.encode_image(latents, torch.empty(1)))
        _, fused_flops = _run(lambda: model.fuse(image, text))
        skipped_flops = _run(lambda: model.skip_text(image))[1] if c.path_drop else Flops(layers=0, attention=0)
    return _Counts(sum(p.numel() for p in model.parameters()), text_flops, prefix_flops, fused_flops, skipped_flops)


def _run(part: Callable[[], Any]) -> tuple[Any, Flops]:
    with FlopCounterMode(display=False) as counter:
        out = part()
    counts = counter.get_flop_counts()["Global"]
    layers = sum(counts.get(operation, 0) for operation in _LAYERS)
    return out, Flops(layers=layers, attention=counter.get_total_flops() - layers)


def parameters(c: IFUViTConfig) -> int:
    """Number of trainable parameters."""
    return _count(c).parameters


def text_flops(c: IFUViTConfig) -> Flops:
    """`IFUViT.encode_text` on one caption: what a sampler pays once a prompt instead of once a step."""
    return _count(c).text


def prefix_flops(c: IFUViTConfig) -> Flops:
    """`IFUViT.encode_image`: what both branches of guidance share."""
    return _count(c).prefix


def fused_flops(c: IFUViTConfig) -> Flops:
    """`IFUViT.fuse`: what each branch of guidance needs for itself."""
    return _count(c).fused


def forward_flops(c: IFUViTConfig) -> Flops:
    """One forward pass for one image."""
    return text_flops(c) + prefix_flops(c) + fused_flops(c)


def guided_step_flops(c: IFUViTConfig, *, shared: bool) -> Flops:
    """One step of guided sampling for one image: two forward passes, or with the text encoded beforehand and the
    text-free prefix computed once for both branches. With `path_drop` the second branch has no fused blocks."""
    if c.path_drop:
        skipped = _count(c).skipped
        return prefix_flops(c) + fused_flops(c) + skipped if shared else forward_flops(c) + prefix_flops(c) + skipped
    return prefix_flops(c) + fused_flops(c) * 2 if shared else forward_flops(c) * 2


def training_flops(c: IFUViTConfig, batch_size: int) -> int:
    """One training step: a forward pass, and twice as much for the gradients of inputs and of weights."""
    return 3 * forward_flops(c).total * batch_size


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
