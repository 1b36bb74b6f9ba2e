"""Training of a small KL autoencoder on folders of images.

The network is diffusers' AutoencoderKL without attention; the objective is the error of pixels and of their differences,
of the features of EfficientNet-Lite0 at several depths (a perceptual term as Johnson et al. 2016, from the network that
is embedded), and a slight pull of the posterior towards a standard normal (Kingma and Welling 2014; slight as in latent
diffusion, Rombach et al. 2022). No adversarial term: for flat drawings it is not needed.

Every random draw depends on (seed, step) only, so a run that was interrupted and resumes ends with the same weights, bit for
bit on a CPU, unless `--minutes` ties the schedule to the clock.
"""

import json
import math
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from ifuvit.data.images import to_images, to_tensor
from ifuvit.encoders.autoencoder import Autoencoder, save_vae
from ifuvit.standins.config import TrainAutoencoderConfig
from ifuvit.standins.fit import Fit, warmup_cosine
from ifuvit.standins.image_arrays import find_images, fingerprint, load_images
from ifuvit.training.checkpoint import saved_steps, trim_log
from ifuvit.training.ema import EMA
from ifuvit.training.muon import Muon
from ifuvit.utils.config import to_dict
from ifuvit.utils.devices import find_device, use_bf16
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import OutputDirectory, atomic_directory, atomic_path, now, write_manifest
from ifuvit.utils.weights import load_state

COMMAND = "make-standin autoencoder"
DEFAULT_STEPS = 2500

# Fields that may differ between the command that began a run and the one that resumes it. The images are compared by
# their pixels, not by where they lie.
_FREE = {"images", "validation", "out", "device", "memory_gib", "checkpoint_minutes", "log_every"}


def run(config: TrainAutoencoderConfig) -> Path:
    """Train, and return the run directory: autoencoder/ (a diffusers folder), reconstructions.png, manifest.json,
    metrics.jsonl, config.json and checkpoints/.

    A finished run is returned as it is.

    Raises:
        InputError: images or a run directory that cannot be used, or a loss that is no longer finite (the step is
            named, and the last checkpoint is kept).
    """
    out = OutputDirectory(config.out, COMMAND, record="config.json", own=("images.u8",))
    with out.lock():
        return _make(config, out)


def _make(config: TrainAutoencoderConfig, out: OutputDirectory) -> Path:
    started, earlier = now(), out.earlier()
    device = find_device(config.device)
    files = find_images(config.images)
    validation_files = find_images(config.validation)[: config.held_out] if config.validation else []
    if len(files) < 2 and not validation_files:
        raise InputError(f"{config.images[0]}: holds a single image; training needs at least two")
    config.out.mkdir(parents=True, exist_ok=True)
    spill = config.out / "images.u8"
    images = load_images(files, config.size, config.memory_gib, spill)
    if validation_files:
        held_out = load_images(validation_files, config.size, math.inf, spill)
        train_rows = np.arange(len(files))
    else:
        order = np.random.default_rng(config.seed).permutation(len(files))
        count = min(config.held_out, max(1, len(files) // 10))
        held_out, train_rows = np.asarray(images[np.sort(order[:count])]), np.sort(order[count:])
    images_sha256 = fingerprint(images, held_out)
    vae = build_vae(config)
    if earlier is not None and saved_steps(config.out):
        initial = earlier.get("init_from_fingerprint")  # the checkpoint has what became of it
    else:
        initial = None if config.init_from is None else _initialize(vae, config.init_from)
    if config.decoder_only:
        for module in (vae.encoder, vae.quant_conv):
            module.requires_grad_(False)  # type: ignore[union-attr]
    settings = {key: value for key, value in to_dict(config).items() if key not in _FREE}
    identity = {"config": settings, "images_sha256": images_sha256, "init_from_fingerprint": initial}
    out.begin(identity, config=to_dict(config))
    if (config.out / "manifest.json").exists():
        return config.out

    parameters = sum(parameter.numel() for parameter in vae.parameters())
    side = config.size // 2 ** (len(config.channels) - 1)
    print(
        f"{parameters:,} parameters; {config.size}x{config.size} -> {config.latent_channels}x{side}x{side}; "
        f"{len(train_rows)} images, {len(held_out)} held out; {device}, "
        f"{'bf16 autocast' if use_bf16(config.precision, device) else 'fp32'}",
        file=sys.stderr,
    )
    fit = train(config, vae.to(device), images, train_rows, held_out)  # type: ignore[arg-type]

    measured = evaluate(vae, held_out, config.batch_size)
    vae.register_to_config(scaling_factor=round(1 / measured["latent_std"], 5))
    with atomic_directory(config.out / "autoencoder") as temporary:
        save_vae(vae, temporary)
    _write_grid(vae, held_out, config.out / "reconstructions.png")
    spill.unlink(missing_ok=True)
    write_manifest(
        config.out,
        COMMAND,
        to_dict(config),
        started=started,
        seed=config.seed,
        images=len(train_rows),
        images_held_out=len(held_out),
        images_sha256=images_sha256,
        parameters=parameters,
        steps=fit.step,
        training_seconds=round(fit.seconds, 1),
        precision="bf16" if use_bf16(config.precision, device) else "fp32",
        device=str(device),
        init_from_fingerprint=initial,
        fingerprint=Autoencoder(vae, reference=str(config.out)).fingerprint,
        **{name: round(value, 4) for name, value in measured.items()},
    )
    return config.out


def train(
    config: TrainAutoencoderConfig, vae: AutoencoderKL, images: np.ndarray, train_rows: np.ndarray, held_out: np.ndarray
) -> Fit:
    """Train `vae`, which then has the averaged weights. Resumes from the checkpoints in `config.out`.

    Args:
        config: see there.
        vae: trained in place, on its device.
        images: (N, H, W, 3) uint8.
        train_rows: which of them are trained on.
        held_out: (M, H, W, 3) uint8, measured on.

    Returns:
        How many steps and seconds it took.
    """
    device = vae.device
    # Measured on two Zen 5 cores, batch 48: 0.34 s a step in bf16, 0.60 s in fp32. channels_last made the fp32 step a
    # little faster (0.50 s) and the bf16 step slower (0.52 s), so it is not used.
    half = use_bf16(config.precision, device)
    features = PerceptualError(device) if config.feature_weight else None

    def loss(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([config.seed, step])
        targets = to_tensor(images[train_rows[rng.integers(0, len(train_rows), config.batch_size)]]).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            with torch.set_grad_enabled(not config.decoder_only):
                posterior = vae.encode(targets).latent_dist  # type: ignore[union-attr]
            mean, logvar = posterior.mean.float(), posterior.logvar.float()
            noise = torch.from_numpy(rng.standard_normal(mean.shape, np.float32)).to(device)
            latents = mean + (logvar / 2).exp() * noise
            reconstruction = vae.decode(latents).sample.float()  # type: ignore[union-attr]
            scaled = equivariance_error(vae, latents, targets, rng) if config.equivariance_weight else torch.zeros(())
        terms = loss_terms(reconstruction, targets, mean, logvar, config.error)
        terms["equivariance"] = scaled
        terms["features"] = features(reconstruction, targets) if features else torch.zeros(())
        return {
            "loss": terms["pixels"]
            + config.feature_weight * terms["features"]
            + config.equivariance_weight * terms["equivariance"]
            + config.gradient_weight * terms["gradient"]
            + config.thumbnail_weight * terms["thumbnail"]
            + config.kl_weight * terms["kl"],
            **terms,
        }

    def log(line: dict[str, float]) -> None:
        if "mse" in line:
            line |= {"psnr": psnr(line["mse"])}
        with open(config.out / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    ema = EMA(vae, config.ema, ramp=True)
    fit = Fit(
        network=vae.train(),
        optimizers=_optimizers(vae, config),
        loss=loss,
        schedule=lambda _, progress: warmup_cosine(max(progress, 1e-3), warmup=0.05, floor=0.01),
        clip=1.0,
        steps=config.steps or (None if config.minutes else DEFAULT_STEPS),
        minutes=config.minutes,
        log=log,
        log_every=config.log_every,
        ema=ema,
        evaluate=lambda: evaluate(vae, held_out, config.batch_size),
        evaluate_every=config.evaluate_every,
        out=config.out,
        checkpoint_minutes=config.checkpoint_minutes,
    )
    fit.resume()
    trim_log(config.out / "metrics.jsonl", fit.step)
    fit.run()
    with torch.no_grad():
        for parameter, average in zip(ema.parameters, ema.average, strict=True):
            parameter.copy_(average)
    vae.eval()
    return fit


def _optimizers(vae: AutoencoderKL, config: TrainAutoencoderConfig) -> dict[torch.optim.Optimizer, float]:
    """AdamW; with Muon for the kernels between the first layer and the last where the configuration asks for it."""
    trained = [parameter for parameter in vae.parameters() if parameter.requires_grad]
    kernels: list[nn.Parameter] = []
    if config.optimizer == "muon":
        kernels = [parameter for parameter in trained if parameter.ndim == 4 and min(parameter.shape[:2]) > 3]
    chosen = set(kernels)
    rest = [parameter for parameter in trained if parameter not in chosen]
    optimizers: dict[torch.optim.Optimizer, float] = {
        torch.optim.AdamW(rest, betas=(0.9, 0.99), weight_decay=0.0): config.learning_rate
    }
    if kernels:
        optimizers[Muon(kernels, lr=config.muon_learning_rate)] = config.muon_learning_rate
    return optimizers


def equivariance_error(vae: AutoencoderKL, latents: Tensor, images: Tensor, rng: np.random.Generator) -> Tensor:
    """The mean squared error of decoding smaller latents against smaller images, both by the same factor, which is drawn
    between 1/2 and 1 (Kouzelis et al. 2025).

    Args:
        vae: whose decoder is used.
        latents: (B, C, h, h).
        images: (B, 3, H, H) in [-1, 1].
        rng: draws one number.
    """
    cells, factor = latents.shape[-1], images.shape[-1] // latents.shape[-1]
    size = int(rng.integers(-(-cells // 2), cells))
    smaller = nn.functional.interpolate(latents.float(), (size, size), mode="bilinear", antialias=True)
    wanted = nn.functional.interpolate(images, (size * factor, size * factor), mode="bilinear", antialias=True)
    return (vae.decode(smaller).sample.float() - wanted).square().mean()  # type: ignore[union-attr]


class PerceptualError(nn.Module):
    """The distance of two batches of images in the features of EfficientNet-Lite0, at the end of each of its resolutions:
    mean squared difference over mean square of the second's, averaged over the depths."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        from ifuvit.metrics.distances.feature_networks import load_feature_network

        loaded = load_feature_network("effnet-lite0", device=device)
        self.prepare, self.network = loaded.preparation, cast(Any, loaded.module).network

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        """(B, 3, H, W) twice, in [-1, 1]; a gradient flows to the first. A scalar."""
        with torch.no_grad():
            wanted = self.features(targets)
        errors = [
            (mine - theirs).square().mean() / theirs.square().mean()
            for mine, theirs in zip(self.features(images), wanted, strict=True)
        ]
        return torch.stack(errors).mean()

    def features(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [-1, 1] -> the last features of 1/2, 1/4 ... 1/32 of the resolution, (B, D, h, w) each, and the
        pooled ones that distances are measured over, (B, D)."""
        network, depths = self.network, []
        x = self.prepare((images + 1) * 127.5).contiguous(memory_format=torch.channels_last)
        x = network._swish(network._bn0(network._conv_stem(x)))
        for block in network._blocks:
            out = block(x)
            if out.shape[-1] != x.shape[-1]:
                depths.append(x)
            x = out
        return [*depths, x, network._swish(network._bn1(network._conv_head(x))).mean((2, 3))]


def build_vae(config: TrainAutoencoderConfig) -> AutoencoderKL:
    """A freshly initialized AutoencoderKL; the draw depends on `config.seed`."""
    levels = len(config.channels)
    # Groups of at least two channels at the narrowest resolution, as normalizing single channels loses their level.
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


def _initialize(vae: AutoencoderKL, source: str) -> str:
    """Take over the weights of another autoencoder of the same shape, and return its fingerprint."""
    initial = Autoencoder.from_pretrained(source)
    try:
        load_state(vae, initial.vae.state_dict(), where=source)
    except InputError:
        raise InputError(
            f"{source}: an autoencoder of another shape; give its --channels, --layers and --latent-channels"
        ) from None
    return initial.fingerprint


def loss_terms(reconstruction: Tensor, images: Tensor, mean: Tensor, logvar: Tensor, error: str) -> dict[str, Tensor]:
    """The unweighted terms, scalars: `pixels` and `gradient` (the mean "squared" or "absolute" error of pixels and of
    their differences), `thumbnail` (squared error of the first latent channels against the mean color of each cell), `kl`
    (nats, summed over a latent, mean over the batch), and `mse` (to report)."""
    difference = reconstruction - images
    height, width = mean.shape[-2:]
    thumbnail = adaptive_avg_pool2d(images, (height, width))

    def measure(values: Tensor) -> Tensor:
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


def evaluate(vae: AutoencoderKL, images: np.ndarray, batch_size: int) -> dict[str, float]:
    """Reconstruct `images` (N, H, W, 3 uint8) from the posterior's mean, in fp32, rounded to 8 bits.

    Returns:
        `held_out_psnr`: dB, of the mean squared error over all images; `held_out_psnr_by_image`: mean of the
        images' own; `latent_std`: standard deviation of posterior samples.
    """
    errors: list[Tensor] = []
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


def _round(images: Tensor) -> Tensor:
    """To the nearest of the 256 values an 8-bit image can have."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


def _write_grid(vae: AutoencoderKL, images: np.ndarray, path: Path, columns: int = 8, rows: int = 2) -> None:
    """A PNG: pairs of rows, held-out images above their reconstructions."""
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
