"""Results of `ifuvit evaluate` and `ifuvit generate`."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ifuvit.results.base import Metrics, Result, Values
from ifuvit.results.counting import Counter, ObjectCounts, SecondCount
from ifuvit.results.models import Costs, ReferenceData, Target
from ifuvit.utils.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Evaluation(Result):
    """One model or directory of images under one protocol."""

    kind = "evaluation"

    target: Target
    protocol: Values
    """The resolved protocol; its "name" says whether it was changed."""
    data: ReferenceData | None = None
    """None where nothing was compared with reference images."""
    metrics: Metrics
    objects: Mapping[str, ObjectCounts] = field(default_factory=dict)
    """By set of counting prompts (`ifuvit.metrics.counting.prompts`); of a directory's images, "captions"."""
    counter: Counter | None = None
    second_counts: tuple[SecondCount, ...] = ()
    """What further counters found in the same images."""
    costs: Costs | None = None
    evaluators: Mapping[str, Values] = field(default_factory=dict)
    """What decided the numbers, by evaluator: networks with their hashes."""
    images: str | None = None
    """Directory of the captions' images, relative to the file."""
    processes: int = 1
    device: str | None = None

    def __post_init__(self) -> None:
        _check_protocol(self.protocol)

    @property
    def guidance_scale(self) -> float:
        """Of the captions' images.

        Raises:
            InputError: the protocol has none.
        """
        sampling = self.protocol.get("sampling")
        scale = sampling.get("guidance_scale") if isinstance(sampling, Mapping) else None
        if not isinstance(scale, (int, float)):
            raise InputError(f"{self.target.name}: its protocol has no guidance scale")
        return float(scale)


@dataclass(frozen=True, kw_only=True)
class SweepPoint:
    """One model at one guidance scale."""

    model: str
    guidance_scale: float
    result: str | None = None
    """Its `Evaluation`, relative to the sweep's file."""
    metrics: Metrics = ()


@dataclass(frozen=True, kw_only=True)
class Sweep(Result):
    """Several models at several guidance scales, on the same captions and noise. Valid while points are missing."""

    kind = "sweep"

    protocol: Values | None = None
    """Of the first point; None before there is one, as is `data`."""
    data: ReferenceData | None = None
    points: tuple[SweepPoint, ...]
    missing: tuple[SweepPoint, ...] = ()
    """Those that are not evaluated yet."""

    def __post_init__(self) -> None:
        if self.protocol is not None:
            _check_protocol(self.protocol)

    @property
    def complete(self) -> bool:
        return not self.missing


@dataclass(frozen=True, kw_only=True)
class GeneratedImages(Result):
    """The manifest of a directory of images with their prompts, of `ifuvit generate` or an evaluation."""

    kind = "generated images"

    @dataclass(frozen=True, kw_only=True)
    class Image:
        file: str
        prompt: str
        index: int
        """Of its noise."""
        draws: int = 1
        """How often it was drawn."""
        verified: bool | None = None
        """Whether the counter found what the prompt asks for; None where it cannot read it, or was not asked."""

    model: str
    """Its name."""
    sha256: str | None = None
    """Of the backbone's weights."""
    seed: int
    sampling: Values
    """The resolved sampling settings."""
    images: tuple[Image, ...]
    complete: bool = True
    """False while they are being generated."""
    encoders: Values = field(default_factory=dict)
    device: str | None = None
    verified_by: Values | None = None
    """{"counter", "sha256", "redraws"} where images were drawn again until a counter agreed. They are chosen: no evaluation
    takes them."""

    @property
    def verification(self) -> str:
        """What became of it, in words; empty where nothing was verified."""
        if self.verified_by is None:
            return ""
        told = [one.verified for one in self.images if one.verified is not None]
        redrawn = sum(one.draws > 1 for one in self.images)
        return (
            f"chosen by the counter: {sum(told)} of {len(told)} images show what was asked, {redrawn} were drawn again, "
            f"{len(self.images) - len(told)} have prompts that it cannot read"
        )


def _check_protocol(protocol: Values) -> None:
    if not isinstance(protocol.get("name"), str):
        raise InputError("protocol: field 'name' is missing")
