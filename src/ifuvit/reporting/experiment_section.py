"""Tables and plots of evaluations, sweeps over guidance scales and experiments: the paper's Figures 3 (right) and 7."""

from collections.abc import Iterable, Sequence

from ifuvit.reporting.collection import Collection, Item
from ifuvit.reporting.cost_section import costs_cells, costs_columns
from ifuvit.reporting.plots import Bar, Plot, Point, Series, bar_plot, line_plot
from ifuvit.reporting.tables import Cell, Column, Table, bare, metric_column, slug
from ifuvit.results import (
    CONDITIONINGS,
    Evaluation,
    ExperimentResult,
    ExperimentRow,
    Metric,
    Metrics,
    SweepPoint,
    by_name,
    distinct,
    in_common,
)


def cells(metrics: Metrics, columns: Iterable[Metric]) -> tuple[Cell, ...]:
    """The values of one row under the columns of `distinct` metrics."""
    numbers = by_name(metrics)
    return tuple(numbers.get(metric.name) for metric in columns)


def references(sets: Sequence[Metrics], metric: Metric) -> list[tuple[str, float]]:
    """What a plot of a metric has as the values of real images."""
    told = {
        "real images": in_common(sets, metric.name),
        "real images, decoded": in_common(sets, metric.name, decoded=True),
    }
    return [(name, value) for name, value in told.items() if value is not None]


# --------------------------------------------------------------------------------------------------------------- tables


def experiment_table(one: Item[ExperimentResult]) -> Table:
    """All rows of an experiment."""
    result = one.result
    metrics = distinct(row.metrics for row in result.table)
    return Table(
        name=f"experiment-{slug(result.name)}-{slug(result.scale)}",
        title=f"{result.title}, scale {result.scale}{_recipe(result)}{one.apart}",
        columns=(Column(title="setting", text=True), *map(metric_column, metrics), *costs_columns()),
        rows=tuple(
            (
                f"{_label(row, result)}, w = {row.guidance_scale:g}" if result.points else _label(row, result),
                *cells(row.metrics, metrics),
                *costs_cells(row.costs),
            )
            for row in result.table
        ),
        sources=(one.file,),
    )


def _label(row: ExperimentRow, result: ExperimentResult) -> str:
    """The setting in words; its name where these tell it from no other one, as two kinds of separate cross-attention."""
    alike = {other.name for other in result.table if str(other.setting) == str(row.setting)}
    return str(row.setting) if len(alike) == 1 else row.name


def _recipe(result: ExperimentResult) -> str:
    return f", {result.recipe} recipe" if result.recipe else ""


def claims_tables(one: Item[ExperimentResult]) -> list[Table]:
    """What the paper claims and what came out, the elbows of curves, and the runs that failed; each if there are any."""
    result, name = one.result, f"{slug(one.result.name)}-{slug(one.result.scale)}"
    tables = []
    if result.verdicts:
        tables.append(
            Table(
                name=f"claims-{name}",
                title="The paper's claims here",
                columns=(
                    *(Column(title=title, text=True) for title in ("claim", "verdict", "by")),
                    Column(title="difference"),
                    Column(title="seeds"),
                ),
                rows=tuple(
                    (told.claim, told.verdict, told.metric, told.difference, told.difference.n)
                    for told in result.verdicts
                ),
                notes=(
                    "Holds, does not hold: the 95 % interval of the difference, seed by seed, has the claimed sign or the "
                    "other one throughout (Student's t). Else undecided, as all claims are with one seed.",
                ),
                sources=(one.file,),
            )
        )
    if result.elbows:
        tables.append(
            Table(
                name=f"elbows-{name}",
                title="Elbow of the curve over guidance scales",
                columns=(
                    Column(title="setting", text=True),
                    *(Column(title=title) for title in ("w", "the paper's w")),
                    *(Column(title=title, text=True) for title in ("by seed", "verdict")),
                ),
                rows=tuple(
                    (told.setting, told.guidance_scale, told.in_the_paper, _several(told.by_seed), told.verdict)
                    for told in result.elbows
                ),
                notes=(
                    "The scale whose point lies farthest below the line from the first scale to the last, both axes from 0 "
                    "to 1. The paper's holds if all of three seeds or more have it, and does not if none has.",
                ),
                sources=(one.file,),
            )
        )
    if failed := [run for run in result.runs if run.status == "failed"]:
        tables.append(
            Table(
                name=f"failed-{name}",
                title="Runs that failed",
                columns=tuple(Column(title=title, text=title != "seed") for title in ("setting", "seed", "reason")),
                rows=tuple((run.setting, str(run.seed), run.reason) for run in failed),
                notes=("They are not in the numbers above.",),
                sources=(one.file,),
            )
        )
    return tables


def _several(values: Sequence[float | None]) -> str:
    return ", ".join("none" if value is None else f"{value:g}" for value in values)


def sweep_tables(found: Collection) -> list[Table]:
    """A table for each sweep, in their order."""
    tables = []
    for sweep in found.sweeps:
        metrics = distinct(point.metrics for point in sweep.result.points)
        tables.append(
            Table(
                name="sweep",
                title="Guidance scales",
                columns=(Column(title="model"), Column(title="guidance scale w"), *map(metric_column, metrics)),
                rows=tuple(
                    (point.model, point.guidance_scale, *cells(point.metrics, metrics)) for point in sweep.result.points
                ),
                sources=(sweep.file,),
            )
        )
    return tables


def evaluation_table(one: Item[Evaluation]) -> Table:
    """Every number of an evaluation with where its interval and the values of real images come from."""
    return Table(
        name=f"evaluation-{slug(one.name)}",
        title=one.name,
        columns=tuple(
            Column(title=title, text=title in ("metric", "interval from", "how"))
            for title in ("metric", "value", "n", "interval from", "real images", "how", "decoded real images")
        ),
        rows=tuple(
            (
                metric.name,
                metric,
                metric.n,
                metric.interval_from,
                bare(metric.reference and metric.reference.value),
                metric.reference and metric.reference.how,
                bare(metric.decoded_reference and metric.decoded_reference.value),
            )
            for metric in distinct([one.result.metrics])
        ),
        sources=(one.file,),
    )


# ---------------------------------------------------------------------------------------------------------------- plots


def sweep_plots(sweep_points: Sequence[SweepPoint]) -> list[Plot]:
    """Distance against alignment over guidance scales (Fig. 3, right), a plot for every pair of them."""
    metrics = distinct(point.metrics for point in sweep_points)
    plots = []
    for score in (metric for metric in metrics if metric.subject == "alignment"):
        for distance in (metric for metric in metrics if metric.subject == "distance"):
            if series := _curves(sweep_points, score.name, distance.name):
                plots.append(
                    line_plot(
                        series,
                        title=f"{distance.name} against {score.name} over guidance scales",
                        x_label=f"{score.name}, {score.better} is better",
                        y_label=f"{distance.name}, {distance.better} is better",
                        note="Numbers at points: the guidance scale w. Best is low and to the right.",
                    )
                )
    return plots


def _curves(sweep_points: Sequence[SweepPoint], score: str, distance: str) -> list[Series]:
    """A curve for each model that has both metrics, from the lowest guidance scale to the highest."""
    curves: dict[str, list[tuple[float, Point]]] = {}
    for point in sweep_points:
        numbers = by_name(point.metrics)
        if score in numbers and distance in numbers:
            x, y = numbers[score], numbers[distance]
            placed = Point(
                x=x.value,
                y=y.value,
                x_interval=x.interval,
                y_interval=y.interval,
                label=f"{point.guidance_scale:g}",
            )
            curves.setdefault(point.model, []).append((point.guidance_scale, placed))
    return [
        Series(name=model, points=[placed for _, placed in sorted(points, key=lambda one: one[0])])
        for model, points in curves.items()
    ]


def experiment_plots(result: ExperimentResult) -> list[Plot]:
    """Curves if there are several guidance scales; otherwise bars by setting (Fig. 7 for the ablation), a plot for every
    metric, but of object counts only for those that claims compare."""
    if result.points:
        return sweep_plots(result.points)
    plots = []
    sets = [row.metrics for row in result.table]
    for metric in distinct(sets):
        if metric.subject == "counts" and metric.name not in result.headline.values():
            continue
        bars = [
            Bar(name=_label(row, result), estimate=own, color=list(CONDITIONINGS).index(row.setting.conditioning))
            for row in result.table
            if (own := by_name(row.metrics).get(metric.name)) is not None
        ]
        column = metric_column(metric)
        title = f"{column.title}, {column.better} is better" if column.better else column.title
        plots.append(bar_plot(bars, title=title, references=references(sets, metric), percent=column.percent))
    return plots
