"""Training of the small autoencoder: it learns, goes on exactly where it stopped, and says what is wrong."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ifuvit.commands.make_standin import main
from ifuvit.data.images import to_tensor
from ifuvit.encoders.autoencoder import Autoencoder
from ifuvit.standins import autoencoder as module
from ifuvit.standins.autoencoder import build_vae
from ifuvit.standins.config import TrainAutoencoderConfig
from ifuvit.utils.errors import InputError

TINY = {"size": 16, "channels": (8, 8), "batch_size": 4, "precision": "fp32", "device": "cpu", "log_every": 1}


def draw(folder, count=24, size=16, seed=0):
    """Discs and bars of random colors."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    for index in range(count):
        image = np.empty((size, size, 3), np.uint8)
        image[:] = rng.integers(0, 256, 3)
        center, radius = rng.integers(3, size - 3, 2), rng.integers(3, 7)
        image[(y - center[0]) ** 2 + (x - center[1]) ** 2 < radius**2] = rng.integers(0, 256, 3)
        Image.fromarray(image).save(folder / f"{index:03}.png")
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("images"))


def configure(folder, out, **changes):
    return TrainAutoencoderConfig(**{"images": (folder,), "out": out, "steps": 4, **TINY, **changes})


def weights(out):
    from safetensors.torch import load_file

    return load_file(out / "autoencoder" / "diffusion_pytorch_model.safetensors")


def lines(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def without_time(records):
    return [{key: value for key, value in record.items() if key != "seconds"} for record in records]


def test_it_learns_and_leaves_a_usable_autoencoder(tmp_path, images):
    changes = {
        "steps": 60,
        "batch_size": 8,
        "learning_rate": 1e-2,
        "optimizer": "adamw",
        "kl_weight": 0.0,
        "thumbnail_weight": 0.0,
        "ema": 0.9,
        "evaluate_every": 20,
    }
    out = module.run(configure(images, tmp_path / "run", validation=(images,), **changes))
    manifest = json.loads((out / "manifest.json").read_text())
    losses = [line["loss"] for line in lines(out) if "loss" in line]
    assert np.mean(losses[-10:]) < 0.6 * losses[0]
    assert manifest["steps"] == 60 and manifest["images"] == 24 and manifest["images_held_out"] == 24
    measured = {line["step"]: line["held_out_psnr"] for line in lines(out) if "held_out_psnr" in line}
    assert list(measured) == [20, 40, 60] and measured[60] > measured[20] + 1
    assert manifest["held_out_psnr"] == pytest.approx(measured[60], abs=1e-3)

    autoencoder = Autoencoder.from_pretrained(out)
    assert autoencoder.factor == 2 and autoencoder.channels == 4
    assert autoencoder.fingerprint == manifest["fingerprint"]
    # The recorded scaling factor brings the latents of these images to unit variance, roughly.
    images = torch.stack([to_tensor(np.asarray(Image.open(path))[None])[0] for path in sorted(images.iterdir())])
    spread = autoencoder.moments(images)[:, :4].std().item() * autoencoder.vae.config["scaling_factor"]
    assert 0.5 < spread < 1.5
    with Image.open(out / "reconstructions.png") as grid:
        assert grid.size[0] > 16 and grid.mode == "RGB"


def test_the_same_command_again_changes_nothing(tmp_path, images):
    config = configure(images, tmp_path / "run")
    out = module.run(config)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert module.run(config) == out
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the command catches it."""


def test_killed_and_resumed_equals_uninterrupted(tmp_path, images, monkeypatch):
    whole = module.run(configure(images, tmp_path / "whole", steps=8))
    broken = configure(images, tmp_path / "broken", steps=8, checkpoint_minutes=1e-9)
    original = module.loss_terms
    calls = []

    def die_in_the_sixth_step(*arguments):
        calls.append(1)
        if len(calls) == 6:
            raise Killed
        return original(*arguments)

    monkeypatch.setattr(module, "loss_terms", die_in_the_sixth_step)
    with pytest.raises(Killed):
        module.run(broken)
    monkeypatch.undo()
    kept = sorted((broken.out / "checkpoints").iterdir())
    assert [path.name for path in kept] == ["step-00000004", "step-00000005"]
    weights_file = kept[-1] / "model.safetensors"
    weights_file.write_bytes(weights_file.read_bytes()[:100])  # and the last checkpoint is damaged
    assert not (broken.out / "manifest.json").exists()

    module.run(broken)
    assert all(torch.equal(tensor, weights(whole)[name]) for name, tensor in weights(broken.out).items())
    assert without_time(lines(broken.out)) == without_time(lines(whole))


@pytest.mark.slow
def test_sigterm_writes_a_checkpoint_first(tmp_path, images):
    out = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "ifuvit",
        "make-standin",
        "autoencoder",
        "--images",
        str(images),
        "--out",
        str(out),
    ]
    command += ["--size", "16", "--channels", "8", "8", "--batch-size", "4", "--steps", "100000", "--log-every", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        deadline = time.monotonic() + 120
        while not ((out / "metrics.jsonl").exists() and (out / "metrics.jsonl").stat().st_size):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        _, text = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGTERM
    assert b"the same command resumes there" in text and b"Traceback" not in text
    (checkpoint,) = (out / "checkpoints").iterdir()
    assert int(checkpoint.name.removeprefix("step-")) == lines(out)[-1]["step"]
    assert not list(out.rglob("*.tmp"))


def test_minutes_end_a_run_and_lower_the_learning_rate(tmp_path, images):
    out = module.run(configure(images, tmp_path / "run", steps=None, minutes=0.03))
    rates = [line["rate_share"] for line in lines(out) if "rate_share" in line]
    assert len(rates) > 3 and rates[-1] < 0.2 * max(rates)
    assert 1.5 < json.loads((out / "manifest.json").read_text())["training_seconds"] < 30


def test_muon_has_the_kernels_and_adamw_the_rest(tmp_path, images):
    vae = module.build_vae(configure(images, tmp_path / "run"))
    adamw, muon = module._optimizers(vae, configure(images, tmp_path / "run", optimizer="muon"))
    kernels = {id(p) for p in muon.param_groups[0]["params"]}
    assert {id(p) for p in adamw.param_groups[0]["params"]} == {id(p) for p in vae.parameters()} - kernels
    assert id(vae.encoder.down_blocks[0].resnets[0].conv1.weight) in kernels
    assert id(vae.encoder.conv_in.weight) not in kernels and id(vae.decoder.conv_out.weight) not in kernels
    losses = [
        line["loss"] for line in lines(module.run(configure(images, tmp_path / "run", steps=40))) if "loss" in line
    ]
    assert np.mean(losses[-5:]) < 0.5 * losses[0]
    (alone,) = module._optimizers(vae, configure(images, tmp_path / "run", optimizer="adamw"))
    assert len(alone.param_groups[0]["params"]) == len(list(vae.parameters()))


def test_latents_that_scale_as_the_images_do_have_no_equivariance_error():
    """With a decoder that enlarges: thumbnails as latents follow the image to any size."""
    enlarge = SimpleNamespace(
        decode=lambda z: SimpleNamespace(sample=nn.functional.interpolate(z[:, :3], scale_factor=4.0, mode="bilinear"))
    )
    ramp = torch.linspace(-1, 1, 64).expand(2, 3, 64, 64)
    thumbnail = nn.functional.avg_pool2d(ramp, 4)

    def error(latents):
        return [
            module.equivariance_error(enlarge, latents, ramp, np.random.default_rng(seed)).item()  # type: ignore[arg-type]
            for seed in range(4)
        ]

    assert max(error(thumbnail)) < 1e-3 and error(thumbnail + 0.5) == pytest.approx([0.25] * 4, rel=0.05)
    assert error(thumbnail) == error(thumbnail) and len(set(error(thumbnail))) > 1


def test_the_decoder_alone_learns_and_latents_stay(tmp_path, images):
    first = module.run(configure(images, tmp_path / "first"))
    second = module.run(
        configure(images, tmp_path / "second", init_from=str(first), decoder_only=True, feature_weight=0.0)
    )
    before, after = (Autoencoder.from_pretrained(out).vae.state_dict() for out in (first, second))
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"decoder", "post_quant_conv"}
    with pytest.raises(InputError, match="--decoder-only: requires --init-from"):
        configure(images, tmp_path / "third", decoder_only=True)


def test_features_are_those_that_distances_are_measured_over():
    from ifuvit.metrics.distances.feature_networks import load_feature_network

    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    error = module.PerceptualError(torch.device("cpu"))
    depths = error.features(images / 127.5 - 1)
    assert [tuple(depth.shape[2:]) for depth in depths] == [(32, 32), (16, 16), (8, 8), (4, 4), (2, 2), ()]
    torch.testing.assert_close(depths[-1], load_feature_network("effnet-lite0")(images), rtol=1e-3, atol=1e-4)


def test_the_error_of_features_is_relative_and_pulls_the_first_argument():
    error = module.PerceptualError(torch.device("cpu"))
    targets = torch.rand(2, 3, 64, 64) * 2 - 1
    blurred = nn.functional.avg_pool2d(targets, 3, 1, 1).requires_grad_()
    loss = error(blurred, targets)
    loss.backward()
    assert error(targets, targets).item() == 0 and 0.01 < loss.item() < 2
    closer = blurred.detach() - 0.01 / blurred.grad.abs().max() * blurred.grad
    assert error(closer, targets) < loss


def test_thumbnail_is_the_mean_color_of_each_cell():
    images = torch.rand(2, 3, 8, 8) * 2 - 1
    thumbnail = images.unflatten(3, (2, 4)).unflatten(2, (2, 4)).mean((3, 5))  # 2x2 cells of 4x4 pixels
    mean = torch.cat([thumbnail, torch.randn(2, 1, 2, 2)], 1)  # the fourth channel is free
    logvar = torch.zeros(2, 4, 2, 2)
    assert module.loss_terms(images, images, mean, logvar, "squared")["thumbnail"].item() == pytest.approx(0, abs=1e-10)
    assert module.loss_terms(images, images, mean + 0.5, logvar, "squared")["thumbnail"].item() == pytest.approx(0.25)


def test_psnr_and_kl_against_their_definitions():
    assert module.psnr(4.0) == pytest.approx(0) and module.psnr(0.04) == pytest.approx(20)
    images = torch.rand(2, 3, 8, 8) * 2 - 1
    mean, logvar = torch.randn(2, 4, 2, 2), torch.randn(2, 4, 2, 2)
    terms = module.loss_terms(images + 0.1, images, mean, logvar, "absolute")
    assert terms["pixels"].item() == pytest.approx(0.1, rel=1e-4) and terms["mse"].item() == pytest.approx(
        0.01, rel=1e-4
    )
    assert terms["gradient"].item() == pytest.approx(0, abs=1e-6)  # a constant error has no edges
    assert module.loss_terms(images + 0.1, images, mean, logvar, "squared")["pixels"].item() == pytest.approx(
        0.01, rel=1e-4
    )
    edge = images.clone()
    edge[..., :4] += 0.1  # one vertical edge among the seven horizontal differences
    expected = {"absolute": 0.1 / 7, "squared": 0.01 / 7}
    for error, value in expected.items():
        terms_of_edge = module.loss_terms(edge, images, mean, logvar, error)
        assert terms_of_edge["gradient"].item() == pytest.approx(value, rel=1e-3)
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    expected = DiagonalGaussianDistribution(torch.cat([mean, logvar], dim=1)).kl().mean()
    torch.testing.assert_close(terms["kl"], expected)


def test_evaluate_measures_what_is_reconstructed(images):
    config = configure(images, images)
    vae = build_vae(config).eval()
    array = np.stack([np.asarray(Image.open(path)) for path in sorted(images.iterdir())[:5]])
    measured = module.evaluate(vae, array, batch_size=2)
    images = to_tensor(array)
    with torch.no_grad():
        posterior = vae.encode(images).latent_dist
        remade = ((vae.decode(posterior.mean).sample.clamp(-1, 1) + 1) * 127.5).round().numpy().transpose(0, 2, 3, 1)
    error = ((remade - array.astype(np.float64)) ** 2).mean()
    assert measured["held_out_psnr"] == pytest.approx(10 * np.log10(255**2 / error), abs=1e-3)
    samples = torch.cat([posterior.sample() for _ in range(50)])
    assert measured["latent_std"] == pytest.approx(samples.std().item(), rel=0.03)


def test_initial_weights_depend_on_the_seed_alone(images):
    first, again, other = (build_vae(configure(images, images, seed=seed)).encoder.conv_in.weight for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_default_network_is_small_and_has_no_attention(images):
    vae = build_vae(TrainAutoencoderConfig(images=(images,), out=images))
    assert 0.6e6 < sum(parameter.numel() for parameter in vae.parameters()) < 0.7e6
    assert not any("Attention" in type(module).__name__ for module in vae.modules())
    assert vae.encode(torch.zeros(1, 3, 64, 64)).latent_dist.mean.shape == (1, 4, 16, 16)


def test_images_in_a_memory_map_give_the_same(tmp_path, images):
    small = module.run(configure(images, tmp_path / "memory"))
    mapped = module.run(configure(images, tmp_path / "mapped", memory_gib=1e-6))
    assert all(torch.equal(tensor, weights(small)[name]) for name, tensor in weights(mapped).items())
    assert not (mapped / "images.u8").exists()


def test_held_out_images_are_not_trained_on(tmp_path, images):
    manifest = json.loads((module.run(configure(images, tmp_path / "run")) / "manifest.json").read_text())
    assert manifest["images"] == 22 and manifest["images_held_out"] == 2


def test_larger_images_of_varied_shape_and_a_validation_folder(tmp_path, images):
    varied = tmp_path / "varied"
    for index, shape in enumerate([(16, 16), (40, 24), (17, 33)]):
        (varied / f"d{index}").mkdir(parents=True)
        Image.new("RGBA", shape, (200, 30, 40, 128)).save(varied / f"d{index}" / "a.png")
    out = module.run(configure(images, tmp_path / "run", images=(varied, images), validation=(images,), steps=2))
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["images"] == 27 and manifest["images_held_out"] == 24


def test_bf16_runs_and_keeps_fp32_weights(tmp_path, images):
    out = module.run(configure(images, tmp_path / "run", precision="bf16"))
    assert json.loads((out / "manifest.json").read_text())["precision"] == "bf16"
    assert all(tensor.dtype == torch.float32 for tensor in weights(out).values())


def test_init_from(tmp_path, images):
    first = module.run(configure(images, tmp_path / "first"))
    config = configure(images, tmp_path / "second", init_from=str(first), learning_rate=1e-9, muon_learning_rate=1e-9)
    second = module.run(config)
    for name, tensor in weights(second).items():
        torch.testing.assert_close(tensor, weights(first)[name], rtol=0, atol=1e-6)
    manifest = json.loads((second / "manifest.json").read_text())
    assert manifest["init_from_fingerprint"] == Autoencoder.from_pretrained(first).fingerprint
    # Going on needs only the run's own checkpoint, and still knows where it came from.
    (second / "manifest.json").unlink()
    (first / "autoencoder").rename(tmp_path / "moved")
    module.run(config)
    assert (
        json.loads((second / "manifest.json").read_text())["init_from_fingerprint"] == manifest["init_from_fingerprint"]
    )
    with pytest.raises(InputError, match="another shape"):
        module.run(configure(images, tmp_path / "third", init_from=str(tmp_path / "moved"), channels=(8, 16)))


def test_nan_stops_names_the_step_and_keeps_the_checkpoint(tmp_path, images, monkeypatch):
    config = configure(images, tmp_path / "run", steps=8, checkpoint_minutes=1e-9)
    original, calls = module.loss_terms, []

    def poison_the_third_step(*arguments):
        calls.append(1)
        terms = original(*arguments)
        return {**terms, "kl": terms["kl"] * float("nan")} if len(calls) == 3 else terms

    monkeypatch.setattr(module, "loss_terms", poison_the_third_step)
    with pytest.raises(InputError, match=r"loss is nan at step 3\b"):
        module.run(config)
    assert [path.name for path in sorted((config.out / "checkpoints").iterdir())] == [
        "step-00000001",
        "step-00000002",
    ]
    monkeypatch.undo()
    module.run(config)
    assert all(tensor.isfinite().all() for tensor in weights(config.out).values())


def test_a_run_of_another_configuration(tmp_path, images):
    module.run(configure(images, tmp_path / "run", steps=2))
    for change, words in [({"batch_size": 5}, "batch size 4, not 5"), ({"channels": (8, 16)}, "channels")]:
        with pytest.raises(InputError, match=words):
            module.run(configure(images, tmp_path / "run", **{"steps": 2, **change}))
    with pytest.raises(InputError, match="other images"):
        module.run(configure(draw(tmp_path / "others", seed=1), tmp_path / "run", steps=2))


def test_what_a_killed_start_leaves_is_no_obstacle(tmp_path, images):
    """The directory was made, and the images began to be spilled, before there was a record."""
    (tmp_path / "run").mkdir()
    for name in ("images.u8", ".config.json.abc.tmp"):
        (tmp_path / "run" / name).write_bytes(b"half")
    assert (module.run(configure(images, tmp_path / "run", steps=1)) / "manifest.json").is_file()


def test_other_initial_weights_are_another_run(tmp_path, images):
    first, second = (module.run(configure(images, tmp_path / name, steps=1, seed=n)) for n, name in enumerate("ab"))
    config = configure(images, tmp_path / "run", init_from=str(first), steps=1)
    module.run(config)
    shutil.rmtree(config.out / "checkpoints")
    shutil.rmtree(first / "autoencoder")
    (second / "autoencoder").rename(first / "autoencoder")
    with pytest.raises(InputError, match="was begun with other init from"):
        module.run(config)


def test_a_directory_of_something_else(tmp_path, images):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "love.txt").write_text("dear")
    with pytest.raises(InputError, match="holds something else already"):
        module.run(configure(images, tmp_path / "letters"))
    (tmp_path / "letters" / "config.json").write_text("{}")
    with pytest.raises(InputError, match="holds something else already"):
        module.run(configure(images, tmp_path / "letters"))
    with pytest.raises(InputError, match="is a file; give a directory"):
        module.run(configure(images, tmp_path / "letters" / "love.txt"))


def test_unreadable_checkpoints_are_not_passed_over(tmp_path, images):
    out = module.run(configure(images, tmp_path / "run"))
    (out / "manifest.json").unlink()
    for path in (out / "checkpoints").glob("*/model.safetensors"):
        path.write_bytes(b"nothing")
    with pytest.raises(InputError, match="no readable checkpoint"):
        module.run(configure(images, tmp_path / "run"))


def test_images_that_cannot_be_used(tmp_path, images):
    (tmp_path / "empty").mkdir()
    draw(tmp_path / "small", count=2, size=15)
    draw(tmp_path / "single", count=1)
    draw(tmp_path / "broken", count=2)
    (tmp_path / "broken" / "001.png").write_bytes(b"not an image")
    for name, words in [
        ("absent", "no such folder"),
        ("empty", "holds no images"),
        ("small", "15x15 pixels; smaller than --size 16"),
        ("single", "at least two"),
        ("broken", "001.png: not a readable image"),
    ]:
        with pytest.raises(InputError, match=words) as error:
            module.run(configure(tmp_path / name, tmp_path / "run"))
        assert name in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        {"size": 15},
        {"size": 0},
        {"channels": ()},
        {"channels": (6, 8)},
        {"steps": 0},
        {"minutes": -1.0},
        {"minutes": float("nan")},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"learning_rate": float("inf")},
        {"thumbnail_weight": float("nan")},
        {"checkpoint_minutes": float("inf")},
        {"kl_weight": -1.0},
        {"ema": 1.0},
        {"seed": -1},
        {"held_out": 0},
        {"images": ()},
    ],
)
def test_bad_numbers(tmp_path, images, change):
    with pytest.raises(InputError, match="--" + next(iter(change)).split("_")[0]):
        configure(images, tmp_path / "run", **change)


def test_an_unknown_device(tmp_path, images):
    with pytest.raises(InputError, match="cannot be used"):
        module.run(configure(images, tmp_path / "run", device="abacus"))


def test_command_line(tmp_path, images, capsys):
    arguments = ["--images", str(images), "--out", str(tmp_path / "run"), "--size", "16", "--channels", "8", "8"]
    main(["autoencoder", *arguments, "--steps", "2", "--batch-size", "2", "--device", "cpu"])
    assert "dB on held-out images after 2 steps" in capsys.readouterr().out
    with pytest.raises(InputError, match="--steps"):
        main(["autoencoder", *arguments, "--steps", "many"])
