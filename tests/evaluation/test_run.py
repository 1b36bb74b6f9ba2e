"""`ifuvit evaluate`: what a result holds, that it goes on where it was killed, and one line for every mistake."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from tiny_pipeline import write_tiny_pipeline

from ifuvit.commands import evaluate as command
from ifuvit.data.scenes import prompt_for, write_scenes
from ifuvit.evaluation.run import EvaluateConfig, run
from ifuvit.utils.errors import InputError

FEW = ["--num-images", "8", "--steps", "2", "--device", "cpu"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("drawn") / "scenes", train=10, val=16)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(write_tiny_pipeline(tmp_path_factory.mktemp("run")))


def judge(target, scenes, out, *arguments):
    command.main([str(target), "--data", str(scenes), "--out", str(out), *FEW, *arguments])
    return json.loads(out.read_text())


@pytest.fixture(scope="module")
def result(model, scenes, tmp_path_factory):
    out = tmp_path_factory.mktemp("results") / "result.json"
    judge(model, scenes, out, "--count-prompts", "paper=1", "held-out=1")
    return out


def test_a_result_tells_every_choice(result, scenes):
    told = json.loads(result.read_text())
    assert told["command"] == "evaluate" and told["target"]["kind"] == "ifuvit" and len(told["target"]["sha256"]) == 64
    protocol = told["protocol"]
    assert protocol["name"] == "quick, changed: steps=2, num_images=8, paper=1, held-out=1"
    assert (protocol["num_images"], protocol["sampling"]["steps"]) == (8, 2)
    assert protocol["sampling"]["guidance_scale"] == 2.0
    assert told["data"]["images"] == 16 and told["data"]["split"] == "val"
    assert set(told["metrics"]) == {
        "KID-EffNetLite0", "FD-EffNetLite0", "precision-EffNetLite0", "recall-EffNetLite0", "TwoTower score",
    }  # fmt: skip
    for name, number in told["metrics"].items():
        low, high = number["interval"]
        assert low <= number["value"] <= high and number["n"] == 8, name
        beside = number.get("floor") or number["real"]
        assert beside["n"] == 8, name
    assert told["counts"]["overall"]["images"] == 20 and told["relations"] is None
    assert told["held_out"]["counts"]["overall"]["images"] + told["held_out"]["relations"]["overall"]["images"] == 99
    assert "errors" in told["counter"]
    assert told["costs"]["parameters"] > 0 and told["costs"]["images_per_second"] > 0
    images = result.parent / told["images"]
    listed = json.loads((images / "manifest.json").read_text())["images"]
    assert len(listed) == 8 and all((images / item["file"]).is_file() for item in listed)


def test_real_images_are_better_than_random_ones(model, scenes, tmp_path, result):
    """Real images with their own captions, judged as if they were a model's."""
    told = json.loads(result.read_text())
    folder = tmp_path / "real"
    folder.mkdir()
    val = json.loads((scenes / "annotations/captions_val.json").read_text())
    captions = {entry["image_id"]: entry["caption"] for entry in val["annotations"]}
    for image in val["images"][:8]:
        name = image["file_name"]
        (folder / name).write_bytes((scenes / "images/val" / name).read_bytes())
        (folder / name).with_suffix(".txt").write_text(captions[image["id"]])
    real = judge(folder, scenes, tmp_path / "real.json", "--metrics", "distances", "alignment")
    assert real["target"]["kind"] == "images" and real["counts"] is None and real["costs"] is None
    assert real["metrics"]["KID-EffNetLite0"]["value"] < told["metrics"]["KID-EffNetLite0"]["value"] / 10
    assert real["metrics"]["FD-EffNetLite0"]["value"] < told["metrics"]["FD-EffNetLite0"]["value"] / 2


def test_killed_and_run_again(model, scenes, tmp_path, monkeypatch, capsys):
    """Images that are there stay; the numbers are those of an uninterrupted run, with and without the cache."""
    arguments = ("--metrics", "distances", "--batch-size", "4", "--cache", str(tmp_path / "cache"))
    whole = judge(model, scenes, tmp_path / "whole.json", *arguments)
    out = tmp_path / "killed.json"
    from ifuvit.evaluation import generation as drawing

    def killed(path):
        if path.name == "00004.png":
            raise KeyboardInterrupt
        return atomic_path(path)

    atomic_path = drawing.atomic_path
    monkeypatch.setattr(drawing, "atomic_path", killed)
    with pytest.raises(KeyboardInterrupt):
        judge(model, scenes, out, *arguments)
    monkeypatch.undo()
    first = tmp_path / "killed-images/captions/00000.png"
    before = first.stat().st_mtime_ns
    assert not out.exists() and first.is_file()
    again = judge(model, scenes, out, *arguments)
    assert first.stat().st_mtime_ns == before and again["metrics"] == whole["metrics"]
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_counting_images_that_are_there(scenes, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    images = []
    for index in range(8):
        Image.new("RGB", (64, 64), (120, 160, 120)).save(folder / f"{index}.png")
        images.append({"file": f"{index}.png", "prompt": prompt_for("sheep", 3)})
    (folder / "manifest.json").write_text(json.dumps({"images": images}))
    told = judge(folder, scenes, tmp_path / "r.json", "--metrics", "counts")
    assert told["counts"]["overall"]["average_error"]["value"] == 3 and told["metrics"] == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num-images", "17"], "16 usable images in val, fewer than the 17"),
        (["--num-images", "0"], "--num-images 0: must be at least 1"),
        (["--guidance-scale", "nan"], "guidance-scale nan"),
        (["--count-prompts", "cars=3"], "--count-prompts cars=3"),
        (["--weights", "inception.pth"], "--weights inception.pth: give NAME=PATH"),
        (["--protocol", "paper"], "inception: no weights"),
        (["--counter", "nowhere"], "no counter 'nowhere'"),
        (["--solver", "magic"], "--solver"),
        (["--statistics", "none.npz"], "none.npz: no such file of statistics"),
        (["--statistics", "wide.npz"], "the reference statistics have 8 dimensions, the features of"),
        (["--out", "."], "is a directory"),
    ],
)
def test_bad_input(model, scenes, tmp_path, monkeypatch, arguments, message):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    np.savez("wide.npz", mu=np.zeros(8), sigma=np.eye(8))
    with pytest.raises(InputError) as told:
        command.main([model, "--data", str(scenes), "--out", str(tmp_path / "r.json"), *FEW, *arguments])
    assert message in str(told.value) and not (tmp_path / "r-images").exists()


def test_too_few_or_bare_images(scenes, tmp_path):
    folder = tmp_path / "bare"
    folder.mkdir()
    for index in range(8):
        Image.new("RGB", (8, 8)).save(folder / f"{index}.png")
    base = {"target": str(folder), "data": scenes, "out": tmp_path / "r.json", "device": "cpu"}
    with pytest.raises(InputError, match="8 images, fewer than the 16 of the protocol"):
        run(EvaluateConfig(**base, images=16))
    with pytest.raises(InputError, match="has no caption, which alignment needs"):
        run(EvaluateConfig(**base, images=8))


@pytest.mark.multiprocess
def test_two_processes_give_the_numbers_of_one(model, scenes, tmp_path):
    arguments = ["--metrics", "distances", "alignment", "counts", "--count-prompts", "paper=1", "--batch-size", "2"]
    alone = judge(model, scenes, tmp_path / "alone.json", *arguments)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "ifuvit", "evaluate", model, "--data", str(scenes), "--out"]
    command += [str(tmp_path / "two.json"), "--num-images", "8", "--steps", "2", *arguments]
    processes = [
        subprocess.Popen(
            command,
            env={
                **os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_PORT": str(port),
                "MASTER_ADDR": "127.0.0.1", "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1",
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    two = json.loads((tmp_path / "two.json").read_text())
    assert two["processes"] == 2
    for name, number in alone["metrics"].items():
        assert two["metrics"][name]["value"] == pytest.approx(number["value"], rel=1e-4), name
    assert two["counts"] == alone["counts"] and two["counts"]["overall"]["images"] == 20
