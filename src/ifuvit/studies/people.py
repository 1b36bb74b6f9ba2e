"""Raters come and go after a study was made."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from ifuvit.studies.answers import Answer
from ifuvit.studies.design import Rater, Study, assign, make_raters, read_study, write_study
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import now


def short_of(study: Study, answers: Iterable[Answer], *, replacing: Sequence[str] = ()) -> dict[str, int]:
    """How many raters each item lacks, by its id; items that lack none are left out.

    Args:
        answers: everybody's so far.
        replacing: raters who will answer no more; what they have not answered is nobody's.
    """
    done = {(answer.rater, answer.task) for answer in answers}
    cared_for = Counter(
        task.item
        for rater in study.active
        for number, task in enumerate(rater.tasks)
        if task.purpose == "rating" and (rater.id not in replacing or (rater.id, number) in done)
    )
    lacking = {item.id: study.raters_per_item - cared_for[item.id] for item in study.items}
    return {item: number for item, number in lacking.items() if number > 0}


def add_raters(
    directory: Path,
    answers: Sequence[Answer],
    number: int,
    *,
    replacing: Sequence[str] = (),
    raters_per_item: int | None = None,
) -> tuple[tuple[Rater, ...], int]:
    """Add raters to the study of a directory, and give them what is short of answers.

    Args:
        answers: everybody's so far.
        replacing: raters who will answer no more.
        raters_per_item: how many raters each item is to have from now on.

    Returns:
        the new raters, and how many answers are lacking still, because an item can be only once with each of them.

    Raises:
        InputError: an unknown rater to replace, or nothing is short of answers.
    """
    study = read_study(directory)
    for rater in replacing:
        known_rater(study, rater)
    study = replace(study, raters_per_item=raters_per_item or study.raters_per_item)
    lacking = short_of(study, answers, replacing=replacing)
    if not lacking:
        raise InputError(
            f"{directory}: every item has its {study.raters_per_item} raters; give --raters-per-item for more of them, or "
            "--replacing RATER for one who will answer no more"
        )
    wanted = {item: min(count, number) for item, count in lacking.items()}
    repeats = max(sum(task.purpose == "repeat" for task in rater.tasks) for rater in study.raters)
    first = len(study.raters)
    new = make_raters(
        assign(
            [study.item(item) for item in wanted],
            study.checks,
            practice=study.practice,
            kind=study.kind,
            models=len(study.models),
            raters=number,
            wanted=wanted,
            repeats=repeats,
            seed=study.seed,
            first=first,
        ),
        first=first,
    )
    write_study(directory, replace(study, raters=(*study.raters, *new)))
    return new, sum(lacking.values()) - sum(wanted.values())


def mark_withdrawn(directory: Path, rater_id: str) -> None:
    """Note that a rater has withdrawn, and when the first time was: the link is dead from then on.

    Raises:
        InputError: there is no such rater.
    """
    study = read_study(directory)
    known_rater(study, rater_id)
    raters = tuple(
        replace(rater, withdrawn=rater.withdrawn or now()) if rater.id == rater_id else rater for rater in study.raters
    )
    write_study(directory, replace(study, raters=raters))


def known_rater(study: Study, rater_id: str) -> Rater:
    """The rater of this id.

    Raises:
        InputError: there is none.
    """
    rater = study.rater(rater_id)
    if rater is None:
        raise InputError(
            f"rater {rater_id!r}: there is none; the raters are {', '.join(one.id for one in study.raters)}"
        )
    return rater
