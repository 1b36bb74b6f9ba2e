"""`ifuvit count`: a counter trains and carries its error."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from ifuvit.commands import count as command
from ifuvit.data.scenes import write_scenes
from ifuvit.evaluation import count as module
from ifuvit.evaluation.count import CountTrainConfig
from ifuvit.evaluation.networks import load_counter
from ifuvit.metrics.counting.prompts import PROMPT_SETS
from ifuvit.utils.errors import InputError

TINY = {"steps": 3, "batch_size": 4, "width": 8, "precision": "fp32"}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("drawn") / "scenes", train=10, val=8)


@pytest.fixture(scope="module")
def counter(scenes, tmp_path_factory):
    return module.train(CountTrainConfig(scenes=scenes, out=tmp_path_factory.mktemp("counter") / "c", **TINY))


def test_the_counter_carries_its_error(scenes, counter):
    manifest = json.loads((counter / "manifest.json").read_text())
    assert set(manifest["errors"]) == {"clean", "blurred", "noisy"}
    for scores in manifest["errors"].values():
        assert sum(part["overall"]["images"] for part in scores.values() if part) == 8
        assert set(scores["counts"]["by_count"]) <= set("12345") and scores["counts"]["by_object"] == {}
    assert manifest["command"] == "count train" and manifest["precision"] == "fp32"
    assert manifest["config"]["steps"] == 3 and len(manifest["data"]["instances_val"]) == 64
    assert load_counter(counter).facts().errors["clean"].counts is not None


def test_the_same_command_gives_the_same_counter(scenes, counter, tmp_path):
    again = module.train(CountTrainConfig(scenes=scenes, out=tmp_path / "again", **TINY))
    other = module.train(CountTrainConfig(scenes=scenes, out=tmp_path / "other", **TINY, seed=1))
    first, second, third = (load_file(path / "model.safetensors") for path in (counter, again, other))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["head.0.weight"], third["head.0.weight"])


def test_prompts_are_printed_as_generate_reads_them(tmp_path, capsys):
    from ifuvit.data.prompts import read_prompts

    command.main(["prompts", "paper"])
    (tmp_path / "prompts.txt").write_text(capsys.readouterr().out)
    assert tuple(read_prompts(tmp_path / "prompts.txt")) == PROMPT_SETS["paper"]
    command.main(["--help"])
    told = capsys.readouterr().out
    assert all(name in told for name in PROMPT_SETS)


def refused(arguments):
    with pytest.raises(InputError) as caught:
        command.main([str(argument) for argument in arguments])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_mistakes_are_told_on_one_line(scenes, counter, tmp_path):
    assert "'guess'" in refused(["guess"])
    assert "holds no scenes" in refused(["train", "--scenes", tmp_path, "--out", tmp_path / "c"])
    assert "--steps 0" in refused(["train", "--scenes", scenes, "--out", tmp_path / "c", "--steps", 0])
    assert "something else" in refused(["train", "--scenes", scenes, "--out", scenes, "--steps", 1])
    assert "invalid choice 'many'" in refused(["prompts", "many"])


def test_scenes_of_another_size_are_refused(tmp_path):
    scenes = write_scenes(tmp_path / "s", size=32, train=1, val=1)
    assert "32 x 32" in refused(["train", "--scenes", scenes, "--out", tmp_path / "c"])


def test_exit_status_of_a_mistake(tmp_path):
    command = [
        sys.executable,
        "-m",
        "ifuvit",
        "count",
        "train",
        "--scenes",
        str(tmp_path),
        "--out",
        str(tmp_path / "c"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("ifuvit: ") and done.stderr.count("\n") == 1
