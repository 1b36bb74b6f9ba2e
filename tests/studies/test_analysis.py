"""The whole analysis: what it holds, with and without flagged raters, and studies with little in them."""

import json
from dataclasses import replace

import pytest
from study_simulation import RaterModel, simulate_count, simulate_preference

from ifuvit.studies.analysis import analyze_study
from ifuvit.studies.tables import result_table
from ifuvit.utils.errors import InputError

pytest.importorskip("krippendorff")

STRENGTHS = {"a": 1.2, "b": 0.4, "c": -0.4}


def test_flagged_raters_cost_nothing_of_the_truth() -> None:
    """Three of nine rank without looking: with them the models seem closer to each other."""
    how = RaterModel(careless=3)
    study, answers = simulate_preference(STRENGTHS, items=30, raters=9, raters_per_item=3, how=how, seed=0, checks=6)
    result = analyze_study(study, answers, samples=100)
    assert json.loads(json.dumps(result)) == result
    assert sum(row["flagged"] for row in result["raters"]) == 3
    everyone, others = result["everyone"], result["without_flagged"]
    assert others["answers"] < everyone["answers"] == result["answers"]["answered"]
    assert others["strengths"]["a"]["value"] > everyone["strengths"]["a"]["value"] + 0.1
    alphas = [one["agreement"]["krippendorffs_alpha"]["value"] for one in (others, everyone)]
    assert alphas[0] > alphas[1]
    assert result["answers"]["expected"] == 90 == sum(
        result["answers"][status] for status in ("answered", "skipped", "cannot_tell")
    )  # fmt: skip
    text = result_table(result)
    assert "without 3 flagged raters" in text and "flagged: rater-0006" in text


def test_repeats_and_checks_are_no_ratings() -> None:
    study, answers = simulate_preference(STRENGTHS, items=12, raters=4, raters_per_item=2, how=RaterModel(), seed=0)
    numbers = analyze_study(study, answers, samples=100)["everyone"]
    spoiled = [one if one.purpose == "rating" else replace(one, ranks=(1.0, 1.0, 1.0)) for one in answers]
    assert analyze_study(study, spoiled, samples=100)["everyone"]["points"] == numbers["points"]


def test_counts_with_an_automatic_counter() -> None:
    study, answers, shown = simulate_count(
        {"x": 0.8, "y": 0.5}, raters=5, raters_per_item=2, how=RaterModel(), seed=0, images_per_prompt=2
    )
    result = analyze_study(study, answers, automatic=shown, samples=100)
    assert result["without_flagged"] is None
    assert result["everyone"]["counter"]["images"] == 80
    assert result["everyone"]["agreement"]["krippendorffs_alpha"]["value"] > 0.5
    text = result_table(result)
    assert "of 20 cells" in text and "no rater is flagged: nobody of the 5" in text
    assert analyze_study(study, answers, samples=100)["everyone"]["counter"] is None


def test_little_to_analyze() -> None:
    study, answers = simulate_preference(STRENGTHS, items=4, raters=2, raters_per_item=1, how=RaterModel(), seed=0)
    with pytest.raises(InputError, match="nobody has answered anything yet"):
        analyze_study(study, [])
    checks = [one for one in answers if one.purpose == "check"]
    with pytest.raises(InputError, match="nobody"):
        analyze_study(study, checks)
    first = next(one for one in answers if one.status == "answered")
    result = analyze_study(study, [first], samples=100)
    assert result["everyone"]["agreement"] == dict.fromkeys(("kendalls_w", "rank_correlation", "krippendorffs_alpha"))
    text = result_table(result)
    assert "1 answers of 4" in text and "fewer than 30 answers" in text
    assert "nobody has done an attention check" in text and "everybody" not in text


def test_if_everybody_is_flagged() -> None:
    study, answers = simulate_preference(STRENGTHS, items=4, raters=2, raters_per_item=1, how=RaterModel(), seed=0)
    failed = [replace(one, ranks=(1.0, 1.0, 1.0)) if one.purpose == "check" else one for one in answers]
    result = analyze_study(study, failed, samples=100)
    assert all(row["flagged"] for row in result["raters"]) and result["without_flagged"] is None
    assert "flagged: rater-0001, 0 of 3" in result_table(result)
