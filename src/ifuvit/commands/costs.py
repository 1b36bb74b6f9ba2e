"""`ifuvit costs`."""

from dataclasses import dataclass, replace
from typing import Any, Literal

from ifuvit.training.scale import ASSUMED_TFLOPS
from ifuvit.utils.command_line import parse
from ifuvit.utils.config import NonNegative, Positive, check, idle
from ifuvit.utils.errors import InputError


@dataclass(frozen=True, kw_only=True)
class CostsConfig:
    """Parameters and GFLOPs (2 x multiply-adds) for one image: of a forward pass, without and with the products of
    attention (the paper's count leaves them out), and of a guided sampling step, plainly as two forward passes and with
    the text encoded once a prompt and the text-free prefix shared by both branches. With --training-memory also the
    memory of a training step on one GPU, counted from the step's operations on tensors without contents, and with --gpus memory
    and days of a training on several.

    Example: ifuvit costs --preset uvit-h-intermediate --gpus 1 8 64
    """

    preset: str | None = None
    """One preset; default: all."""
    n_text: NonNegative[int] | None = None
    """Text blocks instead of the preset's."""
    n_image: NonNegative[int] | tuple[NonNegative[int], NonNegative[int]] | None = None
    """Image-only blocks on each side, or front and back, instead of the preset's."""
    training_memory: bool = False
    """Also count the memory of a training step on one GPU, which takes seconds per preset."""
    batch_size: Positive[int] = 256
    """Images of that step."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """Of that step; bf16 is autocast with fp32 weights."""
    gpus: tuple[Positive[int], ...] = ()
    """Also tell memory and days of a training on so many GPUs, such as 1 8 64, with batch size and precision as above. This counts
    a step for each, which takes seconds, and minutes for models of a billion parameters."""
    steps: Positive[int] = 1_000_000
    """Steps of that training."""
    tflops: Positive[float] = ASSUMED_TFLOPS
    """What each GPU is assumed to do: TFLOP/s of training, without loss by communication."""

    def __post_init__(self) -> None:
        check(self)

    def without_effect(self) -> dict[str, str]:
        """Options that have no effect with the others."""
        step = self.training_memory or self.gpus
        return idle(
            (not step, ("batch_size", "precision"), "without --training-memory or --gpus"),
            (not self.gpus, ("steps", "tflops"), "without --gpus"),
        )


def run(config: CostsConfig) -> dict[str, dict[str, Any]]:
    """The costs by preset name."""
    from ifuvit.model.flops import cost_of
    from ifuvit.model.presets import presets

    if config.preset is not None and config.preset not in presets:
        raise InputError(f"unknown preset {config.preset!r}; the presets are {', '.join(presets)}")
    changes: dict[str, Any] = {
        name: value for name in ("n_text", "n_image") if (value := getattr(config, name)) is not None
    }
    chosen = presets if config.preset is None else {config.preset: presets[config.preset]}
    models = {name: replace(preset, **changes) for name, preset in chosen.items()}
    costs = {name: cost_of(model) for name, model in models.items()}
    if config.training_memory:
        from ifuvit.benchmarks.memory import training_memory

        for name, model in models.items():
            costs[name]["training_memory"] = training_memory(
                model, batch_size=config.batch_size, precision=config.precision
            )
    if config.gpus:
        from ifuvit.benchmarks.memory import on_gpus

        for name, model in models.items():
            costs[name]["gpus"] = {
                str(gpus): on_gpus(
                    model,
                    gpus=gpus,
                    batch_size=config.batch_size,
                    precision=config.precision,
                    steps=config.steps,
                    tflops=config.tflops,
                )
                for gpus in config.gpus
            }
    return costs


CONFIG = CostsConfig


def main(arguments: list[str]) -> dict[str, Any]:
    """Entry point of the command."""
    config = parse(CONFIG, arguments, prog="ifuvit costs")
    costs = run(config)
    width = max(map(len, costs))
    print(f"{'':{width}}  {'parameters':>11}  {'GFLOPs':>8}  {'+ attention':>11}  {'guided step':>11}  {'shared':>8}")
    for name, entry in costs.items():
        gflops, step = entry["gflops"], entry["guided_step_gflops"]
        print(
            f"{name:{width}}  {entry['parameters']:>11,}  {gflops['without_attention']:>8}  "
            f"{gflops['with_attention']:>11}  {step['plain']:>11}  {step['shared']:>8}"
        )
    if config.training_memory:
        from ifuvit.benchmarks.memory import memory_table

        print("", *memory_table(costs), sep="\n")
    if config.gpus:
        from ifuvit.benchmarks.memory import gpus_table

        assumed = f"{config.steps:,} steps at an assumed {config.tflops:g} TFLOP/s a GPU, without loss by communication"
        print("", *gpus_table(costs, assumed), sep="\n")
    return costs
