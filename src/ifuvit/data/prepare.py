"""Encoding images and captions into a data set for training.

Phases:
1. Plan. All captions are read; distinct ones get rows in the order of their first appearance. The plan depends on the
   data alone, so that every process and every restart makes the same one.
2. Shards of images are encoded to posterior moments, then shards of distinct captions to token ids and embeddings.
   Process r of n (RANK and WORLD_SIZE, as torchrun and accelerate set them) makes every n-th shard.
3. Process 0 waits for all shards and writes the tables and the manifest.
"""

import itertools
import math
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ifuvit.data.config import PrepareConfig
from ifuvit.data.encoded import FORMAT, EncodedDatasetWriter, to_half
from ifuvit.data.encoding import (
    ALONE,
    encode_captions,
    encode_images,
    latent_scale,
    latent_statistics,
    shard_ranges,
    to_numpy,
)
from ifuvit.data.images import CaptionedImage
from ifuvit.data.plan import Plan, Skips, make_plan, skip_entry
from ifuvit.utils.config import to_dict
from ifuvit.utils.devices import find_device
from ifuvit.utils.distributed import Processes
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import now

if TYPE_CHECKING:
    from ifuvit.encoders.autoencoder import Autoencoder
    from ifuvit.encoders.text_encoder import TextEncoder

LARGEST_DEFAULT_SIZE = 256
"""Pixels. Stable Diffusion's autoencoders were trained on up to 1024; the paper, like U-ViT, encodes 256."""

ASK_ABOVE = 10e9
"""Bytes of text embeddings above which --text has to be chosen by the user."""

PATIENCE = 3600.0
"""Seconds without a new shard after which process 0 gives up waiting for the others."""


def run(config: PrepareConfig) -> Path:
    """Encode a data set and return its directory.

    Raises:
        InputError: the source cannot be read, an encoder cannot be found, the directory has another data set, the disk
            is too small, or too much had to be skipped; or another process writes there.
    """
    share = Processes.from_environment()
    images = config.source.read()
    _say(share, f"{len(images):,} images listed; loading the encoders")
    # Imported late: torch, diffusers and transformers take seconds, which a mistyped path should not cost.
    from ifuvit.encoders.autoencoder import Autoencoder
    from ifuvit.encoders.text_encoder import TextEncoder

    device = find_device(config.device)
    autoencoder = Autoencoder.from_pretrained(config.autoencoder, device=device)
    text_encoder = TextEncoder.from_pretrained(
        config.text_encoder, max_tokens=config.max_tokens, layers=config.text_layers, device=device
    )
    with EncodedDatasetWriter(config.out).lock():
        return encode(config, images, autoencoder, text_encoder, share)


def encode(
    config: PrepareConfig,
    images: Sequence[CaptionedImage],
    autoencoder: "Autoencoder",
    text_encoder: "TextEncoder",
    share: Processes = ALONE,
) -> Path:
    """`run` with the source read and the encoders loaded. Processes other than 0 return
    before the data set is finished.

    Raises:
        InputError: see `run`.
    """
    started = now()
    size = config.size or min(autoencoder.image_size, LARGEST_DEFAULT_SIZE)
    if size % autoencoder.factor:
        raise InputError(f"--size {size}: not a multiple of {autoencoder.factor}, the autoencoder's factor")
    plan = make_plan(images)
    if not plan.images:
        reason = f" (the first: {plan.skipped[0]['id']}: {plan.skipped[0]['reason']})" if plan.skipped else ""
        raise InputError(f"none of {plan.listed} images has a caption{reason}")

    if config.aspect == "pad" and plan.images[0].boxes is not None:
        raise InputError(
            "--aspect pad: the boxes of --instances are those of the center crop; leave out one of the two"
        )
    writer = EncodedDatasetWriter(config.out)
    latents = (2 * autoencoder.channels, size // autoencoder.factor, size // autoencoder.factor)
    sizes = _predicted_sizes(plan, latents, text_encoder.max_tokens, text_encoder.width)
    text = config.text or _choose_text(sizes)
    image_shards = shard_ranges(len(plan.images), config.shard_size)
    text_shards = shard_ranges(len(plan.captions), config.shard_size)
    settings = {
        "format": FORMAT,
        "images_and_captions": plan.digest,
        "size": size,
        "autoencoder": autoencoder.fingerprint,
        "text_encoder": text_encoder.fingerprint,
        "max_tokens": text_encoder.max_tokens,
        "text": text,
        **({} if plan.images[0].boxes is None else {"layouts": True}),
        **({} if config.aspect == "crop" else {"aspect": config.aspect}),
        "shard_size": [len(image_shards[0]), len(text_shards[0])],
    }
    begun = writer.check(settings)
    if begun and writer.finished:
        _say(share, f"{config.out} is complete; nothing to do")
        return config.out
    if share.rank == 0:
        _announce(plan, sizes, text, config.out)
        _check_disk(config.out, sizes["moments"] + sizes[text])
        writer.begin(settings)
    else:
        _wait(lambda: writer.check(settings), "process 0 has not begun")

    limit = config.max_skipped if config.max_skipped is not None else max(10, plan.listed // 100)
    skips = Skips(config.out, limit, plan.skipped)
    skips.check([skip_entry(image, image.problem) for image in plan.images if image.problem])
    encode_images(
        writer,
        plan.images,
        image_shards,
        autoencoder,
        skips,
        share,
        size=size,
        aspect=config.aspect,
        batch_size=config.batch_size,
        workers=config.workers,
    )
    encode_captions(
        writer,
        plan.captions,
        text_shards,
        text_encoder,
        share,
        embeddings=text == "embeddings",
        batch_size=config.batch_size,
    )
    if share.rank:
        return config.out
    image_facts = _all_shards(writer, "moments", len(image_shards))
    text_facts = _all_shards(writer, "text", len(text_shards))
    skipped = plan.skipped + [entry for facts in image_facts for entry in facts["skipped"]]
    Skips(config.out, limit, skipped).check()
    broken = {position for facts in image_facts for position in facts["broken"]}
    kept = [position for position in range(len(plan.images)) if position not in broken]
    if not kept:
        raise InputError(f"none of {plan.listed} images can be read (the first: {skipped[-1]['reason']})")
    null = text_encoder.tokenize([""])
    rows = [plan.rows[position] for position in kept]
    scale = latent_scale(image_facts)
    mean, std = latent_statistics(image_facts)
    truncated = sum(facts["truncated"] for facts in text_facts)
    writer.finish(
        shards={"moments": image_facts, "text": text_facts},
        arrays={
            "null_embeddings": to_half(to_numpy(text_encoder.encode(null))[0]),
            "null_mask": to_numpy(null.mask)[0].astype(np.bool_),
            "null_ids": to_numpy(null.ids)[0].astype(np.int32),
            "caption_starts": np.cumsum([0, *map(len, rows)], dtype=np.int64),
            "caption_rows": np.fromiter(itertools.chain.from_iterable(rows), dtype=np.int64),
        },
        captions=plan.captions,
        image_ids=[plan.images[position].id for position in kept],
        skipped=skipped,
        config=to_dict(config),
        started=started,
        facts={
            "size": size,
            "text": text,
            "layouts": plan.images[0].boxes is not None,
            "layout_kinds": max(facts["layout_kinds"] for facts in image_facts),
            "latent_scale": scale,
            "latent_mean": mean,
            "latent_std": std,
            "autoencoder": {
                "reference": autoencoder.reference,
                "fingerprint": autoencoder.fingerprint,
                "channels": autoencoder.channels,
                "factor": autoencoder.factor,
            },
            "text_encoder": text_encoder.facts,
            "counts": {
                "images": len(kept),
                "captions": sum(map(len, rows)),
                "distinct_captions": len(plan.captions),
                "skipped": len(skipped),
                "truncated_captions": truncated,
            },
        },
    )
    if truncated:
        _say(
            share,
            f"warning: {truncated:,} of {len(plan.captions):,} distinct captions are longer than "
            f"{text_encoder.max_tokens} tokens and were cut",
        )
    left_out = f"; {len(skipped):,} left out, see {config.out / 'skipped.jsonl'}" if skipped else "; none left out"
    _say(share, f"{len(kept):,} images, latent scale {scale:.5f}{left_out}")
    return config.out


def _predicted_sizes(plan: Plan, latents: tuple[int, int, int], length: int, width: int) -> dict[str, int]:
    """Bytes: "moments", and for the text "tokens" or "embeddings" (which have the tokens too)."""
    tokens = len(plan.captions) * length * 5
    return {
        "moments": 2 * len(plan.images) * math.prod(latents),
        "tokens": tokens,
        "embeddings": tokens + 2 * len(plan.captions) * length * width,
    }


def _choose_text(sizes: dict[str, int]) -> Literal["embeddings"]:
    if sizes["embeddings"] <= ASK_ABOVE:
        return "embeddings"
    raise InputError(
        f"text embeddings would take {_bytes(sizes['embeddings'])}; choose --text embeddings if there is room for them, or --text "
        f"tokens ({_bytes(sizes['tokens'])}), with which training runs the text encoder at every step"
    )


def _announce(plan: Plan, sizes: dict[str, int], text: str, out: Path) -> None:
    captions = sum(map(len, plan.rows))
    other = "tokens" if text == "embeddings" else "embeddings"
    _say(
        ALONE,
        f"{len(plan.images):,} images: {_bytes(sizes['moments'])}; {captions:,} captions, {len(plan.captions):,} "
        f"distinct: --text {text} takes {_bytes(sizes[text])} (--text {other}: {_bytes(sizes[other])}); "
        f"{_bytes(_free(out))} are free at {out}",
    )


def _check_disk(out: Path, needed: int) -> None:
    written = sum(path.stat().st_size for path in out.rglob("*.npy")) if out.is_dir() else 0
    # The tables of ids and captions are small next to the rest.
    missing = int(1.02 * needed) + 2**20 - written
    if missing > _free(out):
        raise InputError(
            f"{out}: the encoded data set needs {_bytes(missing)} more and {_bytes(_free(out))} are free there; make room, give "
            "another --out, or choose --text tokens"
        )


def _free(path: Path) -> int:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.1f} GB"


def _all_shards(writer: EncodedDatasetWriter, kind: str, count: int) -> list[dict[str, Any]]:
    """The facts of all shards, those of other processes awaited."""
    facts: dict[int, dict[str, Any]] = {}

    def missing() -> bool:
        before = len(facts)
        for shard in range(count):
            if shard not in facts and (new := writer.done(kind, shard)) is not None:
                facts[shard] = new
        return len(facts) == before

    while len(facts) < count:
        _wait(lambda: not missing(), f"{count - len(facts)} of {count} shards are missing")
    return [facts[shard] for shard in range(count)]


def _wait(ready: Callable[[], bool], problem: str) -> None:
    begun = time.monotonic()
    while not ready():
        if time.monotonic() - begun > PATIENCE:
            raise InputError(f"{problem} after {PATIENCE:.0f} s; run the same command again in all processes")
        time.sleep(0.2)


def _say(share: Processes, text: str) -> None:
    if share.rank == 0:
        print(text, file=sys.stderr, flush=True)
