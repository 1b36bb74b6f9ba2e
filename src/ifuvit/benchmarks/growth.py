"""How a step's time grows with image tokens, text tokens and depth, beside the operations that are counted for it."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ifuvit.benchmarks.results import row
from ifuvit.benchmarks.sampling import sampling_cases
from ifuvit.benchmarks.timing import Case, Rules, Timing, compete, median_interval, quartiles
from ifuvit.benchmarks.training import random_batch, step_config, training_cases
from ifuvit.model.settings import IFUViTConfig
from ifuvit.utils.errors import InputError

if TYPE_CHECKING:
    from accelerate import Accelerator

Axis = Literal["image-tokens", "text-tokens", "depth"]
Kind = Literal["train", "sample"]

_LEAST_RANGE = 1.5
"""Operations that grow less than this many times tell no exponent."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A setting with one of its sizes changed."""

    setting: str
    value: int
    """Image tokens (patches), text tokens or depth."""
    config: IFUViTConfig

    @property
    def name(self) -> str:
        return f"{self.setting}, {self.value}"


def points(configs: Mapping[str, IFUViTConfig], axis: Axis, values: Sequence[int]) -> dict[str, list[Point]]:
    """Each setting with `values` and its own value on an axis, ascending.

    Raises:
        InputError: a value that cannot be.
    """
    return {
        name: [
            Point(setting=name, value=value, config=changed(config, axis, value))
            for value in sorted({*values, own(config, axis)})
        ]
        for name, config in configs.items()
    }


def own(config: IFUViTConfig, axis: Axis) -> int:
    """Where a setting stands on an axis."""
    if axis == "image-tokens":
        return config.num_patches
    return config.text_tokens if axis == "text-tokens" else config.depth


def changed(config: IFUViTConfig, axis: Axis, value: int) -> IFUViTConfig:
    """A setting with another value on an axis. A deeper one has more image-only blocks and as many fused ones (as U-ViT
    Deep's in the paper), unless all its blocks are fused.

    Raises:
        InputError: image tokens that are no square, or a setting that cannot be.
    """
    if axis == "text-tokens":
        return replace(config, text_tokens=value)
    if axis == "depth":
        more = (value - config.depth) // 2
        image_only = config.image_only if config.image_only == (0, 0) else tuple(n + more for n in config.image_only)
        if min(image_only) < 0:
            raise InputError(f"--depth {value}: fewer blocks than the {config.num_fused} fused ones of the setting")
        return replace(config, depth=value, n_image=image_only)
    side = math.isqrt(max(value, 0))
    if side**2 != value:
        raise InputError(f"--image-tokens {value}: not a square, as 64, 144 and 256 are")
    return replace(config, latent_size=side * config.patch_size)


def measure_growth(
    configs: Mapping[str, IFUViTConfig],
    axis: Axis,
    values: Sequence[int],
    kind: Kind,
    batch_size: int,
    rules: Rules,
    accelerator: "Accelerator",
    *,
    seed: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Time the steps of settings at several values of an axis against each other, and see how time grows with operations.

    Args:
        configs: settings by name.
        values: beside each setting's own.
        kind: training steps, or steps of guided sampling as the pipeline takes them.
        accelerator: says where, and in which precision.
        clock: seconds since some moment.

    Returns:
        {"peak": None, "rows", "growth"}: rows as of other benchmarks; and by setting its points relative to its own
        value in the same round, with the exponent e of seconds ~ FLOPs ^ e over all of them (least squares of logarithms
        in every round); None where operations hardly change.
    """
    by_setting = points(configs, axis, values)
    cases = {
        point.name: _contestant(point, kind, batch_size, accelerator, seed)
        for several in by_setting.values()
        for point in several
    }
    timings = compete(list(cases.values()), rules, accelerator.device, clock=clock)
    return {
        "peak": None,
        "rows": [row(case, timings) for case in cases.values()],
        "growth": {
            "axis": axis,
            "kind": kind,
            "settings": {
                name: _growth(several, own(configs[name], axis), cases, timings) for name, several in by_setting.items()
            },
        },
    }


def _contestant(point: Point, kind: Kind, batch_size: int, accelerator: "Accelerator", seed: int) -> Case:
    """The case of `ifuvit bench train` or `sample`, with a batch of its own shape."""
    batch = random_batch(point.config, batch_size, seed=seed, device=accelerator.device)
    if kind == "train":
        config = step_config(point.config, batch_size=batch_size, seed=seed)
        (case,) = training_cases({point.name: config}, None, batch, accelerator)
        return case
    several = sampling_cases({point.name: point.config}, None, batch, accelerator, seed=seed)
    shared = next(one for one in several if one.name == f"{point.name}, shared")
    return replace(shared, name=point.name, base=None)


def _growth(
    several: Sequence[Point], at: int, cases: Mapping[str, Case], timings: Mapping[str, Timing]
) -> dict[str, Any]:
    """One setting's points relative to the one with value `at`, and the exponent."""
    flops = np.array([cases[point.name].flops for point in several], np.float64)
    seconds = np.array([timings[point.name].seconds for point in several])  # (points, rounds)
    place = [point.value for point in several].index(at)
    ratios = seconds / seconds[place]
    enough = flops.max() >= _LEAST_RANGE * flops.min()
    exponents = np.polyfit(np.log(flops), np.log(seconds), 1)[0] if enough else None
    return {
        "at": at,
        "points": [
            {
                "value": point.value,
                "flops": flops[index],
                "relative_flops": flops[index] / flops[place],
                "relative_seconds": _over_rounds(ratios[index]),
            }
            for index, point in enumerate(several)
        ],
        "exponent": None if exponents is None else _over_rounds(exponents),
    }


def _over_rounds(values: np.ndarray) -> dict[str, Any]:
    """The median over rounds with its interval, as results hold it."""
    interval = median_interval(values.tolist())
    return {
        "value": median(values.tolist()),
        "quartiles": list(quartiles(values.tolist())),
        "interval": None if interval is None else list(interval),
        "interval_from": "order statistics over rounds",
        "n": len(values),
    }
