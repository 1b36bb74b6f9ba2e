"""The counter finds what it learned, its decoding is right on planted maps, and the scores agree with hand counts."""

import numpy as np
import pytest
import torch

from ifuvit.data.scenes import KIND_INDEX, KINDS, draw_scene, prompt_for, relation_prompt_for
from ifuvit.errors import InputError
from ifuvit.metrics.object_count import (
    CELL,
    Asked,
    AskedRelation,
    Detection,
    Maps,
    ObjectCounter,
    ObjectCounterConfig,
    count_metrics,
    counts,
    detection_loss,
    make_targets,
    parse_prompt,
    relation_holds,
    relation_of,
    scene_scores,
)

SMALL = ObjectCounterConfig(kinds=("disc", "bar", "ring"), width=8)


def plant(counter, objects, *, cells=16, score=0.9):
    """Make the network answer with exactly these (image, kind number, x, y), two pictures."""
    center = torch.full((2, cells, cells), -6.0)
    offset = torch.zeros(2, 2, cells, cells)
    kind = torch.zeros(2, len(counter.config.kinds), cells, cells)
    for image, number, x, y in objects:
        column, row = int(x // CELL), int(y // CELL)
        center[image, row, column] = torch.logit(torch.tensor(score))
        offset[image, :, row, column] = torch.tensor([x / CELL - column - 0.5, y / CELL - row - 0.5])
        kind[image, number, row, column] = 5.0
    counter.forward = lambda images: Maps(center, offset, kind)
    return center


def test_planted_centers_are_found_at_their_place():
    counter = ObjectCounter(SMALL)
    plant(counter, [(0, 1, 10.5, 20.25), (0, 1, 40.0, 20.0), (0, 2, 63.0, 1.0)])
    first, second = counter.detect(torch.zeros(2, 3, 64, 64))
    assert second == []
    found = sorted((one.kind, round(one.x, 3), round(one.y, 3)) for one in first)
    assert found == [("bar", 10.5, 20.25), ("bar", 40.0, 20.0), ("ring", 63.0, 1.0)]
    assert all(one.score == pytest.approx(0.9, abs=1e-4) for one in first)
    assert counts(first) == {"bar": 2, "ring": 1}
    assert counter.detect(torch.zeros(2, 3, 64, 64), threshold=0.95) == [[], []]


def test_an_object_on_the_border_of_cells_counts_once_and_close_neighbors_twice():
    counter = ObjectCounter(SMALL)
    # Equal scores in two adjacent cells that both point at x = 12: one object.
    center = plant(counter, [(0, 0, 11.99, 30.0), (0, 0, 12.0, 30.0)])
    assert (center[0] > 0).sum() == 2
    assert len(counter.detect(torch.zeros(2, 3, 64, 64))[0]) == 1
    # The closest that scenes have: 9 pixels apart.
    plant(counter, [(0, 0, 11.0, 30.0), (0, 1, 20.0, 30.0), (0, 2, 11.0, 39.0)])
    assert len(counter.detect(torch.zeros(2, 3, 64, 64))[0]) == 3


def test_detect_refuses_other_shapes_and_keeps_the_mode():
    counter = ObjectCounter(SMALL).train()
    with pytest.raises(InputError, match=r"\(1, 3, 32, 32\)"):
        counter.detect(torch.zeros(1, 3, 32, 32))
    before = counter.stem[1][1].running_mean.clone()
    counter.detect(torch.randn(2, 3, 64, 64))
    assert counter.training and torch.equal(before, counter.stem[1][1].running_mean)


def test_the_loss_is_least_at_the_truth():
    objects = [[(1, (6.0, 12.0, 9.0, 16.0)), (2, (40.0, 12.0, 14.0, 14.0))], []]
    targets = make_targets(objects)
    assert targets.centers[0].tolist() == [[10.5, 20.0], [47.0, 19.0]] and targets.kinds[0].tolist() == [1, 2]
    rows, columns = np.mgrid[:16, :16] + 0.5
    center = torch.full((2, 16, 16), -12.0)
    offset, kind = torch.zeros(2, 2, 16, 16), torch.zeros(2, 3, 16, 16)
    for number, x, y in ((1, 10.5, 20.0), (2, 47.0, 19.0)):
        dx, dy = x / CELL - columns, y / CELL - rows
        square = dx**2 + dy**2
        assert (square <= 0.75**2).any()  # wherever a center is, a cell is near enough
        center[0][torch.from_numpy(square <= 0.75**2)] = 12.0
        near = torch.from_numpy(square <= 2.25)
        offset[0, 0][near] = torch.from_numpy(dx).float()[near]
        offset[0, 1][near] = torch.from_numpy(dy).float()[near]
        kind[0, number][near] = 20.0
    right = detection_loss(Maps(center, offset, kind), targets)
    assert all(value < 1e-4 for value in right.values())
    assert detection_loss(Maps(-center, offset, kind), targets)["center"] > 1
    assert detection_loss(Maps(center, offset + 0.5, kind), targets)["offset"].item() == pytest.approx(1, abs=1e-4)
    assert detection_loss(Maps(center, offset, kind.roll(1, dims=1)), targets)["kind"] > 10


def test_pictures_without_objects_have_a_finite_loss():
    terms = detection_loss(ObjectCounter(SMALL)(torch.zeros(2, 3, 64, 64)), make_targets([[], []]))
    assert all(torch.isfinite(value) for value in terms.values()) and terms["kind"] == 0


def test_it_learns_a_handful_of_scenes(tmp_path):
    torch.manual_seed(0)
    scenes = [draw_scene(3, index, split="train") for index in range(6)]
    images = torch.from_numpy(np.stack([scene.image for scene in scenes])).permute(0, 3, 1, 2).float() / 127.5 - 1
    targets = make_targets([[(KIND_INDEX[kind], box) for kind, box in scene.objects] for scene in scenes])
    counter = ObjectCounter(ObjectCounterConfig(width=16))
    optimizer = torch.optim.AdamW(counter.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        sum(detection_loss(counter(images), targets).values()).backward()
        optimizer.step()
    # A fixed batch: its own statistics are settled only after many steps of momentum.
    for _ in range(40):
        counter(images)
    found = counter.detect(images)
    for scene, objects in zip(scenes, found):
        assert sorted(one.kind for one in objects) == sorted(kind for kind, _ in scene.objects)
        for kind, (x, y, w, h) in scene.objects:
            assert any(
                one.kind == kind and abs(one.x - x - w / 2) < 2 and abs(one.y - y - h / 2) < 2 for one in objects
            )
    counter.save_pretrained(tmp_path)
    again = ObjectCounter.from_pretrained(tmp_path)
    assert again.config == counter.config and again.detect(images) == found


def test_damaged_counters_are_named(tmp_path):
    with pytest.raises(InputError, match="holds no object counter"):
        ObjectCounter.from_pretrained(tmp_path)
    ObjectCounter(SMALL).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"width": 16}')
    with pytest.raises(InputError, match="has shape"):
        ObjectCounter.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(InputError, match="configuration"):
        ObjectCounter.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "values", [{"kinds": ()}, {"kinds": ("a", "a")}, {"image_size": 60}, {"width": 4}, {"threshold": 1.0}]
)
def test_impossible_networks_are_refused(values):
    with pytest.raises(InputError):
        ObjectCounterConfig(**values)


def test_prompts_are_read_back():
    for kind in KINDS:
        for count in range(1, 6):
            assert parse_prompt(prompt_for(kind.name, count)) == Asked(kind.name, count)
    assert parse_prompt("  Three   SHEEP ") == Asked("sheep", 3)
    assert parse_prompt("a sheep") == Asked("sheep", 1)
    assert parse_prompt("four people") == Asked("person", 4)
    assert parse_prompt(relation_prompt_for("bus", "left of", "apple")) == AskedRelation("bus", "left of", "apple")
    for other in ("six sheep", "three sheep on grass", "two bus", "a bus left of a bus", "a dog", ""):
        assert parse_prompt(other) is None


def test_relations():
    assert relation_holds("left of", (10, 30), (50, 35)) and relation_holds("right of", (50, 35), (10, 30))
    assert relation_holds("above", (30, 10), (35, 50)) and relation_holds("below", (35, 50), (30, 10))
    assert not relation_holds("left of", (50, 30), (10, 30))
    assert not relation_holds("left of", (10, 10), (20, 50))  # more above than left
    assert not any(relation_holds(relation, (9, 9), (9, 9)) for relation in ("left of", "right of", "above", "below"))
    objects = [Detection("bus", 50, 30, 0.9), Detection("apple", 10, 30, 0.8), Detection("bus", 1, 30, 0.6)]
    assert relation_of(objects, "bus", "right of", "apple") and not relation_of(objects, "bus", "left of", "apple")
    assert not relation_of(objects, "bus", "right of", "cow")


def test_count_metrics_by_hand():
    asked = [("bus", 3), ("bus", 1), ("sheep", 3), ("sheep", 5)]
    metrics = count_metrics(asked, [3, 2, 0, 5])
    assert metrics["overall"] == {"pictures": 4, "average_error": 1.0, "match_ratio": 0.5}
    assert metrics["by_count"] == {
        "1": {"pictures": 1, "average_error": 1.0, "match_ratio": 0.0},
        "3": {"pictures": 2, "average_error": 1.5, "match_ratio": 0.5},
        "5": {"pictures": 1, "average_error": 0.0, "match_ratio": 1.0},
    }
    assert metrics["by_object"]["bus"] == {"pictures": 2, "average_error": 0.5, "match_ratio": 0.5}
    assert metrics["by_object"]["sheep"] == {"pictures": 2, "average_error": 1.5, "match_ratio": 0.5}
    assert count_metrics([], [])["overall"] == {"pictures": 0, "average_error": None, "match_ratio": None}
    with pytest.raises(InputError, match="2 counted"):
        count_metrics([("bus", 1)], [1, 2])


def test_scene_scores_by_hand():
    def objects(*kinds):
        return [Detection(kind, 10.0 * place, 5.0, 1.0) for place, kind in enumerate(kinds)]

    related = {"first": "bus", "relation": "left of", "second": "apple"}
    scores = scene_scores(
        [["bus"] * 2, ["bus"] * 2, ["cow"], ["bus", "apple"], ["bus", "apple"], ["bus", "apple"]],
        [
            objects("bus", "bus"),
            objects("bus", "cow"),
            objects("cow", "bus"),
            objects("bus", "apple"),
            objects("apple", "bus"),
            objects("bus"),
        ],
        [None, None, None, related, related, related],
    )
    assert scores["pictures"] == 6 and scores["exact"] == pytest.approx(3 / 6)
    assert scores["single"]["exact"] == pytest.approx(1 / 3)
    # "cow, bus" where a cow was: the cows are counted right, the picture is not exact.
    assert scores["single"]["match_ratio"] == pytest.approx(2 / 3)
    assert scores["single"]["by_count"]["1"] == {
        "pictures": 1,
        "average_error": 0.0,
        "match_ratio": 1.0,
        "exact": 0.0,
    }
    assert scores["relations"] == {
        "pictures": 3,
        "exact": pytest.approx(2 / 3),
        "relation": pytest.approx(1 / 3),
    }
