"""The first lines of the report: what model, how good, how much cheaper than early fusion, how sure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ifuvit.reporting import tables
from ifuvit.reporting.collection import Collection, Item
from ifuvit.reporting.count_section import counted, of_evaluation
from ifuvit.results import Costs, Counts, Estimate, Evaluation, ExperimentResult, Metric, Metrics, Setting, distinct


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One number of the first lines."""

    label: str
    value: str
    interval: str = ""
    interval_from: str = ""
    note: str = ""
    """What to compare it with."""


@dataclass(frozen=True, kw_only=True)
class Headline:
    """What the page is about, in a few numbers."""

    name: str
    about: str
    tiles: Sequence[Tile] = ()
    caution: str = ""
    """What the intervals do not include."""

    @property
    def sure(self) -> str:
        """Where the intervals come from, and what they do not include."""
        sources = dict.fromkeys(tile.interval_from for tile in self.tiles if tile.interval_from)
        told = [f"Brackets are 95 % intervals: {'; '.join(sources)}."] if sources else []
        return " ".join([*told, *([self.caution] if self.caution else [])])


def headline(found: Collection) -> Headline:
    """About the first model evaluated by itself; else Table 1's intermediate fusion; else whatever there is."""
    if alone := [one for one in found.alone if one.result.metrics]:
        return _of_evaluation(alone[0])
    for experiment in found.experiments:
        if experiment.result.name == "table1" and (told := _of_experiment(experiment)) is not None:
            return told
    if found.measured:
        return _of_evaluation(found.measured[0])
    for one in counted(found):
        if one.scores.counts:
            about = "Images whose objects were counted; there is no evaluation of their model here."
            return Headline(name=one.name, about=about, tiles=_count_tiles(one.scores.counts))
    if studies := [one.result for one in found.studies]:
        answers = "; ".join(f"{one.answers.answered} answers by {len(one.raters)} raters" for one in studies)
        about = "A human study" if len(studies) == 1 else f"{len(studies)} human studies"
        return Headline(name=", ".join(one.name for one in studies), about=f"{about}: {answers}.")
    return Headline(name="Nothing evaluated", about="No result here says how good a model is.")


def _of_evaluation(one: Item[Evaluation]) -> Headline:
    result = one.result
    setting, costs, training = result.target.setting, result.costs or Costs(), result.target.training
    about = []
    if setting is not None:
        about.append(setting.words)
    if costs.parameters:
        about.append(f"{costs.parameters:,} parameters")
    if training is not None:
        about.append(f"trained for {training.steps:,} steps of {training.batch_size}")
    about.append(f"evaluated under protocol {result.protocol['name']}")
    return Headline(
        name=one.name,
        about="; ".join(about) + ".",
        tiles=[
            *_metric_tiles(result.metrics),
            *_count_tiles(of_evaluation(one)[0].scores.counts),
            *_cost_tiles(costs, setting),
        ],
        caution="It is one training run: how much another seed would change is not in them." if setting else "",
    )


def _of_experiment(experiment: Item[ExperimentResult]) -> Headline | None:
    result = experiment.result
    rows = {(row.setting.conditioning, row.setting.fusion): row for row in result.table if row.metrics}
    row = rows.get(("cross", "intermediate")) or rows.get(("concat", "intermediate"))
    if row is None:
        return None
    seeds = f"{len(row.seeds)} seed{'s' if len(row.seeds) > 1 else ''}"
    return Headline(
        name=row.name,
        about=f"{row.setting.words}; experiment {result.name} at scale {result.scale}, {seeds}.",
        tiles=[*_metric_tiles(row.metrics), *_cost_tiles(row.costs, row.setting)],
    )


def _metric_tiles(metrics: Metrics) -> list[Tile]:
    """The first distance with precision and recall, and the first alignment score."""
    tiles = []
    for subject, note, most in (
        ("distance", "real images", 1),
        ("coverage", "real images", 2),
        ("alignment", "real pairs", 1),
    ):
        for metric in [one for one in distinct([metrics]) if one.subject == subject][:most]:
            floors, column = {note: metric.reference, "decoded": metric.decoded_reference}, tables.metric_column(metric)
            told = [
                f"{name}: {tables.plain(_as_shown(one.value, metric), column)}" for name, one in floors.items() if one
            ]
            tiles.append(_tile(column, metric, "; ".join(told)))
    return tiles


def _as_shown(value: float, metric: Metric) -> Metric:
    """Another value of a metric, without an interval and with as many decimals as the metric's own."""
    return replace(metric, value=value, interval=None, decimals=tables.digits_of(metric))


def _count_tiles(counts: Counts | None) -> list[Tile]:
    if counts is None or counts.overall.right is None:
        return []
    column = tables.Column(title="right kind and number of objects, %", percent=True)
    return [_tile(column, counts.overall.right, f"of {counts.overall.images:,} images")]


def _tile(column: tables.Column, estimate: Estimate, note: str) -> Tile:
    value, _, interval = tables.plain(estimate, column).partition(" ")
    return Tile(
        label=f"{column.title}, {column.better} is better" if column.better else column.title,
        value=value,
        interval=interval,
        interval_from=(estimate.interval_from or "") if interval else "",
        note=note,
    )


def _cost_tiles(costs: Costs, setting: Setting | None) -> list[Tile]:
    """A guided step next to early fusion's: the one place where the report divides two numbers, both of them shown."""
    own, early = costs.guided_step_gflops, costs.early_fusion_step_gflops
    if own is None or early is None or setting is None or setting.fusion == "early":
        return []
    return [
        Tile(
            label="GFLOPs a guided sampling step",
            value=f"{own.shared:,.4g}",
            interval=f"{100 * (own.shared / early.shared - 1):+.0f} %".replace("-", "−"),
            note=f"early fusion by concatenation (U-ViT): {early.shared:,.4g}",
        )
    ]
