"""What counting objects in images gives."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ifuvit.results.base import Better, Estimate, Values
from ifuvit.utils.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Score:
    """How a field of `CountScores` or `RelationScores` is shown."""

    title: str
    unit: Literal["share", "objects"]
    better: Better


COUNT_SCORES: Mapping[str, Score] = {
    "right_kind": Score(title="right kind", unit="share", better="higher"),
    "right_count": Score(title="right number", unit="share", better="higher"),
    "right": Score(title="both", unit="share", better="higher"),
    "average_error": Score(title="average error", unit="objects", better="lower"),
    "match_ratio": Score(title="match ratio", unit="share", better="higher"),
    "right_ground": Score(title="right ground", unit="share", better="higher"),
}
RELATION_SCORES: Mapping[str, Score] = {
    "both_kinds": Score(title="both kinds", unit="share", better="higher"),
    "right_objects": Score(title="right objects", unit="share", better="higher"),
    "right": Score(title="and relation", unit="share", better="higher"),
    "placed_if_both_kinds": Score(title="relation if both kinds", unit="share", better="higher"),
    "right_ground": Score(title="right ground", unit="share", better="higher"),
}


@dataclass(frozen=True, kw_only=True)
class CountScores:
    """Scores of a group of images by the number of objects in them; docs/counting.md explains each. None: not measured."""

    images: int
    answers: int | None = None
    """How many people's answers, where people counted."""
    right_kind: Estimate | None = None
    right_count: Estimate | None = None
    right: Estimate | None = None
    average_error: Estimate | None = None
    """Mean |counted - asked| (the paper's Eq. 9)."""
    match_ratio: Estimate | None = None
    """Share with counted = asked (Eq. 10)."""
    right_ground: Estimate | None = None
    """Of the images whose prompt names a ground."""


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """How many images of each asked count show how many objects."""

    counted: tuple[str, ...]
    asked: Mapping[str, tuple[int, ...]]

    def __post_init__(self) -> None:
        for asked, row in self.asked.items():
            if len(row) != len(self.counted):
                raise InputError(f"row {asked!r} has {len(row)} numbers under {len(self.counted)} headings")


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Counting scores of images of one kind of object each, over all and by group."""

    overall: CountScores
    by_count: Mapping[str, CountScores]
    by_object: Mapping[str, CountScores] = field(default_factory=dict)
    by_combination: Mapping[str, CountScores] = field(default_factory=dict)
    """"in training" and "held out"."""
    cells: Mapping[str, Mapping[str, CountScores]] = field(default_factory=dict)
    """By object and asked count."""
    confusion: Confusion | None = None

    def __post_init__(self) -> None:
        for counts in (self.by_count, *self.cells.values()):
            if wrong := [count for count in counts if not count.isdecimal()]:
                raise InputError(f"{wrong[0]!r} is not a count")


@dataclass(frozen=True, kw_only=True)
class RelationScores:
    """Shares of a group of images of two objects in a spatial relation; docs/counting.md explains each."""

    images: int
    both_kinds: Estimate | None = None
    right_objects: Estimate | None = None
    right: Estimate | None = None
    placed_if_both_kinds: Estimate | None = None
    right_ground: Estimate | None = None
    """Of the images whose prompt names a ground."""


@dataclass(frozen=True, kw_only=True)
class Relations:
    """Relation scores over all images and by group."""

    overall: RelationScores
    by_relation: Mapping[str, RelationScores] = field(default_factory=dict)
    by_combination: Mapping[str, RelationScores] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ObjectScores:
    """Scores of a set of images: of those of one kind of object, and of those of two. None where there are no such images."""

    counts: Counts | None = None
    relations: Relations | None = None


@dataclass(frozen=True, kw_only=True)
class CountedImage:
    """What was found in one image."""

    file: str
    prompt: str
    counted: Mapping[str, int] | None = None
    """Objects by kind; None where the counter cannot read the prompt."""
    objects: tuple[tuple[str, float, float, float], ...] = ()
    """(kind, x, y, score)."""
    right: bool | None = None
    """Whether these are exactly the objects that the prompt asks for, in its relation."""
    ground: str | None = None
    """Which ground it has, where the prompt names one; "other" for none of the known ones."""


@dataclass(frozen=True, kw_only=True)
class ScoresAtThreshold:
    """Overall scores at another threshold of the counter or detector."""

    threshold: float
    counts: CountScores | None = None
    relations: RelationScores | None = None


@dataclass(frozen=True, kw_only=True)
class ObjectCounts(ObjectScores):
    """Scores of a set of images, with what they come from."""

    thresholds: tuple[ScoresAtThreshold, ...] = ()
    images: tuple[CountedImage, ...] = ()

    @property
    def counted(self) -> int:
        """How many images have a prompt that the counter can read."""
        return sum(one.counted is not None for one in self.images)


@dataclass(frozen=True, kw_only=True)
class Counter:
    """The object counter or detector that counted, and how well it does."""

    name: str
    threshold: float | None = None
    sha256: str | None = None
    errors: Mapping[str, ObjectScores] = field(default_factory=dict)
    """Its own scores on real images whose contents are known, by what was done to them."""
    details: Values = field(default_factory=dict)
    """Further facts of a detector."""


@dataclass(frozen=True, kw_only=True)
class SecondCount:
    """What another counter found in the same images, and how far both agree; by set of counting prompts."""

    counter: Counter
    scores: Mapping[str, ObjectScores]
    same_verdict: Mapping[str, Estimate]
    """Share of images that are right to both counters or to none."""
    same_objects: Mapping[str, Estimate]
    """Share of images in which both find the same numbers of the same kinds."""
    difference: Mapping[str, Estimate]
    """The share of right images by the first counter less that by this one, image by image."""
