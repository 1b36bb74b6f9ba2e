"""Timings as the rows of a result file, and as a table."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from ifuvit.benchmarks.peak import peak, product_cases, products
from ifuvit.benchmarks.timing import Case, Rules, Timing, compete, speedup
from ifuvit.model.settings import IFUViTConfig


def measure(cases: Sequence[Case], rules: Rules, device: torch.device) -> dict[str, Any]:
    """Time cases against each other.

    Returns:
        {"peak": None, "rows"}.
    """
    timings = compete(cases, rules, device)
    return {"peak": None, "rows": [row(case, timings) for case in cases]}


def measure_models(
    cases: Sequence[Case],
    configs: Iterable[IFUViTConfig],
    rules: Rules,
    device: torch.device,
    *,
    precision: str,
    training: bool,
) -> dict[str, Any]:
    """Time models against each other and, in the same rounds, the matrix products of their blocks.

    Args:
        cases: with as many images a step each.
        configs: of the models.
        precision: "fp32" or "bf16".
        training: whether there is a backward pass.

    Returns:
        {"peak", "rows"}.
    """
    images = cases[0].items
    chosen = products(configs, images, training=training)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    timings = compete([*cases, *product_cases(chosen, dtype, device, images)], rules, device)
    best = peak(timings, chosen)
    return {
        "peak": best,
        "rows": [row(case, timings, best["flops_per_second"]) for case in cases],
    }


def row(case: Case, timings: Mapping[str, Timing], peak: float | None = None) -> dict[str, Any]:
    """One case's numbers.

    Args:
        timings: of all cases, by name.
        peak: FLOP/s of the fastest matrix product in the same rounds.
    """
    timing = timings[case.name]
    seconds = timing.median
    rate = None if case.flops is None else case.flops / seconds
    return {
        "name": case.name,
        "seconds": {"median": seconds, "quartiles": list(timing.quartiles), "rounds": list(timing.seconds)},
        "steps_a_turn": timing.steps,
        "steps_per_second": 1 / seconds,
        "items": case.items,
        "unit": case.unit,
        "items_per_second": case.items / seconds,
        "flops": case.flops,
        "flops_per_second": rate,
        "share_of_peak": None if rate is None or peak is None else rate / peak,
        "peak_memory": timing.peak_memory,
        "speedup": None if case.base is None else {"over": case.base, **speedup(timing, timings[case.base])},
    }


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rows of one contest as lines of text; a column that would be empty is left out."""
    unit = rows[0]["unit"]
    base = next((row["speedup"]["over"] for row in rows if row["speedup"]), "")
    columns = (
        "",
        "seconds a step [quartiles]",
        "steps/s",
        f"{unit}/s",
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


def _cells(row: Mapping[str, Any]) -> Sequence[str]:
    low, high = row["seconds"]["quartiles"]
    faster = row["speedup"]
    interval = faster and faster["interval"]
    return (
        row["name"],
        f"{row['seconds']['median']:.4g} [{low:.4g}, {high:.4g}]",
        f"{row['steps_per_second']:.4g}",
        f"{row['items_per_second']:.4g}",
        "" if row["flops_per_second"] is None else f"{row['flops_per_second'] / 1e9:,.4g}",
        "" if row["share_of_peak"] is None else f"{row['share_of_peak']:.1%}",
        "" if row["peak_memory"] is None else f"{row['peak_memory'] / 2**30:.2f}",
        ("" if faster is None else f"{faster['value']:.3f}")
        + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""),
    )
