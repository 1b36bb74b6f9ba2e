"""How long training takes until images are right: learning curves of runs, from the evaluations in their logs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ifuvit.benchmarks.config import BenchQualityConfig
from ifuvit.results import LearningCurve, LearningCurves, LearningPoint, by_name, read_training, write
from ifuvit.utils.config import to_dict
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import manifest, now, read_object

MARKS = {"counts": (0.8, 0.9, 0.95), "relations": (0.5, 0.8, 0.9)}
"""Shares of right images that are looked for."""
METRICS = {"counts": "right kind and count", "relations": "relation"}
"""The metrics of them in a run's evaluations."""


def bench_quality(config: BenchQualityConfig) -> LearningCurves:
    """Read the learning curves of runs, and write them to `config.out`.

    Raises:
        InputError: no run, or one without evaluations that count objects.
    """
    started = now()
    names = [run.resolve().name for run in config.runs]
    result = LearningCurves(
        **manifest("bench quality", to_dict(config), started=started),
        curves=tuple(
            learning_curve(run, name if names.count(name) == 1 else str(run)) for run, name in zip(config.runs, names)
        ),
    )
    write(config.out, result)
    return result


def learning_curve(run: Path, name: str) -> LearningCurve:
    """The learning curve of a run directory of `ifuvit train`."""
    log = run / "metrics.jsonl"
    if not log.is_file():
        raise InputError(f"{run}: holds no run of `ifuvit train` (no metrics.jsonl)")
    record = read_training(log)
    points = []
    for step, told in record.evaluations if record else ():
        metrics = by_name(told.metrics)
        found = {what: metrics[metric] for what, metric in METRICS.items() if metric in metrics}
        if found:
            assert record is not None
            points.append(LearningPoint(step=step, minutes=record.seconds_at(step) / 60, **found))
    if not points:
        raise InputError(
            f"{run}: has no evaluation that counts objects; train with --evaluate-every N --evaluate-data SCENES"
        )
    return LearningCurve(
        name=name,
        run=str(run),
        recipe=_object_in(run / "config.json", "config", "recipe"),
        machine=_object_in(run / "manifest.json", "machine"),
        points=tuple(points),
        minutes_to={what: {f"{mark:g}": minutes_to(points, what, mark) for mark in MARKS[what]} for what in MARKS},
    )


def _object_in(file: Path, *names: str) -> dict[str, Any]:
    """An object inside those of a JSON file; empty without the file or the field.

    Raises:
        InputError: something else is there.
    """
    value: Any = read_object(file) if file.is_file() else {}
    for name in names:
        value = value.get(name, {})
        if not isinstance(value, dict):
            raise InputError(f"{file}: {name!r} holds a {type(value).__name__}, not an object with fields")
    return value


def minutes_to(points: Sequence[LearningPoint], what: str, mark: float) -> float | None:
    """Minutes of training until a share of right images first reaches a mark, straight between two evaluations; those of the
    first evaluation if it is there already, None if no evaluation is."""
    before: tuple[float, float] | None = None
    for point in points:
        if (share := getattr(point, what)) is None:
            continue
        if share.value >= mark:
            if before is None:
                return point.minutes
            minutes, value = before
            return minutes + (mark - value) / (share.value - value) * (point.minutes - minutes)
        before = point.minutes, share.value
    return None


def quality_table(result: LearningCurves) -> str:
    """The minutes to every mark, a line for each run."""
    columns = [(what, f"{mark:g}") for what in MARKS for mark in MARKS[what]]
    lines = [["minutes of training to", *(f"{what} {100 * float(mark):g} %" for what, mark in columns), "at the end"]]
    for curve in result.curves:
        last = curve.points[-1]
        reached = [curve.minutes_to[what][mark] for what, mark in columns]
        ends = [f"{what} {100 * one.value:.0f} %" for what in MARKS if (one := getattr(last, what)) is not None]
        lines.append(
            [
                curve.name,
                *("-" if minutes is None else f"{minutes:.1f}" for minutes in reached),
                f"{', '.join(ends)} after {last.minutes:.1f}",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)
