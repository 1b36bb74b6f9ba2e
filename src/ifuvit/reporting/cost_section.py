"""Tables of costs, counted from configurations and measured where evaluations ran."""

from ifuvit.reporting.collection import Collection
from ifuvit.reporting.tables import Cell, Column, Table, bare
from ifuvit.results import Costs, CountedCosts, TrainingMemory

_MEASURED = {
    "training_steps_per_second": "training steps/s",
    "images_per_second": "images/s",
    "peak_memory_gib": "peak memory, GiB",
}


def counted_tables(found: Collection) -> list[Table]:
    """The output of `ifuvit costs`."""
    tables = []
    for one in found.costs:
        plans = [row.training_memory for row in one.result.values() if row.training_memory is not None]
        steps = sorted({f"a step of {plan.batch_size} in {plan.precision}" for plan in plans})
        titles = ("plain", "checkpointed") if plans else ()
        memory = tuple(Column(title=title, group=f"GiB of {' or '.join(steps)}") for title in titles)
        tables.append(
            Table(
                name="costs",
                title="Costs of one image's forward pass and of one guided sampling step, GFLOPs",
                columns=(Column(title="preset", text=True), *costs_columns(), *memory),
                rows=tuple(
                    (name, *costs_cells(row), *(_peak(row.training_memory, title) for title in titles))
                    for name, row in one.result.items()
                ),
                notes=(
                    "2 x multiply-adds. Shared: text encoded once a prompt, text-free blocks once for both branches.",
                    *(("Memory on one GPU is counted, not measured.",) if plans else ()),
                ),
                sources=(one.file,),
            )
        )
    return tables


def _peak(plan: TrainingMemory | None, way: str) -> Cell:
    return None if plan is None else bare({"plain": plan.plain, "checkpointed": plan.checkpointed}[way]["peak"] / 2**30)


def measured_table(found: Collection) -> list[Table]:
    """Costs of what was evaluated; nothing if there are none."""
    chosen = [(one, one.result.costs) for one in found.evaluations if one.result.costs is not None]
    if not chosen:
        return []
    return [
        Table(
            name="costs-measured",
            title="Costs of what was evaluated",
            columns=(
                Column(title="model"),
                *costs_columns(),
                *(Column(title=title) for title in _MEASURED.values()),
                Column(title="device", text=True),
                Column(title="result", text=True),
            ),
            rows=tuple(
                (one.name, *costs_cells(own), *(getattr(own, key) for key in _MEASURED), one.result.device, one.file)
                for one, own in chosen
            ),
            notes=("Speed and memory are of the machine that each result names; the GFLOPs are counted.",),
            sources=tuple(one.file for one, _ in chosen),
        )
    ]


def costs_cells(costs: Costs | CountedCosts) -> tuple[Cell, ...]:
    """The values under `costs_columns`."""
    gflops, step = costs.gflops, costs.guided_step_gflops
    return (
        costs.parameters,
        gflops and gflops.without_attention,
        gflops and gflops.with_attention,
        step and step.plain,
        step and step.shared,
    )


def costs_columns() -> tuple[Column, ...]:
    titles = ("parameters", "GFLOPs", "with attention products", "guided step, plain", "guided step, shared")
    return tuple(Column(title=title) for title in titles)
