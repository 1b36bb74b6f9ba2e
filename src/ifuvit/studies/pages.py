"""A study's tasks as HTML, for the server and for the static form."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from ifuvit.studies.answers import MAX_COUNT
from ifuvit.studies.design import Rater, Study
from ifuvit.studies.making import plural
from ifuvit.studies.store import Entry

if TYPE_CHECKING:
    import jinja2


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A place where an image stands."""

    number: int
    name: str
    source: str


@dataclass(frozen=True, kw_only=True)
class TaskView:
    """All that a rater's page of a task shows: neither the item, nor its models, nor why it is asked."""

    kind: str
    number: int
    prompt: str | None
    """What the images were to show; None for a count, where it would give the answer away."""
    objects: str | None
    """What is to be counted."""
    slots: tuple[Slot, ...]
    size: int
    version: int
    """How often the rater has answered this task."""
    status: str | None
    count: int | None
    ranks: tuple[float, ...] | None
    ties: bool
    max_count: int = MAX_COUNT


def view_task(study: Study, rater: Rater, number: int, given: list[Entry], source: Callable[[str], str]) -> TaskView:
    """A task as its rater sees it.

    Args:
        given: the rater's answers to it so far.
        source: the address of an image by its file name.
    """
    task = rater.tasks[number]
    item = study.item(task.item)
    last = given[-1] if given else None
    ranks = last.ranks if last else None
    names = ["The image"] if study.kind == "count" else [f"Image {chr(ord('A') + n)}" for n in range(len(task.order))]
    return TaskView(
        kind=study.kind,
        number=number,
        prompt=None if study.kind == "count" else item.prompt,
        objects=plural(item.kind) if item.kind else None,
        slots=tuple(
            Slot(number=place, name=name, source=source(image))
            for place, (name, image) in enumerate(zip(names, study.images(task)))
        ),
        size=study.image_size,
        version=len(given),
        status=last.status if last else None,
        count=last.count if last else None,
        ranks=ranks,
        ties=ranks is not None and len(set(ranks)) < len(ranks),
    )


def paragraphs(text: str) -> list[str]:
    """The paragraphs of a text in which they are separated by empty lines."""
    return [" ".join(paragraph.split()) for paragraph in text.replace("\r", "").split("\n\n") if paragraph.strip()]


def render(template: str, **values: Any) -> str:
    """A template filled in."""
    return _environment().get_template(template).render(**values)


@functools.cache
def static_file(name: str) -> str:
    """A style sheet, a script or an icon."""
    return files("ifuvit.studies").joinpath("static", name).read_text(encoding="utf-8")


@functools.cache
def _environment() -> "jinja2.Environment":
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("ifuvit.studies", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
