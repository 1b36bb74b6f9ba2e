"""RUN/run.html, and several runs on top of each other in a report."""

import json
import re
import shutil
from pathlib import Path

import example_results
import pytest
from PIL import Image

from ifuvit.reporting import training_section
from ifuvit.reporting.collection import collect
from ifuvit.reporting.page import render
from ifuvit.reporting.run_page import write_run_page
from ifuvit.results import read_training
from ifuvit.training.config import default_config
from ifuvit.utils.config import to_dict
from ifuvit.utils.errors import InputError


def write_run(directory: Path, level: float = 1.0, grids: tuple[int, ...] = (1000, 2000, 4000)) -> Path:
    """A run of 8,000 of 10,000 steps with evaluations and sample grids."""
    file = example_results.write_training(directory, level)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        if "loss" in line:
            line |= {"learning_rate": 1e-3, "gradient_norm": 0.5, "samples": 64 * line["step"]}
        elif "validation_loss" in line:
            bands = {f"{i / 10}-{(i + 1) / 10}": line["validation_loss"] * (1 + i / 10) for i in range(10)}
            line["validation_loss_by_noise_level"] = bands
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = default_config("openmoji-cross-intermediate", data="data", out=directory, steps=10_000)
    begun = {"command": "train", "config": to_dict(config), "training_images": 40_000}
    (directory / "config.json").write_text(json.dumps(begun))
    (directory / "samples").mkdir()
    for step in grids:
        color = (step // 40, 0, 0)
        Image.new("RGB", (200, 200), color).save(directory / "samples" / f"step-{step:08d}.png")
    return directory


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "my-run")


def page_of(run: Path, **options) -> str:
    return write_run_page(run, **{"step": 8000, "state": "training", **options}).read_text()


def test_the_log_is_read(run: Path) -> None:
    record = read_training(run / "metrics.jsonl")
    assert record is not None and record.batch_size == 64
    assert record.learning_rate[0] == (10, 1e-3) and record.gradient_norm[-1] == (8000, 0.5)
    step, bands = record.levels[-1]
    assert step == 8000 and bands["0.9-1.0"] == pytest.approx(1.9 * record.validation[-1][1])


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ({"step": 1, "validation_loss_by_noise_level": 3}, "not an object"),
        ({"step": 1, "validation_loss_by_noise_level": {"0.0-0.1": "x"}}, "'0.0-0.1' is not a number"),
        ({"step": 1, "samples": None}, "'samples' is not a number"),
    ],
)
def test_a_broken_line_is_refused(tmp_path: Path, line: dict, what: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(InputError, match=what):
        read_training(tmp_path / "metrics.jsonl")


def test_the_page_shows_the_run_and_requires_no_other_file(run: Path) -> None:
    page = page_of(run)
    for title in ("Training loss", "Validation loss by noise level", "Validation loss of single noise levels"):
        assert f"<figcaption>{title}</figcaption>" in page
    for title in ("right kind and count", "relation", "KID-EffNetLite0"):
        assert f"<figcaption>{title} during training</figcaption>" in page
    for title in ("Images a second", "Learning rate", "Gradient norm"):
        assert f"<figcaption>{title}</figcaption>" in page
    assert re.findall(r'data-step="(\d+)"', page) == ["1000", "2000", "4000"]
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert "8,000</b>" in page and "of 10,000, 80 %" in page
    shutil.copytree(run, run.parent / "copied", ignore=shutil.ignore_patterns("samples", "*.json*"))
    assert (run.parent / "copied" / "run.html").read_text() == page


def test_time_left(run: Path) -> None:
    """2,000 steps at 2.9 a second are 690 seconds; 64 images at that speed are 186 a second."""
    page = page_of(run)
    assert re.search(r"time left</dt><dd><b>11 min</b>", page)
    assert re.search(r"time trained</dt><dd><b>46 min</b>", page)
    assert re.search(r"images a second</dt><dd><b>186</b>", page)
    assert "time left" not in page_of(run, state="finished")


@pytest.mark.parametrize("state", ["training", "finished", "stopped", "failed"])
def test_only_a_run_that_trains_loads_its_page_again(run: Path, state) -> None:
    page = page_of(run, state=state, why="because of <this>")
    assert f'data-state="{state}"' in page and "because of &lt;this&gt;" in page
    assert ('http-equiv="refresh"' in page) == (state == "training")


def test_a_run_without_a_line_yet(run: Path) -> None:
    (run / "metrics.jsonl").write_text("")
    shutil.rmtree(run / "samples")
    page = page_of(run, step=0)
    assert "Nothing is logged yet" in page and 'id="slider"' not in page


@pytest.mark.parametrize(
    "begun", [[], {}, {"config": []}, {"config": {"steps": 9, "recipe": [1]}}, {"config": {"steps": "x"}}]
)
def test_a_damaged_record_is_one_line(run: Path, begun: object) -> None:
    (run / "config.json").write_text(json.dumps(begun))
    with pytest.raises(InputError, match=r"my-run/config\.json: "):
        page_of(run)


def test_a_log_that_is_cut_short(run: Path) -> None:
    text = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(text[:-30])
    assert "Training loss" in page_of(run)


def test_many_grids_are_spread_over_the_steps(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", grids=tuple(range(100, 6001, 100)))
    page = page_of(run)
    steps = [int(step) for step in re.findall(r'data-step="(\d+)"', page)]
    assert len(steps) == 40 and steps[0] == 100 and steps[-1] == 6000 and "40 of 60 grids" in page


def test_several_runs_lie_on_top_of_each_other(tmp_path: Path) -> None:
    write_run(tmp_path / "a" / "run", 1.0)
    write_run(tmp_path / "b" / "run", 1.3, grids=(500,))
    found = collect([tmp_path / "a" / "run", tmp_path / "b" / "run"])
    assert [one.name for one in found.trainings] == ["run (a)", "run (b)"]
    plots = {plot.title: plot for plot in training_section.training_plots(found.trainings)}
    assert [name for name, _ in plots["Training loss"].legend] == ["run (a)", "run (b)"]
    by_level = plots["Validation loss by noise level"]
    assert [name for name, _ in by_level.legend] == ["run (a), step 8,000", "run (b), step 8,000"]
    page = render(found, title="both")
    assert re.findall(r'data-step="(\d+)"', page) == ["1000", "2000", "4000", "500"]
    assert "const steps = [500, 1000, 2000, 4000]" in page
