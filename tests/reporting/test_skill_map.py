"""The map of placements and skills."""

from pathlib import Path

import example_results

from ifuvit.reporting.collection import Item
from ifuvit.reporting.skill_map import front, maps, pareto_plots
from ifuvit.reporting.tables import Column, Table
from ifuvit.results import (
    Costs,
    Estimate,
    ExperimentResult,
    ExperimentRow,
    Gflops,
    GuidedStepGflops,
    Metric,
    Setting,
)


def row(name: str, step: float, count: float, kind: float) -> ExperimentRow:
    def skill(title: str, value: float) -> Metric:
        return Metric(
            value=value,
            interval=(value - 0.1, value + 0.1),
            name=title,
            subject="counts",
            unit="share",
            better="higher",
        )

    return ExperimentRow(
        name=name,
        setting=Setting(conditioning="concat", n_text=0, n_image=0),
        in_the_paper=(0, 0),
        guidance_scale=2.0,
        seeds=(1234,),
        metrics=(skill("right kind and count", count), skill("right kind", kind)),
        costs=Costs(
            parameters=7,
            gflops=Gflops(without_attention=1.0, with_attention=1.5),
            guided_step_gflops=GuidedStepGflops(plain=9.0, shared=step),
        ),
    )


def atlas(*rows: ExperimentRow) -> Item[ExperimentResult]:
    result = example_results.experiment("atlas", (1234,), runs=(), table=rows, equal="flops")
    return Item(file=Path("experiment.json"), name="atlas", result=result)


def test_front() -> None:
    """Cheapest first; of equal costs the better one; a dearer one only if it is better than all before."""
    points = [("a", 2.0, 0.5), ("b", 1.0, 0.3), ("c", 3.0, 0.4), ("d", 1.0, 0.2), ("e", 4.0, 0.5), ("f", 5.0, 0.9)]
    assert front(points, "higher") == ["b", "a", "f"]
    assert front([(name, cost, -quality) for name, cost, quality in points], "lower") == ["b", "a", "f"]


def test_map_of_placements_and_skills() -> None:
    one = atlas(row("cheap", 1.0, 0.25, 0.5), row("dear", 2.0, 0.5, 0.75), row("beaten", 3.0, 0.375, 0.5))
    (table,) = maps(one)
    assert [column.title for column in table.columns[:3]] == ["placement", "right kind, %", "right kind and count, %"]
    assert [cells[-1] for cells in table.rows] == ["right kind and count", "right kind and count", None]
    assert [table.shade(2, cells[2]) for cells in table.rows] == [0.0, 1.0, 0.5]
    assert "One seed" in table.notes[0] and "FLOPs" in table.title
    (plot,) = pareto_plots(one.result)
    assert [name for name, _ in plot.legend] == ["cheap", "dear", "beaten", "Pareto front"]
    assert maps(atlas(row("alone", 1.0, 0.25, 0.5))) == pareto_plots(atlas().result) == []


def test_shades_go_from_the_worst_to_the_best() -> None:
    columns = (Column(title="name"), Column(title="error", better="lower"), Column(title="cost"))
    rows = tuple((str(value), Estimate(value=value), value) for value in (1.0, 2.0, 3.0))
    table = Table(name="t", title="T", kind="map", columns=columns, rows=(*rows, ("none", None, None)))
    assert [table.shade(1, cells[1]) for cells in table.rows] == [1.0, 0.5, 0.0, 0.0]
    assert table.shade(2, 3.0) == 0.0
