"""One step of training, from a batch to new weights: what the loop of `ifuvit train` repeats and `ifuvit bench` times."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from ifuvit.model.uvit import IFUViT
from ifuvit.training.batches import text_embeddings
from ifuvit.training.config import TrainConfig, learning_rate_at
from ifuvit.training.distributed import global_gradient_norm, register_forward_methods, sync_gradients
from ifuvit.training.ema import EMA
from ifuvit.training.optimizer import make_optimizers
from ifuvit.utils.devices import check_compiler

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ifuvit.encoders.text_encoder import TextEncoder


class TrainingStep:
    """Forward, backward, update and average.

    Args:
        config: its recipe, number of steps and runtime section are used.
        model: the backbone, with the weights that training starts from; it is moved to the accelerator's device.
        accelerator: of this run: its precision and its processes.
        text_encoder: for batches that hold token ids.

    Raises:
        InputError: it is to be compiled, and there is no compiler.

    Attributes:
        model: as accelerate prepared it.
        optimizers: over its parameters, with their peak learning rates.
        ema: the average of the parameters.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: nn.Module,
        accelerator: "Accelerator",
        text_encoder: "TextEncoder | None" = None,
    ) -> None:
        self.config, self.accelerator, self.text_encoder = config, accelerator, text_encoder
        self.objective = config.recipe.objective
        model.to(accelerator.device)
        optimizers = make_optimizers(config.recipe.optimizer, model, accelerator.device)
        self.model, *prepared = accelerator.prepare(model, *optimizers)
        self.optimizers: dict[torch.optim.Optimizer, float] = {
            wrapped.optimizer: peak for wrapped, peak in zip(prepared, optimizers.values(), strict=True)
        }
        if config.runtime.compile:
            check_compiler(accelerator.device)
            self.model.compile(dynamic=False)
        self.ema = EMA(self.model, config.recipe.ema.ema, ramp=config.recipe.ema.ema_ramp)
        self.parameters = list(self.model.parameters())
        register_forward_methods(self.model)
        if config.recipe.layout.layout_weight:
            self.backbone = cast(IFUViT, accelerator.unwrap_model(self.model))
            self.backbone.mid_block.register_forward_hook(self._keep_middle)

    def loss_of(self, batch: Mapping[str, Tensor], step: int = 0) -> Tensor:
        """The loss of a micro-batch: everything the network learns from is in these lines and in the objective."""
        latents, noise = batch["latents"], batch["noise"]
        times = self.objective.sample_times(batch["uniform"])
        noisy = self.objective.noisy_latents(latents, noise, times)
        predicted = self.model(noisy, times, text_embeddings(batch, self.text_encoder), batch["text_mask"])
        loss = self.objective.loss(predicted, latents, noise, times)
        layout = self.config.recipe.layout
        if layout.layout_weight:
            # Beyond its end the weight is 0, not the term gone: every parameter of a distributed model needs a gradient.
            weight = layout.layout_weight * (step < layout.layout_until * self.config.steps)
            logits = self.backbone.layout_logits(self._middle).float()
            loss = loss + weight * nn.functional.cross_entropy(logits, batch["layout"].long())
        return loss

    def _keep_middle(self, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        self._middle = output

    def __call__(self, batch: Mapping[str, Tensor], step: int) -> tuple[Tensor, Tensor]:
        """Learn from this process's share of a batch.

        Args:
            batch: an item of `Batches`, on the accelerator's device.
            step: optimizer steps done before.

        Returns:
            the loss before the update and the norm of its gradient, two scalars on the device.
        """
        # Forward and backward, in parts if memory asks for it.
        parts = self.config.runtime.gradient_accumulation
        total = torch.zeros((), device=self.accelerator.device)
        for part in range(parts):
            micro = {name: tensor.chunk(parts)[part] for name, tensor in batch.items()}
            with sync_gradients(self.accelerator, self.model, last=part == parts - 1):
                loss = self.loss_of(micro, step) / parts
                self.accelerator.backward(loss)
            total += loss.detach()

        # Update.
        recipe = self.config.recipe
        norm = self.accelerator.clip_grad_norm_(self.parameters, recipe.optimizer.gradient_clip or math.inf)
        for optimizer, peak in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = learning_rate_at(peak, recipe.schedule, self.config.steps, step)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.ema.update(step)
        return total, global_gradient_norm(norm)
