"""The page: one HTML file that needs no other."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ifuvit.artifacts import now, package_version
from ifuvit.reporting import figures, tables
from ifuvit.reporting.results import Estimate, Evaluation, Experiment, Results
from ifuvit.reporting.samples import grids
from ifuvit.reporting.tables import Table, plain


def render(results: Results, *, title: str) -> str:
    """The report as HTML."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ifuvit.reporting", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    sources, drawn = provenance(results), grids(results)
    environment.globals |= {
        "plain": plain,
        "number": tables.number,
        "references": {source.file: position for position, source in enumerate(sources, start=1)},
    }
    environment.tests["estimate"] = lambda value: isinstance(value, Estimate)
    environment.tests["path"] = lambda value: isinstance(value, Path)
    context: dict[str, Any] = {
        "title": title,
        "headline": headline(results),
        "compared": [*tables.table_1(results), *tables.table_2(results)],
        "experiments": [
            {"experiment": one, "plots": figures.experiment_plots(one), "table": table, "claims": tables.claims(one)}
            for one, table in zip(results.experiments, tables.experiments(results))
        ],
        "sweeps": [
            {"sweep": one, "plots": figures.sweep_plots(one.points), "table": table}
            for one, table in zip(results.sweeps, tables.sweeps(results))
        ],
        "training": {"plots": figures.training_plots(results), "tables": tables.trainings(results)},
        "grids": drawn,
        "counts": {
            "plots": figures.count_plots(results),
            "overview": tables.count_overview(results),
            "judged": _judged(results),
        },
        "costs": [*tables.costs(results), *tables.speeds(results)],
        "sources": sources,
        "missing": missing(results, any(len(grid.models) > 1 for grid in drawn)),
        "made": now(),
        "version": package_version(),
    }
    return environment.get_template("report.html.j2").render(context)


# ------------------------------------------------------------------------------------------------------- the first lines


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One number of the first lines."""

    label: str
    value: str
    interval: str = ""
    beside: str = ""
    """What to compare it with."""


@dataclass(frozen=True, kw_only=True)
class Headline:
    """What model, how good, how much cheaper than early fusion, how sure."""

    name: str
    about: str
    tiles: tuple[Tile, ...]
    sure: str


def headline(results: Results) -> Headline:
    """The first lines of the page, about the first evaluated model, or an experiment's intermediate cross-attention."""
    inside = {(one.file.parent / run["result"]).resolve() for one in results.experiments for run in one.runs}
    alone = [one for one in results.evaluations if one.file.resolve() not in inside]
    table = next((one for one in results.experiments if one.name == "table1"), None)
    if alone:
        return _of_evaluation(alone[0], results)
    if table is not None and (found := _of_experiment(table)) is not None:
        return found
    if results.evaluations:
        return _of_evaluation(results.evaluations[0], results)
    judged = [one for one in tables.judgments(results) if one.counts]
    if judged:
        return Headline(
            name=judged[0].name,
            about="Pictures whose objects were counted; no evaluation of the model is here.",
            tiles=_count_tiles(judged[0].counts or {}),
            sure=_sure(judged[0].counts["overall"]["match_ratio"] if judged[0].counts else None),
        )
    return Headline(
        name="No quality measured", about="What is here tells costs, training or pictures only.", tiles=(), sure=""
    )


def _of_evaluation(one: Evaluation, results: Results) -> Headline:
    about = (
        [str(one.setting).replace("cross,", "cross-attention,").replace("concat,", "concatenation,")]
        if one.setting
        else []
    )
    if one.costs.get("parameters"):
        about.append(f"{one.costs['parameters']:,} parameters")
    if training := one.target.get("training"):
        about.append(f"trained for {training['steps']:,} steps of {training['batch_size']}")
    tiles = [*_metric_tiles(one.metrics), *_count_tiles(one.counts or {})]
    if (early := _early(one, results)) is not None:
        tiles += _cost_tiles(one.costs, early)
    protocol = one.protocol
    sure = _sure(next(iter(one.metrics.values()), None))
    if one.kind == "ifuvit":
        sure += " One training run: the intervals do not hold the chance of training."
    about.append(f"protocol {protocol['name']}")
    return Headline(name=one.name, about="; ".join(about) + ".", tiles=tuple(tiles), sure=sure.strip())


def _of_experiment(experiment: Experiment) -> Headline | None:
    rows = {(row.setting.conditioning, row.setting.fusion): row for row in experiment.rows if row.metrics}
    row = rows.get(("cross", "intermediate")) or rows.get(("concat", "intermediate"))
    if row is None:
        return None
    early = rows.get(("concat", "early"))
    tiles = [*_metric_tiles(row.metrics), *(_cost_tiles(row.costs, early.costs) if early is not None else ())]
    seeds = len(experiment.seeds)
    return Headline(
        name=row.name,
        about=f"{row.setting}; scale {experiment.scale}, {seeds} training seed{'s' if seeds > 1 else ''}.",
        tiles=tuple(tiles),
        sure=_sure(next(iter(row.metrics.values()))),
    )


def _metric_tiles(metrics: Mapping[str, Estimate]) -> list[Tile]:
    """The first distance and the first score."""
    found = []
    for wanted in (tables.is_distance, tables.is_score):
        if name := next(filter(wanted, tables.metric_names([metrics])), None):
            real = metrics[name].real
            how = "real pictures against each other" if wanted is tables.is_distance else "real pairs"
            found.append(
                _tile(
                    f"{name}, {'lower' if wanted is tables.is_distance else 'higher'} is better",
                    metrics[name],
                    beside="" if real is None else f"{how}: {number_like(real, metrics[name])}",
                )
            )
    return found


def number_like(value: float, estimate: Estimate) -> str:
    return tables.number(value, tables.digits_of(estimate))


def _count_tiles(counts: Mapping[str, Any]) -> tuple[Tile, ...]:
    overall = counts.get("overall", {})
    if not isinstance(overall.get("right"), Estimate):
        return ()
    tile = _tile("right kind and number of objects, %", overall["right"], percent=True)
    return (Tile(**{**vars(tile), "beside": f"of {overall['pictures']:,} pictures"}),)


def _cost_tiles(costs: Mapping[str, Any], early: Mapping[str, Any]) -> list[Tile]:
    """A guided step beside early fusion's: the one place where the page divides two numbers, both shown."""
    try:
        ours, theirs = costs["guided_step_gflops"]["shared"], early["guided_step_gflops"]["shared"]
    except KeyError:
        return []
    return [
        Tile(
            label="GFLOPs a guided sampling step",
            value=f"{ours:,.4g}",
            interval=f"{100 * (ours / theirs - 1):+.0f} %".replace("-", "−"),
            beside=f"early fusion by concatenation (U-ViT): {theirs:,.4g}",
        )
    ]


def _tile(label: str, estimate: Estimate, *, percent: bool = False, beside: str = "") -> Tile:
    value, _, interval = plain(estimate, tables.Column(title=label, percent=percent)).partition(" ")
    return Tile(label=label, value=value, interval=interval, beside=beside)


def _sure(estimate: Estimate | None) -> str:
    if estimate is None or estimate.interval is None:
        return ""
    n = f", n = {estimate.n:,}" if estimate.n else ""
    return f"Brackets are 95 % intervals ({estimate.interval_from}{n})."


def _early(one: Evaluation, results: Results) -> Mapping[str, Any] | None:
    """Costs of early fusion by concatenation in the same size: of another evaluation, or of the preset that differs in
    nothing else."""
    if one.setting is None or one.setting.fusion == "early":
        return None
    sizes = ("latent_size", "latent_channels", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio")
    size = [one.target["setting"].get(key) for key in sizes]
    for other in results.evaluations:
        setting = other.setting
        if setting is not None and (setting.conditioning, setting.fusion) == ("concat", "early"):
            if [other.target["setting"].get(key) for key in sizes] == size:
                return other.costs
    for costs in results.costs:
        for name, row in costs.rows.items():
            if all(row[key] == one.costs.get(key) for key in ("parameters", "gflops")):
                early = name.replace("cross-", "concat-").replace("intermediate", "early")
                if early in costs.rows:
                    return costs.rows[early]
    return None


# --------------------------------------------------------------------------------------------------- further parts


def _judged(results: Results) -> list[dict[str, Any]]:
    return [
        {"name": one.name, "tables": tables.judgment_tables(one, number), "errors": (one.counter or {}).get("errors")}
        for number, one in enumerate(tables.judgments(results), start=1)
    ]


@dataclass(frozen=True, kw_only=True)
class Source:
    """One result file: what it is, under which protocol, with all its numbers."""

    file: Path
    what: str
    protocol: str
    facts: Mapping[str, Any]
    table: Table | None = None


def provenance(results: Results) -> list[Source]:
    """Every file that numbers of the page come from."""
    found = [
        Source(
            file=one.file,
            what=f"Evaluation of {one.name}",
            protocol=_protocol(one.protocol, one.data),
            facts=_facts(one.protocol, one.data, one.target, {"device": one.device, "finished": one.finished}),
            table=tables.evaluation_table(one, f"evaluation-{number}"),
        )
        for number, one in enumerate(results.evaluations, start=1)
    ]
    for one in results.judgments:
        found.append(
            Source(file=one.file, what=f"Object counts of {one.name}", protocol="", facts=_facts(one.counter or {}))
        )
    for one in results.sweeps:
        found.append(
            Source(
                file=one.file,
                what="Sweep over guidance scales",
                protocol=_protocol(one.protocol, {}),
                facts=_facts(one.protocol),
            )
        )
    for one in results.experiments:
        done = sum(run.get("status") == "done" for run in one.runs)
        seeds = ", ".join(map(str, one.seeds))
        about = f"scale {one.scale}; seeds {seeds}; {done} of {len(one.runs)} runs done; {_protocol(one.protocol, one.data)}"
        found.append(
            Source(
                file=one.file,
                what=f"Experiment {one.name}: {one.title}",
                protocol=about.removesuffix("; "),
                facts=_facts(one.protocol, one.data),
            )
        )
    for one in results.trainings:
        found.append(Source(file=one.file, what=f"Training log of {one.name}", protocol="", facts={}))
    for one in results.costs:
        found.append(
            Source(
                file=one.file,
                what="Counted costs",
                protocol="parameters and 2 x multiply-adds, by `ifuvit costs`",
                facts={},
            )
        )
    return found


def _protocol(protocol: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """The choices that matter most, in a sentence."""
    told = []
    for key, text in (
        ("name", "{}"),
        ("images", "{:,} pictures"),
        ("solver", "{}"),
        ("steps", "{} steps"),
        ("guidance_scale", "w = {:g} (the paper's s = w − 1)"),
        ("seed", "seed {}"),
        ("reference", "against real pictures: {}"),
    ):
        if protocol.get(key) is not None:
            told.append(text.format(protocol[key]))
    if data.get("where"):
        told.append(f"data {data['where']}, {data['split']}" if data.get("split") else f"data {data['where']}")
    return ", ".join(told)


def _facts(*sets: Mapping[str, Any]) -> dict[str, str]:
    """Plain values by name, for the details."""
    return {
        key.replace("_", " "): ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        for values in sets
        for key, value in values.items()
        if value is not None
        and not isinstance(value, (dict, Estimate))
        and not (isinstance(value, list) and value and isinstance(value[0], dict))
    }


def missing(results: Results, side_by_side: bool) -> list[tuple[str, str]]:
    """(what the report would also show, the command that makes it)."""
    names = {one.name for one in results.experiments}
    wishes = [
        (
            not results.evaluations,
            "distances, alignment and Table 2",
            "ifuvit evaluate MODEL --data DIR --out RESULT.json",
        ),
        (
            "table1" not in names,
            "Table 1 with intervals over seeds",
            "ifuvit experiment table1 --scale openmoji --seeds 3 --out DIR",
        ),
        ("ablation" not in names, "ablation bars", "ifuvit experiment ablation --scale openmoji --seeds 3 --out DIR"),
        (not results.sweeps, "the curve over guidance scales", "ifuvit sweep RUN... --data DIR --out DIR"),
        (
            not any(run.evaluations for run in results.trainings),
            "distance and score during training",
            "ifuvit train ... --evaluate-every N --evaluate-data DIR",
        ),
        (not results.trainings, "losses", "ifuvit train ..., whose metrics.jsonl is read"),
        (not tables.judgments(results), "object counts", "ifuvit count judge PICTURES --out RESULT.json"),
        (not results.costs, "costs of all presets", "ifuvit costs --json > costs.json"),
        (
            not side_by_side,
            "the same prompts and seeds drawn by several models",
            "ifuvit generate --prompts-file FILE --model MODEL --out DIR",
        ),
    ]
    return [(what, command) for absent, what, command in wishes if absent]
