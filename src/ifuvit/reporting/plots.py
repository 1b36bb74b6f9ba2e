"""Plots as inline SVG: text stays text, and colors come from the page's style, so that they follow light and dark."""

import itertools
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from jinja2.utils import markupsafe

from ifuvit.reporting.tables import Column, number, plain
from ifuvit.results import Estimate

Markup = markupsafe.Markup

# A plot is as wide as a phone in these units, so that its letters are read there at their own size.
_WIDTH, _HEIGHT = 360, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 26, 40
_TITLE_CHARACTERS = 54
"""Of a line above a plot in a file."""
# Distinct in shape as well as in color; the style sheet has as many colors.
_MARKERS = ("M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0", "M-3.6-3.6h7.2v7.2h-7.2z", "M0-5L5 4H-5z", "M0-5.4L5 0L0 5.4L-5 0z")
COLORS = 6
_TICKS = 5


@dataclass(frozen=True, kw_only=True)
class Point:
    x: float
    y: float
    x_interval: tuple[float, float] | None = None
    y_interval: tuple[float, float] | None = None
    label: str = ""


@dataclass(frozen=True, kw_only=True)
class Series:
    name: str
    points: Sequence[Point]
    marked: bool = True
    """Whether every point has a marker; long curves have none."""
    expected: bool = False
    """Dashed: not measured, but what the series before it is compared with, in its color."""


@dataclass(frozen=True, kw_only=True)
class Bar:
    name: str
    estimate: Estimate
    color: int = 0


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A figure of the page."""

    title: str
    svg: markupsafe.Markup
    legend: tuple[tuple[str, markupsafe.Markup], ...] = ()
    note: str = ""


class _Axis:
    """A map from numbers to one coordinate, with ticks where people would put them."""

    def __init__(self, values: Sequence[float], start: float, end: float, *, log: bool = False) -> None:
        self.log = log
        self.low, self.high = min(values), max(values)
        if log:
            factor = (self.high / self.low) ** 0.04 if self.high > self.low else 1.1
            self.low, self.high = self.low / factor, self.high * factor
        else:
            margin = 0.06 * (self.high - self.low) or 0.05 * abs(self.high) or 0.1
            self.low, self.high = self.low - margin, self.high + margin
        self.start, self.end = start, end

    def __call__(self, value: float) -> float:
        part = (value - self.low) / (self.high - self.low)
        if self.log:
            part = math.log(value / self.low) / math.log(self.high / self.low)
        return round(self.start + part * (self.end - self.start), 2)

    def ticks(self) -> list[tuple[float, str]]:
        """(coordinate, label)."""
        if self.log and self.high > 5 * self.low:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for leading in ((1, 2, 5), (1, 3), (1,)):
                values = [k * 10.0**power for power in powers for k in leading]
                values = [value for value in values if self.low <= value <= self.high]
                if len(values) <= _TICKS + 1:
                    break
            return [(self(value), f"{value:,.10g}") for value in values]
        rough = (self.high - self.low) / _TICKS
        power = 10.0 ** math.floor(math.log10(rough))
        step = power * next(k for k in (1, 2, 2.5, 5, 10) if k * power >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        values = [n * step for n in range(first, math.floor(self.high / step + 1e-9) + 1)]
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        digits += not math.isclose(step * 10**digits, round(step * 10**digits))  # 2.5
        return [(self(value), number(value, digits)) for value in values]


def _text(x: float, y: float, text: str, *, anchor: str = "middle", name: str = "") -> markupsafe.Markup:
    return Markup('<text x="{}" y="{}" text-anchor="{}" class="{}">{}</text>').format(
        round(x, 2), round(y, 2), anchor, name, text
    )


def _line(x1: float, y1: float, x2: float, y2: float, name: str) -> markupsafe.Markup:
    return Markup('<line x1="{}" y1="{}" x2="{}" y2="{}" class="{}"/>').format(x1, y1, x2, y2, name)


def _figure(parts: Sequence[markupsafe.Markup], *, title: str, about: str, height: float) -> markupsafe.Markup:
    return Markup(
        '<svg viewBox="0 0 {} {}" role="img" aria-label="{}"><title>{}</title><desc>{}</desc>{}</svg>'
    ).format(_WIDTH, round(height, 1), f"{title}. {about}", title, about, Markup("").join(parts))


def as_file(*plots: Plot) -> str:
    """Plots as an SVG file of its own, one below the other or in two columns, with titles, legends and the page's style."""
    style = resources.files("ifuvit.reporting").joinpath("templates/style.css").read_text(encoding="utf-8")
    columns = 1 if len(plots) == 1 else 2
    parts, top = [], 0.0
    for first in range(0, len(plots), columns):
        heights = []
        for place, plot in enumerate(plots[first : first + columns]):
            drawn, height = _with_legend(plot)
            parts.append(Markup('<g transform="translate({} {})">{}</g>').format(place * _WIDTH, round(top, 1), drawn))
            heights.append(height)
        top += max(heights)
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {0} {1}" width="{0}" height="{1}"><style>{2}</style>'
        '<rect width="100%" height="100%" style="fill: var(--card)"/>{3}</svg>\n'
    ).format(columns * _WIDTH, round(top, 1), style, Markup("").join(parts))


def _with_legend(plot: Plot) -> tuple[markupsafe.Markup, float]:
    """A plot under its title and above its legend, and the height of it all."""
    height = float(plot.svg.partition('viewBox="')[2].partition('"')[0].split()[3])
    lines = textwrap.wrap(plot.title, _TITLE_CHARACTERS, break_on_hyphens=False)
    top = 6 + 18 * len(lines)
    nested = Markup('<svg y="{}" width="{}" height="{}"').format(top, _WIDTH, height)
    drawn = Markup(plot.svg.replace("<svg", nested, 1))
    legend = plot.legend if len(plot.legend) > 1 else ()
    rows = [
        Markup('<g transform="translate(8 {})">{}{}</g>').format(
            top + height + 8 + 18 * place, sign, _text(34, 10, name, anchor="start")
        )
        for place, (name, sign) in enumerate(legend)
    ]
    title = [_text(4, 16 + 18 * row, line, anchor="start", name="strong") for row, line in enumerate(lines)]
    return Markup("").join([*title, drawn, *rows]), top + height + 8 + 18 * len(legend)


def _marker(index: int) -> str:
    return _MARKERS[index % len(_MARKERS)]


def swatch(index: int, *, marked: bool, dashed: bool = False) -> markupsafe.Markup:
    """A series' sign for the legend."""
    mark = Markup('<path d="{}" transform="translate(13 6)" class="mark c{}"/>').format(_marker(index), index % COLORS)
    return Markup('<svg viewBox="0 0 26 12" width="26" height="12" aria-hidden="true">{}{}</svg>').format(
        _line(1, 6, 25, 6, f"curve c{index % COLORS}{' expected' if dashed else ''}"), mark if marked else ""
    )


def line_plot(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    log_y: bool = False,
    x_ticks: Sequence[float] | None = None,
    references: Sequence[tuple[str, float]] = (),
    apart: bool = False,
    note: str = "",
) -> Plot:
    """Curves with markers and 95 % intervals.

    Args:
        series: at least one, each with at least one point.
        references: labels and heights of dashed horizontal lines, as the score of real images.
        log_x, log_y: logarithmic axis, if all values allow it.
        x_ticks: where; default: at round numbers.
        apart: shift the series a little sideways, so that intervals at the same x can be told apart.
    """
    points = [point for one in series for point in one.points]
    xs = [x for point in points for x in (point.x, *(point.x_interval or ()))]
    ys = [y for point in points for y in (point.y, *(point.y_interval or ()))]
    log_y = log_y and min(ys) > 0
    ys += [value for _, value in references]
    x_axis = _Axis(xs, _LEFT, _WIDTH - _RIGHT, log=log_x and min(xs) > 0)
    y_axis = _Axis(ys, _HEIGHT - _BOTTOM, _TOP, log=log_y)

    parts = [_text(2, 12, y_label, anchor="start", name="label")]
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 4, x_label, name="label"))
    for y, label in y_axis.ticks():
        parts += [_line(_LEFT, y, _WIDTH - _RIGHT, y, "grid"), _text(_LEFT - 6, y + 4, label, anchor="end")]
    for x, label in x_axis.ticks() if x_ticks is None else [(x_axis(x), f"{x:,.10g}") for x in x_ticks]:
        parts += [_text(x, _HEIGHT - _BOTTOM + 16, label)]
    parts.append(_line(_LEFT, _HEIGHT - _BOTTOM, _WIDTH - _RIGHT, _HEIGHT - _BOTTOM, "axis"))
    for label, value in references:
        y = y_axis(value)
        parts += [_line(_LEFT, y, _WIDTH - _RIGHT, y, "reference")]
        parts += [_text(_WIDTH - _RIGHT, y - 5 if y > _TOP + 14 else y + 13, label, anchor="end", name="quiet")]
    taken: list[tuple[float, float]] = []
    colors = _colors(series)
    for index, one in zip(colors, series):
        shift = 5 * (index - (len(series) - 1) / 2) if apart else 0
        places = [(x_axis(point.x) + shift, y_axis(point.y)) for point in one.points]
        parts += _curve(one, index, places, x_axis, y_axis)
        taken += places if one.marked else []
    for one in series:
        for point in one.points:
            if point.label and (text := _label(point.label, x_axis(point.x), y_axis(point.y), taken)) is not None:
                parts.append(text)
    about = "; ".join(f"{one.name}: {len(one.points)} points, {_ends(one)}" for one in series)
    svg = _figure(parts, title=title, about=f"{y_label} against {x_label}. {about}", height=_HEIGHT)
    legend = tuple(
        (one.name, swatch(index, marked=one.marked, dashed=one.expected)) for index, one in zip(colors, series)
    )
    return Plot(title=title, svg=svg, legend=legend, note=note)


def _colors(series: Sequence[Series]) -> list[int]:
    """The place of each series' color and marker."""
    counted = list(itertools.accumulate(int(not one.expected) for one in series))
    return [max(number - 1, 0) for number in counted]


def _ends(one: Series) -> str:
    first, last = one.points[0], one.points[-1]
    return f"from {first.y:.4g} at {first.x:g} to {last.y:.4g} at {last.x:g}"


def _curve(
    one: Series, index: int, places: Sequence[tuple[float, float]], x_axis: _Axis, y_axis: _Axis
) -> list[markupsafe.Markup]:
    color = f"c{index % COLORS}"
    path = "M" + "L".join(f"{x:g} {y:g}" for x, y in places)
    parts = [Markup('<path d="{}" class="curve {}"/>').format(path, f"{color} expected" if one.expected else color)]
    for point, (x, y) in zip(one.points, places):
        if point.y_interval is not None:
            parts.append(_line(x, y_axis(point.y_interval[0]), x, y_axis(point.y_interval[1]), f"whisker {color}"))
        if point.x_interval is not None:
            parts.append(_line(x_axis(point.x_interval[0]), y, x_axis(point.x_interval[1]), y, f"whisker {color}"))
    mark = Markup('<path d="{}" transform="translate({} {})" class="mark {}"><title>{}</title></path>')
    if one.marked:
        for point, (x, y) in zip(one.points, places):
            told = f"{one.name}, {point.label or f'{point.x:g}'}: {point.y:.4g}"
            parts.append(mark.format(_marker(index), x, y, color, told))
    return parts


def _label(text: str, x: float, y: float, taken: list[tuple[float, float]]) -> markupsafe.Markup | None:
    """`text` next to a point where nothing else is; None if there is no such place. `taken` has what is there."""
    width = 6 * len(text)
    for anchor, dx, dy in (("start", 7, -4), ("start", 7, 12), ("end", -7, -4), ("end", -7, 12)):
        middle = x + dx + (width / 2 if anchor == "start" else -width / 2)
        inside = _LEFT < middle - width / 2 and middle + width / 2 < _WIDTH and y + dy < _HEIGHT - _BOTTOM
        free = all(abs(middle - u) > width / 2 + 4 or abs(y + dy - 4 - v) > 9 for u, v in taken)
        if inside and free:
            taken += [(middle - width / 4, y + dy - 4), (middle + width / 4, y + dy - 4)]
            return _text(x + dx, y + dy, text, anchor=anchor, name="quiet")
    return None


def bar_plot(
    bars: Sequence[Bar],
    *,
    title: str,
    references: Sequence[tuple[str, float]] = (),
    percent: bool = False,
) -> Plot:
    """Bars from zero with whiskers for 95 % intervals; names and numbers stand above them. `references` are labels and
    places of dashed vertical lines."""
    scale = 100 if percent else 1
    ends = [scale * end for bar in bars for end in (0.0, bar.estimate.value, *(bar.estimate.interval or ()))]
    ends += [scale * value for _, value in references]
    low, high = min(ends), max(ends)
    left, right, row, top = 4, _WIDTH - 10, 36, 6

    def x(value: float) -> float:
        return round(left + (value - low) / ((high - low) or 1.0) * (right - left), 2)

    height = top + row * len(bars) + (4 + 14 * len(references) if references else 2)
    parts = []
    for index, bar in enumerate(bars):
        y, end = top + row * index, x(scale * bar.estimate.value)
        told = plain(bar.estimate, Column(title="", percent=percent))
        parts += [
            _text(left, y + 11, bar.name, anchor="start", name="strong"),
            _text(right, y + 11, told, anchor="end"),
        ]
        parts.append(
            Markup('<rect x="{}" y="{}" width="{}" height="10" rx="2" class="bar c{}"/>').format(
                min(x(0), end), y + 17, round(max(abs(end - x(0)), 0.5), 2), bar.color % COLORS
            )
        )
        if bar.estimate.interval is not None:
            first, last = (x(scale * bound) for bound in bar.estimate.interval)
            parts += [_line(first, y + 22, last, y + 22, "bound")]
            parts += [_line(bound, y + 18.5, bound, y + 25.5, "bound") for bound in (first, last)]
        parts.append(_line(x(0), y + 15, x(0), y + 29, "axis"))
        for _, value in references:
            parts.append(_line(x(scale * value), y + 15, x(scale * value), y + 31, "reference"))
    for index, (label, value) in enumerate(references):
        anchor = "end" if x(scale * value) > _WIDTH / 2 else "start"
        parts.append(
            _text(x(scale * value), top + row * len(bars) + 11 + 14 * index, label, anchor=anchor, name="quiet")
        )
    about = "; ".join(f"{bar.name} {plain(bar.estimate)}" for bar in bars)
    return Plot(title=title, svg=_figure(parts, title=title, about=about, height=height))
