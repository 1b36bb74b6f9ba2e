"""`ifuvit report`: the command, its files, and the page in a browser where there is one."""

import csv
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import example_results
import pytest

from ifuvit import results
from ifuvit.commands import report
from ifuvit.commands.report import ReportConfig, run
from ifuvit.results import Evaluation, ExperimentRun, Sweep, SweepPoint, Target
from ifuvit.utils.errors import InputError

VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """Every element with its attributes; an element that is not closed in its turn fails."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(attrs) == len(dict(attrs)), f"<{tag}> has an attribute twice"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data

    def all(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag in tags]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of results of every command."""
    directory = tmp_path_factory.mktemp("report")
    return run(
        ReportConfig(directories=(example_results.write_all(directory / "results"),), out=directory / "report.html")
    )


@pytest.fixture(scope="module")
def page(made: Path) -> Page:
    return Page(made.read_text(encoding="utf-8"))


def test_page_needs_nothing_else(made: Path, page: Page) -> None:
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "data", "xlink:href", "poster"):
            if (value := attributes.get(name)) is not None:
                assert value.startswith(("data:", "#")), f"<{tag} {name}={value[:60]}>"
        assert not any(name.startswith("on") for name in attributes), f"<{tag}> has a script"
    assert not page.all("script", "iframe", "object", "embed", "form")
    text = made.read_text(encoding="utf-8")
    assert not re.findall(r"(?:@import|url\()[^;]*", text)
    assert all((image["src"] or "").startswith(("data:image/png", "data:image/jpeg")) for image in page.all("img"))
    assert len(page.all("img")) > 20


def test_page_is_accessible(page: Page) -> None:
    (root,) = page.all("html")
    assert root["lang"] == "en"
    assert len(page.all("h1")) == 1
    assert all(image["alt"] for image in page.all("img"))
    assert all(svg.get("aria-label") or svg.get("aria-hidden") for svg in page.all("svg"))
    assert all(svg.get("viewbox") for svg in page.all("svg"))
    assert all(th.get("scope") or th.get("colspan") for th in page.all("th"))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {link["href"] for link in page.all("a")}
    assert targets <= {f"#{one}" for one in ids}


def test_every_section_and_the_papers_numbers(page: Page) -> None:
    for words in (
        "The paper's tables",
        "Early against intermediate fusion",
        "Guidance scales",
        "Object counts",
        "Samples",
        "Training",
        "How fast it learns",
        "Skill by skill",
        "Runs that failed",
        "Costs",
        "Speed",
        "Where the numbers come from",
        "not on one scale",
        "arXiv 2403.16530",
        "s = w − 1",
    ):
        assert words in page.text
    for printed in ("5.98", "5.77", "6.48", "5.68", "0.584", "0.575", "29.56", "7.27", "8.59", "0.325"):
        assert printed in page.text
    assert "This report would also show" not in page.text


def test_first_lines(page: Page) -> None:
    first = " ".join(page.text.partition("The paper's tables")[0].split())
    assert "openmoji-cross-intermediate" in first
    assert "cross-attention, intermediate fusion [1, 2]; 3,872,420 parameters; trained for 8,000 steps of 64" in first
    assert "0.0420 [0.0379, 0.0461] real images: 0.0002; decoded: 0.0120" in first
    assert "0.7927 −31 % early fusion by concatenation (U-ViT): 1.147" in first
    assert "100 subsets of 1000; bootstrap over images" in first
    assert "one training run" in first


def test_tables_as_files(made: Path) -> None:
    directory = made.with_name("report-tables")
    assert directory.name == "report-tables"
    names = {path.stem for path in directory.glob("*.csv")}
    assert names == {path.stem for path in directory.glob("*.md")}
    assert {"table-1", "table-2", "experiment-ablation-openmoji", "sweep", "counts", "costs"} <= names
    assert {"skills", "second-counters", "learning-quality", "claims-table1-openmoji"} <= names
    assert {"elbows-guidance-sweep-openmoji", "failed-guidance-sweep-openmoji"} <= names
    assert {
        "confusion-openmoji-cross-intermediate",
        "cells-openmoji-cross-intermediate",
        "evaluation-openmoji-concat-middle",
    } <= names
    with open(directory / "costs.csv", newline="") as file:
        first, second, *_ = list(csv.DictReader(file))
    assert float(first["plain (GiB of a step of 256 in bf16)"]) == 20
    assert second["checkpointed (GiB of a step of 256 in bf16)"] == ""
    with open(directory / "table-2.csv", newline="") as file:
        ours, *others = list(csv.DictReader(file))
    assert ours["model"] == "openmoji-cross-intermediate"
    assert float(ours["KID-EffNetLite0 (ours)"]) == pytest.approx(0.042)
    assert float(ours["KID-EffNetLite0 (ours) low"]) == pytest.approx(0.0379)
    assert float(ours["KID-EffNetLite0 (ours) real"]) == pytest.approx(0.00021)
    assert ours["result (ours)"].endswith("evaluation.json")
    assert [row["FID-30K (the paper)"] for row in others if row["model"] == "U-ViT-Small"] == ["5.98"]
    text = (directory / "counts-openmoji-cross-intermediate.md").read_text()
    assert "| all | 200 | 88.0 [76.0, 100.0] |" in text
    assert "evaluation.json" in text


def test_a_report_is_replaced_and_other_files_are_not(tmp_path: Path) -> None:
    example_results.write_costs(tmp_path / "results" / "costs.json")
    config = ReportConfig(directories=(tmp_path / "results",), out=tmp_path / "page.html")
    run(config)
    run(config)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page-tables", "page.html", "results"]
    (tmp_path / "page-tables" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"page-tables: holds notes\.txt"):
        run(config)
    assert (tmp_path / "page-tables" / "notes.txt").read_text() == "mine"


def test_a_few_results_make_a_page_that_tells_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example_results.write_object_count(tmp_path / "results" / "counts.json", 0.7)
    report.main([str(tmp_path / "results"), "--out", str(tmp_path / "page.html")])
    assert str(tmp_path / "page.html") in capsys.readouterr().out
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    for absent in ("Samples", "Costs", "The paper's tables", "Guidance scales"):
        assert f"\n{absent}\n" not in page.text
    last = page.text[page.text.index("This report would also show") :]
    for command in (
        "ifuvit evaluate MODEL",
        "ifuvit experiment table1",
        "--guidance-scales 1 2 4",
        "ifuvit costs --json",
    ):
        assert command in last
    assert "--metrics counts" not in last


def test_work_that_has_only_begun(tmp_path: Path) -> None:
    """A sweep and an experiment without results yet, and images of unknown origin that were only compared."""
    made = example_results.made
    sweep = Sweep(**made("evaluate"), points=(), missing=(SweepPoint(model="m", guidance_scale=1.0),))
    example_results.write(tmp_path / "sweep.json", sweep)
    run_ = ExperimentRun(setting="cross-early", seed=1, run="r", result="r.json", status="missing")
    experiment = example_results.experiment("table1", (1,), runs=(run_,), table=())
    example_results.write(tmp_path / "experiment.json", experiment)
    file = example_results.write_evaluation(tmp_path / "images.json", "cross-early", 0.4, images=False)
    evaluation = results.from_file(file, Evaluation)
    images = replace(
        evaluation, target=Target(name="images", kind="images"), objects={}, counter=None, costs=None, data=None
    )
    results.write(file, images)
    page = Page(run(ReportConfig(directories=(tmp_path,), out=tmp_path / "page.html")).read_text(encoding="utf-8"))
    first = page.text.partition("The paper's tables")[0]
    assert "evaluated under protocol quick." in first
    assert "training run" not in first
    assert "1 point is not evaluated yet" in page.text
    assert "0 of 1 runs done" in page.text


def test_names_and_prompts_are_escaped(tmp_path: Path) -> None:
    file = example_results.write_object_count(tmp_path / "counts.json", 0.7)
    result = json.loads(file.read_text())
    result["target"]["name"] = 'a/<script>alert("x")&'
    del result["checksum"]
    file.write_text(json.dumps(result))
    page = Page(run(ReportConfig(directories=(tmp_path,), out=tmp_path / "page.html")).read_text(encoding="utf-8"))
    assert not page.all("script")
    assert '<script>alert("x")&' in page.text


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no directories"):
        run(ReportConfig(out=tmp_path / "page.html"))
    with pytest.raises(InputError, match="nowhere: no such directory"):
        run(ReportConfig(directories=(tmp_path / "nowhere",), out=tmp_path / "page.html"))
    (tmp_path / "other.json").write_text(json.dumps({"some": "thing"}))
    with pytest.raises(InputError, match="no results; make some with `ifuvit evaluate"):
        run(ReportConfig(directories=(tmp_path,), out=tmp_path / "page.html"))
    with pytest.raises(InputError, match=r"--out .*: give the name of an HTML file"):
        ReportConfig(directories=(tmp_path,), out=tmp_path / "page.pdf")
    with pytest.raises(InputError, match="is a directory"):
        ReportConfig(directories=(tmp_path,), out=tmp_path)
    assert not (tmp_path / "page.html").exists()


def browser() -> str | None:
    for name in ("chromium", "chromium-browser", "google-chrome", "chrome"):
        if (found := shutil.which(name)) is not None:
            return found
    return None


@pytest.mark.slow
@pytest.mark.multiprocess  # so that continuous integration runs it
@pytest.mark.skipif(browser() is None, reason="needs chromium")
@pytest.mark.parametrize("width", [390, 1200])
def test_in_a_browser(made: Path, tmp_path: Path, width: int) -> None:
    """No console error, every plot has a size, and the page is not wider than the screen."""
    text = made.read_text(encoding="utf-8")
    check = """<script>
    const seen = [];
    addEventListener("load", () => {
      for (const details of document.querySelectorAll("details")) details.open = true;
      const flat = [...document.querySelectorAll("svg, img")].filter((one) => one.getBoundingClientRect().height < 5);
      const broken = [...document.images].filter((one) => !one.naturalWidth);
      const root = document.documentElement;
      root.dataset.checked = JSON.stringify(
        {flat: flat.length, broken: broken.length, over: root.scrollWidth - innerWidth, svg: document.querySelectorAll("svg").length});
    });
    </script>"""
    page = tmp_path / "page.html"
    page.write_text(text.replace("</body>", f"{check}</body>"), encoding="utf-8")
    command = [
        *(browser() or "", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"),
        *(f"--window-size={width},900", "--enable-logging=stderr", "--virtual-time-budget=2000", "--dump-dom"),
        page.as_uri(),
    ]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in shown.stderr, shown.stderr
    found = re.search(r'data-checked="([^"]*)"', shown.stdout)
    assert found is not None
    facts = json.loads(found[1].replace("&quot;", '"'))
    assert facts["svg"] > 10
    assert (facts["flat"], facts["broken"]) == (0, 0)
    assert facts["over"] <= 0
