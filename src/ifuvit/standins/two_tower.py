"""`ifuvit train-two-tower`: train the model of the TwoTower score on images of OpenMoji Scenes.

Both frozen networks see every image and caption once; the two transformers on top of them are then trained by the
symmetric contrastive loss of CLIP (Radford et al. 2021) with two changes. A batch is made of small groups of images
that show the same kinds of objects, so that only the count, the relation or the background tells a image from its
neighbors. And a caption that also describes another image of the batch is no counterexample there.

Generated images come out of an autoencoder, whose slight faults change the features of a network trained on photographs
a lot. So only a third of the training images are seen as they were drawn; the others are disturbed, or encoded and
decoded.

Takes about ten minutes of one CPU core and is not resumable: the directory appears when it is whole. Every random draw
depends on (seed, epoch or step) alone, so the same command gives the same weights on the same machine.
"""

import functools
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from ifuvit.data.images import load_image, to_images, to_tensor
from ifuvit.standins.caption_tests import Scenes, describes, measure, plain_prompts, read_scenes
from ifuvit.utils.config import to_dict
from ifuvit.utils.devices import find_device, use_bf16
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import OutputDirectory, atomic_directory, now, sha256, write_json, write_manifest

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ifuvit.encoders.autoencoder import Autoencoder
    from ifuvit.encoders.text_encoder import TextEncoder
    from ifuvit.metrics.alignment.two_tower import ImageMaps, TwoTower

COMMAND = "train-two-tower"


@dataclass(frozen=True, kw_only=True)
class TrainTwoTowerConfig:
    """Train the model of the TwoTower score on training scenes and measure it on validation scenes."""

    scenes: Path
    """Directory that `ifuvit scenes` wrote."""
    out: Path
    """Directory to write; a two-tower model already there is replaced."""
    images: int = 12_000
    """Training images to use, at most."""
    relations: float = 0.5
    """Share of them that show two kinds of objects. Relations are harder to learn than counts, and rarer in the data."""
    captions: int = 2
    """Captions of each image to use: the plainest, and others in turn."""
    autoencoder: str = "openmoji"
    """A third of the images are seen as this autoencoder decodes them: a shipped name, a run, a folder or a hub id."""
    steps: int = 700
    """Training steps."""
    batch_size: int = 192
    """Images a step, each with one of its captions."""
    group: int = 8
    """Images in a row that show the same kinds of objects."""
    learning_rate: float = 1.5e-3
    """Peak learning rate of AdamW; it is reached after a twentieth of the steps and falls to 0 along a cosine."""
    weight_decay: float = 0.05
    """Of AdamW."""
    seed: int = 0
    """Seed of the initial weights, the batches and the choice of captions."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16 is autocast with fp32 weights; auto takes it where the processor has instructions for it."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, mps; auto takes an accelerator if there is one."""

    def __post_init__(self) -> None:
        for name in ("images", "captions", "steps", "group"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name} {getattr(self, name)}: must be at least 1")
        if not 0 <= self.relations <= 1:
            raise InputError(f"--relations {self.relations}: must be from 0 to 1")
        if self.batch_size < 2:
            raise InputError(f"--batch-size {self.batch_size}: must be at least 2, for each image needs another one")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise InputError(f"--learning-rate {self.learning_rate}: must be a number above 0")
        if not (self.weight_decay >= 0 and math.isfinite(self.weight_decay)):
            raise InputError(f"--weight-decay {self.weight_decay}: must be a number of at least 0")
        if self.seed < 0:
            raise InputError(f"--seed {self.seed}: must not be negative")


# ----------------------------------------------------------------------------------------------------------- training


def epoch_order(kinds: Sequence[tuple[str, ...]], group: int, rng: np.random.Generator) -> np.ndarray:
    """All images in random order, except that up to `group` in a row show the same kinds of objects.

    Args:
        kinds: the kinds of every image's objects, sorted, each once.
        group: how many in a row.
        rng: all draws come from it.
    """
    members: dict[tuple[str, ...], list[int]] = {}
    for number in rng.permutation(len(kinds)).tolist():
        members.setdefault(kinds[number], []).append(number)
    groups = [same[start : start + group] for same in members.values() for start in range(0, len(same), group)]
    return np.array([number for place in rng.permutation(len(groups)) for number in groups[place]])


def contrastive_loss(similarity: "Tensor") -> "Tensor":
    """The mean cross entropy of finding each caption's image and each image's caption (Radford et al. 2021).

    Args:
        similarity: (B, B) scaled cosines of captions (rows) with images (columns), pairs on the diagonal; minus infinity
            leaves a pair out.
    """
    import torch
    from torch.nn.functional import cross_entropy

    right = torch.arange(len(similarity), device=similarity.device)
    return (cross_entropy(similarity, right) + cross_entropy(similarity.T, right)) / 2


def fit(
    tower: "TwoTower",
    scenes: Scenes,
    maps: "Tensor",
    states: "Tensor",
    masks: "Tensor",
    config: TrainTwoTowerConfig,
) -> list[dict[str, float]]:
    """Train the two transformers; all else is frozen and computed already.

    Args:
        tower: trained in place.
        scenes: N images with U captions.
        maps: (N, P, F) of the images.
        states, masks: (U, L, D) and (U, L) of the captions.

    Returns:
        Step, loss and the share of captions (of those in a batch) whose own image was nearest, every 50 steps.

    Raises:
        InputError: the gradient is no longer finite.
    """
    import torch
    from tqdm import tqdm

    from ifuvit.standins.optimizer import Descent

    device = tower.log_scale.device
    half = use_bf16(config.precision, device)
    shown = scenes.shown
    size = min(config.batch_size, len(scenes.files))
    descent = Descent(
        tower,
        steps=config.steps,
        learning_rate=config.learning_rate,
        warmup=config.steps // 20,
        clip=1.0,
        weight_decay=config.weight_decay,
        betas=(0.9, 0.98),
    )
    batches = _batches(scenes, size, config.group, config.seed)
    log = []
    tower.train()
    with tqdm(range(config.steps), unit="step", desc="training", disable=None) as bar:
        for step in bar:
            numbers, rows = next(batches)
            true = describes(scenes.told[rows], shown[numbers])
            excused = torch.from_numpy(true & ~np.eye(size, dtype=bool)).to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                images, captions = tower(*(_to(device, part) for part in (maps[numbers], states[rows], masks[rows])))
            similarity = (tower.log_scale.exp() * captions @ images.T).masked_fill(excused, -math.inf)
            loss = contrastive_loss(similarity)
            descent.step(loss)
            with torch.no_grad():
                tower.log_scale.clamp_(max=math.log(100))  # CLIP's bound
            if step % 50 == 49 or step == config.steps - 1:
                found = (similarity.argmax(1).cpu() == torch.arange(size)).float().mean().item()
                log.append(
                    {"step": step + 1, "loss": loss.item(), "found": found, "scale": tower.log_scale.exp().item()}
                )
                bar.set_postfix({"loss": f"{loss.item():.3f}", "found": f"{found:.2f}"})
    tower.eval()
    return log


def _batches(scenes: Scenes, size: int, group: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Without end: the numbers of `size` images, and for each the row of one of its captions."""
    kinds = [tuple(sorted(set(meaning.objects))) for meaning in scenes.meanings]
    captions = [np.array(rows) for rows in scenes.rows]
    left, epoch = np.empty(0, np.int64), 0
    for step in itertools.count():
        while len(left) < size:
            left = np.concatenate([left, epoch_order(kinds, group, np.random.default_rng([seed, 0, epoch]))])
            epoch += 1
        numbers, left = left[:size], left[size:]
        rng = np.random.default_rng([seed, 1, step])
        yield numbers, np.array([rng.choice(captions[number]) for number in numbers])


# ----------------------------------------------------------------------------------------------------------- the command


def run(config: TrainTwoTowerConfig) -> Path:
    """Train, measure, and return the directory: config.json and model.safetensors, losses.json, manifest.json.

    Raises:
        InputError: scenes that are missing or broken, a missing package, a place that holds something else, or a gradient
            that is not finite.
    """
    import torch

    from ifuvit.encoders.autoencoder import Autoencoder
    from ifuvit.encoders.text_encoder import TextEncoder
    from ifuvit.metrics.alignment.two_tower import ImageMaps, TwoTower, TwoTowerAlignment, TwoTowerConfig

    started = now()
    OutputDirectory(config.out, COMMAND).earlier()
    device = find_device(config.device)
    scenes = read_scenes(
        config.scenes, "train", images=config.images, relations=config.relations, captions=config.captions
    )
    validation = read_scenes(config.scenes, "val", captions=config.captions)
    if len(scenes.files) < 2 or not validation.files:
        raise InputError(f"{config.scenes}: too few images; training needs two, and one for validation")

    began, processor = time.monotonic(), time.process_time()
    maps, text_encoder = ImageMaps(device=device), TextEncoder.from_pretrained("minilm", device=device)
    towers = TwoTowerConfig(
        cells=maps.cells,
        cell_features=maps.features,
        tokens=text_encoder.max_tokens,
        token_width=text_encoder.width,
    )
    torch.manual_seed(config.seed)
    model = TwoTowerAlignment(TwoTower(towers).to(device), maps, text_encoder)
    autoencoder = Autoencoder.from_pretrained(config.autoencoder, device=device)
    seen = _maps_of(scenes.files, maps, functools.partial(_varied, autoencoder=autoencoder, seed=config.seed))
    losses = fit(model.tower, scenes, seen, *_states_of(scenes.captions, text_encoder), config)
    # Measured as it is stored.
    with torch.no_grad():
        for parameter in model.tower.parameters():
            parameter.copy_(parameter.half())
    seconds, processor = time.monotonic() - began, time.process_time() - processor

    prompts = plain_prompts(validation.meanings)
    captions, plain = (
        _embed(model.tower.captions, *_states_of(texts, text_encoder), device=device)
        for texts in (validation.captions, prompts)
    )
    images, decoded = (
        _embed(model.tower.images, _maps_of(validation.files, maps, view), device=device)
        for view in (lambda images, _: images, lambda images, _: autoencoder.reconstruct(images))
    )
    by_prompt = dict(zip(prompts, plain))
    measured = measure(validation, images, captions, by_prompt, seed=config.seed)
    measured["decoded"] = measure(validation, decoded, captions, by_prompt, seed=config.seed)["all"]
    rows = [of_image[0] for of_image in validation.rows]
    with atomic_directory(config.out) as directory:
        model.save_pretrained(directory)
        write_json(directory / "losses.json", losses)
        write_manifest(
            directory,
            COMMAND,
            to_dict(config),
            started=started,
            seed=config.seed,
            data={
                f"{name}_{split}": sha256(config.scenes / "annotations" / f"{name}_{split}.json")
                for name in ("captions", "instances")
                for split in ("train", "val")
            },
            frozen=model.frozen(),
            fingerprint=model.fingerprint,
            parameters=sum(value.numel() for value in model.tower.parameters()),
            images=len(scenes.files),
            captions=len(scenes.captions),
            precision="bf16" if use_bf16(config.precision, device) else "fp32",
            threads=torch.get_num_threads(),
            seconds=round(seconds, 1),
            processor_seconds=round(processor, 1),
            autoencoder={"reference": autoencoder.reference, "fingerprint": autoencoder.fingerprint},
            mean_cosine={
                "images with their plainest captions": float((images * captions[rows]).sum(1).mean()),
                "the same, decoded by the autoencoder": float((decoded * captions[rows]).sum(1).mean()),
                "images with another's": float((images * np.roll(captions[rows], 1, axis=0)).sum(1).mean()),
            },
            right=measured,
        )
    return config.out


def _maps_of(
    files: Sequence[Path], maps: "ImageMaps", view: "Callable[[Tensor, int], Tensor]", batch_size: int = 63
) -> "Tensor":
    """What the frozen network sees of images of one size: (N, P, F) float16 on the CPU. `view` is given a batch of them,
    (B, 3, H, W) in [-1, 1], and the number of the first, and gives what is shown to the network."""
    import torch
    from PIL import Image
    from tqdm import tqdm

    result = torch.empty((len(files), maps.cells, maps.features), dtype=torch.float16)
    for start in tqdm(range(0, len(files), batch_size), desc="images", unit="batch", disable=None, leave=False):
        drawn = [np.asarray(load_image(file)) for file in files[start : start + batch_size]]
        if len({image.shape for image in drawn}) > 1:
            raise InputError(f"{files[start].parent}: the images are of different sizes; draw them with one --size")
        shown = view(to_tensor(np.stack(drawn)), start)
        result[start : start + batch_size] = maps(
            torch.stack([maps.preprocess(Image.fromarray(image)) for image in to_images(shown)])
        )
    return result


def _varied(images: "Tensor", start: int, *, autoencoder: "Autoencoder", seed: int) -> "Tensor":
    """Of every three images one as it is, one disturbed, one decoded by the autoencoder."""
    from ifuvit.standins.counter import disturb

    images = images.clone()
    images[1::3] = disturb(images[1::3], np.random.default_rng([seed, 2, start]))
    if len(images) > 2:
        images[2::3] = autoencoder.reconstruct(images[2::3]).to(images.device)
    return images


def _states_of(captions: Sequence[str], text_encoder: "TextEncoder", batch_size: int = 64) -> "tuple[Tensor, Tensor]":
    """(U, L, D) float16 and (U, L) bool, on the CPU."""
    import torch
    from tqdm import tqdm

    shape = (len(captions), text_encoder.max_tokens)
    states, masks = torch.empty((*shape, text_encoder.width), dtype=torch.float16), torch.empty(shape, dtype=torch.bool)
    for start in tqdm(range(0, len(captions), batch_size), desc="captions", unit="batch", disable=None, leave=False):
        chosen = slice(start, start + batch_size)
        states[chosen], masks[chosen] = text_encoder(captions[chosen])
    return states, masks


def _embed(tower: "Callable[..., Tensor]", *inputs: "Tensor", device: "torch.device") -> np.ndarray:
    """(N, E) float32 of stored maps, or of stored states and masks."""
    import torch

    with torch.no_grad():
        batches = zip(*(values.split(256) for values in inputs))
        return torch.cat([tower(*(_to(device, part) for part in batch)) for batch in batches]).cpu().numpy()


def _to(device: "torch.device", values: "Tensor") -> "Tensor":
    """On the device, in fp32 if it was stored in half precision."""
    return values.to(device).float() if values.is_floating_point() else values.to(device)
