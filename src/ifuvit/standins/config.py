"""Training configurations of the three stand-ins."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from ifuvit.utils.config import Fraction, NonNegative, Positive, Range, check, idle
from ifuvit.utils.errors import InputError


@dataclass(frozen=True, kw_only=True)
class TrainAutoencoderConfig:
    """Train a small KL autoencoder on folders of images of any kind.

    Example:
        ifuvit make-standin autoencoder --images DIR --out runs/autoencoder --minutes 15
    """

    images: tuple[Path, ...]
    """Folders of images (searched through all subfolders)."""
    out: Path
    """Run directory. The same command again resumes where it stopped."""
    validation: tuple[Path, ...] = ()
    """Folders of images to measure on; default: some of `images` are held out."""
    held_out: Positive[int] = 256
    """Images to measure on, at most (and at most a tenth of `images` where they come from there)."""
    size: int = 64
    """Side of the square the images are cropped and resized to, pixels."""
    channels: tuple[int, ...] = (16, 32, 64)
    """Channels at each resolution; one more halves the latent's side."""
    layers: Positive[int] = 1
    """Residual blocks at each resolution of the encoder (the decoder has one more)."""
    latent_channels: Positive[int] = 4
    """Channels of the latent."""
    steps: Positive[int] | None = None
    """Training steps; default 2500, or as many as fit into --minutes."""
    minutes: Positive[float] | None = None
    """Training time. Where steps are given too, whichever ends first decides. The learning rate follows."""
    batch_size: Positive[int] = 48
    """Images a step."""
    learning_rate: Positive[float] = 2e-3
    """Peak learning rate of AdamW; it is reached after the first twentieth of the run and falls along a cosine."""
    optimizer: Literal["adamw", "muon"] = "muon"
    """AdamW for all parameters, or Muon for the kernels and AdamW for the rest."""
    muon_learning_rate: Positive[float] = 0.02
    """Peak learning rate of the kernels with Muon."""
    thumbnail_weight: NonNegative[float] = 1.0
    """Weight of the squared error between the first three latent channels and the image's mean color in each cell. It
    keeps latents as smooth as a thumbnail, which a diffusion model learns far sooner; 0 leaves them free."""
    kl_weight: NonNegative[float] = 1e-8
    """Weight of the KL divergence (summed over a latent), next to the mean error of pixels with weight 1."""
    gradient_weight: NonNegative[float] = 0.5
    """Weight of the same error of horizontal and vertical pixel differences: sharper edges."""
    equivariance_weight: NonNegative[float] = 0.0
    """Weight of the same error after latents and images were both made smaller by a random factor of up to two: latents that
    scale as images do are smooth, and a diffusion model learns them sooner (EQ-VAE, arXiv:2502.09509)."""
    feature_weight: NonNegative[float] = 0.0
    """Weight of the error of EfficientNet-Lite0's features at six depths: textures and edges as a network sees them."""
    error: Literal["squared", "absolute"] = "squared"
    """Which mean error to train on. The absolute error neglects small bright objects on a plain background: their colors
    fade to gray."""
    init_from: str | None = None
    """Start from the weights of this autoencoder (a run, a diffusers folder, or a shipped name)."""
    decoder_only: bool = False
    """With --init-from: keep its encoder, so that latents, and models trained on them, stay valid."""
    ema: Annotated[float, Range(least=0, below=1)] = 0.995
    """Decay of the averaged weights, which are what is measured and saved; ramped up from the start."""
    seed: NonNegative[int] = 0
    """Seed of the initial weights, the batches, the noise and the choice of held-out images."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16 is autocast with fp32 weights; auto takes it where the processor has instructions for it."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps; auto takes an accelerator if there is one."""
    memory_gib: Positive[float] = 4.0
    """Hold the images (8-bit) in memory up to this size; more are kept in a memory-mapped file in the run."""
    evaluate_every: Positive[int] = 250
    """Steps between measurements on the held-out images."""
    log_every: Positive[int] = 10
    """Steps between lines of metrics.jsonl."""
    checkpoint_minutes: Positive[float] = 3.0
    """Minutes between checkpoints."""

    def __post_init__(self) -> None:
        check(self)
        if not self.images:
            raise InputError("--images: no folder of images given; give at least one")
        if self.decoder_only and self.init_from is None:
            raise InputError("--decoder-only: requires --init-from, the autoencoder whose encoder is kept")
        if not self.channels or any(channels < 4 or channels % 4 for channels in self.channels):
            raise InputError(
                f"--channels {' '.join(map(str, self.channels))}: give multiples of 4, one for each resolution"
            )
        factor = 2 ** (len(self.channels) - 1)
        if self.size < 2 * factor or self.size % factor:
            raise InputError(
                f"--size {self.size}: with {len(self.channels)} resolutions it must be a multiple of {factor}, at least "
                f"{2 * factor}"
            )

    def without_effect(self) -> dict[str, str]:
        """Options that have no effect with the others."""
        return idle(
            (self.optimizer == "adamw", ("muon_learning_rate",), "with --optimizer adamw"),
            (self.decoder_only, ("thumbnail_weight", "kl_weight"), "with --decoder-only, which keeps the latents"),
        )


@dataclass(frozen=True, kw_only=True)
class TrainTwoTowerConfig:
    """Train the model of the TwoTower score on images of `ifuvit scenes` and measure it on the validation images.

    Example:
        ifuvit make-standin two-tower --scenes scenes --out two-tower
    """

    scenes: Path
    """Directory that `ifuvit scenes` wrote."""
    out: Path
    """Directory to write; a two-tower model already there is replaced."""
    images: Positive[int] = 12_000
    """Training images to use, at most."""
    relations: Fraction = 0.5
    """Share of them that show two kinds of objects. Relations are harder to learn than counts, and rarer in the data."""
    captions: Positive[int] = 2
    """Captions of each image to use: the plainest, and others in turn."""
    autoencoder: str = "openmoji"
    """A third of the images are seen as this autoencoder decodes them: a shipped name, a run, a folder or a hub id."""
    steps: Positive[int] = 700
    """Training steps."""
    batch_size: Annotated[int, Range(least=2)] = 192
    """Images a step, each with one of its captions; at least two, for each has to be told from another one."""
    group: Positive[int] = 8
    """Images in a row that show the same kinds of objects."""
    learning_rate: Positive[float] = 1.5e-3
    """Peak learning rate of AdamW; it is reached after a twentieth of the steps and falls to 0 along a cosine."""
    weight_decay: NonNegative[float] = 0.05
    """Of AdamW."""
    seed: NonNegative[int] = 0
    """Seed of the initial weights, the batches and the choice of captions."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16 is autocast with fp32 weights; auto takes it where the processor has instructions for it."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, mps; auto takes an accelerator if there is one."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class TrainCounterConfig:
    """Train an object counter on images of `ifuvit scenes` and measure its error on the validation images.

    Example:
        ifuvit make-standin counter --scenes scenes --out counter --autoencoder openmoji
    """

    scenes: Path
    """Directory that `ifuvit scenes` wrote."""
    out: Path
    """Directory to write; a counter already there is replaced."""
    steps: Positive[int] = 1200
    """Training steps."""
    batch_size: Positive[int] = 64
    """Images a step."""
    learning_rate: Positive[float] = 3e-3
    """Peak learning rate of AdamW; it is reached after a tenth of the steps and falls to 0 along a cosine."""
    width: Annotated[int, Range(least=8)] = 64
    """Channels of the network at a quarter of the images' resolution."""
    seed: NonNegative[int] = 0
    """Seed of the initial weights, the batches and the disturbances."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16 is autocast with fp32 weights; auto takes it where the processor has instructions for it."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, mps; auto takes an accelerator if there is one."""
    autoencoder: str | None = None
    """Measure the error on this autoencoder's reconstructions, too: "openmoji", a run, a folder or a hub id."""

    def __post_init__(self) -> None:
        check(self)
