"""How the small models that judge images learn: AdamW, a warm-up, a cosine, and clipped gradients."""

import math

import torch
from torch import nn

from ifuvit.utils.errors import InputError


class Descent:
    """AdamW for a training of known length.

    Args:
        network: trained in place.
        steps: of the whole training.
        learning_rate: the peak. It falls to 0 along a cosine.
        warmup: steps that lead up to it in a line.
        clip: largest norm of the gradient.
        weight_decay, betas: AdamW's.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        steps: int,
        learning_rate: float,
        warmup: int,
        clip: float,
        weight_decay: float,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        self.parameters = list(network.parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=learning_rate, betas=betas, weight_decay=weight_decay)
        self.steps, self.learning_rate, self.warmup, self.clip = steps, learning_rate, max(1, warmup), clip
        self.done = 0
        """Steps taken."""

    def step(self, loss: torch.Tensor) -> None:
        """Change the network for a smaller loss.

        Raises:
            InputError: the gradient is not finite; the network stays as it was.
        """
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.clip)
        if not torch.isfinite(norm):
            raise InputError(
                f"the gradient is not finite at step {self.done + 1}; try a learning rate below {self.learning_rate:g} "
                "or --precision fp32"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * self._share_of_peak()
        self.optimizer.step()
        self.done += 1

    def _share_of_peak(self) -> float:
        if self.done < self.warmup:
            return (self.done + 1) / self.warmup
        return 0.5 * (1 + math.cos(math.pi * (self.done - self.warmup) / max(1, self.steps - self.warmup)))
