"""Several models and guidance scales: every point once; partial files; what is evaluated again and what is not."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from evaluation_stub import Evaluations, write_model

from ifuvit import results
from ifuvit.commands import evaluate as command
from ifuvit.data.scenes import write_scenes
from ifuvit.diffusion.settings import SamplingSettings
from ifuvit.evaluation import run
from ifuvit.evaluation.config import EvaluateConfig, labels
from ifuvit.evaluation.scales import evaluate_scales
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import read_json, write_json


@pytest.fixture
def evaluations(monkeypatch: pytest.MonkeyPatch) -> Evaluations:
    stub = Evaluations()
    monkeypatch.setattr(run, "evaluate", stub)
    return stub


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("data") / "scenes", size=32, train=1, val=4)


@pytest.fixture
def config(tmp_path: Path, data: Path) -> EvaluateConfig:
    models = [write_model(tmp_path / name, name) for name in ("early", "late")]
    return EvaluateConfig(
        targets=tuple(map(str, models)), data=data, out=tmp_path / "out", guidance_scales=(1.0, 2.5), num_images=4
    )


SEVEN = SamplingSettings(steps=7)


def changed(config: EvaluateConfig, **fields: Any) -> EvaluateConfig:
    return replace(config, **fields)


def sweep_of(config: EvaluateConfig) -> results.Sweep:
    assert config.out is not None
    return results.from_file(config.out / "sweep.json", results.Sweep)


def test_every_model_at_every_scale(config: EvaluateConfig, evaluations: Evaluations) -> None:
    assert config.out is not None and evaluate_scales(config) == config.out
    assert evaluations.asked == ["early-w1.json", "early-w2.5.json", "late-w1.json", "late-w2.5.json"]
    found = sweep_of(config)
    assert found.command == "evaluate" and found.complete
    points = [("early", 1.0), ("early", 2.5), ("late", 1.0), ("late", 2.5)]
    assert [(point.model, point.guidance_scale) for point in found.points] == points
    for point in found.points:
        assert point.result is not None
        result = results.from_file(config.out / point.result, results.Evaluation)
        assert result.metrics == point.metrics
        assert results.by_name(point.metrics)["KID-EffNetLite0"].value == point.guidance_scale
        assert result.config["metrics"] == ["distances", "alignment"]
        assert result.config["cache"] == str(config.out / "cache")
    assert found.protocol is not None and found.protocol["num_images"] == 4


def test_goes_on_where_it_stopped(config: EvaluateConfig, evaluations: Evaluations) -> None:
    evaluations.killed_at = 3
    with pytest.raises(KeyboardInterrupt):
        evaluate_scales(config)
    partial = sweep_of(config)
    assert not partial.complete and len(partial.points) == 3
    assert [(point.model, point.guidance_scale) for point in partial.missing] == [("late", 2.5)]
    evaluations.asked.clear()
    evaluate_scales(config)
    assert evaluations.asked == ["late-w2.5.json"]
    assert sweep_of(config).complete
    evaluations.asked.clear()
    evaluate_scales(config)
    assert evaluations.asked == []


def test_scales_and_models_may_be_added(config: EvaluateConfig, evaluations: Evaluations) -> None:
    evaluate_scales(changed(config, targets=config.targets[:1]))
    evaluations.asked.clear()
    evaluate_scales(config)
    assert evaluations.asked == ["late-w1.json", "late-w2.5.json"]


def test_another_model_protocol_or_data_is_evaluated_again(
    config: EvaluateConfig, evaluations: Evaluations, tmp_path: Path
) -> None:
    config = changed(config, guidance_scales=(2.0,))
    evaluate_scales(config)
    changes = (
        {},
        {"sampling": SEVEN},
        {"sampling": SEVEN, "num_images": 3},
        {"sampling": SEVEN, "num_images": 3, "data": write_scenes(tmp_path / "other", size=32, train=1, val=5)},
        {"sampling": SEVEN, "num_images": 3, "data": tmp_path / "other", "batch_size": 2, "device": "cpu"},
    )
    counts = []
    for change in changes:
        evaluations.asked.clear()
        evaluate_scales(changed(config, **change))
        counts.append(len(evaluations.asked))
    assert counts == [0, 2, 2, 2, 0]
    pipeline = Path(config.targets[0]) / "pipeline"
    for name, text in (
        ("transformer/model.safetensors", "trained further"),
        ("model_index.json", '{"latent_scale": 2.0, "text": {"fingerprint": "another"}}'),
    ):
        (pipeline / name).write_text(text)
        evaluations.asked.clear()
        evaluate_scales(changed(config, **changes[-1]))
        assert evaluations.asked == ["early-w2.json"], name
    # A new version of the package wrote the same pipeline again.
    index = {**read_json(pipeline / "model_index.json"), "_ifuvit_version": "9"}
    write_json(pipeline / "model_index.json", index)
    evaluations.asked.clear()
    evaluate_scales(changed(config, **changes[-1]))
    assert evaluations.asked == []


def test_other_networks_and_counters_are_evaluated_again(
    config: EvaluateConfig, evaluations: Evaluations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the hashes of their weights, whatever their names."""
    config = changed(config, metrics=("distances", "counts"))
    evaluate_scales(config)
    evaluations.asked.clear()
    evaluate_scales(config)
    assert evaluations.asked == []
    facts = run.evaluator_facts(config)
    for part in (
        {"distances": {**facts["distances"], "statistics": "other"}},
        {"distances": {**facts["distances"], "networks": [{**facts["distances"]["networks"][0], "fingerprint": "0"}]}},
        {"counts": {**facts["counts"], "sha256": "0"}},
    ):
        monkeypatch.setattr(run, "evaluator_facts", lambda _, part=part: {**facts, **part})
        evaluations.asked.clear()
        evaluate_scales(config)
        assert len(evaluations.asked) == 4, part


def test_one_scale_is_a_point_too(config: EvaluateConfig, evaluations: Evaluations) -> None:
    evaluate_scales(changed(config, targets=config.targets[:1], guidance_scales=(3.0,)))
    assert evaluations.asked == ["early-w3.json"] and sweep_of(config).points[0].guidance_scale == 3


def test_a_moved_sweep_is_not_done_again(config: EvaluateConfig, evaluations: Evaluations, tmp_path: Path) -> None:
    evaluate_scales(config)
    assert config.out is not None
    config.out.rename(tmp_path / "moved")
    evaluations.asked.clear()
    evaluate_scales(changed(config, out=tmp_path / "moved"))
    assert evaluations.asked == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images_dir": Path("images")}, "--images-dir is for one model at one guidance scale"),
        ({"metrics": ("beauty",)}, "--metrics beauty: unknown; the metrics are distances, alignment"),
        ({"guidance_scales": (1.0, 2.0, 1.0)}, "1.0 is given twice"),
        ({"targets": ("a", "a")}, "target a is given twice"),
    ],
)
def test_impossible_requests(config: EvaluateConfig, change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        changed(config, **change)


def test_refuses_before_it_evaluates(config: EvaluateConfig, evaluations: Evaluations, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no model 'nowhere'"):
        evaluate_scales(changed(config, targets=(*config.targets, "nowhere")))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="holds something else already"):
        evaluate_scales(changed(config, out=tmp_path / "other"))
    (tmp_path / "other" / "sweep.json").write_text("[]")
    with pytest.raises(InputError, match="holds something else already"):
        evaluate_scales(changed(config, out=tmp_path / "other"))
    with pytest.raises(InputError, match="must be a finite number"):
        evaluate_scales(changed(config, guidance_scales=(float("nan"),)))
    assert config.out is not None and evaluations.asked == [] and not config.out.exists()


def test_labels() -> None:
    assert labels(["runs/a", "runs/b"]) == {"runs/a": "a", "runs/b": "b"}
    assert labels(["x/run", "y/run", "y/other"]) == {"x/run": "x/run", "y/run": "y/run", "y/other": "y/other"}
    assert labels(["openmoji-cross-intermediate"]) == {"openmoji-cross-intermediate": "openmoji-cross-intermediate"}
    with pytest.raises(InputError, match="twice"):
        labels(["a/run", "a/run/"])


def test_command_line(config: EvaluateConfig, evaluations: Evaluations, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*config.targets, "--guidance-scales", "1", "1.5", "--data", str(config.data), "--out", str(config.out)]
    command.main([*arguments, "--num-images", "4"])
    assert capsys.readouterr().out == f"{config.out / 'sweep.json'}: 4 results\n"
    assert evaluations.asked == ["early-w1.json", "early-w1.5.json", "late-w1.json", "late-w1.5.json"]
