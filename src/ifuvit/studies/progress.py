"""How far a study is, for its owner."""

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from ifuvit.studies.answers import Answer, passed
from ifuvit.studies.design import Rater, Study
from ifuvit.studies.pages import minutes
from ifuvit.utils.spreadsheets import guarded

ASSUMED_SECONDS = {"count": 6, "preference": 4, "rating": 6}
"""What a task is assumed to take before it is measured: a count; each image of a preference; each question of a rating."""
TIMED = 5
"""Tasks with a time that a rater's own median takes."""


def task_seconds(study: Study, answers: Sequence[Answer]) -> float:
    """What a task of this study takes: the median over raters of each one's median, practice included; assumed as long as
    nobody has times of `TIMED` tasks."""
    by_rater: dict[str, list[float]] = {}
    for answer in answers:
        if answer.seconds is not None:
            by_rater.setdefault(answer.rater, []).append(answer.seconds)
    medians = [statistics.median(seconds) for seconds in by_rater.values() if len(seconds) >= TIMED]
    parts = {"count": 1, "preference": len(study.models), "rating": len(study.aspects)}[study.kind]
    return statistics.median(medians) if medians else ASSUMED_SECONDS[study.kind] * parts


def rater_progress(study: Study, rater: Rater, answers: Sequence[Answer], *, usual: float) -> dict[str, Any]:
    """How far a rater is, and how reliable.

    Args:
        answers: everybody's.
        usual: the seconds that a task takes a rater who has not shown it yet (`task_seconds`).
    """
    own = [answer for answer in answers if answer.rater == rater.id]
    by_item = {answer.item: answer for answer in own if answer.purpose == "rating"}
    checks = [passed(rater.tasks[answer.task], answer) for answer in own if answer.purpose == "check"]
    pairs = [(by_item[answer.item], answer) for answer in own if answer.purpose == "repeat" and answer.item in by_item]
    alike = [agreement for first, again in pairs if (agreement := _agreement(first, again)) is not None]
    seconds = [answer.seconds for answer in own if answer.seconds is not None]
    median = statistics.median(seconds) if seconds else None
    left = len(rater.tasks) - len(own)
    pace = usual if median is None or len(seconds) < TIMED else median
    return {
        "rater": rater.id,
        "done": len(own),
        "total": len(rater.tasks),
        "minutes_left": minutes(left, pace) if left else 0,
        "none": sum(answer.status != "answered" for answer in own),
        "changed": sum(answer.changes > 0 for answer in own),
        "seconds": median,
        "checks": f"{sum(right is True for right in checks)} of {len(checks)}" if checks else "–",
        "repeats": f"{100 * statistics.mean(alike):.0f} %" if alike else "–",
        "last": max((answer.at for answer in own), default="")[:16].replace("T", " "),
    }


def agreement_so_far(study: Study, answers: Sequence[Answer]) -> str:
    """How often two raters of an item agree, in a sentence."""
    by_item: dict[str, list[Answer]] = {}
    for answer in answers:
        if answer.purpose == "rating" and answer.status == "answered":
            by_item.setdefault(answer.item, []).append(answer)
    pairs = [pair for given in by_item.values() for pair in combinations(given, 2)]
    values = [value for one, other in pairs if (value := _agreement(one, other)) is not None]
    if not values:
        return "No two raters have answered the same item yet."
    share = f"{100 * statistics.mean(values):.0f} %"
    return {
        "count": f"When two raters counted in the same image, they gave the same number {share} of the time.",
        "preference": f"When two raters compared the same two images and each liked one better, it was the same one {share} "
        "of the time (50 % if they guessed).",
        "rating": f"When two raters rated the same image, their ratings were the same or one step apart {share} of the time.",
    }[study.kind] + f" That is from {len(values)} pairs of answers."


def links_csv(
    study: Study, answers: Sequence[Answer], names: Mapping[str, str], participants: Mapping[str, str], url: str
) -> str:
    """A row a rater: who it is, how many tasks there are and how long all of them take, the private link."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["rater", "name", "participant", "tasks", "minutes", "link"])
    seconds = task_seconds(study, answers)
    for rater in study.active:
        who = [rater.id, names.get(rater.id, ""), participants.get(rater.id, "")]
        length = [len(rater.tasks), minutes(len(rater.tasks), seconds)]
        writer.writerow([*map(guarded, who), *length, f"{url}/r/{rater.token}/"])
    return out.getvalue()


def _agreement(one: Answer, other: Answer) -> float | None:
    """Of two answers to one item: 1 for the same count, else 0; the share of pairs of models ranked the same way; the share
    of ratings that differ by one at most."""
    if one.ratings is not None and other.ratings is not None:
        return statistics.mean(abs(a - b) <= 1 for a, b in zip(one.ratings, other.ratings))
    if one.count is not None and other.count is not None:
        return float(one.count == other.count)
    if one.ranks is None or other.ranks is None:
        return None
    first, second = (dict(zip(answer.order, answer.ranks or ())) for answer in (one, other))
    same = [
        (first[a] < first[b]) == (second[a] < second[b])
        for a, b in combinations(sorted(first), 2)
        if first[a] != first[b] and second[a] != second[b]
    ]
    return sum(same) / len(same) if same else None
