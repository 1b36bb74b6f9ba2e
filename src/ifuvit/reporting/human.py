"""Tables and plots of human studies. Nothing is computed: cells hold what `ifuvit study analyze` tells."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ifuvit.reporting.counting import cells_table
from ifuvit.reporting.figures import by_count_plots
from ifuvit.reporting.plots import Bar, Plot, bar_plot
from ifuvit.reporting.results import Estimate, HumanStudy
from ifuvit.reporting.tables import Cell, Column, Table, plain, slug

_SCORES = {
    "match_ratio": Column(title="match ratio, % (Eq. 10)", percent=True, better="higher"),
    "average_error": Column(title="average error (Eq. 9)", better="lower"),
}


def study_tables(study: HumanStudy) -> list[Table]:
    """The models; then, of all raters and without flagged ones, one model against the other and further parts; agreement,
    raters."""
    preference = study.kind == "preference"
    overview, details = (_preference, _preference_details) if preference else (_counts, _count_details)
    found = [overview(study)]
    for part, numbers in study.parts.items():
        for table in details(study, numbers):
            if numbers is not study.everyone:
                table = replace(table, name=f"{table.name}-{slug(part)}", title=f"{table.title} ({part})")
            found.append(table)
    return [*found, _agreement(study), _raters(study)]


def study_plots(study: HumanStudy) -> list[Plot]:
    """Mean points and strengths (the paper's Fig. 6), or both scores by count and by object (Fig. 5)."""
    return _preference_plots(study) if study.kind == "preference" else _count_plots(study)


def _table(
    study: HumanStudy, name: str, title: str, columns: Sequence[Column], rows: Sequence[Any], **more: Any
) -> Table:
    return Table(
        name=f"study-{name}-{slug(study.name)}",
        title=title,
        columns=tuple(columns),
        rows=tuple(tuple(row) for row in rows),
        sources=(study.file,),
        **more,
    )


def _grouped(study: HumanStudy, columns: Sequence[Column]) -> list[Column]:
    """The columns, once for every set of numbers if there are two."""
    if len(study.parts) == 1:
        return list(columns)
    return [
        Column(title=one.title, group=part, percent=one.percent, better=one.better)
        for part in study.parts
        for one in columns
    ]


# --------------------------------------------------------------------------------------------------------- preference


def _preference(study: HumanStudy) -> Table:
    order, parts = study.everyone["order"], study.parts.values()
    points = f"points, {len(order)} to 1"
    columns = [
        Column(title=points, better="higher"),
        Column(title="strength", better="higher"),
        Column(title="ranked first, %", percent=True, better="higher"),
    ]
    models = [
        [model, *(numbers[key][model] for numbers in parts for key in ("points", "strengths", "best"))]
        for model in order
    ]
    return _table(
        study,
        "preference",
        f"Preferences of people: {study.name}",
        [Column(title="model", text=True), *_grouped(study, columns)],
        models,
        notes=(
            f"Points as in the paper's Figure 6: of {len(order)} images the best earns {len(order)}, the last 1; "
            "tied ones share. Strength: Plackett-Luce log-strength, 0 on average; its chance to be ranked first.",
        ),
    )


def _preference_details(study: HumanStudy, numbers: Mapping[str, Any]) -> list[Table]:
    order, slots = study.everyone["order"], numbers["slots"]
    return [
        _table(
            study,
            "win-rates",
            "Share of answers that prefer the row's model to the column's, %",
            [Column(title="model", text=True), *(Column(title=model, percent=True) for model in order)],
            [[model, *(numbers["win_rates"][model].get(other) for other in order)] for model in order],
            notes=("Ties count half.",),
        ),
        _table(
            study,
            "slots",
            "Points by slot",
            [Column(title="from left to right", text=True), *(Column(title=f"{n + 1}") for n in range(len(order)))],
            [["points", *slots["points"]]],
            notes=()
            if slots["p"] is None
            else (f"Friedman's test that the slot does not matter: p = {slots['p']:.2g}.",),
        ),
    ]


def _preference_plots(study: HumanStudy) -> list[Plot]:
    models, order = list(study.everyone["points"]), study.everyone["order"]
    plots = []
    for key, title in (
        ("points", f"Mean points, {len(order)} is best"),
        ("strengths", "Plackett-Luce log-strength, higher is better"),
    ):
        values = study.everyone[key]
        bars = [Bar(name=model, estimate=values[model], color=models.index(model)) for model in order]
        plots.append(bar_plot(bars, title=title))
    return plots


# -------------------------------------------------------------------------------------------------------------- counts


def _counts(study: HumanStudy) -> Table:
    rows = [
        [
            model,
            *(
                numbers["models"][model]["overall"][key]
                for numbers in study.parts.values()
                for key in ("answers", *_SCORES)
            ),
        ]
        for model in study.everyone["models"]
    ]
    columns = [Column(title="model", text=True), *_grouped(study, [Column(title="answers"), *_SCORES.values()])]
    return _table(study, "counts", f"Objects that people counted: {study.name}", columns, rows)


def _count_details(study: HumanStudy, numbers: Mapping[str, Any]) -> list[Table]:
    models = numbers["models"]
    found = [_one_against_the_other(study, numbers)] if len(models) > 1 else []
    if numbers["counter"]:
        found.append(_counter(study, numbers["counter"]))
    for by, name in (("by_object", "object"), ("by_count", "asked count")):
        keys = list(dict.fromkeys(key for scores in models.values() for key in scores[by]))
        rows = [
            [model, *(scores[by].get(key, {}).get(score) for score in _SCORES for key in keys)]
            for model, scores in models.items()
        ]
        found.append(
            _table(
                study,
                slug(name),
                f"By {name}",
                _by_score("model", keys),
                rows,
            )
        )
    return [
        *found,
        *(
            cells_table(scores["cells"], name=f"study-{study.name}-{model}", title=model, file=study.file)
            for model, scores in models.items()
        ),
    ]


def _by_score(first: str, titles: Sequence[str]) -> list[Column]:
    """Columns of both scores, each with the same titles below it."""
    return [
        Column(title=first, text=True),
        *(
            Column(title=title, group=score.title, percent=score.percent)
            for score in _SCORES.values()
            for title in titles
        ),
    ]


def _one_against_the_other(study: HumanStudy, numbers: Mapping[str, Any]) -> Table:
    rows = []
    for one, other in itertools.combinations(numbers["models"], 2):
        row: list[Cell] = [f"{one} against {other}"]
        for score in _SCORES:
            cells = numbers["cells_won"][one][other][score]
            row += [cells["won"], cells["tied"], cells["lost"], numbers["differences"][one][other][score]]
        rows.append(row)
    return _table(
        study,
        "one-against-the-other",
        "One model against the other",
        _by_score("models", ("cells won", "tied", "lost", "difference")),
        rows,
        notes=("A cell is an object with an asked count, of which the paper has 20. Difference: first less second.",),
    )


def _counter(study: HumanStudy, told: Mapping[str, Any]) -> Table:
    titles = {
        "same": "the counter tells an answer's number, %",
        "same_people": "two people tell the same number, %",
        "difference": "counter less answer",
        "absolute_difference": "distance of counter and answer",
        "correlation": "correlation by image",
    }
    rows = [
        [model, *(both[who][score] for score in _SCORES for who in ("people", "counter"))]
        for model, both in told["models"].items()
    ]
    notes = [
        f"{title.removesuffix(', %')}: {_words(told[key], percent=title.endswith('%'))}"
        for key, title in titles.items()
        if told[key] is not None
    ]
    return _table(
        study,
        "counter",
        f"The automatic counter ({study.counter}) beside people",
        _by_score("model", ("people", "counter")),
        rows,
        notes=(f"{told['images']} images; {'; '.join(notes)}.",),
    )


def _words(estimate: Estimate, *, percent: bool) -> str:
    return plain(estimate, Column(title="", percent=percent)) + (" %" if percent else "")


def _count_plots(study: HumanStudy) -> list[Plot]:
    models = study.everyone["models"]
    plots = by_count_plots([(model, scores["by_count"]) for model, scores in models.items()], of="answers")
    for key, title, percent in (
        ("match_ratio", "Match ratio by object, %", True),
        ("average_error", "Average error by object", False),
    ):
        kinds = dict.fromkeys(kind for scores in models.values() for kind in scores["by_object"])
        bars = [
            Bar(name=f"{kind}: {model}", estimate=scores["by_object"][kind][key], color=index)
            for kind in kinds
            for index, (model, scores) in enumerate(models.items())
            if kind in scores["by_object"]
        ]
        plots.append(bar_plot(bars, title=title, percent=percent))
    return plots


# ------------------------------------------------------------------------------------------------- agreement and raters


def _agreement(study: HumanStudy) -> Table:
    measures = {
        ("agreement", "krippendorffs_alpha"): "Krippendorff's alpha",
        ("agreement", "kendalls_w"): "Kendall's W",
        ("agreement", "rank_correlation"): "rank correlation of two raters",
        ("agreement", "same"): "two raters tell the same number, %",
        ("self_consistency", "same"): "same answer to a repeat, %",
        ("self_consistency", "pairs_kept"): "pairs in the same order in a repeat, %",
        ("self_consistency", "difference"): "difference of a repeat",
    }
    rows = [
        [title.removesuffix(", %"), *(numbers[of].get(key) for numbers in study.parts.values())]
        for (of, key), title in measures.items()
        if any(numbers[of].get(key) is not None for numbers in study.parts.values())
    ]
    repeats = study.everyone["self_consistency"]["repeats"]
    scale = "ordinal" if study.kind == "preference" else "ratio"
    return _table(
        study,
        "agreement",
        "How far raters agree",
        [Column(title="measure", text=True), *(Column(title=part) for part in study.parts)],
        rows,
        notes=(f"Shares, not percent; alpha is {scale}. {repeats} items were judged twice by the same rater.",),
    )


def _raters(study: HumanStudy) -> Table:
    columns = [
        Column(title="rater", text=True),
        *(
            Column(title=title)
            for title in ("answered", "not told", "checks", "passed", "repeats", "same", "median seconds")
        ),
        Column(title="", text=True),
    ]
    keys = ("rater", "answered", "not_told", "checks", "passed", "repeats", "same", "median_seconds")
    return _table(
        study,
        "raters",
        "Raters",
        columns,
        [[*(row[key] for key in keys), "flagged" if row["flagged"] else ""] for row in study.raters],
        notes=(f"Flagged: passed fewer than {100 * study.least_passed:g} % of the attention checks.",),
    )
