"""What a study is: images under blind names, and who sees which of them in what order.

All draws follow from the study's seed: which raters get an item, the order of their tasks, and, separately for every task, the
order in which the models' images stand. Tokens and file names do not: they are secrets.
"""

import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from ifuvit.studies.texts import LANGUAGES, read_texts
from ifuvit.utils.config import from_dict, to_dict
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import read_json, write_json

Kind = Literal["count", "preference", "rating"]
Purpose = Literal["rating", "repeat", "check", "practice"]

STUDY_FILE = "study.json"
IMAGES = "images"
MAX_MODELS = 9
"""Images side by side; ranks are single keys."""
MAX_RATING = 5
"""Ratings are from 1, the worst, to 5, the best (Likert's scale)."""
SPOILED_RATING = 2
"""The best last rating that passes a check whose image is cut to pieces."""
TASKS_BEFORE_CHECKS = 3
"""A rater who meets a spoiled image first takes it for what the study is about."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """What raters see on one page."""

    id: str
    prompt: str
    images: tuple[str, ...]
    """File names under images/: one for each model, in the order of `Study.models`, for a preference; else one."""
    model: int | None = None
    """Which model generated it. None for a preference except in its checks, where it is the model whose image is spoiled; None
    for the checks of a count."""
    kind: str | None = None
    """Which objects are to be counted; None for other studies."""
    count: int | None = None
    """How many of them the prompt asks for, or the image of a check shows."""
    index: int | None = None
    """Which of the model's images of this prompt."""


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """A task: one item, for one rater."""

    item: str
    order: tuple[int, ...] = ()
    """The models' indices in the order in which their images stand, from left to right; of a preference only."""
    purpose: Purpose = "rating"
    """"repeat" is an item that the rater has had before, "check" one whose answer is beyond doubt, "practice" one before the
    first task that the rater knows to be for practice."""
    expected: int | None = None
    """A check's answer: the count; the model whose image is spoiled, which has to be ranked last; or the best last rating
    that a spoiled image may get (`answers.passed`)."""


@dataclass(frozen=True, kw_only=True)
class Rater:
    """Somebody who answers."""

    id: str
    token: str
    """The secret in the rater's private link."""
    tasks: tuple[Assignment, ...]
    withdrawn: str | None = None
    """When the rater's answers were deleted on request, in UTC; the link is dead since then."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """A whole study, as it stands in study.json."""

    id: str
    kind: Kind
    title: str
    consent: str
    """What raters read before they begin; paragraphs are separated by empty lines."""
    models: tuple[str, ...]
    items: tuple[Item, ...]
    checks: tuple[Item, ...]
    """Items whose answer is beyond doubt."""
    raters: tuple[Rater, ...]
    raters_per_item: int
    owner_token: str
    seed: int
    image_size: int
    """Pixels of every image's sides."""
    practice: tuple[Item, ...] = ()
    """Items that everybody answers before the first task; they enter no number."""
    aspects: tuple[str, ...] = ()
    """Of ratings: what of an image is rated, in the order of the questions."""
    comments: bool = False
    """Whether raters may write a comment on each task."""
    texts: dict[str, str] = field(default_factory=read_texts)
    """What the pages say, by key (`ifuvit.studies.texts`)."""
    join_token: str = ""
    """The secret in the link by which recruited people take the place of a rater."""

    def __post_init__(self) -> None:
        if duplicate := _duplicate([item.id for item in (*self.items, *self.checks, *self.practice)]):
            raise InputError(f"item {duplicate!r} is there twice")
        if (self.kind == "rating") != bool(self.aspects):
            raise InputError(f"aspects {list(self.aspects)}: a study of ratings has some, and no other study has any")
        if duplicate := _duplicate([rater.id for rater in self.raters]):
            raise InputError(f"rater {duplicate!r} is there twice")
        slots = list(range(len(self.models))) if self.kind == "preference" else []
        for rater in self.raters:
            for number, task in enumerate(rater.tasks):
                where = f"task {number} of rater {rater.id!r}"
                if task.item not in self._by_id:
                    raise InputError(f"{where}: there is no item {task.item!r}")
                if sorted(task.order) != slots:
                    raise InputError(f"{where}: order {task.order} is not one of models {slots}")

    def item(self, id: str) -> Item:
        """The item or check of this id."""
        return self._by_id[id]

    def rater(self, id: str) -> Rater | None:
        """The rater of this id, if there is one."""
        return self._raters.get(id)

    def images(self, task: Assignment) -> tuple[str, ...]:
        """A task's file names in the order in which they stand."""
        images = self.item(task.item).images
        return tuple(images[model] for model in task.order) if task.order else images

    @property
    def active(self) -> tuple[Rater, ...]:
        """The raters who have not withdrawn."""
        return tuple(rater for rater in self.raters if rater.withdrawn is None)

    @cached_property
    def _by_id(self) -> dict[str, Item]:
        return {item.id: item for item in (*self.items, *self.checks, *self.practice)}

    @cached_property
    def _raters(self) -> dict[str, Rater]:
        return {rater.id: rater for rater in self.raters}


def read_study(directory: Path) -> Study:
    """The study of a directory that `ifuvit study make` wrote.

    Raises:
        InputError: there is none, or it is broken.
    """
    if not (directory / STUDY_FILE).is_file():
        raise InputError(f"{directory}: holds no study ({STUDY_FILE}); make one with `ifuvit study make`")
    study = from_dict(Study, read_json(directory / STUDY_FILE), where=str(directory / STUDY_FILE))
    # A study that an earlier version made may lack a text.
    language = study.texts.get("language", "")
    return replace(study, texts=read_texts(language if language in LANGUAGES else "en") | study.texts)


def write_study(directory: Path, study: Study) -> None:
    """Write study.json, which holds everybody's tokens, for its owner's eyes only."""
    write_json(directory / STUDY_FILE, to_dict(study), private=True)


# ------------------------------------------------------------------------------------------------------ who sees what


def assign(
    items: Sequence[Item],
    checks: Sequence[Item],
    *,
    practice: Sequence[Item] = (),
    kind: Kind,
    models: int,
    raters: int,
    wanted: Mapping[str, int],
    repeats: int,
    seed: int,
    first: int = 0,
) -> tuple[tuple[Assignment, ...], ...]:
    """The tasks of some raters.

    Every item goes to as many different raters as are wanted, so that raters' numbers of items differ by one at most, and
    their numbers of any one model's images by two at most. Practice comes first. Then a repeat comes in the last third of a
    rater's tasks, of an item from the first half; all checks go to every rater, after the first `TASKS_BEFORE_CHECKS` tasks.

    Args:
        items: what is to be rated.
        checks: items whose answer is beyond doubt; a preference's has its spoiled image in `model`.
        practice: items that come first.
        models: how many there are.
        raters: how many raters to assign tasks to.
        wanted: for how many of these raters each item is, by its id.
        repeats: hidden repeats a rater; half of a rater's items at most.
        first: index of the first of these raters in the study, so that those who come later have draws of their own.
    """
    shares = _share(items, raters=raters, wanted=wanted, seed=seed, first=first)
    slots = models if kind == "preference" else 0
    tasks = []
    for number, share in enumerate(shares, start=first):
        rng = np.random.default_rng((seed, 1, number))
        planned: list[tuple[Item, Purpose]] = [(share[place], "rating") for place in rng.permutation(len(share))]
        again = rng.choice(max(len(planned) // 2, 1), min(repeats, len(planned) // 2), replace=False)
        early = [planned[place] for place in again]
        for item in checks:
            place = rng.integers(min(TASKS_BEFORE_CHECKS, len(planned)), len(planned) + 1)
            planned.insert(int(place), (item, "check"))
        last_third = -(-2 * (len(planned) + len(early)) // 3)
        for item, _ in early:
            planned.insert(int(rng.integers(last_third, len(planned) + 1)), (item, "repeat"))
        tasks.append(
            tuple(
                Assignment(
                    item=item.id,
                    order=tuple(int(model) for model in rng.permutation(slots)),
                    purpose=purpose,
                    expected=_expected(kind, item) if purpose == "check" else None,
                )
                for item, purpose in [*((item, "practice") for item in practice), *planned]
            )
        )
    return tuple(tasks)


def _expected(kind: Kind, check: Item) -> int | None:
    return {"count": check.count, "preference": check.model, "rating": SPOILED_RATING}[kind]


def make_raters(tasks: Sequence[tuple[Assignment, ...]], *, first: int = 0) -> tuple[Rater, ...]:
    """A rater with a new secret token for each list of tasks: r01, r02, ..."""
    digits = max(2, len(str(first + len(tasks))))
    return tuple(
        Rater(id=f"r{number:0{digits}d}", token=new_token(), tasks=one)
        for number, one in enumerate(tasks, start=first + 1)
    )


def new_token() -> str:
    """A secret of 192 bits that can stand in a link."""
    return secrets.token_urlsafe(24)


def _share(items: Sequence[Item], *, raters: int, wanted: Mapping[str, int], seed: int, first: int) -> list[list[Item]]:
    """Each item to the raters who have the fewest so far, drawn at random among equals. Model by model, so that each
    model's images spread as evenly as all items do."""
    rng = np.random.default_rng((seed, 0, first))
    shares: list[list[Item]] = [[] for _ in range(raters)]
    by_model = sorted((items[place] for place in rng.permutation(len(items))), key=lambda item: item.model or 0)
    for item in by_model:
        loads = np.array([len(share) for share in shares])
        for number in np.lexsort((rng.random(raters), loads))[: wanted[item.id]]:
            shares[number].append(item)
    return shares


# ---------------------------------------------------------------------------------------------------------- how many


def interval_width(*, items: int, raters_per_item: int, deviation: float, between_items: float = 0.5) -> float:
    """Expected width of the 95 % interval of a mean over `items` x `raters_per_item` answers.

    Args:
        deviation: standard deviation of single answers.
        between_items: the share of their variance that is between items (the intraclass correlation), which more raters
            do not make smaller.
    """
    variance = deviation**2 * (between_items + (1 - between_items) / raters_per_item) / items
    return 2 * 1.96 * math.sqrt(variance)


def raters_needed(width: float, *, items: int, deviation: float, between_items: float = 0.5) -> int | None:
    """How many raters an item has to have for an interval of that width (see `interval_width`); None where these items are
    too few for any number of raters."""
    room = (width / (2 * 1.96)) ** 2 * items / deviation**2 - between_items
    if room <= 0:
        return None
    return max(1, math.ceil((1 - between_items) / room - 1e-9))


def items_needed(width: float, *, raters_per_item: int, deviation: float, between_items: float = 0.5) -> int:
    """How many items it takes for an interval of that width (see `interval_width`)."""
    one = interval_width(items=1, raters_per_item=raters_per_item, deviation=deviation, between_items=between_items)
    return math.ceil((one / width) ** 2 - 1e-9)


def answer_deviation(kind: Kind, models: int) -> float:
    """Standard deviation of a single answer at the worst: of a count being right or not, half the time each; of the points
    of a rank, from 1 to the number of models, or of a rating, from 1 to 5, all equally often."""
    if kind == "count":
        return 0.5
    return math.sqrt(((models if kind == "preference" else MAX_RATING) ** 2 - 1) / 12)


def _duplicate(names: Sequence[str]) -> str | None:
    seen: set[str] = set()
    return next((name for name in names if name in seen or seen.add(name)), None)
