"""How far a study is, for its owner."""

import statistics
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from ifuvit.studies.answers import Answer, passed
from ifuvit.studies.design import Rater, Study


def rater_progress(rater: Rater, answers: Sequence[Answer]) -> dict[str, Any]:
    """How far a rater is, and how reliable."""
    own = [answer for answer in answers if answer.rater == rater.id]
    by_item = {answer.item: answer for answer in own if answer.purpose == "rating"}
    checks = [passed(rater.tasks[answer.task], answer) for answer in own if answer.purpose == "check"]
    pairs = [(by_item[answer.item], answer) for answer in own if answer.purpose == "repeat" and answer.item in by_item]
    alike = [agreement for first, again in pairs if (agreement := _agreement(first, again)) is not None]
    seconds = [answer.seconds for answer in own if answer.seconds is not None]
    return {
        "rater": rater.id,
        "done": len(own),
        "total": len(rater.tasks),
        "none": sum(answer.status != "answered" for answer in own),
        "changed": sum(answer.changes > 0 for answer in own),
        "seconds": statistics.median(seconds) if seconds else None,
        "checks": f"{sum(right is True for right in checks)} of {len(checks)}",
        "repeats": f"{100 * statistics.mean(alike):.0f} %" if alike else "–",
        "last": max((answer.at for answer in own), default="")[:16].replace("T", " "),
    }


def agreement_so_far(study: Study, answers: Sequence[Answer]) -> str:
    """How often two raters of an item agree, in words."""
    by_item: dict[str, list[Answer]] = {}
    for answer in answers:
        if answer.purpose == "rating" and answer.status == "answered":
            by_item.setdefault(answer.item, []).append(answer)
    pairs = [pair for given in by_item.values() for pair in combinations(given, 2)]
    values = [value for one, other in pairs if (value := _agreement(one, other)) is not None]
    if not values:
        return "No item has the answers of two raters yet."
    what = (
        "give the same count"
        if study.kind == "count"
        else "agree which of two images is better, where neither ties them"
    )
    by_chance = "" if study.kind == "count" else " (50 % by chance)"
    return f"Two raters of one item {what} in {100 * statistics.mean(values):.0f} % of cases{by_chance}; {len(values)} pairs of answers."


def _agreement(one: Answer, other: Answer) -> float | None:
    """Of two answers to one item: 1 for the same count, else 0; the share of pairs of models ranked the same way."""
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
