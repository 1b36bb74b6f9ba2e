"""`ifuvit study analyze` from answers in a study's database to files."""

from pathlib import Path

import pytest
from tiny_study import MODELS, make_study

from ifuvit.commands import study as command
from ifuvit.studies.config import StudyAnalyzeConfig
from ifuvit.studies.design import read_study
from ifuvit.studies.run import analyze
from ifuvit.studies.store import Entry, Store
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import read_json

pytest.importorskip("krippendorff")


def answer(directory: Path) -> None:
    """Everybody ranks the models in their order, whatever the slots, and counts one object too many of the last model."""
    made, store = read_study(directory), Store(directory)
    for rater in made.raters:
        store.agree(rater.id, "2026-01-01T00:00:00+00:00")
        for number, task in enumerate(rater.tasks):
            count, ranks = None, None
            if made.kind == "preference":
                ranks = tuple(float(model + 1) for model in task.order)
                if task.expected is not None:
                    ranks = tuple(2.0 if model == task.expected else 1.0 for model in task.order)
                    ranks = tuple(4.0 if rank == 2.0 else 1.0 for rank in ranks)
            else:
                item = made.item(task.item)
                count = (item.count or 0) + (item.model == len(made.models) - 1 and task.expected is None)
            at = f"2026-01-01T00:{number:02d}:00+00:00"
            entry = Entry(rater=rater.id, task=number, status="answered", count=count, ranks=ranks, seconds=3.0, at=at)
            store.add(entry, version=0)
    store.close()


def test_preference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = make_study(tmp_path, "preference")
    answer(directory)
    command.main(["analyze", str(directory), "--samples", "100"])
    told = capsys.readouterr().out
    result = read_json(directory / "analysis.json")
    assert result["command"] == "study analyze"
    assert result["everyone"]["order"] == list(MODELS)
    assert [result["everyone"]["points"][model]["value"] for model in MODELS] == [4, 3, 2, 1]
    assert result["everyone"]["agreement"]["kendalls_w"]["value"] == 1
    assert result["everyone"]["agreement"]["krippendorffs_alpha"]["value"] == 1
    assert result["everyone"]["self_consistency"]["same"]["value"] == 1
    assert not any(row["flagged"] for row in result["raters"])
    assert "alpha" in told and "4.00" in told and "analysis.json: written" in told
    assert {file.suffix for file in (directory / "plots").iterdir()} == {".svg"}
    tokens = [rater.token for rater in read_study(directory).raters] + [read_study(directory).owner_token]
    assert not any(token in (directory / "analysis.json").read_text() for token in tokens)


def test_count_next_to_the_counter(tmp_path: Path) -> None:
    directory = make_study(tmp_path, "count")
    answer(directory)
    written, _ = analyze(StudyAnalyzeConfig(study=directory, counter="openmoji", samples=100, out=tmp_path / "a.json"))
    result = read_json(written)
    scores = {model: result["everyone"]["models"][model]["overall"] for model in MODELS}
    assert [scores[model]["match_ratio"]["value"] for model in MODELS] == [1, 1, 1, 0]
    assert scores["delta"]["average_error"]["value"] == 1
    assert result["everyone"]["cells_won"]["alpha"]["beta"]["match_ratio"] == {
        "won": 0,
        "tied": 4,
        "lost": 0,
        "cells": 4,
    }
    assert result["counter"]["name"] == "openmoji"
    # The images are noise.
    assert result["everyone"]["counter"]["images"] == 32
    assert result["everyone"]["counter"]["models"]["alpha"]["people"]["match_ratio"]["value"] == 1


def test_mistakes(tmp_path: Path) -> None:
    directory = make_study(tmp_path, "preference")
    with pytest.raises(InputError, match="no answers yet"):
        analyze(StudyAnalyzeConfig(study=directory))
    with pytest.raises(InputError, match="nothing is counted"):
        analyze(StudyAnalyzeConfig(study=directory, counter="openmoji"))
    with pytest.raises(InputError, match="holds no study"):
        analyze(StudyAnalyzeConfig(study=tmp_path))
    count = make_study(tmp_path, "count")
    answer(count)
    for wrong, message in (
        ({"threshold": 0.5}, "is for --detector"),
        ({"threshold": 1.5, "detector": "d"}, "--threshold 1.5"),
    ):
        with pytest.raises(InputError, match=message):
            analyze(StudyAnalyzeConfig(study=count, **wrong))  # pyright: ignore
    for wrong in ({"samples": 10}, {"least_passed": 1.5}, {"least_pace": -0.1}, {"seed": -1}, {"counter": "a", "detector": "b"}):  # fmt: skip
        with pytest.raises(InputError, match="--"):
            StudyAnalyzeConfig(study=directory, **wrong)
