"""Scores of object counts, and the errors of a counter, as text."""

from collections.abc import Mapping
from typing import TypeVar

from ifuvit.results import (
    COUNT_SCORES,
    RELATION_SCORES,
    CountScores,
    Estimate,
    ObjectCounts,
    ObjectScores,
    RelationScores,
    Score,
)

S = TypeVar("S")


def _cell(score: Score, estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    scale, digits = (100, 1) if score.unit == "share" else (1, 2)
    text = f"{scale * estimate.value:.{digits}f}"
    if estimate.interval is None:
        return text
    low, high = estimate.interval
    return f"{text} [{scale * low:.{digits}f}, {scale * high:.{digits}f}]"


def _table(
    first: str, groups: Mapping[str, CountScores] | Mapping[str, RelationScores], columns: Mapping[str, Score]
) -> list[str]:
    """One line a group of images; scores that no group has are left out."""
    columns = {
        name: score
        for name, score in columns.items()
        if any(getattr(scores, name) is not None for scores in groups.values())
    }
    heads = [score.title + ", %" * (score.unit == "share") for score in columns.values()]
    lines = [f"{first:<12} {'images':>8} " + " ".join(f"{head:>20}" for head in heads)]
    for group, scores in groups.items():
        cells = " ".join(f"{_cell(score, getattr(scores, name)):>20}" for name, score in columns.items())
        lines.append(f"{group:<12} {scores.images:>8} {cells}")
    return lines


def errors_table(errors: Mapping[str, ObjectScores]) -> str:
    """A counter's errors as text: in percent of the scenes, exactly right."""

    def percent(estimate: Estimate | None) -> str:
        return "-" if estimate is None else f"{100 * estimate.value:.2f}"

    lines = [f"{'exactly right, %':<16} {'one kind':>9} {'two kinds':>10} {'relation':>9}   by count 1 to 5"]
    for variant, scores in errors.items():
        counts, relations = scores.counts, scores.relations and scores.relations.overall
        one_kind = percent(counts and counts.overall.right)
        two_kinds, placed = percent(relations and relations.right_objects), percent(relations and relations.right)
        by_count = " ".join(percent(group.right) for group in counts.by_count.values()) if counts else ""
        lines.append(f"{variant:<16} {one_kind:>9} {two_kinds:>10} {placed:>9}   {by_count}")
    return "\n".join(lines)


def counts_table(objects: ObjectCounts) -> str:
    """The main scores of a set of images as text."""
    lines = [f"{objects.counted} of {len(objects.images)} images counted (mean [95 % interval])"]
    if (counts := objects.counts) is not None:
        groups = {"all": counts.overall, **counts.by_count, **_if_several(counts.by_combination)}
        lines += _table("asked", groups, COUNT_SCORES)
    if (relations := objects.relations) is not None:
        groups = {"all": relations.overall, **relations.by_relation, **_if_several(relations.by_combination)}
        lines += _table("relation", groups, RELATION_SCORES)
    for part, columns in (("counts", COUNT_SCORES), ("relations", RELATION_SCORES)):
        at = {f"{one.threshold:g}": scores for one in objects.thresholds if (scores := getattr(one, part))}
        lines += _table("threshold", at, columns) if at else []
    if unread := [one.prompt for one in objects.images if one.counted is None]:
        lines.append(f"{len(unread)} not counted: prompts that the counter cannot read, such as {unread[0]!r}")
    return "\n".join(lines)


def _if_several(groups: Mapping[str, S]) -> Mapping[str, S]:
    return groups if len(groups) > 1 else {}
