"""The arithmetic of an experiment's table."""

from dataclasses import replace
from typing import Any, Literal

import pytest

from ifuvit.experiments import EXPERIMENTS
from ifuvit.experiments.definition import Claim, Experiment, Quantity, Setting
from ifuvit.experiments.outcome import agreed, elbow, elbows, over_seeds, student, summary, table, verdicts
from ifuvit.results import (
    Costs,
    Counts,
    CountScores,
    Estimate,
    Evaluation,
    Expected,
    ExperimentResult,
    Gflops,
    Metric,
    ObjectCounts,
    Reference,
    ReferenceData,
    Target,
    by_name,
)
from ifuvit.utils.errors import InputError

FLOOR = Reference(value=3.0, n=9, how="other images")
GFLOPS = Gflops(without_attention=0.4, with_attention=0.5)
MADE: dict[str, Any] = {"command": "evaluate", "ifuvit_version": "0.1.0", "config": {}}


def estimate(value: float) -> Estimate:
    return Estimate(value=value, interval=(value - 1, value + 1), interval_from="subsets", n=10)


def metric(name: str, value: float, better: Literal["lower", "higher"] = "lower", **facts: Any) -> Metric:
    subject = "distance" if better == "lower" else "alignment"
    return Metric(**vars(estimate(value)), name=name, subject=subject, better=better, **facts)


def result(distance: float, score: float, error: float, *, scale: float = 2.0, speed: float = 2.0) -> Evaluation:
    overall = CountScores(images=20, average_error=estimate(error))
    return Evaluation(
        **MADE,
        target=Target(name="run", kind="ifuvit", model={"conditioning": "concat", "n_text": 1, "n_image": 2}),
        protocol={"name": "quick", "sampling": {"guidance_scale": scale}},
        data=ReferenceData(where="scenes", images=9, sha256="ab"),
        metrics=(metric("FD", distance, reference=FLOOR), metric("score", score, "higher")),
        objects={"paper": ObjectCounts(counts=Counts(overall=overall, by_count={}))},
        costs=Costs(parameters=7, training_steps_per_second=speed, gflops=GFLOPS, peak_memory_gib=1.0),
    )


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
HEADLINE: dict[Quantity, str] = {"distance": "FD", "alignment": "score", "count error": "average error of counts"}


def test_one_run_keeps_its_own_interval() -> None:
    one = metric("FD", 4.0, reference=FLOOR)
    assert over_seeds([one]) is one


def test_mean_and_interval_over_seeds() -> None:
    found = over_seeds(
        [
            metric("FD", value, network={"fingerprint": "abc"}, reference=FLOOR, details=details)
            for value in (1.0, 2.0, 6.0)
            for details in [{"standard_error": value, "x100": 100 * value, "truncated": int(value), "prefix": ""}]
        ]
    )
    assert (found.value, found.n, found.values) == (pytest.approx(3.0), 3, (1.0, 2.0, 6.0))
    assert found.interval_from == "Student's t over seeds"
    # The standard deviation is sqrt(7), and Student's quantile of two degrees of freedom 4.3027.
    half = 4.30265 * (7 / 3) ** 0.5
    assert found.interval == pytest.approx((3 - half, 3 + half), rel=1e-5)
    assert (found.name, found.better, found.network, found.reference) == ("FD", "lower", {"fingerprint": "abc"}, FLOOR)
    assert found.details["x100"] == pytest.approx(300.0) and found.details["prefix"] == ""
    assert "standard_error" not in found.details  # of one evaluation, not of the mean


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_intervals_over_seeds_cover_what_they_say(seeds: int) -> None:
    import numpy as np

    rng, covered = np.random.default_rng(0), 0
    for values in rng.normal(size=(2000, seeds)):
        interval = student(values.tolist()).interval
        assert interval is not None
        covered += interval[0] <= 0 <= interval[1]
    assert 0.935 < covered / 2000 < 0.965


def test_differences_are_mirror_images() -> None:
    values = [0.1, -0.4, 0.3]
    one, other = student(values), student([-value for value in values])
    assert one.interval is not None and other.interval is not None
    assert other.value == pytest.approx(-one.value)
    assert other.interval == pytest.approx((-one.interval[1], -one.interval[0]))


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
    assert (early.name, early.setting.conditioning, early.seeds) == ("early", "concat", (1, 2))
    metrics = by_name(early.metrics)
    assert metrics["FD"].value == 12.0 and metrics["FD"].n == 2
    assert metrics["average error of counts"].value == pytest.approx(0.7)
    assert early.costs == Costs(parameters=7, training_steps_per_second=3.0, gflops=GFLOPS)
    assert late.seeds == (1,) and late.metrics[:2] == result(9, 0.5, 0.5).metrics
    assert late.setting.n_image == 2 and late.in_the_paper == (1, 4)
    assert table(EXPERIMENT, {"early": {1: []}, "late": {1: []}}) == ()


def test_table_has_a_row_for_every_guidance_scale() -> None:
    points = [result(5, 0.1, 0.1, scale=4.0), result(3, 0.1, 0.1, scale=1.0)]
    rows = table(EXPERIMENT, {"early": {1: points, 2: points[:1]}, "late": {1: [], 2: []}})
    assert [(row.guidance_scale, row.seeds) for row in rows] == [(1.0, (1,)), (4.0, (1, 2))]


def test_results_of_different_networks_do_not_stand_in_one_table() -> None:
    old, new = (
        replace(result(10, 0.2, 0.6), metrics=(metric("FD", 1.0, network={"fingerprint": one}),))
        for one in ("abc", "def")
    )
    for results in ({"early": {1: [old], 2: [new]}, "late": {}}, {"early": {1: [old]}, "late": {1: [new]}}):
        with pytest.raises(InputError, match="FD: run and run were evaluated by different versions"):
            table(EXPERIMENT, results)


def test_verdicts_compare_seed_by_seed() -> None:
    results = {
        "early": {1: [result(10, 0.2, 0.6)], 2: [result(20, 0.4, 0.8)], 3: [result(50, 0.1, 0.1)]},
        "late": {1: [result(9, 0.5, 0.5)], 2: [result(18, 0.3, 1.0)], 3: []},
    }
    nearer, aligned, counts = verdicts(EXPERIMENT, HEADLINE, results)
    assert nearer.difference.value == pytest.approx(-1.5) and nearer.difference.n == 2
    # -1 and -2: Student's interval of two values, 12.706 standard errors to each side.
    assert nearer.difference.interval == pytest.approx((-1.5 - 12.706 * 0.5, -1.5 + 12.706 * 0.5), rel=1e-4)
    assert nearer.differences == (-1, -2) and nearer.verdict == "undecided"
    assert aligned.difference.value == pytest.approx(0.1) and aligned.verdict == "undecided"
    assert counts.metric == "average error of counts" and counts.verdict == "undecided"


def test_a_verdict_is_decided_when_seeds_agree() -> None:
    """Whichever way: the mirrored claim is mirrored word for word."""
    results = {
        "early": {seed: [result(10 + seed, 0.2, 0.6)] for seed in range(3)},
        "late": {seed: [result(9 + seed + 0.1 * seed, 0.2, 0.6)] for seed in range(3)},
    }
    nearer = verdicts(EXPERIMENT, HEADLINE, results)[0]
    assert nearer.difference.value == pytest.approx(-0.9) and nearer.verdict == "holds"
    mirrored = Claim(text="farther", better="early", worse="late", by="distance")
    farther = verdicts(replace(EXPERIMENT, claims=(mirrored,)), HEADLINE, results)[0]
    assert farther.verdict == "does not hold" and farther.difference.interval is not None
    assert farther.differences == tuple(-one for one in nearer.differences)
    assert nearer.difference.interval == pytest.approx([-bound for bound in reversed(farther.difference.interval)])


def test_elbow() -> None:
    """A curve that falls steeply and then flatly bends at 4; a straight one, or one that bulges upward, nowhere."""
    bent = [(1.0, 0.1, 1.0), (2.0, 0.2, 0.8), (4.0, 0.5, 1.0), (6.0, 0.55, 3.0), (8.0, 0.6, 6.0)]
    assert elbow(bent) == elbow(bent[::-1]) == 4.0
    assert elbow([(w, w, 10 * w) for w in (1.0, 2.0, 4.0)]) is None
    assert elbow([(1.0, 0.0, 0.0), (2.0, 0.5, 0.9), (3.0, 1.0, 1.0)]) is None
    assert elbow(bent[:2]) is None and elbow([(w, 0.5, w) for w in (1.0, 2.0, 3.0)]) is None


def test_elbows_of_an_experiment_need_three_seeds_for_a_verdict() -> None:
    scales = (1.0, 4.0, 8.0)
    sweep = replace(EXPERIMENT, guidance_scales=scales, elbow=4.0)

    def curve(seed: int, bend: float = 0.0) -> list[Evaluation]:
        heights = (1.0 + seed, 1.1 + seed + bend, 9.0 + seed)
        return [result(y, x, 0.1, scale=w) for w, x, y in zip(scales, (0.1, 0.6, 0.7), heights)]

    early, late = elbows(
        sweep, HEADLINE, {"early": {s: curve(s) for s in range(3)}, "late": {s: curve(s) for s in range(2)}}
    )
    assert (early.setting, early.guidance_scale, early.by_seed, early.verdict) == ("early", 4.0, (4.0,) * 3, "holds")
    assert (late.guidance_scale, late.verdict) == (4.0, "undecided")
    flat = {s: curve(s, bend=20.0) for s in range(3)}
    (refuted,) = elbows(sweep, HEADLINE, {"early": flat, "late": {0: curve(0)[:2]}})  # a part of a curve has none
    assert (refuted.by_seed, refuted.verdict) == ((None,) * 3, "does not hold")
    assert elbows(EXPERIMENT, HEADLINE, {"early": flat, "late": {}}) == ()


def test_verdict_of_one_seed_or_none() -> None:
    results = {"early": {1: [result(10, 0.2, 0.6)]}, "late": {1: [result(9, 0.2, 0.7)]}}
    nearer, aligned, counts = verdicts(EXPERIMENT, HEADLINE, results)
    assert nearer.verdict == "undecided" and nearer.difference.interval is None and nearer.differences == ()
    assert aligned.verdict == counts.verdict == "undecided"
    assert verdicts(EXPERIMENT, {"distance": "FD"}, results) == (nearer,)
    assert verdicts(EXPERIMENT, HEADLINE, {"early": {1: []}, "late": {1: [result(9, 0.2, 0.7)]}}) == ()


def test_summary() -> None:
    results = {"early": {1: [result(10, 0.2, 0.6)]}, "late": {1: [result(9, 0.2, 0.7)]}}
    outcome = ExperimentResult(
        **{**MADE, "command": "experiment"},
        name="two",
        title="Two",
        scale="smoke",
        seeds=(1,),
        runs=(),
        headline={str(quantity): name for quantity, name in HEADLINE.items()},
        table=table(EXPERIMENT, results),
        verdicts=verdicts(EXPERIMENT, HEADLINE, results),
        expected=Expected(source="nowhere", rows={}),
    )
    text = summary(outcome)
    assert "10 [9, 11]" in text and "nearer: undecided (FD -1, 1 seed)" in text
    assert "counts: undecided (average error of counts 0.1, 1 seed)" in text
    assert "early" not in summary(replace(outcome, table=(), verdicts=()))


def test_expected_numbers_are_json() -> None:
    import json

    for experiment in EXPERIMENTS.values():
        json.dumps({name: dict(row) for name, row in experiment.expected.items()})
