"""The map of an experiment: placement on one axis, skill on the other, and which placements no cheaper one beats."""

from collections.abc import Mapping, Sequence

from ifuvit.metrics.counting.skills import SKILLS
from ifuvit.reporting.collection import Item
from ifuvit.reporting.plots import Plot, Point, Series, line_plot
from ifuvit.reporting.tables import Column, Table, bare, metric_column, slug
from ifuvit.results import Better, ExperimentResult, ExperimentRow, Metric, by_name, distinct

_COST = "GFLOPs of a guided step"
_EQUAL = {"width": "width", "flops": "FLOPs of a forward pass", "parameters": "number of parameters"}


def maps(one: Item[ExperimentResult]) -> list[Table]:
    """Skills by placement, shaded from the worst to the best of each, with costs and whether a placement is on a front; nothing
    without two placements and two skills, or with several guidance scales."""
    result = one.result
    skills = _skills(result)
    if not skills:
        return []
    fronts = {metric.name: set(_front(result, metric)) for metric in _qualities(result)}
    return [
        Table(
            name=f"map-{slug(result.name)}-{slug(result.scale)}",
            title=f"Skill by placement at equal {_EQUAL[result.equal]}, scale {result.scale}{one.apart}",
            kind="map",
            columns=(
                Column(title="placement", text=True),
                *map(metric_column, skills),
                Column(title="parameters"),
                Column(title="GFLOPs"),
                Column(title=_COST),
                Column(title="on the front of", text=True),
            ),
            rows=tuple(_row(row, skills, fronts) for row in result.table),
            notes=(
                f"{_sure(result)} Shades go from the worst to the best of a column, however near these are. GFLOPs are of a forward "
                "pass and, with the text encoded once and the text-free prefix shared, of a guided step. On the front: no placement "
                "with as many GFLOPs of a guided step or fewer has a better mean.",
            ),
            sources=(one.file,),
        )
    ]


def _row(row: ExperimentRow, skills: Sequence[Metric], fronts: Mapping[str, set[str]]) -> tuple:
    numbers, costs = by_name(row.metrics), row.costs
    return (
        row.name,
        *(numbers.get(skill.name) for skill in skills),
        costs.parameters,
        bare(costs.gflops and costs.gflops.with_attention),
        bare(_step(row)),
        ", ".join(name for name, members in fronts.items() if row.name in members) or None,
    )


def _sure(result: ExperimentResult) -> str:
    """What the intervals are of."""
    if all(len(row.seeds) == 1 for row in result.table):
        return "One seed a placement: the intervals are over images of the same weights, and other weights may differ by more."
    return "The intervals are Student's over seeds, where a placement has several."


def pareto_plots(result: ExperimentResult) -> list[Plot]:
    """Quality against the cost of a guided step, with the front of placements that no cheaper one beats."""
    if not _skills(result):
        return []
    plots = []
    for metric in _qualities(result):
        column = metric_column(metric)
        scale, members, series = 100 if column.percent else 1, _front(result, metric), []
        for row in result.table:
            number, cost = by_name(row.metrics).get(metric.name), _step(row)
            if number is not None and cost is not None:
                interval = number.interval and (scale * number.interval[0], scale * number.interval[1])
                label = row.name if row.name in members else ""
                placed = Point(x=cost, y=scale * number.value, y_interval=interval, label=label)
                series.append(Series(name=row.name, points=[placed]))
        places = {one.name: one.points[0] for one in series}
        front = [Point(x=places[name].x, y=places[name].y) for name in members]
        if len(series) > 1:
            series.append(Series(name="Pareto front", points=front, marked=False, expected=True))
            plots.append(
                line_plot(
                    series,
                    title=f"{column.title} against {_COST}",
                    x_label=_COST,
                    y_label=f"{column.title}, {metric.better} is better",
                    note="The front is of the means; where intervals overlap, another seed may have another front.",
                )
            )
    return plots


def front(points: Sequence[tuple[str, float, float]], better: Better) -> list[str]:
    """The names of the points that are better than all that cost less or as much, from the cheapest on.

    Args:
        points: (name, cost, quality).
    """
    sign = 1 if better == "higher" else -1
    names: list[str] = []
    best = float("-inf")
    for name, _, quality in sorted(points, key=lambda one: (one[1], -sign * one[2])):
        if sign * quality > best:
            names.append(name)
            best = sign * quality
    return names


def _front(result: ExperimentResult, metric: Metric) -> list[str]:
    points = [
        (row.name, cost, number.value)
        for row in result.table
        if (number := by_name(row.metrics).get(metric.name)) is not None and (cost := _step(row)) is not None
    ]
    assert metric.better is not None
    return front(points, metric.better)


def _skills(result: ExperimentResult) -> list[Metric]:
    """The skills that its rows have, if they make a map."""
    if len(result.table) < 2 or result.points:
        return []
    found = by_name(distinct(row.metrics for row in result.table))
    skills = [found[name] for name in SKILLS if name in found]
    return skills if len(skills) > 1 else []


def _qualities(result: ExperimentResult) -> list[Metric]:
    """What fronts are drawn of: the quantities that claims compare, those of skills and the distance."""
    found = by_name(distinct(row.metrics for row in result.table))
    names = [
        result.headline[quantity] for quantity in ("counts", "relations", "distance") if quantity in result.headline
    ]
    return [found[name] for name in names if name in found and found[name].better is not None]


def _step(row: ExperimentRow) -> float | None:
    return row.costs.guided_step_gflops and row.costs.guided_step_gflops.shared
