"""Training of the two-tower alignment model on images of OpenMoji Scenes.

Both frozen networks see every image and caption once; the two transformers on top of them are then trained by the
symmetric contrastive loss of CLIP (Radford et al. 2021) with two changes. A batch is made of small groups of images
that show the same kinds of objects, so that only the count, the relation or the background distinguishes an image from its
neighbors. And a caption that also describes another image of the batch is no counterexample there.

Generated images come out of an autoencoder, whose slight faults change the features of a network trained on photographs
a lot. So only a third of the training images are seen as they were drawn; the others are disturbed, or encoded and
decoded.

It takes about ten minutes of one CPU core and cannot be resumed: the directory appears when it is whole. Every random draw
depends on (seed, epoch or step) only, so the same command gives the same weights on the same machine.
"""

import functools
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from ifuvit.data.images import load_image, to_images, to_tensor
from ifuvit.encoders.autoencoder import Autoencoder
from ifuvit.encoders.text_encoder import TextEncoder
from ifuvit.metrics.alignment.two_tower import ImageMaps, TwoTower, TwoTowerAlignment, TwoTowerConfig
from ifuvit.standins.caption_tests import Scenes, describes, measure, plain_prompts, read_scenes
from ifuvit.standins.config import TrainTwoTowerConfig
from ifuvit.standins.disturbances import disturb
from ifuvit.standins.fit import Fit, rise_and_fall
from ifuvit.utils.config import to_dict
from ifuvit.utils.devices import find_device, use_bf16
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import OutputDirectory, now, sha256, write_json, write_manifest

COMMAND = "make-standin two-tower"

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


def contrastive_loss(similarity: Tensor) -> Tensor:
    """The mean cross entropy of finding each caption's image and each image's caption (Radford et al. 2021).

    Args:
        similarity: (B, B) scaled cosines of captions (rows) with images (columns), pairs on the diagonal; minus infinity
            leaves a pair out.
    """
    right = torch.arange(len(similarity), device=similarity.device)
    return (cross_entropy(similarity, right) + cross_entropy(similarity.T, right)) / 2


def train(
    tower: TwoTower, scenes: Scenes, maps: Tensor, embeddings: Tensor, masks: Tensor, config: TrainTwoTowerConfig
) -> list[dict[str, float]]:
    """Train the two transformers; all else is frozen and computed already.

    Args:
        tower: trained in place.
        scenes: N images with U captions.
        maps: (N, P, F) of the images.
        embeddings, masks: (U, L, D) and (U, L) of the captions.

    Returns:
        Step, loss, the share of captions (of those in a batch) whose own image was nearest, and the scale of the cosines, every
        50 steps.

    Raises:
        InputError: the loss is not finite.
    """
    device = tower.log_scale.device
    half = use_bf16(config.precision, device)
    shown = scenes.shown
    size = min(config.batch_size, len(scenes.files))
    batches = _batches(scenes, size, config.group, config.seed)

    def loss(_: int) -> dict[str, Tensor]:
        numbers, rows = next(batches)
        true = describes(scenes.stated[rows], shown[numbers])
        excused = torch.from_numpy(true & ~np.eye(size, dtype=bool)).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            images, captions = tower(*(_to(device, part) for part in (maps[numbers], embeddings[rows], masks[rows])))
        similarity = (tower.log_scale.exp() * captions @ images.T).masked_fill(excused, -math.inf)
        found = (similarity.argmax(1) == torch.arange(size, device=device)).float().mean()
        return {"loss": contrastive_loss(similarity), "found": found}

    log: list[dict[str, float]] = []
    tower.train()
    Fit(
        network=tower,
        optimizers={
            torch.optim.AdamW(
                tower.parameters(), betas=(0.9, 0.98), weight_decay=config.weight_decay
            ): config.learning_rate
        },
        loss=loss,
        schedule=rise_and_fall(warmup=config.steps // 20, steps=config.steps),
        clip=1.0,
        steps=config.steps,
        log=lambda line: log.append({**line, "scale": tower.log_scale.exp().item()}),
        project=lambda: tower.log_scale.clamp_(max=math.log(100)),  # CLIP's bound
    ).run()
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


# ------------------------------------------------------------------------------------------------------ train and measure


def run(config: TrainTwoTowerConfig) -> Path:
    """Train, measure, and return the directory: config.json and model.safetensors, losses.json, manifest.json.

    Raises:
        InputError: scenes that are missing or broken, a missing package, a place that cannot be written, or a loss that is not
            finite.
    """
    started = now()
    out = OutputDirectory(config.out, COMMAND)
    out.earlier()
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
    losses = train(model.tower, scenes, seen, *_embeddings_of(scenes.captions, text_encoder), config)
    # Measured as it is stored.
    with torch.no_grad():
        for parameter in model.tower.parameters():
            parameter.copy_(parameter.half())
    seconds, processor = time.monotonic() - began, time.process_time() - processor

    prompts = plain_prompts(validation.meanings)
    captions, plain = (
        _embed(model.tower.captions, *_embeddings_of(texts, text_encoder), device=device)
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
    with out.replace() as directory:
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
    files: Sequence[Path], maps: ImageMaps, view: Callable[[Tensor, int], Tensor], batch_size: int = 63
) -> Tensor:
    """Feature maps of images of one size by the frozen network: (N, P, F) float16 on the CPU. `view` turns a batch of them,
    (B, 3, H, W) in [-1, 1], with the number of the first, into what is shown to the network."""
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


def _varied(images: Tensor, start: int, *, autoencoder: Autoencoder, seed: int) -> Tensor:
    """Of every three images one as it is, one disturbed, one decoded by the autoencoder."""
    images = images.clone()
    images[1::3] = disturb(images[1::3], np.random.default_rng([seed, 2, start]))
    if len(images) > 2:
        images[2::3] = autoencoder.reconstruct(images[2::3]).to(images.device)
    return images


def _embeddings_of(captions: Sequence[str], text_encoder: TextEncoder, batch_size: int = 64) -> tuple[Tensor, Tensor]:
    """(U, L, D) float16 and (U, L) bool, on the CPU."""
    shape = (len(captions), text_encoder.max_tokens)
    embeddings, masks = (
        torch.empty((*shape, text_encoder.width), dtype=torch.float16),
        torch.empty(shape, dtype=torch.bool),
    )
    for start in tqdm(range(0, len(captions), batch_size), desc="captions", unit="batch", disable=None, leave=False):
        chosen = slice(start, start + batch_size)
        embeddings[chosen], masks[chosen] = text_encoder(captions[chosen])
    return embeddings, masks


def _embed(tower: Callable[..., Tensor], *inputs: Tensor, device: torch.device) -> np.ndarray:
    """(N, E) float32 of stored maps, or of stored text embeddings and masks."""
    with torch.no_grad():
        batches = zip(*(values.split(256) for values in inputs))
        return torch.cat([tower(*(_to(device, part) for part in batch)) for batch in batches]).cpu().numpy()


def _to(device: torch.device, values: Tensor) -> Tensor:
    """On the device, in fp32 if it was stored in half precision."""
    return values.to(device).float() if values.is_floating_point() else values.to(device)
