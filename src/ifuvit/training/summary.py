"""The run summary before the first step: what is trained, on what, and how long it will take."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ifuvit.diffusion.objective import AnyObjective
from ifuvit.encoders.normalization import LatentNormalization
from ifuvit.model import flops as cost
from ifuvit.model.settings import IFUViTConfig
from ifuvit.training.config import Muon, TrainConfig
from ifuvit.training.scale import ASSUMED_TFLOPS, state_bytes, training_days
from ifuvit.utils.devices import peak_memory

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ifuvit.data.encoded import EncodedDataset
    from ifuvit.training.batches import Batches


def trial(
    accelerator: "Accelerator",
    model: nn.Module,
    batches: "Batches",
    loss_of: Callable[[Mapping[str, Tensor]], Tensor],
    parts: int,
) -> dict[str, float]:
    """Time one forward and backward pass of a micro-batch (on a CPU of 8 images at most), without an update.

    Args:
        loss_of: the loss of a micro-batch.
        parts: micro-batches a step.

    Returns:
        "seconds" a step takes by that, the most "memory" in use so far (bytes), and the number of "images".
    """
    batch = {name: tensor.chunk(parts)[0] for name, tensor in batches[0].items()}
    whole = len(batch["latents"])
    if accelerator.device.type == "cpu":
        batch = {name: tensor[:8] for name, tensor in batch.items()}
    batch = {name: tensor.to(accelerator.device) for name, tensor in batch.items()}
    elapsed = math.inf
    for _ in range(3):
        begun = time.monotonic()
        accelerator.backward(loss_of(batch))
        if accelerator.device.type == "cuda":
            torch.cuda.synchronize()
        elapsed = min(elapsed, time.monotonic() - begun)
    model.zero_grad(set_to_none=True)
    return {
        "seconds": elapsed * parts * whole / len(batch["latents"]),
        "memory": peak_memory(accelerator.device),
        "images": len(batch["latents"]),
    }


def run_summary(
    config: TrainConfig,
    dataset: "EncodedDataset",
    images: int,
    accelerator: "Accelerator",
    step: int,
    trial: Mapping[str, float],
    *,
    normalization: tuple[LatentNormalization, str],
    loaded: Mapping[str, Sequence[str]] | None,
) -> str:
    """The rows of the summary.

    Args:
        images: how many are trained on.
        step: steps done before.
        trial: of `trial`.
        normalization: of the run's latents, and where it is from.
        loaded: of `ifuvit.training.inputs.initialize`, if the run starts from another model.
    """
    recipe, model = config.recipe, config.recipe.model
    batch_size = recipe.batches.batch_size
    count, flops = cost.parameters(model), cost.forward_flops(model)
    left = config.steps - step
    sharded = ", sharded (FSDP2)" if accelerator.is_fsdp2 else ""
    state = state_bytes(model, gpus=accelerator.num_processes if accelerator.is_fsdp2 else 1)
    rates = f"{recipe.optimizer.learning_rate:g}"
    if isinstance(recipe.optimizer, Muon):
        rates = f"{recipe.optimizer.muon_learning_rate:g} (AdamW {rates})"
    values, source = normalization
    rows = [
        ("model", f"{model.conditioning}, [n_text, n_image] = [{model.n_text}, {model.n_image}]; {count:,} parameters"),
        ("GFLOPs", f"{flops.layers / 1e9:.2f} a forward pass, {flops.total / 1e9:.2f} with attention products; "
                   f"{cost.training_flops(model, batch_size) / 1e9:,.0f} a training step"),
        ("objective", _settings(recipe.objective)),
        ("optimizer", f"{recipe.optimizer.name}, learning rate {rates}"),
        ("data", f"{images:,} images, {dataset.caption_count:,} distinct captions, {dataset.text_mode}; "
                 f"{config.steps * batch_size / images:.1f} epochs"),
        ("latents", f"mean {_numbers(values.mean)}, scale {_numbers(values.scale)} ({source})"),
        ("steps", f"{step:,} of {config.steps:,} done, {batch_size} images each"
                  f" ({config.steps * batch_size:,} samples)"),
        ("processes", f"{accelerator.num_processes} on {accelerator.device.type}{sharded}, {recipe.start.precision}"),
        ("memory", f"{state / 2**30:.2f} GiB of weights, gradients, optimizer and average; "
                   f"{trial['memory'] / 2**30:.2f} GiB in use at a trial with {trial['images']:.0f} images"),
        ("time", f"about {_duration(trial['seconds'] * left)} for the {left:,} steps left "
                 f"({trial['seconds']:.3g} s a step in a trial on this machine, validation, evaluation and samples not counted)"),
        ("out", str(config.out)),
    ]  # fmt: skip
    if config.dry_run:
        rows.insert(-1, ("GPUs", _on_gpus(model, batch_size, left)))
    if loaded is not None:
        rows.append(("init from", f"{recipe.start.init_from}: {len(loaded['loaded'])} tensors loaded; "
                                  f"new: {_some(loaded['new'])}; not used: {_some(loaded['unused'])}"))  # fmt: skip
    return "\n".join(f"{name:>10}  {text}" for name, text in rows)


def _on_gpus(model: IFUViTConfig, batch_size: int, steps: int) -> str:
    """Days and memory of the state on 1, 8 and 64 GPUs."""
    told = []
    for gpus in (1, 8, 64):
        seconds = 86_400 * training_days(model, batch_size=batch_size, steps=steps, gpus=gpus)
        told.append(f"{gpus}: {_duration(seconds)}, {state_bytes(model, gpus=gpus) / 2**30:.2f} GiB")
    return (
        f"{'; '.join(told)} (state sharded by FSDP2, without activations; at an assumed {ASSUMED_TFLOPS:g} TFLOP/s each and no "
        "loss by communication; `ifuvit costs --gpus` counts activations)"
    )


def _settings(objective: AnyObjective) -> str:
    """Its name, and the settings that are not the default ones."""
    default = type(objective)()
    changed = [
        f"{field.name} {getattr(objective, field.name)}"
        for field in fields(objective)
        if getattr(objective, field.name) != getattr(default, field.name)
    ]
    return ", ".join([objective.name, *changed])


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.4g}" for value in values)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "") if names else "none"


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 100:
        return f"{minutes:.0f} minutes" if minutes >= 2 else f"{seconds:.0f} seconds"
    return f"{minutes / 60:.1f} hours" if minutes < 60 * 72 else f"{minutes / 1440:.1f} days"
