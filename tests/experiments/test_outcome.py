"""The arithmetic of an experiment's table."""

from typing import Any

import pytest

from ifuvit.experiments import EXPERIMENTS
from ifuvit.experiments.definition import Claim, Experiment, Setting
from ifuvit.experiments.outcome import agreed, over_seeds, summary, table, verdicts
from ifuvit.utils.errors import InputError


def number(value: float, **facts: Any) -> dict[str, Any]:
    return {"value": value, "interval": [value - 1, value + 1], "interval_from": "subsets", "n": 10, **facts}


def result(distance: float, score: float, error: float, *, scale: float = 2.0, speed: float = 2.0) -> dict[str, Any]:
    return {
        "target": {"name": "run", "setting": {"n_text": 1, "n_image": 2}},
        "protocol": {"sampling": {"guidance_scale": scale}},
        "metrics": {"FD": number(distance, floor={"value": 3.0, "n": 9, "how": "train"}), "score": number(score)},
        "counts": {"overall": {"average_error": number(error), "images": 20}},
        "costs": {
            "parameters": 7,
            "training_steps_per_second": speed,
            "gflops": {"with_attention": 0.5},
            "peak_memory_gib": 1.0,
        },
    }


EXPERIMENT = Experiment(
    name="two",
    title="Two",
    settings=(
        Setting(name="early", conditioning="concat", n_text=0, n_image=0),
        Setting(name="late", conditioning="concat", n_text=1, n_image=4),
    ),
    source="nowhere",
    expected={},
    claims=(
        Claim(text="nearer", better="late", worse="early", by="distance"),
        Claim(text="better aligned", better="late", worse="early", by="alignment"),
        Claim(text="counts", better="late", worse="early", by="count error"),
    ),
)
HEADLINE = {"distance": "FD", "alignment": "score", "count error": "average error of counts"}


def test_one_run_keeps_its_own_interval() -> None:
    assert over_seeds([number(4.0, floor=1)]) == number(4.0, floor=1)


def test_mean_and_interval_over_seeds() -> None:
    same = {"network": "abc", "floor": {"value": 3.0, "n": 9, "how": "other images"}}
    values = (1.0, 2.0, 6.0)
    found = over_seeds(
        [number(v, **same, **{"standard_error": v, "x100": 100 * v, "truncated": int(v)}) for v in values]
    )
    assert found["value"] == pytest.approx(3.0) and found["n"] == 3 and found["values"] == [1.0, 2.0, 6.0]
    assert found["interval_from"] == "bootstrap over seeds"
    low, high = found["interval"]
    assert 1.0 <= low < 3.0 < high <= 6.0
    assert found["network"] == "abc" and found["floor"] == same["floor"]
    assert found["x100"] == pytest.approx(300.0)
    assert "standard_error" not in found  # of one evaluation, not of the mean


def test_agreed() -> None:
    facts = [{"a": 1, "b": {"c": 2.0, "d": "x"}, "e": None, "f": "p", "g": True}, {"a": 1, "b": {"c": 4.0, "d": "x"}}]
    assert agreed(facts) == {"a": 1, "b": {"c": 3.0, "d": "x"}, "e": None}
    assert agreed([{"e": None}, {"e": 2.0}]) == {}
    assert agreed([{"g": True}, {"g": False}]) == {}


def test_table() -> None:
    results = {
        "early": {1: [result(10, 0.2, 0.6)], 2: [result(14, 0.4, 0.8, speed=4.0)]},
        "late": {1: [result(9, 0.5, 0.5)], 2: []},
    }
    early, late = table(EXPERIMENT, results)
    assert (early["setting"], early["conditioning"], early["seeds"]) == ("early", "concat", [1, 2])
    assert early["metrics"]["FD"]["value"] == 12.0 and early["metrics"]["FD"]["n"] == 2
    assert early["metrics"]["average error of counts"]["value"] == pytest.approx(0.7)
    assert early["costs"] == {
        "parameters": 7,
        "training_steps_per_second": 3.0,
        "gflops": {"with_attention": 0.5},
    }
    assert late["seeds"] == [1] and late["metrics"]["FD"] == result(9, 0.5, 0.5)["metrics"]["FD"]
    assert late["n_image"] == 2 and late["in_the_paper"] == [1, 4]
    assert table(EXPERIMENT, {"early": {1: []}, "late": {1: []}}) == []


def test_table_has_a_row_for_every_guidance_scale() -> None:
    points = [result(5, 0.1, 0.1, scale=4.0), result(3, 0.1, 0.1, scale=1.0)]
    rows = table(EXPERIMENT, {"early": {1: points, 2: points[:1]}, "late": {1: [], 2: []}})
    assert [(row["guidance_scale"], row["seeds"]) for row in rows] == [(1.0, [1]), (4.0, [1, 2])]


def test_results_of_different_networks_do_not_stand_in_one_table() -> None:
    old, new = result(10, 0.2, 0.6), result(9, 0.2, 0.6)
    old["metrics"]["FD"]["network"], new["metrics"]["FD"]["network"] = "abc", "def"
    for results in ({"early": {1: [old], 2: [new]}, "late": {}}, {"early": {1: [old]}, "late": {1: [new]}}):
        with pytest.raises(InputError, match="FD: run and run were judged by different versions"):
            table(EXPERIMENT, results)


def test_verdicts_compare_seed_by_seed() -> None:
    results = {
        "early": {1: [result(10, 0.2, 0.6)], 2: [result(20, 0.4, 0.8)], 3: [result(50, 0.1, 0.1)]},
        "late": {1: [result(9, 0.5, 0.5)], 2: [result(18, 0.3, 1.0)], 3: []},
    }
    nearer, aligned, counts = verdicts(EXPERIMENT, HEADLINE, results)
    assert nearer["difference"]["value"] == pytest.approx(-1.5) and nearer["difference"]["n"] == 2
    # -1 and -2: Student's interval of two values, 12.706 standard errors to each side.
    assert nearer["difference"]["interval"] == pytest.approx([-1.5 - 12.706 * 0.5, -1.5 + 12.706 * 0.5], rel=1e-4)
    assert nearer["holds"] and nearer["clear"] is False
    assert aligned["difference"]["value"] == pytest.approx(0.1) and aligned["holds"] and not aligned["clear"]
    assert counts["metric"] == "average error of counts" and not counts["holds"] and counts["clear"] is False


def test_a_verdict_is_clear_when_seeds_agree() -> None:
    results = {
        "early": {seed: [result(10 + seed, 0.2, 0.6)] for seed in range(3)},
        "late": {seed: [result(9 + seed + 0.1 * seed, 0.2, 0.6)] for seed in range(3)},
    }
    nearer = verdicts(EXPERIMENT, HEADLINE, results)[0]
    assert nearer["difference"]["value"] == pytest.approx(-0.9) and nearer["holds"] and nearer["clear"] is True


def test_verdict_of_one_seed_or_none() -> None:
    results = {"early": {1: [result(10, 0.2, 0.6)]}, "late": {1: [result(9, 0.2, 0.7)]}}
    nearer, aligned, counts = verdicts(EXPERIMENT, HEADLINE, results)
    assert nearer["holds"] and nearer["clear"] is None and nearer["difference"]["interval"] is None
    assert not aligned["holds"]  # equal is not better
    assert not counts["holds"]
    assert verdicts(EXPERIMENT, {"distance": "FD"}, results) == [nearer]
    assert verdicts(EXPERIMENT, HEADLINE, {"early": {1: []}, "late": {1: [result(9, 0.2, 0.7)]}}) == []


def test_summary() -> None:
    results = {"early": {1: [result(10, 0.2, 0.6)]}, "late": {1: [result(9, 0.2, 0.7)]}}
    outcome = {
        "headline": HEADLINE,
        "table": table(EXPERIMENT, results),
        "claims": verdicts(EXPERIMENT, HEADLINE, results),
    }
    text = summary(outcome)
    assert "10 [9, 11]" in text and "nearer: yes, in one seed (FD -1)" in text
    assert "counts: no, in one seed (average error of counts 0.1)" in text
    assert "early" not in summary({**outcome, "table": [], "claims": []})


def test_expected_numbers_are_json() -> None:
    import json

    for experiment in EXPERIMENTS.values():
        json.dumps({name: dict(row) for name, row in experiment.expected.items()})
