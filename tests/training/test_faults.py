"""What kills, damage and other processes do to a training run: nothing is lost, and nothing is silent."""

import errno
import json
import os
import random
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import tiny, write_features

from ifuvit.training import checkpoint
from ifuvit.training.distributed import graceful_shutdown
from ifuvit.training.loop import train
from ifuvit.training.setup import Run
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import CHECKSUMS, lock, read_json, write_json


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_features(tmp_path_factory.mktemp("data") / "features")


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    return train(tiny(data, tmp_path_factory.mktemp("whole") / "run"))


@pytest.fixture
def begun(data, tmp_path):
    """A run of 12 steps, with checkpoints at 6 and 12."""
    return train(tiny(data, tmp_path / "run", steps=12))


def published(run):
    return (run / "pipeline" / "transformer" / "model.safetensors").read_bytes()


# What follows a checkpoint is done again.


@pytest.mark.parametrize("at", [6, 20])
@pytest.mark.parametrize("before", [True, False])
def test_a_pipeline_that_a_kill_left_behind_is_published(data, whole, tmp_path, monkeypatch, at, before):
    publish = Run._write_pipeline

    def killed(self, average):
        if self.step == at:
            if not before:
                shutil.rmtree(self.config.out / "pipeline", ignore_errors=True)
            raise KeyboardInterrupt
        publish(self, average)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, "_write_pipeline", killed)
        train(tiny(data, tmp_path / "run"))
    config = tiny(data, tmp_path / "run", steps=at)
    assert checkpoint.saved_steps(config.out)[-1] == at and not checkpoint.is_finished(config)
    train(config)
    assert checkpoint.published_step(config.out) == at and checkpoint.is_finished(config)
    average = load_file(checkpoint.path_of(config.out, at) / "ema.safetensors")
    assert all(
        torch.equal(tensor, average[name])
        for name, tensor in load_file(config.out / "pipeline" / "transformer" / "model.safetensors").items()
    )
    if at == 20:
        assert published(config.out) == published(whole)


def test_a_run_that_grows_is_not_finished_meanwhile(data, tmp_path, monkeypatch):
    config = tiny(data, tmp_path / "run", steps=6)
    train(config)
    assert checkpoint.is_finished(config)

    def killed(self, stop):
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "finish", killed)
    with pytest.raises(KeyboardInterrupt):
        train(tiny(data, tmp_path / "run", steps=12))
    assert not checkpoint.is_finished(config) and not checkpoint.is_finished(tiny(data, tmp_path / "run", steps=12))


def test_old_checkpoints_that_a_kill_left_are_deleted(data, begun, monkeypatch):
    monkeypatch.setattr(checkpoint.shutil, "rmtree", lambda *_, **__: None)
    train(tiny(data, begun, steps=18))
    monkeypatch.undo()
    assert checkpoint.saved_steps(begun) == [6, 12, 18]
    torn = checkpoint.path_of(begun, 6) / "state.json"  # as a kill in the middle of a deletion leaves it
    torn.unlink()
    train(tiny(data, begun, steps=18))
    assert sorted(path.name for path in (begun / "checkpoints").iterdir()) == ["step-00000012", "step-00000018"]


def test_the_sample_grid_of_the_last_checkpoint_is_made(data, tmp_path, monkeypatch):
    drawn = []

    class Stub:
        model = torch.nn.Identity()

        def __call__(self, prompts, **_):
            from PIL import Image

            drawn.append(len(prompts))
            return [Image.new("RGB", (8, 8)) for _ in prompts]

    monkeypatch.setattr("ifuvit.training.setup.load_pipeline", lambda *_: Stub())
    monkeypatch.setattr(Stub.model, "load_state_dict", lambda *_: None)
    config = tiny(data, tmp_path / "run", steps=6, sample_every=3)
    train(config)
    grids = config.out / "samples"
    assert len(drawn) == 2 and {path.name for path in grids.iterdir()} == {"step-00000003.png", "step-00000006.png"}
    (grids / "step-00000006.png").unlink()
    train(config)
    assert len(drawn) == 3 and (grids / "step-00000006.png").is_file()
    train(config)
    assert len(drawn) == 3


def test_the_log_is_on_the_disk_before_the_checkpoint(data, tmp_path, monkeypatch):
    """A power cut keeps what was synced alone: a run that resumes at a step has what was logged up to there."""
    synced, kept, replace = {}, [], os.replace

    def sync(descriptor):
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if path.name == "metrics.jsonl":
            synced["log"] = path.read_bytes()

    def name(source, destination):
        if Path(destination).name.startswith("step-"):
            kept.append(synced.get("log"))
        replace(source, destination)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", name)
    train(tiny(data, tmp_path / "run", steps=12, log_every=3))
    assert [[json.loads(line)["step"] for line in log.splitlines()] for log in kept] == [[3, 6], [3, 6, 9, 12]]


# What cannot be seen is not absent.


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.EMFILE])
def test_checkpoints_that_cannot_be_seen(data, begun, monkeypatch, number):
    def contents():
        return {path: path.read_bytes() for path in begun.rglob("*") if path.is_file()}

    before = contents()
    unseen = checkpoint.path_of(begun, 12)

    def failing(plain, *fails):
        def call(path, *arguments, **options):
            if any(Path(path) == Path(one) for one in fails):
                raise OSError(number, os.strerror(number), str(path))
            return plain(path, *arguments, **options)

        return call

    for where, path in (
        ("ifuvit.training.checkpoint.os.scandir", begun / "checkpoints"),
        ("pathlib.Path.stat", unseen / "state.json"),
        ("ifuvit.utils.files.sha256", unseen / "model.safetensors"),
        ("safetensors.torch.load_file", unseen / "ema.safetensors"),
    ):
        module, name = where.rsplit(".", 1)
        with monkeypatch.context() as patch, pytest.raises(InputError, match="cannot be read .* nothing was changed"):
            if module == "pathlib.Path":
                patch.setattr(Path, name, failing(Path.stat, path))
            else:
                target = __import__(module.split(".os")[0], fromlist=["_"])
                target = target.os if module.endswith(".os") else target
                patch.setattr(target, name, failing(getattr(target, name), path))
            train(tiny(data, begun, steps=12))
        assert contents() == before, where


def test_copies_that_people_make_of_checkpoints(data, begun):
    saved = checkpoint.path_of(begun, 12)
    for name in ("step-00000012.bak", "step-00000012 (copy)", "step-best", "step-12", "backup"):
        shutil.copytree(saved, begun / "checkpoints" / name)
    (begun / "checkpoints" / "step-00000099").touch()
    assert checkpoint.saved_steps(begun) == [6, 12]
    train(tiny(data, begun))
    assert checkpoint.saved_steps(begun) == [18, 20]
    assert (begun / "checkpoints" / "step-00000012.bak" / "state.json").is_file()


# Damage.


@pytest.mark.parametrize(
    "file", ["model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json", CHECKSUMS]
)
def test_one_flipped_bit_of_a_checkpoint_is_seen(begun, file):
    path = checkpoint.path_of(begun, 12) / file
    content, rng = path.read_bytes(), random.Random(file)
    for _ in range(30):
        damaged = bytearray(content)
        damaged[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        saved, problems = checkpoint.read_newest(begun)
        assert saved is not None and saved.state["step"] == 6
        (problem,) = problems
        assert "step-00000012" in problem and "\n" not in problem


def test_the_step_is_that_of_the_folder(begun):
    os.rename(checkpoint.path_of(begun, 12), checkpoint.path_of(begun, 13))
    saved, problems = checkpoint.read_newest(begun)
    assert saved is not None and saved.state["step"] == 6 and "of another step" in problems[0]


def test_a_checkpoint_without_checksums_is_read(begun):
    (checkpoint.path_of(begun, 12) / CHECKSUMS).unlink()
    saved, problems = checkpoint.read_newest(begun)
    assert saved is not None and saved.state["step"] == 12 and not problems


@pytest.mark.parametrize("field", ["latent_normalization", "config", "dataset_fingerprint"])
def test_a_changed_record_of_the_run_is_refused(data, begun, field):
    record = read_json(begun / "config.json")
    record[field] = {"latent_normalization": {"mean": [0.0], "scale": [2.0]}}.get(field)
    write_json(begun / "config.json", record)
    with pytest.raises(InputError, match=r"config.json: was changed since it was written"):
        train(tiny(data, begun))


@pytest.mark.parametrize(
    "bad", [b"\xff\xfe\n", b"{}\n", b"[1]\n", b'{"step": "5"}\n', b"[" * 5000 + b"\n", b"\0" * 40, b"7\n"]
)
def test_a_bad_line_of_the_log_costs_that_line(data, whole, begun, bad):
    log = begun / "metrics.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(bad + b"".join(lines) + bad)
    train(tiny(data, begun))
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    expected = [json.loads(line)["step"] for line in (whole / "metrics.jsonl").read_text().splitlines()]
    # The line at the last step of the shorter run is its own; a zero block with no line end costs the line it runs into.
    assert set(expected) - set(steps) <= ({7} if not bad.endswith(b"\n") else set())


def test_weights_that_are_no_numbers_are_never_written(tmp_path):
    bad = {"w": torch.tensor([1.0, float("nan")])}
    with pytest.raises(InputError, match="w is not finite after step 3; training has diverged"):
        checkpoint.write(
            tmp_path, 3, checkpoint.Checkpoint(model=bad, ema=bad, optimizer=bad, state={"step": 3}), keep=1
        )
    assert not (tmp_path / "checkpoints").exists()


# Others.


def test_two_trainings_in_one_run(data, begun):
    with lock(begun, inside=True), pytest.raises(InputError, match="process .* is writing there; wait for its end"):
        train(tiny(data, begun))
    train(tiny(data, begun))
    assert not list(begun.rglob("*.lock"))


def test_fewer_steps_than_are_done(data, begun):
    with pytest.raises(InputError, match="--steps 7: .* has 12 steps already; give --steps 12 or more"):
        train(tiny(data, begun, steps=7))


@pytest.fixture
def hang_up_ends():
    """SIGHUP as a terminal's programs have it, though the tests may run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def test_signals_that_save_first(hang_up_ends):
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        before = signal.getsignal(number)
        with graceful_shutdown() as stop:
            signal.raise_signal(number)
            assert stop.number == number
        assert signal.getsignal(number) == before
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    try:
        with graceful_shutdown() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert stop.number is None
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.skipif(sys.platform == "win32", reason="requires SIGHUP")
def test_a_closed_terminal_saves_first(data, whole, tmp_path, monkeypatch, hang_up_ends):
    plain, done = Run.advance, []

    def hang_up(self, loss, norm):
        plain(self, loss, norm)
        if self.step == 9 and not done:
            done.append(signal.raise_signal(signal.SIGHUP))

    monkeypatch.setattr(Run, "advance", hang_up)
    with pytest.raises(SystemExit) as stopped:
        train(tiny(data, tmp_path / "run"))
    assert stopped.value.code == 128 + signal.SIGHUP and checkpoint.saved_steps(tmp_path / "run") == [6, 9]
    train(tiny(data, tmp_path / "run"))
    assert published(tmp_path / "run") == published(whole)
