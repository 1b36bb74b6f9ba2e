"""How long training takes until images are right: minutes to marks, and the learning curves."""

from ifuvit.reporting.collection import Collection, Item
from ifuvit.reporting.plots import COLORS, Plot, Point, Series, line_plot
from ifuvit.reporting.tables import Cell, Column, Table, slug
from ifuvit.results import LearningCurves

_TITLES = {"counts": "right counts", "relations": "right relations"}


def quality_tables(found: Collection) -> list[Table]:
    """Minutes to every mark, a row for each run."""
    return [_table(one) for one in found.curves]


def _table(one: Item[LearningCurves]) -> Table:
    marks = [(what, mark) for what, of in one.result.curves[0].minutes_to.items() for mark in of]
    columns = [Column(title=f"{100 * float(mark):g} %", group=f"minutes to {_TITLES[what]}") for what, mark in marks]
    rows: list[tuple[Cell, ...]] = []
    for curve in one.result.curves:
        last = curve.points[-1]
        reached = [_minutes(curve.minutes_to.get(what, {}).get(mark)) for what, mark in marks]
        rows.append((curve.name, *reached, _minutes(last.minutes), last.counts, last.relations))
    return Table(
        name=f"learning-{slug(one.name)}",
        title="Minutes of training until images are right",
        columns=(
            Column(title="run", text=True),
            *columns,
            Column(title="minutes", group="at the end"),
            Column(title="right counts, %", group="at the end", percent=True, better="higher"),
            Column(title="right relations, %", group="at the end", percent=True, better="higher"),
        ),
        rows=tuple(rows),
        notes=(
            "Of the averaged weights, on the machine of each run; straight lines between evaluations. A dash: not reached. "
            "Evaluations, validation and saving are not in the minutes.",
        ),
        sources=(one.file,),
    )


def _minutes(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def quality_plots(found: Collection) -> list[Plot]:
    """The share of right images over minutes of training, a plot for counts and one for relations of every file."""
    return [plot for one in found.curves for plot in plots_of(one.result)]


def plots_of(result: LearningCurves) -> list[Plot]:
    """The plots of one file."""
    plots = []
    for what, title in _TITLES.items():
        series = []
        for curve in result.curves[:COLORS]:
            shares = [(point.minutes, getattr(point, what)) for point in curve.points]
            points = [
                Point(x=minutes, y=one.value, y_interval=one.interval) for minutes, one in shares if one is not None
            ]
            if points:
                series.append(Series(name=curve.name, points=points))
        if series:
            plots.append(
                line_plot(
                    series,
                    title=f"{title.capitalize()} by minutes of training",
                    x_label="minutes of training",
                    y_label=f"share of {title}, higher is better",
                )
            )
    return plots
