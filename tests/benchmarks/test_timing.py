"""Interleaved rounds, what is timed, and what becomes of the numbers."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch

from ifuvit.benchmarks.config import TimingConfig
from ifuvit.benchmarks.timing import BenchmarkCase, Timing, median_interval, speedup, time_cases
from ifuvit.utils.errors import InputError

CPU = torch.device("cpu")


class FakeMachine:
    """Cases whose steps take given seconds, on a clock of their own."""

    def __init__(self, drift: float = 0.0) -> None:
        self.time, self.drift, self.steps, self.open = 0.0, drift, [], []

    def clock(self) -> float:
        return self.time

    def case(self, name: str, seconds: float, **fields) -> BenchmarkCase:
        def step() -> None:
            self.steps.append(name)
            self.time += seconds * (1 + self.drift * len(self.steps))

        return BenchmarkCase(name=name, prepare=lambda: step, items=1, **fields)


def timing(*seconds: float) -> Timing:
    return Timing(seconds=seconds, steps=1, peak_memory=None)


def test_every_round_runs_every_case_and_reverses_the_order() -> None:
    machine = FakeMachine()
    config = TimingConfig(rounds=3, warmup=2, min_seconds=1)
    time_cases([machine.case("a", 1), machine.case("b", 0.5)], config, CPU, clock=machine.clock)
    warm_up, steps = machine.steps[:6], machine.steps[6:]
    assert warm_up == ["a"] * 3 + ["b"] * 3  # and a step to see how many fill the time
    steps_of = {"a": ["a"] * 2, "b": ["b"] * 3}  # one untimed step, and as many as take a second
    assert steps == [step for name in "abbaab" for step in steps_of[name]]


def test_seconds_are_of_one_step_and_the_first_of_a_round_is_not_timed() -> None:
    machine, last = FakeMachine(), ["nobody"]

    def cold(name: str, seconds: float) -> BenchmarkCase:
        def step() -> None:
            machine.time += seconds + (100 if last[0] != name else 0)  # after another one a step takes long
            last[0] = name

        return BenchmarkCase(name=name, prepare=lambda: step, items=1)

    timings = time_cases(
        [cold("a", 0.3), cold("b", 2)], TimingConfig(rounds=4, min_seconds=1), CPU, clock=machine.clock
    )
    assert timings["a"].seconds == pytest.approx((0.3,) * 4) and timings["a"].steps == 4
    assert timings["b"].seconds == pytest.approx((2,) * 4) and timings["b"].steps == 1
    assert timings["a"].median == pytest.approx(0.3) and timings["a"].quartiles == pytest.approx((0.3, 0.3))
    assert timings["a"].peak_memory is None


def test_a_machine_that_slows_down_steadily_favors_nobody() -> None:
    machine = FakeMachine(drift=0.02)
    cases = [machine.case(name, 1) for name in "abc"]
    timings = time_cases(cases, TimingConfig(rounds=10, min_seconds=0), CPU, clock=machine.clock)
    assert timings["a"].seconds[-1] > 1.5 * timings["a"].seconds[0]
    assert speedup(timings["c"], timings["a"], "a").value == pytest.approx(1, abs=0.01)


def test_a_context_holds_for_a_whole_round() -> None:
    events = []

    @contextmanager
    def within():
        events.append("enter")
        yield
        events.append("leave")

    step = BenchmarkCase(name="a", prepare=lambda: lambda: events.append("step"), items=1, within=within)
    time_cases([step], TimingConfig(rounds=2, warmup=2, min_seconds=0), CPU)
    assert events == ["enter", "step", "step", "step", "leave"] + 2 * ["enter", "step", "step", "leave"]


def test_speedup_pairs_what_was_timed_in_the_same_round() -> None:
    base, twice = timing(2, 4, 20, 6, 8, 10), timing(1, 2, 5, 3, 4, 5)
    ratio = speedup(twice, base, "base")
    assert ratio.over == "base" and ratio.value == 2 and ratio.quartiles == (2, 2) and ratio.n == 6
    assert ratio.interval == (2, 4) and ratio.interval_from == "order statistics over rounds"
    assert speedup(base, base, "base").interval == (1, 1)
    assert speedup(timing(1, 2), timing(1, 2), "base").interval is None


def test_median_interval() -> None:
    assert median_interval(range(5)) is None
    assert median_interval([3, 1, 2, 6, 5, 4]) == (1, 6)
    assert median_interval(range(1, 11)) == (2, 9)  # 97.9 %; (3, 8) would be 89.1 %
    rng = np.random.default_rng(0)
    hits = 0
    for sample in rng.exponential(size=(2000, 15)):
        low, high = median_interval(sample.tolist()) or (0, 0)
        hits += low <= np.log(2) <= high
    assert 0.95 <= hits / 2000 <= 0.98


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"rounds": 0}, "--rounds 0: must be at least 1"),
        ({"warmup": 1}, "--warmup 1: must be at least 2"),
        ({"min_seconds": -1.0}, "--min-seconds -1.0"),
        ({"min_seconds": float("nan")}, "--min-seconds nan"),
    ],
)
def test_impossible_values(values, says) -> None:
    with pytest.raises(InputError, match=says):
        TimingConfig(**values)
