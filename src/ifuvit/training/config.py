"""What a training run is told: its settings, the recipes of the presets, and the learning rate of every step."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ifuvit.diffusion.settings import SamplingSettings
from ifuvit.model.presets import presets
from ifuvit.model.settings import IFUViTConfig
from ifuvit.utils.command_line import read_weights
from ifuvit.utils.errors import InputError


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Train a model on an encoded data set. The same command again resumes where the run stopped; --steps may grow.

    Example:
        ifuvit train openmoji-cross-intermediate --data data --out run --steps 3000
    """

    data: Path
    """Features that `ifuvit prepare` wrote."""
    out: Path
    """Run directory."""
    model: Annotated[IFUViTConfig, tyro.conf.OmitArgPrefixes] = presets["cross-intermediate"]
    val_data: Path | None = None
    """Features for the validation loss; default: some images of --data are held out of training."""
    init_from: str | None = None
    """Fine-tune: start from the weights of this model (shipped name, run, pipeline or model directory)."""

    steps: int = 1_000_000
    """Optimizer steps."""
    batch_size: int = 256
    """Images a step, over all processes."""
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
    """Decay of the averaged weights, from which images are drawn."""
    ema_ramp: bool = False
    """Let that decay rise from 0.1, so that short runs show something."""
    seed: int = 1234
    """Seed of the initial weights and of every draw."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16 is autocast with fp32 weights, gradients and optimizer; auto takes it where all processes' devices have instructions
    for it. A run keeps what it began with."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a third more time."""
    compile: bool = False
    """Let torch.compile fuse the step's small operations; it takes a minute or two first. For GPUs, and long runs in bf16."""

    log_every: int = 10
    """Steps between lines of metrics.jsonl."""
    validate_every: int = 5_000
    """Steps between validation losses; 0 is never."""
    validation_images: int = 1_000
    """Images for the validation loss."""
    save_every: int = 5_000
    """Steps between checkpoints."""
    keep_checkpoints: int = 2
    """Checkpoints to keep."""
    sample_every: int = 5_000
    """Steps between sample grids; 0 is never."""
    sample_prompts: tuple[str, ...] = ("a bus on a street", "two people", "three sheep in a field", "four red apples")
    """Prompts of the sample grid, two images each from fixed seeds."""
    evaluate_every: int = 0
    """Steps between evaluations: images from the averaged weights against real ones; 0 is never."""
    evaluate_data: Path | None = None
    """Real images with captions for that: a directory of `ifuvit scenes`, MS-COCO unpacked, or a captioned folder."""
    evaluate_images: int = 200
    """Images, always of the same captions from the same noise."""
    evaluate_sampling: Annotated[SamplingSettings, tyro.conf.arg(name="evaluate")] = SamplingSettings(
        steps=25, guidance_scale=2.0
    )
    evaluate_protocol: Literal["quick", "paper", "clean"] = "quick"
    """Which networks evaluate them: quick has the embedded ones; see docs/evaluation.md."""
    evaluate_weights: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=PATH")] = ()
    """Weights of networks that are not embedded, as `inception=FILE.pth`."""
    workers: int | None = None
    """Threads of each process that make batches ahead of time; default: 0 on a CPU, else 4."""
    tensorboard: bool = False
    """Also log to TensorBoard, under OUT/tracking."""
    wandb: bool = False
    """Also log to Weights & Biases."""
    dry_run: bool = False
    """Print what would be trained and how long it would take, then stop."""

    def __post_init__(self) -> None:
        at_least_one = (
            *("steps", "batch_size", "gradient_accumulation", "log_every", "save_every", "keep_checkpoints"),
            "evaluate_images",
        )
        for name in at_least_one:
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}: must be at least 1")
        not_negative = (
            *("warmup_steps", "validate_every", "sample_every", "evaluate_every"),
            *("weight_decay", "seed", "validation_images"),
        )
        for name in not_negative:
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
        if self.evaluate_every and self.evaluate_data is None:
            raise InputError(f"evaluate_every={self.evaluate_every}: needs --evaluate-data, real images with captions")
        read_weights(self.evaluate_weights, option="--evaluate-weights")


# The embedded default learns in the hour of a laptop what the paper's recipe spreads over a million steps: a higher rate
# that falls to a twentieth, a shorter average, and more weight on the timesteps that decide layout and so count.
_OPENMOJI_RECIPE: dict[str, Any] = {
    "steps": 8_000,
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
FREE_FIELDS = {
    "data", "val_data", "out", "steps", "log_every", "validate_every", "validation_images", "save_every",
    "keep_checkpoints", "sample_every", "sample_prompts", "workers", "tensorboard", "wandb", "dry_run", "evaluate_every",
    "evaluate_data", "evaluate_images", "evaluate_sampling", "evaluate_protocol", "evaluate_weights",
    "gradient_accumulation", "gradient_checkpointing", "compile",
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
