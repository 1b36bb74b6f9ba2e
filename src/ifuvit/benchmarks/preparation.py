"""Encoding images and captions into features, against the encoders alone; and reading features back for training."""

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ifuvit.benchmarks.timing import Case, Step
from ifuvit.data.encoded import EncodedDataset, EncodedDatasetWriter
from ifuvit.data.encoding import ALONE, encode_captions, encode_images, shard_ranges
from ifuvit.data.images import CaptionedImage, load_image, to_tensor
from ifuvit.data.plan import Skips
from ifuvit.encoders.normalization import LatentNormalization
from ifuvit.model.settings import IFUViTConfig
from ifuvit.training.batches import Batches, load

if TYPE_CHECKING:
    from ifuvit.encoders.autoencoder import Autoencoder
    from ifuvit.encoders.text_encoder import TextEncoder


def image_cases(
    autoencoder: "Autoencoder", images: Sequence[CaptionedImage], *, size: int, batch_size: int, workers: int
) -> list[Case]:
    """The autoencoder alone, and what `ifuvit prepare` does: read, crop, encode, write.

    Args:
        images: files of `size` x `size` pixels. A step deals with all of them.
        batch_size: images at a time, for both.
        workers: threads that read.
    """

    def alone() -> Step:
        arrays = np.stack([np.asarray(load_image(image.source)) for image in images])  # type: ignore[arg-type]
        parts = to_tensor(arrays).split(batch_size)

        def step() -> None:
            for part in parts:
                autoencoder.moments(part)

        return step

    def prepare() -> None:
        with _writer() as writer:
            encode_images(
                writer,
                images,
                [range(len(images))],
                autoencoder,
                Skips(writer.directory, 0, []),
                ALONE,
                size=size,
                batch_size=batch_size,
                workers=workers,
            )

    return [
        Case(name="autoencoder alone", prepare=alone, items=len(images)),
        Case(name="prepared", prepare=lambda: prepare, items=len(images), base="autoencoder alone"),
    ]


def caption_cases(text_encoder: "TextEncoder", captions: Sequence[str], *, batch_size: int) -> list[Case]:
    """The text encoder alone, and what `ifuvit prepare` does: tokenize, encode, write embeddings."""

    def alone() -> Step:
        parts = [
            text_encoder.tokenize(captions[first : first + batch_size]) for first in range(0, len(captions), batch_size)
        ]

        def step() -> None:
            for part in parts:
                text_encoder.encode(part)

        return step

    def prepare() -> None:
        with _writer() as writer:
            encode_captions(
                writer, captions, [range(len(captions))], text_encoder, ALONE, embeddings=True, batch_size=batch_size
            )

    count = len(captions)
    return [
        Case(name="text encoder alone", prepare=alone, items=count, unit="captions"),
        Case(name="prepared", prepare=lambda: prepare, items=count, unit="captions", base="text encoder alone"),
    ]


def loader_cases(
    features: EncodedDataset, *, batch_size: int, batches: int, workers: int, device: torch.device, seed: int
) -> list[Case]:
    """Training's loader, on features that lie in the system's file cache after the first step, and what it cannot be
    faster than: a plain copy of as many bytes, in the order of the files, into memory that is used again and again.

    Args:
        batches: a step.
        workers: threads that make batches ahead of time, for the last case; 0 leaves it out.
        device: where the batches would go.
    """
    stream = Batches(
        features,
        np.arange(len(features)),
        normalization=LatentNormalization(scale=(features.latent_scale,)),
        seed=seed,
        batch_size=batch_size,
        caption_dropout=0.1,
    )
    rows = np.random.default_rng(seed).permutation(len(features))[: batches * batch_size].reshape(batches, batch_size)

    def copy() -> Step:
        files = [
            file for name in ("moments", "embeddings") for file in sorted((features.directory / name).glob("*.npy"))
        ]
        maps = [np.load(file, mmap_mode="r").view(np.uint8).reshape(-1) for file in files]
        memory = np.empty(max(map(len, maps)), np.uint8)

        def step() -> None:
            for source in maps:
                np.copyto(memory[: len(source)], source)

        return step

    def gather() -> None:
        for part in rows:
            features.moments(part)
            features.text(part)

    def read(workers: int) -> None:
        for _ in load(stream, range(batches), workers=workers, device=device):
            pass

    plain = "plain copy of the bytes"

    def case(name: str, step: Step) -> Case:
        return Case(name=name, prepare=lambda: step, items=rows.size, unit="samples", base=plain)

    cases = [
        Case(name=plain, prepare=copy, items=len(features), unit="samples"),
        case("rows gathered", gather),
        case("loader", lambda: read(0)),
    ]
    if workers:
        cases.append(case(f"loader, {workers} thread{'s' * (workers > 1)}", lambda: read(workers)))
    return cases


def write_random_features(
    directory: Path, config: IFUViTConfig, samples: int, *, shard_size: int, seed: int
) -> EncodedDataset:
    """Features of random numbers in the shapes that a model takes: one caption a image, text embeddings in half precision."""
    c, rng = config, np.random.default_rng(seed)
    shape = (samples, c.text_tokens, c.text_width)
    arrays = {
        "ids": np.zeros(shape[:2], np.int32),
        "masks": np.ones(shape[:2], np.bool_),
        "embeddings": rng.standard_normal(shape, np.float32).astype(np.float16),
    }
    moments = rng.standard_normal((samples, 2 * c.latent_channels, c.latent_size, c.latent_size), np.float32)
    moments = moments.astype(np.float16)
    writer = EncodedDatasetWriter(directory)
    writer.begin({})
    none = {"reference": "none", "fingerprint": "0" * 64}
    shards: dict[str, list[dict[str, Any]]] = {"moments": [], "text": []}
    for number, rows in enumerate(shard_ranges(samples, shard_size)):
        part = slice(rows.start, rows.stop)
        for kind, tensors in (("moments", {"moments": moments}), ("text", arrays)):
            parts = {name: tensor[part] for name, tensor in tensors.items()}
            shards[kind].append(writer.write_shard(kind, number, parts, rows=len(rows)))
    writer.finish(
        shards=shards,
        arrays={
            "null_embeddings": arrays["embeddings"][0],
            "null_mask": arrays["masks"][0],
            "null_ids": arrays["ids"][0],
            "caption_starts": np.arange(samples + 1),
            "caption_rows": np.arange(samples),
        },
        captions=[str(row) for row in range(samples)],
        image_ids=[str(row) for row in range(samples)],
        skipped=[],
        config={},
        started="",
        facts={
            "size": 8 * c.latent_size,
            "text": "embeddings",
            "latent_scale": 1.0,
            "latent_mean": [0.0] * c.latent_channels,
            "latent_std": [1.0] * c.latent_channels,
            "autoencoder": {**none, "channels": c.latent_channels, "factor": 8},
            "text_encoder": {**none, "width": c.text_width, "max_tokens": c.text_tokens},
        },
    )
    return EncodedDataset.open(directory)


@contextlib.contextmanager
def _writer():
    """A place for features that is gone afterwards; the bars of those that write them are not shown."""
    with TemporaryDirectory() as directory, contextlib.redirect_stderr(io.StringIO()):
        yield EncodedDatasetWriter(directory)
