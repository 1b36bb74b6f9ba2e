"""Finding results: what is taken, what is left, what is refused."""

import json
from pathlib import Path

import example_results
import pytest

from ifuvit.reporting.collection import collect
from ifuvit.reporting.paper_section import table_1
from ifuvit.results import by_name
from ifuvit.utils.errors import InputError


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return example_results.write_all(tmp_path_factory.mktemp("results"))


def test_all_kinds_are_found(everything: Path) -> None:
    results = collect([everything])
    assert [one.name for one in results.evaluations if not one.result.metrics] == ["images-of-old"]
    assert [one.name for one in results.experiments] == ["ablation", "guidance_sweep", "table1"]
    assert [run.name for run in results.trainings] == ["concat-early", "cross-intermediate"]
    assert [len(run.result.evaluations) for run in results.trainings] == [8, 8]
    assert len(results.sweeps) == 1
    assert len(results.costs) == 1
    assert {one.name for one in results.images} >= {"concat-early", "coco", "openmoji-cross-intermediate"}


def test_parts_are_told_once(everything: Path) -> None:
    """Of 14 points of a sweep, 12 runs of one experiment and 8 of another: every setting's first seed, once."""
    results = collect([everything, everything / "sweep"])
    assert [one.name for one in results.alone] == ["images-of-old", "openmoji-cross-intermediate"]
    assert list(results.evaluations[:2]) == results.alone
    assert len(results.measured) == len(example_results.ABLATION)
    shown = {one.file.parents[1].name for one in results.images if "captions" in one.file.parent.name}
    assert len(shown) == len(example_results.ABLATION)


def test_experiments_of_one_name_are_told_apart(tmp_path: Path) -> None:
    example_results.write_experiment(tmp_path / "first" / "results", "table1", (1234,))
    file = example_results.write_experiment(tmp_path / "second", "table1", (1234,))
    results = collect([tmp_path])
    assert [one.apart for one in results.experiments] == [" (first)", " (second)"]
    assert [table.title for table in table_1(results)] == [
        f"Table 1: four settings, trained at scale openmoji ({one})" for one in ("first", "second")
    ]
    assert collect([file.parent]).experiments[0].apart == ""


def test_an_experiment_over_guidance_scales_is_a_curve(tmp_path: Path) -> None:
    example_results.write_guidance_experiment(tmp_path / "guidance")
    results = collect([tmp_path])
    assert results.sweeps == ()
    assert results.evaluations == ()
    assert len(results.experiments[0].result.points) == 14
    assert results.experiments[0].result.table[0].setting.n_image == (2, 2)


def test_metrics(everything: Path) -> None:
    metrics = by_name(collect([everything / "shipped"]).measured[0].result.metrics)
    distance, score = metrics["KID-EffNetLite0"], metrics["TwoTower score"]
    assert distance.interval == pytest.approx((0.0379, 0.0461))
    assert distance.reference is not None and distance.reference.value == 0.00021
    assert "other images" in distance.reference.how
    assert score.reference is not None
    assert (score.reference.value, score.reference.how) == (0.512, "real images with their own captions")


def test_other_files_are_skipped(tmp_path: Path) -> None:
    example_results.write_costs(tmp_path / "costs.json")
    (tmp_path / "list.json").write_text("[1, 2]")
    (tmp_path / "broken.json").write_text('{"some": ')
    (tmp_path / "other.json").write_text('{"command": "prepare"}')
    (tmp_path / "ae").mkdir()
    (tmp_path / "ae" / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5, "psnr": 10.0}\n')
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "evaluation.json").write_text('{"schema": 1, "kind": "evaluation"}')
    (tmp_path / "evaluations.json").write_text('[{"schema": 1, "kind": "evaluation"}]')
    (tmp_path / "kind.json").write_text('{"kind": "evaluation", "of": "something else"}')
    results = collect([tmp_path])
    assert len(results.costs) == 1
    assert results.evaluations == results.trainings == ()


def test_the_last_line_of_a_log_may_be_unfinished(tmp_path: Path) -> None:
    file = example_results.write_training(tmp_path / "run", 1.0)
    whole = len(collect([tmp_path]).trainings[0].result.loss)
    file.write_text(file.read_text() + '{"step": 8010, "lo')
    assert len(collect([tmp_path]).trainings[0].result.loss) == whole
    file.write_text('{"step": 1, "lo\n' + file.read_text())
    with pytest.raises(InputError, match=r"metrics\.jsonl: line 1: not JSON"):
        collect([tmp_path])


def test_broken_results_are_named(tmp_path: Path) -> None:
    file = example_results.write_evaluation(tmp_path / "evaluation.json", "cross-early", 0.5, images=False)
    good = json.loads(file.read_text())
    del good["checksum"]  # as after a change on purpose

    def refused(change: dict, match: str) -> None:
        file.write_text(json.dumps({**good, **change}))
        with pytest.raises(InputError, match=rf"evaluation\.json: .*{match}") as error:
            collect([tmp_path])
        assert "\n" not in str(error.value)

    refused({"protocol": {}}, "'name' is missing")
    refused({"target": {"name": "x"}}, "'kind' is missing")
    refused({"metrics": {"FID": 3.0}}, "metrics: .* does not fit")
    refused({"metrics": [{**good["metrics"][0], "value": "low"}]}, "metrics: 0: value: 'low'")
    refused({"objects": {"paper": {"counts": {"overall": {}, "by_count": {}}}}}, "overall: field 'images' is missing")
    refused({"schema": 0}, "has schema 0")
    file.write_text(json.dumps(good)[:-40])
    with pytest.raises(InputError, match=r"evaluation\.json: not a valid JSON file"):
        collect([tmp_path])


def test_truncated_manifest_of_images(tmp_path: Path) -> None:
    directory = example_results.write_generated(tmp_path / "images", "some/model", 100)
    manifest = directory / "manifest.json"
    value = json.loads(manifest.read_text())
    del value["model"], value["checksum"]
    manifest.write_text(json.dumps(value))
    with pytest.raises(InputError, match=r"manifest\.json: .*'model' is missing"):
        collect([tmp_path])


@pytest.mark.parametrize("command", ["evaluate", "sweep", "count judge", "bench train", "generate", "study analyze"])
def test_results_without_a_schema_are_not_left_out_in_silence(command: str, tmp_path: Path) -> None:
    example_results.write_costs(tmp_path / "costs.json")
    (tmp_path / "old.json").write_text(json.dumps({"command": command, "metrics": {}}))
    with pytest.raises(InputError, match=rf"old\.json: written by `ifuvit {command}` before .*convert_results\.py"):
        collect([tmp_path])
    (tmp_path / "old.json").write_text(json.dumps({"command": "train", "last": {"command": command}}))
    assert len(collect([tmp_path]).costs) == 1


def test_everything_stored_is_read() -> None:
    """The results that are kept with the code are in the present schema, and the report finds something in each kind."""
    found = collect([Path(__file__).parents[2] / "results"])
    assert found.measured and len(found.evaluations) > len(found.measured) and found.experiments
    assert found.trainings and found.costs and found.benchmarks
