"""Training a small KL autoencoder: its settings, network, loss and measures, and the state of a run.

The network is diffusers' AutoencoderKL without attention; the objective is the error of pixels and of their differences,
and a slight pull of the posterior towards a standard normal (Kingma and Welling 2014; slight as in latent diffusion,
Rombach et al. 2022). No adversarial or learned perceptual term: for flat drawings it is not needed, and it would cost
most of the time.
"""

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from ifuvit.data.images import to_tensor
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import atomic_path

if TYPE_CHECKING:
    import torch
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

DEFAULT_STEPS = 2500


@dataclass(frozen=True, kw_only=True)
class TrainAutoencoderConfig:
    """Train a small KL autoencoder on folders of images."""

    images: tuple[Path, ...]
    """Folders of images (searched through all subfolders)."""
    out: Path
    """Run directory. The same command again goes on where it stopped."""
    validation: tuple[Path, ...] = ()
    """Folders of images to measure on; default: some of `images` are held out."""
    held_out: int = 256
    """Images to measure on, at most (and at most a tenth of `images` where they come from there)."""
    size: int = 64
    """Side of the square the images are cropped and resized to, pixels."""
    channels: tuple[int, ...] = (16, 32, 64)
    """Channels at each resolution; one more halves the latent's side."""
    layers: int = 1
    """Residual blocks at each resolution of the encoder (the decoder has one more)."""
    latent_channels: int = 4
    """Channels of the latent."""
    steps: int | None = None
    """Training steps; default 2500, or as many as fit into --minutes."""
    minutes: float | None = None
    """Training time. Where steps are given too, whichever ends first decides. The learning rate follows."""
    batch_size: int = 48
    """Images a step."""
    learning_rate: float = 2e-3
    """Peak learning rate of AdamW; it is reached after the first twentieth of the run and falls along a cosine."""
    thumbnail_weight: float = 1.0
    """Weight of the squared error between the first three latent channels and the image's mean color in each cell. It
    keeps latents as smooth as a thumbnail, which a diffusion model learns far sooner; 0 leaves them free."""
    kl_weight: float = 1e-8
    """Weight of the KL divergence (summed over a latent), beside the mean error of pixels with weight 1."""
    gradient_weight: float = 0.5
    """Weight of the same error of horizontal and vertical pixel differences: sharper edges."""
    error: Literal["squared", "absolute"] = "squared"
    """Which mean error to train on. The absolute error neglects small bright objects on a plain ground: their colors
    fade to gray."""
    init_from: str | None = None
    """Start from the weights of this autoencoder (a run, a diffusers folder, or a shipped name)."""
    ema: float = 0.995
    """Decay of the averaged weights, which are what is measured and saved; ramped up from the start."""
    seed: int = 0
    """Seed of the initial weights, the batches, the noise and the choice of held-out images."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16 is autocast with fp32 weights; auto takes it where the processor has instructions for it."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps; auto takes an accelerator if there is one."""
    memory_gib: float = 4.0
    """Hold the images (8-bit) in memory up to this size; more are kept in a memory-mapped file in the run."""
    evaluate_every: int = 250
    """Steps between measurements on the held-out images."""
    log_every: int = 10
    """Steps between lines of metrics.jsonl."""
    checkpoint_minutes: float = 3.0
    """Minutes between checkpoints."""

    def __post_init__(self) -> None:
        for name in ("held_out", "layers", "latent_channels", "batch_size", "evaluate_every", "log_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("steps", "minutes"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise InputError(f"{name} is {value}; it must be above 0")
        for name in ("learning_rate", "memory_gib", "checkpoint_minutes"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise InputError(f"{name} is {getattr(self, name)}; it must be a number above 0")
        for name in ("kl_weight", "gradient_weight", "thumbnail_weight"):
            if not (getattr(self, name) >= 0 and math.isfinite(getattr(self, name))):
                raise InputError(f"{name} is {getattr(self, name)}; it must be a number of at least 0")
        if not 0 <= self.ema < 1:
            raise InputError(f"ema is {self.ema}; it must be at least 0 and below 1")
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}; it must be at least 0")
        if not self.images:
            raise InputError("no folder of images given; name at least one with --images")
        if not self.channels or any(channels < 4 or channels % 4 for channels in self.channels):
            raise InputError(f"channels is {self.channels}; give multiples of 4, one for each resolution")
        factor = 2 ** (len(self.channels) - 1)
        if self.size < 2 * factor or self.size % factor:
            raise InputError(
                f"size is {self.size}; with {len(self.channels)} resolutions it must be a multiple of {factor}, at "
                f"least {2 * factor}"
            )


def build_vae(config: TrainAutoencoderConfig) -> "AutoencoderKL":
    """A freshly initialised AutoencoderKL; the draw depends on `config.seed`."""
    import torch
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    levels = len(config.channels)
    # Groups of at least two channels at the narrowest resolution, as normalising single channels loses their level.
    groups = min(32, math.gcd(*config.channels) // 2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * levels,  # type: ignore[arg-type]  # diffusers says tuple[str]
            up_block_types=("UpDecoderBlock2D",) * levels,  # type: ignore[arg-type]
            block_out_channels=config.channels,  # type: ignore[arg-type]
            layers_per_block=config.layers,
            latent_channels=config.latent_channels,
            norm_num_groups=groups,
            sample_size=config.size,
            mid_block_add_attention=False,
            force_upcast=False,
        )


def _initialize(vae: "AutoencoderKL", source: str) -> str:
    """Take over the weights of another autoencoder of the same shape, and return its fingerprint."""
    from ifuvit.encoders.autoencoder import Autoencoder

    initial = Autoencoder.from_pretrained(source)
    try:
        vae.load_state_dict(initial.vae.state_dict())
    except RuntimeError:
        raise InputError(
            f"{source}: an autoencoder of another shape; give its --channels, --layers and --latent-channels"
        ) from None
    return initial.fingerprint


def learning_rate(peak: float, progress: float, *, warmup: float = 0.05, floor: float = 0.01) -> float:
    """The rate at `progress` (0 … 1) of a run: linear warm-up, then a cosine from `peak` to `floor * peak`."""
    if progress < warmup:
        return peak * max(progress, 1e-3) / warmup
    fall = (min(progress, 1.0) - warmup) / (1 - warmup)
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * fall)))


def loss_terms(
    reconstruction: "torch.Tensor", images: "torch.Tensor", mean: "torch.Tensor", logvar: "torch.Tensor", error: str
) -> dict[str, "torch.Tensor"]:
    """The unweighted terms, scalars: `pixels` and `gradient` (the mean "squared" or "absolute" error of pixels and of
    their differences), `thumbnail` (squared error of the first latent channels against the mean color of each cell), `kl`
    (nats, summed over a latent, mean over the batch), and `mse` (to report)."""
    from torch.nn.functional import adaptive_avg_pool2d

    difference = reconstruction - images
    height, width = mean.shape[-2:]
    thumbnail = adaptive_avg_pool2d(images, (height, width))

    def measure(values: "torch.Tensor") -> "torch.Tensor":
        return values.square() if error == "squared" else values.abs()

    return {
        "pixels": measure(difference).mean(),
        "gradient": measure(difference.diff(dim=2)).mean() + measure(difference.diff(dim=3)).mean(),
        "thumbnail": (mean[:, :3] - thumbnail[:, : mean.shape[1]]).square().mean(),
        "kl": 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(dim=(1, 2, 3)).mean(),
        "mse": difference.detach().square().mean(),
    }


def psnr(mse: float) -> float:
    """Peak signal-to-noise ratio in dB of a mean squared error between images in [-1, 1] (peak to peak 2)."""
    return 10 * math.log10(4 / max(mse, 1e-12))


def evaluate(vae: "AutoencoderKL", images: np.ndarray, batch_size: int) -> dict[str, float]:
    """Reconstruct `images` (N, H, W, 3 uint8) from the posterior's mean, in fp32, rounded to 8 bits.

    Returns:
        `held_out_psnr`: dB, of the mean squared error over all images; `held_out_psnr_by_image`: mean of the
        images' own; `latent_std`: standard deviation of posterior samples.
    """
    import torch

    errors: list[torch.Tensor] = []
    square, total, count = 0.0, 0.0, 0
    with torch.no_grad():
        for start in range(0, len(images), batch_size):
            targets = to_tensor(images[start : start + batch_size]).to(vae.device)
            posterior = vae.encode(targets).latent_dist  # type: ignore[union-attr]
            errors.append((_round(vae.decode(posterior.mean).sample) - targets).square().mean(dim=(1, 2, 3)).cpu())  # type: ignore[union-attr]
            # The variance of a sample is the variance of the means plus the mean of the variances: no noise needed.
            square += float((posterior.mean.square() + posterior.var).double().sum())
            total += float(posterior.mean.double().sum())
            count += posterior.mean.numel()
    error = torch.cat(errors).double()
    return {
        "held_out_psnr": psnr(float(error.mean())),
        "held_out_psnr_by_image": float(np.mean([psnr(float(value)) for value in error])),
        "latent_std": math.sqrt(square / count - (total / count) ** 2),
    }


def _round(images: "torch.Tensor") -> "torch.Tensor":
    """To the nearest of the 256 values an 8-bit image can have."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


class State:
    """Weights, their average, the optimizer, the step and the training time so far."""

    def __init__(self, config: TrainAutoencoderConfig, device: "torch.device") -> None:
        import copy

        import torch

        self.vae = build_vae(config)
        self.init_from_fingerprint = ""
        if config.init_from is not None and not saved_checkpoints(config.out):
            self.init_from_fingerprint = _initialize(self.vae, config.init_from)
        self.vae.to(device).train()  # type: ignore[arg-type]
        self.average = copy.deepcopy(self.vae).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.vae.parameters(), lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=0.0
        )
        self.step = 0
        self.seconds = 0.0

    def save(self, path: Path) -> None:
        """One safetensors file, written whole or not at all."""
        from safetensors.torch import save_file

        tensors = {f"vae.{name}": tensor for name, tensor in self.vae.state_dict().items()}
        tensors |= {f"average.{name}": tensor for name, tensor in self.average.state_dict().items()}
        for name, parameter in self.vae.named_parameters():
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"optimizer.{key}.{name}"] = value
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        metadata = {"step": str(self.step), "seconds": repr(self.seconds), "init_from": self.init_from_fingerprint}
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata=metadata)

    def load(self, path: Path) -> None:
        """The inverse of `save`; whatever is wrong with the file is a ValueError."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                metadata = file.metadata()
            step, seconds = int(metadata["step"]), float(metadata["seconds"])
            weights = {name: tensors[f"vae.{name}"] for name in self.vae.state_dict()}
            average = {name: tensors[f"average.{name}"] for name in self.vae.state_dict()}
            optimizer = {
                index: {key: tensors[f"optimizer.{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq")}
                for index, (name, _) in enumerate(self.vae.named_parameters())
            }
        except (SafetensorError, OSError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: {error}") from None
        self.vae.load_state_dict(weights)
        self.average.load_state_dict(average)
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": optimizer, "param_groups": groups})
        self.step, self.seconds = step, seconds
        self.init_from_fingerprint = metadata.get("init_from", "")


def saved_checkpoints(run: Path) -> list[Path]:
    """Checkpoints of a run, the newest last."""
    return sorted((run / "checkpoints").glob("*.safetensors"))


def save_checkpoint(state: State, run: Path) -> None:
    """Write a checkpoint, then thin them to two: the newest is never the only one while another is written."""
    state.save(run / "checkpoints" / f"{state.step:08d}.safetensors")
    for path in saved_checkpoints(run)[:-2]:
        path.unlink()


def resume(state: State, run: Path) -> None:
    """Load the newest checkpoint that can be read; without any the state stays as it is.

    Raises:
        InputError: there are checkpoints, and none can be read.
    """
    for path in reversed(saved_checkpoints(run)):
        try:
            state.load(path)
            return
        except ValueError as error:
            print(f"{error}; trying an older checkpoint", file=sys.stderr)
    if saved_checkpoints(run):
        raise InputError(f"{run / 'checkpoints'}: none can be read; remove that folder to begin anew")
