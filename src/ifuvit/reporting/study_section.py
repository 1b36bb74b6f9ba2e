"""Tables and plots of human studies: the paper's Figures 5 and 6."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ifuvit.reporting.collection import Item
from ifuvit.reporting.count_section import by_count_plots, cells_table, score_cells, score_columns
from ifuvit.reporting.plots import Bar, Plot, bar_plot
from ifuvit.reporting.tables import Cell, Column, Table, plain, slug
from ifuvit.results import (
    Agreement,
    CounterAgreement,
    CountScores,
    CountStudy,
    Estimate,
    PeoplesCounts,
    PeoplesRatings,
    Preferences,
    PreferenceStudy,
    RatingStudy,
    SelfConsistency,
)

_SCORES = ("match_ratio", "average_error")

StudyResult = PreferenceStudy | CountStudy | RatingStudy
Study = Item[StudyResult]


def study_tables(study: Study) -> list[Table]:
    """The models; then, of all raters and without flagged ones, one model against the other and further parts; agreement,
    raters."""
    details: list[tuple[str, list[Table]]]
    match study.result:
        case PreferenceStudy() as result:
            found = [_preferences(study, result)]
            details = [(part, _preference_details(study, numbers)) for part, numbers in parts(result).items()]
        case CountStudy() as result:
            found = [_counts(study, result)]
            details = [(part, _count_details(study, numbers)) for part, numbers in parts(result).items()]
        case RatingStudy() as result:
            found = [_ratings(study, result)]
            details = [(part, _rating_details(study, numbers)) for part, numbers in parts(result).items()]
    for place, (part, tables) in enumerate(details):
        for table in tables:
            if place:
                table = replace(table, name=f"{table.name}-{slug(part)}", title=f"{table.title} ({part})")
            found.append(table)
    return [*found, _agreement(study), _raters(study)]


def study_plots(study: StudyResult) -> list[Plot]:
    """Mean points and strengths (the paper's Fig. 6), both scores by count and by object (Fig. 5), or mean ratings, of all
    raters."""
    match study:
        case PreferenceStudy():
            return _preference_plots(study)
        case CountStudy():
            return _count_plots(study)
        case RatingStudy():
            return _rating_plots(study)


def parts(study: StudyResult) -> dict[str, Any]:
    """The sets of numbers by title."""
    named = {"all raters": study.everyone, "without flagged raters": study.without_flagged}
    return {title: numbers for title, numbers in named.items() if numbers is not None}


def _table(study: Study, name: str, title: str, columns: Sequence[Column], rows: Sequence[Any], *notes: str) -> Table:
    return Table(
        name=f"study-{name}-{slug(study.name)}",
        title=title,
        columns=tuple(columns),
        rows=tuple(tuple(row) for row in rows),
        notes=notes,
        sources=(study.file,),
    )


def _grouped(study: Study, columns: Sequence[Column]) -> list[Column]:
    """The columns, once for every set of numbers if there are two."""
    titles = list(parts(study.result))
    return [replace(one, group=part if len(titles) > 1 else "") for part in titles for one in columns]


# --------------------------------------------------------------------------------------------------------- preference


def _preferences(study: Study, result: PreferenceStudy) -> Table:
    order = result.everyone.order
    columns = [
        Column(title=f"points, {len(order)} to 1", better="higher"),
        Column(title="strength", better="higher"),
        Column(title="ranked first, %", percent=True, better="higher"),
    ]
    rows = [
        [
            model,
            *(values.get(model) for one in parts(result).values() for values in (one.points, one.strengths, one.best)),
        ]
        for model in order
    ]
    return _table(
        study,
        "preference",
        f"Preferences of people: {study.name}",
        [Column(title="model", text=True), *_grouped(study, columns)],
        rows,
        f"Points as in the paper's Figure 6: of {len(order)} images the best earns {len(order)}, the last 1; "
        "tied ones share. Strength: Plackett-Luce log-strength, 0 on average; its chance to be ranked first.",
    )


def _preference_details(study: Study, numbers: Preferences) -> list[Table]:
    order, slots = numbers.order, numbers.slots
    return [
        _table(
            study,
            "win-rates",
            "Share of answers that prefer the row's model to the column's, %",
            [Column(title="model", text=True), *(Column(title=model, percent=True) for model in order)],
            [[model, *(numbers.win_rates[model].get(other) for other in order)] for model in order],
            "Ties count half.",
        ),
        _table(
            study,
            "slots",
            "Points by slot",
            [
                Column(title="from left to right", text=True),
                *(Column(title=f"{n + 1}") for n in range(len(slots.points))),
            ],
            [["points", *slots.points]],
            *([] if slots.p is None else [f"Friedman's test that the slot does not matter: p = {slots.p:.2g}."]),
        ),
    ]


def _preference_plots(study: PreferenceStudy) -> list[Plot]:
    numbers = study.everyone
    models = list(numbers.points)
    plots = []
    for values, title in (
        (numbers.points, f"Mean points, {len(numbers.order)} is best"),
        (numbers.strengths, "Plackett-Luce log-strength, higher is better"),
    ):
        bars = [Bar(name=model, estimate=values[model], color=models.index(model)) for model in numbers.order]
        plots.append(bar_plot(bars, title=title))
    return plots


# -------------------------------------------------------------------------------------------------------------- counts


def _counts(study: Study, result: CountStudy) -> Table:
    columns = [Column(title="answers"), *score_columns("counts", _SCORES)]
    rows = []
    for model in result.everyone.models:
        row: list[Cell] = [model]
        for numbers in parts(result).values():
            own = numbers.models.get(model)
            row += [own and own.overall.answers, *score_cells(own and own.overall, _SCORES)]
        rows.append(row)
    title = f"Objects that people counted: {study.name}"
    return _table(study, "counts", title, [Column(title="model", text=True), *_grouped(study, columns)], rows)


def _count_details(study: Study, numbers: PeoplesCounts) -> list[Table]:
    models = numbers.models
    found = [_one_against_the_other(study, numbers)] if len(models) > 1 else []
    if numbers.counter is not None:
        found.append(_counter(study, numbers.counter))
    for name, groups in (
        ("object", {model: scores.by_object for model, scores in models.items()}),
        ("asked count", {model: scores.by_count for model, scores in models.items()}),
    ):
        keys = list(dict.fromkeys(key for of_model in groups.values() for key in of_model))
        rows = [
            [model, *(cell for score in _SCORES for key in keys for cell in score_cells(of_model.get(key), [score]))]
            for model, of_model in groups.items()
        ]
        found.append(_table(study, slug(name), f"By {name}", _by_score("model", keys), rows))
    return [
        *found,
        *(
            cells_table(scores.cells, name=f"study-{study.name}-{model}", title=model, file=study.file)
            for model, scores in models.items()
        ),
    ]


def _by_score(first: str, titles: Sequence[str]) -> list[Column]:
    """Columns of both scores, each with the same titles below it."""
    return [
        Column(title=first, text=True),
        *(
            Column(title=title, group=score.title, percent=score.percent)
            for score in score_columns("counts", _SCORES)
            for title in titles
        ),
    ]


def _one_against_the_other(study: Study, numbers: PeoplesCounts) -> Table:
    rows = []
    for one, other in itertools.combinations(numbers.models, 2):
        row: list[Cell] = [f"{one} against {other}"]
        for score in _SCORES:
            cells = numbers.cells_won[one][other][score]
            row += [cells.won, cells.tied, cells.lost, getattr(numbers.differences[one][other], score)]
        rows.append(row)
    return _table(
        study,
        "one-against-the-other",
        "One model against the other",
        _by_score("models", ("cells won", "tied", "lost", "difference")),
        rows,
        "A cell is an object with an asked count, of which the paper has 20. Difference: first less second.",
    )


def _counter(study: Study, told: CounterAgreement) -> Table:
    facts = [
        ("the counter and an answer have the same number", told.same, True),
        ("two people have the same number", told.same_people, True),
        ("counter less answer", told.difference, False),
        ("distance of counter and answer", told.absolute_difference, False),
        ("correlation by image", told.correlation, False),
    ]
    rows = [
        [
            model,
            *(cell for score in _SCORES for who in (both.people, both.counter) for cell in score_cells(who, [score])),
        ]
        for model, both in told.models.items()
    ]
    words = [f"{title}: {_words(value, percent=percent)}" for title, value, percent in facts if value is not None]
    counter = study.result.counter
    return _table(
        study,
        "counter",
        f"The automatic counter ({counter.name if counter else 'unknown'}) next to people",
        _by_score("model", ("people", "counter")),
        rows,
        f"{'; '.join([f'{told.images} images', *words])}.",
    )


def _words(estimate: Estimate, *, percent: bool) -> str:
    return plain(estimate, Column(title="", percent=percent)) + (" %" if percent else "")


def _count_plots(study: CountStudy) -> list[Plot]:
    models = study.everyone.models
    plots = by_count_plots([(model, scores.by_count) for model, scores in models.items()], of="answers")
    for key, title, percent in (
        ("match_ratio", "Match ratio by object, %", True),
        ("average_error", "Average error by object", False),
    ):
        kinds = dict.fromkeys(kind for scores in models.values() for kind in scores.by_object)
        bars = [
            Bar(name=f"{kind}: {model}", estimate=score, color=index)
            for kind in kinds
            for index, (model, scores) in enumerate(models.items())
            if (score := getattr(scores.by_object.get(kind, CountScores(images=0)), key)) is not None
        ]
        if bars:
            plots.append(bar_plot(bars, title=title, percent=percent))
    return plots


# ------------------------------------------------------------------------------------------------------------- ratings


def _ratings(study: Study, result: RatingStudy) -> Table:
    columns = [Column(title=aspect, better="higher") for aspect in result.everyone.aspects]
    rows = [
        [model, *(one.means.get(model) for numbers in parts(result).values() for one in numbers.aspects.values())]
        for model in result.models
    ]
    return _table(
        study,
        "ratings",
        f"Ratings by people, 1 to 5: {study.name}",
        [Column(title="model", text=True), *_grouped(study, columns)],
        rows,
    )


def _rating_details(study: Study, numbers: PeoplesRatings) -> list[Table]:
    aspects = numbers.aspects
    differences = [
        [f"{one} less {other}", *(of.differences[one][other] for of in aspects.values())]
        for one, other in itertools.combinations(study.result.models, 2)
    ]
    shares = [
        [f"{model}, {name}", *(of.shares[model][str(rating)] for rating in range(1, 6))]
        for name, of in aspects.items()
        for model in of.shares
    ]
    found = []
    if differences:
        columns = [Column(title="models", text=True), *(Column(title=name) for name in aspects)]
        found.append(_table(study, "rating-differences", "One model less the other", columns, differences))
    columns = [Column(title="model, aspect", text=True), *(Column(title=str(n), percent=True) for n in range(1, 6))]
    return [*found, _table(study, "rating-shares", "Share of answers of every rating, %", columns, shares)]


def _rating_plots(study: RatingStudy) -> list[Plot]:
    return [
        bar_plot(
            [
                Bar(name=model, estimate=of.means[model], color=index)
                for index, model in enumerate(study.models)
                if model in of.means
            ],
            title=f"Mean rating of {name}, 5 is best",
        )
        for name, of in study.everyone.aspects.items()
    ]


# ------------------------------------------------------------------------------------------------- agreement and raters


def _agreement(study: Study) -> Table:
    measures = {
        "Krippendorff's alpha": lambda agreed, again: agreed.krippendorffs_alpha,
        "Kendall's W": lambda agreed, again: agreed.kendalls_w,
        "rank correlation of two raters": lambda agreed, again: agreed.rank_correlation,
        "two raters have the same number": lambda agreed, again: agreed.same,
        "same answer to a repeat": lambda agreed, again: again.same,
        "pairs in the same order in a repeat": lambda agreed, again: again.pairs_kept,
        "difference of a repeat": lambda agreed, again: again.difference,
    }
    sets: dict[str, tuple[Agreement, SelfConsistency]] = {}
    for part, numbers in parts(study.result).items():
        if isinstance(numbers, PeoplesRatings):
            sets |= {
                f"{name}, {part}": (of.agreement, numbers.self_consistency) for name, of in numbers.aspects.items()
            }
        else:
            sets[part] = (numbers.agreement, numbers.self_consistency)
    rows = [[title, *(of(*one) for one in sets.values())] for title, of in measures.items()]
    repeats = study.result.everyone.self_consistency.repeats
    scale = "ratio" if isinstance(study.result, CountStudy) else "ordinal"
    return _table(
        study,
        "agreement",
        "How far raters agree",
        [Column(title="measure", text=True), *(Column(title=title) for title in sets)],
        [row for row in rows if any(cell is not None for cell in row[1:])],
        f"Shares, not percent; alpha is {scale}. {repeats} items were rated twice by the same rater.",
    )


def _raters(study: Study) -> Table:
    titles = ("answered", "not told", "checks", "passed", "repeats", "same", "median seconds")
    rows = [
        [
            *(one.rater, one.answered, one.not_told, one.checks, one.passed, one.repeats, one.same, one.median_seconds),
            ("flagged: fast" if one.fast else "flagged") if one.flagged else "",
        ]
        for one in study.result.raters
    ]
    return _table(
        study,
        "raters",
        "Raters",
        [Column(title="rater", text=True), *(Column(title=title) for title in titles), Column(title="", text=True)],
        rows,
        f"Flagged: passed fewer than {100 * study.result.least_passed:g} % of the attention checks and failed more than one, or "
        f"took less than {100 * study.result.least_pace:g} % of the raters' median time.",
    )
