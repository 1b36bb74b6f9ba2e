"""Results of `ifuvit experiment`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ifuvit.results.base import Estimate, Metrics, Result, Values
from ifuvit.results.evaluation import SweepPoint, _check_protocol
from ifuvit.results.models import Costs, ReferenceData, Setting
from ifuvit.utils.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ExperimentRun:
    """One setting with one seed; the paths are relative to the experiment's file."""

    setting: str
    seed: int
    run: str
    result: str
    status: Literal["done", "missing", "failed"]
    reason: str | None = None
    """Why it failed, when it was last tried."""


@dataclass(frozen=True, kw_only=True)
class ExperimentRow:
    """Means over seeds of one setting at one guidance scale."""

    name: str
    setting: Setting
    in_the_paper: tuple[int, int | tuple[int, int]]
    """[N_text, N_image] at the paper's depth."""
    guidance_scale: float
    seeds: tuple[int, ...]
    """Those that there are results of."""
    metrics: Metrics
    costs: Costs = Costs()


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the paper claims of two settings, and what came out."""

    claim: str
    better: str
    worse: str
    metric: str
    difference: Estimate
    """better - worse, seed by seed: the mean with Student's interval; one seed has none."""
    differences: tuple[float, ...] = ()
    """By seed, where there are several."""
    verdict: Literal["holds", "does not hold", "undecided"]
    """Holds: the interval has the claimed sign throughout; does not hold: the other one; else undecided."""


@dataclass(frozen=True, kw_only=True)
class Elbow:
    """Where a curve of distance against alignment over guidance scales bends most."""

    setting: str
    guidance_scale: float | None
    """Of the means over seeds; None if the curve does not bend toward low distances."""
    by_seed: tuple[float | None, ...]
    in_the_paper: float
    verdict: Literal["holds", "does not hold", "undecided"]
    """Of the paper's: it holds if all of three seeds or more have it, and does not if none of them has."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """The paper's numbers by setting and metric."""

    source: str
    rows: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, kw_only=True)
class ExperimentResult(Result):
    """Settings trained and evaluated alike. Valid while runs are missing."""

    kind = "experiment"

    name: str
    title: str
    scale: str
    recipe: str = ""
    """Which training recipe: "modern" or "paper"; "" in files from before there were two."""
    equal: Literal["width", "flops", "parameters"] = "width"
    """What the settings have in common; for the last two their widths differ."""
    seeds: tuple[int, ...]
    protocol: Values | None = None
    data: ReferenceData | None = None
    runs: tuple[ExperimentRun, ...]
    headline: Mapping[str, str]
    """The metric's name for each quantity that claims compare."""
    table: tuple[ExperimentRow, ...]
    verdicts: tuple[Verdict, ...] = ()
    elbows: tuple[Elbow, ...] = ()
    expected: Expected

    def __post_init__(self) -> None:
        if not self.seeds:
            raise InputError("seeds: there are none")
        if self.protocol is not None:
            _check_protocol(self.protocol)

    @property
    def complete(self) -> bool:
        return all(run.status == "done" for run in self.runs)

    @property
    def points(self) -> tuple[SweepPoint, ...]:
        """Its rows as points of a sweep, if it has several guidance scales."""
        if len({row.guidance_scale for row in self.table}) < 2:
            return ()
        return tuple(
            SweepPoint(model=row.name, guidance_scale=row.guidance_scale, metrics=row.metrics) for row in self.table
        )
