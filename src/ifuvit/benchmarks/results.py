"""Timings as the rows of a result file, and as a table."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from ifuvit.benchmarks.peak import peak, product_contestants, products
from ifuvit.benchmarks.timing import Contestant, Rules, Timing, compete, speedup
from ifuvit.model.settings import IFUViTConfig


def measure(contestants: Sequence[Contestant], rules: Rules, device: torch.device) -> dict[str, Any]:
    """Time contestants against each other.

    Returns:
        {"peak": None, "rows"}.
    """
    timings = compete(contestants, rules, device)
    return {"peak": None, "rows": [row(contestant, timings) for contestant in contestants]}


def measure_models(
    contestants: Sequence[Contestant],
    configs: Iterable[IFUViTConfig],
    rules: Rules,
    device: torch.device,
    *,
    precision: str,
    training: bool,
) -> dict[str, Any]:
    """Time models against each other and, in the same rounds, the matrix products of their blocks.

    Args:
        contestants: with as many images a step each.
        configs: of the models.
        precision: "fp32" or "bf16".
        training: whether there is a backward pass.

    Returns:
        {"peak", "rows"}.
    """
    images = contestants[0].items
    chosen = products(configs, images, training=training)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    timings = compete([*contestants, *product_contestants(chosen, dtype, device, images)], rules, device)
    best = peak(timings, chosen)
    return {
        "peak": best,
        "rows": [row(contestant, timings, best["flops_per_second"]) for contestant in contestants],
    }


def row(contestant: Contestant, timings: Mapping[str, Timing], peak: float | None = None) -> dict[str, Any]:
    """One contestant's numbers.

    Args:
        timings: of all contestants, by name.
        peak: FLOP/s of the fastest matrix product in the same rounds.
    """
    timing = timings[contestant.name]
    seconds = timing.median
    rate = None if contestant.flops is None else contestant.flops / seconds
    return {
        "name": contestant.name,
        "seconds": {"median": seconds, "quartiles": list(timing.quartiles), "rounds": list(timing.seconds)},
        "steps_a_turn": timing.steps,
        "steps_per_second": 1 / seconds,
        "items": contestant.items,
        "unit": contestant.unit,
        "items_per_second": contestant.items / seconds,
        "flops": contestant.flops,
        "flops_per_second": rate,
        "share_of_peak": None if rate is None or peak is None else rate / peak,
        "peak_memory": timing.peak_memory,
        "speedup": None
        if contestant.base is None
        else {"over": contestant.base, **speedup(timing, timings[contestant.base])},
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
