"""The matrix-product peak: the fastest of the model's own matrix products, alone, in the same rounds as the model.

Achieved FLOP/s over this peak (MFU) says how much of a step is left to win without a faster product.
"""

from collections.abc import Iterable
from functools import cache
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from ifuvit.benchmarks.timing import BenchmarkCase, Step, Timing
from ifuvit.model.kernels import linear
from ifuvit.model.settings import IFUViTConfig
from ifuvit.results import Peak

Pass = Literal["forward", "input gradient", "weight gradient"]
"""Which of a linear layer's three products, all of the same FLOPs: x W^T as this package's layers have it, g W, g^T x."""


class Product(NamedTuple):
    """One product of a linear layer from `inputs` to `outputs` on so many rows (tokens of all images)."""

    rows: int
    inputs: int
    outputs: int
    which: Pass

    @property
    def flops(self) -> int:
        return 2 * self.rows * self.inputs * self.outputs

    @property
    def name(self) -> str:
        return f"product {self.rows} x {self.inputs} -> {self.outputs}, {self.which}"


def products(configs: Iterable[IFUViTConfig], batch_size: int, *, training: bool) -> list[Product]:
    """The large products of the models' blocks: queries, keys and values in one, and the two of the MLP, on all tokens of
    a batch; in training also the two of the backward pass. None twice."""
    found: dict[Product, None] = {}
    for c in configs:
        hidden = int(c.embed_dim * c.mlp_ratio)
        tokens = 1 + c.num_patches + (c.text_tokens if c.conditioning in ("concat", "mmdit") else 0)
        for inputs, outputs in ((c.embed_dim, 3 * c.embed_dim), (c.embed_dim, hidden), (hidden, c.embed_dim)):
            for which in get_args(Pass)[: 3 if training else 1]:
                found[Product(batch_size * tokens, inputs, outputs, which)] = None
    return list(found)


def product_cases(
    chosen: Iterable[Product], dtype: torch.dtype, device: torch.device, batch_size: int
) -> list[BenchmarkCase]:
    """One case for each product; products of one layer share their operands."""

    @cache
    def operands(rows: int, inputs: int, outputs: int) -> tuple[Tensor, Tensor, Tensor]:
        """x, W and the gradient g of the output, as they lie in memory in a linear layer."""
        shapes = ((rows, inputs), (outputs, inputs), (rows, outputs))
        x, weight, gradient = (torch.randn(shape, device=device).to(dtype) for shape in shapes)
        return x, weight, gradient

    def prepare(product: Product) -> Step:
        x, weight, gradient = operands(*product[:3])
        if product.which == "forward":
            return lambda: linear(x, weight)
        if product.which == "input gradient":
            return lambda: gradient @ weight
        return lambda: gradient.T @ x

    return [BenchmarkCase(name=p.name, prepare=lambda p=p: prepare(p), items=batch_size, flops=p.flops) for p in chosen]


def find_peak(timings: dict[str, Timing], chosen: Iterable[Product]) -> Peak:
    """The best rate that any of the products has (by its median), and each one's."""
    rates = {product.name: product.flops / timings[product.name].median for product in chosen}
    best = max(rates, key=lambda name: rates[name])
    return Peak(flops_per_second=rates[best], of=best, products=rates)
