"""The validation loss."""

import math
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ifuvit.data.encoded import EncodedDataset
from ifuvit.encoders.normalization import LatentNormalization
from ifuvit.training.batches import LEVEL_BANDS, text_embeddings, validation_batch
from ifuvit.training.config import TrainConfig

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ifuvit.encoders.text_encoder import TextEncoder


def validate(
    accelerator: "Accelerator",
    model: nn.Module,
    dataset: EncodedDataset,
    images: np.ndarray,
    normalization: LatentNormalization,
    config: TrainConfig,
    text_encoder: "TextEncoder | None",
) -> dict[str, Any]:
    """The objective's unweighted error on held-out images: its mean, and by ten equal bands of the noise level.

    Args:
        accelerator: of this run; all processes call this together.
        model: as `accelerator.prepare` gave it. It is left in training mode.
        dataset: where the images are.
        images: (N,) int64, their rows; at least one.
        normalization: the run's, not this data set's.
        config: its objective and batch size are used.
        text_encoder: for a data set of token ids.

    Returns:
        "validation_loss", and "validation_loss_by_noise_level" for the bands that the images reach, "0.0-0.1" and so on.
    """
    objective = config.recipe.objective
    sums = torch.zeros(2, LEVEL_BANDS, dtype=torch.float64)  # of errors and of images; on the CPU, MPS has no float64
    parts = accelerator.num_processes * config.runtime.gradient_accumulation
    size = max(config.recipe.batches.batch_size // parts, 1)
    firsts = list(range(0, len(images), size))
    rounds = math.ceil(len(firsts) / accelerator.num_processes)  # sharded models need every process in every round
    model.eval()
    # A compiled model would be compiled again for every size of a batch.
    plain = torch.compiler.set_stance("force_eager") if config.runtime.compile else nullcontext()
    with torch.no_grad(), plain:
        for index in range(rounds):
            mine = index * accelerator.num_processes + accelerator.process_index
            first = firsts[min(mine, len(firsts) - 1)]
            batch = validation_batch(dataset, normalization, images[first : first + size], first)
            batch = {name: tensor.to(accelerator.device) for name, tensor in batch.items()}
            text = text_embeddings(batch, text_encoder)
            latents, noise, levels = batch["latents"], batch["noise"], batch["uniform"]
            times = objective.times_at(levels)
            predicted = model(objective.noisy_latents(latents, noise, times), times, text, batch["text_mask"])
            if mine < len(firsts):
                errors = objective.errors(predicted, latents, noise, times).cpu().double()
                band = (levels.cpu() * LEVEL_BANDS).long()
                sums.index_add_(1, band, torch.stack([errors, torch.ones_like(errors)]))
    model.train()
    if accelerator.num_processes > 1:  # never on MPS
        sums = cast(Tensor, accelerator.reduce(sums.to(accelerator.device), reduction="sum")).cpu()
    bands = (sums[0] / sums[1]).tolist()
    return {
        "validation_loss": float(sums[0].sum() / sums[1].sum()),
        "validation_loss_by_noise_level": {
            f"{i / LEVEL_BANDS}-{(i + 1) / LEVEL_BANDS}": band for i, band in enumerate(bands) if math.isfinite(band)
        },
    }
