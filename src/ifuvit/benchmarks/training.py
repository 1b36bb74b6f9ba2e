"""Training steps: this package's, as `ifuvit train` takes them, and U-ViT's."""

from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ifuvit.benchmarks import reference as uvit
from ifuvit.benchmarks.reference import as_uvit
from ifuvit.benchmarks.timing import Case, Step
from ifuvit.model.flops import forward_flops
from ifuvit.model.settings import IFUViTConfig
from ifuvit.model.uvit import IFUViT
from ifuvit.training.config import DataConfig, Recipe, TrainConfig
from ifuvit.training.step import TrainingStep
from ifuvit.utils.config import set_fields

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ifuvit.benchmarks.reference import Reference


def random_batch(config: IFUViTConfig, batch_size: int, *, seed: int, device: torch.device) -> dict[str, Tensor]:
    """A batch as `ifuvit.training.batches.Batches` gives it from features with text embeddings, of random numbers. What the
    numbers are does not change how long a step takes."""
    c, draw = config, torch.Generator().manual_seed(seed)
    shape = (batch_size, c.latent_channels, c.latent_size, c.latent_size)
    batch = {
        "latents": torch.randn(shape, generator=draw),
        "noise": torch.randn(shape, generator=draw),
        "uniform": torch.rand(batch_size, generator=draw),
        "text_embeddings": torch.randn(batch_size, c.text_tokens, c.text_width, generator=draw).half(),
        "text_mask": torch.rand(batch_size, c.text_tokens, generator=draw) < 0.5,
    }
    return {name: tensor.to(device) for name, tensor in batch.items()}


def step_config(model: IFUViTConfig, **settings: Any) -> TrainConfig:
    """The paper's recipe for a model, with some fields of any section set; for steps on a `random_batch`."""
    config = TrainConfig(data=DataConfig(data=Path()), out=Path(), recipe=Recipe(model=model))
    return set_fields(config, **settings)


def training_cases(
    configs: Mapping[str, TrainConfig],
    reference: "Reference | None",
    batch: Mapping[str, Tensor],
    accelerator: "Accelerator",
) -> list[Case]:
    """U-ViT's own training step, if there is a checkout, and that of each configuration, all on the same batch. They are compared
    with U-ViT's, or with the first configuration's.

    Args:
        configs: by name; all models of one size.
        batch: on the accelerator's device.
        accelerator: says which precision.
    """
    images = len(batch["latents"])
    first = next(iter(configs))
    base = first if reference is None else uvit.NAME

    def ours(config: TrainConfig) -> Step:
        torch.manual_seed(config.recipe.start.seed)
        step, steps = TrainingStep(config, IFUViT(config.recipe.model), accelerator), count()
        step.model.train()
        return lambda: step(batch, next(steps))

    cases = [
        Case(
            name=name,
            prepare=lambda config=config: ours(config),
            items=images,
            flops=training_flops(config.recipe.model, images),
            base=None if name == base else base,
        )
        for name, config in configs.items()
    ]
    if reference is not None:
        size = as_uvit(configs[first].recipe.model)

        def theirs() -> Step:
            step = uvit.ReferenceStep(reference.build(size).train(), accelerator)
            return lambda: step(batch)

        flops = training_flops(size, images)
        cases.insert(0, Case(name=uvit.NAME, prepare=theirs, items=images, flops=flops))
    return cases


def training_flops(config: IFUViTConfig, images: int) -> float:
    """A forward pass, and twice as much for the gradients of inputs and of weights."""
    return 3.0 * forward_flops(config).total * images
