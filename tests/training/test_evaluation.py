"""Counts while training, where the reference images are OpenMoji Scenes."""

import tiny_evaluation
from tiny_training import tiny

from ifuvit import results
from ifuvit.data.scenes import write_scenes
from ifuvit.evaluation.evaluators import find_evaluator
from ifuvit.training import evaluation
from ifuvit.training.loop import train


def test_counts_and_relations_are_logged_for_scenes(tmp_path, monkeypatch):
    stubs = {"distances": tiny_evaluation.Brightness, "alignment": tiny_evaluation.Words}
    monkeypatch.setattr(evaluation, "find_evaluator", lambda name: stubs.get(name) or find_evaluator(name))
    features, _ = tiny_evaluation.write_data(tmp_path)
    scenes = write_scenes(tmp_path / "scenes", size=32, train=1, val=6)
    settings = {**tiny_evaluation.SETTINGS, "steps": 2, "evaluate_every": 2}
    run = train(tiny(features, tmp_path / "run", evaluate_data=scenes, **settings))
    record = results.read_training(run / "metrics.jsonl")
    assert record is not None
    ((step, found),) = record.evaluations
    metrics = results.by_name(found.metrics)
    assert step == 2 and {"brightness", "words", "right kind and count", "relation"} <= metrics.keys()
    assert metrics["right kind and count"].n == metrics["relation"].n == 100
    assert len(list((run / "evaluation").glob("*.png"))) == 5  # the captions'
    assert len(list((run / "evaluation" / "relations").glob("*.png"))) == 100
