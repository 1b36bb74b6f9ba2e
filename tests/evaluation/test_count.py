"""`ifuvit count`: prompts, and the judgment of generated images, as a person would count by hand."""

import json
import subprocess
import sys

import pytest
import torch
from PIL import Image

from ifuvit.commands import count as command
from ifuvit.metrics.counting.counter_network import ObjectCounter, ObjectCounterConfig
from ifuvit.metrics.counting.prompts import PROMPT_SETS, Asked, AskedRelation
from ifuvit.metrics.counting.scores import Detection, score
from ifuvit.metrics.counting.tables import result_table
from ifuvit.utils.errors import InputError


@pytest.fixture(scope="module")
def counter(tmp_path_factory):
    """As `ifuvit make-standin counter` leaves it, but untrained."""
    directory = tmp_path_factory.mktemp("counter") / "c"
    torch.manual_seed(0)
    ObjectCounter(ObjectCounterConfig(width=8)).save_pretrained(directory)
    nothing = [[] for _ in range(2)]
    errors = {"clean": score([Asked("bus", 1), AskedRelation("bus", "above", "apple")], nothing)}
    (directory / "manifest.json").write_text(json.dumps({"command": "make-standin counter", "errors": errors}))
    return directory


@pytest.fixture
def images(tmp_path):
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
    (folder / "manifest.json").write_text(json.dumps({"command": "generate", "images": images}))
    return folder


def test_judge_writes_every_image_and_the_counters_error(counter, images, tmp_path, capsys):
    out = tmp_path / "result.json"
    command.main(["judge", str(images), "--counter", str(counter), "--out", str(out)])
    result = json.loads(out.read_text())
    assert result["images"] == 3 and result["judged"] == 2
    assert result["not_judged"] == [{"file": "0002.png", "prompt": "an astronaut on a horse"}]
    assert [one["file"] for one in result["judgments"]] == ["0000.png", "0001.png"]
    assert result["counter"]["errors"] == json.loads((counter / "manifest.json").read_text())["errors"]
    assert result["command"] == "count judge" and result["config"]["counter"] == str(counter)
    assert set(result["counts"]["overall"]["right"]) == {"value", "interval", "interval_from", "n"}
    printed = capsys.readouterr().out
    assert "2 of 3 images judged" in printed and "'an astronaut on a horse'" in printed and str(out) in printed


def test_the_shipped_counter_is_the_default(images, tmp_path):
    out = tmp_path / "result.json"
    command.main(["judge", str(images), "--out", str(out), "--thresholds", "0.3"])
    result = json.loads(out.read_text())
    assert result["counter"]["name"] == "openmoji" and result["sweep"][0]["threshold"] == 0.3
    # The counter sees nothing in an empty image.
    assert result["counts"]["confusion"]["asked"]["3"] == [1, 0, 0, 0, 0, 0, 0]


def test_prompts_are_printed_as_generate_reads_them(tmp_path, capsys):
    from ifuvit.commands.generate import GenerateConfig, read_prompts

    command.main(["prompts", "paper"])
    (tmp_path / "prompts.txt").write_text(capsys.readouterr().out)
    assert tuple(read_prompts(GenerateConfig(prompts_file=tmp_path / "prompts.txt"))) == PROMPT_SETS["paper"]
    command.main(["--help"])
    told = capsys.readouterr().out
    assert all(name in told for name in PROMPT_SETS)


def test_result_table_shows_what_there_is():
    found = [
        [Detection("bus", 1.0, 30.0, 0.9)],
        [Detection("bus", 1.0, 30.0, 0.9), Detection("apple", 60.0, 30.0, 0.9)],
    ]
    scores = score([Asked("bus", 2), AskedRelation("bus", "left of", "apple")], found)
    sweep = [{"threshold": 0.25, "counts": scores["counts"]["overall"], "relations": None}]
    result = {"images": 3, "judged": 2, **scores, "sweep": sweep, "not_judged": [{"file": "x", "prompt": "oh"}]}
    alone = {"counts": scores["counts"], "relations": None}
    text = result_table({**result, "counter": {"errors": {"clean": scores, "blurred": alone}}})
    lines = text.splitlines()
    assert lines[0].startswith("2 of 3 images judged") and "1 not judged" in text and "'oh'" in text
    assert "left of             1" in text and "0.25                1" in text
    assert lines[-2].split() == ["clean", "0.00", "100.00", "100.00", "0.00"]
    assert lines[-1].split() == ["blurred", "0.00", "-", "-", "0.00"]
    only_asked = score([Asked("zebra", 7)], [[]], every_kind=False)
    text = result_table({**result, **only_asked, "sweep": [], "not_judged": [], "counter": {}})
    assert "right kind" not in text and "average error" in text and "own errors" not in text


def refused(arguments):
    with pytest.raises(InputError) as caught:
        command.main([str(argument) for argument in arguments])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_mistakes_are_told_on_one_line(counter, images, tmp_path):
    out = tmp_path / "r.json"
    assert "'guess'" in refused(["guess"])
    assert "no such directory" in refused(["judge", tmp_path / "none", "--counter", counter, "--out", out])
    assert "manifest.json: no such file" in refused(["judge", tmp_path, "--counter", counter, "--out", out])
    assert "make-standin counter" in refused(["judge", counter, "--counter", counter, "--out", out])
    assert "no object counter" in refused(["judge", images, "--counter", tmp_path, "--out", out])
    assert "shipped names (openmoji)" in refused(["judge", images, "--counter", tmp_path / "none", "--out", out])
    assert "invalid choice 'many'" in refused(["prompts", "many"])
    assert "is a directory" in refused(["judge", images, "--counter", counter, "--out", tmp_path])
    assert "cannot be used here" in refused(["judge", images, "--counter", counter, "--out", out, "--device", "meteor"])
    ObjectCounter(ObjectCounterConfig(width=8)).save_pretrained(tmp_path / "bare")
    assert "manifest.json" in refused(["judge", images, "--counter", tmp_path / "bare", "--out", out])
    (images / "0001.png").write_bytes(b"no image")
    assert "0001.png: not a readable image" in refused(["judge", images, "--counter", counter, "--out", out])
    assert not out.exists()


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
