"""Tables and plots of training runs: distance and score during training (Figure 3, left and middle), and losses."""

from collections.abc import Sequence

from ifuvit.reporting.collection import Collection
from ifuvit.reporting.experiment_section import cells, references
from ifuvit.reporting.plots import COLORS, Plot, Point, Series, line_plot
from ifuvit.reporting.tables import Column, Table, metric_column, slug
from ifuvit.results import by_name, distinct

# A curve longer than this shows every n-th of its points.
_MAX_POINTS = 400


def training_tables(found: Collection) -> list[Table]:
    """A table for each run that was evaluated while it trained."""
    tables = []
    for run in found.trainings:
        if run.result.evaluations:
            metrics = distinct(one.metrics for _, one in run.result.evaluations)
            tables.append(
                Table(
                    name=f"training-{slug(run.name)}",
                    title=f"During training: {run.name}",
                    columns=(Column(title="step"), *map(metric_column, metrics)),
                    rows=tuple((step, *cells(one.metrics, metrics)) for step, one in run.result.evaluations),
                    sources=(run.file,),
                )
            )
    return tables


def training_plots(found: Collection) -> list[Plot]:
    """Distances and alignment scores during training, then losses."""
    plots = []
    trainings = found.trainings[:COLORS]
    sets = [one.metrics for run in trainings for _, one in run.result.evaluations]
    for metric in distinct(sets):
        if metric.subject not in ("distance", "alignment"):
            continue
        series = []
        for run in trainings:
            points = [
                Point(x=step, y=own.value, y_interval=own.interval)
                for step, one in run.result.evaluations
                if (own := by_name(one.metrics).get(metric.name)) is not None
            ]
            if points:
                series.append(Series(name=run.name, points=points))
        plots.append(
            line_plot(
                series,
                title=f"{metric.name} during training",
                x_label="training step",
                y_label=f"{metric.name}, {metric.better} is better",
                references=references(sets, metric),
            )
        )
    for title, label, losses, marked in (
        ("Training loss", "loss of the step's batch", [run.result.loss for run in trainings], False),
        ("Validation loss", "validation loss", [run.result.validation for run in trainings], True),
    ):
        series = [
            Series(name=run.name, points=_thinned(values), marked=marked)
            for run, values in zip(trainings, losses)
            if values
        ]
        if series:
            plots.append(line_plot(series, title=title, x_label="training step", y_label=label, log_y=True))
    return plots


def _thinned(values: Sequence[tuple[int, float]]) -> list[Point]:
    every = -(-len(values) // _MAX_POINTS)
    return [Point(x=step, y=value) for step, value in [*values[:-1:every], values[-1]]]
