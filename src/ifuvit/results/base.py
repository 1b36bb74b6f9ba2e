"""Numbers with how sure they are, and what all result files have."""

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

from ifuvit.utils.errors import InputError

Better = Literal["lower", "higher"]
Subject = Literal["distance", "alignment", "coverage", "counts"]
"""What a metric is about, in the order of tables. Distances and alignment scores are what the paper's tables have;
"coverage" is precision and recall."""
Values = Mapping[str, Any]
"""JSON values that are shown by name and not computed with."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number with how sure it is."""

    value: float
    interval: tuple[float, float] | None = None
    """95 %."""
    interval_from: str | None = None
    """What varies in it, as "bootstrap over images"."""
    n: int | None = None
    """How many of those."""

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.value, *(self.interval or ())))):
            raise InputError(f"{self.value} with interval {self.interval}: not finite numbers")


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The same number of real images: the floor of a distance, the score of real pairs."""

    value: float
    how: str
    """What was compared with what."""
    n: int | None = None


@dataclass(frozen=True, kw_only=True)
class Metric(Estimate):
    """A number that says how good images are, with all that is needed to show it and to compare it; from an estimate it is
    `Metric(**vars(estimate), name=..., ...)`."""

    name: str
    subject: Subject
    unit: Literal["", "share", "objects"] = ""
    """Shares are from 0 to 1; tables show them in percent."""
    better: Better | None
    decimals: int = 3
    """Worth showing where there is no interval."""
    reference: Reference | None = None
    decoded_reference: Reference | None = None
    """Of a distance: what the same real images get when the model's own autoencoder has encoded and decoded them, which a
    perfect backbone would reach. None where no autoencoder is known."""
    network: Values | None = None
    """{"name", "fingerprint", ...} of the network that it comes from."""
    values: tuple[float, ...] = ()
    """Of the single runs, where it is a mean over runs."""
    details: Values = field(default_factory=dict)
    """Further facts, as the prefix of captions or other scales of the same score."""


Metrics = tuple[Metric, ...]


def by_name(metrics: Iterable[Metric]) -> dict[str, Metric]:
    """Metrics by their names."""
    return {one.name: one for one in metrics}


def distinct(sets: Iterable[Iterable[Metric]]) -> list[Metric]:
    """The first metric of every name, by subject, else in the order in which they come."""
    found: dict[str, Metric] = {}
    for one in itertools.chain.from_iterable(sets):
        found.setdefault(one.name, one)
    return sorted(found.values(), key=lambda one: get_args(Subject).index(one.subject))


def in_common(sets: Iterable[Iterable[Metric]], name: str, *, decoded: bool = False) -> float | None:
    """The number of real images by a metric, where all sets that have it agree but for rounding; None otherwise. With
    `decoded`, of real images that the models' autoencoder has encoded and decoded."""
    found = [one.decoded_reference if decoded else one.reference for of in sets for one in of if one.name == name]
    known = [one.value for one in found if one is not None]
    return known[0] if known and all(math.isclose(value, known[0], rel_tol=1e-6) for value in known) else None


@dataclass(frozen=True, kw_only=True)
class Result:
    """What all result files have: the facts of `ifuvit.utils.files.manifest`."""

    kind: ClassVar[str]

    command: str
    ifuvit_version: str
    config: Values
    """The command's resolved configuration."""
    started: str | None = None
    finished: str | None = None
    machine: Values = field(default_factory=dict)
