"""What an experiment's results say together: means over seeds, and whether the paper's claims hold."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from ifuvit.experiments.definition import Experiment, Quantity
from ifuvit.metrics.counting.skills import skill_metrics
from ifuvit.results import (
    Costs,
    Elbow,
    Estimate,
    Evaluation,
    ExperimentResult,
    ExperimentRow,
    Metric,
    Metrics,
    Reference,
    Verdict,
    by_name,
    distinct,
)
from ifuvit.utils.config import from_dict, to_dict
from ifuvit.utils.errors import InputError

Word = Literal["holds", "does not hold", "undecided"]

Evaluations = Mapping[str, Mapping[int, Sequence[Evaluation]]]
"""Finished evaluations by setting and seed."""

# Facts about one evaluation's own sampling; over seeds another interval takes their place.
_OF_ONE_EVALUATION = ("standard_error",)


def metrics_of(evaluation: Evaluation) -> Metrics:
    """All metrics of an evaluation, its skills among them."""
    return (*evaluation.metrics, *skill_metrics(evaluation.objects))


# ------------------------------------------------------------------------------------------------------------ statistics


def student(values: Sequence[float]) -> Estimate:
    """The mean of N >= 1 seeds with Student's 95 % interval; one seed has none. (A bootstrap's interval would be far too
    narrow for the two to five seeds that one can afford: its 95 % are 51 % for two and 85 % for five.)"""
    from scipy.stats import t

    count, mean = len(values), float(np.mean(values))
    if count == 1:
        return Estimate(value=mean, interval_from="one seed", n=1)
    half = float(t.ppf(0.975, count - 1) * np.std(values, ddof=1) / count**0.5)
    return Estimate(value=mean, interval=(mean - half, mean + half), interval_from="Student's t over seeds", n=count)


def over_seeds(metrics: Sequence[Metric]) -> Metric:
    """One metric from N >= 1 runs that differ in their seed.

    One run's stays as it is. Of several: the mean with `student`'s interval; `values` has the single ones. Details are kept
    if all runs agree on them, and averaged if they are numbers.
    """
    if len(metrics) == 1:
        return metrics[0]
    details = agreed([one.details for one in metrics])
    return replace(
        metrics[0],
        **vars(student([one.value for one in metrics])),
        values=tuple(one.value for one in metrics),
        reference=_reference([one.reference for one in metrics]),
        details={name: value for name, value in details.items() if name not in _OF_ONE_EVALUATION},
    )


def _reference(references: Sequence[Reference | None]) -> Reference | None:
    """The real images' value, which is the same for all seeds but for rounding; their mean."""
    known = [one for one in references if one is not None]
    return replace(known[0], value=float(np.mean([one.value for one in known]))) if known else None


def agreed(facts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What N >= 1 objects have in common: equal values as they are, different numbers as their mean, objects by the same
    rule; all else is left out."""
    found: dict[str, Any] = {}
    for key in facts[0]:
        values = [one.get(key) for one in facts]
        if all(value == values[0] for value in values):
            found[key] = values[0]
        elif all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
            found[key] = sum(values) / len(values)  # type: ignore[arg-type]
        elif all(isinstance(value, Mapping) for value in values):
            found[key] = agreed(values)  # type: ignore[arg-type]
    return found


# ------------------------------------------------------------------------------------------------------ table and claims


def table(experiment: Experiment, evaluations: Evaluations) -> tuple[ExperimentRow, ...]:
    """A row for every setting and guidance scale of which there is a result; means over the seeds that are there.

    Raises:
        InputError: results of different versions of an evaluation network, whose numbers cannot stand in one table.
    """
    _check_networks(evaluations)
    rows = []
    for setting in experiment.settings:
        found = [(seed, one) for seed, of_seed in evaluations[setting.name].items() for one in of_seed]
        for scale in sorted({one.guidance_scale for _, one in found}):
            here = [(seed, one) for seed, one in found if one.guidance_scale == scale]
            several = [by_name(metrics_of(one)) for _, one in here]
            trained = here[0][1].target.setting
            assert trained is not None
            rows.append(
                ExperimentRow(
                    name=setting.name,
                    setting=trained,
                    in_the_paper=(setting.n_text, setting.n_image),
                    guidance_scale=scale,
                    seeds=tuple(seed for seed, _ in here),
                    metrics=tuple(over_seeds([one[name] for one in several]) for name in several[0]),
                    costs=_costs([one.costs or Costs() for _, one in here]),
                )
            )
    return tuple(rows)


def _costs(costs: Sequence[Costs]) -> Costs:
    """The memory is that of a process that has done more here than one evaluation, so it is left out."""
    return replace(from_dict(Costs, agreed([to_dict(one) for one in costs])), peak_memory_gib=None)


def _check_networks(evaluations: Evaluations) -> None:
    first: dict[str, tuple[str, Any]] = {}
    for one in (one for by_seed in evaluations.values() for of_seed in by_seed.values() for one in of_seed):
        for metric in one.metrics:
            name, network = first.setdefault(metric.name, (one.target.name, metric.network))
            if metric.network != network:
                raise InputError(
                    f"{metric.name}: {name} and {one.target.name} were evaluated by different versions of its network; "
                    "delete the older results to evaluate them again"
                )


def verdicts(experiment: Experiment, headline: Mapping[Quantity, str], evaluations: Evaluations) -> tuple[Verdict, ...]:
    """What the results say of the experiment's claims, seed by seed; claims for which results or the number are missing are
    left out."""
    found = []
    for claim in experiment.claims:
        metric = headline.get(claim.by)
        better, worse = (
            {
                seed: metrics[metric]
                for seed, of_seed in evaluations[name].items()
                if of_seed and metric in (metrics := by_name(metrics_of(of_seed[0])))
            }
            for name in (claim.better, claim.worse)
        )
        both = [(better[seed], worse[seed]) for seed in better if seed in worse]
        if metric is None or not both:
            continue
        by_seed = [one.value - other.value for one, other in both]
        difference = student(by_seed)
        found.append(
            Verdict(
                claim=claim.text,
                better=claim.better,
                worse=claim.worse,
                metric=metric,
                difference=difference,
                differences=tuple(by_seed) if len(by_seed) > 1 else (),
                verdict=_verdict(difference, 1 if both[0][0].better == "higher" else -1),
            )
        )
    return tuple(found)


def _verdict(difference: Estimate, sign: int) -> Word:
    """What a difference says of a claim that it has this sign."""
    if difference.interval is None:
        return "undecided"
    low, high = sorted(sign * bound for bound in difference.interval)
    return "holds" if low > 0 else "does not hold" if high < 0 else "undecided"


def elbow(points: Sequence[tuple[float, float, float]]) -> float | None:
    """The guidance scale at which a curve of distance against alignment bends most: the point farthest below the straight line
    from the first scale to the last, both axes from 0 to 1 (Satopaa et al. 2011, "Finding a 'Kneedle' in a Haystack").

    Args:
        points: (guidance scale, alignment, distance), at least three.

    Returns:
        None where no point lies below the line, or the ends have equal alignment or all points equal distance.
    """
    scales, x, y = (np.array(column, np.float64) for column in zip(*sorted(points)))
    spread = y.max() - y.min()
    if len(points) < 3 or x[0] == x[-1] or spread == 0:
        return None
    along = (x - x[0]) / (x[-1] - x[0])
    below = (y[0] + along * (y[-1] - y[0]) - y) / spread
    place = int(np.argmax(below))
    return float(scales[place]) if below[place] > 1e-9 else None


def elbows(experiment: Experiment, headline: Mapping[Quantity, str], evaluations: Evaluations) -> tuple[Elbow, ...]:
    """The elbow of every setting's curve, where the paper names one; of settings whose scales are all evaluated."""
    if experiment.elbow is None:
        return ()
    names = (headline["alignment"], headline["distance"])
    found = []
    for setting in experiment.settings:
        curves = []
        for of_seed in evaluations[setting.name].values():
            rows = [(one.guidance_scale, by_name(one.metrics)) for one in of_seed]
            if len(rows) == len(experiment.guidance_scales):
                curves.append(sorted((scale, *(metrics[name].value for name in names)) for scale, metrics in rows))
        if not curves:
            continue
        by_seed = tuple(elbow(curve) for curve in curves)
        word: Word = "undecided"
        if len(curves) >= 3 and len({one == experiment.elbow for one in by_seed}) == 1:
            word = "holds" if by_seed[0] == experiment.elbow else "does not hold"
        found.append(
            Elbow(
                setting=setting.name,
                guidance_scale=elbow([tuple(point) for point in np.mean(curves, axis=0).tolist()]),
                by_seed=by_seed,
                in_the_paper=experiment.elbow,
                verdict=word,
            )
        )
    return tuple(found)


def summary(result: ExperimentResult) -> str:
    """The main numbers of an experiment's table, its verdicts and the runs that failed, as text."""
    coverage = [one.name for one in distinct(row.metrics for row in result.table) if one.subject == "coverage"]
    columns = [*result.headline.values(), *coverage]
    lines = [["setting", *columns]]
    for row in result.table:
        metrics = by_name(row.metrics)
        scale = f", w = {row.guidance_scale:g}" if result.points else ""
        lines.append([f"{row.name}{scale}", *(_cell(metrics.get(column)) for column in columns)])
    widths = [max(map(len, column)) for column in zip(*lines)]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]
    for verdict in result.verdicts:
        seeds = f"{verdict.difference.n} seed{'s' if verdict.difference.n != 1 else ''}"
        text.append(f"{verdict.claim}: {verdict.verdict} ({verdict.metric} {_cell(verdict.difference)}, {seeds})")
    for one in result.elbows:
        where = "nowhere" if one.guidance_scale is None else f"at w = {one.guidance_scale:g}"
        text.append(f"{one.setting}: elbow {where}; the paper's, at w = {one.in_the_paper:g}: {one.verdict}")
    text += [f"failed: {run.setting}, seed {run.seed}: {run.reason}" for run in result.runs if run.status == "failed"]
    return "\n".join(text)


def _cell(number: Estimate | None) -> str:
    if number is None:
        return ""
    interval = number.interval
    return f"{number.value:.4g}" + ("" if interval is None else f" [{interval[0]:.4g}, {interval[1]:.4g}]")
