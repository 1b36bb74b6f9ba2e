"""The paper's Tables 1 and 2 with our numbers next to them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ifuvit import paper
from ifuvit.reporting.collection import Collection, Item
from ifuvit.reporting.tables import Cell, Column, Table, bare, metric_column
from ifuvit.results import Costs, Evaluation, Metric, Metrics, Setting, by_name, distinct, in_common


@dataclass(frozen=True, kw_only=True)
class _Row:
    """Our numbers of one of the paper's settings."""

    setting: Setting | None = None
    metrics: Metrics = ()
    costs: Costs = Costs()


def table_1(found: Collection) -> list[Table]:
    """The paper's Table 1 next to each experiment of that name, evaluations of its settings, and counted costs."""
    tables = []
    for one in found.experiments:
        if one.result.name == "table1":
            rows = [_Row(setting=row.setting, metrics=row.metrics, costs=row.costs) for row in one.result.table]
            title = f"trained at scale {one.result.scale}{one.apart}"
            tables.append(_table_1(title, f"ours: {one.result.scale}, {_seeds(one)}", rows, one.file))
    if not tables:
        for protocol, chosen in _by_protocol(found.evaluations).items():
            rows = [
                _Row(setting=one.result.target.setting, metrics=one.result.metrics, costs=one.result.costs or Costs())
                for one in chosen
            ]
            tables.append(_table_1("evaluated", f"ours: protocol {protocol}", rows, *(one.file for one in chosen)))
    for counted in found.costs:
        rows = [
            _Row(
                setting=row.setting,
                costs=Costs(parameters=own.parameters, gflops=own.gflops, guided_step_gflops=own.guided_step_gflops),
            )
            for row in paper.TABLE_1
            if (own := counted.result.get(row.name)) is not None
        ]
        if rows:
            tables.append(_table_1("counted at the paper's size", "ours", rows, counted.file))
    return tables


def _seeds(experiment: Item) -> str:
    """How many seeds its rows have: "3 seeds"."""
    numbers = sorted({len(row.seeds) for row in experiment.result.table}) or [0]
    words = " to ".join(str(number) for number in dict.fromkeys((numbers[0], numbers[-1])))
    return f"{words} seed" if words == "1" else f"{words} seeds"


def _by_protocol(evaluations: Sequence[Item[Evaluation]]) -> dict[str, list[Item[Evaluation]]]:
    """Evaluations of this package's models."""
    found: dict[str, list[Item[Evaluation]]] = {}
    for one in evaluations:
        if one.result.target.setting is not None:
            found.setdefault(one.result.protocol["name"], []).append(one)
    return found


def _table_1(title: str, group: str, ours: Sequence[_Row], *files: Path) -> Table:
    metrics = _headline(row.metrics for row in ours)
    counted = {"parameters": "parameters", "training_steps_per_second": "training steps/s"}
    shown = {key: name for key, name in counted.items() if any(getattr(row.costs, key) is not None for row in ours)}
    printed = ("FID-30K", "CLIP score", "parameters", "training steps/s", "GFLOPs")
    columns = (
        Column(title="setting", text=True),
        *(metric_column(metric, group) for metric in metrics),
        *(Column(title=title, group=group) for title in (*shown.values(), "GFLOPs", "with attention products")),
        *(Column(title=title, group="the paper") for title in printed),
    )
    rows: list[tuple[Cell, ...]] = []
    for row in paper.TABLE_1:
        key = (row.setting.conditioning, row.setting.fusion)
        like = (one for one in ours if one.setting and (one.setting.conditioning, one.setting.fusion) == key)
        own = next(like, _Row())
        numbers, gflops = by_name(own.metrics), own.costs.gflops
        rows.append(
            (
                f"{row.setting.conditioning}, {row.setting.fusion}",
                *(numbers.get(metric.name) for metric in metrics),
                *(getattr(own.costs, key) for key in shown),
                gflops and gflops.without_attention,
                gflops and gflops.with_attention,
                row.fid_30k,
                row.clip_score,
                f"{row.parameters / 1e6:.0f}M",
                row.training_steps_per_second,
                row.gflops,
            )
        )
    for name, real in _real_images(metrics, [row.metrics for row in ours]):
        rows.append((name, *real, *(None,) * (len(columns) - 1 - len(real))))
    return Table(
        name="table-1",
        title=f"Table 1: four settings, {title}",
        columns=columns,
        rows=tuple(rows),
        notes=(paper.CLIP_NOTE, paper.FLOPS_NOTE),
        sources=files,
    )


def _headline(sets: Iterable[Metrics]) -> list[Metric]:
    """Distances and alignment scores, which the paper's tables have, and precision and recall, without which a distance says
    little; the rest stands in the result's own table."""
    return [metric for metric in distinct(sets) if metric.subject in ("distance", "alignment", "coverage")]


def _real_images(metrics: Sequence[Metric], sets: Sequence[Metrics]) -> list[tuple[str, list[Cell]]]:
    """Rows of real images, and of real images that the models' autoencoder has encoded and decoded, where known."""
    rows = []
    for name, decoded in (("real images", False), ("real images, decoded", True)):
        cells: list[Cell] = [bare(in_common(sets, metric.name, decoded=decoded)) for metric in metrics]
        if any(cell is not None for cell in cells):
            rows.append((name, cells))
    return rows


def table_2(found: Collection) -> list[Table]:
    """The paper's Table 2, and a row for each model evaluated; experiments have theirs in their own tables."""
    alone = found.alone
    chosen = [one for one in found.measured if one in alone] or found.measured
    if not chosen:
        return []
    sets = [one.result.metrics for one in chosen]
    metrics = _headline(sets)
    columns = (
        Column(title="model", text=True),
        Column(title="fusion", text=True),
        *(metric_column(metric, "ours") for metric in metrics),
        Column(title="GFLOPs", group="ours"),
        Column(title="result", group="ours", text=True),
        *(Column(title=title, group="the paper") for title in ("FID-30K", "CLIP score", "GFLOPs")),
    )
    rows: list[tuple[Cell, ...]] = []
    for one in chosen:
        setting, numbers = one.result.target.setting, by_name(one.result.metrics)
        words = f"{setting.fusion}, {setting.conditioning}" if setting else None
        gflops = one.result.costs and one.result.costs.gflops
        own = (*(numbers.get(metric.name) for metric in metrics), gflops and gflops.without_attention)
        rows.append((one.name, words, *own, one.file, None, None, None))
    for name, real in _real_images(metrics, sets):
        rows.append((name, None, *real, None, None, None, None, None))
    for row in paper.TABLE_2:
        empty = (None,) * (len(metrics) + 2)
        rows.append((row.model, f"{row.fusion}, {row.path}", *empty, row.fid_30k, row.clip_score, row.gflops))
    return [
        Table(
            name="table-2",
            title="Table 2: next to other models",
            columns=columns,
            rows=tuple(rows),
            notes=(paper.CLIP_NOTE, paper.FLOPS_NOTE),
            sources=tuple(one.file for one in chosen),
        )
    ]
