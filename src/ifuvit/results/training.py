"""A training's log, and the output of `ifuvit costs`."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ifuvit.results.base import Metrics, Values
from ifuvit.results.models import Gflops, GuidedStepGflops
from ifuvit.utils.config import from_dict
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import read_json


@dataclass(frozen=True, kw_only=True)
class TrainingEvaluation:
    """What a line of a run's metrics.jsonl has under "evaluation"."""

    images: int
    guidance_scale: float
    steps: int
    """Of the solver."""
    solver: str | None = None
    initial_latents: str | None = None
    """Which ones; None in logs of before they were recorded."""
    metrics: Metrics


@dataclass(frozen=True, kw_only=True)
class TrainingRecord:
    """A training run's metrics.jsonl, as far as it is shown. Other keys of its lines are free."""

    loss: tuple[tuple[int, float], ...]
    validation: tuple[tuple[int, float], ...]
    evaluations: tuple[tuple[int, TrainingEvaluation], ...]
    speed: tuple[tuple[int, float], ...] = ()
    """(step, steps a second up to there since the entry before)."""
    levels: tuple[tuple[int, Mapping[str, float]], ...] = ()
    """(step, the validation loss by band of the noise level, as "0.3-0.4")."""
    learning_rate: tuple[tuple[int, float], ...] = ()
    gradient_norm: tuple[tuple[int, float], ...] = ()
    batch_size: float | None = None
    """Images a step; None where the log does not say."""

    def seconds_at(self, step: int) -> float:
        """Seconds of training up to a step, without evaluations, validation and saving: from the speeds of the log, and after
        its last entry from that one's.

        Raises:
            InputError: the log has no speeds.
        """
        if not self.speed:
            raise InputError("the log of the training has no steps_per_second")
        seconds, done = 0.0, 0
        for until, speed in (*self.speed, (step, self.speed[-1][1])):
            until = min(until, step)
            seconds += max(until - done, 0) / speed
            done = max(until, done)
        return seconds

    @property
    def steps(self) -> int:
        """The last step of the log."""
        return max(entries[-1][0] for entries in (self.loss, self.validation, self.evaluations) if entries)


_CURVES = ("loss", "validation_loss", "steps_per_second", "learning_rate", "gradient_norm")
"""Keys of the lines of metrics.jsonl with one number."""


def read_training(file: Path) -> TrainingRecord | None:
    """The log of `ifuvit train`; None for an empty one, or one of something else that is trained.

    Raises:
        InputError: a line that is not of this form. The last one may be cut short, for the run may go on.
    """
    curves: dict[str, list[tuple[int, float]]] = {name: [] for name in _CURVES}
    evaluations, levels, batch_size, last = [], [], None, 0
    lines = _text(file).split("\n")
    for number, text in enumerate(lines, start=1):
        where = f"{file}: line {number}"
        if not text:
            continue
        try:
            line = json.loads(text)
        except (json.JSONDecodeError, RecursionError):
            if number == len(lines):
                break
            raise InputError(f"{where}: not JSON") from None
        if not isinstance(line, dict):
            raise InputError(f"{where}: not an object")
        if "psnr" in line:  # an autoencoder's
            return None
        step = line.get("step")
        if type(step) is not int:
            raise InputError(f"{where}: 'step' is not a whole number")
        if step < last:
            raise InputError(f"{where}: step {step} comes after step {last}; it is not the log of one run")
        last = step
        for key, values in curves.items():
            if key in line:
                values.append((step, _finite(line[key], f"{where}: {key!r}")))
        if "validation_loss_by_noise_level" in line:
            of_bands = line["validation_loss_by_noise_level"]
            if not isinstance(of_bands, dict):
                raise InputError(f"{where}: 'validation_loss_by_noise_level' is not an object")
            levels.append((step, {band: _finite(one, f"{where}: {band!r}") for band, one in of_bands.items()}))
        if "samples" in line and step > 0:
            batch_size = _finite(line["samples"], f"{where}: 'samples'") / step
        if "evaluation" in line:
            told = from_dict(TrainingEvaluation, line["evaluation"], where=f"{where}: evaluation")
            evaluations.append((step, told))
    if not (curves["loss"] or curves["validation_loss"] or evaluations):
        return None
    return TrainingRecord(
        loss=tuple(curves["loss"]),
        validation=tuple(curves["validation_loss"]),
        evaluations=tuple(evaluations),
        speed=tuple((step, one) for step, one in curves["steps_per_second"] if one > 0),
        levels=tuple(levels),
        learning_rate=tuple(curves["learning_rate"]),
        gradient_norm=tuple(curves["gradient_norm"]),
        batch_size=batch_size,
    )


def _finite(value: Any, where: str) -> float:
    if not (isinstance(value, float | int) and math.isfinite(value)):
        raise InputError(f"{where} is not a number")
    return float(value)


@dataclass(frozen=True, kw_only=True)
class TrainingMemory:
    """Of one step on one GPU, counted: {"peak": bytes, ...} with and without activation checkpointing."""

    batch_size: int
    precision: str
    plain: Values
    checkpointed: Values

    def __post_init__(self) -> None:
        for name in ("plain", "checkpointed"):
            if type(getattr(self, name).get("peak")) is not int:
                raise InputError(f"{name}: 'peak' is not a number of bytes")


@dataclass(frozen=True, kw_only=True)
class CountedCosts:
    """A row of `ifuvit costs --json`, which maps names of presets to rows and has no schema number."""

    parameters: int
    gflops: Gflops
    guided_step_gflops: GuidedStepGflops
    training_memory: TrainingMemory | None = None
    gpus: Mapping[str, Values] = field(default_factory=dict)
    """Memory and days of a training by number of GPUs."""


def read_costs(file: Path) -> dict[str, CountedCosts]:
    """The output of `ifuvit costs --json`.

    Raises:
        InputError: missing, broken, or something else.
    """
    value = read_json(file)
    if not isinstance(value, dict):
        raise InputError(f"{file}: not the output of `ifuvit costs --json`")
    return {str(name): from_dict(CountedCosts, row, where=f"{file}: {name}") for name, row in value.items()}


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{file}: no such file") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not UTF-8 text ({error})") from None
