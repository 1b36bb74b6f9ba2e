"""Linear layers and attention as a CPU computes them fastest. On all other devices they are torch's own.

In single precision torch gives matrix products to MKL, which has no AVX-512 kernels for processors that are not Intel's: 180
GFLOP/s instead of oneDNN's 400 on two Zen 5 cores (docs/performance.md). In bf16 torch takes oneDNN itself, but its fused
attention is slow.
"""

import math
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class Linear(nn.Linear):
    """`torch.nn.Linear`: the same parameters, the same result but for the order of its sums."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b as `torch.nn.functional.linear`: (..., I), (O, I), (O,) -> (..., O)."""
    if (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.ndim > 1
        and x.numel() > 0
        and weight.is_contiguous()  # of columns cut out of a matrix oneDNN makes a slow loop
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and _onednn_is_faster()
    ):
        return _OneDNN.apply(x, weight, bias)
    return F.linear(x, weight, bias)


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Scaled dot-product attention: (B, h, N, d), (B, h, M, d), (B, h, M, d), mask (B, 1, 1, M) -> (B, h, N, d)."""
    if queries.device.type == "cpu" and queries.dtype == torch.bfloat16:
        # torch's fused kernel is slow here: 43 ms against 8 ms forward and backward for (64, 6, 65, 32) on two cores
        scores = queries @ (keys * (1 / math.sqrt(queries.shape[-1]))).transpose(-2, -1)
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf)
        return scores.softmax(-1, dtype=scores.dtype) @ values
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)


@cache
def _onednn_is_faster() -> bool:
    # private, checked on torch 2.13
    return torch.backends.mkldnn.is_available() and torch.cpu._is_avx512_supported()


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    # private (torch's compiler uses it), checked on torch 2.13
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class _OneDNN(torch.autograd.Function):
    """A linear layer and its gradients; oneDNN takes transposed operands as they lie."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad
        rows = gradient.flatten(0, -2)
        return (
            _product(gradient, weight.t()) if for_x else None,
            _product(rows.t(), x.flatten(0, -2).t()) if for_weight else None,
            rows.sum(0) if for_bias else None,
        )
