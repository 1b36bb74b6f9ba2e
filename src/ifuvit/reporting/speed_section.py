"""Tables and plots of `ifuvit bench`."""

from collections.abc import Callable
from typing import Any

from ifuvit.reporting.collection import Collection, Item
from ifuvit.reporting.plots import Plot, Point, Series, line_plot
from ifuvit.reporting.tables import Cell, Column, Table, number, slug
from ifuvit.results import Benchmark, Comparison, Hardware, Scaling, ScalingSeries, TimedCase

_ACTIONS = {
    "train": "Training steps",
    "sample": "Guided sampling steps",
    "generate": "Whole images",
    "onnx": "ONNX",
    "scaling": "Scaling",
}
_AXES = {"image-tokens": "image tokens", "text-tokens": "text tokens", "depth": "depth"}


def comparison_tables(found: Collection) -> list[Table]:
    """A table for all that was timed side by side except scaling; training first."""
    order = list(_ACTIONS)
    return [
        _comparison(one, title, comparison)
        for one in sorted(found.benchmarks, key=lambda one: order.index(one.result.action))
        for title, comparison in one.result.comparisons.items()
        if comparison.scaling is None
    ]


def _comparison(one: Item[Benchmark], title: str, comparison: Comparison) -> Table:
    result, rows = one.result, comparison.rows
    base = next((row.speedup.over for row in rows if row.speedup), None)
    columns: dict[str, Callable[[TimedCase], Any]] = {
        "seconds a step": lambda row: row.seconds.median,
        "quartiles": lambda row: " to ".join(f"{value:.4g}" for value in row.seconds.quartiles),
        f"{rows[0].unit}/s": lambda row: row.items_per_second,
        "GFLOP/s": lambda row: row.flops_per_second and row.flops_per_second / 1e9,
        "of peak, %": lambda row: row.share_of_peak and 100 * row.share_of_peak,
        "GiB": lambda row: row.peak_memory and row.peak_memory / 2**30,
        f"times as fast as {base}": lambda row: row.speedup,
    }
    cells = {name: [_cell(of(row)) for row in rows] for name, of in columns.items()}
    used = [name for name, column in cells.items() if any(cell is not None for cell in column)]
    peak = comparison.peak
    told = f"The peak is {number(peak.flops_per_second / 1e9, 0)} GFLOP/s: {peak.of}. " if peak else ""
    title += ", compiled" if result.config.get("compile") else ""
    batch = f", batch {result.config['batch_size']}" if result.config.get("batch_size") else ""
    return Table(
        name=f"bench-{result.action}-{slug(title)}",
        title=f"{_ACTIONS[result.action]}, {title}{batch}{one.apart}",
        columns=(Column(title="", text=True), *(Column(title=name, text=name == "quartiles") for name in used)),
        rows=tuple((row.name, *(cells[name][index] for name in used)) for index, row in enumerate(rows)),
        notes=(f"{told}Medians over {len(rows[0].seconds.rounds)} rounds; {machine(result)}.",),
        sources=(one.file,),
    )


def machine(result: Benchmark) -> str:
    """Where it was measured, in words."""
    clock = "; the processor's time of one thread" if result.config.get("clock") == "processor" else ""
    one = result.hardware
    return f"{one.name} ({one.device}{_instructions(one)}), {one.threads} threads, torch {one.torch}{clock}"


def _instructions(hardware: Hardware) -> str:
    bf16 = hardware.bf16_instructions
    return "" if bf16 is None else f", with{'' if bf16 else 'out'} bf16 instructions"


def _cell(value: Any) -> Cell:
    """A number with four digits; an estimate or words as they are."""
    if not isinstance(value, float):
        return value
    return f"{value:.4g}" if value < 1e4 else f"{value:,.0f}"


def _scalings(found: Collection) -> list[tuple[Item[Benchmark], str, Scaling]]:
    return [
        (one, title, comparison.scaling)
        for one in found.benchmarks
        for title, comparison in one.result.comparisons.items()
        if comparison.scaling is not None
    ]


def scaling_tables(found: Collection) -> list[Table]:
    """The points of every scaling plot."""
    return [
        Table(
            name=f"bench-scaling-{slug(title)}",
            title=f"{title.capitalize()}{one.apart}",
            columns=(
                Column(title="setting", text=True),
                *(
                    Column(title=name)
                    for name in (_AXES[scaling.axis], "GFLOPs", "times the FLOPs", "times the seconds")
                ),
            ),
            rows=tuple(
                (name, point.value, _cell(point.flops / 1e9), _cell(point.relative_flops), point.relative_seconds)
                for name, series in scaling.settings.items()
                for point in series.points
            ),
            notes=tuple(filter(None, (_exponents(scaling),))),
            sources=(one.file,),
        )
        for one, title, scaling in _scalings(found)
    ]


def scaling_plots(found: Collection) -> list[Plot]:
    """Scaling on all machines."""
    return [_scaling_plot(scaling, one.apart) for one, _, scaling in _scalings(found)]


def plots_of(result: Benchmark) -> list[Plot]:
    """Step time over what is changed, relative to the setting itself, with the growth of the FLOPs dashed next to it."""
    return [_scaling_plot(one.scaling) for one in result.comparisons.values() if one.scaling is not None]


def _scaling_plot(scaling: Scaling, apart: str = "") -> Plot:
    axis, series, log_x = _AXES[scaling.axis], [], scaling.axis != "depth"
    for name, one in scaling.settings.items():
        measured = [
            Point(x=point.value, y=point.relative_seconds.value, y_interval=point.relative_seconds.interval)
            for point in one.points
        ]
        counted = [Point(x=point.value, y=point.relative_flops) for point in one.points]
        series += [
            Series(name=f"{name}: seconds{_power(one)}", points=measured),
            Series(name=f"{name}: FLOPs", points=counted, marked=False, expected=True),
        ]
    own = " or ".join(str(value) for value in dict.fromkeys(one.at for one in scaling.settings.values()))
    base = f"{own} {axis}" if log_x else f"depth {own}"
    return line_plot(
        series,
        title=f"{_ACTIONS[scaling.steps]} by {axis}{apart}",
        x_label=f"{axis}{', logarithmic' if log_x else ''}",
        y_label=f"times the step with {base}, logarithmic",
        log_x=log_x,
        log_y=True,
        x_ticks=sorted({point.x for one in series for point in one.points}),
        note=_exponents(scaling),
    )


def _power(one: ScalingSeries) -> str:
    return "" if one.exponent is None else f" ~ FLOPs^{one.exponent.value:.2f}"


def _exponents(scaling: Scaling) -> str:
    """How seconds follow FLOPs, in words."""
    words = []
    for name, series in scaling.settings.items():
        if (one := series.exponent) is not None:
            interval = "" if one.interval is None else f" [{one.interval[0]:.2f}, {one.interval[1]:.2f}]"
            words.append(f"{name} {one.value:.2f}{interval}")
    return f"Seconds grow as FLOPs to the power of: {'; '.join(words)}." if words else ""
