"""Cost estimate: what is left of an experiment, and how long that takes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ifuvit.experiments.definition import Experiment, Scale
from ifuvit.utils.files import read_json, reading

if TYPE_CHECKING:
    from ifuvit.training.config import TrainConfig


class Stage(NamedTuple):
    """A part of an experiment: the call of one command."""

    what: str
    done: Callable[[], bool]
    """Whether its result is on the disk."""
    work: Callable[[], None]
    """Does it, or resumes it."""
    seconds: float
    """Estimated time left."""
    place: Path
    """What no two calls do at the same time: the data, or a run."""
    run: tuple[str, int] | None = None
    """Setting and seed, where it is of a single run, which may fail without the others."""


class TrainingSpeed(NamedTuple):
    """How fast runs train, to predict others by their FLOPs."""

    flops_per_second: float
    source: str
    """What it was measured on."""

    @classmethod
    def of(cls, scale: Scale, finished: "Sequence[TrainConfig]") -> "TrainingSpeed":
        """Of finished runs; without any, as measured for the scale."""
        seconds = 0.0
        for config in finished:
            with reading(config.out / "manifest.json"):
                seconds += float(read_json(config.out / "manifest.json")["training_seconds"])
        if not seconds:
            return cls(scale.training_gflops_per_second * 1e9, scale.machine)
        several = "s" if len(finished) > 1 else ""
        return cls(sum(map(_training_flops, finished)) / seconds, f"{len(finished)} finished run{several} here")

    def seconds_left(self, config: "TrainConfig") -> float:
        """For the steps after a run's newest checkpoint."""
        from ifuvit.training.checkpoint import saved_steps

        done = max(saved_steps(config.out), default=0)
        return (1 - done / config.steps) * _training_flops(config) / self.flops_per_second


def _training_flops(config: "TrainConfig") -> float:
    from ifuvit.model.flops import training_flops

    recipe = config.recipe
    return float(training_flops(recipe.model, recipe.batches.batch_size) * config.steps)


def overview(experiment: Experiment, scale: Scale, seeds: int, stages: Sequence[Stage], speed: TrainingSpeed) -> str:
    """Every stage with its estimated time, if it is not done."""
    lines = [
        f"{experiment.name}: {experiment.title} ({len(experiment.settings)} settings x {seeds} seeds)",
        f"scale {scale.name}: {scale.about}",
        "",
    ]
    left = 0.0
    for stage in stages:
        done = stage.done()
        left += 0 if done else stage.seconds
        lines.append(
            f"  {'done' if done else 'missing':<8} {stage.what:<72} {'' if done else _duration(stage.seconds):>9}".rstrip()
        )
    told = f"missing: about {_duration(left)}; training speed of {speed.source}, all else estimated"
    return "\n".join([*lines, "", told if left else "nothing is missing"])


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
