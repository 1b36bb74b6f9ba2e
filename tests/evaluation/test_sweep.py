"""The sweep: every model at every guidance scale, once; partial files; what is done again and what is not."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from evaluation_stub import Evaluations, write_model

from ifuvit.commands import sweep as sweep_command
from ifuvit.data.scenes import write_scenes
from ifuvit.diffusion.settings import SamplingSettings
from ifuvit.evaluation import run as evaluate
from ifuvit.evaluation import sweep
from ifuvit.evaluation.sweep import SweepConfig, labels
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import read_json


@pytest.fixture
def evaluations(monkeypatch: pytest.MonkeyPatch) -> Evaluations:
    stub = Evaluations()
    monkeypatch.setattr(evaluate, "run", stub)
    return stub


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("data") / "scenes", size=32, train=1, val=4)


@pytest.fixture
def config(tmp_path: Path, data: Path) -> SweepConfig:
    models = [write_model(tmp_path / name, name) for name in ("early", "late")]
    return SweepConfig(
        targets=tuple(map(str, models)), data=data, out=tmp_path / "out", guidance_scales=(1.0, 2.5), images=4
    )


def changed(config: SweepConfig, **fields: Any) -> SweepConfig:
    return replace(config, **fields)


def test_every_model_at_every_scale(config: SweepConfig, evaluations: Evaluations) -> None:
    assert sweep.run(config) == config.out
    assert evaluations.asked == ["early-w1.json", "early-w2.5.json", "late-w1.json", "late-w2.5.json"]
    found = read_json(config.out / "sweep.json")
    assert found["command"] == "sweep" and found["complete"] is True and found["missing"] == []
    assert [(point["model"], point["guidance_scale"]) for point in found["points"]] == [
        ("early", 1.0),
        ("early", 2.5),
        ("late", 1.0),
        ("late", 2.5),
    ]
    for point in found["points"]:
        result = read_json(config.out / point["result"])
        assert result["metrics"] == point["metrics"]
        assert point["metrics"]["KID-EffNetLite0"]["value"] == point["guidance_scale"]
        assert result["config"]["metrics"] == ["distances", "alignment"]
        assert result["config"]["cache"] == str(config.out / "cache")
    assert found["protocol"]["num_images"] == 4


def test_goes_on_where_it_stopped(config: SweepConfig, evaluations: Evaluations) -> None:
    evaluations.killed_at = 3
    with pytest.raises(KeyboardInterrupt):
        sweep.run(config)
    partial = read_json(config.out / "sweep.json")
    assert partial["complete"] is False and len(partial["points"]) == 3
    assert partial["missing"] == [{"model": "late", "guidance_scale": 2.5}]
    evaluations.asked.clear()
    sweep.run(config)
    assert evaluations.asked == ["late-w2.5.json"]
    assert read_json(config.out / "sweep.json")["complete"] is True
    evaluations.asked.clear()
    sweep.run(config)
    assert evaluations.asked == []


def test_scales_and_models_may_be_added(config: SweepConfig, evaluations: Evaluations) -> None:
    sweep.run(changed(config, targets=config.targets[:1], guidance_scales=(2.5,)))
    evaluations.asked.clear()
    sweep.run(config)
    assert evaluations.asked == ["early-w1.json", "late-w1.json", "late-w2.5.json"]


def test_other_weights_protocol_or_data_are_evaluated_anew(
    config: SweepConfig, evaluations: Evaluations, tmp_path: Path
) -> None:
    config = changed(config, targets=config.targets[:1], guidance_scales=(2.0,))
    sweep.run(config)
    fewer = SamplingSettings(steps=7, guidance_scale=2.0)
    changes = (
        {},
        {"sampling": fewer},
        {"sampling": fewer, "images": 3},
        {"sampling": fewer, "images": 3, "data": write_scenes(tmp_path / "other", size=32, train=1, val=5)},
        {"sampling": fewer, "images": 3, "data": tmp_path / "other", "batch_size": 2, "device": "cpu"},
    )
    counts = []
    for change in changes:
        evaluations.asked.clear()
        sweep.run(changed(config, **change))
        counts.append(len(evaluations.asked))
    assert counts == [0, 1, 1, 1, 0]
    weights = Path(config.targets[0]) / "pipeline" / "transformer" / "model.safetensors"
    weights.write_text("trained further")
    sweep.run(changed(config, **changes[-1]))
    assert evaluations.asked == ["early-w2.json"]


def test_a_moved_sweep_is_not_done_again(config: SweepConfig, evaluations: Evaluations, tmp_path: Path) -> None:
    sweep.run(config)
    config.out.rename(tmp_path / "moved")
    evaluations.asked.clear()
    sweep.run(changed(config, out=tmp_path / "moved"))
    assert evaluations.asked == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": ()}, "no models"),
        ({"guidance_scales": ()}, "at least one"),
        ({"guidance_scales": (1.0, 2.0, 1.0)}, "1.0 is given twice"),
    ],
)
def test_impossible_requests(config: SweepConfig, change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        changed(config, **change)


def test_refuses_before_it_evaluates(config: SweepConfig, evaluations: Evaluations, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="given twice"):
        sweep.run(changed(config, targets=(*config.targets, config.targets[0])))
    with pytest.raises(InputError, match="no model 'nowhere'"):
        sweep.run(changed(config, targets=(*config.targets, "nowhere")))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="is no sweep"):
        sweep.run(changed(config, out=tmp_path / "other"))
    (tmp_path / "other" / "sweep.json").write_text("[]")
    with pytest.raises(InputError, match="is no sweep"):
        sweep.run(changed(config, out=tmp_path / "other"))
    with pytest.raises(InputError, match="must be a finite number"):
        sweep.run(changed(config, guidance_scales=(float("nan"),)))
    assert evaluations.asked == [] and not config.out.exists()


def test_labels() -> None:
    assert labels(["runs/a", "runs/b"]) == {"runs/a": "a", "runs/b": "b"}
    assert labels(["x/run", "y/run", "y/other"]) == {"x/run": "x/run", "y/run": "y/run", "y/other": "y/other"}
    assert labels(["openmoji-cross-intermediate"]) == {"openmoji-cross-intermediate": "openmoji-cross-intermediate"}
    with pytest.raises(InputError, match="twice"):
        labels(["a/run", "a/run/"])


def test_command_line(config: SweepConfig, evaluations: Evaluations, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*config.targets, "--guidance-scales", "1", "1.5", "--data", str(config.data), "--out", str(config.out)]
    sweep_command.main([*arguments, "--images", "4"])
    assert capsys.readouterr().out == f"{config.out / 'sweep.json'}: 2 models, 2 guidance scales each\n"
    assert evaluations.asked == ["early-w1.json", "early-w1.5.json", "late-w1.json", "late-w1.5.json"]
