"""What people counted: both equations by hand and as of images, cells won, and the automatic counter beside them."""

import numpy as np
import pytest
from scipy import stats
from study_simulation import RaterModel, simulate_count

from ifuvit.metrics.counting.scores import count_metrics
from ifuvit.studies.counting import (
    Counts,
    cells_won,
    count_numbers,
    counter_agreement,
    counts,
    difference,
    error_dispersion,
    group_scores,
    people_agree,
)


def table(rows: list[tuple[int, str, int, int, str, str]], models: tuple[str, ...] = ("x", "y")) -> Counts:
    """From (model, kind, asked, counted, item, rater)."""
    model, kind, asked, counted, items, raters = (np.array(column) for column in zip(*rows))
    scenes = np.array([item[1:] for item in items])
    return Counts(
        models=models, model=model, kind=kind, asked=asked, counted=counted, items=items, scenes=scenes, raters=raters
    )


BY_HAND = [
    (0, "bus", 3, 3, "x1", "r"),
    (0, "bus", 3, 5, "x1", "s"),
    (0, "bus", 3, 2, "x2", "r"),
    (0, "apple", 1, 1, "x3", "s"),
    (1, "bus", 3, 3, "y1", "r"),
    (1, "bus", 3, 4, "y2", "s"),
    (1, "apple", 1, 1, "y3", "r"),
]


def test_both_equations_by_hand() -> None:
    numbers = count_numbers(table(BY_HAND), samples=100)
    x = numbers["models"]["x"]
    assert (x["overall"]["answers"], x["overall"]["images"]) == (4, 3)
    assert x["overall"]["average_error"]["value"] == pytest.approx(3 / 4)
    assert x["overall"]["match_ratio"]["value"] == pytest.approx(2 / 4)
    assert x["by_object"]["bus"]["average_error"]["value"] == pytest.approx(1)
    assert x["by_count"]["1"]["match_ratio"]["value"] == 1
    assert x["cells"]["bus"]["3"]["match_ratio"]["value"] == pytest.approx(1 / 3)
    assert set(x["cells"]["bus"]) == {"3"}
    # Buses: 1/3 against 1/2, and 1 against 1/2 wrong; apples: both without error.
    assert numbers["cells_won"]["x"]["y"]["match_ratio"] == {"won": 0, "tied": 1, "lost": 1, "cells": 2}
    assert numbers["cells_won"]["y"]["x"]["average_error"] == {"won": 1, "tied": 1, "lost": 0, "cells": 2}
    assert numbers["differences"]["x"]["y"]["average_error"]["value"] == pytest.approx(3 / 4 - 1 / 3)
    for score, one in numbers["differences"]["x"]["y"].items():
        other = numbers["differences"]["y"]["x"][score]
        assert other["value"] == -one["value"]
        assert other["interval"] == (one["interval"] and [-one["interval"][1], -one["interval"][0]])


def test_the_same_numbers_as_of_counted_images() -> None:
    """With one rater per image the scores are those of `ifuvit evaluate`."""
    study, answers, _ = simulate_count({"x": 0.7}, raters=5, raters_per_item=1, how=RaterModel(), seed=3)
    found = counts(study, [one for one in answers if one.purpose == "rating"])
    expected = count_metrics(list(zip(found.kind.tolist(), found.asked.tolist())), found.counted.tolist())
    numbers = count_numbers(found, samples=100)["models"]["x"]
    for key in ("average_error", "match_ratio"):
        overall, cell = getattr(expected.overall, key), getattr(expected.cells["sheep"]["4"], key)
        assert numbers["overall"][key]["value"] == pytest.approx(overall.value)
        assert numbers["cells"]["sheep"]["4"][key]["value"] == pytest.approx(cell.value)
    assert list(numbers["by_count"]) == list(expected.by_count)


def test_cells_of_the_paper() -> None:
    study, answers, _ = simulate_count({"x": 0.9, "y": 0.4}, raters=4, raters_per_item=1, how=RaterModel(), seed=5)
    numbers = count_numbers(counts(study, [one for one in answers if one.purpose == "rating"]), samples=100)
    won = numbers["cells_won"]["x"]["y"]["match_ratio"]
    assert won["cells"] == won["won"] + won["tied"] + won["lost"] == 20
    assert won["won"] > 14
    back = numbers["cells_won"]["y"]["x"]["match_ratio"]
    assert (back["won"], back["tied"], back["lost"]) == (won["lost"], won["tied"], won["won"])
    assert cells_won({}, {}, "match_ratio")["cells"] == 0


def test_cells_scatter_at_least_as_all_images() -> None:
    found = table(BY_HAND)
    scatter = error_dispersion(found, found.model == 0)
    assert scatter is not None
    errors = np.array([1, 1, 0])  # of x1 (0 and 2), x2 and x3
    assert scatter.of_item == pytest.approx([errors.var(ddof=1) / errors.mean(), 0])
    assert error_dispersion(found, found.items == "x1") is None
    x = count_numbers(found, samples=100)["models"]["x"]
    assert x["cells"]["bus"]["3"]["average_error"]["interval_from"].endswith("at least as all 3 images scatter")
    assert "scatter" not in x["cells"]["bus"]["3"]["match_ratio"]["interval_from"]
    assert "scatter" not in x["by_object"]["bus"]["average_error"]["interval_from"]


def test_a_difference_takes_what_scenes_have_in_common_out() -> None:
    """If one model's image of a prompt and seed is hard, and the other's as well, their difference is surer than either."""
    rng = np.random.default_rng(0)
    rows = []
    for scene in range(80):
        hard = rng.random() < 0.5
        for model in (0, 1):
            counted = 2 + int(hard) * 3 + int(rng.random() < 0.1 * (1 + model))
            rows.append((model, "bus", 2, counted, f"{'xy'[model]}{scene}", f"r{scene % 4}"))
    found = table(rows)
    alone = group_scores(found, found.model == 0, samples=400)["average_error"]
    between = difference(found, 0, 1, samples=400)["average_error"]
    assert between["interval"][1] - between["interval"][0] < 0.5 * (alone["interval"][1] - alone["interval"][0])


def test_a_model_without_answers() -> None:
    numbers = count_numbers(table(BY_HAND[:4]), samples=100)
    assert numbers["models"]["y"]["overall"] == {
        "answers": 0,
        "images": 0,
        "average_error": None,
        "match_ratio": None,
    }
    assert numbers["differences"]["x"]["y"] == {"average_error": None, "match_ratio": None}
    assert numbers["cells_won"]["x"]["y"]["match_ratio"]["cells"] == 0


# -------------------------------------------------------------------------------------------------- automatic counter


def test_people_agree_by_hand() -> None:
    """Of 3 pairs of the first image one agrees, the only one of the second does; the third has one answer."""
    items, raters = np.array(["a"] * 3 + ["b"] * 2 + ["c"]), np.array([0, 1, 2, 0, 1, 0])
    found = people_agree(items, raters, np.array([1, 1, 2, 5, 5, 9]))
    assert found is not None
    assert found["value"] == pytest.approx(2 / 4)
    assert people_agree(np.array(["a", "b"]), np.array([0, 1]), np.array([1, 1])) is None


def test_a_counter_beside_people_by_hand() -> None:
    found = counter_agreement(table(BY_HAND), {"x1": 3, "x2": 2, "x3": 2, "y1": 3}, samples=100)
    assert found is not None
    assert found["images"] == 4
    assert found["same"]["value"] == pytest.approx(3 / 5)
    assert found["difference"]["value"] == pytest.approx((0 - 2 + 0 + 1 + 0) / 5)
    assert found["absolute_difference"]["value"] == pytest.approx(3 / 5)
    assert found["correlation"]["value"] == pytest.approx(stats.pearsonr([3, 2, 2, 3], [4, 2, 1, 3]).statistic)
    assert found["models"]["x"]["counter"]["match_ratio"]["value"] == pytest.approx(1 / 3)
    assert found["models"]["x"]["counter"]["answers"] == 3
    assert found["models"]["y"]["people"]["answers"] == 1
    assert counter_agreement(table(BY_HAND), {"elsewhere": 1}, samples=100) is None


def test_a_perfect_counter_agrees_more_with_people_than_they_with_each_other() -> None:
    study, answers, shown = simulate_count({"x": 0.7}, raters=6, raters_per_item=3, how=RaterModel(), seed=1)
    found = counts(study, [one for one in answers if one.purpose == "rating"])
    perfect = counter_agreement(found, shown, samples=100)
    off = counter_agreement(found, {item: number + 1 for item, number in shown.items()}, samples=100)
    assert perfect is not None and off is not None
    assert perfect["same"]["value"] > perfect["same_people"]["value"] > 0.8 > 0.2 > off["same"]["value"]
    assert off["difference"]["value"] == pytest.approx(perfect["difference"]["value"] + 1)
