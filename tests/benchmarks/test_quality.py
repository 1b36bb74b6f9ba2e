"""Learning curves from the logs of runs: minutes without pauses, marks between evaluations, and what is refused."""

import json
from pathlib import Path

import pytest

from ifuvit import results
from ifuvit.benchmarks.quality import minutes_to
from ifuvit.results import LearningPoint, Metric, TrainingEvaluation
from ifuvit.utils.config import to_dict
from ifuvit.utils.errors import InputError


def share(name: str, value: float) -> Metric:
    return Metric(value=value, n=100, name=name, subject="counts", unit="share", better="higher")


def write_run(directory: Path, curve: list[tuple[int, float, float]]) -> Path:
    """A run of 10 steps a second up to step 600, and 5 from there on, with a line every 100 steps."""
    directory.mkdir(parents=True)
    lines = []
    for step in range(100, curve[-1][0] + 1, 100):
        lines.append({"step": step, "loss": 1.0, "steps_per_second": 10.0 if step <= 600 else 5.0})
        for at, counts, relations in curve:
            if at == step:
                metrics = (share("right kind and count", counts), share("relation", relations))
                told = TrainingEvaluation(images=9, guidance_scale=2.0, steps=2, metrics=metrics)
                lines.append({"step": step, "evaluation": to_dict(told)})
    (directory / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    (directory / "config.json").write_text(json.dumps({"config": {"recipe": {"optimizer": {"name": "muon"}}}}))
    return directory


def test_minutes_to_each_mark(tmp_path, ifuvit):
    fast = write_run(tmp_path / "fast", [(600, 0.5, 0.1), (1200, 0.85, 0.6), (1800, 0.97, 0.7)])
    slow = write_run(tmp_path / "slow", [(600, 0.2, 0.0), (1200, 0.4, 0.1)])
    out = tmp_path / "quality.json"
    told = ifuvit("bench", "quality", fast, slow, "--out", out)
    assert "minutes of training to" in told.out and "counts 97 %, relations 70 % after 5.0" in told.out
    one, other = results.from_file(out, results.LearningCurves).curves
    assert (one.name, one.recipe) == ("fast", {"optimizer": {"name": "muon"}})
    assert [point.minutes for point in one.points] == pytest.approx([1, 3, 5])  # 600 steps a minute, then 300
    assert one.minutes_to["counts"] == pytest.approx(
        {"0.8": 1 + 2 * 0.3 / 0.35, "0.9": 3 + 2 * 0.05 / 0.12, "0.95": 3 + 2 * 0.1 / 0.12}
    )
    assert one.minutes_to["relations"] == {"0.5": pytest.approx(1 + 2 * 0.4 / 0.5), "0.8": None, "0.9": None}
    assert set(other.minutes_to["counts"].values()) == {None}
    assert "<svg" in out.with_suffix(".svg").read_text()


def test_a_mark_that_the_first_evaluation_has():
    point = LearningPoint(step=1, minutes=2.0, counts=share("right kind and count", 0.9))
    assert minutes_to([point], "counts", 0.8) == 2.0 and minutes_to([point], "relations", 0.5) is None


def test_runs_without_counts_are_refused(tmp_path, refusal):
    (tmp_path / "run").mkdir()
    assert "holds no run of `ifuvit train`" in refusal(
        "bench", "quality", tmp_path / "run", "--out", tmp_path / "q.json"
    )
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n')
    assert "--evaluate-every N" in refusal("bench", "quality", tmp_path / "run", "--out", tmp_path / "q.json")
    assert "no RUN" in refusal("bench", "quality", "--out", tmp_path / "q.json")


def test_a_log_without_speeds_has_no_minutes(tmp_path):
    log = tmp_path / "metrics.jsonl"
    log.write_text('{"step": 1, "loss": 0.5}\n')
    record = results.read_training(log)
    assert record is not None
    with pytest.raises(InputError, match="no steps_per_second"):
        record.seconds_at(1)


@pytest.mark.parametrize(
    ("file", "content", "what"),
    [
        ("config.json", "[]", "config.json: holds a list"),
        ("config.json", '{"config": []}', "config.json: 'config' holds a list"),
        ("config.json", '{"config": {"recipe": [1]}}', "config.json: 'recipe' holds a list"),
        ("manifest.json", "[]", "manifest.json: holds a list"),
        ("manifest.json", '{"machine": 3}', "manifest.json: 'machine' holds a int"),
        ("metrics.jsonl", '{"step": 9, "loss": 1}\n{"step": 8, "loss": 1}\n', "line 2: step 8 comes after step 9"),
        ("metrics.jsonl", '{"step": -1, "loss": 1}\n', "line 1: step -1 comes after step 0"),
    ],
)
def test_damaged_runs_are_one_line_and_leave_no_result(tmp_path, refusal, file, content, what):
    run = write_run(tmp_path / "run", [(600, 0.5, 0.1)])
    (run / file).write_text(content)
    assert what in refusal("bench", "quality", run, "--out", tmp_path / "q.json")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_run_counts_once_and_the_plot_is_not_the_result(tmp_path, refusal):
    run = write_run(tmp_path / "run", [(600, 0.5, 0.1)])
    (tmp_path / "link").symlink_to(run)
    assert "link is given twice" in refusal("bench", "quality", run, tmp_path / "link", "--out", tmp_path / "q.json")
    assert "q.svg: is the result, which is JSON" in refusal("bench", "quality", run, "--out", tmp_path / "q.svg")
    assert "q.svg: is the result, which is JSON" in refusal("bench", "scaling", "--out", tmp_path / "q.svg")
