"""One step of training, from a batch to new weights: what the loop of `ifuvit train` repeats and `ifuvit bench` times."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ifuvit.diffusion import loss as objective
from ifuvit.training.batches import noisy_latents, text_embeddings
from ifuvit.training.config import TrainConfig, learning_rate_at
from ifuvit.training.distributed import global_norm, register_forward_methods, sync_gradients
from ifuvit.training.ema import EMA
from ifuvit.utils.devices import check_compiler

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ifuvit.encoders.text_encoder import TextEncoder


class TrainingStep:
    """Forward, backward, update and average.

    Args:
        config: the recipe.
        model: the backbone, with the weights that training starts from; it is moved to the accelerator's device.
        accelerator: of this run. It says how precise, and with which other processes.
        text_encoder: for batches that hold token ids.

    Raises:
        InputError: it is to be compiled, and there is no compiler.

    Attributes:
        model: as accelerate prepared it.
        optimizer: AdamW over all its parameters.
        ema: their average.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: nn.Module,
        accelerator: "Accelerator",
        text_encoder: "TextEncoder | None" = None,
    ) -> None:
        self.config, self.accelerator, self.text_encoder = config, accelerator, text_encoder
        model.to(accelerator.device)
        optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=accelerator.device.type in ("cpu", "cuda"),
        )
        self.model, prepared = accelerator.prepare(model, optimizer)
        if config.compile:
            check_compiler(accelerator.device)
            self.model.compile(dynamic=False)
        self.optimizer: torch.optim.Optimizer = prepared.optimizer
        self.ema = EMA(self.model, config.ema, ramp=config.ema_ramp)
        self.parameters = list(self.model.parameters())
        register_forward_methods(self.model)

    def loss_of(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The loss of a micro-batch; everything the network learns from is in this line and in `denoising_loss`."""
        noisy, text = noisy_latents(batch), text_embeddings(batch, self.text_encoder)
        predicted = self.model(noisy, batch["timesteps"], text, batch["text_mask"])
        return objective.denoising_loss(predicted, batch["noise"], batch["timesteps"], self.config.snr_gamma)

    def __call__(self, batch: Mapping[str, Tensor], step: int) -> tuple[Tensor, Tensor]:
        """Learn from this process's share of a batch.

        Args:
            batch: an item of `Batches`, on the accelerator's device.
            step: optimizer steps done before.

        Returns:
            the loss before the update and the norm of its gradient, two scalars on the device.
        """
        # Forward and backward, in parts if memory asks for it.
        parts = self.config.gradient_accumulation
        total = torch.zeros((), device=self.accelerator.device)
        for part in range(parts):
            micro = {name: tensor.chunk(parts)[part] for name, tensor in batch.items()}
            with sync_gradients(self.accelerator, self.model, last=part == parts - 1):
                loss = self.loss_of(micro) / parts
                self.accelerator.backward(loss)
            total += loss.detach()

        # Update.
        norm = self.accelerator.clip_grad_norm_(self.parameters, self.config.gradient_clip or math.inf)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(self.config, step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update(step)
        return total, global_norm(norm)
