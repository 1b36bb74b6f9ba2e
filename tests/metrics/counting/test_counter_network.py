"""The counter's network: it finds what it learned, and its decoding is right on planted maps."""

import numpy as np
import pytest
import torch
from PIL import Image

from ifuvit.data.scenes import KIND_INDEX, draw_scene
from ifuvit.metrics.counting.counter_network import CELL, Maps, ObjectCounter, ObjectCounterConfig, read_squares
from ifuvit.metrics.counting.scores import counts
from ifuvit.standins.counter import detection_loss, make_targets
from ifuvit.utils.errors import InputError

SMALL = ObjectCounterConfig(kinds=("disc", "bar", "ring"), width=8)


def plant(counter, objects, *, cells=16, score=0.9):
    """Make the network answer with exactly these (image, kind number, x, y), two images."""
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


def test_half_precision_is_read_back(tmp_path):
    counter = ObjectCounter(SMALL).half().float()
    counter.save_pretrained(tmp_path / "half", dtype=torch.float16)
    counter.save_pretrained(tmp_path / "full")
    half, full = (ObjectCounter.from_pretrained(tmp_path / name) for name in ("half", "full"))
    assert all(torch.equal(value, full.state_dict()[name]) for name, value in half.state_dict().items())
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("half", "full")]
    assert sizes[0] < 0.7 * sizes[1]


def test_images_of_other_sizes_become_squares(tmp_path):
    Image.new("RGB", (64, 64), (1, 2, 3)).save(tmp_path / "a.png")
    Image.new("RGB", (100, 50), (1, 2, 3)).save(tmp_path / "b.png")
    squares = read_squares([tmp_path / "a.png", tmp_path / "b.png"], 64)
    assert squares.shape == (2, 64, 64, 3) and (squares == (1, 2, 3)).all()
