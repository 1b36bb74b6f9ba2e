"""Reading results: what is taken, what is left, what is refused."""

import json
from pathlib import Path

import example_results
import pytest

from ifuvit.reporting.comparison import table_1
from ifuvit.reporting.reading import read_results
from ifuvit.reporting.results import Estimate, Setting, real_of
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import sha256


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return example_results.write_all(tmp_path_factory.mktemp("results"))


def test_all_kinds_are_found(everything: Path) -> None:
    results = read_results([everything])
    assert [one.name for one in results.judgments] == ["images-of-old"]
    assert [one.name for one in results.experiments] == ["ablation", "table1"]
    assert [run.name for run in results.trainings] == ["concat-early", "cross-intermediate"]
    assert [len(run.evaluations) for run in results.trainings] == [8, 8]
    assert len(results.sweeps) == 1
    assert len(results.costs) == 1
    assert {one.name for one in results.images} >= {"concat-early", "coco", "openmoji-cross-intermediate"}


def test_parts_are_told_once(everything: Path) -> None:
    """Of 14 points of a sweep, 12 runs of one experiment and 8 of another: every setting's first seed, once."""
    results = read_results([everything, everything / "sweep"])
    assert [one.name for one in results.alone] == ["openmoji-cross-intermediate"]
    assert results.evaluations[0] == results.alone[0]
    assert len(results.evaluations) == len(example_results.ABLATION)
    shown = {one.directory.parent.name for one in results.images if "captions" in one.directory.name}
    assert len(shown) == len(example_results.ABLATION)


def test_experiments_of_one_name_are_told_apart(tmp_path: Path) -> None:
    example_results.write_experiment(tmp_path / "first" / "results", "table1", (1234,))
    file = example_results.write_experiment(tmp_path / "second", "table1", (1234,))
    results = read_results([tmp_path])
    assert [one.apart for one in results.experiments] == [" (first)", " (second)"]
    assert [table.title for table in table_1(results)] == [
        f"Table 1: four settings, trained at scale openmoji ({one})" for one in ("first", "second")
    ]
    assert read_results([file.parent]).experiments[0].apart == ""


def test_real_images_have_one_value_but_for_rounding() -> None:
    def sets(*values: float | None) -> list[dict[str, Estimate]]:
        return [{"KID": Estimate(value=1.0, real=value)} for value in values]

    assert real_of(sets(0.86567259, None, 0.865672592), "KID") == 0.86567259
    assert real_of(sets(0.86567259, 0.866), "KID") is None
    assert real_of(sets(None), "KID") is None
    assert real_of(sets(0.5), "FID") is None


def test_an_experiment_over_guidance_scales_is_a_curve(tmp_path: Path) -> None:
    example_results.write_guidance_experiment(tmp_path / "guidance")
    results = read_results([tmp_path])
    assert results.sweeps == ()
    assert results.evaluations == ()
    assert len(results.experiments[0].points) == 14
    assert results.experiments[0].rows[0].setting.n_image == (2, 2)


def test_estimates(everything: Path) -> None:
    metrics = read_results([everything / "shipped"]).evaluations[0].metrics
    distance, score = metrics["KID-EffNetLite0"], metrics["TwoTower score"]
    assert distance.interval == pytest.approx((0.0379, 0.0461))
    assert distance.real == 0.00021
    assert distance.real_how is not None and "other images" in distance.real_how
    assert (score.real, score.real_how) == (0.512, "real images with their own captions")


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        ((0, 0), "early"),
        ((1, 4), "intermediate"),
        ((0, 4), "middle only"),
        ((1, 0), "text block only"),
        ((1, (4, 0)), "intermediate"),
        ((0, (0, 0)), "early"),
    ],
)
def test_fusion_has_the_papers_names(setting: tuple[int, int], name: str) -> None:
    assert Setting(conditioning="cross", n_text=setting[0], n_image=setting[1]).fusion == name


def test_other_files_are_skipped(tmp_path: Path) -> None:
    example_results.write_costs(tmp_path / "costs.json")
    (tmp_path / "list.json").write_text("[1, 2]")
    (tmp_path / "broken.json").write_text('{"some": ')
    (tmp_path / "other.json").write_text('{"command": "prepare"}')
    (tmp_path / "ae").mkdir()
    (tmp_path / "ae" / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5, "psnr": 10.0}\n')
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "evaluation.json").write_text('{"command": "evaluate"}')
    results = read_results([tmp_path])
    assert len(results.costs) == 1
    assert results.evaluations == results.trainings == ()


def test_the_last_line_of_a_log_may_be_unfinished(tmp_path: Path) -> None:
    file = example_results.write_training(tmp_path / "run", 1.0)
    whole = len(read_results([tmp_path]).trainings[0].loss)
    file.write_text(file.read_text() + '{"step": 8010, "lo')
    assert len(read_results([tmp_path]).trainings[0].loss) == whole
    file.write_text('{"step": 1, "lo\n' + file.read_text())
    with pytest.raises(InputError, match=r"metrics\.jsonl: .*line 1 is not JSON"):
        read_results([tmp_path])


def test_broken_results_are_named(tmp_path: Path) -> None:
    file = example_results.write_evaluation(tmp_path / "evaluation.json", "cross-early", 0.5, images=False)
    good = json.loads(file.read_text())

    def refused(change: dict, match: str) -> None:
        file.write_text(json.dumps({**good, **change}))
        with pytest.raises(InputError, match=rf"evaluation\.json: .*{match}") as error:
            read_results([tmp_path])
        assert "\n" not in str(error.value)

    refused({"protocol": {}}, "'name' is missing")
    refused({"target": {"name": "x"}}, "'kind' is missing")
    refused({"metrics": {"FID": 3.0}}, "'FID' is not of the form")
    refused({"metrics": {"FID": {"value": "low", "interval": None}}}, "low")
    refused({"counts": {"overall": {}}}, "'images' is missing")
    refused({"counts": {**good["counts"], "confusion": {"counted": ["0"], "asked": {"1": [0, 1]}}}}, "confusion")
    file.write_text(json.dumps(good)[:-40])
    with pytest.raises(InputError, match=r"evaluation\.json: not a valid JSON file"):
        read_results([tmp_path])


def test_truncated_manifest_of_images(tmp_path: Path) -> None:
    directory = example_results.write_generated(tmp_path / "images", "some/model", 100)
    manifest = directory / "manifest.json"
    manifest.write_text(json.dumps({"command": "generate", "images": [{"file": "a.png"}], "config": {}}))
    with pytest.raises(InputError, match=r"manifest\.json: .*'model' is missing"):
        read_results([tmp_path])


def test_a_judgment_has_the_name_of_its_images_model(tmp_path: Path) -> None:
    directory = example_results.write_generated(tmp_path / "images", "runs/mine", 100)
    file = example_results.write_judgment(tmp_path / "counts.json", 0.5)
    result = json.loads(file.read_text())
    result["generated"] = {"directory": "images", "manifest_sha256": sha256(directory / "manifest.json")}
    file.write_text(json.dumps(result))
    assert [one.name for one in read_results([tmp_path]).judgments] == ["mine (images)"]
