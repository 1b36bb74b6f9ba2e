"""`ifuvit costs`: parameters and GFLOPs of any setting."""

import json
from dataclasses import dataclass, replace
from typing import Any

from ifuvit.cli import parse
from ifuvit.errors import InputError


@dataclass(frozen=True, kw_only=True)
class CostsConfig:
    """Parameters and GFLOPs (2 x multiply-adds) for one image: of a forward pass, without and with the products of
    attention (the paper's count leaves them out), and of a guided sampling step, done plainly as two forward passes and
    with the text encoded once a prompt and the text-free prefix shared by both branches."""

    preset: str | None = None
    """One preset; default: all."""
    n_text: int | None = None
    """Text blocks instead of the preset's."""
    n_image: int | tuple[int, int] | None = None
    """Image-only blocks a side, or front and back, instead of the preset's."""
    json: bool = False
    """Print JSON."""


def run(config: CostsConfig) -> dict[str, dict[str, Any]]:
    """The costs by preset name."""
    from ifuvit.metrics.cost import cost_of
    from ifuvit.model.presets import presets

    if config.preset is not None and config.preset not in presets:
        raise InputError(f"unknown preset {config.preset!r}; the presets are {', '.join(presets)}")
    changes: dict[str, Any] = {
        name: value for name in ("n_text", "n_image") if (value := getattr(config, name)) is not None
    }
    chosen = presets if config.preset is None else {config.preset: presets[config.preset]}
    return {name: cost_of(replace(preset, **changes)) for name, preset in chosen.items()}


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
