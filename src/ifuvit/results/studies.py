"""Results of `ifuvit study`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ifuvit.results.base import Estimate, Result
from ifuvit.results.counting import Counter, Counts, CountScores
from ifuvit.utils.errors import InputError


@dataclass(frozen=True, kw_only=True)
class SelfConsistency:
    """How raters answered the same item twice."""

    repeats: int
    same: Estimate | None = None
    pairs_kept: Estimate | None = None
    """Of rankings: share of pairs of models in the same order."""
    difference: Estimate | None = None
    """Of counts: mean |first - second|."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far raters agree. None: not of this kind of study, or undefined."""

    krippendorffs_alpha: Estimate | None = None
    kendalls_w: Estimate | None = None
    rank_correlation: Estimate | None = None
    same: Estimate | None = None


@dataclass(frozen=True, kw_only=True)
class Slots:
    """Points by slot, and Friedman's test that the slot does not matter."""

    points: tuple[Estimate, ...]
    statistic: float | None = None
    p: float | None = None


@dataclass(frozen=True, kw_only=True)
class Preferences:
    """How raters rank models."""

    answers: int
    order: tuple[str, ...]
    """The models by strength."""
    points: Mapping[str, Estimate]
    win_rates: Mapping[str, Mapping[str, Estimate]]
    strengths: Mapping[str, Estimate]
    best: Mapping[str, Estimate]
    slots: Slots
    agreement: Agreement
    self_consistency: SelfConsistency

    def __post_init__(self) -> None:
        for name in ("points", "win_rates", "strengths", "best"):
            if missing := sorted(set(self.order) - getattr(self, name).keys()):
                raise InputError(f"{name}: {missing[0]!r} is missing")


@dataclass(frozen=True, kw_only=True)
class CellsWon:
    """Combinations of object and count in which one model has the better mean."""

    won: int
    tied: int
    lost: int
    cells: int


@dataclass(frozen=True, kw_only=True)
class PeopleAndCounter:
    """Both scores by people and by the counter, on the same images."""

    people: CountScores
    counter: CountScores


@dataclass(frozen=True, kw_only=True)
class CounterAgreement:
    """The automatic counter next to people."""

    images: int
    same: Estimate | None = None
    same_people: Estimate | None = None
    difference: Estimate | None = None
    absolute_difference: Estimate | None = None
    correlation: Estimate | None = None
    models: Mapping[str, PeopleAndCounter]


@dataclass(frozen=True, kw_only=True)
class ScoreDifferences:
    """Both counting scores of one model less those of another."""

    average_error: Estimate | None = None
    match_ratio: Estimate | None = None


@dataclass(frozen=True, kw_only=True)
class PeoplesCounts:
    """What raters counted."""

    answers: int
    models: Mapping[str, Counts]
    differences: Mapping[str, Mapping[str, ScoreDifferences]]
    cells_won: Mapping[str, Mapping[str, Mapping[str, CellsWon]]]
    agreement: Agreement
    self_consistency: SelfConsistency
    counter: CounterAgreement | None = None

    def __post_init__(self) -> None:
        for one in self.models:
            for other in self.models:
                told = self.cells_won.get(one, {}).get(other, {})
                if one != other and not ({"average_error", "match_ratio"} <= told.keys() and self._differ(one, other)):
                    raise InputError(f"models {one!r} and {other!r} are not compared")

    def _differ(self, one: str, other: str) -> bool:
        return other in self.differences.get(one, {})


@dataclass(frozen=True, kw_only=True)
class StudyFacts:
    """Which study was analyzed."""

    directory: str
    id: str
    title: str


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Of all tasks but repeats and attention checks."""

    expected: int
    answered: int
    cannot_tell: int
    skipped: int


@dataclass(frozen=True, kw_only=True)
class Rater:
    """What is known of one."""

    rater: str
    tasks: int
    answered: int
    not_told: int
    """Skipped, or "cannot tell"."""
    checks: int
    passed: int
    repeats: int
    same: int
    median_seconds: float | None = None
    fast: bool = False
    """Much faster than the others."""
    flagged: bool
    """Failed attention checks, or fast."""


@dataclass(frozen=True, kw_only=True)
class StudyAnalysis(Result):
    """What the answers of a human study say."""

    study: StudyFacts
    models: tuple[str, ...]
    items: int
    answers: Answers
    least_passed: float
    """Share of attention checks below which a rater is flagged."""
    least_pace: float = 0.0
    """Share of the raters' median time below which one is flagged."""
    raters: tuple[Rater, ...]
    counter: Counter | None = None
    """The automatic counter that people are compared with."""

    @property
    def name(self) -> str:
        return Path(self.study.directory).name or self.study.title

    @property
    def flagged(self) -> int:
        """How many raters failed too many attention checks, or were too fast."""
        return sum(row.flagged for row in self.raters)


@dataclass(frozen=True, kw_only=True)
class PreferenceStudy(StudyAnalysis):
    """Raters ranked the models' images of the same prompt."""

    kind = "preference study"

    everyone: Preferences
    without_flagged: Preferences | None = None
    """The same numbers without flagged raters; None if there are none."""


@dataclass(frozen=True, kw_only=True)
class CountStudy(StudyAnalysis):
    """Raters counted objects."""

    kind = "count study"

    everyone: PeoplesCounts
    without_flagged: PeoplesCounts | None = None
    """The same numbers without flagged raters; None if there are none."""


@dataclass(frozen=True, kw_only=True)
class AspectRatings:
    """How raters rate models by one aspect, from 1 to 5."""

    means: Mapping[str, Estimate]
    shares: Mapping[str, Mapping[str, float]]
    """By model, the share of answers of every rating."""
    differences: Mapping[str, Mapping[str, Estimate | None]]
    """The mean of one model less that of another."""
    agreement: Agreement


@dataclass(frozen=True, kw_only=True)
class PeoplesRatings:
    """How raters rate images."""

    answers: int
    aspects: Mapping[str, AspectRatings]
    self_consistency: SelfConsistency


@dataclass(frozen=True, kw_only=True)
class RatingStudy(StudyAnalysis):
    """Raters rated every image by aspect."""

    kind = "rating study"

    everyone: PeoplesRatings
    without_flagged: PeoplesRatings | None = None
    """The same numbers without flagged raters; None if there are none."""
