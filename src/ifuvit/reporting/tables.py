"""Tables of the report: their cells as text, and their forms as CSV and Markdown."""

import csv
import io
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ifuvit.results import Better, Estimate, Metric
from ifuvit.utils.spreadsheets import guarded

Cell = Estimate | Path | str | int | float | None
"""A Path is the file that the row's numbers come from."""


@dataclass(frozen=True, kw_only=True)
class Column:
    title: str
    group: str = ""
    percent: bool = False
    """Shares are shown in percent; CSV files keep the share."""
    text: bool = False
    """Words, not numbers."""
    better: Better | Literal[""] = ""

    @property
    def full_title(self) -> str:
        """With its group, for forms that have one line of headings."""
        return f"{self.title} ({self.group})" if self.group else self.title


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows under columns; the first column names the row."""

    name: str
    """File name of its CSV and Markdown forms."""
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    kind: Literal["rows", "matrix", "map"] = "rows"
    """A matrix holds frequencies, which may be shaded by their share of the row; of a map every cell may be shaded by its place
    between the worst and the best of its column."""
    sources: tuple[Path, ...] = ()
    """The result files that it was read from."""

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Column groups in order, with how many columns each spans; empty if no column has one."""
        spans: list[tuple[str, int]] = []
        for column in self.columns:
            if spans and spans[-1][0] == column.group:
                spans[-1] = (column.group, spans[-1][1] + 1)
            else:
                spans.append((column.group, 1))
        return spans if any(name for name, _ in spans) else []

    def shade(self, position: int, value: Cell) -> float:
        """Of a map's cell: 0 for the worst of the column at `position`, 1 for the best; 0 too where nothing is better."""
        column = self.columns[position]
        found = [own for row in self.rows if (own := _value(row[position])) is not None]
        here = _value(value)
        if not column.better or here is None or len(found) < 2 or min(found) == max(found):
            return 0.0
        share = (here - min(found)) / (max(found) - min(found))
        return round(share if column.better == "higher" else 1 - share, 3)


def _value(cell: Cell) -> float | None:
    return cell.value if isinstance(cell, Estimate) else cell if isinstance(cell, (int, float)) else None


# ------------------------------------------------------------------------------------------------------------- numbers


def digits_of(estimate: Estimate) -> int:
    """Decimals worth showing: two significant digits of the interval's half width; without one what the metric says, else
    four significant digits of the value."""
    if isinstance(estimate, Metric) and estimate.interval is None:
        return estimate.decimals
    if estimate.interval is not None and estimate.interval[1] > estimate.interval[0]:
        size, significant = (estimate.interval[1] - estimate.interval[0]) / 2, 2
    else:
        size, significant = abs(estimate.value), 4
    if not 0 < size < math.inf:
        return 2
    return min(max(significant - 1 - math.floor(math.log10(size) + 1e-9), 0), 6)


def number(value: float, digits: int) -> str:
    """A number with `digits` decimals and thousands set apart by commas."""
    text = f"{value:,.{digits}f}"
    return text.lstrip("-") if float(text.replace(",", "")) == 0 else text


def plain(value: Cell, column: Column | None = None) -> str:
    """A cell as text: "0.021 [0.019, 0.023]"; shares in percent with one decimal."""
    if value is None:
        return "-"
    if isinstance(value, Estimate):
        scale, digits = (100, 1) if column is not None and column.percent else (1, digits_of(value))
        text = number(scale * value.value, digits)
        if value.interval is None:
            return text
        low, high = (number(scale * bound, digits) for bound in value.interval)
        return f"{text} [{low}, {high}]"
    if isinstance(value, (bool, str, Path)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def bare(value: float | None) -> Estimate | None:
    """A number of which no interval is known."""
    return None if value is None else Estimate(value=value)


def metric_column(metric: Metric, group: str = "") -> Column:
    share = metric.unit == "share"
    title = f"{metric.name}, %" if share else metric.name
    return Column(title=title, group=group, percent=share, better=metric.better or "")


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "unnamed"


# --------------------------------------------------------------------------------------------------------------- files


def as_markdown(table: Table) -> str:
    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    heads = [column.full_title for column in table.columns]
    rows = [line(plain(cell, column) for cell, column in zip(row, table.columns)) for row in table.rows]
    parts = [f"# {table.title}", "", line(heads), line("---" for _ in heads), *rows]
    parts += [part for note in table.notes for part in ("", note)]
    parts += ["", f"From {', '.join(map(str, table.sources))}. Brackets: 95 % intervals."]
    return "\n".join(parts) + "\n"


_FURTHER = {
    "low": lambda one: one.interval and one.interval[0],
    "high": lambda one: one.interval and one.interval[1],
    "n": lambda one: one.n,
    "real": lambda one: one.reference.value if isinstance(one, Metric) and one.reference else None,
    "decoded": lambda one: one.decoded_reference.value if isinstance(one, Metric) and one.decoded_reference else None,
}


def as_csv(table: Table) -> str:
    """One column per value; after estimates their interval, n and the value of real images, where they are known."""
    columns: list[list[Any]] = []
    for position, column in enumerate(table.columns):
        title = column.full_title.replace(", %", "")
        cells = [row[position] for row in table.rows]
        columns.append([title, *(cell.value if isinstance(cell, Estimate) else cell for cell in cells)])
        for name, of in _FURTHER.items():
            values = [of(cell) if isinstance(cell, Estimate) else None for cell in cells]
            if any(value is not None for value in values):
                columns.append([f"{title} {name}", *values])
    out = io.StringIO()
    rows = zip(*([guarded(cell) for cell in column] for column in columns))
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()
