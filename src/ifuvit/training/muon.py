"""Muon (Jordan et al. 2024): momentum whose matrices are made orthogonal before they step.

`torch.optim.Muon` is the same rule. It iterates in bfloat16 and takes matrices only; on processors without instructions for
bfloat16 it takes 13 to 27 times as long as this one (results/muon/time.json), and the kernels of convolutions learn by it as well.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, made orthogonal; the rate is times sqrt(max(1, rows / columns)), weight decay as AdamW's.

    Args:
        params: of two dimensions, or kernels of convolutions, which count as matrices of (output channels, all the rest).
        lr: the rate.
        momentum: of the gradients.
        weight_decay: decoupled.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], *, lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        for group in self.param_groups:
            assert all(parameter.ndim >= 2 for parameter in group["params"]), "Muon is for matrices and kernels"

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        assert closure is None
        for group in self.param_groups:
            rate, momentum = group["lr"], group["momentum"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                average = state["momentum_buffer"].lerp_(parameter.grad, 1 - momentum)
                update = orthogonalize(parameter.grad.lerp(average, momentum).flatten(1))
                parameter.mul_(1 - rate * group["weight_decay"])
                rows, columns = update.shape
                parameter.sub_(update.view_as(parameter), alpha=rate * math.sqrt(max(1, rows / columns)))


def orthogonalize(matrix: Tensor) -> Tensor:
    """The nearest matrix whose singular values are about 1 (0.7 to 1.2), by five Newton-Schulz iterations of degree 5:
    (R, C) -> (R, C), in bfloat16 on a GPU and in the matrix's own precision elsewhere."""
    a, b, c = _COEFFICIENTS
    x = matrix.bfloat16() if matrix.device.type == "cuda" else matrix
    wide = x if x.shape[0] <= x.shape[1] else x.T
    wide = wide / wide.norm().clamp(min=1e-7)
    for _ in range(_ITERATIONS):
        gram = wide @ wide.T
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return (wide if x.shape[0] <= x.shape[1] else wide.T).to(matrix.dtype)
