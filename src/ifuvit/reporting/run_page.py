"""RUN/run.html, the page of a training run while it trains and after it: it needs no other file and no server.

It is made from RUN/config.json, metrics.jsonl and samples/ with the plots of the report, so `ifuvit report RUN` shows the same of
a run that has none.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ifuvit.reporting import training_section
from ifuvit.reporting.collection import Item
from ifuvit.reporting.tables import number
from ifuvit.reporting.templating import environment
from ifuvit.results import Metric, Metrics, TrainingRecord, read_training
from ifuvit.utils.files import now, package_version, read_object, reading, write_text

State = Literal["training", "finished", "stopped", "failed"]

# Entries of the log over whose speeds the time left is estimated.
_RECENT = 10


@dataclass(frozen=True, kw_only=True)
class _Tile:
    label: str
    value: str
    note: str = ""


def write_run_page(run: Path, *, step: int, state: State, why: str = "") -> Path:
    """Write RUN/run.html and return it.

    Args:
        run: the run directory.
        step: steps done.
        state: a page of a run that is "training" loads itself again, and says when it has had no news for long.
        why: what stopped it or made it fail.

    Raises:
        InputError: config.json or metrics.jsonl is missing or broken.
    """
    begun = read_object(run / "config.json")
    with reading(run / "config.json"):
        config: Mapping[str, Any] = begun["config"]
        about, steps = _about(begun), int(config["steps"])
    record = read_training(run / "metrics.jsonl") or TrainingRecord(loss=(), validation=(), evaluations=())
    item = Item(file=run / "metrics.jsonl", result=record, name=run.resolve().name)
    grids = training_section.sample_grids([item])
    page = (
        environment()
        .get_template("run.html.j2")
        .render(
            name=item.name,
            about=about,
            state=state,
            why=why,
            step=step,
            steps=steps,
            tiles=_tiles(record, step, steps, state),
            plots=training_section.training_plots([item]),
            tables=training_section.training_tables([item]),
            grids=grids,
            grid_steps=training_section.grid_steps(grids),
            settings=_flat(config),
            written=time.time(),
            made=now(),
            version=package_version(),
        )
    )
    write_text(run / "run.html", page)
    return run / "run.html"


def _about(begun: Mapping[str, Any]) -> str:
    recipe = begun["config"]["recipe"]
    model = recipe["model"]
    return (
        f"{model['conditioning']}, [n_text, n_image] = [{model['n_text']}, {model['n_image']}], depth {model['depth']}, width "
        f"{model['embed_dim']}; {recipe['objective']['name']}, {recipe['optimizer']['name']}, batches of "
        f"{recipe['batches']['batch_size']}, {begun['training_images']:,} images"
    )


def _tiles(record: TrainingRecord, step: int, steps: int, state: State) -> list[_Tile]:
    tiles = [_Tile(label="steps done", value=f"{step:,}", note=f"of {steps:,}, {100 * step / steps:.0f} %")]
    recent = [speed for _, speed in record.speed[-_RECENT:]]
    if recent:
        seconds = sum(1 / speed for speed in recent) / len(recent)  # a step
        if state == "training":
            note = "at the present speed, without validation, evaluation and samples"
            tiles.append(_Tile(label="time left", value=duration((steps - step) * seconds), note=note))
        tiles.append(
            _Tile(label="time trained", value=duration(record.seconds_at(step)), note=f"{seconds:.3g} s a step")
        )
    for label, values in (("training loss", record.loss), ("validation loss", record.validation)):
        if values:
            tiles.append(_Tile(label=label, value=f"{values[-1][1]:.4g}", note=f"at step {values[-1][0]:,}"))
    if recent and record.batch_size is not None:
        tiles.append(_Tile(label="images a second", value=f"{record.batch_size / seconds:.3g}"))
    if record.learning_rate:
        tiles.append(_Tile(label="learning rate", value=f"{record.learning_rate[-1][1]:.3g}"))
    if record.evaluations:
        at, evaluation = record.evaluations[-1]
        for one in _foremost(evaluation.metrics):
            scale, unit, decimals = (100, " %", 1) if one.unit == "share" else (1, "", one.decimals)
            bounds = [number(scale * bound, decimals) for bound in one.interval or ()]
            note = f"[{', '.join(bounds)}], step {at:,}" if bounds else f"step {at:,}"
            tiles.append(_Tile(label=one.name, value=number(scale * one.value, decimals) + unit, note=note))
    return tiles


def _foremost(metrics: Metrics) -> list[Metric]:
    """The first distance and alignment score, and the first two counts: of scenes, right counts and relations."""
    found = {subject: [one for one in metrics if one.subject == subject] for subject in training_section.CURVED}
    return [*found["distance"][:1], *found["alignment"][:1], *found["counts"][:2]]


def duration(seconds: float) -> str:
    """As people say it."""
    minutes, hours = seconds / 60, seconds / 3600
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 90:
        return f"{minutes:.0f} min"
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} days"


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Sections as "section.field"."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            shown = (
                ", ".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)
            )
            flat[f"{prefix}{name}"] = shown
    return flat
