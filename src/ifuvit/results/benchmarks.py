"""Results of `ifuvit bench`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ifuvit.results.base import Estimate, Metric, Result, Values
from ifuvit.utils.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Ratio(Estimate):
    """The median over rounds of a ratio of two times of the same round."""

    quartiles: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Speedup(Ratio):
    """How many times as fast as another case."""

    over: str


@dataclass(frozen=True, kw_only=True)
class Seconds:
    """Of a step."""

    median: float
    quartiles: tuple[float, float]
    rounds: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class TimedCase:
    """One benchmark case."""

    name: str
    seconds: Seconds
    steps_per_round: int
    steps_per_second: float
    items: int
    """Per step."""
    unit: str
    """Of items, as "images"."""
    items_per_second: float
    flops: float | None = None
    """Per step."""
    flops_per_second: float | None = None
    share_of_peak: float | None = None
    peak_memory: int | None = None
    """Bytes."""
    speedup: Speedup | None = None


@dataclass(frozen=True, kw_only=True)
class Peak:
    """FLOP/s of the fastest matrix product of the models' sizes in the same rounds."""

    flops_per_second: float
    of: str
    products: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ScalingPoint:
    """A backbone with another size, relative to its own."""

    value: int
    flops: float
    relative_flops: float
    relative_seconds: Ratio


@dataclass(frozen=True, kw_only=True)
class ScalingSeries:
    """One backbone along an axis."""

    at: int
    """Its own size."""
    points: tuple[ScalingPoint, ...]
    exponent: Ratio | None = None
    """e of seconds ~ FLOPs ** e; None where FLOPs hardly change."""


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """How time follows operations."""

    axis: Literal["image-tokens", "text-tokens", "depth"]
    steps: Literal["train", "sample"]
    settings: Mapping[str, ScalingSeries]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Cases that were timed in the same rounds."""

    rows: tuple[TimedCase, ...]
    peak: Peak | None = None
    scaling: Scaling | None = None
    differences: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Of results, from the code or the way that a case is compared with."""

    def __post_init__(self) -> None:
        if not self.rows:
            raise InputError("rows: there are none")


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """Where and how precisely was computed."""

    device: str
    name: str
    torch: str
    cuda: str | None = None
    threads: int
    float32_matmul_precision: str | None = None
    bf16_instructions: bool | None = None
    """Of a processor."""


@dataclass(frozen=True, kw_only=True)
class Benchmark(Result):
    """Result of `ifuvit bench`."""

    kind = "benchmark"

    action: Literal["train", "sample", "generate", "onnx", "scaling"]
    hardware: Hardware
    process_peak_memory: int
    """Bytes."""
    comparisons: Mapping[str, Comparison]
    """By title."""
    reference: Values | None = None
    """Facts of the other code that was timed."""


@dataclass(frozen=True, kw_only=True)
class LearningPoint:
    """An evaluation while a run trained."""

    step: int
    minutes: float
    """Of training up to there."""
    counts: Metric | None = None
    """Share of images of counting prompts with exactly the asked objects."""
    relations: Metric | None = None
    """Share of images of relation prompts with one of each kind, rightly placed."""


@dataclass(frozen=True, kw_only=True)
class LearningCurve:
    """What a run had learned when."""

    name: str
    run: str
    recipe: Values = field(default_factory=dict)
    """Its training recipe."""
    machine: Values = field(default_factory=dict)
    """Where it trained."""
    points: tuple[LearningPoint, ...]
    minutes_to: Mapping[str, Mapping[str, float | None]]
    """"counts" and "relations": by share of right images, the minutes until it is first reached; None if it is not."""

    def __post_init__(self) -> None:
        if not self.points:
            raise InputError("points: there are none")
        for of in self.minutes_to.values():
            for mark in of:
                if not mark.replace(".", "", 1).isdecimal():
                    raise InputError(f"minutes_to: {mark!r} is not a share")


@dataclass(frozen=True, kw_only=True)
class LearningCurves(Result):
    """Result of `ifuvit bench quality`: runs side by side."""

    kind = "learning curves"

    curves: tuple[LearningCurve, ...]

    def __post_init__(self) -> None:
        if not self.curves:
            raise InputError("curves: there are none")
