"""The optimizers that a recipe names, over the parameters of a backbone."""

import re

import torch
from torch import nn

from ifuvit.training import muon
from ifuvit.training.config import AdamW, Muon

_IN_BLOCK = re.compile(r"(text_blocks|in_blocks|mid_block|out_blocks)\.")


def make_optimizers(config: AdamW | Muon, model: nn.Module, device: torch.device) -> dict[torch.optim.Optimizer, float]:
    """The optimizers of a model with their peak learning rates: AdamW, and before it Muon where the recipe asks
    for it. Parameters that need no gradient are left out."""
    matrices, rest = [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        # The two factors of an adapter are no matrices of their own.
        is_matrix = parameter.ndim == 2 and _IN_BLOCK.search(name) is not None and "lora_" not in name
        (matrices if isinstance(config, Muon) and is_matrix else rest).append(parameter)
    optimizers: dict[torch.optim.Optimizer, float] = {}
    if isinstance(config, Muon) and matrices:
        matrix_optimizer = muon.Muon(
            matrices,
            lr=config.muon_learning_rate,
            momentum=config.muon_momentum,
            weight_decay=config.muon_weight_decay,
        )
        optimizers[matrix_optimizer] = config.muon_learning_rate
    adamw = torch.optim.AdamW(
        rest,
        lr=config.learning_rate,
        betas=config.betas,
        weight_decay=config.weight_decay,
        fused=device.type in ("cpu", "cuda"),
    )
    return {**optimizers, adamw: config.learning_rate}
