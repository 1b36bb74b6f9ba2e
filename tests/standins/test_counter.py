"""Training the counter: its batches, disturbances and loss, and the scenes it reads."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ifuvit.commands.make_standin import main
from ifuvit.data.scenes import WrittenScene, draw_scene, write_scenes
from ifuvit.evaluation.networks import load_counter
from ifuvit.metrics.counting.counter_network import CELL, Maps, ObjectCounter, ObjectCounterConfig
from ifuvit.metrics.counting.scores import Detection
from ifuvit.standins.config import TrainCounterConfig
from ifuvit.standins.counter import _batch, counting_errors, detection_loss, make_targets, read_scenes, run
from ifuvit.standins.disturbances import blur, disturb
from ifuvit.utils.errors import InputError

TINY = {"steps": 3, "batch_size": 4, "width": 8, "precision": "fp32"}
SMALL = ObjectCounterConfig(kinds=("disc", "bar", "ring"), width=8)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("drawn") / "scenes", train=10, val=8)


@pytest.fixture(scope="module")
def counter(scenes, tmp_path_factory):
    return run(TrainCounterConfig(scenes=scenes, out=tmp_path_factory.mktemp("counter") / "c", **TINY))


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
    drawn = [number for step in range(5) for number in _batch(0, step, 4, 10)]
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10)) and drawn[:10] != drawn[10:]


def test_disturbed_images_stay_images():
    images = torch.rand(16, 3, 64, 64) * 2 - 1
    first = disturb(images, np.random.default_rng(5))
    assert torch.equal(first, disturb(images, np.random.default_rng(5)))
    assert first.shape == images.shape and first.abs().max() <= 1 and not torch.equal(first, images)
    flat = torch.full((1, 3, 16, 16), 0.3)
    assert torch.allclose(blur(flat, 1.0), flat, atol=1e-6)
    point = torch.zeros(1, 1, 9, 9)
    point[..., 4, 4] = 1
    spread = blur(point, 1.0)[0, 0]
    assert spread.sum() == pytest.approx(1, abs=1e-5) and torch.allclose(spread, spread.T)
    positions = torch.arange(9.0) - 4
    assert (spread.sum(0) * positions**2).sum() == pytest.approx(1, abs=0.05)  # the variance asked for


def test_read_scenes_agrees_with_the_drawing(tmp_path):
    read = read_scenes(write_scenes(tmp_path, train=1, val=8), "val", size=64)
    for index in range(8):
        scene = draw_scene(0, index, split="val")
        assert list(read[index].objects) == list(scene.objects) and read[index].relation == scene.relation
        assert np.array_equal(np.asarray(Image.open(read[index].file)), scene.image)


def test_a_counters_error_is_the_score_it_gives_to_right_images(tmp_path):
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for file in files:
        Image.new("RGB", (64, 64)).save(file)
    box = (0.0, 0.0, 8.0, 8.0)
    shown = [(("sheep",) * 2, None), (("sheep",) * 3, None), (("bus", "sheep"), "left of")]
    scenes = [
        WrittenScene(file, (64, 64), tuple((kind, box) for kind in kinds), relation, "sand", False)
        for file, (kinds, relation) in zip(files, shown)
    ]
    found = [
        [Detection("sheep", 9, 9, 1), Detection("sheep", 30, 9, 1)],
        [Detection("sheep", 9, 9, 1), Detection("cow", 30, 9, 1)],
        [Detection("bus", 9, 9, 1), Detection("sheep", 30, 9, 1)],
    ]
    counter = ObjectCounter(ObjectCounterConfig(width=8))
    counter.detect = lambda images: found  # type: ignore[method-assign]
    errors = counting_errors(counter, scenes, reconstruct=lambda images: images)
    assert list(errors) == ["clean", "blurred", "noisy", "reconstructed"]
    counts, relations = errors["blurred"].counts, errors["blurred"].relations
    assert counts.overall.right.value == 0.5 and counts.overall.average_error.value == 1
    assert counts.by_count["2"].right.value == 1 and counts.confusion.asked["3"][1] == 1
    assert relations.overall.right.value == 1 and relations.overall.right.n == 1


def test_the_counter_carries_its_error(scenes, counter):
    manifest = json.loads((counter / "manifest.json").read_text())
    assert set(manifest["errors"]) == {"clean", "blurred", "noisy"}
    for scores in manifest["errors"].values():
        assert sum(part["overall"]["images"] for part in scores.values() if part) == 8
        assert set(scores["counts"]["by_count"]) <= set("12345") and scores["counts"]["by_object"] == {}
    assert manifest["command"] == "make-standin counter" and manifest["precision"] == "fp32"
    assert manifest["config"]["steps"] == 3 and len(manifest["data"]["instances_val"]) == 64
    assert load_counter(counter).facts().errors["clean"].counts is not None


def test_the_same_command_gives_the_same_counter(scenes, counter, tmp_path):
    again = run(TrainCounterConfig(scenes=scenes, out=tmp_path / "again", **TINY))
    other = run(TrainCounterConfig(scenes=scenes, out=tmp_path / "other", **TINY, seed=1))
    first, second, third = (load_file(path / "model.safetensors") for path in (counter, again, other))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["head.0.weight"], third["head.0.weight"])


def refused(*arguments):
    with pytest.raises(InputError) as caught:
        main(["counter", *(str(argument) for argument in arguments)])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_command_prints_the_errors(scenes, tmp_path, capsys):
    flags = ["--steps", "1", "--batch-size", "2", "--width", "8", "--precision", "fp32"]
    main(["counter", "--scenes", str(scenes), "--out", str(tmp_path / "c"), *flags])
    printed = capsys.readouterr().out
    assert "clean" in printed and printed.splitlines()[-1].startswith(f"{tmp_path / 'c'}: ")


def test_mistakes_are_one_line(scenes, tmp_path):
    assert "holds no scenes" in refused("--scenes", tmp_path, "--out", tmp_path / "c")
    for flag, value in (
        ("--steps", 0),
        ("--width", 7),
        ("--learning-rate", "nan"),
        ("--seed", -1),
        ("--batch-size", 0),
    ):
        assert f"{flag} {value}: must be" in refused("--scenes", scenes, "--out", tmp_path / "c", flag, value)
    assert "something else" in refused("--scenes", scenes, "--out", scenes, "--steps", 1)


def test_scenes_of_another_size_are_refused(tmp_path):
    scenes = write_scenes(tmp_path / "s", size=32, train=1, val=1)
    assert "32 x 32" in refused("--scenes", scenes, "--out", tmp_path / "c")
