"""Human studies in the report: every number of the analysis has its place, with and without flagged raters."""

import json
from pathlib import Path
from xml.dom import minidom

import example_results
import pytest

from ifuvit import results
from ifuvit.commands.report import ReportConfig, run
from ifuvit.reporting.collection import Item, collect
from ifuvit.reporting.plots import as_file
from ifuvit.reporting.study_section import parts, study_plots, study_tables
from ifuvit.results import CountStudy, Estimate, PreferenceStudy
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import write_json


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return example_results.write_studies(tmp_path_factory.mktemp("studies"))


def test_both_studies_are_read(studies: Path) -> None:
    counted, liked = collect([studies]).studies
    assert (counted.name, counted.result.kind, counted.result.flagged) == ("counted", "count study", 0)
    assert (liked.name, liked.result.kind, liked.result.flagged) == ("liked", "preference study", 1)
    assert list(parts(counted.result)) == ["all raters"]
    assert list(parts(liked.result)) == ["all raters", "without flagged raters"]
    assert isinstance(liked.result, PreferenceStudy)
    assert isinstance(liked.result.everyone.points["early"], Estimate)


def test_preferences(studies: Path) -> None:
    file = studies / "liked" / "analysis.json"
    study = results.from_file(file, PreferenceStudy)
    tables = {table.name: table for table in study_tables(Item(file=file, result=study, name=study.name))}
    models = tables["study-preference-liked"]
    assert [row[0] for row in models.rows] == list(study.everyone.order) == ["<late> & more", "early"]
    assert [name for name, _ in models.groups] == ["", "all raters", "without flagged raters"]
    assert models.rows[0][1] == study.everyone.points["<late> & more"]
    assert study.without_flagged is not None
    assert models.rows[0][4] == study.without_flagged.points["<late> & more"]
    wins = tables["study-win-rates-liked-without-flagged-raters"]
    assert wins.rows[1][1] == study.without_flagged.win_rates["early"]["<late> & more"]
    assert wins.rows[1][2] is None
    assert [row[-1] for row in tables["study-raters-liked"].rows] == ["", "", "", "flagged"]
    assert any("Friedman" in note for note in tables["study-slots-liked"].notes)


def test_counts(studies: Path) -> None:
    file = studies / "counted" / "analysis.json"
    study = results.from_file(file, CountStudy)
    tables = {table.name: table for table in study_tables(Item(file=file, result=study, name=study.name))}
    assert tables["study-counts-counted"].rows[0][2] == study.everyone.models["one"].overall.match_ratio
    (row,) = tables["study-one-against-the-other-counted"].rows
    assert row[0] == "one against two" and sum(row[1:4]) == 20  # type: ignore[call-overload, arg-type]
    assert "openmoji" in tables["study-counter-counted"].title
    assert len(tables["cells-study-counted-one"].rows) == 4
    assert all(len(row) == len(table.columns) for table in tables.values() for row in table.rows)


def test_the_report_shows_them(studies: Path, tmp_path: Path) -> None:
    page = run(ReportConfig(directories=(studies,), out=tmp_path / "report.html"))
    text = page.read_text(encoding="utf-8")
    for words in (
        "<h1>counted, liked</h1>",
        "2 human studies: ",
        "What people count",
        "What people prefer",
        "1 of them failed too many attention checks",
        "Krippendorff&#39;s alpha",
        "Match ratio by asked count",
        "Mean points, 2 is best",
        "Preference study: liked",
        "&lt;late&gt; &amp; more",
    ):
        assert words in text, words
    assert "<late>" not in text and "ifuvit study make" not in text
    assert (tmp_path / "report-tables" / "study-preference-liked.csv").is_file()


def test_plots_as_files(studies: Path) -> None:
    for name, number in (("liked", 2), ("counted", 4)):
        plots = study_plots(results.from_file(studies / name / "analysis.json"))  # type: ignore[arg-type]
        assert len(plots) == number
        for plot in plots:
            parsed = minidom.parseString(as_file(plot)).documentElement
            assert parsed is not None and parsed.getAttribute("xmlns") == "http://www.w3.org/2000/svg"
            words = [node.firstChild.data for node in parsed.getElementsByTagName("text") if node.firstChild]  # type: ignore[union-attr]
            assert plot.title in words
            assert all(name in words for name, _ in plot.legend if len(plot.legend) > 1)


def test_a_broken_analysis_is_told(studies: Path, tmp_path: Path) -> None:
    value = json.loads((studies / "liked" / "analysis.json").read_text())
    del value["everyone"]["strengths"], value["checksum"]
    write_json(tmp_path / "analysis.json", value)
    with pytest.raises(InputError, match="'strengths' is missing"):
        collect([tmp_path])
