"""Tables and plots of object counts and spatial relations: the paper's Figure 5 (right)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ifuvit.metrics.counting.skills import skill_metrics
from ifuvit.reporting.collection import Collection, Item
from ifuvit.reporting.plots import COLORS, Plot, Point, Series, line_plot
from ifuvit.reporting.tables import Cell, Column, Table, metric_column, slug
from ifuvit.results import (
    COUNT_SCORES,
    RELATION_SCORES,
    Confusion,
    Counter,
    Counts,
    CountScores,
    Evaluation,
    ObjectCounts,
    Relations,
    RelationScores,
    by_name,
    distinct,
)

_SCORES = {"counts": COUNT_SCORES, "relations": RELATION_SCORES}
_EQUATIONS = {"average_error": " (Eq. 9)", "match_ratio": " (Eq. 10)"}
# The sets of prompts that stand apart from the main one, by title.
_PARTS = {
    "all-kinds": "all kinds",
    "held-out-counts": "held-out counts",
    "held-out-relations": "held-out relations",
    "relation-paraphrases": "paraphrased relations",
    "paraphrases": "paraphrased counts",
}


@dataclass(frozen=True, kw_only=True)
class Counted:
    """What was counted in one set of images."""

    file: Path
    name: str
    scores: ObjectCounts
    counter: Counter | None = None
    part: str = ""
    """Which prompts, where there are several sets of them."""

    @property
    def title(self) -> str:
        return f"{self.name}, {self.part}" if self.part else self.name


def counted(found: Collection) -> list[Counted]:
    """Counts and relations of evaluations, which may have several sets of prompts; last those that measured nothing else."""
    ordered = sorted(found.evaluations, key=lambda one: not one.result.metrics)
    every = [part for one in ordered for part in of_evaluation(one)]
    return [one for one in every if one.scores.counts or one.scores.relations]


def of_evaluation(one: Item[Evaluation]) -> list[Counted]:
    """The paper's counting prompts with the relations, or a directory's captions; then each further set of prompts."""
    sets = one.result.objects
    main = sets.get("paper") or sets.get("captions") or ObjectCounts()
    pairs = sets.get("relations") or ObjectCounts()
    both = replace(main, relations=pairs.relations or main.relations)
    parts = [Counted(file=one.file, name=one.name, scores=both, counter=one.result.counter)]
    parts += [
        Counted(file=one.file, name=one.name, scores=scores, part=_PARTS.get(name, name))
        for name, scores in sets.items()
        if name not in ("paper", "captions", "relations")
    ]
    return parts


def score_columns(what: str, keys: Sequence[str], group: str = "") -> list[Column]:
    """Columns of scores; the paper's have the number of their equation."""
    columns = []
    for key in keys:
        score = _SCORES[what][key]
        title = f"{score.title}{', %' if score.unit == 'share' else ''}{_EQUATIONS.get(key, '')}"
        columns.append(Column(title=title, group=group, percent=score.unit == "share", better=score.better))
    return columns


def score_cells(scores: CountScores | RelationScores | None, keys: Sequence[str]) -> list[Cell]:
    """The values under `score_columns`."""
    return [scores and getattr(scores, key) for key in keys]


def _measured(what: str, scores: CountScores | RelationScores) -> list[str]:
    """The scores that there are."""
    return [key for key in _SCORES[what] if getattr(scores, key) is not None]


# --------------------------------------------------------------------------------------------------------------- tables


def skill_tables(found: Collection) -> list[Table]:
    """Each evaluation's skills in a row, and how far further counters agree with the first."""
    rows = [(one, skills) for one in found.alone if len(skills := skill_metrics(one.result.objects)) > 1]
    tables = []
    if rows:
        skills = distinct(found for _, found in rows)
        tables.append(
            Table(
                name="skills",
                title="Skill by skill",
                columns=(
                    Column(title="model", text=True),
                    *map(metric_column, skills),
                    Column(title="result", text=True),
                ),
                rows=tuple(
                    (one.name, *(by_name(found).get(skill.name) for skill in skills), one.file) for one, found in rows
                ),
                notes=("Right is an image with exactly the asked objects, in the asked relation, and nothing else.",),
                sources=tuple(one.file for one, _ in rows),
            )
        )
    return tables + _agreement(found)


def _agreement(found: Collection) -> list[Table]:
    """One table of all second counters' agreement with the first."""
    counted = [(one, second) for one in found.alone for second in one.result.second_counts]
    if not counted:
        return []
    titles = ("right to both or neither, %", "the same objects, %", "right by the first less by the second, %")
    return [
        Table(
            name="second-counters",
            title="The same images by a second counter",
            columns=(
                *(Column(title=title, text=True) for title in ("model", "second counter", "prompts")),
                Column(title="images"),
                *(Column(title=title, percent=True) for title in titles),
            ),
            rows=tuple(
                (
                    one.name,
                    Path(second.counter.name).name,
                    _PARTS.get(name, name),
                    same.n,
                    same,
                    second.same_objects[name],
                    second.difference[name],
                )
                for one, second in counted
                for name, same in second.same_verdict.items()
            ),
            sources=tuple(dict.fromkeys(one.file for one, _ in counted)),
        )
    ]


def overview(found: Collection) -> list[Table]:
    """What was counted of each of several models, in a row each."""
    tables = skill_tables(found)
    for what, title in (("counts", "Object counts"), ("relations", "Spatial relations")):
        chosen = [(one, part.overall) for one in counted(found) if (part := getattr(one.scores, what))]
        if len(chosen) > 1:
            present = {key for _, scores in chosen for key in _measured(what, scores)}
            keys = [key for key in _SCORES[what] if key in present]
            tables.append(
                Table(
                    name=what,
                    title=title,
                    columns=(*_headings("model", what, keys), Column(title="result", text=True)),
                    rows=tuple(
                        (one.title, scores.images, *score_cells(scores, keys), one.file) for one, scores in chosen
                    ),
                    sources=tuple(one.file for one, _ in chosen),
                )
            )
    return tables


def _headings(first: str, what: str, keys: Sequence[str]) -> tuple[Column, ...]:
    return (Column(title=first, text=True), Column(title="images"), *score_columns(what, keys))


def count_tables(one: Counted) -> list[Table]:
    """Counts, their cells and confusion matrix, and relations; then the counter's own errors and its other thresholds."""
    tables = []
    if (counts := one.scores.counts) is not None:
        tables.append(_scores("counts", counts, one))
        if counts.cells and one.part in ("", _PARTS["all-kinds"]):
            tables.append(cells_table(counts.cells, name=one.title, title=one.title, file=one.file))
        if counts.confusion is not None and not one.part:
            tables.append(_confusion(counts.confusion, one))
    if one.scores.relations is not None:
        tables.append(_scores("relations", one.scores.relations, one))
    if one.counter is not None and one.counter.errors:
        errors = {
            name: {
                "counts": scores.counts and scores.counts.overall,
                "relations": scores.relations and scores.relations.overall,
            }
            for name, scores in one.counter.errors.items()
        }
        tables.append(_side_by_side("counter", "The counter's own error on real images", errors, one))
    if one.scores.thresholds:
        rows = {f"{at.threshold:g}": {"counts": at.counts, "relations": at.relations} for at in one.scores.thresholds}
        tables.append(_side_by_side("thresholds", "By the detector's threshold", rows, one))
    return tables


def _side_by_side(
    name: str, title: str, rows: Mapping[str, Mapping[str, CountScores | RelationScores | None]], one: Counted
) -> Table:
    """Overall scores of counts and of relations, a row for each of several conditions."""
    columns = [Column(title="images", text=True)]
    cells: dict[str, list[Cell]] = {label: [label] for label in rows}
    for what in _SCORES:
        if any(row[what] for row in rows.values()):
            keys = [key for key in _SCORES[what] if any(row[what] and getattr(row[what], key) for row in rows.values())]
            columns += [Column(title="images", group=what), *score_columns(what, keys, group=what)]
            for label, row in rows.items():
                scores = row[what]
                cells[label] += [scores and scores.images, *score_cells(scores, keys)]
    return Table(
        name=f"{name}-{slug(one.title)}",
        title=title,
        columns=tuple(columns),
        rows=tuple(map(tuple, cells.values())),
        sources=(one.file,),
    )


def _scores(what: str, scores: Counts | Relations, one: Counted) -> Table:
    groups = {"all": scores.overall}
    if isinstance(scores, Counts):
        groups |= {f"count {count}": group for count, group in scores.by_count.items()} | {**scores.by_object}
    else:
        groups |= scores.by_relation
    if len(scores.by_combination) > 1:
        groups |= scores.by_combination
    keys = _measured(what, scores.overall)
    return Table(
        name=f"{what}-{slug(one.title)}",
        title=f"{what.capitalize()}: {one.title}",
        columns=_headings("asked", what, keys),
        rows=tuple((label, group.images, *score_cells(group, keys)) for label, group in groups.items()),
        sources=(one.file,),
    )


def cells_table(cells: Mapping[str, Mapping[str, CountScores]], *, name: str, title: str, file: Path) -> Table:
    """Both equations' scores by kind and count: of the paper's prompts its 20 cells."""
    counts = sorted({count for of_kind in cells.values() for count in of_kind}, key=int)
    keys = ("match_ratio", "average_error")
    numbers = sorted({scores.images for of_kind in cells.values() for scores in of_kind.values()}) or [0]
    images = " to ".join(str(number) for number in dict.fromkeys((numbers[0], numbers[-1])))
    return Table(
        name=f"cells-{slug(name)}",
        title=f"By object and asked count: {title}",
        columns=(
            Column(title="object", text=True),
            *(
                Column(title=count, group=column.title, percent=column.percent)
                for column in score_columns("counts", keys)
                for count in counts
            ),
        ),
        rows=tuple(
            (kind, *(cell for key in keys for count in counts for cell in score_cells(of_kind.get(count), [key])))
            for kind, of_kind in cells.items()
        ),
        notes=(f"{images} image{'' if images == '1' else 's'} per cell.",),
        sources=(file,),
    )


def _confusion(matrix: Confusion, one: Counted) -> Table:
    return Table(
        name=f"confusion-{slug(one.title)}",
        title=f"Asked and counted: {one.title}",
        kind="matrix",
        columns=(Column(title="asked", text=True), *(Column(title=count, group="counted") for count in matrix.counted)),
        rows=tuple((asked, *row) for asked, row in matrix.asked.items()),
        sources=(one.file,),
    )


# ---------------------------------------------------------------------------------------------------------------- plots


def count_plots(found: Collection) -> list[Plot]:
    """Match ratio and average error by the asked count, a line for each model."""
    named = [(one.name, one.scores.counts.by_count) for one in counted(found) if one.scores.counts and not one.part]
    return by_count_plots(named, of="images")


def by_count_plots(named: Sequence[tuple[str, Mapping[str, CountScores]]], *, of: str) -> list[Plot]:
    """Match ratio and average error by the asked count, a line for each of several models.

    Args:
        named: names with scores by count.
        of: what a match ratio is a share of.
    """
    plots = []
    for key, title, label in (
        ("match_ratio", "Match ratio by asked count", f"share of {of}, higher is better"),
        ("average_error", "Average error by asked count", "objects, lower is better"),
    ):
        series = []
        for name, by_count in named[:COLORS]:
            points = [
                Point(x=float(count), y=score.value, y_interval=score.interval)
                for count, scores in by_count.items()
                if (score := getattr(scores, key)) is not None
            ]
            if points:
                series.append(Series(name=name, points=points))
        if series:
            plots.append(line_plot(series, title=title, x_label="asked number of objects", y_label=label, apart=True))
    return plots
