"""Tables, plots and sample grids of training runs; among the plots are distance and score during training (Figure 3, left and
middle)."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ifuvit.reporting.collection import Item
from ifuvit.reporting.experiment_section import cells, references
from ifuvit.reporting.plots import COLORS, Plot, Point, Series, line_plot
from ifuvit.reporting.sample_section import data_uri
from ifuvit.reporting.tables import Column, Table, metric_column, slug
from ifuvit.results import TrainingRecord, by_name, distinct

Trainings = Sequence[Item[TrainingRecord]]
T = TypeVar("T")

# A curve longer than this shows every n-th of its points.
_MAX_POINTS = 400
# As many sample grids as a page holds, over all runs: about 100 KB each.
_MAX_GRIDS = 40
CURVED = ("distance", "alignment", "counts")
"""Subjects of the metrics that have a plot over steps."""


def training_tables(trainings: Trainings) -> list[Table]:
    """A table for each run that was evaluated while it trained."""
    tables = []
    for run in trainings:
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


def training_plots(trainings: Trainings) -> list[Plot]:
    """Curves over training steps, the runs on top of each other: losses, the validation loss by noise level, what evaluations
    found, speed and learning rate. The first six runs are shown."""
    shown, left_out = trainings[:COLORS], [run.name for run in trainings[COLORS:]]
    note = f"Not shown: {', '.join(left_out)}." if left_out else ""
    return [
        *_curves(shown, "Training loss", "loss of the step's batch", lambda one: one.loss, log_y=True, note=note),
        *_curves(shown, "Validation loss", "validation loss", lambda one: one.validation, log_y=True, marked=True),
        *_by_noise_level(shown),
        *_evaluated(shown),
        *_curves(shown, "Images a second", "images a second", _images_a_second),
        *_curves(shown, "Learning rate", "learning rate x 1000", _thousandfold_rate),
        *_curves(shown, "Gradient norm", "gradient norm", lambda one: one.gradient_norm, log_y=True),
    ]


def _curves(
    trainings: Trainings,
    title: str,
    y_label: str,
    values_of: Callable[[TrainingRecord], Sequence[tuple[int, float]]],
    *,
    log_y: bool = False,
    marked: bool = False,
    note: str = "",
) -> list[Plot]:
    """A plot with a curve for each run that has values; none without any."""
    series = [
        Series(name=run.name, points=_thinned(values), marked=marked)
        for run in trainings
        if (values := values_of(run.result))
    ]
    if not series:
        return []
    return [line_plot(series, title=title, x_label="training step", y_label=y_label, log_y=log_y, note=note)]


def _by_noise_level(trainings: Trainings) -> list[Plot]:
    """The validation loss against the noise level at each run's newest validation; of a run alone at several of its steps, and
    over steps for several levels. The noise of training steps differs, so their loss says less."""
    with_levels = [run for run in trainings if run.result.levels]
    if not with_levels:
        return []
    if len(with_levels) > 1:
        curves = {f"{run.name}, step {run.result.levels[-1][0]:,}": run.result.levels[-1][1] for run in with_levels}
    else:
        curves = {f"step {step:,}": bands for step, bands in spread(with_levels[0].result.levels, COLORS)}
    series = [
        Series(name=name, points=[Point(x=_middle(band), y=loss) for band, loss in bands.items()])
        for name, bands in curves.items()
        if bands
    ]
    plots = []
    if series:
        title, level = "Validation loss by noise level", "noise level, 1 is pure noise"
        plots.append(line_plot(series, title=title, x_label=level, y_label="validation loss", log_y=True))
    if len(with_levels) == 1 and len(levels := with_levels[0].result.levels) > 1:
        bands = sorted({band for _, of_bands in levels for band in of_bands}, key=_middle)
        over_steps = [
            Series(
                name=f"noise level {band}",
                points=[Point(x=step, y=of_bands[band]) for step, of_bands in levels if band in of_bands],
            )
            for band in spread(bands, COLORS)
        ]
        title = "Validation loss of single noise levels"
        plots.append(line_plot(over_steps, title=title, x_label="training step", y_label="validation loss", log_y=True))
    return plots


def _middle(band: str) -> float:
    """Of a band like "0.3-0.4"."""
    numbers = [float(number) for number in re.findall(r"[\d.]+", band)]
    return sum(numbers) / max(len(numbers), 1)


def _evaluated(trainings: Trainings) -> list[Plot]:
    """Distances, alignment scores, counts and relations."""
    plots = []
    sets = [one.metrics for run in trainings for _, one in run.result.evaluations]
    for metric in distinct(sets):
        if metric.subject not in CURVED:
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
                y_label=f"{metric.name}, {metric.better} is better" if metric.better else metric.name,
                references=references(sets, metric),
            )
        )
    return plots


def _images_a_second(record: TrainingRecord) -> Sequence[tuple[int, float]]:
    if record.batch_size is None:
        return ()
    return [(step, speed * record.batch_size) for step, speed in record.speed]


def _thousandfold_rate(record: TrainingRecord) -> Sequence[tuple[int, float]]:
    """Numbers that labels have room for."""
    return [(step, 1000 * rate) for step, rate in record.learning_rate]


def _thinned(values: Sequence[tuple[int, float]]) -> list[Point]:
    every = -(-len(values) // _MAX_POINTS)
    return [Point(x=step, y=value) for step, value in [*values[:-1:every], values[-1]]]


def spread(items: Sequence[T], number: int) -> list[T]:
    """At most `number` >= 2 of the items, evenly spread, the first and the last among them."""
    if len(items) <= number:
        return list(items)
    return [items[round(place * (len(items) - 1) / (number - 1))] for place in range(number)]


@dataclass(frozen=True, kw_only=True)
class SampleGrids:
    """The sample grids of a run, for a slider over its steps."""

    name: str
    grids: tuple[tuple[int, str], ...]
    """(step, data URI), in order."""
    of: int
    """How many there are, of which these are some."""


def sample_grids(trainings: Trainings) -> list[SampleGrids]:
    """Of every run that has some. Of many, those that are shown are evenly spread over the steps."""
    grids_of = {run.name: _grid_files(run.file.parent) for run in trainings[:COLORS]}
    grids_of = {name: files for name, files in grids_of.items() if files}
    most = max(_MAX_GRIDS // max(len(grids_of), 1), 2)
    return [
        SampleGrids(
            name=name,
            grids=tuple((step, data_uri(file)) for step, file in spread(files, most)),
            of=len(files),
        )
        for name, files in grids_of.items()
    ]


def _grid_files(run: Path) -> list[tuple[int, Path]]:
    named = ((re.fullmatch(r"step-(\d+)", file.stem), file) for file in (run / "samples").glob("step-*.png"))
    return sorted((int(match[1]), file) for match, file in named if match)


def grid_steps(grids: Iterable[SampleGrids]) -> list[int]:
    """The places of the slider."""
    return sorted({step for run in grids for step, _ in run.grids})
