"""Results of `ifuvit analyze`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ifuvit.results.base import Estimate, Result
from ifuvit.results.models import Target


@dataclass(frozen=True, kw_only=True)
class Measurement(Estimate):
    """One number of an analysis: of a model, and where they matter of a block and of noise levels."""

    model: str
    quantity: str
    """What was measured, as "attention share"."""
    of: str = ""
    """Of what, or under which condition, as "content" or "shuffled captions"."""
    block: str | None = None
    """None for a number of the whole model."""
    levels: tuple[float, float] | None = None
    """The band of noise levels; None for all of them."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A sentence that an analysis tests, and what came out."""

    model: str
    claim: str
    verdict: Literal["held", "not held", "undecided"]
    difference: Estimate
    """What decides: above 0 if the claim holds. Undecided where its interval contains 0."""
    text: str
    """The numbers in a sentence."""


@dataclass(frozen=True, kw_only=True)
class Analysis(Result):
    """Why a model does what it does: one action of `ifuvit analyze` on one or several models."""

    kind = "analysis"

    action: Literal["attention", "rank", "ablate", "probe", "information"]
    models: tuple[Target, ...]
    blocks: Mapping[str, tuple[str, ...]]
    """The analyzed blocks of each model in their order."""
    bands: tuple[tuple[float, float], ...]
    """Of noise levels; 1 is pure noise."""
    prompts: tuple[str, ...] = ()
    measurements: tuple[Measurement, ...]
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    """Rules that decided the numbers, as which tokens are sinks."""
    arrays: Mapping[str, str] = field(default_factory=dict)
    """The .npz file with the raw arrays of each model, relative to this file."""
    images: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The image files of each model, one for each prompt, relative to this file."""

    def of(self, quantity: str, **fields: Any) -> list[Measurement]:
        """The measurements of a quantity whose fields have these values, in order."""
        return [
            one
            for one in self.measurements
            if one.quantity == quantity and all(getattr(one, name) == value for name, value in fields.items())
        ]
