"""The first lines of the report: what model, how good, how much cheaper than early fusion, how sure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ifuvit.reporting import tables
from ifuvit.reporting.counting import judgments
from ifuvit.reporting.results import Estimate, Evaluation, Experiment, Results


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One number of the first lines."""

    label: str
    value: str
    interval: str = ""
    interval_from: str = ""
    beside: str = ""
    """What to compare it with."""


@dataclass(frozen=True, kw_only=True)
class Headline:
    """What the page is about, in a few numbers."""

    name: str
    about: str
    tiles: Sequence[Tile] = ()
    caution: str = ""
    """What the intervals do not hold."""

    @property
    def sure(self) -> str:
        """Where the intervals come from, and what they do not hold."""
        sources = dict.fromkeys(tile.interval_from for tile in self.tiles if tile.interval_from)
        told = [f"Brackets are 95 % intervals: {'; '.join(sources)}."] if sources else []
        return " ".join([*told, *([self.caution] if self.caution else [])])


def headline(results: Results) -> Headline:
    """About the first model evaluated by itself; else Table 1's intermediate fusion; else whatever there is."""
    if results.alone:
        return _of_evaluation(results.alone[0], results)
    for experiment in results.experiments:
        if experiment.name == "table1" and (found := _of_experiment(experiment)) is not None:
            return found
    if results.evaluations:
        return _of_evaluation(results.evaluations[0], results)
    for one in judgments(results):
        if one.counts:
            about = "Images whose objects were counted; there is no evaluation of their model here."
            return Headline(name=one.name, about=about, tiles=_count_tiles(one.counts))
    if results.studies:
        told = [f"{one.answers['answered']} answers by {len(one.raters)} raters" for one in results.studies]
        about = "A human study: " if len(told) == 1 else f"{len(told)} human studies: "
        return Headline(name=", ".join(one.name for one in results.studies), about=f"{about}{'; '.join(told)}.")
    return Headline(name="Nothing evaluated", about="No result here tells how good a model is.")


def _of_evaluation(one: Evaluation, results: Results) -> Headline:
    about = []
    if one.setting is not None:
        about.append(_in_words(str(one.setting)))
    if one.costs.get("parameters"):
        about.append(f"{one.costs['parameters']:,} parameters")
    if training := one.target.get("training"):
        about.append(f"trained for {training['steps']:,} steps of {training['batch_size']}")
    about.append(f"judged under protocol {one.protocol['name']}")
    return Headline(
        name=one.name,
        about="; ".join(about) + ".",
        tiles=[
            *_metric_tiles(one.metrics),
            *_count_tiles(one.counts or {}),
            *_cost_tiles(one.costs, _early(one, results)),
        ],
        caution="It is one training run: how much another seed would change is not in them." if one.setting else "",
    )


def _of_experiment(experiment: Experiment) -> Headline | None:
    rows = {(row.setting.conditioning, row.setting.fusion): row for row in experiment.rows if row.metrics}
    row = rows.get(("cross", "intermediate")) or rows.get(("concat", "intermediate"))
    if row is None:
        return None
    early = rows.get(("concat", "early"))
    return Headline(
        name=row.name,
        about=f"{_in_words(str(row.setting))}; experiment {experiment.name} at scale {experiment.scale}, {experiment.trained}.",
        tiles=[*_metric_tiles(row.metrics), *_cost_tiles(row.costs, early.costs if early is not None else None)],
    )


def _in_words(setting: str) -> str:
    words = setting.replace("cross, ", "cross-attention, ").replace("concat, ", "concatenation, ")
    return words.replace("intermediate", "intermediate fusion").replace("early", "early fusion")


def _metric_tiles(metrics: Mapping[str, Estimate]) -> list[Tile]:
    """The first distance and the first score."""
    tiles = []
    for wanted, beside in ((tables.is_distance, "real against real images"), (tables.is_score, "real pairs")):
        if name := next(filter(wanted, tables.metric_names([metrics])), None):
            real = metrics[name].real
            told = "" if real is None else f"{beside}: {tables.number(real, tables.digits_of(metrics[name]))}"
            tiles.append(_tile(tables.metric_column(name), metrics[name], told))
    return tiles


def _count_tiles(counts: Mapping[str, Any]) -> list[Tile]:
    overall = counts.get("overall", {})
    if not isinstance(overall.get("right"), Estimate):
        return []
    column = tables.Column(title="right kind and number of objects, %", percent=True)
    return [_tile(column, overall["right"], f"of {overall['images']:,} images")]


def _tile(column: tables.Column, estimate: Estimate, beside: str) -> Tile:
    value, _, interval = tables.plain(estimate, column).partition(" ")
    return Tile(
        label=f"{column.title}, {column.better} is better" if column.better else column.title,
        value=value,
        interval=interval,
        interval_from=(estimate.interval_from or "") if interval else "",
        beside=beside,
    )


def _cost_tiles(costs: Mapping[str, Any], early: Mapping[str, Any] | None) -> list[Tile]:
    """A guided step beside early fusion's: the one place where the report divides two numbers, both of them shown."""
    steps = [(one or {}).get("guided_step_gflops", {}).get("shared") for one in (costs, early)]
    if None in steps:
        return []
    ours, theirs = steps
    return [
        Tile(
            label="GFLOPs a guided sampling step",
            value=f"{ours:,.4g}",
            interval=f"{100 * (ours / theirs - 1):+.0f} %".replace("-", "−"),
            beside=f"early fusion by concatenation (U-ViT): {theirs:,.4g}",
        )
    ]


_SIZE = ("latent_size", "latent_channels", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio")


def _early(one: Evaluation, results: Results) -> Mapping[str, Any] | None:
    """Costs of early fusion by concatenation in the same size: of another evaluation, or of the preset that differs in
    nothing else."""
    if one.setting is None or one.setting.fusion == "early":
        return None
    for other in results.evaluations:
        setting = other.setting
        if setting is not None and (setting.conditioning, setting.fusion) == ("concat", "early"):
            if all(other.target["setting"].get(key) == one.target["setting"].get(key) for key in _SIZE):
                return other.costs
    for costs in results.costs:
        for name, row in costs.rows.items():
            if all(row[key] == one.costs.get(key) for key in ("parameters", "gflops")):
                early = name.replace("cross-", "concat-").replace("intermediate", "early")
                if early in costs.rows:
                    return costs.rows[early]
    return None
