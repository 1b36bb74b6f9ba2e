"""Training steps: this package's, as `ifuvit train` takes them, and U-ViT's."""

from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ifuvit.benchmarks import reference as uvit
from ifuvit.benchmarks.comparison import compare_models
from ifuvit.benchmarks.config import BenchTrainConfig, preset_models
from ifuvit.benchmarks.machine import make_accelerator
from ifuvit.benchmarks.timing import BenchmarkCase, Step
from ifuvit.model.flops import training_flops
from ifuvit.model.settings import IFUViTConfig, as_uvit
from ifuvit.model.uvit import IFUViT
from ifuvit.results import Comparison
from ifuvit.training.config import DataConfig, Recipe, TrainConfig, default_config
from ifuvit.training.step import TrainingStep
from ifuvit.utils.config import set_fields

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ifuvit.benchmarks.reference import Reference


def bench_train(config: BenchTrainConfig, reference: "Reference | None", device: torch.device) -> dict[str, Comparison]:
    """Time training steps of presets, in one precision after the other."""
    models = preset_models(config.settings)
    batch = random_batch(next(iter(models.values())), config.batch_size, seed=config.seed, device=device)
    comparisons = {}
    for precision in config.precision:
        accelerator = make_accelerator(precision, device)
        changes = {"batch_size": config.batch_size, "precision": precision, "seed": config.seed}
        runs = {name: default_config(name, compile=config.compile, **changes) for name in models}
        comparisons[precision] = compare_models(
            training_cases(runs, reference, batch, accelerator),
            models.values(),
            config,
            device,
            precision=precision,
            training=True,
            differences=uvit.differences_from_uvit(models, reference, batch, accelerator),
        )
    return comparisons


def random_batch(config: IFUViTConfig, batch_size: int, *, seed: int, device: torch.device) -> dict[str, Tensor]:
    """A batch of random numbers as `ifuvit.training.batches.Batches` gives it from a data set with text embeddings. The
    values do not change how long a step takes."""
    c, draw = config, torch.Generator().manual_seed(seed)
    shape = (batch_size, c.latent_channels, c.latent_size, c.latent_size)
    batch = {
        "latents": torch.randn(shape, generator=draw),
        "noise": torch.randn(shape, generator=draw),
        "uniform": torch.rand(batch_size, generator=draw),
        "text_embeddings": torch.randn(batch_size, c.text_tokens, c.text_width, generator=draw).half(),
        "dropped": torch.zeros(batch_size, dtype=torch.bool),
        "text_mask": torch.rand(batch_size, c.text_tokens, generator=draw) < 0.5,
    }
    return {name: tensor.to(device) for name, tensor in batch.items()}


def step_config(model: IFUViTConfig, **settings: Any) -> TrainConfig:
    """The paper's recipe for a model, with some fields of any section set; for steps on a `random_batch`."""
    config = TrainConfig(data=DataConfig(data=Path()), out=Path(), recipe=Recipe(model=model))
    return set_fields(config, **settings)


def training_cases(
    runs: Mapping[str, TrainConfig],
    reference: "Reference | None",
    batch: Mapping[str, Tensor],
    accelerator: "Accelerator",
) -> list[BenchmarkCase]:
    """U-ViT's own training step, if there is a checkout, and that of each run, all on the same batch. They are compared
    with U-ViT's, or with the first run's.

    Args:
        runs: training configurations by name; all models of one size.
        batch: on the accelerator's device.
        accelerator: says which precision.
    """
    images = len(batch["latents"])
    first = next(iter(runs))
    base = first if reference is None else uvit.NAME

    def ours(run: TrainConfig) -> Step:
        torch.manual_seed(run.recipe.start.seed)
        step, steps = TrainingStep(run, IFUViT(run.recipe.model), accelerator), count()
        step.model.train()
        return lambda: step(batch, next(steps))

    cases = [
        BenchmarkCase(
            name=name,
            prepare=lambda run=run: ours(run),
            items=images,
            flops=training_flops(run.recipe.model, images),
            base=None if name == base else base,
        )
        for name, run in runs.items()
    ]
    if reference is not None:
        size = as_uvit(runs[first].recipe.model)

        def theirs() -> Step:
            step = uvit.ReferenceStep(reference.build(size).train(), accelerator)
            return lambda: step(batch)

        flops = training_flops(size, images)
        cases.insert(0, BenchmarkCase(name=uvit.NAME, prepare=theirs, items=images, flops=flops))
    return cases
