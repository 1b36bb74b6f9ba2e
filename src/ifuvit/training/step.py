"""One step of training, from a batch to new weights: what the loop of `ifuvit train` repeats and `ifuvit bench` times."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from ifuvit.model.uvit import IFUViT
from ifuvit.training.alignment import head_of
from ifuvit.training.batches import text_embeddings
from ifuvit.training.config import TrainConfig, learning_rate_at
from ifuvit.training.distributed import global_gradient_norm, register_forward_methods, sync_gradients
from ifuvit.training.ema import EMA
from ifuvit.training.optimizer import make_optimizers
from ifuvit.training.power_ema import PowerEMA
from ifuvit.utils.devices import check_compiler

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ifuvit.encoders.text_encoder import TextEncoder
    from ifuvit.training.alignment import Alignment


class TrainingStep:
    """Forward, backward, update and average.

    Args:
        config: its recipe, number of steps and runtime section are used.
        model: the backbone, with the weights that training starts from; it is moved to the accelerator's device.
        accelerator: of this run: its precision and its processes.
        text_encoder: for batches that hold token ids.
        alignment: to what the middle block is aligned, where the recipe says so; the model has its head.

    Raises:
        InputError: it is to be compiled, and there is no compiler.

    Attributes:
        model: as accelerate prepared it.
        optimizers: over its parameters, with their peak learning rates.
        ema: the average of the parameters.
        power_averages: two further ones, or none.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: nn.Module,
        accelerator: "Accelerator",
        text_encoder: "TextEncoder | None" = None,
        alignment: "Alignment | None" = None,
    ) -> None:
        self.config, self.accelerator, self.text_encoder = config, accelerator, text_encoder
        self.alignment = alignment
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
        self.power_averages = [PowerEMA(self.model, width) for width in config.recipe.ema.power_ema or ()]
        self.parameters = list(self.model.parameters())
        register_forward_methods(self.model)
        if config.recipe.layout.layout_weight or alignment is not None:
            self.backbone = cast(IFUViT, accelerator.unwrap_model(self.model))
            self.backbone.mid_block.register_forward_hook(self._keep_middle)

    def loss_of(self, batch: Mapping[str, Tensor], step: int = 0) -> Tensor:
        """The loss of a micro-batch: everything the network learns from is in these lines and in the objective."""
        latents, noise = batch["latents"], batch["noise"]
        times = self.objective.sample_times(batch["uniform"])
        noisy = self.objective.noisy_latents(latents, noise, times)
        skips_text = batch["dropped"] if self.config.recipe.model.path_drop else None
        text = text_embeddings(batch, self.text_encoder)
        predicted = self.model(noisy, times, text, batch["text_mask"], skips_text)
        loss = self.objective.loss(predicted, latents, noise, times)
        layout = self.config.recipe.layout
        if layout.layout_weight:
            # Beyond its end the weight is 0, not the term gone: every parameter of a distributed model needs a gradient.
            weight = layout.layout_weight * (step < layout.layout_until * self.config.steps)
            logits = self.backbone.layout_logits(self._middle).float()
            loss = loss + weight * nn.functional.cross_entropy(logits, batch["layout"].long())
        if self.alignment is not None:
            config = self.config.recipe.alignment
            if step < config.align_until * self.config.steps:
                loss = loss + config.align_weight * self.alignment.loss(self.backbone, self._middle, latents)
            else:  # gradients, of zero, without the network
                loss = loss + 0 * sum(parameter.sum() for parameter in head_of(self.backbone).parameters())
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
        for average in (self.ema, *self.power_averages):
            average.update(step)
        return total, global_gradient_norm(norm)
