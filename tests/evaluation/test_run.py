"""`ifuvit evaluate`: what a result holds, that it goes on where it was killed, and one line for every mistake."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_pipeline import write_tiny_pipeline

from ifuvit import results
from ifuvit.commands import evaluate as command
from ifuvit.data.scenes import write_scenes
from ifuvit.diffusion.objective import Flow
from ifuvit.evaluation.config import EvaluateConfig
from ifuvit.evaluation.reference_images import ReferenceImages
from ifuvit.evaluation.run import evaluate
from ifuvit.shipped import DIRECTORY
from ifuvit.utils.errors import InputError

FEW = ["--num-images", "8", "--device", "cpu"]
FEW_STEPS = [*FEW, "--steps", "2"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("drawn") / "scenes", train=10, val=16)


def measured(target, scenes, out, *arguments) -> results.Evaluation:
    few = FEW_STEPS if (Path(target) / "pipeline").exists() else FEW
    command.main([str(target), "--data", str(scenes), "--out", str(out), *few, *arguments])
    return results.from_file(out, results.Evaluation)


@pytest.fixture(scope="module")
def result(model, scenes, tmp_path_factory):
    out = tmp_path_factory.mktemp("results") / "result.json"
    measured(model, scenes, out, "--count-prompts", "paper=1", "held-out-counts=1")
    return out


def test_a_result_has_every_choice(result, scenes):
    found = results.from_file(result, results.Evaluation)
    assert found.command == "evaluate" and found.target.kind == "ifuvit"
    assert len(found.target.sha256 or "") == len(found.target.fingerprint or "") == 64
    protocol = found.protocol
    assert protocol["name"] == "quick, changed: steps=2, num_images=8, paper=1, held-out-counts=1"
    assert (protocol["num_images"], protocol["sampling"]["steps"]) == (8, 2)
    assert found.data is not None and found.data.images == 16 and found.data.split == "val"
    assert [metric.name for metric in found.metrics] == [
        "KID-EffNetLite0", "FD-EffNetLite0", "precision-EffNetLite0", "recall-EffNetLite0", "TwoTower score",
    ]  # fmt: skip
    for metric in found.metrics:
        assert metric.interval is not None and metric.reference is not None and metric.network is not None
        low, high = metric.interval
        assert low <= metric.value <= high and metric.n == metric.reference.n == 8, metric.name
    assert list(found.objects) == ["paper", "held-out-counts"]
    paper, held_out = found.objects["paper"], found.objects["held-out-counts"]
    assert paper.counts is not None and paper.counts.overall.images == 20 and paper.relations is None
    assert held_out.counts is not None and held_out.counts.overall.images == 19
    assert found.counter is not None and found.counter.errors
    assert list(found.evaluators) == ["distances", "alignment", "counts", "costs"]
    assert found.evaluators["counts"]["sha256"] == found.counter.sha256
    assert found.evaluators["distances"]["networks"] == [found.metrics[0].network]
    assert found.costs is not None and found.costs.parameters and found.costs.images_per_second
    images = result.parent / (found.images or "")
    listed = json.loads((images / "manifest.json").read_text())["images"]
    assert len(listed) == 8 and all((images / item["file"]).is_file() for item in listed)


def test_a_flow_model_is_evaluated_alike(scenes, tmp_path):
    flow = write_tiny_pipeline(tmp_path, Flow(prediction="clean", shift=2.0))
    found = measured(flow, scenes, tmp_path / "result.json", "--metrics", "alignment")
    assert [metric.name for metric in found.metrics] == ["TwoTower score"]


def test_a_protocols_sampling_reaches_the_images(result):
    """Also what no option changes: quick starts from noise around a color; counting has its own guidance scale."""
    kept = result.with_name("result-images")
    settings = {
        name: results.from_file(kept / name / "manifest.json", results.GeneratedImages).sampling
        for name in ("captions", "paper", "held-out-counts")
    }
    assert {name: one["guidance_scale"] for name, one in settings.items()} == {
        "captions": 2.0, "paper": 4.0, "held-out-counts": 4.0,
    }  # fmt: skip
    assert all(
        (one["initial_latents"], one["steps"], one["solver"]) == ("data-mean", 2, "auto") for one in settings.values()
    )


def test_each_image_is_scored_with_its_own_caption(scenes, tmp_path):
    """Captions shifted by one image give a far lower score."""
    folder, captions = tmp_path / "real", tmp_path / "captions.txt"
    folder.mkdir()
    chosen = ReferenceImages.open(scenes).choose(12)
    for number, (file, _) in enumerate(chosen):
        (folder / f"{number}.png").write_bytes(file.read_bytes())
    scores = []
    for shift in (0, 1):
        lines = [caption for _, caption in chosen]
        captions.write_text("\n".join(lines[shift:] + lines[:shift]) + "\n")
        arguments = ("--metrics", "alignment", "--captions", str(captions), "--num-images", "12")
        scores.append(measured(folder, scenes, tmp_path / f"{shift}.json", *arguments).metrics[0])
    assert scores[0].reference is not None and scores[0].value == pytest.approx(scores[0].reference.value, abs=1e-6)
    assert scores[1].value < scores[0].value - 0.3


def test_real_images_are_better_than_random_ones(model, scenes, tmp_path, result):
    """Real images with their own captions, evaluated as if they were a model's."""
    told = results.by_name(results.from_file(result, results.Evaluation).metrics)
    folder = tmp_path / "real"
    folder.mkdir()
    val = json.loads((scenes / "annotations/captions_val.json").read_text())
    captions = {entry["image_id"]: entry["caption"] for entry in val["annotations"]}
    for image in val["images"][:8]:
        name = image["file_name"]
        (folder / name).write_bytes((scenes / "images/val" / name).read_bytes())
        (folder / name).with_suffix(".txt").write_text(captions[image["id"]])
    real = measured(folder, scenes, tmp_path / "real.json", "--metrics", "distances", "alignment")
    assert real.target.kind == "images" and not real.objects and real.costs is None
    found = results.by_name(real.metrics)
    assert found["KID-EffNetLite0"].value < told["KID-EffNetLite0"].value / 10
    assert found["FD-EffNetLite0"].value < told["FD-EffNetLite0"].value / 2


def test_killed_and_run_again(model, scenes, tmp_path, monkeypatch, capsys):
    """Images that are there stay; the numbers are those of an uninterrupted run, with and without the cache."""
    arguments = ("--metrics", "distances", "--batch-size", "4", "--cache", str(tmp_path / "cache"))
    whole = measured(model, scenes, tmp_path / "whole.json", *arguments)
    out = tmp_path / "killed.json"
    from ifuvit.evaluation import generation as drawing

    def killed(path):
        if path.name == "00004.png":
            raise KeyboardInterrupt
        return atomic_path(path)

    atomic_path = drawing.atomic_path
    monkeypatch.setattr(drawing, "atomic_path", killed)
    with pytest.raises(KeyboardInterrupt):
        measured(model, scenes, out, *arguments)
    monkeypatch.undo()
    first = tmp_path / "killed-images/captions/00000.png"
    before = first.stat().st_mtime_ns
    assert not out.exists() and first.is_file()
    again = measured(model, scenes, out, *arguments)
    assert first.stat().st_mtime_ns == before and again.metrics == whole.metrics
    assert len(list((tmp_path / "cache").iterdir())) == 3  # the reference, other real images, and these decoded


def test_images_of_another_model_are_replaced(model, scenes, tmp_path):
    """Another latent scale is another model, although its backbone is the same."""
    other = tmp_path / "run"
    shutil.copytree(model, other)
    arguments = ("--metrics", "distances")
    first = measured(other, scenes, tmp_path / "r.json", *arguments)
    index = other / "pipeline" / "model_index.json"
    (index.parent / "checksums.json").unlink(missing_ok=True)
    index.write_text(json.dumps({**json.loads(index.read_text()), "latent_scale": 0.2}))
    second = measured(other, scenes, tmp_path / "r.json", *arguments)
    assert first.target.sha256 == second.target.sha256 and first.target.fingerprint != second.target.fingerprint
    assert first.metrics != second.metrics
    # In a directory that the user named nothing is deleted.
    shutil.move(tmp_path / "r-images", tmp_path / "mine")
    index.write_text(json.dumps({**json.loads(index.read_text()), "latent_scale": 0.3}))
    with pytest.raises(InputError, match="holds images of other prompts, settings or another model"):
        measured(other, scenes, tmp_path / "r.json", *arguments, "--images-dir", str(tmp_path / "mine"))


def test_the_floor_of_the_models_own_autoencoder(model, scenes, tmp_path, capsys):
    """In every evaluation of a model: real images through an untrained autoencoder are far from real ones. A folder of
    images has no autoencoder, and the floor of real images alone."""
    found = measured(model, scenes, tmp_path / "r.json", "--metrics", "distances")
    kid = results.by_name(found.metrics)["KID-EffNetLite0"]
    assert kid.reference is not None and kid.decoded_reference is not None
    assert kid.decoded_reference.value > kid.reference.value + 1 and kid.decoded_reference.n == kid.reference.n == 8
    assert f"real images {kid.reference.value:.4g}, decoded by its autoencoder" in capsys.readouterr().out
    folder = tmp_path / "bare"
    folder.mkdir()
    for index in range(8):
        Image.new("RGB", (64, 64)).save(folder / f"{index}.png")
    bare = measured(folder, scenes, tmp_path / "b.json", "--metrics", "distances").metrics[0]
    assert bare.reference is not None and bare.decoded_reference is None


@pytest.fixture
def generated(tmp_path):
    """As `ifuvit generate` leaves them, one of another size."""
    folder = tmp_path / "generated"
    folder.mkdir()
    prompts = ["three sheep", "a bus left of an apple", "an astronaut on a horse"]
    images = []
    for index, prompt in enumerate(prompts):
        name = f"{index:04d}.png"
        Image.new("RGB", (128, 128) if index else (64, 64), (120, 200, 90)).save(folder / name)
        images.append({"file": name, "prompt": prompt, "index": index})
    (folder / "manifest.json").write_text(json.dumps({"command": "generate", "images": images}))
    return folder


def test_counting_in_images_requires_no_data(generated, tmp_path, capsys):
    out = tmp_path / "counts.json"
    command.main([str(generated), "--metrics", "counts", "--out", str(out), "--thresholds", "0.3"])
    found = results.from_file(out, results.Evaluation)
    assert found.data is None and found.metrics == () and list(found.objects) == ["captions"]
    objects = found.objects["captions"]
    assert objects.counted == 2 and objects.counts is not None and objects.relations is not None
    assert [(image.file, image.counted) for image in objects.images] == [
        ("0000.png", {}), ("0001.png", {}), ("0002.png", None),
    ]  # fmt: skip
    # The counter sees nothing in an empty image.
    assert objects.counts.confusion is not None and objects.counts.confusion.asked["3"] == (1, 0, 0, 0, 0, 0, 0)
    assert objects.counts.overall.average_error is not None and objects.counts.overall.average_error.value == 3
    assert found.counter is not None and found.counter.name == "openmoji" and found.counter.errors
    assert [one.threshold for one in objects.thresholds] == [0.3]
    printed = capsys.readouterr().out
    assert "2 of 3 images counted" in printed and "'an astronaut on a horse'" in printed and str(out) in printed


def test_a_second_counter_counts_the_same_images(generated, tmp_path, capsys):
    copy = shutil.copytree(DIRECTORY / "counter-openmoji", tmp_path / "second")
    out = tmp_path / "counts.json"
    command.main([str(generated), "--metrics", "counts", "--counter", "openmoji", str(copy), "--out", str(out)])
    found = results.from_file(out, results.Evaluation)
    (second,) = found.second_counts
    assert found.counter is not None and (found.counter.name, second.counter.name) == ("openmoji", str(copy))
    assert second.same_verdict["captions"].value == 1 and second.difference["captions"].value == 0
    assert (
        second.same_verdict["captions"].n == 2 and second.scores["captions"].counts == found.objects["captions"].counts
    )
    assert found.evaluators["counts"]["second_counters"] == [found.counter.sha256]
    assert "100.0 %   +0.0 points" in capsys.readouterr().out


def test_a_new_evaluator_is_a_file_and_a_line(generated, tmp_path):
    """Diversity is one: it asks for its images, and is measured and written like the others."""
    (generated / "manifest.json").write_text(
        json.dumps({"images": [{"file": f"{index:04d}.png", "prompt": "a bus"} for index in range(2)]})
    )
    Image.effect_noise((64, 64), 90).save(generated / "0001.png")
    out = tmp_path / "r.json"
    command.main([str(generated), "--metrics", "diversity", "--out", str(out)])
    (metric,) = results.from_file(out, results.Evaluation).metrics
    assert (
        metric.name == "diversity-EffNetLite0"
        and metric.value > 0.05
        and metric.interval_from == "bootstrap over prompts"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num-images", "17"], "16 usable images in val, fewer than the 17"),
        (["--num-images", "0"], "--num-images 0: must be at least 1"),
        (["--guidance-scale", "nan"], "guidance-scale nan"),
        (["--count-prompts", "cars=3"], "--count-prompts cars=3"),
        (["--weights", "inception.pth"], "--weights inception.pth: give NAME=PATH"),
        (
            ["--weights", "foo=bar"],
            "--weights foo=bar: foo is no network of the protocol quick, which uses effnet-lite0",
        ),
        (["--weights", "clip=bar"], "--weights clip=bar: clip is no network of the protocol quick"),
        (["--weights", "two-tower=a", "two-tower=b"], "--weights two-tower=b: two-tower is given twice"),
        (["--weights", "two-tower="], "--weights two-tower=: give NAME=PATH"),
        (["--protocol", "paper"], "inception: no weights"),
        (["--counter", "nowhere"], "no counter 'nowhere'"),
        (["--solver", "magic"], "--solver"),
        (["--metrics", "beauty"], "--metrics beauty: unknown"),
        (["--threshold", "0.3"], "a counter has its own"),
        (["--thresholds", "1.5"], "--thresholds 1.5: must be between 0 and 1"),
        (["--keep-features"], "--keep-features is for --write-statistics"),
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
        command.main([model, "--data", str(scenes), "--out", str(tmp_path / "r.json"), *FEW_STEPS, *arguments])
    assert message in str(told.value) and not (tmp_path / "r-images").exists()


def test_too_few_or_bare_images(scenes, tmp_path):
    folder = tmp_path / "bare"
    folder.mkdir()
    for index in range(8):
        Image.new("RGB", (8, 8)).save(folder / f"{index}.png")
    base: dict[str, Any] = {"targets": (str(folder),), "out": tmp_path / "r.json", "device": "cpu"}
    with pytest.raises(InputError, match="8 images, fewer than the 16 of the protocol"):
        evaluate(EvaluateConfig(**base, data=scenes, num_images=16))
    with pytest.raises(InputError, match="has no caption, which alignment requires"):
        evaluate(EvaluateConfig(**base, data=scenes, num_images=8))
    with pytest.raises(InputError, match="--metrics distances requires --data"):
        evaluate(EvaluateConfig(**base))


@pytest.mark.multiprocess
def test_two_processes_give_the_numbers_of_one(model, scenes, tmp_path):
    arguments = ["--metrics", "distances", "alignment", "counts", "--count-prompts", "paper=1", "--batch-size", "2"]
    alone = measured(model, scenes, tmp_path / "alone.json", *arguments)
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
    two = results.from_file(tmp_path / "two.json", results.Evaluation)
    assert two.processes == 2
    for one, other in zip(alone.metrics, two.metrics, strict=True):
        assert other.name == one.name and other.value == pytest.approx(one.value, rel=1e-4), one.name
    assert two.objects == alone.objects and len(two.objects["paper"].images) == 20
