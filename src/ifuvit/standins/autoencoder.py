"""`ifuvit train-autoencoder`: train a small KL autoencoder on folders of images.

Settings, network and loss are in `ifuvit.standins.autoencoder_fit`. Every random draw depends on (seed, step) alone, so a
run that was interrupted and goes on ends with the same weights, bit for bit on CPU, unless `--minutes` ties the schedule
to the clock.
"""

import json
import math
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ifuvit.data.images import to_images, to_tensor
from ifuvit.standins.autoencoder_fit import (
    DEFAULT_STEPS,
    State,
    TrainAutoencoderConfig,
    evaluate,
    learning_rate,
    loss_terms,
    psnr,
    resume,
    save_checkpoint,
)
from ifuvit.standins.image_arrays import find_images, fingerprint, load_images
from ifuvit.training.distributed import Stop, graceful_shutdown
from ifuvit.utils.config import to_dict
from ifuvit.utils.devices import find_device, use_bf16
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import atomic_directory, atomic_path, now, read_json, write_json, write_manifest

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

COMMAND = "train-autoencoder"

# Fields that may differ between the command that began a run and the one that goes on with it. The images are
# compared by their pixels, not by where they lie.
_FREE = {"images", "validation", "out", "device", "memory_gib", "checkpoint_minutes", "log_every"}


def run(config: TrainAutoencoderConfig) -> Path:
    """Train, and return the run directory: autoencoder/ (a diffusers folder), reconstructions.png, manifest.json,
    metrics.jsonl, config.json and checkpoints/.

    A finished run is returned as it is.

    Raises:
        InputError: images or a run directory that cannot be used, or a loss that is no longer finite (the step is
            named, and the last checkpoint is kept).
    """
    from tqdm import tqdm

    from ifuvit.encoders.autoencoder import Autoencoder, save_vae
    from ifuvit.training.checkpoint import trim_log

    started = now()
    begun_with = _check_run(config)
    device = find_device(config.device)
    # Measured on two Zen 5 cores, batch 48: 0.34 s a step in bf16, 0.60 s in fp32. channels_last made the fp32 step a
    # little faster (0.50 s) and the bf16 step slower (0.52 s), so it is not used.
    half = use_bf16(config.precision, device)
    files = find_images(config.images)
    validation_files = find_images(config.validation)[: config.held_out] if config.validation else []
    if len(files) < 2 and not validation_files:
        raise InputError(f"{config.images[0]}: holds a single image; training needs at least two")
    config.out.mkdir(parents=True, exist_ok=True)
    spill = config.out / "images.u8"
    images = load_images(files, config.size, config.memory_gib, spill)
    if validation_files:
        held_out = load_images(validation_files, config.size, math.inf, spill)
        train = np.arange(len(files))
    else:
        order = np.random.default_rng(config.seed).permutation(len(files))
        count = min(config.held_out, max(1, len(files) // 10))
        held_out, train = np.asarray(images[np.sort(order[:count])]), np.sort(order[count:])
    images_sha256 = fingerprint(images, held_out)
    if begun_with is None:
        record = {"command": COMMAND, "config": to_dict(config), "images_sha256": images_sha256}
        write_json(config.out / "config.json", record)
    elif begun_with != images_sha256:
        raise InputError(f"{config.out}: this run was begun with other images; give the same ones or another --out")
    if (config.out / "manifest.json").exists():
        return config.out

    state = State(config, device)
    resume(state, config.out)
    trim_log(config.out / "metrics.jsonl", state.step)
    parameters = sum(parameter.numel() for parameter in state.vae.parameters())
    factor = 2 ** (len(config.channels) - 1)
    print(
        f"{parameters:,} parameters; {config.size}x{config.size} -> {config.latent_channels}x{config.size // factor}"
        f"x{config.size // factor}; {len(train)} images, {len(held_out)} held out; {device}, "
        f"{'bf16 autocast' if half else 'fp32'}" + (f"; going on from step {state.step}" if state.step else ""),
        file=sys.stderr,
    )
    bar = tqdm(total=1.0, initial=0.0, bar_format="{percentage:3.0f}%|{bar:20}| {desc}", mininterval=0.5)
    with graceful_shutdown() as stop, bar, open(config.out / "metrics.jsonl", "a", encoding="utf-8") as log:
        _train(config, state, images, train, held_out, half, stop, bar, log)

    measured = evaluate(state.average, held_out, config.batch_size)
    state.average.register_to_config(scaling_factor=round(1 / measured["latent_std"], 5))
    with atomic_directory(config.out / "autoencoder") as temporary:
        save_vae(state.average, temporary)
    _write_grid(state.average, held_out, config.out / "reconstructions.png")
    spill.unlink(missing_ok=True)
    write_manifest(
        config.out,
        COMMAND,
        to_dict(config),
        started=started,
        seed=config.seed,
        images=len(train),
        images_held_out=len(held_out),
        images_sha256=images_sha256,
        parameters=parameters,
        steps=state.step,
        training_seconds=round(state.seconds, 1),
        precision="bf16" if half else "fp32",
        device=str(device),
        init_from_fingerprint=state.init_from_fingerprint or None,
        fingerprint=Autoencoder(state.average, reference=str(config.out)).fingerprint,
        **{name: round(value, 4) for name, value in measured.items()},
    )
    return config.out


def _train(
    config: TrainAutoencoderConfig,
    state: State,
    images: np.ndarray,
    train: np.ndarray,
    held_out: np.ndarray,
    half: bool,
    stop: Stop,
    bar: Any,
    log: Any,
) -> None:
    import torch

    device = state.vae.device
    steps = config.steps or (None if config.minutes else DEFAULT_STEPS)
    weights: list[torch.Tensor] = list(state.vae.parameters())
    averages: list[torch.Tensor] = list(state.average.parameters())
    began, before, first = time.monotonic(), state.seconds, state.step
    saved, last_psnr = began, None

    def progress(ahead: int) -> float:
        by_steps = (state.step + ahead) / steps if steps else 0.0
        return max(by_steps, state.seconds / (60 * config.minutes) if config.minutes else 0.0)

    begun_at = progress(0)
    while progress(0) < 1:
        rate = learning_rate(config.learning_rate, progress(1))
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        rng = np.random.default_rng([config.seed, state.step])
        batch = train[rng.integers(0, len(train), config.batch_size)]
        targets = to_tensor(images[batch]).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            posterior = state.vae.encode(targets).latent_dist  # type: ignore[union-attr]
            mean, logvar = posterior.mean.float(), posterior.logvar.float()
            noise = torch.from_numpy(rng.standard_normal(mean.shape, np.float32)).to(device)
            reconstruction = state.vae.decode(mean + (logvar / 2).exp() * noise).sample.float()  # type: ignore[union-attr]
        terms = loss_terms(reconstruction, targets, mean, logvar, config.error)
        loss = (
            terms["pixels"]
            + config.gradient_weight * terms["gradient"]
            + config.thumbnail_weight * terms["thumbnail"]
            + config.kl_weight * terms["kl"]
        )
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(weights, 1.0)
        for name, value in (("loss", loss), ("gradient", norm)):
            if not torch.isfinite(value):
                raise InputError(
                    f"the {name} is {value.item()} at step {state.step + 1}; training stopped, the last checkpoint in "
                    f"{config.out} is kept; try a learning rate below {config.learning_rate:g} or --precision fp32"
                )
        state.optimizer.step()
        state.step += 1
        decay = min(config.ema, state.step / (state.step + 9))
        with torch.no_grad():
            torch._foreach_lerp_(averages, weights, 1 - decay)
        state.seconds = before + time.monotonic() - began

        done = progress(0) >= 1
        values = {name: value.item() for name, value in terms.items()}
        if state.step % config.log_every == 0 or done:
            line = {"step": state.step, "loss": loss.item(), **values, "psnr": psnr(values["mse"])}
            line |= {"learning_rate": rate, "gradient_norm": norm.item(), "seconds": round(state.seconds, 2)}
            log.write(json.dumps(line) + "\n")
        if state.step % config.evaluate_every == 0 or done:
            measured = evaluate(state.average, held_out, config.batch_size)
            last_psnr = measured["held_out_psnr"]
            log.write(json.dumps({"step": state.step, **measured}) + "\n")
            state.seconds = before + time.monotonic() - began
        log.flush()
        fraction = min(progress(0), 1.0)
        left = (state.seconds - before) * (1 - fraction) / max(fraction - begun_at, 1e-9)
        bar.n = fraction
        bar.set_description_str(
            f"step {state.step} loss {loss.item():.4f} psnr {psnr(values['mse']):.2f}"
            + (f" held-out {last_psnr:.2f} dB" if last_psnr is not None else " dB")
            + f" {(state.step - first) / max(state.seconds - before, 1e-9):.2f} it/s, {left / 60:.1f} min left"
        )
        if done or stop.number or time.monotonic() - saved > 60 * config.checkpoint_minutes:
            save_checkpoint(state, config.out)
            saved = time.monotonic()
        if stop.number and not done:
            print(f"\nstopped at step {state.step}; the same command goes on from there", file=sys.stderr)
            if stop.number == signal.SIGINT:
                raise KeyboardInterrupt
            sys.exit(128 + stop.number)


def _check_run(config: TrainAutoencoderConfig) -> str | None:
    """Make sure that `config.out` is new, or a run of this configuration.

    Returns:
        The hash of the images the run was begun with; None for a new run.
    """
    out = config.out
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; give a directory to --out")
    if not (out / "config.json").is_file():
        if out.is_dir() and any(path.name != "images.u8" for path in out.iterdir()):
            raise InputError(f"{out}: is not empty and is not a run of {COMMAND}; give another --out")
        return None
    record = read_json(out / "config.json")
    if not isinstance(record, dict) or record.get("command") != COMMAND:
        raise InputError(f"{out}: is not a run of {COMMAND}; give another --out")
    for key, mine in to_dict(config).items():
        if key not in _FREE and record["config"].get(key) != mine:
            raise InputError(
                f"{out}: this run was begun with {key} {record['config'].get(key)!r}, not {mine!r}; give the same value "
                "or another --out"
            )
    return record["images_sha256"]


def _write_grid(vae: "AutoencoderKL", images: np.ndarray, path: Path, columns: int = 8, rows: int = 2) -> None:
    """A PNG: pairs of rows, held-out images above their reconstructions."""
    import torch
    from PIL import Image

    images = np.asarray(images[: columns * rows])
    with torch.no_grad():
        latents = vae.encode(to_tensor(images).to(vae.device)).latent_dist.mean  # type: ignore[union-attr]
        remade = to_images(vae.decode(latents).sample)  # type: ignore[union-attr]
    size, gap = images.shape[1], 2
    lines = math.ceil(len(images) / columns)
    sheet = np.full((2 * lines * (size + gap) + gap, columns * (size + gap) + gap, 3), 255, np.uint8)
    for index in range(len(images)):
        line, column = divmod(index, columns)
        left = gap + column * (size + gap)
        for offset, source in enumerate((images, remade)):
            top = gap + (2 * line + offset) * (size + gap)
            sheet[top : top + size, left : left + size] = source[index]
    with atomic_path(path) as temporary:
        Image.fromarray(sheet).save(temporary, format="PNG")
