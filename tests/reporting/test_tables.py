"""Numbers as text, and the paper's own."""

import csv
import io

import pytest

from ifuvit import paper
from ifuvit.experiments import EXPERIMENTS
from ifuvit.reporting.tables import Column, Table, as_csv, as_markdown, metric_column, plain
from ifuvit.results import Estimate, Metric


@pytest.mark.parametrize(
    ("value", "interval", "text"),
    [
        (0.0213, (0.0198, 0.0229), "0.0213 [0.0198, 0.0229]"),
        (118.34, (111.2, 125.5), "118.3 [111.2, 125.5]"),
        (1234.5, (1100.0, 1400.0), "1,234 [1,100, 1,400]"),
        (0.5, None, "0.5000"),
        (12345.6, None, "12,346"),
        (1.0, (1.0, 1.0), "1.000 [1.000, 1.000]"),
        (0.0, (0.0, 0.0), "0.00 [0.00, 0.00]"),
        (-0.0001, (-0.3, 0.3), "0.00 [-0.30, 0.30]"),
    ],
)
def test_digits_follow_from_the_interval(value: float, interval: tuple[float, float] | None, text: str) -> None:
    assert plain(Estimate(value=value, interval=interval)) == text


def test_shares_in_percent() -> None:
    column = Column(title="match ratio, %", percent=True)
    assert plain(Estimate(value=0.705, interval=(0.64, 0.765125)), column) == "70.5 [64.0, 76.5]"
    assert plain(Estimate(value=1.0, interval=(1.0, 1.0)), column) == "100.0 [100.0, 100.0]"


def test_a_metric_says_how_it_is_shown() -> None:
    share = Metric(value=0.7, name="right kind", subject="counts", unit="share", better="higher")
    assert metric_column(share) == Column(title="right kind, %", percent=True, better="higher")
    assert plain(share, metric_column(share)) == "70.0"
    distance = Metric(value=1.23456, name="CMMD", subject="distance", better="lower", decimals=2)
    assert metric_column(distance, "ours") == Column(title="CMMD", group="ours", better="lower")
    assert plain(distance, metric_column(distance)) == "1.23"


def test_files() -> None:
    table = Table(
        name="t",
        title="T",
        columns=(Column(title="model"), Column(title="both, %", percent=True), Column(title="GFLOPs", group="ours")),
        rows=(("a|b", Estimate(value=0.5, interval=(0.4, 0.6), n=10), 1.25), ("c", None, None)),
    )
    assert as_csv(table) == "model,both,both low,both high,both n,GFLOPs (ours)\na|b,0.5,0.4,0.6,10,1.25\nc,,,,,\n"
    assert "| a\\|b | 50.0 [40.0, 60.0] | 1.25 |" in as_markdown(table)
    assert "| c | - | - |" in as_markdown(table)


def test_the_papers_table_1_is_what_experiments_expect() -> None:
    expected = EXPERIMENTS["table1"].expected
    assert set(expected) == {row.name for row in paper.TABLE_1}
    assert expected["cross-intermediate"] == {
        **{"FID-30K": 5.68, "CLIP score": 0.588, "parameters": 48e6, "training_steps_per_second": 2.74},
        "gflops": 23.66,
    }


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_of_a_csv_is_a_formula(first: str) -> None:
    text = f"{first}HYPERLINK()"
    columns = (Column(title=text, text=True), Column(title="n"))
    table = Table(name="t", title="t", columns=columns, rows=((text, -3.5), ("plain - text", -1)))
    rows = list(csv.reader(io.StringIO(as_csv(table), newline="")))
    told = f"'{text}".replace("\r", "\n")
    assert rows == [[told, "n"], [told, "-3.5"], ["plain - text", "-1"]]
