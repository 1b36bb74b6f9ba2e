"""`ifuvit train`: train a backbone on prepared features, on one processor or many machines."""

import json
import math
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import tyro

from ifuvit.artifacts import now, read_json, write_json, write_manifest
from ifuvit.cli import parse
from ifuvit.config import to_dict
from ifuvit.errors import InputError
from ifuvit.model.presets import presets
from ifuvit.model.uvit import IFUViTConfig

if TYPE_CHECKING:
    import numpy as np
    import torch
    from accelerate import Accelerator
    from torch import Tensor, nn

    from ifuvit.data.features import Features
    from ifuvit.encoders.text_encoder import TextEncoder
    from ifuvit.model.uvit import IFUViT


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Train a backbone on prepared features. The same command again resumes where the run stopped; --steps may grow."""

    data: Path
    """Features that `ifuvit prepare` wrote."""
    out: Path
    """Run directory."""
    model: Annotated[IFUViTConfig, tyro.conf.OmitArgPrefixes] = presets["cross-intermediate"]
    val_data: Path | None = None
    """Features for the validation loss; default: some pictures of --data are held out of training."""
    init_from: str | None = None
    """Fine-tune: start from the weights of this model (shipped name, run, pipeline or model directory)."""

    steps: int = 1_000_000
    """Optimizer steps."""
    batch_size: int = 256
    """Pictures a step, over all processes."""
    gradient_accumulation: int = 1
    """Parts into which each process splits its share of a batch to save memory."""
    learning_rate: float = 2e-4
    """Peak learning rate of AdamW."""
    betas: tuple[float, float] = (0.9, 0.9)
    """AdamW's betas."""
    weight_decay: float = 0.03
    """Weight decay, on every parameter as U-ViT does."""
    warmup_steps: int = 5_000
    """Steps of linear warm-up."""
    decay: Literal["none", "linear", "cosine"] = "none"
    """How the learning rate falls from the end of warm-up to the last step."""
    final_learning_rate: float = 0.0
    """Where it falls to, as a share of the peak."""
    gradient_clip: float | None = None
    """Largest norm of the gradients; default: no clipping."""
    caption_dropout: float = 0.1
    """Probability that the null caption replaces a caption, for classifier-free guidance."""
    snr_gamma: float | None = None
    """Weight timesteps by min(SNR, gamma) / SNR; default: the paper's plain mean."""
    ema: float = 0.9999
    """Decay of the averaged weights, from which pictures are drawn."""
    ema_ramp: bool = False
    """Let that decay rise from 0.1, so that short runs show something."""
    seed: int = 1234
    """Seed of the initial weights and of every draw."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """bf16 is autocast with fp32 weights, gradients and optimizer."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a third more time."""

    log_every: int = 10
    """Steps between lines of metrics.jsonl."""
    validate_every: int = 5_000
    """Steps between validation losses; 0 is never."""
    validation_images: int = 1_000
    """Pictures for the validation loss."""
    save_every: int = 5_000
    """Steps between checkpoints."""
    keep_checkpoints: int = 2
    """Checkpoints to keep."""
    sample_every: int = 5_000
    """Steps between sample grids; 0 is never."""
    sample_prompts: tuple[str, ...] = ("a bus on a street", "two people", "three sheep in a field", "four red apples")
    """Prompts of the sample grid, two pictures each from fixed seeds."""
    workers: int | None = None
    """Loader processes of each training process; default: 0 on a CPU, else 4."""
    tensorboard: bool = False
    """Also log to TensorBoard, under OUT/tracking."""
    wandb: bool = False
    """Also log to Weights & Biases."""
    dry_run: bool = False
    """Print what would be trained and how long it would take, then stop."""

    def __post_init__(self) -> None:
        at_least_one = ("steps", "batch_size", "gradient_accumulation", "log_every", "save_every", "keep_checkpoints")
        for name in at_least_one:
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}: must be at least 1")
        for name in ("warmup_steps", "validate_every", "sample_every", "weight_decay", "seed", "validation_images"):
            if getattr(self, name) < 0:
                raise InputError(f"{name}={getattr(self, name)}: must not be negative")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise InputError(f"learning_rate={self.learning_rate}: must be positive")
        for name, value in (("ema", self.ema), ("betas", min(self.betas)), ("betas", max(self.betas))):
            if not 0 <= value < 1:
                raise InputError(f"{name}={getattr(self, name)}: must lie in [0, 1)")
        for name in ("caption_dropout", "final_learning_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name}={getattr(self, name)}: must lie in [0, 1]")
        for name in ("gradient_clip", "snr_gamma"):
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                raise InputError(f"{name}={getattr(self, name)}: must be positive")


# The embedded default learns in the hour of a laptop what the paper's recipe spreads over a million steps: a higher rate
# that falls to a twentieth, a shorter average, and more weight on the timesteps that decide layout and so count.
_OPENMOJI_RECIPE: dict[str, Any] = {
    "steps": 7_000,
    "batch_size": 64,
    "learning_rate": 1.5e-3,
    "betas": (0.9, 0.95),
    "warmup_steps": 300,
    "decay": "cosine",
    "final_learning_rate": 0.05,
    "snr_gamma": 5.0,
    "ema": 0.999,
    "ema_ramp": True,
    "validate_every": 1_000,
    "validation_images": 500,
    "save_every": 500,
    "sample_every": 1_000,
    "sample_prompts": ("a bus", "two people", "three sheep", "four apples", "five buses", "a lion left of a tree"),
}

# Fields in which a resumed command may differ from the one that began the run: what it reports and keeps, where it lies,
# and what only fits it to another machine. The data are compared by fingerprint.
_FREE = {
    "data", "val_data", "out", "steps", "log_every", "validate_every", "validation_images", "save_every",
    "keep_checkpoints", "sample_every", "sample_prompts", "workers", "tensorboard", "wandb", "dry_run",
    "gradient_accumulation", "gradient_checkpointing",
}  # fmt: skip


def default_config(preset: str) -> TrainConfig:
    """The recipe of a preset: the paper's, or for the `openmoji-` presets one for short runs on a CPU. `data` and `out`
    are left for the caller to replace."""
    if preset not in presets:
        raise InputError(f"unknown preset {preset!r}; the presets are {', '.join(presets)}")
    recipe = _OPENMOJI_RECIPE if preset.startswith("openmoji-") else {}
    return TrainConfig(data=Path(), out=Path(), model=presets[preset], **recipe)


def learning_rate_at(config: TrainConfig, step: int) -> float:
    """The learning rate of optimizer step `step`, counted from 0. It depends on nothing else, the number of processes
    least of all."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.decay == "none":
        return config.learning_rate
    progress = min((step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1), 1.0)
    left = 1 - progress if config.decay == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return config.learning_rate * (config.final_learning_rate + (1 - config.final_learning_rate) * left)


def run(config: TrainConfig) -> Path:
    """Train, or resume training. Under `accelerate launch` or `torchrun` all processes call it together.

    Returns:
        the run directory: config.json, metrics.jsonl, checkpoints/, samples/, and pipeline/ with the averaged weights,
        which `ifuvit generate --model` takes.

    Raises:
        InputError: settings or data that do not fit, or a loss or gradient that is no number.
        SystemExit: 143 or 130 after SIGTERM or SIGINT, when the checkpoint has been written.
    """
    import torch
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from safetensors import SafetensorError
    from torch import Tensor, nn
    from torch.utils.data import DataLoader
    from tqdm import tqdm

    from ifuvit.data.features import Features
    from ifuvit.diffusion.loss import denoising_loss
    from ifuvit.model.uvit import IFUViT
    from ifuvit.training import checkpoint
    from ifuvit.training.batches import Batches
    from ifuvit.training.ema import EMA

    # The data: prepared features, some of them held out where there are no others for validation.
    started = now()
    features = Features.open(config.data)
    val_features = features if config.val_data is None else Features.open(config.val_data)
    _check_features(config, features, config.data)
    if val_features is not features:
        _check_same_encoders(features, val_features)
    train_pictures, val_pictures = _split(config, features, val_features)

    # The processes. accelerate finds out about devices, ranks and launchers.
    AcceleratorState._reset_state(True)  # a second run in one interpreter may have another precision
    trackers = [name for name in ("tensorboard", "wandb") if getattr(config, name)]
    _check_installed(trackers)
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),
        mixed_precision="bf16" if config.precision == "bf16" else "no",
        log_with=trackers or None,  # type: ignore[arg-type]
        project_dir=config.out / "tracking" if trackers else None,
    )
    main, device, processes = accelerator.is_main_process, accelerator.device, accelerator.num_processes
    _check_launch(accelerator)
    parts = config.gradient_accumulation
    if config.batch_size % (processes * parts):
        raise InputError(
            f"batch_size={config.batch_size} is not a multiple of {processes} processes x gradient_accumulation={parts}"
        )

    # The model, its average and the optimizer.
    torch.manual_seed(config.seed)
    model: nn.Module = IFUViT(config.model)
    model.gradient_checkpointing = config.gradient_checkpointing
    loaded = None
    if config.init_from is not None and not checkpoint.saved_steps(config.out):
        loaded = _initialize(model, config.init_from)
    model.to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=config.learning_rate,
        betas=config.betas,
        weight_decay=config.weight_decay,
        fused=device.type in ("cpu", "cuda"),
    )
    model, prepared = accelerator.prepare(model, optimizer)
    optimizer = prepared.optimizer
    ema = EMA(model, config.ema, ramp=config.ema_ramp)
    text_encoder = None if features.text_mode == "states" else _text_encoder(features, device)
    _register_forward_methods(model)

    # Where the run stands.
    if main and not config.dry_run:
        _claim(config, features, len(train_pictures))
    accelerator.wait_for_everyone()
    saved, damaged = (None, []) if config.dry_run else checkpoint.read_newest(config.out)
    if main:
        for problem in damaged:
            print(f"passed over a damaged checkpoint: {problem}", file=sys.stderr)
    step, pending, seconds = 0, [], 0.0
    if saved is not None:
        checkpoint.restore(saved, model, ema, optimizer)
        step, pending, seconds = saved.state["step"], saved.state["pending"], saved.state["seconds"]
        del saved
    if main and not config.dry_run:
        checkpoint.trim_log(config.out / "metrics.jsonl", step)

    batches = Batches(
        features,
        train_pictures,
        seed=config.seed,
        batch_size=config.batch_size,
        caption_dropout=config.caption_dropout,
        rank=accelerator.process_index,
        world_size=processes,
    )

    def loss_of(batch: Mapping[str, Tensor]) -> Tensor:
        """The loss of a micro-batch; everything the network learns from is in this line and in `denoising_loss`."""
        noisy, text = _noisy(batch), _text_states(batch, text_encoder)
        predicted = model(noisy, batch["timesteps"], text, batch["text_mask"])
        return denoising_loss(predicted, batch["noise"], batch["timesteps"], config.snr_gamma)

    # One screen before the first step.
    trial = _trial(accelerator, model, batches, loss_of, parts)
    if main:
        print(_screen(config, features, len(train_pictures), accelerator, step, trial, loaded), file=sys.stderr)
    if config.dry_run:
        return config.out
    previews = _Previews(config, features, device) if main else None
    if trackers:
        accelerator.init_trackers("ifuvit", config=_flat(to_dict(config)))

    def settle(losses: list[tuple[int, Tensor, Tensor]]) -> None:
        """Average what the processes saw over the last steps, and stop if it is no number."""
        if losses:
            values = torch.stack([torch.stack([loss.float(), norm.float()]) for _, loss, norm in losses])
            values = cast(Tensor, accelerator.reduce(values, reduction="mean"))
            for (at, _, _), (loss, norm) in zip(losses, values.tolist(), strict=True):
                if not (math.isfinite(loss) and math.isfinite(norm)):
                    last = checkpoint.saved_steps(config.out)
                    raise InputError(
                        f"{config.out}: loss {loss}, gradient norm {norm} at step {at}; training has diverged. Lower "
                        f"learning_rate or set gradient_clip; "
                        + (f"the last good checkpoint is step {last[-1]}" if last else "there is no checkpoint yet")
                    )
                pending.append([at, loss, norm])
            losses.clear()

    def save() -> None:
        """Checkpoint, and the pipeline directory with the averaged weights."""
        settle(losses)
        state = {"step": step, "pending": pending, "seconds": seconds + time.monotonic() - begun}
        whole = checkpoint.gather(model, ema, optimizer, state)
        if main:
            try:
                checkpoint.write(config.out, step, whole, keep=config.keep_checkpoints)
                _write_pipeline(config, features, whole.ema)
            except SafetensorError as error:  # how safetensors reports a full disk
                raise InputError(f"{config.out}: cannot write the checkpoint of step {step}: {error}") from None
        accelerator.wait_for_everyone()

    # The loop. A batch depends on its step alone, so the loader simply starts at the present one.
    workers = config.workers if config.workers is not None else (0 if device.type == "cpu" else 4)
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=range(step, config.steps),  # type: ignore[arg-type]
        num_workers=workers,
        pin_memory=device.type == "cuda",
        worker_init_fn=_leave_signals,
    )
    metrics = open(config.out / "metrics.jsonl", "a", encoding="utf-8") if main else None
    bar = tqdm(
        total=config.steps,
        initial=step,
        desc="train",
        disable=not main,
        mininterval=0.5 if sys.stderr.isatty() else 30,
        dynamic_ncols=True,
    )
    losses: list[tuple[int, Tensor, Tensor]] = []
    begun = interval_begun = time.monotonic()
    waited, interval_first = 0.0, step
    parameters = list(model.parameters())
    model.train()
    with _noting_signals() as stop, bar:
        ready = time.monotonic()
        for batch in loader:
            waited += time.monotonic() - ready
            batch = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}

            # Forward and backward, in parts if memory asks for it.
            total = torch.zeros((), device=device)
            for part in range(parts):
                micro = {name: tensor.chunk(parts)[part] for name, tensor in batch.items()}
                with _gradients_meet(accelerator, model, last=part == parts - 1):
                    loss = loss_of(micro) / parts
                    accelerator.backward(loss)
                total += loss.detach()

            # Update.
            norm = _whole(accelerator.clip_grad_norm_(parameters, config.gradient_clip or math.inf))
            for group in optimizer.param_groups:
                group["lr"] = learning_rate_at(config, step)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            ema.update(step)
            step += 1
            losses.append((step, total, norm))

            # Report.
            if step % config.log_every == 0 or step == config.steps:
                settle(losses)
                elapsed = time.monotonic() - interval_begun
                line = {
                    "step": step,
                    "loss": sum(loss for _, loss, _ in pending) / len(pending),
                    "gradient_norm": sum(norm for _, _, norm in pending) / len(pending),
                    "learning_rate": learning_rate_at(config, step - 1),
                    "samples": step * config.batch_size,
                    "steps_per_second": (step - interval_first) / elapsed,
                    "data_wait": waited / elapsed,
                }
                pending.clear()
                if metrics is not None:
                    _log(metrics, line)
                    bar.set_postfix(loss=f"{line['loss']:.4f}", wait=f"{line['data_wait']:.0%}", refresh=False)
                if trackers:
                    accelerator.log({k: v for k, v in line.items() if k != "step"}, step=step)
                interval_begun, interval_first, waited = time.monotonic(), step, 0.0
            bar.update()

            # Validate, sample and save.
            last = step == config.steps
            paused = time.monotonic()
            if config.validate_every and (step % config.validate_every == 0 or last) and len(val_pictures):
                with ema.applied():
                    line = _validate(accelerator, model, val_features, val_pictures, config, text_encoder)
                if metrics is not None:
                    _log(metrics, {"step": step, **line})
                if trackers:
                    accelerator.log(_flat(line), step=step)
            stopping = _agreed(accelerator, stop, step)
            if step % config.save_every == 0 or last or stopping:
                save()
            if config.sample_every and (step % config.sample_every == 0 or last):
                average = checkpoint.gather_average(model, ema)
                if previews is not None:
                    previews.draw(average, step)
            if stopping:
                break
            interval_begun += time.monotonic() - paused
            ready = time.monotonic()

    if metrics is not None:
        metrics.close()
    if trackers:
        accelerator.end_training()
    if stop.number is not None:
        if main:
            print(
                f"stopped by {signal.Signals(stop.number).name} at step {step}; the same command resumes",
                file=sys.stderr,
            )
        raise SystemExit(128 + stop.number)
    if main:
        write_manifest(
            config.out,
            "train",
            to_dict(config),
            started=started,
            seed=config.seed,
            features=features.fingerprint,
            processes=processes,
            device=str(device),
            steps=step,
            training_seconds=round(seconds + time.monotonic() - begun, 1),
        )
    return config.out


# What the data and the run directory must fulfil.


def _check_features(config: TrainConfig, features: "Features", where: Path) -> None:
    model = config.model
    channels, size = features.latent_channels, features.latent_size
    if (channels, size) != (model.latent_channels, model.latent_size):
        raise InputError(
            f"{where}: latents are {channels}x{size}x{size}, the model wants {model.latent_channels}x"
            f"{model.latent_size}x{model.latent_size}; prepare pictures of another --size, or set --latent-size and "
            "--latent-channels"
        )
    tokens, width = features.text_encoder["max_tokens"], features.text_encoder["width"]
    if (tokens, width) != (model.text_tokens, model.text_width):
        raise InputError(
            f"{where}: text states are {tokens}x{width}, the model wants {model.text_tokens}x{model.text_width}; "
            f"prepare with another --text-encoder, or set --text-tokens and --text-width"
        )


def _check_same_encoders(features: "Features", others: "Features") -> None:
    for name in ("autoencoder", "text_encoder"):
        mine, theirs = getattr(features, name), getattr(others, name)
        if mine["fingerprint"] != theirs["fingerprint"]:
            raise InputError(
                f"{others.directory}: made with {name.replace('_', ' ')} {theirs['reference']!r}, the training data with "
                f"{mine['reference']!r} or another version of it; prepare both with the same"
            )


def _split(config: TrainConfig, features: "Features", val_features: "Features") -> "tuple[np.ndarray, np.ndarray]":
    """Rows for training and for validation."""
    import numpy as np

    if val_features is not features:
        return np.arange(len(features)), np.arange(min(config.validation_images, len(val_features)))
    order = np.random.default_rng(config.seed).permutation(len(features))
    held_out = min(config.validation_images, len(features) // 20)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def _claim(config: TrainConfig, features: "Features", pictures: int) -> None:
    """Make the run directory, or see that the one there belongs to this configuration and these data."""
    record = config.out / "config.json"
    mine = {"config": to_dict(config), "features": features.fingerprint, "training_pictures": pictures}
    if not record.is_file():
        if config.out.exists() and (not config.out.is_dir() or any(config.out.iterdir())):
            raise InputError(f"{config.out}: exists and is no training run; give another --out")
        (config.out / "checkpoints").mkdir(parents=True, exist_ok=True)
        write_json(record, mine)
        return
    theirs = read_json(record)
    if not (isinstance(theirs, dict) and theirs.keys() == mine.keys()):
        raise InputError(f"{config.out}: exists and is no training run; give another --out")
    for name in [field.name for field in fields(config) if field.name not in _FREE]:
        if theirs["config"].get(name) != mine["config"][name]:
            was, asked = _difference(theirs["config"].get(name), mine["config"][name])
            raise InputError(f"{config.out}: that run was begun with {name} {was}, not {asked}; give another --out")
    if theirs["features"] != mine["features"]:
        raise InputError(f"{config.out}: that run was begun with other features than {config.data}; give another --out")
    if theirs["training_pictures"] != pictures:
        raise InputError(
            f"{config.out}: that run was begun with {theirs['training_pictures']} pictures to train on, not {pictures}; "
            "give the same --val-data or --validation-images, or another --out"
        )
    write_json(record, mine)


def _difference(theirs: Any, mine: Any) -> tuple[Any, Any]:
    if not (isinstance(theirs, Mapping) and isinstance(mine, Mapping)):
        return theirs, mine
    differing = [key for key in mine if theirs.get(key) != mine[key]]
    return {key: theirs.get(key) for key in differing}, {key: mine[key] for key in differing}


def _initialize(model: "IFUViT", source: str) -> dict[str, list[str]]:
    """Copy the weights of another model where names and shapes agree. What cannot be: the inputs' own layers may differ
    (another text encoder, another latent size), any other difference in shape is a mistake."""
    import torch

    from ifuvit.model.uvit import IFUViT

    other = IFUViT.from_pretrained(source).state_dict()
    own = model.state_dict()
    report: dict[str, list[str]] = {"loaded": [], "new": [], "unused": [name for name in other if name not in own]}
    for name, tensor in own.items():
        same = name in other and other[name].shape == tensor.shape
        if name in other and not same and not name.startswith(("pos_embed", "context_embed")):
            raise InputError(
                f"{source}: {name} has shape {tuple(other[name].shape)}, this model {tuple(tensor.shape)}; --init-from "
                "needs a model of the same width"
            )
        report["loaded" if same else "new"].append(name)
        if same:
            with torch.no_grad():
                tensor.copy_(other[name])
    if not report["loaded"]:
        raise InputError(f"{source}: none of its weights fits this model")
    return report


def _check_installed(trackers: Sequence[str]) -> None:
    from importlib.util import find_spec

    for name in trackers:
        if find_spec(name) is None:  # accelerate would leave it out without a word
            raise InputError(f"--{name}: the package is not installed; pip install {name}")


def _check_launch(accelerator: "Accelerator") -> None:
    from accelerate.utils import DistributedType

    kind = accelerator.distributed_type
    if kind == DistributedType.FSDP and not accelerator.is_fsdp2:
        raise InputError("this launch asks for FSDP version 1; ask for version 2 (accelerate launch --fsdp_version 2)")
    if kind in (DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM):
        raise InputError(f"this launch asks for {kind.value}; train with plain data parallelism or with FSDP version 2")
    asked = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if asked and kind != DistributedType.FSDP and accelerator.num_processes > 1:
        raise InputError("this launch asks for FSDP, which accelerate does on GPUs only; leave out --use_fsdp")


# Parts of the loop.


def _whole(norm: Any) -> "Tensor":
    """The gradient norm as a plain tensor; under FSDP it is spread over the processes."""
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm


def _leave_signals(_: int) -> None:
    """A launcher may signal the whole process group. A loader process that died of it would take the checkpoint along,
    so they leave SIGTERM and SIGINT to the training process; they end when it does."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one with "outer/inner" names, which trackers show as groups; lists become strings."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{key}/"))
        else:
            flat[prefix + key] = json.dumps(value) if isinstance(value, list) else value
    return flat


def _text_encoder(features: "Features", device: Any) -> "TextEncoder":
    from ifuvit.encoders.text_encoder import TextEncoder

    encoder = TextEncoder.from_pretrained(
        features.text_encoder["reference"], max_tokens=features.text_encoder["max_tokens"], device=str(device)
    )
    if encoder.fingerprint != features.text_encoder["fingerprint"]:
        raise InputError(
            f"{features.directory}: its token ids are of another version of {features.text_encoder['reference']!r} than "
            "the one found here"
        )
    return encoder


def _noisy(batch: "Mapping[str, Tensor]") -> "Tensor":
    from ifuvit.diffusion.schedule import add_noise

    return add_noise(batch["latents"], batch["noise"], batch["timesteps"])


def _text_states(batch: "Mapping[str, Tensor]", encoder: "TextEncoder | None") -> "Tensor":
    from ifuvit.encoders.text_encoder import Tokens

    if encoder is None:
        return batch["text_states"].float()
    return encoder.encode(Tokens(batch["text_ids"], batch["text_mask"], 0)).clone()


@contextmanager
def _gradients_meet(accelerator: "Accelerator", model: "nn.Module", *, last: bool) -> Iterator[None]:
    """Processes exchange gradients only at the last part of a batch."""
    if last:
        yield
    else:
        with accelerator.no_sync(model):
            yield


def _register_forward_methods(model: "nn.Module") -> None:
    """Tell FSDP which methods beside `forward` use parameters."""
    from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method

    for module in model.modules():
        if isinstance(module, FSDPModule):
            for name in ("encode_text", "encode_image", "fuse", "guided", "text_keys_values"):
                if hasattr(module, name):
                    register_fsdp_forward_method(module, name)


class _Signal:
    """The number of the SIGTERM or SIGINT that arrived, if any."""

    number: int | None = None


@contextmanager
def _noting_signals() -> Iterator[_Signal]:
    """Note SIGTERM and SIGINT instead of dying of them; a second one takes its usual course."""
    stop = _Signal()

    def note(number: int, _: Any) -> None:
        stop.number = number
        signal.signal(number, before[number])

    before: dict[int, Any] = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _agreed(accelerator: "Accelerator", stop: _Signal, step: int) -> bool:
    """Whether any process was asked to stop; all of them come to the same answer (asked at every tenth step)."""
    if accelerator.num_processes == 1:
        return stop.number is not None
    if step % 10:
        return False
    import torch

    flag = torch.tensor(float(stop.number or 0), device=accelerator.device)
    number = int(accelerator.gather(flag).max())  # type: ignore[union-attr]
    stop.number = number or None
    return stop.number is not None


def _validate(
    accelerator: "Accelerator",
    model: "nn.Module",
    features: "Features",
    pictures: "np.ndarray",
    config: TrainConfig,
    text_encoder: "TextEncoder | None",
) -> dict[str, Any]:
    """The noise error on held-out pictures, plain mean and by ten bands of timesteps (1-100, 101-200, …)."""
    import torch

    from ifuvit.diffusion.loss import noise_errors
    from ifuvit.training.batches import validation_batch

    sums = torch.zeros(2, 10, dtype=torch.float64, device=accelerator.device)
    size = max(config.batch_size // (accelerator.num_processes * config.gradient_accumulation), 1)
    firsts = list(range(0, len(pictures), size))
    rounds = math.ceil(len(firsts) / accelerator.num_processes)  # sharded models need every process in every round
    model.eval()
    with torch.no_grad():
        for index in range(rounds):
            mine = index * accelerator.num_processes + accelerator.process_index
            first = firsts[min(mine, len(firsts) - 1)]
            batch = validation_batch(features, pictures[first : first + size], config.seed, first)
            batch = {name: tensor.to(accelerator.device) for name, tensor in batch.items()}
            text = _text_states(batch, text_encoder)
            predicted = model(_noisy(batch), batch["timesteps"], text, batch["text_mask"])
            if mine < len(firsts):
                errors = noise_errors(predicted, batch["noise"]).double()
                sums.index_add_(1, (batch["timesteps"] - 1) // 100, torch.stack([errors, torch.ones_like(errors)]))
    model.train()
    sums = accelerator.reduce(sums, reduction="sum").cpu()  # type: ignore[union-attr]
    bands = (sums[0] / sums[1]).tolist()
    return {
        "validation_loss": float(sums[0].sum() / sums[1].sum()),
        "validation_loss_by_timestep": {
            f"{100 * i + 1}-{100 * (i + 1)}": band for i, band in enumerate(bands) if math.isfinite(band)
        },
    }


def _log(metrics: Any, line: Mapping[str, Any]) -> None:
    metrics.write(json.dumps(line) + "\n")
    metrics.flush()


# What a run shows and leaves behind.


def _trial(accelerator: "Accelerator", model: "nn.Module", batches: Any, loss_of: Any, parts: int) -> dict[str, float]:
    """Time one forward and backward pass of a micro-batch (on a CPU of 8 pictures at most), without an update."""
    import torch

    batch = {name: tensor.chunk(parts)[0] for name, tensor in batches[0].items()}
    whole = len(batch["latents"])
    if accelerator.device.type == "cpu":
        batch = {name: tensor[:8] for name, tensor in batch.items()}
    batch = {name: tensor.to(accelerator.device) for name, tensor in batch.items()}
    elapsed = math.inf
    for _ in range(3):
        begun = time.monotonic()
        accelerator.backward(loss_of(batch))
        if accelerator.device.type == "cuda":
            torch.cuda.synchronize()
        elapsed = min(elapsed, time.monotonic() - begun)
    model.zero_grad(set_to_none=True)
    cuda = accelerator.device.type == "cuda"
    used = torch.cuda.max_memory_allocated() if cuda else _resident()
    return {
        "seconds": elapsed * parts * whole / len(batch["latents"]),
        "memory": used,
        "pictures": len(batch["latents"]),
    }


def _resident() -> int:
    """The most memory this process has had, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _screen(
    config: TrainConfig,
    features: "Features",
    pictures: int,
    accelerator: "Accelerator",
    step: int,
    trial: Mapping[str, float],
    loaded: Mapping[str, list[str]] | None,
) -> str:
    from ifuvit.metrics import cost

    model = config.model
    count, flops = cost.parameters(model), cost.forward_flops(model)
    left = config.steps - step
    sharded = ", sharded (FSDP2)" if accelerator.is_fsdp2 else ""
    state = 20 * count  # fp32 weights, gradients, two moments and the average
    if accelerator.is_fsdp2:
        state //= accelerator.num_processes
    rows = [
        ("model", f"{model.conditioning}, [n_text, n_image] = [{model.n_text}, {model.n_image}]; {count:,} parameters"),
        ("GFLOPs", f"{flops.layers / 1e9:.2f} a forward pass, {flops.total / 1e9:.2f} with attention products; "
                   f"{3 * flops.total * config.batch_size / 1e9:,.0f} a training step"),
        ("data", f"{pictures:,} pictures, {features.caption_count:,} distinct captions, {features.text_mode}; "
                 f"{config.steps * config.batch_size / pictures:.1f} epochs"),
        ("steps", f"{step:,} of {config.steps:,} done, {config.batch_size} pictures each"
                  f" ({config.steps * config.batch_size:,} samples)"),
        ("processes", f"{accelerator.num_processes} on {accelerator.device.type}{sharded}, {config.precision}"),
        ("memory", f"{state / 2**30:.2f} GiB of weights, gradients, optimizer and average; "
                   f"{trial['memory'] / 2**30:.2f} GiB in use at a trial with {trial['pictures']:.0f} pictures"),
        ("time", f"about {_duration(trial['seconds'] * left)} for the {left:,} steps left "
                 f"({trial['seconds']:.3g} s a step in a trial on this machine, validation and samples not counted)"),
        ("out", str(config.out)),
    ]  # fmt: skip
    if loaded is not None:
        rows.append(("init from", f"{config.init_from}: {len(loaded['loaded'])} tensors loaded; "
                                  f"new: {_some(loaded['new'])}; not used: {_some(loaded['unused'])}"))  # fmt: skip
    return "\n".join(f"{name:>10}  {text}" for name, text in rows)


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "") if names else "none"


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 100:
        return f"{minutes:.0f} minutes" if minutes >= 2 else f"{seconds:.0f} seconds"
    return f"{minutes / 60:.1f} hours" if minutes < 60 * 72 else f"{minutes / 1440:.1f} days"


def _write_pipeline(config: TrainConfig, features: "Features", average: "Mapping[str, Tensor]") -> None:
    """RUN/pipeline: the averaged weights, and where the encoders are to be found."""
    from ifuvit.pipeline import write_pipeline

    write_pipeline(
        config.out / "pipeline",
        model=_with_weights(config.model, average),
        autoencoder=features.autoencoder,
        text_encoder=features.text_encoder,
        latent_scale=features.latent_scale,
    )


def _with_weights(config: IFUViTConfig, weights: "Mapping[str, Tensor]") -> "IFUViT":
    from ifuvit.model.uvit import IFUViT

    model = IFUViT(config)
    model.load_state_dict(dict(weights))
    return model.eval()


class _Previews:
    """Sample grids for fixed prompts and seeds, from the averaged weights, under RUN/samples."""

    def __init__(self, config: TrainConfig, features: "Features", device: "torch.device") -> None:
        self.config, self.features, self.device = config, features, device
        self.given_up = False

    def draw(self, average: "Mapping[str, Tensor]", step: int) -> None:
        """Write samples/step-…png. Where an encoder is not to be had here, say so once and go on training."""
        from ifuvit.artifacts import atomic_path
        from ifuvit.generate import make_grid
        from ifuvit.pipeline import Pipeline

        if self.given_up:
            return
        _write_pipeline(self.config, self.features, average)
        try:
            pipeline = Pipeline.from_pretrained(self.config.out / "pipeline", device=self.device)
        except InputError as error:
            self.given_up = True
            print(f"no sample grids: {error}", file=sys.stderr)
            return
        prompts = [prompt for prompt in self.config.sample_prompts for _ in range(2)]
        images = pipeline(prompts, num_inference_steps=25, seed=0)
        with atomic_path(self.config.out / "samples" / f"step-{step:08d}.png") as path:
            make_grid(images, prompts).save(path, format="PNG")


def main(arguments: list[str]) -> None:
    preset, rest = "cross-intermediate", arguments
    if arguments and not arguments[0].startswith("-"):
        preset, rest = arguments[0], arguments[1:]
    elif not {"-h", "--help"} & set(arguments):
        raise InputError(
            f"name a preset first: ifuvit train PRESET --data FEATURES --out RUN; one of {', '.join(presets)}"
        )
    default = default_config(preset)
    prog = f"ifuvit train {preset if arguments and preset == arguments[0] else 'PRESET'}"
    if not {"-h", "--help"} & set(rest):
        for needed in ("--data", "--out"):
            if not any(argument == needed or argument.startswith(needed + "=") for argument in rest):
                raise InputError(f"{needed} is required; see `ifuvit train {preset} --help`")
    config = parse(TrainConfig, rest, prog=prog, default=default)
    directory = run(config)
    if not config.dry_run and int(os.environ.get("RANK", "0")) == 0:
        print(f'{directory}: trained; draw with `ifuvit generate "PROMPT" --model {directory}`')
