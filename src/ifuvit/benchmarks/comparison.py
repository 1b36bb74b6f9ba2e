"""Timed cases as the comparison that a result file holds, and as a table."""

from collections.abc import Iterable, Mapping, Sequence

import torch

from ifuvit.benchmarks.config import TimingConfig
from ifuvit.benchmarks.peak import find_peak, product_cases, products
from ifuvit.benchmarks.timing import BenchmarkCase, Timing, speedup, time_cases
from ifuvit.model.settings import IFUViTConfig
from ifuvit.results import Comparison, Seconds, TimedCase


def compare(cases: Sequence[BenchmarkCase], config: TimingConfig, device: torch.device) -> Comparison:
    """Time cases in the same rounds."""
    timings = time_cases(cases, config, device)
    return Comparison(rows=tuple(timed_case(case, timings) for case in cases))


def compare_models(
    cases: Sequence[BenchmarkCase],
    models: Iterable[IFUViTConfig],
    config: TimingConfig,
    device: torch.device,
    *,
    precision: str,
    training: bool,
    differences: Mapping[str, Mapping[str, float]],
) -> Comparison:
    """Time models and, in the same rounds, the matrix products of their blocks.

    Args:
        cases: with as many images a step each.
        models: their configurations.
        precision: "fp32" or "bf16".
        training: whether there is a backward pass.
        differences: what else the result holds.
    """
    images = cases[0].items
    chosen = products(models, images, training=training)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    timings = time_cases([*cases, *product_cases(chosen, dtype, device, images)], config, device)
    peak = find_peak(timings, chosen)
    rows = tuple(timed_case(case, timings, peak.flops_per_second) for case in cases)
    return Comparison(rows=rows, peak=peak, differences=differences)


def timed_case(case: BenchmarkCase, timings: Mapping[str, Timing], peak: float | None = None) -> TimedCase:
    """One case's numbers.

    Args:
        timings: of all cases, by name.
        peak: FLOP/s of the fastest matrix product in the same rounds.
    """
    timing = timings[case.name]
    seconds = timing.median
    rate = None if case.flops is None else case.flops / seconds
    return TimedCase(
        name=case.name,
        seconds=Seconds(median=seconds, quartiles=timing.quartiles, rounds=timing.seconds),
        steps_per_round=timing.steps,
        steps_per_second=1 / seconds,
        items=case.items,
        unit="images",
        items_per_second=case.items / seconds,
        flops=case.flops,
        flops_per_second=rate,
        share_of_peak=None if rate is None or peak is None else rate / peak,
        peak_memory=timing.peak_memory,
        speedup=None if case.base is None else speedup(timing, timings[case.base], case.base),
    )


def table(rows: Sequence[TimedCase]) -> list[str]:
    """Cases of the same rounds as lines of text; a column that would be empty is left out."""
    base = next((row.speedup.over for row in rows if row.speedup), "")
    columns = (
        "",
        "seconds a step [quartiles]",
        "steps/s",
        f"{rows[0].unit}/s",
        "GFLOP/s",
        "of peak",
        "GiB",
        f"times as fast as {base}",
    )
    lines = [columns, *map(_cells, rows)]
    used = [i for i in range(len(columns)) if any(line[i] for line in lines[1:])]
    widths = {i: max(len(line[i]) for line in lines) for i in used}
    return [
        "  ".join(f"{line[i]:<{widths[i]}}" if i == 0 else f"{line[i]:>{widths[i]}}" for i in used).rstrip()
        for line in lines
    ]


def _cells(row: TimedCase) -> Sequence[str]:
    low, high = row.seconds.quartiles
    faster = "" if row.speedup is None else f"{row.speedup.value:.3f}"
    if row.speedup is not None and row.speedup.interval is not None:
        faster += " [{:.3f}, {:.3f}]".format(*row.speedup.interval)
    return (
        row.name,
        f"{row.seconds.median:.4g} [{low:.4g}, {high:.4g}]",
        f"{row.steps_per_second:.4g}",
        f"{row.items_per_second:.4g}",
        "" if row.flops_per_second is None else f"{row.flops_per_second / 1e9:,.4g}",
        "" if row.share_of_peak is None else f"{row.share_of_peak:.1%}",
        "" if row.peak_memory is None else f"{row.peak_memory / 2**30:.2f}",
        faster,
    )
