"""Which plots the report has: the paper's Figures 3, 5 (right) and 7 from our results, and losses."""

from collections.abc import Mapping, Sequence
from typing import Any

from ifuvit.reporting.counting import judgments
from ifuvit.reporting.plots import COLORS, Bar, Plot, Point, Series, bar_plot, line_plot
from ifuvit.reporting.results import Estimate, Experiment, Results, SweepPoint, real_of
from ifuvit.reporting.tables import is_distance, is_score, metric_column, metric_names

# A curve longer than this shows every n-th of its points.
_MAX_POINTS = 400


def sweep_plots(sweep_points: Sequence[SweepPoint]) -> list[Plot]:
    """Distance against alignment over guidance scales (Fig. 3, right), a plot for every pair of them."""
    names = metric_names(point.metrics for point in sweep_points)
    models = list(dict.fromkeys(point.model for point in sweep_points))
    plots = []
    for score in filter(is_score, names):
        for distance in filter(is_distance, names):
            series = []
            for model in models:
                points = [
                    Point(
                        x=point.metrics[score].value,
                        y=point.metrics[distance].value,
                        x_interval=point.metrics[score].interval,
                        y_interval=point.metrics[distance].interval,
                        label=f"{point.guidance_scale:g}",
                    )
                    for point in sorted(sweep_points, key=lambda point: point.guidance_scale)
                    if point.model == model and {score, distance} <= point.metrics.keys()
                ]
                if points:
                    series.append(Series(name=model, points=points))
            if series:
                title = f"{distance} against {score} over guidance scales"
                plots.append(
                    line_plot(
                        series,
                        title=title,
                        x_label=f"{score}, higher is better",
                        y_label=f"{distance}, lower is better",
                        note="Numbers at points: the guidance scale w. Best is low and to the right.",
                    )
                )
    return plots


def training_plots(results: Results) -> list[Plot]:
    """Distances and scores during training (Fig. 3, left and middle), then losses."""
    plots = []
    trainings = results.trainings[:COLORS]
    names = metric_names(metrics for run in trainings for _, metrics in run.evaluations)
    for name in names:
        if not (is_distance(name) or is_score(name)):
            continue
        series = [
            Series(
                name=run.name,
                points=[
                    Point(x=step, y=metrics[name].value, y_interval=metrics[name].interval)
                    for step, metrics in run.evaluations
                    if name in metrics
                ],
            )
            for run in trainings
            if any(name in metrics for _, metrics in run.evaluations)
        ]
        better = "lower is better" if is_distance(name) else "higher is better"
        plots.append(
            line_plot(
                series,
                title=f"{name} during training",
                x_label="training step",
                y_label=f"{name}, {better}",
                reference=_reference([metrics for run in trainings for _, metrics in run.evaluations], name),
            )
        )
    for title, label, attribute, marked in (
        ("Training loss", "loss of the step's batch", "loss", False),
        ("Validation loss", "validation loss", "validation", True),
    ):
        series = [
            Series(name=run.name, points=_thinned(values), marked=marked)
            for run in trainings
            if (values := getattr(run, attribute))
        ]
        if series:
            plots.append(line_plot(series, title=title, x_label="training step", y_label=label, log_y=True))
    return plots


def _thinned(values: Sequence[tuple[int, float]]) -> list[Point]:
    every = -(-len(values) // _MAX_POINTS)
    return [Point(x=step, y=value) for step, value in [*values[:-1:every], values[-1]]]


def _reference(sets: Sequence[Mapping[str, Estimate]], name: str) -> tuple[str, float] | None:
    real = real_of(sets, name)
    return None if real is None else ("real images", real)


def experiment_plots(experiment: Experiment) -> list[Plot]:
    """Curves if there are several guidance scales, else bars by setting (Fig. 7 for the ablation), a plot for every
    metric."""
    if experiment.points:
        return sweep_plots(experiment.points)
    plots = []
    for name in metric_names(row.metrics for row in experiment.rows):
        if name.startswith(("precision", "recall")):
            continue
        bars = [
            Bar(name=str(row.setting), estimate=row.metrics[name], color=int(row.setting.conditioning == "cross"))
            for row in experiment.rows
            if name in row.metrics
        ]
        column = metric_column(name)
        reference = _reference([row.metrics for row in experiment.rows], name)
        title = f"{column.title}, {column.better} is better"
        plots.append(bar_plot(bars, title=title, reference=reference, percent=column.percent))
    return plots


def count_plots(results: Results) -> list[Plot]:
    """Match ratio and average error by the asked count (Fig. 5, right)."""
    chosen = [one for one in judgments(results) if one.counts and one.counts.get("by_count") and not one.part]
    return by_count_plots([(one.name, (one.counts or {})["by_count"]) for one in chosen], of="images")


def by_count_plots(named: Sequence[tuple[str, Mapping[str, Any]]], *, of: str) -> list[Plot]:
    """Match ratio and average error by the asked count, a line for each of several models.

    Args:
        named: names with scores by count.
        of: what a match ratio is a share of.
    """
    plots = []
    for key, title, label in (
        ("match_ratio", "Match ratio by asked count", f"share of {of}, higher is better"),
        ("average_error", "Average error by asked count", "objects, lower is better"),
    ):
        series = [
            Series(name=name, points=points)
            for name, by_count in named[:COLORS]
            if (points := [_point(count, group[key]) for count, group in by_count.items() if group.get(key)])
        ]
        if series:
            plots.append(line_plot(series, title=title, x_label="asked number of objects", y_label=label, apart=True))
    return plots


def _point(count: str, estimate: Estimate) -> Point:
    return Point(x=float(count), y=estimate.value, y_interval=estimate.interval)
