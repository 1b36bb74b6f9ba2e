"""A judgment of counts, and the errors of a counter, as text."""

from typing import Any

_COUNT_SCORES = {
    "right_kind": "right kind, %",
    "right_count": "right count, %",
    "right": "both, %",
    "average_error": "average error",
    "match_ratio": "match ratio, %",
}
_RELATION_SCORES = {
    "both_kinds": "both kinds, %",
    "right_objects": "right objects, %",
    "right": "and relation, %",
    "placed_if_both_kinds": "relation if both, %",
}


def _cell(name: str, estimate: dict[str, Any] | None) -> str:
    if estimate is None:
        return "-"
    scale, digits = (1, 2) if name == "average_error" else (100, 1)
    value, low, high = (scale * number for number in (estimate["value"], *estimate["interval"]))
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _table(first: str, groups: dict[str, Any], columns: dict[str, str]) -> list[str]:
    """One line a group of images; scores that no group has are left out."""
    columns = {name: head for name, head in columns.items() if any(name in scores for scores in groups.values())}
    lines = [f"{first:<12} {'images':>8} " + " ".join(f"{head:>20}" for head in columns.values())]
    for group, scores in groups.items():
        cells = " ".join(f"{_cell(name, scores[name]):>20}" for name in columns)
        lines.append(f"{group:<12} {scores['images']:>8} {cells}")
    return lines


def _groups(scores: dict[str, Any], by: str) -> dict[str, Any]:
    """All images, those by count or by relation, and the combinations where there are both."""
    combinations = scores.get("by_combination", {})
    return {"all": scores["overall"], **scores[by], **(combinations if len(combinations) > 1 else {})}


def errors_table(errors: dict[str, Any]) -> str:
    """A counter's errors as text: in percent of the scenes, exactly right."""

    def percent(group: dict[str, Any] | None, name: str) -> str:
        return f"{100 * group[name]['value']:.2f}" if group else "-"

    lines = [f"{'exactly right, %':<16} {'one kind':>9} {'two kinds':>10} {'relation':>9}   by count 1 to 5"]
    for variant, scores in errors.items():
        counts, relations = scores["counts"] or {}, scores["relations"] or {}
        one_kind = percent(counts.get("overall"), "right")
        two_kinds, placed = (percent(relations.get("overall"), name) for name in ("right_objects", "right"))
        by_count = " ".join(percent(group, "right") for group in counts.get("by_count", {}).values())
        lines.append(f"{variant:<16} {one_kind:>9} {two_kinds:>10} {placed:>9}   {by_count}")
    return "\n".join(lines)


def result_table(result: dict[str, Any]) -> str:
    """The main numbers of a judgment as text."""
    lines = [f"{result['judged']} of {result['images']} images judged (mean [95 % interval])"]
    if result["counts"]:
        lines += _table("asked", _groups(result["counts"], "by_count"), _COUNT_SCORES)
    if result["relations"]:
        lines += _table("relation", _groups(result["relations"], "by_relation"), _RELATION_SCORES)
    for part, columns in (("counts", _COUNT_SCORES), ("relations", _RELATION_SCORES)):
        sweep = {f"{one['threshold']:g}": one[part] for one in result["sweep"] if one[part]}
        lines += _table("threshold", sweep, columns) if sweep else []
    if result["not_judged"]:
        first = result["not_judged"][0]["prompt"]
        lines.append(f"{len(result['not_judged'])} not judged: not a prompt that the counter can read, as {first!r}")
    if "errors" in result["counter"]:
        lines += ["the counter's own errors:", errors_table(result["counter"]["errors"])]
    return "\n".join(lines)
