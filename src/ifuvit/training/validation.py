"""The validation loss."""

import math
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ifuvit.data.encoded import EncodedDataset
from ifuvit.diffusion.loss import noise_errors
from ifuvit.training.batches import noisy_latents, text_embeddings, validation_batch
from ifuvit.training.config import TrainConfig

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ifuvit.encoders.text_encoder import TextEncoder


def validate(
    accelerator: "Accelerator",
    model: nn.Module,
    features: EncodedDataset,
    images: np.ndarray,
    config: TrainConfig,
    text_encoder: "TextEncoder | None",
) -> dict[str, Any]:
    """The noise error on held-out images, plain mean and by ten bands of timesteps (1-100, 101-200, …).

    Args:
        accelerator: of this run; all processes call this together.
        model: as `accelerator.prepare` gave it. It is left in training mode.
        features: where the images are.
        images: (N,) int64, their rows; at least one.
        config: its batch size is used.
        text_encoder: for features that hold token ids.

    Returns:
        "validation_loss", and "validation_loss_by_timestep" for the bands that the images reach.
    """
    sums = torch.zeros(2, 10, dtype=torch.float64)  # of errors and of images; on the CPU, since MPS has no float64
    size = max(config.batch_size // (accelerator.num_processes * config.gradient_accumulation), 1)
    firsts = list(range(0, len(images), size))
    rounds = math.ceil(len(firsts) / accelerator.num_processes)  # sharded models need every process in every round
    model.eval()
    # A compiled model would be compiled again for every size of a batch.
    plain = torch.compiler.set_stance("force_eager") if config.compile else nullcontext()
    with torch.no_grad(), plain:
        for index in range(rounds):
            mine = index * accelerator.num_processes + accelerator.process_index
            first = firsts[min(mine, len(firsts) - 1)]
            batch = validation_batch(features, images[first : first + size], first)
            batch = {name: tensor.to(accelerator.device) for name, tensor in batch.items()}
            text = text_embeddings(batch, text_encoder)
            predicted = model(noisy_latents(batch), batch["timesteps"], text, batch["text_mask"])
            if mine < len(firsts):
                errors = noise_errors(predicted, batch["noise"]).cpu().double()
                band = (batch["timesteps"].cpu() - 1) // 100
                sums.index_add_(1, band, torch.stack([errors, torch.ones_like(errors)]))
    model.train()
    if accelerator.num_processes > 1:  # never on MPS
        sums = cast(Tensor, accelerator.reduce(sums.to(accelerator.device), reduction="sum")).cpu()
    bands = (sums[0] / sums[1]).tolist()
    return {
        "validation_loss": float(sums[0].sum() / sums[1].sum()),
        "validation_loss_by_timestep": {
            f"{100 * i + 1}-{100 * (i + 1)}": band for i, band in enumerate(bands) if math.isfinite(band)
        },
    }
