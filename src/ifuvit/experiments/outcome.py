"""What an experiment's results say together: means over seeds, and whether the paper's claims hold."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ifuvit.experiments.definition import Experiment, Quantity
from ifuvit.metrics.intervals import estimate
from ifuvit.utils.errors import InputError

Results = Mapping[str, Mapping[int, Sequence[Mapping[str, Any]]]]
"""Finished results of `ifuvit evaluate` by setting and seed."""

_OF_THE_ESTIMATE = ("value", "interval", "interval_from", "n")
# Facts about one evaluation's own sampling; over seeds another interval takes their place.
_OF_ONE_EVALUATION = ("standard_error",)

# Memory is that of the process, which has done more here than one evaluation.
_OF_THE_PROCESS = ("peak_memory_gib",)

# A judgment's overall scores that stand in the table beside the distances, and their names there.
_COUNTS = {
    "right": "right kind and count",
    "match_ratio": "match ratio of counts",
    "average_error": "average error of counts",
}


def metrics_of(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """All estimates of one result of `ifuvit evaluate` by name, the overall object counts among them."""
    overall = (result.get("counts") or {}).get("overall", {})
    return {**result["metrics"], **{name: overall[key] for key, name in _COUNTS.items() if key in overall}}


def over_seeds(estimates: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One estimate of one quantity from N >= 1 runs that differ in their seed.

    One run's estimate stays as it is. Of several: the mean, with an interval from the bootstrap over seeds; "values" has the
    single ones. Further facts are kept if all runs agree on them, and averaged if they are numbers.
    """
    if len(estimates) == 1:
        return dict(estimates[0])
    values = [float(one["value"]) for one in estimates]
    facts = [{k: v for k, v in one.items() if k not in (*_OF_THE_ESTIMATE, *_OF_ONE_EVALUATION)} for one in estimates]
    return {**estimate(values, over="seeds"), "values": values, **agreed(facts)}


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


def _check_networks(results: Results) -> None:
    first: dict[str, tuple[str, Any]] = {}
    for result in (one for by_seed in results.values() for of_seed in by_seed.values() for one in of_seed):
        for metric, number in result["metrics"].items():
            name, network = first.setdefault(metric, (result["target"]["name"], number.get("network")))
            if number.get("network") != network:
                raise InputError(
                    f"{metric}: {name} and {result['target']['name']} were judged by different versions of its network; "
                    "delete the older results to have them judged again"
                )


def _costs(result: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in (result["costs"] or {}).items() if name not in _OF_THE_PROCESS}


def table(experiment: Experiment, results: Results) -> list[dict[str, Any]]:
    """A row for every setting and guidance scale of which there is a result; means over the seeds that are there.

    Raises:
        InputError: results of different versions of a judging network, whose numbers cannot stand in one table.
    """
    _check_networks(results)
    rows = []
    for setting in experiment.settings:
        found = [(seed, result) for seed, of_seed in results[setting.name].items() for result in of_seed]
        for scale in sorted({result["protocol"]["sampling"]["guidance_scale"] for _, result in found}):
            here = [
                (seed, result) for seed, result in found if result["protocol"]["sampling"]["guidance_scale"] == scale
            ]
            metrics = [metrics_of(result) for _, result in here]
            model = here[0][1]["target"]["setting"]
            rows.append(
                {
                    "setting": setting.name,
                    "conditioning": setting.conditioning,
                    "n_text": model["n_text"],
                    "n_image": model["n_image"],
                    "in_the_paper": [setting.n_text, setting.n_image],
                    "guidance_scale": scale,
                    "seeds": [seed for seed, _ in here],
                    "metrics": {name: over_seeds([one[name] for one in metrics]) for name in metrics[0]},
                    "costs": agreed([_costs(result) for _, result in here]),
                }
            )
    return rows


def verdicts(experiment: Experiment, headline: Mapping[Quantity, str], results: Results) -> list[dict[str, Any]]:
    """What the results say of the experiment's claims; those for which results or the number are missing are left out.

    Each is {"claim", "better", "worse", "metric", "difference": better - worse as an estimate over the seeds that both have,
    "holds": whether its sign is the claimed one, "clear": whether its interval leaves out 0 (None for one seed, which has
    no interval)}.
    """
    found = []
    for claim in experiment.claims:
        metric = headline.get(claim.by)
        better, worse = (
            {
                seed: metrics[metric]["value"]
                for seed, of_seed in results[name].items()
                if of_seed and metric in (metrics := metrics_of(of_seed[0]))
            }
            for name in (claim.better, claim.worse)
        )
        differences = [better[seed] - worse[seed] for seed in better if seed in worse]
        if not differences:
            continue
        difference = _mean_difference(differences)
        interval = difference["interval"]
        found.append(
            {
                "claim": claim.text,
                "better": claim.better,
                "worse": claim.worse,
                "metric": metric,
                "difference": difference,
                "holds": difference["value"] > 0 if claim.by == "alignment" else difference["value"] < 0,
                "clear": None if interval is None else interval[0] > 0 or interval[1] < 0,
            }
        )
    return found


def _mean_difference(differences: Sequence[float]) -> dict[str, Any]:
    """A mean of N >= 1 paired differences. The interval is Student's: the bootstrap's would be far too narrow for a claim
    from the two or three seeds that one can afford."""
    from scipy.stats import t

    count = len(differences)
    mean = float(np.mean(differences))
    if count == 1:
        return {"value": mean, "interval": None, "interval_from": "one seed", "n": 1}
    half = float(t.ppf(0.975, count - 1) * np.std(differences, ddof=1) / count**0.5)
    return {
        "value": mean,
        "interval": [mean - half, mean + half],
        "interval_from": "Student's t over seeds",
        "n": count,
    }


def summary(outcome: Mapping[str, Any]) -> str:
    """The main numbers of an experiment.json's table and its claims, as text."""
    columns = list(outcome["headline"].values())
    scales = {row["guidance_scale"] for row in outcome["table"]}
    lines = [["setting", *columns]] + [
        [
            row["setting"] + (f", w = {row['guidance_scale']:g}" if len(scales) > 1 else ""),
            *(_cell(row["metrics"].get(column)) for column in columns),
        ]
        for row in outcome["table"]
    ]
    widths = [max(map(len, column)) for column in zip(*lines)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]
    for entry in outcome["claims"]:
        found = "yes" if entry["holds"] else "no"
        if entry["clear"] is not True:
            found += ", in one seed" if entry["clear"] is None else ", within what seeds differ by"
        lines.append(f"{entry['claim']}: {found} ({entry['metric']} {_cell(entry['difference'])})")
    return "\n".join(lines)


def _cell(number: Mapping[str, Any] | None) -> str:
    if number is None:
        return ""
    interval = number.get("interval")
    return f"{number['value']:.4g}" + ("" if interval is None else f" [{interval[0]:.4g}, {interval[1]:.4g}]")
