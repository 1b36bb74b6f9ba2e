"""tools/convert_results.py: files without a schema become results of the present one, and no number changes."""

import json
from pathlib import Path
from typing import Any

import convert_results
import pytest

from ifuvit import results
from ifuvit.results import Evaluation, GeneratedImages, Sweep, by_name
from ifuvit.utils.errors import InputError

NETWORK = {"name": "EffNetLite0", "fingerprint": "ab", "resize": "none (pictures at their own size)"}
METRICS = {
    "KID-EffNetLite0": {
        **{"value": 4.9, "interval": [4.5, 5.4], "interval_from": "100 random subsets of 500 pictures", "n": 1000},
        **{"floor": {"value": -0.007, "n": 1000, "how": "1000 real pictures against others"}, "network": NETWORK},
    },
    "precision-EffNetLite0": {
        **{"value": 0.08, "interval": [0.06, 0.1], "interval_from": "bootstrap over pictures", "n": 1000},
        "real": {"value": 0.88, "n": 1000, "how": "1000 real pictures against others"},
    },
    "TwoTower score": {"value": 0.77, "interval": [0.76, 0.78], "n": 1000, "x100": 77.0, "prefix": ""},
}
PROTOCOL = {
    **{"name": "quick, changed: images=100", "images": 100, "solver": "dpm++", "steps": 25, "guidance_scale": 2.0},
    **{"guidance_interval": [0.0, 1.0], "start": "color", "seed": 0, "count_guidance_scale": 4.0},
}
SCORES = {"images": 5, "match_ratio": {"value": 1.0, "interval": [1.0, 1.0], "interval_from": "bootstrap", "n": 5}}
EVALUATION: dict[str, Any] = {
    **{"command": "evaluate", "ifuvit_version": "0.1.0", "config": {"target": "m"}, "started": "2026-01-01"},
    "target": {"name": "m", "kind": "ifuvit", "sha256": "cd", "setting": None, "training": None},
    "protocol": PROTOCOL,
    "data": {"where": "scenes", "split": "val", "images": 2000, "left_out": 0, "sha256": "ef"},
    "metrics": METRICS,
    "counts": {"overall": SCORES, "by_count": {"1": SCORES}},
    "held_out": {"counts": {"overall": SCORES, "by_count": {}}, "relations": None},
    **{
        "all_kinds": None,
        "relations": None,
        "counter": None,
        "costs": {"parameters": 7},
        "images": "m-images/captions",
    },
}


def write(file: Path, value: Any) -> Path:
    file.write_text(json.dumps(value))
    return file


def test_an_evaluation(tmp_path: Path) -> None:
    file = write(tmp_path / "m.json", EVALUATION)
    assert convert_results.convert(file)
    found = results.from_file(file, Evaluation)
    metrics = by_name(found.metrics)
    kid = metrics["KID-EffNetLite0"]
    assert (kid.value, kid.interval, kid.better, kid.subject) == (4.9, (4.5, 5.4), "lower", "distance")
    assert kid.reference is not None and kid.reference.value == -0.007
    assert kid.interval_from == "100 random subsets of 500 images"
    assert kid.network == {**NETWORK, "resize": "none (images at their own size)"}
    assert metrics["precision-EffNetLite0"].subject == "coverage"
    assert metrics["TwoTower score"].details == {"x100": 77.0, "prefix": ""}
    assert found.protocol["sampling"]["initial_latents"] == "data-mean" and found.guidance_scale == 2.0
    assert (found.protocol["name"], found.protocol["num_images"]) == ("quick, changed: num_images=100", 100)
    assert set(found.objects) == {"paper", "held-out"}
    text = file.read_text()
    assert not convert_results.convert(file) and file.read_text() == text  # once only


def test_other_kinds(tmp_path: Path) -> None:
    point = {"model": "m", "guidance_scale": 2.0, "result": "m.json", "metrics": METRICS}
    facts = {"command": "sweep", "protocol": None, "data": None, "points": [point], "missing": []}
    file = write(tmp_path / "sweep.json", facts)
    convert_results.convert(file)
    assert by_name(results.from_file(file, Sweep).points[0].metrics)["TwoTower score"].value == 0.77
    images = [{"file": "0.png", "prompt": "a bus", "index": 0}]
    config = {"model": "runs/m", "seed": 3, "steps": 50, "solver": "dpm++", "guidance_scale": 4.0}
    file = write(tmp_path / "manifest.json", {"command": "generate", "config": config, "images": images})
    convert_results.convert(file)
    found = results.from_file(file, GeneratedImages)
    assert (found.model, found.seed) == ("m", 3)
    assert found.sampling["initial_latents"] == "noise"  # before there was a choice


def test_a_log(tmp_path: Path) -> None:
    told = {"images": 200, "guidance_scale": 2.0, "steps": 25, "metrics": METRICS}
    lines = [{"step": 1, "loss": 0.5}, {"step": 2, "evaluation": told}]
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert convert_results.convert(file) and not convert_results.convert(file)
    record = results.read_training(file)
    assert record is not None and record.loss == ((1, 0.5),)
    assert by_name(record.evaluations[0][1].metrics)["KID-EffNetLite0"].value == 4.9


def test_other_files_stay(tmp_path: Path) -> None:
    for value in ([1], {"command": "train", "config": {}}, {"some": "thing"}):
        file = write(tmp_path / "other.json", value)
        assert not convert_results.convert(file)
        assert json.loads(file.read_text()) == value


@pytest.mark.parametrize(
    "change",
    [{"metrics": {"LPIPS": {"value": 1.0}}}, {"metrics": []}, {"protocol": {}}, {"target": None}, {"costs": 3}],
)
def test_a_broken_result_is_one_line_and_stays(tmp_path: Path, change: dict[str, Any]) -> None:
    file = write(tmp_path / "m.json", {**EVALUATION, **change})
    before = file.read_text()
    with pytest.raises(InputError, match=r"m\.json: cannot be converted") as error:
        convert_results.convert(file)
    assert "\n" not in str(error.value) and file.read_text() == before


def test_stored_results_are_converted() -> None:
    for file in convert_results.files(Path(__file__).parents[1] / "results"):
        if file.name != "metrics.jsonl":
            value = json.loads(file.read_text())
            series = value if isinstance(value, list) else [value]
            for one in series:
                if results.is_result(one):
                    results.from_json(one, where=str(file))
                else:
                    assert convert_results.converted(one) is None
