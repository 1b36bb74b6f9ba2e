"""The paper's Tables 1 and 2 with our numbers beside. Nothing is computed: cells hold what results tell."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ifuvit.reporting import paper
from ifuvit.reporting.results import Estimate, Evaluation, Results, Setting, real_of
from ifuvit.reporting.tables import Cell, Column, Table, bare, is_distance, is_score, metric_column, metric_names


def table_1(results: Results) -> list[Table]:
    """The paper's Table 1 beside each experiment of that name, evaluations of its settings and counted costs."""
    found = []
    for one in results.experiments:
        if one.name == "table1":
            rows = [(row.setting, row.metrics, row.costs) for row in one.rows]
            found.append(
                _beside_table_1(
                    f"trained at scale {one.scale}{one.apart}", f"ours: {one.scale}, {one.trained}", rows, one.file
                )
            )
    if not found:
        for protocol, chosen in _by_protocol(results.evaluations).items():
            rows = [(one.setting, one.metrics, one.costs) for one in chosen]
            found.append(
                _beside_table_1("evaluated", f"ours: protocol {protocol}", rows, *(one.file for one in chosen))
            )
    for costs in results.costs:
        rows = []
        for row in paper.TABLE_1:
            if (own := costs.rows.get(f"{row.conditioning}-{row.fusion}")) is not None:
                setting = Setting(conditioning=row.conditioning, n_text=row.n_text, n_image=row.n_image)
                rows.append((setting, {}, own))
        if rows:
            found.append(_beside_table_1("counted at the paper's size", "ours", rows, costs.file))
    return found


def _by_protocol(evaluations: Sequence[Evaluation]) -> dict[str, list[Evaluation]]:
    """Evaluations of this package's models."""
    found: dict[str, list[Evaluation]] = {}
    for one in evaluations:
        if one.setting is not None:
            found.setdefault(str(one.protocol["name"]), []).append(one)
    return found


def _beside_table_1(
    title: str,
    group: str,
    ours: Sequence[tuple[Setting | None, Mapping[str, Estimate], Mapping[str, Any]]],
    *files: Path,
) -> Table:
    names = _headline_names(metrics for _, metrics, _ in ours)
    counted = {"parameters": "parameters", "training_steps_per_second": "training steps/s"}
    shown = {key: name for key, name in counted.items() if any(costs.get(key) is not None for _, _, costs in ours)}
    printed = ("FID-30K", "CLIP score", "parameters", "training steps/s", "GFLOPs")
    columns = (
        Column(title="setting", text=True),
        *(metric_column(name, group) for name in names),
        *(Column(title=title, group=group) for title in (*shown.values(), "GFLOPs", "with attention products")),
        *(Column(title=title, group="the paper") for title in printed),
    )
    rows: list[tuple[Cell, ...]] = []
    for row in paper.TABLE_1:
        like = (
            one for one in ours if one[0] and (one[0].conditioning, one[0].fusion) == (row.conditioning, row.fusion)
        )
        _, metrics, costs = next(like, (None, {}, {}))
        gflops = costs.get("gflops") or {}
        rows.append(
            (
                f"{row.conditioning}, {row.fusion}",
                *(metrics.get(name) for name in names),
                *(costs.get(key) for key in shown),
                gflops.get("without_attention"),
                gflops.get("with_attention"),
                row.fid_30k,
                row.clip_score,
                row.parameters,
                row.training_steps_per_second,
                row.gflops,
            )
        )
    real = [bare(real_of([metrics for _, metrics, _ in ours], name)) for name in names]
    if any(value is not None for value in real):
        rows.append(("real images", *real, *(None,) * (len(columns) - 1 - len(real))))
    return Table(
        name="table-1",
        title=f"Table 1: four settings, {title}",
        columns=columns,
        rows=tuple(rows),
        notes=(paper.CLIP_NOTE, paper.FLOPS_NOTE),
        sources=files,
    )


def _headline_names(sets: Iterable[Mapping[str, Estimate]]) -> list[str]:
    """Distances and scores, which the paper's tables have; all else stands in the result's own table."""
    return [name for name in metric_names(sets) if is_distance(name) or is_score(name)]


def table_2(results: Results) -> list[Table]:
    """The paper's Table 2, and a row for each model evaluated; experiments' own tables have theirs."""
    chosen = results.alone or results.evaluations
    if not chosen:
        return []
    names = _headline_names(one.metrics for one in chosen)
    columns = (
        Column(title="model", text=True),
        Column(title="fusion", text=True),
        *(metric_column(name, "ours") for name in names),
        Column(title="GFLOPs", group="ours"),
        Column(title="result", group="ours", text=True),
        *(Column(title=title, group="the paper") for title in ("FID-30K", "CLIP score", "GFLOPs")),
    )
    rows: list[tuple[Cell, ...]] = []
    for one in chosen:
        words = f"{one.setting.fusion}, {one.setting.conditioning}" if one.setting else None
        gflops = (one.costs.get("gflops") or {}).get("without_attention")
        rows.append((one.name, words, *(one.metrics.get(name) for name in names), gflops, one.file, None, None, None))
    real = [bare(real_of([one.metrics for one in chosen], name)) for name in names]
    if any(value is not None for value in real):
        rows.append(("real images", None, *real, None, None, None, None, None))
    for row in paper.TABLE_2:
        empty = (None,) * (len(names) + 2)
        rows.append((row.model, f"{row.fusion}, {row.path}", *empty, row.fid_30k, row.clip_score, row.gflops))
    return [
        Table(
            name="table-2",
            title="Table 2: beside other models",
            columns=columns,
            rows=tuple(rows),
            notes=(paper.CLIP_NOTE, paper.FLOPS_NOTE),
            sources=tuple(one.file for one in chosen),
        )
    ]
