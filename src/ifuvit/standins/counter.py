"""Training the object counter on drawn scenes, and measuring its error on others.

Every random draw depends on (seed, step) alone, so the same arguments give the same weights on the same machine.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from ifuvit.data.images import to_tensor
from ifuvit.data.scenes import KIND_INDEX, KINDS, Relation, read_annotations
from ifuvit.metrics.counting.counter_network import CELL, Maps, ObjectCounter, ObjectCounterConfig, read_squares
from ifuvit.metrics.counting.prompts import Asked, AskedRelation
from ifuvit.metrics.counting.scores import Detection, score
from ifuvit.results import ObjectScores
from ifuvit.standins.optimizer import Descent
from ifuvit.utils.errors import InputError

BLUR_PIXELS = 1.0
NOISE = 0.15
"""Of the disturbed validation images: standard deviations of the Gaussian blur, in pixels, and of the Gaussian noise,
where black is -1 and white 1."""
# Of the loss, in cells: how far a center's neighborhood reaches, and how near to it a cell is one.
_SPREAD = 0.6
_POSITIVE = 0.75

# ------------------------------------------------------------------------------------------------------------- scenes


class Scenes(NamedTuple):
    """One split of OpenMoji Scenes."""

    files: list[Path]
    objects: list[list[tuple[int, tuple[float, float, float, float]]]]
    """(number of the kind, (x, y, width, height)) of every image's objects, the relation's subject first."""
    relations: list[Relation | None]


def read_scenes(directory: Path, split: Literal["train", "val"], *, size: int) -> Scenes:
    """The annotations of one split.

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
    return Scenes(
        files=[scene.file for scene in scenes],
        objects=[[(KIND_INDEX[kind], box) for kind, box in scene.objects] for scene in scenes],
        relations=[scene.relation for scene in scenes],
    )


def _blur(images: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian blur of (B, 3, H, W), the border repeated."""
    radius = math.ceil(3 * sigma)
    weights = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
    weights = (weights / weights.sum()).tolist()
    # Sums of shifted images: several times faster on CPUs than convolutions of one channel.
    height, width = images.shape[-2:]
    padded = functional.pad(images, (radius,) * 4, mode="replicate")
    rows = torch.zeros_like(padded[..., :width])
    for shift, weight in enumerate(weights):
        rows.add_(padded[..., shift : shift + width], alpha=weight)
    blurred = torch.zeros_like(images)
    for shift, weight in enumerate(weights):
        blurred.add_(rows[..., shift : shift + height, :], alpha=weight)
    return blurred


def disturb(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """What generated images may differ by from drawn ones, at random strengths image by image: blur (a mixture of
    the image and its blurred self; half of the images), noise (half of the images, up to 0.2 of the range -1 to
    1), and changes of each color's contrast (up to 10 %) and brightness (up to 0.08).

    Args:
        images: (B, 3, H, W) in [-1, 1].
        rng: all draws come from it.
    """
    count = len(images)

    def per_image(*shape: int, low: float, high: float, chance: float = 1.0) -> torch.Tensor:
        values = rng.uniform(low, high, (count, *shape)) * (rng.random((count, *[1] * len(shape))) < chance)
        return torch.from_numpy(values.astype(np.float32)).to(images.device)

    # One convolution for all images; its strength differs by the mixture.
    blurred = _blur(images, float(rng.uniform(0.5, 1.5)))
    images = torch.lerp(images, blurred, per_image(1, 1, 1, low=0.2, high=1.0, chance=0.5))
    images = images * per_image(3, 1, 1, low=0.9, high=1.1) + per_image(3, 1, 1, low=-0.08, high=0.08)
    noise = torch.from_numpy(rng.standard_normal(tuple(images.shape), np.float32)).to(images.device)
    return (images + noise * per_image(1, 1, 1, low=0.0, high=0.2, chance=0.5)).clamp(-1, 1)


# --------------------------------------------------------------------------------------------------------------- loss


class Targets(NamedTuple):
    """Objects of B images, padded to N a image."""

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


# ----------------------------------------------------------------------------------------------------------- training


def train_counter(
    config: ObjectCounterConfig,
    scenes: Scenes,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    bf16: bool,
    device: torch.device,
) -> tuple[ObjectCounter, list[dict[str, float]]]:
    """Train a counter on disturbed images of scenes by AdamW; progress is shown on a terminal.

    Args:
        config: the network.
        scenes: of `read_scenes`.
        steps: of the optimizer.
        batch_size: images a step.
        learning_rate: the peak, reached after a tenth of the steps; it falls to 0 along a cosine.
        seed: of the initial weights, the batches and the disturbances.
        bf16: compute under bf16 autocast.
        device: where to compute.

    Returns:
        The counter in evaluation mode, and {"step", "center", "kind", "offset"}, the terms of the loss, every 50 steps.

    Raises:
        InputError: the gradient is not finite, or a image is missing or broken.
    """
    from tqdm import tqdm

    torch.manual_seed(seed)
    # Measured on one Zen 5 core, 64 images, forward and backward: 0.15 s in bf16, 0.29 s in fp32, both in
    # channels_last; without it 0.24 s and 0.36 s.
    counter = ObjectCounter(config).to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    descent = Descent(
        counter, steps=steps, learning_rate=learning_rate, warmup=steps // 10, clip=10.0, weight_decay=0.01
    )
    losses: list[dict[str, float]] = []
    with tqdm(range(steps), unit="step", desc="training", disable=None) as bar:
        for step in bar:
            batch = _batch(seed, step, batch_size, len(scenes.files))
            images = to_tensor(read_squares([scenes.files[index] for index in batch], config.image_size)).to(device)
            images = disturb(images, np.random.default_rng([seed, step])).contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                maps = counter(images)
            terms = detection_loss(maps, make_targets([scenes.objects[index] for index in batch]))
            descent.step(terms["center"] + terms["kind"] + 0.5 * terms["offset"])
            if step % 50 == 49 or step == steps - 1:
                values = {name: value.item() for name, value in terms.items()}
                losses.append({"step": step + 1, **values})
                bar.set_postfix({name: f"{value:.3f}" for name, value in values.items()})
    return counter.eval(), losses


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


# ---------------------------------------------------------------------------------------------------------- measuring


def measure(
    counter: ObjectCounter,
    scenes: Scenes,
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
    for start in range(0, len(scenes.files), batch_size):
        images = to_tensor(read_squares(scenes.files[start : start + batch_size], counter.config.image_size))
        rng = np.random.default_rng([seed, 2, start])
        noise = torch.from_numpy(rng.standard_normal(tuple(images.shape), np.float32))
        variants = {
            "clean": images,
            "blurred": _blur(images, BLUR_PIXELS),
            "noisy": (images + NOISE * noise).clamp(-1, 1),
        }
        if reconstruct is not None:
            variants["reconstructed"] = reconstruct(images)
        for name, variant in variants.items():
            found.setdefault(name, []).extend(counter.detect(variant))
    shown = [_shown(objects, relation) for objects, relation in zip(scenes.objects, scenes.relations)]
    errors = {name: score(shown, objects) for name, objects in found.items()}
    # 42 kinds would drown the rest.
    return {
        name: replace(scores, counts=scores.counts and replace(scores.counts, by_object={}, cells={}))
        for name, scores in errors.items()
    }


def _shown(
    objects: Sequence[tuple[int, tuple[float, float, float, float]]], relation: Relation | None
) -> Asked | AskedRelation:
    """The prompt that a scene is the right image for."""
    kinds = [KINDS[kind].name for kind, _ in objects]
    return Asked(kinds[0], len(kinds)) if relation is None else AskedRelation(kinds[0], relation, kinds[1])
