"""The training configuration in sections, the recipes of the presets, and the learning rate of every step.

What defines the weights of a run is its `Recipe`: a resumed run must have the same one. Everything else may differ.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ifuvit.diffusion.objective import DDPM, OBJECTIVES, AnyObjective, Flow
from ifuvit.diffusion.settings import SamplingSettings
from ifuvit.evaluation.protocols import protocols
from ifuvit.model.presets import presets
from ifuvit.model.settings import IFUViTConfig
from ifuvit.shipped import find
from ifuvit.utils.command_line import Inline, Prompt
from ifuvit.utils.config import Fraction, NonNegative, Positive, Range, check, from_dict, idle, set_fields
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import read_object

AverageWidth = Annotated[float, Range(least=0.01, most=0.28)]
_Decay = Annotated[float, Range(least=0, below=1)]
_OPTIMIZER = tyro.conf.arg(name="optimizer", metavar="adamw|muon")


class _Section:
    """Base of the sections: their numbers are checked when they are made."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class _AdamWSettings(_Section):
    learning_rate: Positive[float] = 2e-4
    """Peak learning rate of AdamW."""
    betas: tuple[_Decay, _Decay] = (0.9, 0.9)
    """AdamW's betas."""
    weight_decay: NonNegative[float] = 0.03
    """AdamW's weight decay, on every parameter as U-ViT does."""
    gradient_clip: Positive[float] | None = None
    """Largest norm of the gradients; default: no clipping."""


@dataclass(frozen=True, kw_only=True)
class AdamW(_AdamWSettings):
    """AdamW for all parameters (Loshchilov and Hutter 2019)."""

    name: Annotated[Literal["adamw"], _OPTIMIZER] = "adamw"
    """AdamW for all parameters, or Muon for the matrices of the transformer blocks and AdamW for the rest."""


@dataclass(frozen=True, kw_only=True)
class Muon(_AdamWSettings):
    """Muon for the matrices of the transformer blocks, AdamW for positions, biases, norms and the first and last layers.

    Muon (Jordan et al. 2024) makes the momentum of a matrix orthogonal before it steps (`ifuvit.training.muon`).
    """

    name: Annotated[Literal["muon"], _OPTIMIZER] = "muon"
    """AdamW for all parameters, or Muon for the matrices of the transformer blocks and AdamW for the rest."""
    muon_learning_rate: Positive[float] = 0.02
    """Peak learning rate of the matrices."""
    muon_momentum: _Decay = 0.95
    """Momentum of the matrices."""
    muon_weight_decay: NonNegative[float] = 0.03
    """Weight decay of the matrices."""


OPTIMIZERS: Mapping[str, type[AdamW] | type[Muon]] = {"adamw": AdamW, "muon": Muon}


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig(_Section):
    """How learning rates change over a run; the same for every parameter."""

    warmup_steps: NonNegative[int] = 5_000
    """Steps of linear warm-up."""
    decay: Literal["none", "linear", "cosine"] = "none"
    """How the learning rate falls from the end of warm-up to the last step."""
    final_learning_rate: Fraction = 0.0
    """Where it falls to, as a share of the peak."""


@dataclass(frozen=True, kw_only=True)
class EMAConfig(_Section):
    """The average of the weights, from which images are generated."""

    ema: _Decay = 0.9999
    """Decay of the average."""
    ema_ramp: bool = False
    """Let that decay rise from 0.1, so that short runs show something."""
    power_ema: tuple[AverageWidth, AverageWidth] | None = None
    """Relative widths of two further averages, such as 0.05 0.1, kept at every checkpoint (OUT/averages, two copies of the
    weights each): `ifuvit convert average` makes any other width of them after training (Karras et al. 2024). Images during
    training are those of --ema."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.power_ema is not None and self.power_ema[0] == self.power_ema[1]:
            raise InputError(f"power_ema={self.power_ema}: give two different widths, such as --power-ema 0.05 0.1")


@dataclass(frozen=True, kw_only=True)
class BatchConfig(_Section):
    """What a step learns from."""

    batch_size: Positive[int] = 256
    """Images a step, over all processes."""
    caption_dropout: Fraction = 0.1
    """Probability that the null caption replaces a caption, for classifier-free guidance."""
    latent_normalization: Literal["scalar", "channel"] = "scalar"
    """Scale latents by one number, as Stable Diffusion does, or center and scale every channel. Measured on --data."""


@dataclass(frozen=True, kw_only=True)
class LayoutConfig(_Section):
    """A help in training that is not the paper's: a head on the middle block tells which kind of object is where."""

    layout_weight: NonNegative[float] = 0.0
    """Weight of its cross-entropy; requires --data with boxes, and --layout-kinds of them. Its gradient tells counts and
    places to the text path far sooner than that of the noise does."""
    layout_until: Fraction = 0.6
    """Share of the steps after which that weight is 0."""


@dataclass(frozen=True, kw_only=True)
class AlignmentConfig(_Section):
    """A help in training that is not the paper's: the middle block is drawn to what a frozen vision network sees in the clean
    image (REPA, Yu et al. 2025)."""

    align_to: Annotated[str | None, tyro.conf.arg(metavar="NAME|DIR")] = None
    """That network: effnet-lite0, which is embedded, or a vision model of transformers, by folder or hub id, such as
    facebook/dinov2-base. It runs at every step, on images that the autoencoder decodes from the latents."""
    align_weight: Positive[float] = 0.5
    """Weight of 1 - cosine."""
    align_until: Fraction = 0.4
    """Share of the steps after which it ends, and the network no longer runs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.align_to is not None and not self.align_until:
            raise InputError(
                f"align_to={self.align_to!r} and align_until=0: nothing would be aligned; leave one of them out"
            )


@dataclass(frozen=True, kw_only=True)
class StartConfig(_Section):
    """Where a run starts."""

    seed: NonNegative[int] = 1234
    """Seed of the initial weights and of every draw."""
    init_from: str | None = None
    """Fine-tune: start from the weights of this model (shipped name, run, pipeline or model directory), and keep its latent
    normalization."""
    renormalize_latents: bool = False
    """With --init-from: measure the latent normalization on --data instead of keeping the model's."""
    lora_rank: Positive[int] | None = None
    """With --init-from: train low-rank adapters of this rank on attention and MLP, and nothing else. OUT/adapter has them apart
    (`ifuvit generate --adapter`), OUT/pipeline added to the model's weights."""
    lora_alpha: Positive[float] | None = None
    """Adapters count alpha / rank; default: the rank."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16 is autocast with fp32 weights, gradients and optimizer; auto takes it where all processes' devices have
    instructions for it. A run keeps what it began with."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lora_rank is not None and self.init_from is None:
            raise InputError(f"--lora-rank {self.lora_rank}: adapts a model; give it with --init-from")
        if self.lora_alpha is not None and self.lora_rank is None:
            raise InputError(f"--lora-alpha {self.lora_alpha:g}: requires --lora-rank")

    @property
    def lora(self) -> dict[str, Any] | None:
        """Rank and alpha of the adapters; None where the whole model is trained."""
        if self.lora_rank is None:
            return None
        return {"rank": self.lora_rank, "alpha": self.lora_alpha or float(self.lora_rank)}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What defines the weights, given the data and the number of steps."""

    model: IFUViTConfig = presets["cross-intermediate"]
    objective: AnyObjective = DDPM()
    optimizer: AdamW | Muon = AdamW()
    schedule: ScheduleConfig = ScheduleConfig()
    ema: EMAConfig = EMAConfig()
    batches: BatchConfig = BatchConfig()
    layout: LayoutConfig = LayoutConfig()
    alignment: AlignmentConfig = AlignmentConfig()
    start: StartConfig = StartConfig()

    def __post_init__(self) -> None:
        if self.alignment.align_to is not None and self.start.lora_rank is not None:
            raise InputError(
                f"--align-to {self.alignment.align_to} and --lora-rank {self.start.lora_rank}: adapters alone are trained, and the "
                "head that aligns would stay as it was drawn; leave one of them out"
            )


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Encoded data sets. A resumed run takes the same ones, by fingerprint, wherever they lie."""

    data: Path
    """Encoded data set that `ifuvit prepare` wrote."""
    val_data: Path | None = None
    """Encoded data set for the validation loss; default: some images of --data are held out of training."""
    verify_data: bool = False
    """Compare the SHA-256 of all files of these data sets first, of large ones too (up to 2 GB it is always done)."""


@dataclass(frozen=True, kw_only=True)
class ValidationConfig(_Section):
    """The validation loss."""

    validate_every: NonNegative[int] = 5_000
    """Steps between validation losses; 0 is never."""
    validation_images: NonNegative[int] = 1_000
    """Images for the validation loss."""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig(_Section):
    """Checkpoints, from which a stopped run resumes."""

    save_every: Positive[int] = 5_000
    """Steps between checkpoints."""
    keep_checkpoints: Positive[int] = 2
    """Checkpoints to keep."""


@dataclass(frozen=True, kw_only=True)
class SampleConfig(_Section):
    """Sample grids."""

    sample_every: NonNegative[int] = 5_000
    """Steps between sample grids; 0 is never."""
    sample_prompts: tuple[Prompt, ...] = (
        "a bus on a street",
        "two people",
        "three sheep in a field",
        "four red apples",
    )
    """Prompts of the sample grid, two images each from fixed seeds."""


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(_Section):
    """Evaluation during training: images from the averaged weights against reference images."""

    evaluate_every: NonNegative[int] = 0
    """Steps between evaluations; 0 is never."""
    evaluate_data: Path | None = None
    """Reference images with captions: a directory of `ifuvit scenes`, MS-COCO unpacked, or a captioned folder."""
    evaluate_images: Positive[int] = 200
    """Images to generate, always for the same captions from the same noise."""
    evaluate_protocol: Literal["quick", "paper", "clean"] = "quick"
    """The protocol whose sampling settings and networks are used: quick has the embedded ones; see docs/evaluation.md."""
    evaluate_sampling: Annotated[SamplingSettings | None, Inline("evaluate_")] = None
    """Instead of the protocol's, which is None."""
    evaluate_weights: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=PATH")] = ()
    """Weights of networks that are not embedded, as `inception=FILE.pth`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.evaluate_every and self.evaluate_data is None:
            raise InputError(
                f"evaluate_every={self.evaluate_every}: requires --evaluate-data, reference images with captions"
            )
        protocols[self.evaluate_protocol].weights(self.evaluate_weights, option="--evaluate-weights")


@dataclass(frozen=True, kw_only=True)
class LoggingConfig(_Section):
    """metrics.jsonl and experiment trackers."""

    log_every: Positive[int] = 10
    """Steps between lines of metrics.jsonl."""
    tensorboard: bool = False
    """Also log to TensorBoard, under OUT/tracking."""
    wandb: bool = False
    """Also log to Weights & Biases."""


@dataclass(frozen=True, kw_only=True)
class RuntimeConfig(_Section):
    """How a step is computed on this machine."""

    gradient_accumulation: Positive[int] = 1
    """Parts into which each process splits its share of a batch to save memory."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a third more time."""
    compile: bool = False
    """Let torch.compile fuse the step's small operations; it takes a minute or two first. For GPUs, and long runs in bf16."""
    workers: NonNegative[int] | None = None
    """Threads of each process that make batches ahead of time; default: 0 on a CPU, else 4."""


@tyro.conf.configure(tyro.conf.OmitArgPrefixes, tyro.conf.AvoidSubcommands)
@dataclass(frozen=True, kw_only=True)
class TrainConfig(_Section):
    """Train a model on an encoded data set. The same command again resumes where the run stopped; --steps may grow.

    Example:
        ifuvit train openmoji-cross-intermediate --data data --out run --steps 3000
    """

    out: Path
    """Run directory."""
    steps: Positive[int] = 1_000_000
    """Optimizer steps."""
    dry_run: bool = False
    """Print what would be trained and how long it would take, then stop."""
    data: DataConfig
    recipe: Recipe = Recipe()
    validation: ValidationConfig = ValidationConfig()
    checkpoints: CheckpointConfig = CheckpointConfig()
    samples: SampleConfig = SampleConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    logging: LoggingConfig = LoggingConfig()
    runtime: RuntimeConfig = RuntimeConfig()

    def without_effect(self) -> dict[str, str]:
        """Options that have no effect with the others."""
        recipe, validation, evaluation = self.recipe, self.validation, self.evaluation
        model, start, objective = recipe.model, recipe.start, recipe.objective
        kept = start.init_from is not None and not start.renormalize_latents
        never = not validation.validate_every and self.data.val_data is not None  # without --val-data they are held out
        unseen = not validation.validation_images and validation.validate_every > 0
        layouts = recipe.layout.layout_weight > 0 or not model.layout_kinds
        images = ("evaluate_data", "evaluate_images", "evaluate_protocol", "evaluate_weights")
        sampling = tuple(f"evaluate_{field.name}" for field in fields(SamplingSettings))
        cross = model.conditioning in ("cross", "cross-separate")
        return idle(
            (recipe.alignment.align_to is None, ("align_weight", "align_until"), "without --align-to"),
            (not recipe.layout.layout_weight, ("layout_until",), "without --layout-weight"),
            (not layouts, ("layout_kinds",), "without --layout-weight"),
            (start.init_from is None, ("renormalize_latents",), "without --init-from"),
            (kept, ("latent_normalization",), "with --init-from without --renormalize-latents"),
            (
                isinstance(objective, Flow) and objective.times == "uniform",
                ("logit_mean", "logit_std"),
                "with --times uniform",
            ),
            (recipe.schedule.decay == "none", ("final_learning_rate",), "with --decay none"),
            (never, ("validation_images",), "with --val-data and --validate-every 0"),
            (unseen, ("validate_every",), "with --validation-images 0"),
            (not self.samples.sample_every, ("sample_prompts",), "with --sample-every 0"),
            (not evaluation.evaluate_every, (*images, *sampling), "without --evaluate-every"),
            (not cross, ("cross_attention",), f"with --conditioning {model.conditioning}"),
            (model.text_mix == "none", ("text_layers",), "with --text-mix none"),
        ) | (evaluation.evaluate_sampling or SamplingSettings()).without_effect("evaluate_")


# The embedded default learns in hours of a laptop what the paper's recipe spreads over a million steps (docs/decisions.md
# has what each part brings): straight paths that end in noise, normalized latents, Muon, a rate that falls to a twentieth,
# a shorter average.
_OPENMOJI_RECIPE: Mapping[str, Any] = {
    "steps": 8_000,
    "batch_size": 64,
    "objective": Flow(),
    "optimizer": Muon(learning_rate=1.5e-3, betas=(0.9, 0.95)),
    "latent_normalization": "channel",
    "warmup_steps": 300,
    "decay": "cosine",
    "final_learning_rate": 0.05,
    "ema": 0.999,
    "ema_ramp": True,
    "validate_every": 1_000,
    "validation_images": 500,
    "save_every": 500,
    "sample_every": 1_000,
    "sample_prompts": ("a bus", "two people", "three sheep", "four apples", "five buses", "a lion left of a tree"),
}


def default_config(preset: str, **settings: Any) -> TrainConfig:
    """The recipe of a preset: the paper's, or for the `openmoji-` presets one for short runs on a CPU.

    Args:
        preset: one of `ifuvit.model.presets`.
        settings: fields of any section (see `ifuvit.utils.config.set_fields`), `data` and `out` above all.

    Raises:
        InputError: an unknown preset, or a setting that a section refuses.
    """
    if preset not in presets:
        raise InputError(f"unknown preset {preset!r}; the presets are {', '.join(presets)}")
    paper = TrainConfig(data=DataConfig(data=Path()), out=Path(), recipe=Recipe(model=presets[preset]))
    recipe = _OPENMOJI_RECIPE if preset.startswith("openmoji-") else {}
    return set_fields(set_fields(paper, **recipe), **settings)


# A model that can draw already, and a few hundred or thousand images of one's own: hours of one GPU, or a quarter of an hour of a
# CPU at the embedded scale (docs/fine-tuning.md has a trial).
_FINE_TUNING_RECIPE: Mapping[str, Any] = {
    "steps": 2_000,
    "batch_size": 32,
    "optimizer": AdamW(learning_rate=3e-4, betas=(0.9, 0.95), weight_decay=0.0, gradient_clip=1.0),
    "warmup_steps": 50,
    "decay": "cosine",
    "final_learning_rate": 0.05,
    "ema": 0.99,
    "ema_ramp": True,
    "validate_every": 200,
    "validation_images": 100,
    "save_every": 200,
    "sample_every": 200,
}


def fine_tuning_config(model: str | None, **settings: Any) -> TrainConfig:
    """The recipe of fine-tuning: the backbone and the objective are those of the model that it starts from.

    Args:
        model: shipped name, run, pipeline directory or name on the hub; None for the recipe alone, as a help text shows it.
        settings: as in `default_config`.

    Raises:
        InputError: no such model, or a setting that a section refuses.
    """
    config = default_config("openmoji-cross-intermediate", **_FINE_TUNING_RECIPE)
    if model is not None:
        directory = find(model)
        file, index = directory / "transformer" / "config.json", read_object(directory / "model_index.json")
        values = index.get("objective", {"name": "ddpm"})
        where = f"{directory / 'model_index.json'}: objective"
        if not isinstance(values, dict) or values.get("name") not in OBJECTIVES:
            raise InputError(f"{where}: {values} is none of {', '.join(OBJECTIVES)}")
        config = set_fields(
            config,
            model=from_dict(IFUViTConfig, read_object(file), where=str(file)),
            objective=from_dict(OBJECTIVES[values["name"]], values, where=where),
            init_from=model,
        )
    return set_fields(config, **settings)


def learning_rate_at(peak: float, schedule: ScheduleConfig, steps: int, step: int) -> float:
    """The learning rate of optimizer step `step`, counted from 0, of `steps`. It depends on nothing else, the number of
    processes least of all."""
    if step < schedule.warmup_steps:
        return peak * (step + 1) / schedule.warmup_steps
    if schedule.decay == "none":
        return peak
    progress = min((step - schedule.warmup_steps) / max(steps - schedule.warmup_steps, 1), 1.0)
    left = 1 - progress if schedule.decay == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return peak * (schedule.final_learning_rate + (1 - schedule.final_learning_rate) * left)
