"""Plots and tables of `ifuvit analyze`: the paper's section 4.6 with controls."""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import replace

from ifuvit.reporting.collection import Item
from ifuvit.reporting.plots import Bar, Plot, Point, Series, bar_plot, line_plot
from ifuvit.reporting.tables import Column, Table
from ifuvit.results import Analysis, Measurement, Target

TITLES = {
    "attention": "Where the image looks",
    "rank": "Rank of text-to-image attention",
    "ablate": "Where text matters",
    "probe": "What the blocks know",
    "information": "What text tells the model",
}
"""Of the page and of the report's section, by action."""
_ABOUT_POSITION = "Blocks are counted from the input; the middle block is in the middle. Whiskers: 95 % intervals."


def position(block: str, depth: int) -> int:
    """The place of a block on the way of the image, from 0 to depth."""
    kind, _, number = block.partition(".")
    return {"in_blocks": 0, "mid_block": depth // 2, "out_blocks": depth // 2 + 1}[kind] + int(number or 0)


def analysis_plots(analysis: Analysis) -> list[Plot]:
    """The plots of an analysis."""
    return _PLOTS[analysis.action](analysis)


def findings_table(analysis: Analysis) -> Table:
    """What the analysis says of each sentence it tests."""
    return Table(
        name=f"findings-{analysis.action}",
        title="What the numbers say",
        columns=(
            Column(title="sentence", text=True),
            Column(title="model", text=True),
            Column(title="verdict", text=True),
            Column(title="difference that decides"),
            Column(title="in words", text=True),
        ),
        rows=tuple((one.claim, one.model, one.verdict, one.difference, one.text) for one in analysis.findings),
        notes=(
            "Held: the 95 % interval of the difference lies above 0; not held: below; undecided: it contains 0, or there are "
            "too few values.",
        ),
    )


def report_tables(one: Item[Analysis]) -> list[Table]:
    """The findings of a result file, with its place."""
    table = findings_table(one.result)
    return [replace(table, sources=(one.file,))] if table.rows else []


def figure_uris(one: Item[Analysis]) -> list[str]:
    """The figures of the first prompt next to a result file, as data URIs."""
    files = sorted((one.file.parent / "figures").glob("0000-*.png"))
    return ["data:image/png;base64," + base64.b64encode(file.read_bytes()).decode() for file in files]


# --------------------------------------------------------------------------------------------------------------- curves


def _depth(model: Target) -> int:
    assert model.model is not None
    return int(model.model["depth"])


def _by_block(name: str, found: Iterable[Measurement], depth: int, *, expected: bool = False) -> list[Series]:
    """A curve over blocks; nothing without measurements."""
    points = [
        Point(x=position(one.block, depth), y=one.value, y_interval=one.interval, label="")
        for one in found
        if one.block is not None
    ]
    return [Series(name=name, points=points, expected=expected)] if points else []


def _by_level(name: str, found: Iterable[Measurement], *, expected: bool = False) -> list[Series]:
    """A curve over noise levels."""
    points = [
        Point(x=sum(one.levels) / 2, y=one.value, y_interval=one.interval) for one in found if one.levels is not None
    ]
    return [Series(name=name, points=points, expected=expected)] if points else []


def _over_blocks(
    analysis: Analysis, series: Sequence[Series], *, title: str, y_label: str, note: str = ""
) -> list[Plot]:
    if not series:
        return []
    deepest = max(map(_depth, analysis.models))
    return [
        line_plot(
            series,
            title=title,
            x_label="block",
            y_label=y_label,
            x_ticks=range(deepest + 1),
            apart=1 < len(series) <= 3,
            note=note or _ABOUT_POSITION,
        )
    ]


def _of_models(analysis: Analysis, quantity: str, of: str = "") -> list[Series]:
    return [
        series
        for model in analysis.models
        for series in _by_block(model.name, analysis.of(quantity, model=model.name, of=of, levels=None), _depth(model))
    ]


# ---------------------------------------------------------------------------------------------------------- each action

_SHOWN_CATEGORIES = ("content", "number", "relation", "function", "special", "padding", "time")
"""Not image patches, which get most and would press the others into one line."""


def synopsis_plots(analysis: Analysis) -> list[Plot]:
    """How much attention each category gets, by block, one plot a model."""
    plots = []
    for model in analysis.models:
        series = [
            one
            for category in _SHOWN_CATEGORIES
            for one in _by_block(
                category,
                list(analysis.of("attention share", model=model.name, of=category, levels=None)),
                _depth(model),
            )
            if any(point.y > 0 for point in one.points)
        ]
        plots += _over_blocks(
            analysis,
            series,
            title=f"Share of attention: {model.name}",
            y_label="share of a patch's attention",
            note=f"Not drawn: image patches, which get the rest. {_ABOUT_POSITION}",
        )
    return plots


def _attention_plots(analysis: Analysis) -> list[Plot]:
    plots = synopsis_plots(analysis)
    for model in analysis.models:
        series = [
            one
            for block in analysis.blocks[model.name]
            for one in _by_level(
                f"block {position(block, _depth(model))}",
                [m for m in analysis.of("attention share", model=model.name, of="all words", block=block) if m.levels],
            )
        ]
        if series:
            plots.append(
                line_plot(
                    series,
                    title=f"Attention to words by noise level: {model.name}",
                    x_label="noise level (1 is pure noise)",
                    y_label="share of attention to all words",
                    note="Means over the evaluations in each band.",
                )
            )
    plots += _over_blocks(
        analysis,
        _of_models(analysis, "focus", "words"),
        title="Focus of the words' maps",
        y_label="1 - entropy / its maximum; 0 is uniform",
    )
    plots += _over_blocks(
        analysis,
        _of_models(analysis, "border attention"),
        title="Attention to border patches",
        y_label="over that to all patches; 1 is uniform",
    )
    plots += _over_blocks(
        analysis,
        _of_models(analysis, "text gate"),
        title="Gates of text",
        y_label="factor on the values of text, mean of heads; 1 at the start",
        note="Blocks are counted from the input. Whiskers: 95 % intervals over heads.",
    )
    for model in analysis.models:
        series = [
            one
            for layer in dict.fromkeys(m.of for m in analysis.of("layer share", model=model.name))
            for one in _by_block(layer, analysis.of("layer share", model=model.name, of=layer), _depth(model))
        ]
        plots += _over_blocks(
            analysis, series, title=f"Layers of the text encoder: {model.name}", y_label="share in the block's text"
        )
    return plots


_RANK_FORMS = (
    ("sum of singular values", "all tokens, raw"),
    ("sum of singular values", "without sinks, renormalized"),
    ("effective rank", "all tokens, raw"),
    ("effective rank", "without sinks, renormalized"),
    ("stable rank", "without sinks, renormalized"),
    ("energy of the first", "without sinks, renormalized"),
)


def _rank_plots(analysis: Analysis) -> list[Plot]:
    plots = []
    for quantity, form in _RANK_FORMS:
        series = _of_models(analysis, quantity, f"own captions, {form}, mean of SVDs")
        plots += _over_blocks(analysis, series, title=f"{quantity.capitalize()}: {form}", y_label=quantity)
    for model in analysis.models:
        for quantity, form in (_RANK_FORMS[0], _RANK_FORMS[3]):
            series = [
                one
                for condition in ("own captions", "shuffled captions", "untrained model", "random attention")
                for one in _by_block(
                    condition,
                    analysis.of(quantity, model=model.name, of=f"{condition}, {form}, mean of SVDs", levels=None),
                    _depth(model),
                )
            ]
            plots += _over_blocks(
                analysis, series, title=f"Controls, {quantity}, {form}: {model.name}", y_label=quantity
            )
    plots += _over_blocks(
        analysis, _of_models(analysis, "share of sinks"), title="Share of sinks", y_label="of text attention"
    )
    return plots


def _ablate_plots(analysis: Analysis) -> list[Plot]:
    plots = []
    for of, title in (("without", "without the caption in one block"), ("only", "with the caption in one block only")):
        plots += _over_blocks(
            analysis,
            _of_models(analysis, "change of the prediction", of),
            title=f"Change of the prediction {title}",
            y_label="0: as with the caption, 1: as far as without",
        )
    plots += _over_blocks(
        analysis,
        _of_models(analysis, "attention share", "all words"),
        title="For comparison: attention to words",
        y_label="share of a patch's attention",
    )
    for quantity in ("alignment", "counts right", "relations right"):
        for of, title in (
            ("without", "lost without the caption in one block"),
            ("only", "lost with it in one block only"),
        ):
            plots += _over_blocks(
                analysis,
                _of_models(analysis, f"{quantity}, lost", of),
                title=f"{quantity.capitalize()} {title}",
                y_label="score with the caption less this one",
            )
    whole = ("no caption", "without middle", "without ends", "top token hidden", "random tokens hidden")
    for quantity in ("change of the prediction", "alignment, lost", "counts right, lost", "relations right, lost"):
        for number, model in enumerate(analysis.models):
            bars = [
                Bar(name=of, estimate=found[0], color=number)
                for of in whole[quantity.startswith("change") :]  # which no caption at all is 1 by definition
                if (found := analysis.of(quantity, model=model.name, of=of, block=None, levels=None))
            ]
            if bars:
                plots.append(bar_plot(bars, title=f"Several blocks, or tokens: {quantity}: {model.name}"))
    for model in analysis.models:
        series = [
            one
            for block in analysis.blocks[model.name]
            for one in _by_level(
                f"block {position(block, _depth(model))}",
                [
                    m
                    for m in analysis.of("change of the prediction", model=model.name, of="without", block=block)
                    if m.levels
                ],
            )
        ]
        if series:
            plots.append(
                line_plot(
                    series,
                    title=f"Change without the caption in one block: {model.name}",
                    x_label="noise level (1 is pure noise)",
                    y_label="change of the prediction",
                )
            )
    return plots


def _probe_plots(analysis: Analysis) -> list[Plot]:
    plots = []
    for task in dict.fromkeys(one.of for one in analysis.of("probe accuracy")):
        series = [
            one
            for model in analysis.models
            for quantity, name, expected in (
                ("probe accuracy", model.name, False),
                ("control accuracy", f"shuffled labels: {model.name}", True),
            )
            for one in _by_block(
                name,
                analysis.of(quantity, model=model.name, of=task, levels=None),
                _depth(model),
                expected=expected,
            )
        ]
        plots += _over_blocks(analysis, series, title=f"Linear probe: {task}", y_label="accuracy on held-out scenes")
    for model in analysis.models:
        for task in dict.fromkeys(one.of for one in analysis.of("probe accuracy", model=model.name)):
            found = [m for m in analysis.of("probe accuracy", model=model.name, of=task) if m.levels]
            series = [
                one
                for level in dict.fromkeys(m.levels for m in found if m.levels)
                for one in _by_block(
                    f"noise level {level[0]:g}", [m for m in found if m.levels == level], _depth(model)
                )
            ]
            if len(series) > 1:
                plots += _over_blocks(
                    analysis, series, title=f"{task.capitalize()} by noise level: {model.name}", y_label="accuracy"
                )
    return plots


def _information_plots(analysis: Analysis) -> list[Plot]:
    plots = []
    for quantity in ("loss without caption, more", "loss with wrong caption, more"):
        for skill in dict.fromkeys(one.of for one in analysis.of(quantity)):
            series = [
                one
                for model in analysis.models
                for one in _by_level(
                    model.name, [m for m in analysis.of(quantity, model=model.name, of=skill) if m.levels]
                )
            ]
            if series:
                plots.append(
                    line_plot(
                        series,
                        title=f"{quantity.removesuffix(', more').capitalize()}: {skill}",
                        x_label="noise level (1 is pure noise)",
                        y_label="loss less that with the right caption",
                        apart=len(series) > 1,
                        note="Whiskers: 95 % intervals over scenes.",
                    )
                )
    return plots


_PLOTS = {
    "attention": _attention_plots,
    "rank": _rank_plots,
    "ablate": _ablate_plots,
    "probe": _probe_plots,
    "information": _information_plots,
}
