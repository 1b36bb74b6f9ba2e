"""Tables of object counts and spatial relations. Nothing is computed: cells hold what results tell."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ifuvit.reporting.results import Judgment, Results
from ifuvit.reporting.tables import Column, Table, slug

# Titles of the scores in their order; all are shares but the average error.
_MEASURES = {
    "counts": {
        "right_kind": "right kind, %",
        "right_count": "right number, %",
        "right": "both, %",
        "average_error": "average error (Eq. 9)",
        "match_ratio": "match ratio, % (Eq. 10)",
    },
    "relations": {
        "both_kinds": "both kinds, %",
        "right_objects": "right objects, %",
        "right": "and relation, %",
        "placed_if_both_kinds": "relation if both kinds, %",
    },
}


def judgments(results: Results) -> list[Judgment]:
    """Counts and relations, of evaluations and of `count judge`; an evaluation may have several sets of prompts."""
    found = []
    for one in results.evaluations:
        main = Judgment(file=one.file, name=one.name, counts=one.counts, relations=one.relations, counter=one.counter)
        held_out = {key: one.held_out.get(key) for key in ("counts", "relations")}
        found += [
            main,
            replace(main, part="all kinds", counts=one.all_kinds, relations=None, counter=None),
            replace(main, part="held-out combinations", **held_out, counter=None),
        ]
    return [one for one in (*found, *results.judgments) if one.counts or one.relations]


def overview(results: Results) -> list[Table]:
    """What was counted of each of several models, in a row each."""
    found = []
    for what in ("counts", "relations"):
        chosen = [(one, scores) for one in judgments(results) if (scores := getattr(one, what))]
        if len(chosen) > 1:
            measures = [key for key in _MEASURES[what] if any(key in scores["overall"] for _, scores in chosen)]
            rows = tuple(
                (one.title, scores["overall"]["images"], *(scores["overall"].get(key) for key in measures), one.file)
                for one, scores in chosen
            )
            found.append(
                Table(
                    name=what,
                    title="Object counts" if what == "counts" else "Spatial relations",
                    columns=(*_score_columns("model", what, measures), Column(title="result", text=True)),
                    rows=rows,
                    sources=tuple(one.file for one, _ in chosen),
                )
            )
    return found


def _score_columns(first: str, what: str, measures: Sequence[str]) -> tuple[Column, ...]:
    titles = {key: _MEASURES[what][key] for key in measures}
    named = (
        Column(title=title, percent="%" in title, better="lower" if "error" in title else "higher")
        for title in titles.values()
    )
    return (Column(title=first, text=True), Column(title="images"), *named)


def judgment_tables(one: Judgment) -> list[Table]:
    """Counts, their cells and confusion matrix, and relations; then the counter's own errors and its other thresholds."""
    found = []
    for what, scores in (("counts", one.counts), ("relations", one.relations)):
        if scores:
            found.append(_scores(what, scores, one))
            if scores.get("cells"):
                found.append(cells_table(scores["cells"], name=one.title, title=one.title, file=one.file))
            if "confusion" in scores:
                found.append(_confusion(scores["confusion"], one))
    for name, title, rows in (
        ("counter", "The counter's own error on real images", _errors(one)),
        ("thresholds", "By the detector's threshold", [(f"{part['threshold']:g}", part) for part in one.thresholds]),
    ):
        if rows:
            found.append(_overall(name, title, rows, one))
    return found


def _errors(one: Judgment) -> list[tuple[str, Mapping[str, Any]]]:
    errors = (one.counter or {}).get("errors") or {}
    return [
        (name, {what: part and part["overall"] for what, part in scores.items() if what in _MEASURES})
        for name, scores in errors.items()
        if any(scores.get(what) for what in _MEASURES)
    ]


def _overall(name: str, title: str, rows: Sequence[tuple[str, Mapping[str, Any]]], judgment: Judgment) -> Table:
    """Overall scores of counts and relations side by side, a row for each of several conditions."""
    parts = [what for what in _MEASURES if any(row.get(what) for _, row in rows)]
    columns = [Column(title="images", text=True)]
    for what in parts:
        columns += [replace(column, group=what) for column in _score_columns("", what, list(_MEASURES[what]))[1:]]
    return Table(
        name=f"{name}-{slug(judgment.title)}",
        title=title,
        columns=tuple(columns),
        rows=tuple(
            (
                label,
                *(
                    cell
                    for what in parts
                    for part in [row.get(what) or {}]
                    for cell in (part.get("images"), *(part.get(key) for key in _MEASURES[what]))
                ),
            )
            for label, row in rows
        ),
        sources=(judgment.file,),
    )


def _scores(what: str, scores: Mapping[str, Any], judgment: Judgment) -> Table:
    groups = {"all": scores["overall"]}
    for key, values in scores.items():
        if key.startswith("by_") and (len(values) > 1 or key != "by_combination"):
            groups |= {f"{key[3:]} {value}" if key == "by_count" else value: group for value, group in values.items()}
    measures = [key for key in _MEASURES[what] if key in scores["overall"]]
    return Table(
        name=f"{what}-{slug(judgment.title)}",
        title=f"{what.capitalize()}: {judgment.title}",
        columns=_score_columns("asked", what, measures),
        rows=tuple((label, group["images"], *(group.get(key) for key in measures)) for label, group in groups.items()),
        sources=(judgment.file,),
    )


def cells_table(cells: Mapping[str, Mapping[str, Mapping[str, Any]]], *, name: str, title: str, file: Path) -> Table:
    """Both equations' scores by kind and count: of the paper's prompts its 20 cells."""
    counts = sorted({count for of_kind in cells.values() for count in of_kind}, key=int)
    measures = {"match_ratio": "match ratio, % (Eq. 10)", "average_error": "average error (Eq. 9)"}
    return Table(
        name=f"cells-{slug(name)}",
        title=f"By object and asked count: {title}",
        columns=(
            Column(title="object", text=True),
            *(
                Column(title=count, group=group, percent="%" in group)
                for group in measures.values()
                for count in counts
            ),
        ),
        rows=tuple(
            (kind, *(of_kind.get(count, {}).get(measure) for measure in measures for count in counts))
            for kind, of_kind in cells.items()
        ),
        notes=(f"{_images(cells)} images a cell.",),
        sources=(file,),
    )


def _images(cells: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    numbers = sorted({scores["images"] for of_kind in cells.values() for scores in of_kind.values()})
    return " to ".join(str(number) for number in dict.fromkeys((numbers[0], numbers[-1])))


def _confusion(matrix: Mapping[str, Any], judgment: Judgment) -> Table:
    return Table(
        name=f"confusion-{slug(judgment.title)}",
        title=f"Asked and counted: {judgment.title}",
        kind="matrix",
        columns=(
            Column(title="asked", text=True),
            *(Column(title=str(one), group="counted") for one in matrix["counted"]),
        ),
        rows=tuple((asked, *row) for asked, row in matrix["asked"].items()),
        sources=(judgment.file,),
    )
