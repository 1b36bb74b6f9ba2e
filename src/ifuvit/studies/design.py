"""What a study is: pictures under blind names, and who sees which of them in what order.

All draws follow from the study's seed: which raters get an item, the order of their tasks, and for every task of its own the
order in which the models' pictures stand. Tokens and file names do not: they are secrets.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from ifuvit.artifacts import read_json
from ifuvit.config import from_dict
from ifuvit.errors import InputError

Kind = Literal["count", "preference"]
Purpose = Literal["rating", "repeat", "check"]

STUDY_FILE = "study.json"
PICTURES = "pictures"
MAX_MODELS = 9
"""Pictures side by side; ranks are single keys."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """What is judged on one page."""

    id: str
    prompt: str
    pictures: tuple[str, ...]
    """File names under pictures/: one for a count, one for each model, in the order of `Study.models`, for a preference."""
    model: int | None = None
    """Which model drew it; None for a preference, and for a check."""
    kind: str | None = None
    """Which objects are to be counted; None for a preference."""
    count: int | None = None
    """How many of them the prompt asks for, or the picture of a check shows."""
    index: int | None = None
    """Which of the model's pictures of this prompt."""


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """A task: one item, for one rater."""

    item: str
    order: tuple[int, ...] = ()
    """The models' indices in the order in which their pictures stand, from left to right; empty for a count."""
    purpose: Purpose = "rating"
    """"repeat" is an item that the rater has had before, "check" one whose answer is beyond doubt."""
    expected: int | None = None
    """A check's answer: the count; or the model whose picture was spoiled, which has to be ranked last (`answers.passed`)."""


@dataclass(frozen=True, kw_only=True)
class Rater:
    """Somebody who answers."""

    id: str
    token: str
    """The secret in the rater's private link."""
    tasks: tuple[Assignment, ...]


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
    picture_size: int
    """Pixels of every picture's sides."""

    def __post_init__(self) -> None:
        if duplicate := _duplicate([item.id for item in (*self.items, *self.checks)]):
            raise InputError(f"item {duplicate!r} is there twice")
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

    def pictures(self, task: Assignment) -> tuple[str, ...]:
        """A task's file names in the order in which they stand."""
        pictures = self.item(task.item).pictures
        return tuple(pictures[model] for model in task.order) if task.order else pictures

    @cached_property
    def _by_id(self) -> dict[str, Item]:
        return {item.id: item for item in (*self.items, *self.checks)}

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
    return from_dict(Study, read_json(directory / STUDY_FILE), where=str(directory / STUDY_FILE))


def _duplicate(names: Sequence[str]) -> str | None:
    seen: set[str] = set()
    return next((name for name in names if name in seen or seen.add(name)), None)
