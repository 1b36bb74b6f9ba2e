"""Tables of experiments, sweeps, trainings, evaluations and costs. Nothing is computed: cells hold what results tell."""

from collections.abc import Mapping
from typing import Any

from ifuvit.reporting.results import Evaluation, Experiment, Results
from ifuvit.reporting.tables import Cell, Column, Table, bare, metric_column, metric_names, slug


def experiments(results: Results) -> list[Table]:
    """A table for each experiment, in their order."""
    found = []
    for experiment in results.experiments:
        names = metric_names(row.metrics for row in experiment.rows)
        found.append(
            Table(
                name=f"experiment-{slug(experiment.name)}-{slug(experiment.scale)}",
                title=f"{experiment.title}, scale {experiment.scale}{experiment.apart}",
                columns=(Column(title="setting", text=True), *map(metric_column, names), *_costs_columns()),
                rows=tuple(
                    (
                        f"{row.setting}, w = {row.guidance_scale:g}" if experiment.points else str(row.setting),
                        *(row.metrics.get(name) for name in names),
                        *_costs_cells(row.costs),
                    )
                    for row in experiment.rows
                ),
                sources=(experiment.file,),
            )
        )
    return found


def claims(experiment: Experiment) -> list[Table]:
    """What the paper concludes, and what came out."""
    if not experiment.claims:
        return []
    words = {True: "yes", False: "yes, not clearly", None: "yes, with one seed"}
    rows = []
    for claim in experiment.claims:
        word = words[claim.clear]
        rows.append((claim.text, word if claim.holds else word.replace("yes", "no"), claim.metric, claim.difference))
    return [
        Table(
            name=f"claims-{slug(experiment.name)}-{slug(experiment.scale)}",
            title="The paper's claims here",
            columns=tuple(
                Column(title=title, text=title != "difference") for title in ("claim", "holds", "by", "difference")
            ),
            rows=tuple(rows),
            notes=("Clearly: the 95 % interval of the difference over seeds leaves out 0.",),
            sources=(experiment.file,),
        )
    ]


def sweeps(results: Results) -> list[Table]:
    found = []
    for sweep in results.sweeps:
        names = metric_names(point.metrics for point in sweep.points)
        found.append(
            Table(
                name="sweep",
                title="Guidance scales",
                columns=(Column(title="model"), Column(title="guidance scale w"), *map(metric_column, names)),
                rows=tuple(
                    (point.model, point.guidance_scale, *(point.metrics.get(name) for name in names))
                    for point in sweep.points
                ),
                sources=(sweep.file,),
            )
        )
    return found


def trainings(results: Results) -> list[Table]:
    found = []
    for run in results.trainings:
        if run.evaluations:
            names = metric_names(metrics for _, metrics in run.evaluations)
            found.append(
                Table(
                    name=f"training-{slug(run.name)}",
                    title=f"During training: {run.name}",
                    columns=(Column(title="step"), *map(metric_column, names)),
                    rows=tuple((step, *(metrics.get(name) for name in names)) for step, metrics in run.evaluations),
                    sources=(run.file,),
                )
            )
    return found


def evaluation_table(one: Evaluation) -> Table:
    """Every number of an evaluation with all that is told about it."""
    return Table(
        name=f"evaluation-{slug(one.name)}",
        title=one.name,
        columns=tuple(
            Column(title=title, text=title in ("metric", "interval from", "how"))
            for title in ("metric", "value", "n", "interval from", "real images", "how")
        ),
        rows=tuple(
            (metric, value, value.n, value.interval_from, bare(value.real), value.real_how)
            for metric in metric_names([one.metrics])
            for value in [one.metrics[metric]]
        ),
        sources=(one.file,),
    )


def costs(results: Results) -> list[Table]:
    found = []
    for one in results.costs:
        steps = {row["training_memory"]["step"] for row in one.rows.values() if row["training_memory"]}
        group = f"GiB of {' or '.join(sorted(steps))}"
        memory = tuple(Column(title=title, group=group) for title in ("plain", "checkpointed")) if steps else ()
        found.append(
            Table(
                name="costs",
                title="Costs of one image's forward pass and of one guided sampling step, GFLOPs",
                columns=(Column(title="preset", text=True), *_costs_columns(), *memory),
                rows=tuple(
                    (
                        name,
                        *_costs_cells(row),
                        *(bare((row["training_memory"] or {}).get(column.title)) for column in memory),
                    )
                    for name, row in one.rows.items()
                ),
                notes=(
                    "2 x multiply-adds. Shared: text encoded once a prompt, text-free blocks once for both branches.",
                    *(("Memory on one GPU is counted, not measured.",) if steps else ()),
                ),
                sources=(one.file,),
            )
        )
    return found


def speeds(results: Results) -> list[Table]:
    """What was measured where evaluations ran."""
    columns = [Column(title="model"), *_costs_columns(), *(Column(title=title) for title in _SPEEDS.values())]
    rows = [
        (one.name, *_costs_cells(one.costs), *(one.costs.get(key) for key in _SPEEDS), one.device, one.file)
        for one in results.evaluations
        if one.costs
    ]
    if not rows:
        return []
    return [
        Table(
            name="costs-measured",
            title="Costs of what was evaluated",
            columns=(*columns, Column(title="device", text=True), Column(title="result", text=True)),
            rows=tuple(rows),
            notes=("Speed and memory are of the machine that each result names; the GFLOPs are counted.",),
            sources=tuple(one.file for one in results.evaluations if one.costs),
        )
    ]


def _costs_cells(costs: Mapping[str, Any]) -> tuple[Cell, ...]:
    gflops, step = costs.get("gflops") or {}, costs.get("guided_step_gflops") or {}
    return (
        costs.get("parameters"),
        gflops.get("without_attention"),
        gflops.get("with_attention"),
        step.get("plain"),
        step.get("shared"),
    )


def _costs_columns(group: str = "") -> tuple[Column, ...]:
    titles = ("parameters", "GFLOPs", "with attention products", "guided step, plain", "guided step, shared")
    return tuple(Column(title=title, group=group) for title in titles)


_SPEEDS = {
    "training_steps_per_second": "training steps/s",
    "images_per_second": "images/s",
    "peak_memory_gib": "peak memory, GiB",
}
