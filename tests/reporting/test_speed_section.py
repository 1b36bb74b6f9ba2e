"""Results of `ifuvit bench` as tables and plots."""

import json
from pathlib import Path
from xml.etree import ElementTree

import example_results
import pytest

from ifuvit import results
from ifuvit.reporting.collection import collect
from ifuvit.reporting.plots import as_file
from ifuvit.reporting.speed_section import comparison_tables, plots_of, scaling_plots, scaling_tables
from ifuvit.results import Benchmark, Estimate
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import write_json


@pytest.fixture
def benches(tmp_path: Path) -> Path:
    return example_results.write_benches(tmp_path / "bench")


def test_comparison(benches: Path) -> None:
    (table,) = comparison_tables(collect([benches]))
    assert table.title == "Training steps, bf16, batch 8" and table.name == "bench-train-bf16"
    titles = [column.title for column in table.columns]
    assert titles[1:3] == ["seconds a step", "quartiles"] and titles[-1] == "times as fast as U-ViT"
    assert "GiB" not in titles  # not known of any
    first, _, last = table.rows
    assert first[0] == "U-ViT" and first[-1] is None and first[titles.index("of peak, %")] == "20"
    assert last[0] == "cross-intermediate" and isinstance(last[-1], Estimate) and last[-1].value == pytest.approx(1.6)
    assert "900 GFLOP/s" in table.notes[0] and "6 rounds; A processor (cpu), 2 threads" in table.notes[0]


def test_machines_are_told_apart(benches: Path) -> None:
    other = example_results.write_benches(benches.parent / "without bf16", bf16=False)
    found = collect([benches, other])
    first, second = comparison_tables(found)
    assert (first.title, second.title) == tuple(
        f"Training steps, bf16, batch 8 ({name})" for name in ("bench", "without bf16")
    )
    assert (
        "A processor (cpu), 2" in first.notes[0]
        and "A processor (cpu, without bf16 instructions), 2" in second.notes[0]
    )
    assert (
        [table.title for table in scaling_tables(found)][1]
        == scaling_plots(found)[1].title
        == "Training steps by depth (without bf16)"
    )


def test_scaling(benches: Path) -> None:
    found = collect([benches])
    (table,) = scaling_tables(found)
    assert [row[:2] for row in table.rows[:3]] == [("concat-early", 4), ("concat-early", 12), ("concat-early", 20)]
    assert "concat-early 0.90 [0.89, 0.91]" in table.notes[0]
    (plot,) = scaling_plots(found)
    names = [name for name, _ in plot.legend]
    assert names[:2] == ["concat-early: seconds ~ FLOPs^0.90", "concat-early: FLOPs"]
    root = ElementTree.fromstring(str(plot.svg))
    curves = [path.get("class", "") for path in root.iter("path") if "curve" in path.get("class", "")]
    # What is expected has the color of what was measured, and is dashed.
    assert curves == ["curve c0", "curve c0 expected", "curve c1", "curve c1 expected"]


def test_plots_in_one_file(benches: Path) -> None:
    (plot,) = plots_of(results.from_file(benches / "scaling.json", Benchmark))
    one, three = (ElementTree.fromstring(as_file(*[plot] * number)) for number in (1, 3))
    assert float(three.get("width", 0)) == 2 * float(one.get("width", 0))
    assert float(three.get("height", 0)) == pytest.approx(2 * float(one.get("height", 0)))
    words = [text.text for text in three.iter("{http://www.w3.org/2000/svg}text")]
    assert words.count(plot.title) == 3


def test_a_broken_result_is_told(benches: Path) -> None:
    value = json.loads((benches / "train.json").read_text())
    del value["comparisons"]["bf16"]["rows"][0]["unit"], value["checksum"]
    write_json(benches / "train.json", value)
    with pytest.raises(InputError, match=r"train\.json: comparisons: bf16: rows: 0: field 'unit' is missing"):
        collect([benches])
