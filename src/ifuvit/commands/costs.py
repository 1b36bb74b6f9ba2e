"""`ifuvit costs`: parameters and GFLOPs of any setting."""

import json
from dataclasses import dataclass, replace
from typing import Any, Literal

from ifuvit.utils.command_line import parse
from ifuvit.utils.errors import InputError


@dataclass(frozen=True, kw_only=True)
class CostsConfig:
    """Parameters and GFLOPs (2 x multiply-adds) for one image: of a forward pass, without and with the products of
    attention (the paper's count leaves them out), and of a guided sampling step, done plainly as two forward passes and
    with the text encoded once a prompt and the text-free prefix shared by both branches. With --training-memory also the
    memory of a training step on one GPU: counted from what the step's operations make, on tensors without contents."""

    preset: str | None = None
    """One preset; default: all."""
    n_text: int | None = None
    """Text blocks instead of the preset's."""
    n_image: int | tuple[int, int] | None = None
    """Image-only blocks a side, or front and back, instead of the preset's."""
    training_memory: bool = False
    """Also count the memory of a training step on one GPU, which takes seconds a preset."""
    batch_size: int = 256
    """Images of that step."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """Of that step; bf16 is autocast with fp32 weights."""
    json: bool = False
    """Print JSON."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"--batch-size {self.batch_size}: must be at least 1")


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
    return costs


def memory_table(costs: dict[str, dict[str, Any]]) -> list[str]:
    """The memory of training steps in GiB, as text."""
    parts = ("weights", "gradients", "optimizer", "average", "activations", "peak")
    width = max(map(len, costs))
    first = next(iter(costs.values()))["training_memory"]
    lines = [
        f"GiB of a training step, batch {first['batch_size']}, {first['precision']}; the second line of each with "
        "--gradient-checkpointing",
        f"{'':{width}}  {'weights':>9}  {'gradients':>9}  {'AdamW':>9}  {'average':>9}  {'activations':>11}  {'peak':>9}",
    ]
    for name, entry in costs.items():
        for way in ("plain", "checkpointed"):
            numbers = [f"{entry['training_memory'][way][part] / 2**30:.3f}" for part in parts]
            shown = "  ".join(f"{number:>{11 if part == 'activations' else 9}}" for part, number in zip(parts, numbers))
            lines.append(f"{name if way == 'plain' else '':{width}}  {shown}")
    return lines


def main(arguments: list[str]) -> None:
    config = parse(CostsConfig, arguments, prog="ifuvit costs")
    costs = run(config)
    if config.json:
        print(json.dumps(costs, indent=2))
        return
    width = max(map(len, costs))
    print(f"{'':{width}}  {'parameters':>11}  {'GFLOPs':>8}  {'+ attention':>11}  {'guided step':>11}  {'shared':>8}")
    for name, entry in costs.items():
        gflops, step = entry["gflops"], entry["guided_step_gflops"]
        print(
            f"{name:{width}}  {entry['parameters']:>11,}  {gflops['without_attention']:>8}  "
            f"{gflops['with_attention']:>11}  {step['plain']:>11}  {step['shared']:>8}"
        )
    if config.training_memory:
        print("", *memory_table(costs), sep="\n")
