"""A study's tasks as HTML, for the server and for the static form."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from ifuvit.studies.answers import MAX_COUNT
from ifuvit.studies.design import MAX_RATING, Rater, Study
from ifuvit.studies.making import plural
from ifuvit.studies.store import Entry
from ifuvit.studies.texts import Texts

if TYPE_CHECKING:
    import jinja2


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A place where an image stands."""

    number: int
    name: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Question:
    """An aspect that is rated."""

    number: int
    text: str
    worst: str
    best: str
    rating: int | None
    """What was given."""


@dataclass(frozen=True, kw_only=True)
class TaskView:
    """All that a rater's page of a task shows: neither the item, nor its models, nor why it is asked."""

    kind: str
    """"choice" is a preference between two."""
    number: int
    place: str
    """Which task it is, in words."""
    practice: bool
    prompt: str | None
    """What the images were to show; None for a count, where it would give the answer away."""
    objects: str | None
    """What is to be counted."""
    slots: tuple[Slot, ...]
    questions: tuple[Question, ...]
    size: int
    version: int
    """How often the rater has answered this task."""
    status: str | None
    """None: there is no answer."""
    count: int | None
    ranks: tuple[float | None, ...] | None
    ties: bool
    comment: str | None
    """None: no comment is asked for."""
    max_count: int = MAX_COUNT
    max_rating: int = MAX_RATING


def view_task(
    study: Study,
    rater: Rater,
    number: int,
    given: Sequence[Entry],
    source: Callable[[str], str],
    *,
    draft: Mapping[str, str] | None = None,
) -> TaskView:
    """A task as its rater sees it.

    Args:
        given: the rater's answers to it so far.
        source: the address of an image by its file name.
        draft: fields of a form that could not be taken, to be shown again.
    """
    task = rater.tasks[number]
    item = study.item(task.item)
    t = Texts(study.texts)
    last = given[-1] if given and given[-1].status != "undone" else None
    ranks, ratings = (last.ranks, last.ratings) if last else (None, None)
    comment = (last.comment if last else None) or ""
    if draft is not None:
        ranks = tuple(_digit(draft.get(f"rank{slot}")) for slot in range(len(task.order)))
        ratings = tuple(_digit(draft.get(f"rating{place}")) for place in range(len(study.aspects)))
        comment = draft.get("comment", "")
    names = [t.plain("image", letter=chr(ord("A") + n)) for n in range(len(task.order))] or [t.plain("the image")]
    practice = sum(one.purpose == "practice" for one in rater.tasks)
    return TaskView(
        kind=study.kind if len(task.order) != 2 else "choice",
        number=number,
        place=place_of(study, number, practice, len(rater.tasks)),
        practice=number < practice,
        prompt=None if study.kind == "count" else item.prompt,
        objects=t.get(f"object: {item.kind}", plural(item.kind)) if item.kind else None,
        slots=tuple(
            Slot(number=place, name=name, source=source(image))
            for place, (name, image) in enumerate(zip(names, study.images(task)))
        ),
        questions=tuple(
            Question(
                number=place,
                text=t.get(f"aspect: {aspect}", aspect),
                worst=t.get(f"aspect worst: {aspect}", t.plain("worst")),
                best=t.get(f"aspect best: {aspect}", t.plain("best")),
                rating=ratings[place] if ratings else None,
            )
            for place, aspect in enumerate(study.aspects)
        ),
        size=study.image_size,
        version=len(given),
        status=last.status if last else None,
        count=last.count if last else None,
        ranks=ranks,
        ties=draft.get("ties") == "1" if draft is not None else ranks is not None and len(set(ranks)) < len(ranks),
        comment=comment if study.comments else None,
    )


def place_of(study: Study, number: int, practice: int, total: int) -> str:
    """Which task it is, in words: practice and tasks are numbered separately."""
    t = Texts(study.texts)
    if number < practice:
        return t.plain("place practice", number=number + 1, total=practice)
    return t.plain("place", number=number + 1 - practice, total=total - practice)


def in_words(study: Study, view: TaskView) -> str | None:
    """The answer of a task in a few words; None for one that takes more."""
    t = Texts(study.texts)
    if view.status in ("cannot tell", "skipped"):
        return t.plain(view.status)
    if view.count is not None:
        return str(view.count)
    if view.kind == "choice" and view.ranks is not None:
        return t.plain("equal") if view.ties else view.slots[view.ranks.index(1)].name
    if ratings := [one.rating for one in view.questions if one.rating is not None]:
        return ", ".join(map(str, ratings))
    return None


def _digit(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 3 else None


def minutes(tasks: int, seconds: float) -> int:
    """About how long tasks take that take `seconds` each (`progress.task_seconds`)."""
    return max(1, round(tasks * seconds / 60))


def instructions(study: Study) -> str:
    """The key of the text that says what raters do."""
    return f"what to do {'choice' if study.kind == 'preference' and len(study.models) == 2 else study.kind}"


def length(study: Study, rater: Rater, seconds: float) -> str:
    """How many tasks there are, and how long they take at `seconds` each, in words."""
    practice = sum(task.purpose == "practice" for task in rater.tasks)
    return Texts(study.texts).plain(
        "length practice" if practice else "length",
        tasks=len(rater.tasks),
        practice=practice,
        minutes=minutes(len(rater.tasks), seconds),
    )


def paragraphs(text: str) -> list[str]:
    """The paragraphs of a text in which they are separated by empty lines."""
    return [" ".join(paragraph.split()) for paragraph in text.replace("\r", "").split("\n\n") if paragraph.strip()]


SCRIPT_TEXTS = (
    *("ranked", "no rank", "left to rank", "all ranked", "ties on", "ties off"),
    *("saved", "saved plain", "cannot tell", "skipped", "equal", "not finished text"),
)
"""What the script says."""


def render(template: str, study: Study, **values: Any) -> str:
    """A template filled in, in the study's words."""
    t = Texts(study.texts)
    own = {key: study.texts[key] for key in SCRIPT_TEXTS}
    return _environment().get_template(template).render(t=t, study=study, script_texts=own, **values)


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
