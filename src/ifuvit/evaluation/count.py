"""`ifuvit count`: prompts to count by, judging images by an object counter, and training one on OpenMoji Scenes.

Training takes minutes on two CPU cores and is not resumable: the directory appears when it is whole.
"""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from ifuvit.data.prompts import PromptSet
from ifuvit.utils.config import to_dict
from ifuvit.utils.devices import find_device, use_bf16
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import (
    OutputDirectory,
    atomic_directory,
    manifest,
    now,
    read_json,
    sha256,
    write_json,
    write_manifest,
)

TRAIN, JUDGE = "count train", "count judge"


@dataclass(frozen=True, kw_only=True)
class CountPromptsConfig:
    """Print a set of prompts, one a line, for `ifuvit generate --prompts-file`."""

    set: Positional[PromptSet]
    """paper: bus, sheep, person and apple, one to five each (20 prompts). all-kinds: the same of all 42 kinds of OpenMoji
    Scenes (210). relations: pairs of kinds in four relations (100). held-out: what no training scene shows (99). coco: for
    photographs, one to five of 77 kinds of MS-COCO (385)."""


@dataclass(frozen=True, kw_only=True)
class CountJudgeConfig:
    """Judge by an object counter, or on photographs by a detector, whether images show what their prompts ask for."""

    images: Positional[Path]
    """Directory that `ifuvit generate` wrote."""
    out: Path
    """JSON file to write."""
    counter: str = "openmoji"
    """Of OpenMoji Scenes' kinds: the shipped one's name, or a directory that `ifuvit count train` wrote."""
    detector: Annotated[str | None, arg(metavar="FOLDER|ID")] = None
    """For photographs, instead of a counter: a zero-shot detector of transformers, by folder or hub id, as
    google/owlv2-base-patch16-ensemble. It evaluators prompts like "two dogs" of any kind."""
    threshold: Annotated[float | None, arg(metavar="FLOAT")] = None
    """Least score of a detector's box that counts; fix it before you see the result. Default: 0.1 for OWLv2, 0.25 for
    Grounding DINO."""
    thresholds: tuple[float, ...] = ()
    """Least scores of an object to tell the main scores for as well, beside the reported ones."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, mps; auto takes an accelerator if there is one."""

    def __post_init__(self) -> None:
        if self.out.is_dir():
            raise InputError(f"--out {self.out}: is a directory; give the name of a JSON file")
        for threshold in self.thresholds:
            if not 0 < threshold < 1:
                raise InputError(f"--thresholds {threshold}: must be between 0 and 1")


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


def run(config: CountTrainConfig | CountJudgeConfig) -> Path:
    """Train or judge, and return what was written: the counter's directory, or the JSON file.

    Raises:
        InputError: scenes, images or a counter that are missing or broken, or a place that cannot be written.
    """
    return train(config) if isinstance(config, CountTrainConfig) else judge(config)


# ----------------------------------------------------------------------------------------------------------- training


def train(config: CountTrainConfig) -> Path:
    """Train a counter; see `run`."""
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
            errors=errors,
        )
    return config.out


# ------------------------------------------------------------------------------------------------------------ judging


def judge(config: CountJudgeConfig) -> Path:
    """Judge images; see `run`."""
    from ifuvit.metrics.counting.counters import count_images, open_counter

    started = now()
    files, prompts = read_generated(config.images)
    device = find_device(config.device)
    counter = open_counter(config.counter, detector=config.detector, threshold=config.threshold, device=device)
    result = manifest(
        JUDGE,
        to_dict(config),
        started=started,
        **count_images(files, prompts, counter, thresholds=config.thresholds),
        generated={
            "directory": str(config.images),
            "manifest_sha256": sha256(config.images / "manifest.json"),
        },
    )
    write_json(config.out, result)
    return config.out


def read_generated(directory: Path) -> tuple[list[Path], list[str]]:
    """The file and the prompt of every image that `ifuvit generate` wrote.

    Raises:
        InputError: the directory is of another origin.
    """
    if not directory.is_dir():
        raise InputError(f"{directory}: no such directory; give one that `ifuvit generate` wrote")
    facts = read_json(directory / "manifest.json")
    try:
        if facts["command"] != "generate":
            raise InputError(
                f"{directory}: written by `ifuvit {facts['command']}`; give a directory of `ifuvit generate`"
            )
        listed = [(directory / str(image["file"]), str(image["prompt"])) for image in facts["images"]]
    except (KeyError, TypeError):
        raise InputError(f"{directory / 'manifest.json'}: not of `ifuvit generate`; it lists no images") from None
    if not listed:
        raise InputError(f"{directory / 'manifest.json'}: lists no images")
    return [file for file, _ in listed], [prompt for _, prompt in listed]


# -------------------------------------------------------------------------------------------------------- command line
