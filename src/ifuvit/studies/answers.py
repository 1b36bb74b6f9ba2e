"""What raters answered."""

from dataclasses import dataclass
from typing import Literal

from ifuvit.studies.design import Assignment, Purpose

Status = Literal["answered", "cannot tell", "skipped"]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A rater's last answer to one task."""

    rater: str
    task: int
    """Index into the rater's tasks."""
    item: str
    purpose: Purpose
    order: tuple[int, ...]
    """The models by slot, from left to right; empty for a count."""
    status: Status
    count: int | None = None
    ranks: tuple[float, ...] | None = None
    """By slot, 1 is best; of tied pictures each has the best rank of theirs: 1, 1, 3."""
    seconds: float | None = None
    """How long the page was looked at before this answer, where the browser told."""
    at: str
    """When, in UTC, ISO 8601."""
    changes: int = 0
    """How often the rater answered this task anew."""


def passed(task: Assignment, answer: Answer) -> bool | None:
    """Whether an answer to a check is right; None where the rater skipped it.

    A count has to be exact. Of ranked pictures the spoiled one has to be last, with another one before it.
    """
    assert task.expected is not None
    if answer.status == "skipped":
        return None
    if answer.ranks is None:
        return answer.count == task.expected
    spoiled = answer.ranks[task.order.index(task.expected)]
    return spoiled == max(answer.ranks) > min(answer.ranks)
