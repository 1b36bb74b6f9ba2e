"""The report's tables, and their forms as CSV and Markdown. Nothing is computed: cells hold what results tell."""

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ifuvit.reporting import paper
from ifuvit.reporting.results import Estimate, Evaluation, Experiment, Judgment, Results, Setting

Cell = Estimate | Path | str | int | float | None
"""A Path is the file that the row's numbers come from."""


@dataclass(frozen=True, kw_only=True)
class Column:
    title: str
    group: str = ""
    percent: bool = False
    """Shares are shown in percent; CSV files keep the share."""
    text: bool = False
    """Words, not numbers."""
    better: str = ""
    """"lower", "higher", or nothing."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows under columns; the first column names the row."""

    name: str
    """File name of its CSV and Markdown forms."""
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    kind: Literal["rows", "matrix"] = "rows"
    """A matrix holds frequencies, which may be shaded by their share of the row."""
    sources: tuple[Path, ...] = ()
    """The results that it was read from."""

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Column groups in order, with how many columns each spans; empty if no column has one."""
        spans: list[tuple[str, int]] = []
        for column in self.columns:
            if spans and spans[-1][0] == column.group:
                spans[-1] = (column.group, spans[-1][1] + 1)
            else:
                spans.append((column.group, 1))
        return spans if any(name for name, _ in spans) else []


# ------------------------------------------------------------------------------------------------------------- numbers


def digits_of(estimate: Estimate, scale: float = 1.0) -> int:
    """Decimals worth showing: two significant digits of the interval's half width, else four of the value."""
    if estimate.interval is not None and estimate.interval[1] > estimate.interval[0]:
        size, significant = scale * (estimate.interval[1] - estimate.interval[0]) / 2, 2
    else:
        size, significant = abs(scale * estimate.value), 4
    if not 0 < size < math.inf:
        return 1 if scale == 100 else 2
    return min(max(significant - 1 - math.floor(math.log10(size) + 1e-9), 0), 6)


def number(value: float, digits: int) -> str:
    """A number with `digits` decimals and thousands set apart by commas."""
    text = f"{value:,.{digits}f}"
    return text.lstrip("-") if float(text.replace(",", "")) == 0 else text


def plain(value: Cell, column: Column | None = None) -> str:
    """A cell as text: "0.021 [0.019, 0.023]"."""
    if value is None:
        return "-"
    if isinstance(value, Estimate):
        scale = 100.0 if column is not None and column.percent else 1.0
        digits = min(digits_of(value, scale), 1) if scale == 100 else digits_of(value)
        text = number(scale * value.value, digits)
        if value.interval is None:
            return text
        low, high = (number(scale * bound, digits) for bound in value.interval)
        return f"{text} [{low}, {high}]"
    if isinstance(value, (bool, str, Path)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def is_distance(name: str) -> bool:
    return name.startswith(("FD", "FID", "KID", "CMMD"))


def is_score(name: str) -> bool:
    return name.endswith("score")


def metric_column(name: str, group: str = "") -> Column:
    better = "lower" if is_distance(name) or "error" in name else "higher"
    share = "ratio" in name or name.startswith("right ")
    return Column(title=f"{name}, %" if share else name, group=group, percent=share, better=better)


def metric_names(sets: Iterable[Mapping[str, Estimate]]) -> list[str]:
    """The names of all metrics: distances (kernel distances first), scores, the others."""
    names = list(dict.fromkeys(name for metrics in sets for name in metrics))

    def rank(name: str) -> int:
        if is_distance(name):
            return 0 if name.startswith("KID") else 1
        return 2 if is_score(name) else 3

    return sorted(names, key=rank)


def _real(names: Sequence[str], sets: Iterable[Mapping[str, Estimate]]) -> tuple[Estimate | None, ...]:
    """What real pictures have by each metric, where all results agree on it."""
    values: dict[str, set[float | None]] = {name: set() for name in names}
    for metrics in sets:
        for name in values.keys() & metrics.keys():
            values[name].add(metrics[name].real)
    return tuple(_bare(found.pop() if len(found) == 1 else None) for found in values.values())


def _bare(value: float | None) -> Estimate | None:
    """A number of which no interval is known."""
    return None if value is None else Estimate(value=value)


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


# -------------------------------------------------------------------------------------------------------------- tables


def tables(results: Results) -> list[Table]:
    """All tables that the results have something for, each under a name of its own."""
    found = [
        *table_1(results),
        *table_2(results),
        *experiments(results),
        *(table for one in results.experiments for table in claims(one)),
        *sweeps(results),
        *trainings(results),
        *count_overview(results),
        *(table for number, one in enumerate(judgments(results), start=1) for table in judgment_tables(one, number)),
        *costs(results),
        *speeds(results),
        *(evaluation_table(one, f"evaluation-{number}") for number, one in enumerate(results.evaluations, start=1)),
    ]
    taken: dict[str, int] = {}
    for position, table in enumerate(found):
        taken[table.name] = taken.get(table.name, 0) + 1
        if taken[table.name] > 1:
            found[position] = replace(table, name=f"{table.name}-{taken[table.name]}")
    return found


def table_1(results: Results) -> list[Table]:
    """The paper's Table 1 beside each experiment of that name, evaluations of its settings and counted costs."""
    found = []
    for one in results.experiments:
        if one.name == "table1":
            rows = [(row.setting, row.metrics, row.costs) for row in one.rows]
            found.append(
                _beside_table_1(f"trained at scale {one.scale}", f"ours: {one.scale}, {one.trained}", rows, one.file)
            )
    if not found:
        for protocol, chosen in _by_protocol(results.evaluations).items():
            rows = [(one.setting, one.metrics, one.costs) for one in chosen if one.setting is not None]
            if rows:
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
    found: dict[str, list[Evaluation]] = {}
    for one in evaluations:
        found.setdefault(str(one.protocol["name"]), []).append(one)
    return found


def _beside_table_1(
    title: str,
    group: str,
    ours: Sequence[tuple[Setting, Mapping[str, Estimate], Mapping[str, Any]]],
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
        match = [one for one in ours if (one[0].conditioning, one[0].fusion) == (row.conditioning, row.fusion)]
        _, metrics, costs = match[0] if match else (None, {}, {})
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
    real = _real(names, (metrics for _, metrics, _ in ours))
    if any(value is not None for value in real):
        rows.append(("real pictures", *real, *(None,) * (len(columns) - 1 - len(real))))
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
    real = _real(names, (one.metrics for one in chosen))
    if any(value is not None for value in real):
        rows.append(("real pictures", None, *real, None, None, None, None, None))
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


def experiments(results: Results) -> list[Table]:
    """A table for each experiment, in their order."""
    found = []
    for experiment in results.experiments:
        names = metric_names(row.metrics for row in experiment.rows)
        found.append(
            Table(
                name=f"experiment-{slug(experiment.name)}-{slug(experiment.scale)}",
                title=f"{experiment.title}, scale {experiment.scale}",
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
        every = replace(main, name=f"{one.name}, all kinds", counts=one.all_kinds, relations=None, counter=None)
        counted, related = one.held_out.get("counts"), one.held_out.get("relations")
        held = replace(main, name=f"{one.name}, held-out combinations", counts=counted, relations=related, counter=None)
        found += [main, every, held]
    return [one for one in (*found, *results.judgments) if one.counts or one.relations]


def count_overview(results: Results) -> list[Table]:
    """What was counted of each of several models, in a row each."""
    found = []
    for what in ("counts", "relations"):
        chosen = [(one, scores) for one in judgments(results) if (scores := getattr(one, what))]
        if len(chosen) > 1:
            measures = [key for key in _MEASURES[what] if any(key in scores["overall"] for _, scores in chosen)]
            rows = tuple(
                (one.name, scores["overall"]["pictures"], *(scores["overall"].get(key) for key in measures), one.file)
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
    return (Column(title=first, text=True), Column(title="pictures"), *named)


def judgment_tables(one: Judgment, number: int) -> list[Table]:
    """Counts, their confusion matrix, and relations; then the counter's own errors and its other thresholds."""
    found = []
    for what, scores in (("counts", one.counts), ("relations", one.relations)):
        if scores:
            found.append(_scores(what, number, scores, one))
            if "confusion" in scores:
                found.append(_confusion(scores["confusion"], f"confusion-{number}", one))
    for name, title, rows in (
        ("counter", "The counter's own error on real pictures", _errors(one)),
        ("thresholds", "By the detector's threshold", [(f"{part['threshold']:g}", part) for part in one.thresholds]),
    ):
        if rows:
            found.append(_overall(f"{name}-{number}", title, rows, one))
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
    columns = [Column(title="pictures", text=True)]
    for what in parts:
        columns += [replace(column, group=what) for column in _score_columns("", what, list(_MEASURES[what]))[1:]]
    return Table(
        name=name,
        title=title,
        columns=tuple(columns),
        rows=tuple(
            (
                label,
                *(
                    cell
                    for what in parts
                    for part in [row.get(what) or {}]
                    for cell in (part.get("pictures"), *(part.get(key) for key in _MEASURES[what]))
                ),
            )
            for label, row in rows
        ),
        sources=(judgment.file,),
    )


def _scores(what: str, number: int, scores: Mapping[str, Any], judgment: Judgment) -> Table:
    groups = {"all": scores["overall"]}
    for key, values in scores.items():
        if key.startswith("by_") and (len(values) > 1 or key != "by_combination"):
            groups |= {f"{key[3:]} {value}" if key == "by_count" else value: group for value, group in values.items()}
    measures = [key for key in _MEASURES[what] if key in scores["overall"]]
    return Table(
        name=f"{what}-{number}",
        title=f"{what.capitalize()}: {judgment.name}",
        columns=_score_columns("asked", what, measures),
        rows=tuple(
            (label, group["pictures"], *(group.get(key) for key in measures)) for label, group in groups.items()
        ),
        sources=(judgment.file,),
    )


def _confusion(matrix: Mapping[str, Any], name: str, judgment: Judgment) -> Table:
    return Table(
        name=name,
        title=f"Asked and counted: {judgment.name}",
        kind="matrix",
        columns=(
            Column(title="asked", text=True),
            *(Column(title=str(one), group="counted") for one in matrix["counted"]),
        ),
        rows=tuple((asked, *row) for asked, row in matrix["asked"].items()),
        sources=(judgment.file,),
    )


def costs(results: Results) -> list[Table]:
    return [
        Table(
            name="costs",
            title="Costs of one picture's forward pass and of one guided sampling step, GFLOPs",
            columns=(Column(title="preset", text=True), *_costs_columns()),
            rows=tuple((name, *_costs_cells(row)) for name, row in one.rows.items()),
            notes=("2 x multiply-adds. Shared: text encoded once a prompt, text-free blocks once for both branches.",),
            sources=(one.file,),
        )
        for one in results.costs
    ]


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


def evaluation_table(one: Evaluation, name: str) -> Table:
    return Table(
        name=name,
        title=one.name,
        columns=tuple(
            Column(title=title, text=title in ("metric", "interval from", "how"))
            for title in ("metric", "value", "n", "interval from", "real pictures", "how")
        ),
        rows=tuple(
            (metric, value, value.n, value.interval_from, _bare(value.real), value.real_how)
            for metric in metric_names([one.metrics])
            for value in [one.metrics[metric]]
        ),
        sources=(one.file,),
    )


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


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "unnamed"


# --------------------------------------------------------------------------------------------------------------- files


def as_markdown(table: Table) -> str:
    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    heads = [f"{column.group}: {column.title}" if column.group else column.title for column in table.columns]
    rows = [line(plain(cell, column) for cell, column in zip(row, table.columns)) for row in table.rows]
    parts = [f"# {table.title}", "", line(heads), line("---" for _ in heads), *rows]
    parts += [part for note in table.notes for part in ("", note)]
    parts += ["", f"From {', '.join(map(str, table.sources))}. Brackets: 95 % intervals."]
    return "\n".join(parts) + "\n"


def as_csv(table: Table) -> str:
    """One column a value; beside estimates their interval, n and the value of real pictures where there are any."""
    extras: dict[int, list[str]] = {}
    for position, _ in enumerate(table.columns):
        estimates = [row[position] for row in table.rows if isinstance(row[position], Estimate)]
        known = {"low": "interval", "high": "interval", "n": "n", "real": "real"}
        extras[position] = [
            extra for extra, field in known.items() if any(getattr(one, field) is not None for one in estimates)
        ]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head: list[str] = []
    for position, column in enumerate(table.columns):
        title = f"{column.group}: {column.title}" if column.group else column.title
        head += [title.replace(", %", ""), *(f"{title.replace(', %', '')} {extra}" for extra in extras[position])]
    writer.writerow(head)
    for row in table.rows:
        cells: list[Any] = []
        for position, cell in enumerate(row):
            if isinstance(cell, Estimate):
                low, high = cell.interval or (None, None)
                further = {"low": low, "high": high, "n": cell.n, "real": cell.real}
                cells += [cell.value, *(further[extra] for extra in extras[position])]
            else:
                cells += [cell, *(None for _ in extras[position])]
        writer.writerow(cells)
    return out.getvalue()
