"""`ifuvit train-autoencoder`: train a small KL autoencoder on folders of pictures.

The network is diffusers' AutoencoderKL without attention; the objective is the error of pixels and of their differences,
and a slight pull of the posterior towards a standard normal (Kingma and Welling 2014; slight as in latent diffusion,
Rombach et al. 2022). No adversarial or learned perceptual term: for flat drawings it is not needed, and it would cost
most of the time.

Every random draw depends on (seed, step) alone, so a run that was interrupted and goes on ends with the same weights,
bit for bit on CPU, unless `--minutes` ties the schedule to the clock.
"""

import json
import math
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ifuvit.artifacts import atomic_directory, atomic_path, now, read_json, write_json, write_manifest
from ifuvit.cli import parse
from ifuvit.config import to_dict
from ifuvit.data.images import center_crop_resize, load_image, to_tensor
from ifuvit.devices import find_device, use_bf16
from ifuvit.errors import InputError
from ifuvit.training.signals import Stop, noting_signals

if TYPE_CHECKING:
    import torch
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

VERB = "train-autoencoder"
DEFAULT_STEPS = 2500
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}

# Fields that may differ between the command that began a run and the one that goes on with it. The pictures are
# compared by their pixels, not by where they lie.
_FREE = {"images", "validation", "out", "device", "memory_gib", "checkpoint_minutes", "log_every"}


@dataclass(frozen=True, kw_only=True)
class TrainAutoencoderConfig:
    """Train a small KL autoencoder on folders of pictures."""

    images: tuple[Path, ...]
    """Folders of pictures (searched through all subfolders)."""
    out: Path
    """Run directory. The same command again goes on where it stopped."""
    validation: tuple[Path, ...] = ()
    """Folders of pictures to measure on; default: some of `images` are held out."""
    held_out: int = 256
    """Pictures to measure on, at most (and at most a tenth of `images` where they come from there)."""
    size: int = 64
    """Side of the square the pictures are cropped and resized to, pixels."""
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
    """Pictures a step."""
    learning_rate: float = 2e-3
    """Peak learning rate of AdamW; it is reached after the first twentieth of the run and falls along a cosine."""
    thumbnail_weight: float = 1.0
    """Weight of the squared error between the first three latent channels and the picture's mean color in each cell. It
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
    """Seed of the initial weights, the batches, the noise and the choice of held-out pictures."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16 is autocast with fp32 weights; auto takes it where the processor has instructions for it."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps; auto takes an accelerator if there is one."""
    memory_gib: float = 4.0
    """Hold the pictures (8-bit) in memory up to this size; more are kept in a memory-mapped file in the run."""
    evaluate_every: int = 250
    """Steps between measurements on the held-out pictures."""
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
            raise InputError("no folder of pictures given; name at least one with --images")
        if not self.channels or any(channels < 4 or channels % 4 for channels in self.channels):
            raise InputError(f"channels is {self.channels}; give multiples of 4, one for each resolution")
        factor = 2 ** (len(self.channels) - 1)
        if self.size < 2 * factor or self.size % factor:
            raise InputError(
                f"size is {self.size}; with {len(self.channels)} resolutions it must be a multiple of {factor}, at "
                f"least {2 * factor}"
            )


# --- Pictures ---


def _files(folders: tuple[Path, ...]) -> list[Path]:
    files: list[Path] = []
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder of pictures")
        found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        if not found:
            raise InputError(f"{folder}: holds no pictures ({', '.join(sorted(SUFFIXES))})")
        files += found
    return files


def _read(path: Path, size: int) -> np.ndarray:
    """One picture as (size, size, 3) uint8."""
    image = load_image(path)
    if min(image.size) < size:
        raise InputError(f"{path}: {image.width}x{image.height} pixels; smaller than --size {size}")
    if image.size != (size, size):
        image = center_crop_resize(image, size)
    return np.asarray(image)


def _load_pictures(files: list[Path], size: int, memory_gib: float, spill: Path) -> np.ndarray:
    """All pictures as (N, size, size, 3) uint8, in memory or, if that is too much, in the memory-mapped file `spill`."""
    from tqdm import tqdm

    shape = (len(files), size, size, 3)
    if math.prod(shape) <= memory_gib * 2**30:
        pictures = np.empty(shape, np.uint8)
    else:
        pictures = np.memmap(spill, np.uint8, "w+", shape=shape)
    for index, path in enumerate(tqdm(files, desc="pictures", unit="", leave=False, mininterval=1)):
        pictures[index] = _read(path, size)
    return pictures


def _fingerprint(*arrays: np.ndarray) -> str:
    import hashlib

    digest = hashlib.sha256()
    for array in arrays:
        digest.update(repr(array.shape).encode())
        for start in range(0, len(array), 4096):
            digest.update(np.ascontiguousarray(array[start : start + 4096]).data)
    return digest.hexdigest()


# --- Network, loss, schedule ---


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


def evaluate(vae: "AutoencoderKL", pictures: np.ndarray, batch_size: int) -> dict[str, float]:
    """Reconstruct `pictures` (N, H, W, 3 uint8) from the posterior's mean, in fp32, rounded to 8 bits.

    Returns:
        `held_out_psnr`: dB, of the mean squared error over all pictures; `held_out_psnr_by_picture`: mean of the
        pictures' own; `latent_std`: standard deviation of posterior samples.
    """
    import torch

    errors: list[torch.Tensor] = []
    square, total, count = 0.0, 0.0, 0
    with torch.no_grad():
        for start in range(0, len(pictures), batch_size):
            images = to_tensor(pictures[start : start + batch_size]).to(vae.device)
            posterior = vae.encode(images).latent_dist  # type: ignore[union-attr]
            errors.append((_round(vae.decode(posterior.mean).sample) - images).square().mean(dim=(1, 2, 3)).cpu())  # type: ignore[union-attr]
            # The variance of a sample is the variance of the means plus the mean of the variances: no noise needed.
            square += float((posterior.mean.square() + posterior.var).double().sum())
            total += float(posterior.mean.double().sum())
            count += posterior.mean.numel()
    error = torch.cat(errors).double()
    return {
        "held_out_psnr": psnr(float(error.mean())),
        "held_out_psnr_by_picture": float(np.mean([psnr(float(value)) for value in error])),
        "latent_std": math.sqrt(square / count - (total / count) ** 2),
    }


def _round(images: "torch.Tensor") -> "torch.Tensor":
    """To the nearest of the 256 values an 8-bit picture can have."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


# --- State of a run ---


class _State:
    """Weights, their average, the optimizer, the step and the training time so far."""

    def __init__(self, config: TrainAutoencoderConfig, device: "torch.device") -> None:
        import copy

        import torch

        self.vae = build_vae(config)
        self.init_from_fingerprint = ""
        if config.init_from is not None and not _checkpoints(config.out):
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


def _checkpoints(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").glob("*.safetensors"))


def _save(state: _State, run: Path) -> None:
    """Write a checkpoint, then thin them to two: the newest is never the only one while another is written."""
    state.save(run / "checkpoints" / f"{state.step:08d}.safetensors")
    for path in _checkpoints(run)[:-2]:
        path.unlink()


def _resume(state: _State, run: Path) -> None:
    for path in reversed(_checkpoints(run)):
        try:
            state.load(path)
            return
        except ValueError as error:
            print(f"{error}; trying an older checkpoint", file=sys.stderr)
    if _checkpoints(run):
        raise InputError(f"{run / 'checkpoints'}: none can be read; remove that folder to begin anew")


def _check_run(config: TrainAutoencoderConfig) -> str | None:
    """Make sure that `config.out` is new, or a run of this configuration.

    Returns:
        The hash of the pictures the run was begun with; None for a new run.
    """
    out = config.out
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; give a directory to --out")
    if not (out / "config.json").is_file():
        if out.is_dir() and any(path.name != "pictures.u8" for path in out.iterdir()):
            raise InputError(f"{out}: is not empty and is not a run of {VERB}; give another --out")
        return None
    record = read_json(out / "config.json")
    if not isinstance(record, dict) or record.get("verb") != VERB:
        raise InputError(f"{out}: is not a run of {VERB}; give another --out")
    for key, mine in to_dict(config).items():
        if key not in _FREE and record["config"].get(key) != mine:
            raise InputError(
                f"{out}: this run was begun with {key} {record['config'].get(key)!r}, not {mine!r}; give the same value "
                "or another --out"
            )
    return record["pictures_sha256"]


def _write_grid(vae: "AutoencoderKL", pictures: np.ndarray, path: Path, columns: int = 8, rows: int = 2) -> None:
    """A PNG: pairs of rows, held-out pictures above their reconstructions."""
    import torch
    from PIL import Image

    pictures = np.asarray(pictures[: columns * rows])
    with torch.no_grad():
        latents = vae.encode(to_tensor(pictures).to(vae.device)).latent_dist.mean  # type: ignore[union-attr]
        images = vae.decode(latents).sample.clamp(-1, 1)  # type: ignore[union-attr]
    remade = ((images + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    size, gap = pictures.shape[1], 2
    lines = math.ceil(len(pictures) / columns)
    sheet = np.full((2 * lines * (size + gap) + gap, columns * (size + gap) + gap, 3), 255, np.uint8)
    for index in range(len(pictures)):
        line, column = divmod(index, columns)
        left = gap + column * (size + gap)
        for offset, source in enumerate((pictures, remade)):
            top = gap + (2 * line + offset) * (size + gap)
            sheet[top : top + size, left : left + size] = source[index]
    with atomic_path(path) as temporary:
        Image.fromarray(sheet).save(temporary, format="PNG")


# --- The verb ---


def run(config: TrainAutoencoderConfig) -> Path:
    """Train, and return the run directory: autoencoder/ (a diffusers folder), reconstructions.png, manifest.json,
    metrics.jsonl, config.json and checkpoints/.

    A finished run is returned as it is.

    Raises:
        InputError: pictures or a run directory that cannot be used, or a loss that is no longer finite (the step is
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
    files = _files(config.images)
    validation_files = _files(config.validation)[: config.held_out] if config.validation else []
    if len(files) < 2 and not validation_files:
        raise InputError(f"{config.images[0]}: holds a single picture; training needs at least two")
    config.out.mkdir(parents=True, exist_ok=True)
    spill = config.out / "pictures.u8"
    pictures = _load_pictures(files, config.size, config.memory_gib, spill)
    if validation_files:
        held_out = _load_pictures(validation_files, config.size, math.inf, spill)
        train = np.arange(len(files))
    else:
        order = np.random.default_rng(config.seed).permutation(len(files))
        count = min(config.held_out, max(1, len(files) // 10))
        held_out, train = np.asarray(pictures[np.sort(order[:count])]), np.sort(order[count:])
    pictures_sha256 = _fingerprint(pictures, held_out)
    if begun_with is None:
        record = {"verb": VERB, "config": to_dict(config), "pictures_sha256": pictures_sha256}
        write_json(config.out / "config.json", record)
    elif begun_with != pictures_sha256:
        raise InputError(f"{config.out}: this run was begun with other pictures; give the same ones or another --out")
    if (config.out / "manifest.json").exists():
        return config.out

    state = _State(config, device)
    _resume(state, config.out)
    trim_log(config.out / "metrics.jsonl", state.step)
    parameters = sum(parameter.numel() for parameter in state.vae.parameters())
    factor = 2 ** (len(config.channels) - 1)
    print(
        f"{parameters:,} parameters; {config.size}x{config.size} -> {config.latent_channels}x{config.size // factor}"
        f"x{config.size // factor}; {len(train)} pictures, {len(held_out)} held out; {device}, "
        f"{'bf16 autocast' if half else 'fp32'}" + (f"; going on from step {state.step}" if state.step else ""),
        file=sys.stderr,
    )
    bar = tqdm(total=1.0, initial=0.0, bar_format="{percentage:3.0f}%|{bar:20}| {desc}", mininterval=0.5)
    with noting_signals() as stop, bar, open(config.out / "metrics.jsonl", "a", encoding="utf-8") as log:
        _train(config, state, pictures, train, held_out, half, stop, bar, log)

    measured = evaluate(state.average, held_out, config.batch_size)
    state.average.register_to_config(scaling_factor=round(1 / measured["latent_std"], 5))
    with atomic_directory(config.out / "autoencoder") as temporary:
        save_vae(state.average, temporary)
    _write_grid(state.average, held_out, config.out / "reconstructions.png")
    spill.unlink(missing_ok=True)
    write_manifest(
        config.out,
        VERB,
        to_dict(config),
        started=started,
        seed=config.seed,
        pictures=len(train),
        pictures_held_out=len(held_out),
        pictures_sha256=pictures_sha256,
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
    state: _State,
    pictures: np.ndarray,
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
        images = to_tensor(pictures[batch]).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            posterior = state.vae.encode(images).latent_dist  # type: ignore[union-attr]
            mean, logvar = posterior.mean.float(), posterior.logvar.float()
            noise = torch.from_numpy(rng.standard_normal(mean.shape, np.float32)).to(device)
            reconstruction = state.vae.decode(mean + (logvar / 2).exp() * noise).sample.float()  # type: ignore[union-attr]
        terms = loss_terms(reconstruction, images, mean, logvar, config.error)
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
            _save(state, config.out)
            saved = time.monotonic()
        if stop.number and not done:
            print(f"\nstopped at step {state.step}; the same command goes on from there", file=sys.stderr)
            if stop.number == signal.SIGINT:
                raise KeyboardInterrupt
            sys.exit(128 + stop.number)


def main(arguments: list[str]) -> None:
    out = run(parse(TrainAutoencoderConfig, arguments, prog=f"ifuvit {VERB}"))
    measured = read_json(out / "manifest.json")
    print(
        f"{out / 'autoencoder'}: {measured['held_out_psnr']:.2f} dB on held-out pictures after {measured['steps']} steps"
    )
