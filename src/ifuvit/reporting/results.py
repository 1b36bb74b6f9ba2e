"""What other commands measured, as the report needs it."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number with how sure it is, as result files hold it."""

    value: float
    interval: tuple[float, float] | None = None
    """95 %."""
    interval_from: str | None = None
    n: int | None = None
    real: float | None = None
    """The same for real images: the floor of a distance, the score of real pairs."""
    real_how: str | None = None
    further: Mapping[str, Any] = field(default_factory=dict)


def real_of(sets: Iterable[Mapping[str, Estimate]], name: str) -> float | None:
    """What real images have by a metric, where all results that tell it agree but for rounding; None else."""
    told = [metrics[name].real for metrics in sets if name in metrics]
    known = [real for real in told if real is not None]
    return known[0] if known and all(math.isclose(real, known[0], rel_tol=1e-6) for real in known) else None


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where and how text enters a backbone."""

    conditioning: str
    n_text: int
    n_image: int | tuple[int, int]

    @property
    def fusion(self) -> str:
        """As the paper calls it; its ablations (Figure 7) have names of their own."""
        image_only = self.n_image not in (0, (0, 0))
        if self.n_text and image_only:
            return "intermediate"
        return "text block only" if self.n_text else "middle only" if image_only else "early"

    def __str__(self) -> str:
        n_image = self.n_image if isinstance(self.n_image, int) else "+".join(map(str, self.n_image))
        return f"{self.conditioning}, {self.fusion} [{self.n_text}, {n_image}]"


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Result of `ifuvit evaluate`."""

    file: Path
    name: str
    kind: str
    setting: Setting | None
    target: Mapping[str, Any]
    protocol: Mapping[str, Any]
    data: Mapping[str, Any]
    metrics: Mapping[str, Estimate]
    counts: Mapping[str, Any] | None
    all_kinds: Mapping[str, Any] | None
    relations: Mapping[str, Any] | None
    held_out: Mapping[str, Any]
    """Counts and relations of combinations that occur in no training image."""
    counter: Mapping[str, Any] | None
    costs: Mapping[str, Any]
    images: Path | None
    finished: str | None
    device: str | None

    def same_as(self, other: "Evaluation") -> bool:
        """Whether both judge the same weights in the same way."""
        known = self.target.get("sha256") is not None and self.target["sha256"] == other.target.get("sha256")
        return known and (self.protocol, self.data.get("sha256")) == (other.protocol, other.data.get("sha256"))


@dataclass(frozen=True, kw_only=True)
class Judgment:
    """Result of `ifuvit count judge`, or the like part of an evaluation."""

    file: Path
    name: str
    counts: Mapping[str, Any] | None
    relations: Mapping[str, Any] | None
    counter: Mapping[str, Any] | None
    thresholds: tuple[Mapping[str, Any], ...] = ()
    """Overall scores at other thresholds of a detector."""
    part: str = ""
    """Which prompts, where there are several sets of them."""
    about: str = ""
    images: str = ""
    """SHA-256 of the manifest of the images."""

    @property
    def title(self) -> str:
        return f"{self.name}, {self.part}" if self.part else self.name


@dataclass(frozen=True, kw_only=True)
class HumanStudy:
    """Result of `ifuvit study analyze`."""

    file: Path
    name: str
    kind: str
    """"count", "preference"."""
    answers: Mapping[str, int]
    raters: tuple[Mapping[str, Any], ...]
    least_passed: float
    everyone: Mapping[str, Any]
    without_flagged: Mapping[str, Any] | None
    """The same numbers without raters who failed attention checks; None if there are none."""
    counter: str | None
    """The automatic counter that people are compared with."""

    @property
    def flagged(self) -> int:
        """How many raters failed too many attention checks."""
        return sum(row["flagged"] for row in self.raters)

    @property
    def parts(self) -> dict[str, Mapping[str, Any]]:
        """The sets of numbers by title."""
        if self.without_flagged is None:
            return {"all raters": self.everyone}
        return {"all raters": self.everyone, "without flagged raters": self.without_flagged}


@dataclass(frozen=True, kw_only=True)
class SweepPoint:
    model: str
    guidance_scale: float
    result: Path | None
    metrics: Mapping[str, Estimate]


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Result of `ifuvit sweep`."""

    file: Path
    protocol: Mapping[str, Any]
    data: Mapping[str, Any]
    points: tuple[SweepPoint, ...]
    missing: int
    """Points that are not evaluated yet."""


@dataclass(frozen=True, kw_only=True)
class ExperimentRow:
    name: str
    setting: Setting
    guidance_scale: float | None
    seeds: tuple[int, ...]
    """Those that there are results of."""
    metrics: Mapping[str, Estimate]
    costs: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What the paper concludes, and what came out."""

    text: str
    metric: str
    difference: Estimate
    holds: bool
    clear: bool | None
    """Whether the difference's interval leaves out 0; None if it has none."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Result of `ifuvit experiment`."""

    file: Path
    name: str
    title: str
    scale: str
    seeds: tuple[int, ...]
    runs: tuple[Mapping[str, Any], ...]
    protocol: Mapping[str, Any]
    data: Mapping[str, Any]
    rows: tuple[ExperimentRow, ...]
    claims: tuple[Claim, ...]
    apart: str = ""
    """What tells it from others of its name and scale."""

    @property
    def trained(self) -> str:
        """How many seeds its rows have: "3 seeds"."""
        numbers = sorted({len(row.seeds) for row in self.rows}) or [0]
        told = " to ".join(str(number) for number in dict.fromkeys((numbers[0], numbers[-1])))
        return f"{told} seed" if told == "1" else f"{told} seeds"

    @property
    def points(self) -> tuple[SweepPoint, ...]:
        """Its rows as points of a sweep, if it has several guidance scales."""
        if len({row.guidance_scale for row in self.rows}) < 2:
            return ()
        return tuple(
            SweepPoint(model=row.name, guidance_scale=row.guidance_scale or 1.0, result=None, metrics=row.metrics)
            for row in self.rows
        )


@dataclass(frozen=True, kw_only=True)
class Training:
    """A training run's metrics.jsonl."""

    file: Path
    name: str
    loss: tuple[tuple[int, float], ...]
    validation: tuple[tuple[int, float], ...]
    evaluations: tuple[tuple[int, Mapping[str, Estimate]], ...]
    images: int | None
    """Images of each of the evaluations."""

    @property
    def steps(self) -> int:
        """The last step that the log tells of."""
        return max(entries[-1][0] for entries in (self.loss, self.validation, self.evaluations) if entries)


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Output of `ifuvit costs --json`."""

    file: Path
    rows: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Result of `ifuvit bench`."""

    file: Path
    action: str
    """"train", "sample", "prepare", "features", "growth"."""
    apart: str = ""
    """What tells it from others of the same action, in brackets."""
    machine: str
    choices: Mapping[str, Any]
    contests: Mapping[str, Mapping[str, Any]]
    """What was compared, by title: {"peak", "rows"}, and "growth" in that action's."""


@dataclass(frozen=True, kw_only=True)
class Images:
    """A directory of images with their prompts."""

    directory: Path
    name: str
    choices: Mapping[str, Any]
    """What decides, beside the model, how a image looks: seed, solver, steps, guidance scale."""
    images: tuple[tuple[int, str, str], ...]
    """(index, prompt, file name)."""


@dataclass(frozen=True, kw_only=True)
class Results:
    evaluations: tuple[Evaluation, ...] = ()
    judgments: tuple[Judgment, ...] = ()
    studies: tuple[HumanStudy, ...] = ()
    sweeps: tuple[Sweep, ...] = ()
    experiments: tuple[Experiment, ...] = ()
    trainings: tuple[Training, ...] = ()
    costs: tuple[Costs, ...] = ()
    benches: tuple[Bench, ...] = ()
    images: tuple[Images, ...] = ()

    @property
    def alone(self) -> list[Evaluation]:
        """Evaluations that are no part of an experiment."""
        inside = {(one.file.parent / run["result"]).resolve() for one in self.experiments for run in one.runs}
        return [one for one in self.evaluations if one.file.resolve() not in inside]
