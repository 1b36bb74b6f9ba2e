"""Training the counter: its batches, disturbances and loss, and the scenes it reads."""

import numpy as np
import pytest
import torch
from PIL import Image

from ifuvit.data.scenes import KINDS, draw_scene, write_scenes
from ifuvit.metrics.counting.counter_network import CELL, Maps, ObjectCounter, ObjectCounterConfig
from ifuvit.metrics.counting.scores import Detection
from ifuvit.standins import counter as counter_training
from ifuvit.standins.counter import Scenes, detection_loss, disturb, make_targets, measure, read_scenes

SMALL = ObjectCounterConfig(kinds=("disc", "bar", "ring"), width=8)


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


def test_images_without_objects_have_a_finite_loss():
    terms = detection_loss(ObjectCounter(SMALL)(torch.zeros(2, 3, 64, 64)), make_targets([[], []]))
    assert all(torch.isfinite(value) for value in terms.values()) and terms["kind"] == 0


def test_steps_pass_over_all_images_before_any_comes_again():
    drawn = [number for step in range(5) for number in counter_training._batch(0, step, 4, 10)]
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10)) and drawn[:10] != drawn[10:]


def test_disturbed_images_stay_images():
    images = torch.rand(16, 3, 64, 64) * 2 - 1
    first = disturb(images, np.random.default_rng(5))
    assert torch.equal(first, disturb(images, np.random.default_rng(5)))
    assert first.shape == images.shape and first.abs().max() <= 1 and not torch.equal(first, images)
    flat = torch.full((1, 3, 16, 16), 0.3)
    assert torch.allclose(counter_training._blur(flat, 1.0), flat, atol=1e-6)
    point = torch.zeros(1, 1, 9, 9)
    point[..., 4, 4] = 1
    spread = counter_training._blur(point, 1.0)[0, 0]
    assert spread.sum() == pytest.approx(1, abs=1e-5) and torch.allclose(spread, spread.T)
    positions = torch.arange(9.0) - 4
    assert (spread.sum(0) * positions**2).sum() == pytest.approx(1, abs=0.05)  # the variance asked for


def test_read_scenes_agrees_with_the_drawing(tmp_path):
    read = read_scenes(write_scenes(tmp_path, train=1, val=8), "val", size=64)
    for index in range(8):
        scene = draw_scene(0, index, split="val")
        assert [(KINDS[kind].name, box) for kind, box in read.objects[index]] == list(scene.objects)
        assert read.relations[index] == scene.relation
        assert np.array_equal(np.asarray(Image.open(read.files[index])), scene.image)


def test_a_counters_error_is_the_score_it_gives_to_right_images(tmp_path):
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for file in files:
        Image.new("RGB", (64, 64)).save(file)
    box = (0.0, 0.0, 8.0, 8.0)
    bus, sheep = 1, 7
    scenes = Scenes(
        files, [[(sheep, box)] * 2, [(sheep, box)] * 3, [(bus, box), (sheep, box)]], [None, None, "left of"]
    )
    found = [
        [Detection("sheep", 9, 9, 1), Detection("sheep", 30, 9, 1)],
        [Detection("sheep", 9, 9, 1), Detection("cow", 30, 9, 1)],
        [Detection("bus", 9, 9, 1), Detection("sheep", 30, 9, 1)],
    ]
    counter = ObjectCounter(ObjectCounterConfig(width=8))
    counter.detect = lambda images: found  # type: ignore[method-assign]
    errors = measure(counter, scenes, reconstruct=lambda images: images)
    assert list(errors) == ["clean", "blurred", "noisy", "reconstructed"]
    counts, relations = errors["blurred"].counts, errors["blurred"].relations
    assert counts.overall.right.value == 0.5 and counts.overall.average_error.value == 1
    assert counts.by_count["2"].right.value == 1 and counts.confusion.asked["3"][1] == 1
    assert relations.overall.right.value == 1 and relations.overall.right.n == 1
