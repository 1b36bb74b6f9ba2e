"""Training of the object counter on drawn scenes, and its error on others.

It takes minutes on two CPU cores and cannot be resumed: the directory appears when it is whole. Every random draw depends on
(seed, step) only, so the same command gives the same weights on the same machine.
"""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from ifuvit.data.images import to_tensor
from ifuvit.data.scenes import KIND_INDEX, WrittenScene, read_annotations
from ifuvit.encoders.autoencoder import Autoencoder
from ifuvit.metrics.counting.counter_network import CELL, Maps, ObjectCounter, ObjectCounterConfig, read_squares
from ifuvit.metrics.counting.parsing import Asked, AskedRelation
from ifuvit.metrics.counting.scores import Detection, score
from ifuvit.results import ObjectScores
from ifuvit.standins.config import TrainCounterConfig
from ifuvit.standins.disturbances import blur, disturb
from ifuvit.standins.fit import Fit, rise_and_fall
from ifuvit.utils.config import to_dict
from ifuvit.utils.devices import find_device, use_bf16
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import OutputDirectory, now, sha256, write_json, write_manifest

COMMAND = "make-standin counter"

BLUR_PIXELS = 1.0
NOISE = 0.15
"""Of the disturbed validation images: standard deviations of the Gaussian blur, in pixels, and of the Gaussian noise,
where black is -1 and white 1."""
# Of the loss, in cells: how far a center's neighborhood reaches, and how near to it a cell is one.
_SPREAD = 0.6
_POSITIVE = 0.75


def run(config: TrainCounterConfig) -> Path:
    """Train a counter, measure its error, and return the directory: config.json, model.safetensors, losses.json,
    manifest.json.

    Raises:
        InputError: scenes that are missing or broken, a loss that is not finite, or a place that cannot be written.
    """
    started = now()
    out = OutputDirectory(config.out, COMMAND)
    out.earlier()
    device = find_device(config.device)
    network = ObjectCounterConfig(width=config.width)
    scenes = read_scenes(config.scenes, "train", size=network.image_size)
    validation = read_scenes(config.scenes, "val", size=network.image_size)
    autoencoder = Autoencoder.from_pretrained(config.autoencoder, device=device) if config.autoencoder else None

    began, processor = time.monotonic(), time.process_time()
    counter, losses = train(config, network, scenes, device)
    seconds, processor = time.monotonic() - began, time.process_time() - processor
    # What is measured is what is stored: weights in half precision.
    counter = counter.half().float()
    errors = counting_errors(
        counter, validation, seed=config.seed, reconstruct=autoencoder.reconstruct if autoencoder else None
    )
    with out.replace() as directory:
        counter.save_pretrained(directory, dtype=torch.float16)
        write_json(directory / "losses.json", losses)
        write_manifest(
            directory,
            COMMAND,
            to_dict(config),
            started=started,
            seed=config.seed,
            data={
                f"instances_{split}": sha256(config.scenes / "annotations" / f"instances_{split}.json")
                for split in ("train", "val")
            },
            parameters=sum(value.numel() for value in counter.parameters()),
            precision="bf16" if use_bf16(config.precision, device) else "fp32",
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


def read_scenes(directory: Path, split: Literal["train", "val"], *, size: int) -> list[WrittenScene]:
    """One split of OpenMoji Scenes.

    Raises:
        InputError: missing, broken or empty annotations, or images of another size.
    """
    scenes = list(read_annotations(directory, split).values())
    if not scenes:
        raise InputError(f"{directory}: has no images of the split {split}; `ifuvit scenes` draws them with --{split}")
    for scene in scenes:
        if scene.size != (size, size):
            raise InputError(
                f"{scene.file}: has {scene.size[0]} x {scene.size[1]} pixels; the counter is made for {size} x {size}, "
                f"draw scenes with --size {size}"
            )
    return scenes


# ----------------------------------------------------------------------------------------------------------- training


def train(
    config: TrainCounterConfig, network: ObjectCounterConfig, scenes: Sequence[WrittenScene], device: torch.device
) -> tuple[ObjectCounter, list[dict[str, float]]]:
    """Train a counter on disturbed images of scenes.

    Returns:
        The counter in evaluation mode, and the terms of the loss every 50 steps.

    Raises:
        InputError: the loss is not finite, or an image is missing or broken.
    """
    torch.manual_seed(config.seed)
    # Measured on one Zen 5 core, 64 images, forward and backward: 0.15 s in bf16, 0.29 s in fp32, both in
    # channels_last; without it 0.24 s and 0.36 s.
    counter = ObjectCounter(network).to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    bf16 = use_bf16(config.precision, device)

    def loss(step: int) -> dict[str, torch.Tensor]:
        batch = [scenes[index] for index in _batch(config.seed, step, config.batch_size, len(scenes))]
        images = to_tensor(read_squares([scene.file for scene in batch], network.image_size)).to(device)
        images = disturb(images, np.random.default_rng([config.seed, step]))
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            maps = counter(images.contiguous(memory_format=torch.channels_last))
        terms = detection_loss(maps, make_targets([_numbered(scene) for scene in batch]))
        return {"loss": terms["center"] + terms["kind"] + 0.5 * terms["offset"], **terms}

    losses: list[dict[str, float]] = []
    Fit(
        network=counter,
        optimizers={torch.optim.AdamW(counter.parameters(), weight_decay=0.01): config.learning_rate},
        loss=loss,
        schedule=rise_and_fall(warmup=config.steps // 10, steps=config.steps),
        clip=10.0,
        steps=config.steps,
        log=losses.append,
    ).run()
    return counter.eval(), losses


def _numbered(scene: WrittenScene) -> list[tuple[int, tuple[float, float, float, float]]]:
    return [(KIND_INDEX[kind], box) for kind, box in scene.objects]


def _batch(seed: int, step: int, size: int, count: int) -> list[int]:
    """Numbers of the images of a step: every pass over all images has an order of its own."""
    numbers: list[int] = []
    for position in range(step * size, (step + 1) * size):
        epoch, place = divmod(position, count)
        numbers.append(int(_order(seed, epoch, count)[place]))
    return numbers


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, 1, epoch]).permutation(count)


# --------------------------------------------------------------------------------------------------------------- loss


class Targets(NamedTuple):
    """Objects of B images, padded to N an image."""

    centers: torch.Tensor
    """(B, N, 2) x and y in pixels; far outside where there is no object."""
    kinds: torch.Tensor
    """(B, N) numbers of the kinds, int64."""


def make_targets(objects: Sequence[Sequence[tuple[int, tuple[float, float, float, float]]]]) -> Targets:
    """(number of the kind, (x, y, width, height) in pixels) of every object of every image as arrays."""
    longest = max([1, *(len(one) for one in objects)])
    centers = np.full((len(objects), longest, 2), -1e3, np.float32)
    kinds = np.zeros((len(objects), longest), np.int64)
    for row, one in enumerate(objects):
        for column, (kind, (x, y, w, h)) in enumerate(one):
            centers[row, column] = x + w / 2, y + h / 2
            kinds[row, column] = kind
    return Targets(torch.from_numpy(centers), torch.from_numpy(kinds))


def detection_loss(maps: Maps, targets: Targets) -> dict[str, torch.Tensor]:
    """The terms of the loss, each a mean over the objects.

    "center" is CenterNet's penalty-reduced focal loss, except that every cell whose middle is within 0.75 cells of a
    center is one: a center near the border of two cells then makes both sure, rather than neither. "kind" is the cross
    entropy, "offset" the absolute error in cells, both around the centers, weighted by a Gaussian of 0.6 cells.
    """
    batch, height, width = maps.center.shape
    device = maps.center.device
    centers = targets.centers.to(device) / CELL
    columns = torch.arange(width, device=device) + 0.5
    rows = torch.arange(height, device=device) + 0.5
    dx = centers[..., 0, None, None] - columns  # (B, N, 1, w)
    dy = centers[..., 1, None, None] - rows[:, None]  # (B, N, h, 1)
    square, nearest = (dx.square() + dy.square()).min(dim=1)  # (B, h, w)
    closeness = (-square / (2 * _SPREAD**2)).exp()
    positive = square <= _POSITIVE**2
    objects = (targets.centers[..., 0] > -100).sum().clamp(min=1).to(device)

    log_yes, log_no = functional.logsigmoid(maps.center), functional.logsigmoid(-maps.center)
    yes = maps.center.sigmoid()
    focal = torch.where(positive, (1 - yes) ** 2 * log_yes, (1 - closeness) ** 4 * yes**2 * log_no)

    weight = torch.where(square <= 2.25, closeness, 0.0)
    flat = nearest.flatten(1)
    kinds = targets.kinds.to(device).gather(1, flat).view(batch, height, width)
    entropy = functional.cross_entropy(maps.kind, kinds, reduction="none")
    offset = torch.stack(
        [
            dx.expand(-1, -1, height, -1).flatten(2).gather(1, flat[:, None]).view(batch, height, width),
            dy.expand(-1, -1, -1, width).flatten(2).gather(1, flat[:, None]).view(batch, height, width),
        ],
        dim=1,
    )
    distance = (maps.offset - offset).abs().sum(1)
    total = weight.sum().clamp(min=1)
    return {
        "center": -focal.sum() / objects,
        "kind": (weight * entropy).sum() / total,
        "offset": (weight * distance).sum() / total,
    }


# ---------------------------------------------------------------------------------------------------------- measuring


def counting_errors(
    counter: ObjectCounter,
    scenes: Sequence[WrittenScene],
    *,
    seed: int = 0,
    reconstruct: Callable[[torch.Tensor], torch.Tensor] | None = None,
    batch_size: int = 100,
) -> dict[str, ObjectScores]:
    """A counter's error on scenes whose contents are known, and on the same images disturbed: the scores that it would
    give to a model whose images are all right. Whatever they lack of that is the counter's error.

    Args:
        counter: in evaluation mode.
        scenes: of `read_scenes`.
        seed: of the noise.
        reconstruct: an autoencoder's encoding and decoding of (B, 3, H, W), if that is to be measured, too.
        batch_size: images at a time.

    Returns:
        Scores, but not by object, of the images "clean", "blurred", "noisy" and, with `reconstruct`, "reconstructed".
    """
    found: dict[str, list[list[Detection]]] = {}
    for start in range(0, len(scenes), batch_size):
        files = [scene.file for scene in scenes[start : start + batch_size]]
        images = to_tensor(read_squares(files, counter.config.image_size))
        rng = np.random.default_rng([seed, 2, start])
        noise = torch.from_numpy(rng.standard_normal(tuple(images.shape), np.float32))
        variants = {
            "clean": images,
            "blurred": blur(images, BLUR_PIXELS),
            "noisy": (images + NOISE * noise).clamp(-1, 1),
        }
        if reconstruct is not None:
            variants["reconstructed"] = reconstruct(images)
        for name, variant in variants.items():
            found.setdefault(name, []).extend(counter.detect(variant))
    shown = [_shown(scene) for scene in scenes]
    errors = {name: score(shown, objects) for name, objects in found.items()}
    # 42 kinds would drown the rest.
    return {
        name: replace(scores, counts=scores.counts and replace(scores.counts, by_object={}, cells={}))
        for name, scores in errors.items()
    }


def _shown(scene: WrittenScene) -> Asked | AskedRelation:
    """The prompt that a scene is the right image for."""
    kinds = [kind for kind, _ in scene.objects]
    return Asked(kinds[0], len(kinds)) if scene.relation is None else AskedRelation(kinds[0], scene.relation, kinds[1])
