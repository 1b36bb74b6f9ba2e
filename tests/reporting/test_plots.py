"""Plots: whole SVG, everything inside the frame, ticks where people put them."""

import re
import xml.etree.ElementTree as ElementTree

import pytest

from ifuvit.reporting.plots import Bar, Plot, Point, Series, _Axis, bar_plot, line_plot
from ifuvit.results import Estimate


def coordinates(plot: Plot) -> list[tuple[float, float]]:
    """Ends of lines and vertices of curves; well-formedness is checked on the way."""
    root = ElementTree.fromstring(str(plot.svg))
    found = [(float(line.get(f"x{n}", 0)), float(line.get(f"y{n}", 0))) for line in root.iter("line") for n in (1, 2)]
    for path in root.iter("path"):
        if "curve" in path.get("class", ""):
            found += [(float(x), float(y)) for x, y in re.findall(r"([-\d.]+) ([-\d.]+)", path.get("d", ""))]
    return found


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("values", [(0.02, 0.9), (118.0, 121.0), (5.0, 5.0), (1e-5, 2e-5), (1000.0, 1e6)])
def test_axis(values: tuple[float, float], log: bool) -> None:
    axis = _Axis(values, 40, 340, log=log)
    ticks = axis.ticks()
    assert 1 <= len(ticks) <= 9
    assert all(40 <= place <= 340 for place, _ in ticks)
    assert [place for place, _ in ticks] == sorted({place for place, _ in ticks})
    assert len({label for _, label in ticks}) == len(ticks)
    for value in values:
        assert 40 <= axis(value) <= 340


def test_lines_stay_inside() -> None:
    series = [
        Series(
            name=f"<model {n}>",
            points=[
                Point(x=x, y=n + x**2, x_interval=(x - 0.1, x + 0.1), y_interval=(n, n + 2 * x**2), label=f"{x:g}")
                for x in (1.0, 1.5, 2.0, 8.0)
            ],
        )
        for n in range(3)
    ]
    plot = line_plot(series, title="A & B", x_label="x", y_label="y", references=[("real", 200.0)], apart=True)
    assert all(0 <= x <= 360 and 0 <= y <= 250 for x, y in coordinates(plot))
    assert [name for name, _ in plot.legend] == ["<model 0>", "<model 1>", "<model 2>"]
    root = ElementTree.fromstring(str(plot.svg))
    assert root.find("title").text == "A & B"  # type: ignore[union-attr]
    assert "<model 2>: 4 points" in (root.find("desc").text or "")  # type: ignore[union-attr]


def test_one_point() -> None:
    plot = line_plot([Series(name="a", points=[Point(x=3, y=0.0)])], title="t", x_label="x", y_label="y", log_y=True)
    assert all(0 <= x <= 360 and 0 <= y <= 250 for x, y in coordinates(plot))


def test_bars_start_at_zero() -> None:
    bars = [
        Bar(name="a", estimate=Estimate(value=2.0, interval=(1.5, 2.5))),
        Bar(name="b", estimate=Estimate(value=-1.0), color=1),
        Bar(name="c", estimate=Estimate(value=0.0)),
    ]
    plot = bar_plot(bars, title="t", references=[("real", 0.5)])
    first, second, _ = ElementTree.fromstring(str(plot.svg)).iter("rect")
    zero = float(first.get("x", 0))
    assert float(second.get("x", 0)) + float(second.get("width", 0)) == pytest.approx(zero, abs=0.02)
    assert float(first.get("width", 0)) == pytest.approx(2 * float(second.get("width", 0)), abs=0.05)
    assert all(0 <= x <= 360 for x, _ in coordinates(plot))
    assert "2.00 [1.50, 2.50]" in str(plot.svg)
