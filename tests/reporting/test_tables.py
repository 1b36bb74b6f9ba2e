"""Numbers as text, and the paper's own."""

import pytest

from ifuvit.experiments import EXPERIMENTS
from ifuvit.reporting import paper
from ifuvit.reporting.results import Estimate
from ifuvit.reporting.tables import Column, Table, as_csv, as_markdown, metric_names, plain


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
        (float("nan"), None, "nan"),
    ],
)
def test_digits_follow_from_the_interval(value: float, interval: tuple[float, float] | None, text: str) -> None:
    assert plain(Estimate(value=value, interval=interval)) == text


def test_shares_in_percent() -> None:
    column = Column(title="match ratio, %", percent=True)
    assert plain(Estimate(value=0.705, interval=(0.64, 0.765125)), column) == "70.5 [64.0, 76.5]"
    assert plain(Estimate(value=1.0, interval=(1.0, 1.0)), column) == "100.0 [100.0, 100.0]"


def test_metrics_in_order() -> None:
    metrics = {name: Estimate(value=1.0) for name in ("recall-X", "CLIP score", "FID", "KID")}
    assert metric_names([metrics]) == ["KID", "FID", "CLIP score", "recall-X"]


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


def test_the_papers_table_1_is_the_experiments() -> None:
    """The same numbers stand where experiments tell what they expect."""
    expected = EXPERIMENTS["table1"].expected
    for row in paper.TABLE_1:
        printed = expected[f"{row.conditioning}-{row.fusion}"]
        assert (row.fid_30k, row.clip_score, row.gflops) == tuple(
            printed[key] for key in ("FID-30K", "CLIP score", "gflops")
        )
        assert row.training_steps_per_second == printed["training_steps_per_second"]
        assert float(row.parameters.rstrip("M")) * 1e6 == printed["parameters"]
