"""How a step's time scales with image tokens, text tokens and depth, next to the operations that are counted for it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from ifuvit.benchmarks.comparison import timed_case
from ifuvit.benchmarks.config import BenchScalingConfig, preset_models
from ifuvit.benchmarks.machine import make_accelerator
from ifuvit.benchmarks.sampling import sampling_cases
from ifuvit.benchmarks.timing import BenchmarkCase, Timing, over_rounds, time_cases
from ifuvit.benchmarks.training import random_batch, step_config, training_cases
from ifuvit.model.settings import IFUViTConfig
from ifuvit.results import Comparison, Scaling, ScalingPoint, ScalingSeries
from ifuvit.utils.errors import InputError

if TYPE_CHECKING:
    from accelerate import Accelerator

Axis = Literal["image-tokens", "text-tokens", "depth"]
Steps = Literal["train", "sample"]

_LEAST_RANGE = 1.5
"""There is no exponent where operations grow less than this many times."""
_TITLES = {"train": "training steps", "sample": "guided sampling steps"}


@dataclass(frozen=True, kw_only=True)
class Point:
    """A setting with one of its sizes changed."""

    setting: str
    value: int
    """Image tokens (patches), text tokens or depth."""
    model: IFUViTConfig

    @property
    def name(self) -> str:
        return f"{self.setting}, {self.value}"


def bench_scaling(config: BenchScalingConfig, device: torch.device) -> dict[str, Comparison]:
    """Time steps of settings at several values of each axis, in one precision after the other."""
    models = preset_models(config.settings)
    values = {"image-tokens": config.image_tokens, "text-tokens": config.text_tokens, "depth": config.depth}
    chosen = {axis: points(models, axis, values[axis]) for axis in config.axis}  # refuses all mistakes before timing
    comparisons = {}
    for precision in config.precision:
        accelerator = make_accelerator(precision, device)
        for steps in config.steps:
            for axis in config.axis:
                title = f"{_TITLES[steps]} by {axis.replace('-', ' ')}, {precision}"
                comparisons[title] = compare_points(chosen[axis], models, axis, steps, config, accelerator)
    return comparisons


def points(models: Mapping[str, IFUViTConfig], axis: Axis, values: Sequence[int]) -> dict[str, list[Point]]:
    """Each setting with `values` and its own value on an axis, ascending.

    Raises:
        InputError: an impossible value.
    """
    return {
        name: [
            Point(setting=name, value=value, model=changed(model, axis, value))
            for value in sorted({*values, own(model, axis)})
        ]
        for name, model in models.items()
    }


def own(model: IFUViTConfig, axis: Axis) -> int:
    """A setting's own value on an axis."""
    if axis == "image-tokens":
        return model.num_patches
    return model.text_tokens if axis == "text-tokens" else model.depth


def changed(model: IFUViTConfig, axis: Axis, value: int) -> IFUViTConfig:
    """A setting with another value on an axis. A deeper one has more image-only blocks and as many fused ones (as U-ViT
    Deep's in the paper), unless all its blocks are fused.

    Raises:
        InputError: image tokens that are no square, or an impossible setting.
    """
    if axis == "text-tokens":
        return replace(model, text_tokens=value)
    if axis == "depth":
        more = (value - model.depth) // 2
        image_only = model.image_only if model.image_only == (0, 0) else tuple(n + more for n in model.image_only)
        if min(image_only) < 0:
            raise InputError(f"--depth {value}: fewer blocks than the {model.num_fused} fused ones of the setting")
        return replace(model, depth=value, n_image=image_only)
    side = math.isqrt(value)
    if side**2 != value:
        raise InputError(f"--image-tokens {value}: not a square, as 64, 144 and 256 are")
    return replace(model, latent_size=side * model.patch_size)


def compare_points(
    chosen: Mapping[str, Sequence[Point]],
    models: Mapping[str, IFUViTConfig],
    axis: Axis,
    steps: Steps,
    config: BenchScalingConfig,
    accelerator: "Accelerator",
) -> Comparison:
    """Time all points of an axis in the same rounds.

    Args:
        chosen: points by setting.
        models: the settings themselves.
        steps: of training, or of guided sampling as the pipeline takes them.
        accelerator: says where, and in which precision.

    Returns:
        rows, and by setting its points relative to its own value in the same round, with the exponent e of seconds ~
        FLOPs ^ e over all of them (least squares of logarithms in every round).
    """
    cases = {
        point.name: _case(point, steps, config.batch_size, accelerator, config.seed)
        for several in chosen.values()
        for point in several
    }
    timings = time_cases(list(cases.values()), config, accelerator.device)
    settings = {name: series(several, own(models[name], axis), cases, timings) for name, several in chosen.items()}
    return Comparison(
        rows=tuple(timed_case(case, timings) for case in cases.values()),
        scaling=Scaling(axis=axis, steps=steps, settings=settings),
    )


def _case(point: Point, steps: Steps, batch_size: int, accelerator: "Accelerator", seed: int) -> BenchmarkCase:
    """The case of `ifuvit bench train` or `sample`, with a batch of its own shape."""
    batch = random_batch(point.model, batch_size, seed=seed, device=accelerator.device)
    if steps == "train":
        run = step_config(point.model, batch_size=batch_size, seed=seed)
        (case,) = training_cases({point.name: run}, None, batch, accelerator)
        return case
    several = sampling_cases({point.name: point.model}, None, batch, accelerator, seed=seed)
    shared = next(one for one in several if one.name == f"{point.name}, shared")
    return replace(shared, name=point.name, base=None)


def series(
    several: Sequence[Point], at: int, cases: Mapping[str, BenchmarkCase], timings: Mapping[str, Timing]
) -> ScalingSeries:
    """One setting's points relative to the one with value `at`, and the exponent."""
    flops = np.array([cases[point.name].flops for point in several], np.float64)
    seconds = np.array([timings[point.name].seconds for point in several])  # (points, rounds)
    place = [point.value for point in several].index(at)
    ratios = seconds / seconds[place]
    enough = flops.max() >= _LEAST_RANGE * flops.min()
    return ScalingSeries(
        at=at,
        points=tuple(
            ScalingPoint(
                value=point.value,
                flops=float(flops[index]),
                relative_flops=float(flops[index] / flops[place]),
                relative_seconds=over_rounds(ratios[index].tolist()),
            )
            for index, point in enumerate(several)
        ),
        exponent=over_rounds(np.polyfit(np.log(flops), np.log(seconds), 1)[0].tolist()) if enough else None,
    )
