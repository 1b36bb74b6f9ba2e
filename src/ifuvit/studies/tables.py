"""A new study, and the main numbers of one that was answered, as text."""

from collections.abc import Mapping
from typing import Any

from ifuvit.studies.analysis import LEAST_PASSED
from ifuvit.studies.design import Study, answer_deviation, items_needed, raters_needed
from ifuvit.studies.design import interval_width as width_of
from ifuvit.studies.pages import minutes
from ifuvit.studies.progress import task_seconds


def overview(study: Study, interval_width: float | None) -> str:
    """What a new study asks of its raters, and how many it takes for intervals of a wished width."""
    count = study.kind == "count"
    tasks = sorted({len(rater.tasks) for rater in study.raters})
    per_model = len(study.items) if study.kind == "preference" else len(study.items) // len(study.models)
    deviation = answer_deviation(study.kind, len(study.models))
    wished = interval_width or (0.1 if count else 0.3)
    what = {"count": "share of right counts", "preference": "mean points", "rating": "mean rating"}[study.kind]
    present = width_of(items=per_model, raters_per_item=study.raters_per_item, deviation=deviation)
    needed = raters_needed(wished, items=per_model, deviation=deviation)
    lines = [
        f"{len(study.items)} items for {study.raters_per_item} of {len(study.raters)} raters each; "
        f"{' to '.join(str(number) for number in dict.fromkeys((tasks[0], tasks[-1])))} tasks a rater, with practice, "
        f"repeats and checks: about {minutes(tasks[-1], task_seconds(study, []))} minutes",
        f"expected 95 % interval of a model's {what}: at least {present:.2g} wide (half of the variance is taken to be between "
        "items; how much raters differ comes on top)",
    ]
    if checks := len(study.checks):
        lines.append(f"a rater is flagged who fails {_failures(checks)} of {checks} attention checks")
    if needed is None:
        items = items_needed(wished, raters_per_item=study.raters_per_item, deviation=deviation)
        lines.append(
            f"for {wished:g}: no number of raters is enough; with {study.raters_per_item} raters an item it takes "
            f"{items} items {'a model' if count else ''}".rstrip()
        )
    else:
        raters = -(-len(study.raters) * needed // study.raters_per_item)
        lines.append(f"for {wished:g}: {needed} raters an item, that is {raters} raters with as many tasks each")
    return "\n".join(lines)


def _failures(checks: int) -> int:
    """How many failed checks flag a rater, at the least share that has to be passed."""
    return next((failed for failed in range(2, checks + 1) if checks - failed < LEAST_PASSED * checks), checks)


def result_table(result: Mapping[str, Any]) -> str:
    """Models, agreement, checks; after the numbers of everybody those without flagged raters."""
    answers = result["answers"]
    lines = [
        f"{answers['answered']} answers of {answers['expected']} asked for, by "
        f"{sum(row['answered'] > 0 for row in result['raters'])} of {len(result['raters'])} raters; "
        f"{answers['skipped']} skipped, {answers['cannot_tell']} could not tell (brackets: 95 % intervals)"
    ]
    for title, numbers in parts(result).items():
        of_models = {"preference study": _preference, "count study": _count, "rating study": _ratings}[result["kind"]]
        lines += ["", title, *of_models(numbers), *_agreement(numbers)]
    if answers["answered"] < FEW:
        lines += ["", f"fewer than {FEW} answers: too few to conclude anything from these numbers"]
    return "\n".join([*lines, "", *_flags(result)])


FEW = 30


def _flags(result: Mapping[str, Any]) -> list[str]:
    """Who is flagged and why, or why nobody is."""
    lines = []
    for row in result["raters"]:
        if row["flagged"]:
            fast = f", {row['median_seconds']:.1f} s a task" if row["fast"] else ""
            lines.append(f"flagged: {row['rater']}, {row['passed']} of {row['checks']} checks passed{fast}")
    checked = [row for row in result["raters"] if row["checks"]]
    if lines:
        return lines
    if not checked:
        return ["no rater is flagged, but nobody has done an attention check either"]
    return [
        f"no rater is flagged: nobody of the {len(checked)} who did attention checks failed more than one and passed fewer "
        f"than {100 * result['least_passed']:g} %, or was much faster than the others"
    ]


def parts(result: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The sets of numbers by title."""
    flagged = sum(row["flagged"] for row in result["raters"])
    named = {
        "all raters": result["everyone"],
        f"without {flagged} flagged rater{'s' if flagged > 1 else ''}": result["without_flagged"],
    }
    return {title: numbers for title, numbers in named.items() if numbers is not None}


def _cell(estimate: Mapping[str, Any] | None, *, percent: bool = False) -> str:
    if estimate is None:
        return "-"
    scale, digits = (100, 1) if percent else (1, 2)
    text = f"{scale * estimate['value']:.{digits}f}"
    if estimate["interval"] is None:
        return text
    low, high = (f"{scale * bound:.{digits}f}" for bound in estimate["interval"])
    return f"{text} [{low}, {high}]"


def _rows(heads: list[str], rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[place]) for row in [heads, *rows]) for place in range(len(heads))]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))])
        for row in [heads, *rows]
    ]


def _preference(numbers: Mapping[str, Any]) -> list[str]:
    order = numbers["order"]
    rows = [
        [
            model,
            _cell(numbers["points"][model]),
            _cell(numbers["strengths"][model]),
            *(_cell(numbers["win_rates"][model].get(other), percent=True) for other in order),
        ]
        for model in order
    ]
    slots = numbers["slots"]
    lines = _rows(["model", "points", "strength", *(f"% over {other}" for other in order)], rows)
    if slots["p"] is not None:
        lines.append(
            f"points by slot: {', '.join(_cell(one) for one in slots['points'])}; no slot bias: p = {slots['p']:.3g}"
        )
    return lines


def _count(numbers: Mapping[str, Any]) -> list[str]:
    rows = [
        [
            model,
            str(scores["overall"]["answers"]),
            _cell(scores["overall"]["average_error"]),
            _cell(scores["overall"]["match_ratio"], percent=True),
        ]
        for model, scores in numbers["models"].items()
    ]
    lines = _rows(["model", "answers", "average error", "match ratio, %"], rows)
    models = list(numbers["models"])
    for place, one in enumerate(models):
        for other in models[place + 1 :]:
            scores = ", ".join(
                f"{cells['won']} won and {cells['tied']} tied by {score.replace('_', ' ')}"
                for score, cells in numbers["cells_won"][one][other].items()
            )
            cells = numbers["cells_won"][one][other]["match_ratio"]["cells"]
            lines.append(f"{one} against {other}, of {cells} cells: {scores}")
    if counter := numbers["counter"]:
        lines.append(
            f"the counter agrees with people in {_cell(counter['same'], percent=True)} % of answers, "
            f"two people the same in {_cell(counter['same_people'], percent=True)} % of pairs"
        )
    return lines


def _ratings(numbers: Mapping[str, Any]) -> list[str]:
    aspects = numbers["aspects"]
    models = list(dict.fromkeys(model for one in aspects.values() for model in one["means"]))
    rows = [[model, *(_cell(one["means"].get(model)) for one in aspects.values())] for model in models]
    lines = _rows(["model", *aspects], rows)
    for place, one in enumerate(models):
        for other in models[place + 1 :]:
            found = ", ".join(f"{name} {_cell(of['differences'][one][other])}" for name, of in aspects.items())
            lines.append(f"{one} less {other}: {found}")
    return lines


def _agreement(numbers: Mapping[str, Any]) -> list[str]:
    consistency = numbers["self_consistency"]
    if "aspects" in numbers:
        alphas = [f"{name} {_cell(of['agreement']['krippendorffs_alpha'])}" for name, of in numbers["aspects"].items()]
        told = [f"Krippendorff's alpha: {', '.join(alphas)}"]
    else:
        agreement = numbers["agreement"]
        told = [f"Krippendorff's alpha {_cell(agreement['krippendorffs_alpha'])}"]
        if agreement.get("kendalls_w") is not None:
            told += [f"Kendall's W {_cell(agreement['kendalls_w'])}"]
    if consistency["repeats"]:
        told += [f"same answer to {_cell(consistency['same'], percent=True)} % of {consistency['repeats']} repeats"]
    return ["; ".join(told)]
