"""Tables and plots of `ifuvit bench`. Nothing is computed."""

from collections.abc import Mapping
from typing import Any

from ifuvit.reporting.plots import Plot, Point, Series, line_plot
from ifuvit.reporting.results import Bench, Results
from ifuvit.reporting.tables import Cell, Column, Table, number, slug

_TITLES = {
    "train": "Training steps",
    "sample": "Guided sampling steps",
    "generate": "Whole images",
    "prepare": "Preparation",
    "features": "Feature extraction",
}
_AXES = {"image-tokens": "image tokens", "text-tokens": "text tokens", "depth": "depth"}
_KINDS = {"train": "Training steps", "sample": "Guided sampling steps"}


def contests(results: Results) -> list[Table]:
    """A table for everything that was timed side by side, growth excepted; training first."""
    order = list(_TITLES)
    return [
        _contest(one, title, contest)
        for one in sorted(
            results.benches, key=lambda one: order.index(one.action) if one.action in order else len(order)
        )
        for title, contest in one.contests.items()
        if "growth" not in contest
    ]


def _contest(bench: Bench, title: str, contest: Mapping[str, Any]) -> Table:
    rows = contest["rows"]
    unit = rows[0]["unit"] if rows else "items"
    base = next((row["speedup"].further["over"] for row in rows if row["speedup"]), None)
    columns = {
        "seconds a step": lambda row: row["seconds"]["median"],
        "quartiles": lambda row: " to ".join(f"{value:.4g}" for value in row["seconds"]["quartiles"]),
        f"{unit}/s": lambda row: row["items_per_second"],
        "GFLOP/s": lambda row: row["flops_per_second"] and row["flops_per_second"] / 1e9,
        "of peak, %": lambda row: row["share_of_peak"] and 100 * row["share_of_peak"],
        "GiB": lambda row: row["peak_memory"] and row["peak_memory"] / 2**30,
        f"times as fast as {base}": lambda row: row["speedup"],
    }
    cells = {name: [_cell(of(row)) for row in rows] for name, of in columns.items()}
    used = [name for name, column in cells.items() if any(cell is not None for cell in column)]
    peak = contest["peak"]
    told = f"The peak is {number(peak['flops_per_second'] / 1e9, 0)} GFLOP/s: {peak['of']}. " if peak else ""
    compiled, batch = bench.choices.get("compile"), bench.choices.get("batch_size")
    title += ", compiled" if compiled else ""
    return Table(
        name=f"bench-{bench.action}-{slug(title)}",
        title=f"{_TITLES.get(bench.action, bench.action)}, {title}"
        + (f", batch {batch}" if batch else "")
        + bench.apart,
        columns=(
            Column(title="", text=True),
            *(Column(title=name, text=name == "quartiles") for name in used),
        ),
        rows=tuple((row["name"], *(cells[name][index] for name in used)) for index, row in enumerate(rows)),
        notes=(f"{told}Medians over {len(rows[0]['seconds']['rounds']) if rows else 0} rounds; {bench.machine}.",),
        sources=(bench.file,),
    )


def _cell(value: Any) -> Cell:
    """A number with four digits; an estimate or words as they are."""
    return (
        f"{value:.4g}"
        if isinstance(value, float) and value < 1e4
        else f"{value:,.0f}"
        if isinstance(value, float)
        else value
    )


def growth(results: Results) -> list[Table]:
    """The points of every plot."""
    found = []
    for one in results.benches:
        for title, contest in one.contests.items():
            if "growth" in contest:
                axis = _AXES[contest["growth"]["axis"]]
                found.append(
                    Table(
                        name=f"bench-growth-{slug(title)}",
                        title=f"{title.capitalize()}{one.apart}",
                        columns=(
                            Column(title="setting", text=True),
                            *(Column(title=name) for name in (axis, "GFLOPs", "times the FLOPs", "times the seconds")),
                        ),
                        rows=tuple(
                            (
                                name,
                                point["value"],
                                _cell(point["flops"] / 1e9),
                                _cell(point["relative_flops"]),
                                point["relative_seconds"],
                            )
                            for name, setting in contest["growth"]["settings"].items()
                            for point in setting["points"]
                        ),
                        notes=tuple(filter(None, (_exponents(contest["growth"]),))),
                        sources=(one.file,),
                    )
                )
    return found


def plots(results: Results) -> list[Plot]:
    """Growth of all machines."""
    return [plot for one in results.benches for plot in growth_plots(one)]


def growth_plots(bench: Bench) -> list[Plot]:
    """Step time over what is changed, relative to the setting itself, with the growth of the FLOPs dashed beside it."""
    found = []
    for contest in bench.contests.values():
        if "growth" not in contest:
            continue
        told = contest["growth"]
        axis, series = _AXES[told["axis"]], []
        for name, setting in told["settings"].items():
            points = setting["points"]
            measured = [
                Point(
                    x=point["value"], y=point["relative_seconds"].value, y_interval=point["relative_seconds"].interval
                )
                for point in points
            ]
            counted = [Point(x=point["value"], y=point["relative_flops"]) for point in points]
            series += [
                Series(name=f"{name}: seconds{_power(setting)}", points=measured),
                Series(name=f"{name}: FLOPs", points=counted, marked=False, expected=True),
            ]
        values = sorted({point.x for one in series for point in one.points})
        found.append(
            line_plot(
                series,
                title=f"{_KINDS[told['kind']]} by {axis}{bench.apart}",
                x_label=f"{axis}{', logarithmic' if told['axis'] != 'depth' else ''}",
                y_label=f"times the step with {_base(told, axis)}, logarithmic",
                log_x=told["axis"] != "depth",
                log_y=True,
                x_ticks=values,
                note=_exponents(told),
            )
        )
    return found


def _base(told: Mapping[str, Any], axis: str) -> str:
    values = " or ".join(str(value) for value in dict.fromkeys(one["at"] for one in told["settings"].values()))
    return f"depth {values}" if axis == "depth" else f"{values} {axis}"


def _power(setting: Mapping[str, Any]) -> str:
    return f" ~ FLOPs^{setting['exponent'].value:.2f}" if setting["exponent"] is not None else ""


def _exponents(told: Mapping[str, Any]) -> str:
    """How seconds follow FLOPs, in words."""
    words = []
    for name, setting in told["settings"].items():
        if (one := setting["exponent"]) is not None:
            interval = "" if one.interval is None else f" [{one.interval[0]:.2f}, {one.interval[1]:.2f}]"
            words.append(f"{name} {one.value:.2f}{interval}")
    return f"Seconds grow as FLOPs to the power of: {'; '.join(words)}." if words else ""
