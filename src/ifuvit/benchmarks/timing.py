"""Cases side by side: every round gives each of them a turn, so that drift of the machine hits all alike.

A turn is one step that is not timed, then as many as fill the turn between two synchronizations. The untimed step
brings back what the others have displaced: in a real run a case follows on itself. The order is reversed from round
to round (A B C, C B A, ...), so a machine that slows down steadily favors nobody.
"""

import gc
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch

from ifuvit.utils.devices import peak_memory
from ifuvit.utils.errors import InputError

Step = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Case:
    """Something that is timed."""

    name: str
    prepare: Callable[[], Step]
    """Makes the step that is timed. What it allocates counts as the case's memory."""
    items: int
    """How many images, or whatever `unit` says, a step deals with."""
    unit: str = "images"
    flops: float | None = None
    """Floating point operations a step, if they are known."""
    base: str | None = None
    """Name of the case that this one is compared with."""
    within: Callable[[], AbstractContextManager[object]] = nullcontext
    """A context that holds for a whole turn."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How long is measured."""

    rounds: int = 10
    """Turns of every case."""
    warmup: int = 3
    """Steps of every case before the first round."""
    turn_seconds: float = 0.2
    """Time that the steps of a turn fill at least."""

    def __post_init__(self) -> None:
        for name, least in (("rounds", 1), ("warmup", 2)):
            if getattr(self, name) < least:
                raise InputError(f"--{name} {getattr(self, name)}: must be at least {least}")
        if not 0 <= self.turn_seconds < math.inf:
            raise InputError(f"--turn-seconds {self.turn_seconds}: must be a number, not negative")


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What the rounds gave for one case."""

    seconds: tuple[float, ...]
    """Seconds a step, a number for each round."""
    steps: int
    """Timed steps a turn."""
    peak_memory: int | None
    """Bytes on the GPU: what the case holds, and the most that a step adds. None without a GPU, where the memory of
    one case cannot be told from the others'."""

    @property
    def median(self) -> float:
        return median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        return quartiles(self.seconds)


def compete(
    cases: Sequence[Case],
    rules: Rules,
    device: torch.device,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Time cases against each other.

    Args:
        cases: of different names.
        rules: how long.
        device: where they compute; it is waited for before the clock is read.
        clock: seconds since some moment.

    Returns:
        a timing for each, by name, in the order of `cases`.
    """
    from tqdm import tqdm

    assert len({case.name for case in cases}) == len(cases) > 0

    def timed(step: Step, steps: int) -> float:
        """Seconds a step."""
        synchronize(device)
        begun = clock()
        for _ in range(steps):
            step()
        synchronize(device)
        return (clock() - begun) / steps

    gc.collect()  # models of an earlier contest, which may be in cycles
    ready: list[tuple[Case, Step, int]] = []
    memory: dict[str, int | None] = {}
    for case in cases:
        before = _allocated(device)
        with case.within():
            step = case.prepare()
            for _ in range(rules.warmup - 1):
                step()
            memory[case.name] = _memory(step, before, device)
            steps = max(1, math.ceil(rules.turn_seconds / max(timed(step, 1), 1e-9)))
        ready.append((case, step, steps))

    seconds: dict[str, list[float]] = {case.name: [] for case in cases}
    with tqdm(total=rules.rounds * len(ready), desc="turns", disable=None) as bar:  # a bar on a terminal only
        for number in range(rules.rounds):
            for case, step, steps in ready if number % 2 == 0 else ready[::-1]:
                with case.within():
                    step()
                    seconds[case.name].append(timed(step, steps))
                bar.update()
    return {
        case.name: Timing(seconds=tuple(seconds[case.name]), steps=steps, peak_memory=memory[case.name])
        for case, _, steps in ready
    }


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was told."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _allocated(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def _memory(step: Step, before: int, device: torch.device) -> int | None:
    """Bytes that are in use at most during a step, less those that were allocated `before` the case was prepared."""
    if device.type != "cuda":
        step()
        return None
    synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    step()
    synchronize(device)
    return peak_memory(device) - before


def speedup(timing: Timing, base: Timing) -> dict[str, Any]:
    """How many times as fast as `base`: the median over rounds of base's seconds over the case's in that round.

    Returns:
        {"value", "quartiles", "interval", "interval_from", "n"}; the interval is None below six rounds.
    """
    ratios = [theirs / mine for mine, theirs in zip(timing.seconds, base.seconds, strict=True)]
    interval = median_interval(ratios)
    return {
        "value": median(ratios),
        "quartiles": list(quartiles(ratios)),
        "interval": None if interval is None else list(interval),
        "interval_from": "order statistics over rounds",
        "n": len(ratios),
    }


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """The lower and the upper quartile, interpolated linearly."""
    low, high = np.quantile(np.asarray(values, np.float64), (0.25, 0.75))
    return float(low), float(high)


def median_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """An interval that holds the median of what `values` were drawn from with at least 95 %, whatever its distribution: from
    the k-th smallest to the k-th largest value. (The median lies outside when fewer than k values are on one side of it,
    and how many there are is binomial.) None for fewer than six values, which cannot tell."""
    n, k, tail = len(values), 0, 0.5 ** len(values)
    while tail <= 0.025:
        k += 1
        tail += math.comb(n, k) * 0.5**n
    ordered = sorted(values)
    return (ordered[k - 1], ordered[n - k]) if k else None
