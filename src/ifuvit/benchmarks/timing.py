"""Benchmark cases in interleaved rounds: each round runs every case, so that drift of the machine hits all alike.

In a round a case takes one step that is not timed, then as many as fill the time between two synchronizations of the device.
The untimed step brings back into the caches what the other cases have displaced. The order is reversed from round to round
(A B C, C B A, ...), so a machine that slows down steadily favors no case.
"""

import gc
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch

from ifuvit.benchmarks.config import TimingConfig
from ifuvit.results import Ratio, Speedup
from ifuvit.utils.devices import peak_memory

Step = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class BenchmarkCase:
    """Something that is timed."""

    name: str
    prepare: Callable[[], Step]
    """Makes the step that is timed. What it allocates counts as the case's memory."""
    items: int
    """Images of a step."""
    flops: float | None = None
    """Floating point operations of a step, if they are known."""
    base: str | None = None
    """Name of the case that this one is compared with."""
    within: Callable[[], AbstractContextManager[object]] = nullcontext
    """A context around all steps of a round."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What the rounds gave for one case."""

    seconds: tuple[float, ...]
    """Seconds of a step, one number per round."""
    steps: int
    """Timed steps of a round."""
    peak_memory: int | None
    """Bytes on the GPU: what the case holds, and the most that a step adds. None without a GPU, where the memory of
    one case cannot be told from the others'."""

    @property
    def median(self) -> float:
        return median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        return quartiles(self.seconds)


def time_cases(
    cases: Sequence[BenchmarkCase],
    config: TimingConfig,
    device: torch.device,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Time cases in interleaved rounds.

    Args:
        cases: of different names.
        config: how long.
        device: where they compute; it is synchronized before the clock is read.
        clock: seconds since some moment.

    Returns:
        a timing for each, by name, in the order of `cases`.
    """
    from tqdm import tqdm

    assert len({case.name for case in cases}) == len(cases) > 0

    def timed(step: Step, steps: int) -> float:
        """Seconds of a step."""
        synchronize(device)
        begun = clock()
        for _ in range(steps):
            step()
        synchronize(device)
        return (clock() - begun) / steps

    gc.collect()  # models of earlier cases, which may be in cycles
    ready: list[tuple[BenchmarkCase, Step, int]] = []
    memory: dict[str, int | None] = {}
    for case in cases:
        before = _allocated(device)
        with case.within():
            step = case.prepare()
            for _ in range(config.warmup - 1):
                step()
            memory[case.name] = _memory(step, before, device)
            steps = max(1, math.ceil(config.min_seconds / max(timed(step, 1), 1e-9)))
        ready.append((case, step, steps))

    seconds: dict[str, list[float]] = {case.name: [] for case in cases}
    with tqdm(total=config.rounds * len(ready), desc="rounds x cases", disable=None) as bar:  # on a terminal only
        for number in range(config.rounds):
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
    """Wait until the device has finished its work."""
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


def speedup(timing: Timing, base: Timing, over: str) -> Speedup:
    """How many times as fast as `base`, which is called `over`: the median over rounds of base's seconds over the case's
    in the same round."""
    ratios = [theirs / mine for mine, theirs in zip(timing.seconds, base.seconds, strict=True)]
    return Speedup(**vars(over_rounds(ratios)), over=over)


def over_rounds(values: Sequence[float]) -> Ratio:
    """The median of one ratio per round, with its interval from six rounds on."""
    return Ratio(
        value=median(values),
        quartiles=quartiles(values),
        interval=median_interval(values),
        interval_from="order statistics over rounds",
        n=len(values),
    )


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """The lower and the upper quartile, interpolated linearly."""
    low, high = np.quantile(np.asarray(values, np.float64), (0.25, 0.75))
    return float(low), float(high)


def median_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """An interval that holds the median of what `values` were drawn from with at least 95 %, whatever its distribution: from
    the k-th smallest to the k-th largest value. (The median lies outside when fewer than k values are on one side of it,
    and how many there are is binomial.) None for fewer than six values, which are too few."""
    n, k, tail = len(values), 0, 0.5 ** len(values)
    while tail <= 0.025:
        k += 1
        tail += math.comb(n, k) * 0.5**n
    ordered = sorted(values)
    return (ordered[k - 1], ordered[n - k]) if k else None
