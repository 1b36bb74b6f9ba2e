"""`ifuvit count`: a counter trains, tells its error, and judges generated pictures as a person would by hand."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ifuvit import count as verb
from ifuvit.count import CountTrainConfig, disturb, read_scenes, result_table, score
from ifuvit.data.scenes import prompt_for, relation_prompt_for, write_scenes
from ifuvit.errors import InputError
from ifuvit.metrics.object_count import Detection, ObjectCounter, ObjectCounterConfig

TINY = {"steps": 3, "batch_size": 4, "width": 8, "precision": "fp32"}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("drawn") / "scenes", train=10, val=8)


@pytest.fixture(scope="module")
def counter(scenes, tmp_path_factory):
    return verb.run(CountTrainConfig(scenes=scenes, out=tmp_path_factory.mktemp("counter") / "c", **TINY))


@pytest.fixture
def pictures(tmp_path):
    """As `ifuvit generate` leaves them."""
    folder = tmp_path / "generated"
    folder.mkdir()
    prompts = ["three sheep", "a bus left of an apple", "an astronaut on a horse"]
    images = []
    for index, prompt in enumerate(prompts):
        name = f"{index:04d}.png"
        # One of another size: it is resized.
        Image.new("RGB", (128, 128) if index else (64, 64), (120, 200, 90)).save(folder / name)
        images.append({"file": name, "prompt": prompt, "index": index})
    (folder / "manifest.json").write_text(json.dumps({"verb": "generate", "images": images}))
    return folder


def test_the_counter_carries_its_error(scenes, counter):
    manifest = json.loads((counter / "manifest.json").read_text())
    assert set(manifest["errors"]) == {"clean", "blurred", "noisy"}
    for scores in manifest["errors"].values():
        assert scores["pictures"] == 8
        assert scores["single"]["pictures"] + scores["relations"]["pictures"] == 8
        assert set(scores["single"]["by_count"]) <= set("12345")
    assert manifest["verb"] == "count train" and manifest["precision"] == "fp32"
    assert manifest["config"]["steps"] == 3 and len(manifest["data"]["instances_val"]) == 64
    assert isinstance(ObjectCounter.from_pretrained(counter), ObjectCounter)


def test_the_same_command_gives_the_same_counter(scenes, counter, tmp_path):
    again = verb.run(CountTrainConfig(scenes=scenes, out=tmp_path / "again", **TINY))
    other = verb.run(CountTrainConfig(scenes=scenes, out=tmp_path / "other", **TINY, seed=1))
    first, second, third = (load_file(path / "model.safetensors") for path in (counter, again, other))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["head.0.weight"], third["head.0.weight"])


def test_steps_pass_over_all_pictures_before_any_comes_again():
    drawn = [number for step in range(5) for number in verb._batch(0, step, 4, 10)]
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10)) and drawn[:10] != drawn[10:]


def test_disturbed_pictures_stay_pictures():
    images = torch.rand(16, 3, 64, 64) * 2 - 1
    first = disturb(images, np.random.default_rng(5))
    assert torch.equal(first, disturb(images, np.random.default_rng(5)))
    assert first.shape == images.shape and first.abs().max() <= 1 and not torch.equal(first, images)
    flat = torch.full((1, 3, 16, 16), 0.3)
    assert torch.allclose(verb._blur(flat, 1.0), flat, atol=1e-6)
    point = torch.zeros(1, 1, 9, 9)
    point[..., 4, 4] = 1
    spread = verb._blur(point, 1.0)[0, 0]
    assert spread.sum() == pytest.approx(1, abs=1e-5) and torch.allclose(spread, spread.T)
    positions = torch.arange(9.0) - 4
    assert (spread.sum(0) * positions**2).sum() == pytest.approx(1, abs=0.05)  # the variance asked for


def test_read_scenes_agrees_with_the_drawing(scenes):
    from ifuvit.data.scenes import KINDS, draw_scene

    read = read_scenes(scenes, "val", size=64)
    for index in range(8):
        scene = draw_scene(0, index, split="val")
        assert [(KINDS[kind].name, box) for kind, box in read.objects[index]] == list(scene.objects)
        assert read.relations[index] == scene.relation
        assert np.array_equal(np.asarray(Image.open(read.files[index])), scene.image)


def test_judge_writes_every_picture_and_the_counters_error(counter, pictures, tmp_path, capsys):
    out = tmp_path / "result.json"
    verb.main(["judge", str(pictures), "--counter", str(counter), "--out", str(out)])
    result = json.loads(out.read_text())
    assert result["pictures"] == 3 and result["judged"] == 2
    assert result["not_judged"] == [{"file": "0002.png", "prompt": "an astronaut on a horse"}]
    assert [one["file"] for one in result["judgments"]] == ["0000.png", "0001.png"]
    assert result["counter"]["errors"] == json.loads((counter / "manifest.json").read_text())["errors"]
    printed = capsys.readouterr().out
    assert "2 of 3 pictures judged" in printed and "'an astronaut on a horse'" in printed and str(out) in printed


def test_scores_by_hand():
    def found(*objects):
        return [Detection(kind, x, 30.0, 0.9) for kind, x in objects]

    listed = [
        ("0.png", prompt_for("sheep", 2)),
        ("1.png", prompt_for("sheep", 2)),
        ("2.png", prompt_for("sheep", 3)),
        ("3.png", prompt_for("bus", 1)),
        ("4.png", "what a day"),
        ("5.png", relation_prompt_for("bus", "left of", "apple")),
        ("6.png", relation_prompt_for("bus", "left of", "apple")),
        ("7.png", relation_prompt_for("bus", "left of", "apple")),
        ("8.png", relation_prompt_for("bus", "left of", "apple")),
    ]
    objects = [
        found(("sheep", 10), ("sheep", 40)),  # right
        found(("sheep", 10), ("cow", 40)),  # right number of objects, one of another kind
        found(("sheep", 10), ("sheep", 25), ("sheep", 40), ("cow", 55)),  # three sheep, and a cow
        found(),  # nothing
        found(("bus", 5)),
        found(("bus", 10), ("apple", 50)),  # right
        found(("bus", 50), ("apple", 10)),  # wrong way round
        found(("bus", 10), ("apple", 50), ("apple", 30)),  # one too many
        found(("bus", 10)),  # no apple
    ]
    result = score(listed, objects)
    assert result["judged"] == 8 and [one["file"] for one in result["not_judged"]] == ["4.png"]
    overall = result["counts"]["overall"]
    assert overall["pictures"] == 4
    means = {name: value["mean"] for name, value in overall.items() if name != "pictures"}
    assert means == {
        "right_kind": 0.25,  # an empty picture has no right kind
        "right_count": 0.5,
        "right": 0.25,
        "average_error": (0 + 1 + 0 + 1) / 4,
        "match_ratio": 0.5,
    }
    low, high = overall["match_ratio"]["interval"]
    assert 0 <= low < 0.5 < high <= 1
    assert result["counts"]["by_count"]["2"]["match_ratio"]["mean"] == 0.5
    assert result["counts"]["by_object"]["bus"]["average_error"]["mean"] == 1
    assert result["counts"]["confusion"]["counted"] == ["0", "1", "2", "3", "4", "5", "more"]
    assert result["counts"]["confusion"]["asked"]["2"] == [0, 1, 1, 0, 0, 0, 0]
    assert result["counts"]["confusion"]["asked"]["1"] == [1, 0, 0, 0, 0, 0, 0]
    relations = result["relations"]["overall"]
    assert relations["pictures"] == 4
    assert relations["both_kinds"]["mean"] == 0.75 and relations["right_objects"]["mean"] == 0.5
    assert relations["right"]["mean"] == 0.25 and relations["placed_if_both_kinds"]["mean"] == pytest.approx(2 / 3)
    assert result["judgments"][2]["counted"] == {"sheep": 3, "cow": 1}
    json.dumps(result)
    errors = {"clean": {"exact": None, "single": {"exact": None, "by_count": {}}, "relations": {"exact": None}}}
    errors["clean"]["relations"]["relation"] = 0.5
    assert "50.00" in result_table({**result, "counter": {"errors": errors}})


def test_held_out_combinations_are_told_apart():
    from ifuvit.data.scenes import held_out

    rare = held_out()["counts"][0]
    listed = [("0.png", rare["prompt"]), ("1.png", "a bus"), ("2.png", held_out()["relations"][0]["prompt"])]
    result = score(listed, [[], [Detection("bus", 1, 1, 1)], []])
    assert result["counts"]["by_combination"]["held out"]["right"]["mean"] == 0
    assert result["counts"]["by_combination"]["in training"]["right"]["mean"] == 1
    assert list(result["relations"]["by_combination"]) == ["held out"]


def refused(arguments):
    with pytest.raises(InputError) as caught:
        verb.main([str(argument) for argument in arguments])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_mistakes_are_told_on_one_line(scenes, counter, pictures, tmp_path):
    out = tmp_path / "r.json"
    assert "'guess'" in refused(["guess"])
    assert "holds no scenes" in refused(["train", "--scenes", tmp_path, "--out", tmp_path / "c"])
    assert "--steps 0" in refused(["train", "--scenes", scenes, "--out", tmp_path / "c", "--steps", 0])
    assert "something else" in refused(["train", "--scenes", scenes, "--out", scenes, "--steps", 1])
    assert "no such directory" in refused(["judge", tmp_path / "none", "--counter", counter, "--out", out])
    assert "manifest.json: no such file" in refused(["judge", tmp_path, "--counter", counter, "--out", out])
    assert "count train" in refused(["judge", counter, "--counter", counter, "--out", out])
    assert "no object counter" in refused(["judge", pictures, "--counter", tmp_path, "--out", out])
    assert "is a directory" in refused(["judge", pictures, "--counter", counter, "--out", tmp_path])
    assert "cannot be used here" in refused(
        ["judge", pictures, "--counter", counter, "--out", out, "--device", "meteor"]
    )
    ObjectCounter(ObjectCounterConfig(width=8)).save_pretrained(tmp_path / "bare")
    assert "manifest.json" in refused(["judge", pictures, "--counter", tmp_path / "bare", "--out", out])
    (pictures / "0001.png").write_bytes(b"no picture")
    assert "0001.png: not a readable picture" in refused(["judge", pictures, "--counter", counter, "--out", out])
    assert not out.exists()


def test_scenes_of_another_size_are_refused(tmp_path):
    scenes = write_scenes(tmp_path / "s", size=32, train=1, val=1)
    assert "32 x 32" in refused(["train", "--scenes", scenes, "--out", tmp_path / "c"])


def test_exit_status_of_a_mistake(tmp_path):
    command = [
        sys.executable,
        "-m",
        "ifuvit.cli",
        "count",
        "train",
        "--scenes",
        str(tmp_path),
        "--out",
        str(tmp_path / "c"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("ifuvit: ") and done.stderr.count("\n") == 1
