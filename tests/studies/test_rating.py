"""Ratings by aspect: means and differences by hand, checks, and the whole analysis."""

import json
from dataclasses import replace
from pathlib import Path
from xml.dom import minidom

import numpy as np
import pytest
from tiny_study import make_study

from ifuvit import results
from ifuvit.reporting.collection import Item
from ifuvit.reporting.plots import as_file
from ifuvit.reporting.study_section import study_plots, study_tables
from ifuvit.studies.analysis import analyze_study
from ifuvit.studies.answers import Answer, as_csv, as_label_studio, collect, label_studio_interface, passed
from ifuvit.studies.config import StudyAnalyzeConfig
from ifuvit.studies.design import Study, read_study
from ifuvit.studies.run import analyze
from ifuvit.studies.store import Entry, Store
from ifuvit.studies.tables import result_table

pytest.importorskip("krippendorff")

AT = "2026-01-01T00:00:00.000+00:00"
QUALITY = (5, 4, 2, 1)
"""What the models' images deserve."""


def entries(study: Study) -> list[Entry]:
    """Every rater gives the alignment 3, or 4 for the first image of a prompt, and the quality of the model, less one by r02."""
    found = []
    for place, rater in enumerate(study.raters):
        for number, task in enumerate(rater.tasks):
            item = study.item(task.item)
            assert item.model is not None
            quality = 1 if task.purpose == "check" else max(1, QUALITY[item.model] - place)
            given = (4 if item.index == 0 else 3, quality)
            found.append(Entry(rater=rater.id, task=number, status="answered", ratings=given, seconds=3.0, at=AT))
    return found


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = make_study(tmp_path_factory.mktemp("ratings"), "rating", checks=2)
    store = Store(made)
    for rater in ("r01", "r02"):
        store.agree(rater, AT)
    store.merge(entries(read_study(made)), agreed={})
    return made


@pytest.fixture
def study(directory: Path) -> Study:
    return read_study(directory)


@pytest.fixture
def answers(study: Study) -> list[Answer]:
    return collect(study, entries(study))


def test_means_and_differences_by_hand(study: Study, answers: list[Answer]) -> None:
    result = analyze_study(study, answers, samples=200)
    assert json.loads(json.dumps(result)) == result and result["kind"] == "rating study"
    quality, alignment = (result["everyone"]["aspects"][name] for name in ("quality", "alignment"))
    expected = {"alpha": 4.5, "beta": 3.5, "gamma": 1.5, "delta": 1.0}
    for model, mean in expected.items():
        assert quality["means"][model]["value"] == pytest.approx(mean)
        assert alignment["means"][model]["value"] == pytest.approx(3.5)
        low, high = quality["means"][model]["interval"]
        assert 1 <= low <= mean + 1e-9 and mean - 1e-9 <= high <= 5
        for other in set(expected) - {model}:
            forth, back = quality["differences"][model][other], quality["differences"][other][model]
            assert forth["value"] == pytest.approx(mean - expected[other])
            assert (back["value"], back["interval"]) == (-forth["value"], [-one for one in reversed(forth["interval"])])
    assert quality["shares"]["alpha"] == {"1": 0, "2": 0, "3": 0, "4": 0.5, "5": 0.5}
    assert alignment["agreement"]["same"]["value"] == 1 and alignment["agreement"]["krippendorffs_alpha"]["value"] == 1
    assert quality["agreement"]["same"]["value"] == pytest.approx(0.25), "of the worst model alone"
    again = result["everyone"]["self_consistency"]
    assert (again["repeats"], again["same"]["value"], again["difference"]["value"]) == (2, 1, 0)
    assert "alpha less beta: alignment 0.00" in result_table(result)


def test_a_spoiled_image_has_to_be_rated_low(study: Study, answers: list[Answer]) -> None:
    (check, *_) = [one for one in answers if one.purpose == "check"]
    rater = study.rater(check.rater)
    assert rater is not None
    task = rater.tasks[check.task]
    assert [passed(task, replace(check, ratings=(5, quality))) for quality in (1, 2, 3, 5)] == [
        True,
        True,
        False,
        False,
    ]
    assert passed(task, replace(check, status="skipped", ratings=None)) is None
    item, images = study.item(check.item), [one.images for one in study.items]
    assert item.model is not None and item.images not in images, "it is known whose image was spoiled, under a new name"


def test_ratings_for_other_programs(study: Study, answers: list[Answer]) -> None:
    header, first, *_ = as_csv(study, answers).splitlines()
    assert header.endswith("passed,rating alignment,rating quality") and first.split(",")[-2:] == list(
        map(str, answers[0].ratings or ())
    )
    tasks, interface = json.loads(as_label_studio(study, answers)), label_studio_interface(study)
    for result in (one for task in tasks for annotation in task["annotations"] for one in annotation["result"]):
        assert f'<Rating name="{result["from_name"]}" toName="{result["to_name"]}" maxRating="5"/>' in interface
        assert 1 <= result["value"]["rating"] <= 5 and result["type"] == "rating"


def test_the_report_has_every_number(directory: Path) -> None:
    file, result = analyze(StudyAnalyzeConfig(study=directory, samples=100))
    assert isinstance(result, results.RatingStudy) and results.from_file(file, results.RatingStudy) == result
    tables = {table.name: table for table in study_tables(Item(file=file, result=result, name=result.name))}
    models = tables["study-ratings-rating"]
    assert [row[0] for row in models.rows] == list(result.models)
    assert models.rows[1][2] == result.everyone.aspects["quality"].means["beta"]
    assert tables["study-rating-differences-rating"].rows[0][0] == "alpha less beta"
    shares = [row[1:] for row in tables["study-rating-shares-rating"].rows]
    assert np.allclose(np.array(shares, float).sum(1), 1)
    assert [column.title for column in tables["study-agreement-rating"].columns[1:]] == [
        "alignment, all raters",
        "quality, all raters",
    ]
    for plot in study_plots(result):
        assert minidom.parseString(as_file(plot)).getElementsByTagName("svg")
