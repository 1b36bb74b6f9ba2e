"""`ifuvit count`: prompts to count by, and training an object counter on OpenMoji Scenes.

Training takes minutes on two CPU cores and is not resumable: the directory appears when it is whole.
"""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from ifuvit.data.prompts import PromptSet
from ifuvit.utils.config import to_dict
from ifuvit.utils.devices import find_device, use_bf16
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import (
    OutputDirectory,
    atomic_directory,
    now,
    sha256,
    write_json,
    write_manifest,
)

TRAIN = "count train"


@dataclass(frozen=True, kw_only=True)
class CountPromptsConfig:
    """Print a set of prompts, one a line, for `ifuvit generate --prompts-file`."""

    set: Positional[PromptSet]
    """paper: bus, sheep, person and apple, one to five each (20 prompts). all-kinds: the same of all 42 kinds of OpenMoji
    Scenes (210). relations: pairs of kinds in four relations (100). held-out: what no training scene shows (99). coco: for
    photographs, one to five of 77 kinds of MS-COCO (385)."""


@dataclass(frozen=True, kw_only=True)
class CountTrainConfig:
    """Train an object counter on images of `ifuvit scenes` and measure its error on the validation images."""

    scenes: Path
    """Directory that `ifuvit scenes` wrote."""
    out: Path
    """Directory to write; a counter already there is replaced."""
    steps: int = 1200
    """Training steps."""
    batch_size: int = 64
    """Images a step."""
    learning_rate: float = 3e-3
    """Peak learning rate of AdamW; it is reached after a tenth of the steps and falls to 0 along a cosine."""
    width: int = 64
    """Channels of the network at a quarter of the images' resolution."""
    seed: int = 0
    """Seed of the initial weights, the batches and the disturbances."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16 is autocast with fp32 weights; auto takes it where the processor has instructions for it."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, mps; auto takes an accelerator if there is one."""
    autoencoder: str | None = None
    """Measure the error on this autoencoder's reconstructions, too: "openmoji", a run, a folder or a hub id."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be at least 1")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise InputError(f"--learning-rate {self.learning_rate}: must be a number above 0")
        if self.width < 8:
            raise InputError(f"--width {self.width}: must be at least 8")
        if self.seed < 0:
            raise InputError(f"--seed {self.seed}: must not be negative")


# ----------------------------------------------------------------------------------------------------------- training


def train(config: CountTrainConfig) -> Path:
    """Train a counter and write its directory.

    Returns:
        `config.out`.

    Raises:
        InputError: scenes that are missing or broken, or a place that cannot be written.
    """
    import torch

    from ifuvit.encoders.autoencoder import Autoencoder
    from ifuvit.metrics.counting.counter_network import ObjectCounterConfig
    from ifuvit.standins.counter import BLUR_PIXELS, NOISE, measure, read_scenes, train_counter

    started = now()
    device = find_device(config.device)
    network = ObjectCounterConfig(width=config.width)
    scenes = read_scenes(config.scenes, "train", size=network.image_size)
    validation = read_scenes(config.scenes, "val", size=network.image_size)
    OutputDirectory(config.out, TRAIN).earlier()
    autoencoder = Autoencoder.from_pretrained(config.autoencoder, device=device) if config.autoencoder else None

    bf16 = use_bf16(config.precision, device)
    began, processor = time.monotonic(), time.process_time()
    counter, losses = train_counter(
        network,
        scenes,
        steps=config.steps,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        seed=config.seed,
        bf16=bf16,
        device=device,
    )
    seconds, processor = time.monotonic() - began, time.process_time() - processor
    # What is measured is what is stored: weights in half precision.
    counter = counter.half().float()
    errors = measure(
        counter, validation, seed=config.seed, reconstruct=autoencoder.reconstruct if autoencoder else None
    )
    with atomic_directory(config.out) as directory:
        counter.save_pretrained(directory, dtype=torch.float16)
        write_json(directory / "losses.json", losses)
        write_manifest(
            directory,
            TRAIN,
            to_dict(config),
            started=started,
            seed=config.seed,
            data={
                f"instances_{split}": sha256(config.scenes / "annotations" / f"instances_{split}.json")
                for split in ("train", "val")
            },
            parameters=sum(value.numel() for value in counter.parameters()),
            precision="bf16" if bf16 else "fp32",
            threads=torch.get_num_threads(),
            seconds=round(seconds, 1),
            processor_seconds=round(processor, 1),
            disturbances={
                "blur_pixels": BLUR_PIXELS,
                "noise": NOISE,
                "autoencoder": {"reference": autoencoder.reference, "fingerprint": autoencoder.fingerprint}
                if autoencoder
                else None,
            },
            errors={name: to_dict(scores) for name, scores in errors.items()},
        )
    return config.out
