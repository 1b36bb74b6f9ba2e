"""The exponential moving average of the weights: what is sampled from, measured and shipped."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class EMA:
    """An fp32 average of a model's parameters.

    Args:
        model: the model whose parameters are followed; its present values are the first average.
        decay: the share of the old average kept at each update, 0 … 1.
        ramp: let the decay rise as (1 + k) / (10 + k) with the number k of updates until it reaches `decay`, so that
            the average of a short run does not remember its random start.
    """

    def __init__(self, model: nn.Module, decay: float, *, ramp: bool = False) -> None:
        from torch.distributed.fsdp import FSDPModule

        self.decay, self.ramp = decay, ramp
        self.sharded = [module for module in model.modules() if isinstance(module, FSDPModule)]
        self.parameters = list(model.parameters())
        self.average = [p.detach().clone().float() for p in self.parameters]

    def decay_at(self, updates: int) -> float:
        """The decay of the update that follows `updates` others."""
        return min(self.decay, (1 + updates) / (10 + updates)) if self.ramp else self.decay

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Move the average towards the model's present values; `updates` is how many there were before."""
        torch._foreach_lerp_(self.average, [p.detach().float() for p in self.parameters], 1 - self.decay_at(updates))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the model has the averaged weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        # FSDP keeps some weights gathered after a forward pass without a backward one; later passes would go on using
        # those copies and not see the change.
        for module in self.sharded:
            module.reshard()
        for parameter, average in zip(self.parameters, self.average, strict=True):
            present = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(present)
