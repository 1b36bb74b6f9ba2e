"""`ifuvit prepare`: captions and pictures into features for training.

Phases:
1. Plan. All captions are read; distinct ones get rows in the order of their first appearance. The plan depends on the
   data alone, so that every process and every restart makes the same one.
2. Shards of pictures are encoded to posterior moments, then shards of distinct captions to token ids and states.
   Batches never cross a shard's end: neither a restart nor the number of processes changes what is computed together.
   Process r of n (RANK and WORLD_SIZE, as torchrun and accelerate set them) makes every n-th shard.
3. Process 0 waits for all shards and writes the tables and the manifest.
"""

import hashlib
import itertools
import json
import math
import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import numpy as np
import tyro

from ifuvit.artifacts import now, write_text
from ifuvit.cli import parse
from ifuvit.config import to_dict
from ifuvit.data.features import FORMAT, FeatureWriter, to_half
from ifuvit.data.images import Picture, center_crop_resize, load_image
from ifuvit.devices import find_device
from ifuvit.errors import InputError

if TYPE_CHECKING:
    from ifuvit.encoders.autoencoder import Autoencoder
    from ifuvit.encoders.text_encoder import TextEncoder

S = TypeVar("S")
T = TypeVar("T")

LARGEST_DEFAULT_SIZE = 256
"""Pixels. Stable Diffusion's autoencoders were trained on up to 1024; the paper, like U-ViT, encodes 256."""

ASK_ABOVE = 10e9
"""Bytes of text states above which --text has to be chosen by the user."""

PATIENCE = 3600.0
"""Seconds without a new shard after which process 0 gives up waiting for the others."""


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """What all sources of data have in common."""

    out: Path
    """The features directory to write. If it is unfinished, the work goes on where it stopped."""
    autoencoder: str = "openmoji"
    """Encodes the pictures: a shipped name, a diffusers folder or hub id, or a run of train-autoencoder."""
    text_encoder: str = "minilm"
    """Encodes the captions: "minilm", "clip-vit-large-patch14", or the folder or hub id of a CLIP text model or of a
    BERT-like model."""
    max_tokens: int | None = None
    """Tokens a caption, all told; longer captions are cut. By default what the text encoder is made for."""
    size: int | None = None
    """Pixels of a side after the square center crop; a multiple of the autoencoder's factor. By default what the
    autoencoder was trained on, as its config.json tells (64 for "openmoji"), but 256 at most."""
    text: Literal["states", "tokens"] | None = None
    """Store text states (large; training reads them) or token ids (small; training runs the text encoder). By default
    states, unless they would take more than 10 GB: then you are told both sizes and have to choose."""
    batch_size: int = 64
    """Pictures, and captions, encoded at a time."""
    shard_size: int | None = None
    """Rows of a file; also what is lost at most when the work is killed. By default 1024, or more where that would make
    more than 256 files."""
    max_skipped: int | None = None
    """Broken pictures and empty captions to tolerate. By default 1 % of the number of pictures, but at least 10."""
    workers: int = 4
    """Threads that read pictures."""
    device: str = "auto"
    """Where the encoders run: cpu, cuda, cuda:1, mps; auto takes a GPU where there is one."""

    def __post_init__(self) -> None:
        for name in ("max_tokens", "size", "batch_size", "shard_size", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{name.replace('_', '-')} {value}: must be at least 1")
        if self.max_skipped is not None and self.max_skipped < 0:
            raise InputError(f"--max-skipped {self.max_skipped}: must be at least 0")


@dataclass(frozen=True, kw_only=True)
class CocoConfig(PrepareConfig):
    """MS-COCO's captions (or OpenMoji Scenes, which have the same layout) into features for training."""

    images: Path
    """The directory of the pictures."""
    captions: Path
    """The annotation file, captions_*.json."""


@dataclass(frozen=True, kw_only=True)
class FolderConfig(PrepareConfig):
    """A folder of pictures into features for training. A picture's caption is the first line of a .txt file of the same
    name beside it, or stands in the folder's metadata.jsonl."""

    folder: tyro.conf.Positional[Path]
    """The folder; pictures in folders below it count too."""


@dataclass(frozen=True, kw_only=True)
class DatasetConfig(PrepareConfig):
    """A data set that the library `datasets` reads into features for training."""

    sources: tyro.conf.Positional[tuple[str, ...]]
    """WebDataset files (.tar), parquet files (.parquet), or one name of a data set on the Hugging Face hub."""
    name: str | None = None
    """The configuration of a data set that has several."""
    split: str = "train"
    """Which split; slices such as "train[:1000]" are understood."""
    image_column: str | None = None
    """The column of the pictures. By default the only one there is."""
    caption_column: str | None = None
    """The column of the captions (text, or lists of text); "json.caption" reaches into a column of JSON. By default
    caption, captions, text, txt or json.caption."""


class Plan(NamedTuple):
    """What is to be encoded, in which order."""

    pictures: list[Picture]
    """Those that have captions."""
    captions: list[str]
    """The distinct captions, in the order of their first appearance."""
    rows: list[list[int]]
    """For every picture, the rows of its captions."""
    skipped: list[dict[str, str]]
    """Empty captions, and pictures without any other."""
    listed: int
    """Pictures the source listed."""
    digest: str
    """SHA-256 over ids and captions."""


class Share(NamedTuple):
    """Which process this is, out of how many."""

    rank: int = 0
    count: int = 1

    @classmethod
    def from_environment(cls) -> "Share":
        """RANK and WORLD_SIZE, as torchrun, accelerate launch and schedulers set them.

        Raises:
            InputError: they are not numbers, or do not go together.
        """
        values = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
        try:
            rank, count = map(int, values)
        except ValueError:
            rank, count = -1, 0
        if not 0 <= rank < count:
            raise InputError(f"RANK={values[0]} and WORLD_SIZE={values[1]} in the environment do not go together")
        return cls(rank, count)


ALONE = Share()


def main(arguments: list[str]) -> None:
    """Run the verb from command line arguments."""
    sources: dict[str, type[PrepareConfig]] = {"coco": CocoConfig, "folder": FolderConfig, "dataset": DatasetConfig}
    source, *rest = arguments or ["--help"]
    if source in ("-h", "--help"):
        print("usage: ifuvit prepare SOURCE [ARGUMENTS]\n\nEncode captions and pictures into features for training.\n")
        print("sources:")
        print("  coco      --images DIR --captions FILE.json --out FEATURES   MS-COCO's files, or OpenMoji Scenes")
        print("  folder    DIR --out FEATURES                                 pictures, .txt files or metadata.jsonl")
        print("  dataset   NAME_OR_FILES --out FEATURES                       WebDataset, parquet, or the hub")
        print("\n`ifuvit prepare SOURCE --help` tells a source's arguments.")
        return
    if source not in sources:
        raise InputError(f"unknown source {source!r}; the sources are {', '.join(sources)}")
    directory = run(parse(sources[source], rest, prog=f"ifuvit prepare {source}"))
    if Share.from_environment().rank == 0:
        print(f"features: {directory}")


def run(config: PrepareConfig) -> Path:
    """Prepare features and return their directory.

    Raises:
        InputError: the source cannot be read, an encoder cannot be found, the directory has other features, the disk
            is too small, or too much had to be skipped.
    """
    share = Share.from_environment()
    pictures = read_source(config)
    _say(share, f"{len(pictures):,} pictures listed; loading the encoders")
    # Imported late: torch, diffusers and transformers take seconds, which a mistyped path should not cost.
    from ifuvit.encoders.autoencoder import Autoencoder
    from ifuvit.encoders.text_encoder import TextEncoder

    device = find_device(config.device)
    autoencoder = Autoencoder.from_pretrained(config.autoencoder, device=device)
    text_encoder = TextEncoder.from_pretrained(config.text_encoder, max_tokens=config.max_tokens, device=device)
    return encode(config, pictures, autoencoder, text_encoder, share)


def read_source(config: PrepareConfig) -> list[Picture]:
    """The pictures and captions that a configuration names."""
    if isinstance(config, CocoConfig):
        from ifuvit.data.coco import read_coco

        return read_coco(config.images, config.captions)
    if isinstance(config, FolderConfig):
        from ifuvit.data.folder import read_folder

        return read_folder(config.folder)
    if isinstance(config, DatasetConfig):
        from ifuvit.data.library import read_dataset

        return read_dataset(
            config.sources,
            name=config.name,
            split=config.split,
            image_column=config.image_column,
            caption_column=config.caption_column,
        )
    raise TypeError(f"{type(config).__name__} names no source")


def make_plan(pictures: Sequence[Picture]) -> Plan:
    """Clean the captions (whitespace becomes single spaces), leave out empty ones, and number the distinct ones."""
    digest = hashlib.sha256()
    numbers: dict[str, int] = {}
    kept, rows, skipped = [], [], []
    for picture in pictures:
        captions = [" ".join(caption.split()) for caption in picture.captions]
        digest.update(repr((picture.id, captions)).encode("utf-8", "surrogatepass"))
        good = [caption for caption in captions if caption]
        if good:
            kept.append(picture)
            rows.append([numbers.setdefault(caption, len(numbers)) for caption in good])
            skipped += [_skip(picture, "empty", "caption")] * (len(captions) - len(good))
        else:
            skipped.append(_skip(picture, picture.problem or ("only empty captions" if captions else "no caption")))
    return Plan(kept, list(numbers), rows, skipped, len(pictures), digest.hexdigest())


def encode(
    config: PrepareConfig,
    pictures: Sequence[Picture],
    autoencoder: "Autoencoder",
    text_encoder: "TextEncoder",
    share: Share = ALONE,
) -> Path:
    """`run` with the source read and the encoders loaded. Returns before the features are finished in all processes
    but process 0.

    Raises:
        InputError: see `run`.
    """
    started = now()
    size = config.size or min(autoencoder.image_size, LARGEST_DEFAULT_SIZE)
    if size % autoencoder.factor:
        raise InputError(f"--size {size}: not a multiple of {autoencoder.factor}, the autoencoder's factor")
    plan = make_plan(pictures)
    if not plan.pictures:
        reason = f" (the first: {plan.skipped[0]['id']}: {plan.skipped[0]['reason']})" if plan.skipped else ""
        raise InputError(f"none of {plan.listed} pictures has a caption{reason}")

    writer = FeatureWriter(config.out)
    latents = (2 * autoencoder.channels, size // autoencoder.factor, size // autoencoder.factor)
    sizes = _predicted_sizes(plan, latents, text_encoder.max_tokens, text_encoder.width)
    text = config.text or _choose_text(sizes)
    image_shards = _ranges(len(plan.pictures), config.shard_size)
    text_shards = _ranges(len(plan.captions), config.shard_size)
    settings = {
        "format": FORMAT,
        "pictures_and_captions": plan.digest,
        "size": size,
        "autoencoder": autoencoder.fingerprint,
        "text_encoder": text_encoder.fingerprint,
        "max_tokens": text_encoder.max_tokens,
        "text": text,
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
    skips = _Skips(config.out, limit, plan.skipped)
    skips.check([_skip(picture, picture.problem) for picture in plan.pictures if picture.problem])
    _encode_pictures(writer, plan.pictures, image_shards, config, size, autoencoder, skips, share)
    _encode_captions(writer, plan.captions, text_shards, config.batch_size, text, text_encoder, share)
    if share.rank:
        return config.out
    image_facts = _all_shards(writer, "moments", len(image_shards))
    text_facts = _all_shards(writer, "text", len(text_shards))
    skipped = plan.skipped + [entry for facts in image_facts for entry in facts["skipped"]]
    _Skips(config.out, limit, skipped).check()
    broken = {position for facts in image_facts for position in facts["broken"]}
    kept = [position for position in range(len(plan.pictures)) if position not in broken]
    if not kept:
        raise InputError(f"none of {plan.listed} pictures can be read (the first: {skipped[-1]['reason']})")
    null = text_encoder.tokenize([""])
    rows = [plan.rows[position] for position in kept]
    scale = latent_scale(image_facts)
    truncated = sum(facts["truncated"] for facts in text_facts)
    writer.finish(
        shards={"moments": image_facts, "text": text_facts},
        arrays={
            "null_states": to_half(_numpy(text_encoder.encode(null))[0]),
            "null_mask": _numpy(null.mask)[0].astype(np.bool_),
            "null_ids": _numpy(null.ids)[0].astype(np.int32),
            "caption_starts": np.cumsum([0, *map(len, rows)], dtype=np.int64),
            "caption_rows": np.fromiter(itertools.chain.from_iterable(rows), dtype=np.int64),
        },
        captions=plan.captions,
        image_ids=[plan.pictures[position].id for position in kept],
        skipped=skipped,
        config=to_dict(config),
        started=started,
        facts={
            "size": size,
            "text": text,
            "latent_scale": scale,
            "autoencoder": {
                "reference": autoencoder.reference,
                "fingerprint": autoencoder.fingerprint,
                "channels": autoencoder.channels,
                "factor": autoencoder.factor,
            },
            "text_encoder": {
                "reference": text_encoder.reference,
                "fingerprint": text_encoder.fingerprint,
                "width": text_encoder.width,
                "max_tokens": text_encoder.max_tokens,
            },
            "counts": {
                "pictures": len(kept),
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
    _say(share, f"{len(kept):,} pictures, latent scale {scale:.5f}{left_out}")
    return config.out


def latent_scale(shards: Iterable[dict[str, Any]]) -> float:
    """1 / standard deviation of latents drawn from the posteriors, over all pictures, channels and places.

    By the law of total variance no draw is needed: Var z = E[mean^2 + variance] - (E mean)^2. The sums are those that
    `_encode_pictures` records, added in the order of the shards.

    Raises:
        InputError: the latents do not vary.
    """
    count = total = squares = 0.0
    for facts in shards:
        count, total, squares = count + facts["count"], total + facts["sum"], squares + facts["sum_squares"]
    variance = squares / count - (total / count) ** 2
    if not variance > 0:
        raise InputError("the latents of all pictures are the same constant: this is no autoencoder to train on")
    return variance**-0.5


def _encode_pictures(
    writer: FeatureWriter,
    pictures: Sequence[Picture],
    shards: Sequence[range],
    config: PrepareConfig,
    size: int,
    autoencoder: "Autoencoder",
    skips: "_Skips",
    share: Share,
) -> None:
    import torch

    mine = range(share.rank, len(shards), share.count)
    done = {shard: facts for shard in mine if (facts := writer.done("moments", shard)) is not None}
    for facts in done.values():
        skips.add(facts["skipped"])
    todo = [shard for shard in mine if shard not in done]
    latents = (2 * autoencoder.channels, size // autoencoder.factor, size // autoencoder.factor)
    with (
        ThreadPoolExecutor(config.workers) as pool,
        _progress("pictures", share, sum(len(shards[k]) for k in mine), sum(len(shards[k]) for k in done)) as bar,
    ):
        wanted = (pictures[position] for shard in todo for position in shards[shard])
        loaded = _ahead(pool, lambda picture: _load(picture, size), wanted, 4 * config.batch_size)
        for shard in todo:
            if writer.finished:
                return
            moments, skipped, broken = [np.empty((0, *latents), np.float16)], [], []
            # Batches are of the readable pictures of a shard, in order: they depend on nothing but the data.
            good = _readable(itertools.islice(loaded, len(shards[shard])), shards[shard], pictures, skipped, broken)
            for batch in _batches(good, config.batch_size):
                pixels = torch.from_numpy(np.stack([array for _, array in batch])).permute(0, 3, 1, 2)
                values = _numpy(autoencoder.moments(pixels.float() / 127.5 - 1))
                if not np.isfinite(values).all():
                    bad = next(picture for (picture, _), value in zip(batch, values) if not np.isfinite(value).all())
                    raise InputError(f"picture {bad.id}: the autoencoder gives infinite or undefined latents for it")
                moments.append(to_half(values))
                bar.update(len(batch))
            skips.add(skipped)
            skips.check()
            bar.update(len(skipped))
            stored = np.concatenate(moments)
            mean, log_variance = np.split(stored.astype(np.float64), 2, axis=1)
            writer.write_shard(
                "moments",
                shard,
                {"moments": stored},
                rows=len(stored),
                skipped=skipped,
                broken=broken,
                count=mean.size,
                sum=float(mean.sum()),
                sum_squares=float((mean**2 + np.exp(log_variance)).sum()),
            )


def _encode_captions(
    writer: FeatureWriter,
    captions: Sequence[str],
    shards: Sequence[range],
    batch_size: int,
    text: str,
    text_encoder: "TextEncoder",
    share: Share,
) -> None:
    mine = range(share.rank, len(shards), share.count)
    todo = [shard for shard in mine if writer.done("text", shard) is None]
    total, remaining = sum(len(shards[k]) for k in mine), sum(len(shards[k]) for k in todo)
    with _progress("captions", share, total, total - remaining) as bar:
        for shard in todo:
            if writer.finished:
                return
            arrays: dict[str, list[np.ndarray]] = {"ids": [], "masks": []}
            truncated = 0
            for rows in _batches(shards[shard], batch_size):
                tokens = text_encoder.tokenize([captions[row] for row in rows])
                truncated += tokens.truncated
                arrays["ids"].append(_numpy(tokens.ids).astype(np.int32))
                arrays["masks"].append(_numpy(tokens.mask).astype(np.bool_))
                if text == "states":
                    states = _numpy(text_encoder.encode(tokens))
                    if not np.isfinite(states).all():
                        first = captions[rows[0]]
                        raise InputError(f"the text encoder gives infinite or undefined states near {first!r}")
                    arrays.setdefault("states", []).append(to_half(states))
                bar.update(len(rows))
            stored = {folder: np.concatenate(parts) for folder, parts in arrays.items()}
            writer.write_shard("text", shard, stored, rows=len(shards[shard]), truncated=truncated)


class _Skips:
    """Counts what is left out, and stops past a limit."""

    def __init__(self, out: Path, limit: int, entries: Iterable[dict[str, str]]) -> None:
        self.out, self.limit, self.entries = out, limit, list(entries)

    def add(self, entries: Iterable[dict[str, str]]) -> None:
        self.entries += entries

    def check(self, coming: Sequence[dict[str, str]] = ()) -> None:
        """Raises InputError past the limit. `coming`: what will be left out, known beforehand."""
        entries = [*self.entries, *coming]
        if len(entries) <= self.limit:
            return
        lines = (json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
        write_text(self.out / "skipped.jsonl", "".join(lines))
        first = entries[0]
        raise InputError(
            f"{len(entries):,} pictures or captions cannot be used (the first: {first['what']} {first['id']}: "
            f"{first['reason']}), more than --max-skipped {self.limit}; {self.out / 'skipped.jsonl'} lists them"
        )


def _readable(
    loaded: Iterable[np.ndarray | str],
    positions: range,
    pictures: Sequence[Picture],
    skipped: list[dict[str, str]],
    broken: list[int],
) -> Iterator[tuple[Picture, np.ndarray]]:
    for position, result in zip(positions, loaded, strict=True):
        if isinstance(result, str):
            skipped.append(_skip(pictures[position], result))
            broken.append(position)
        else:
            yield pictures[position], result


def _skip(picture: Picture, reason: str, what: str = "picture") -> dict[str, str]:
    return {"id": picture.id, "what": what, "reason": reason}


def _load(picture: Picture, size: int) -> np.ndarray | str:
    """The pixels (size, size, 3) uint8, or the reason why there are none."""
    try:
        source = picture.source if isinstance(picture.source, Path) else picture.source()
        image = load_image(source, name=None if isinstance(source, Path) else f"picture {picture.id}")
    except InputError as error:
        return str(error)
    return np.asarray(center_crop_resize(image, size))


def _ahead(pool: ThreadPoolExecutor, function: Callable[[S], T], items: Iterable[S], ahead: int) -> Iterator[T]:
    """`map` in threads, in order, at most `ahead` results in memory."""
    futures: deque[Future[T]] = deque()
    for item in items:
        futures.append(pool.submit(function, item))
        if len(futures) >= ahead:
            yield futures.popleft().result()
    while futures:
        yield futures.popleft().result()


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def _ranges(count: int, size: int | None) -> list[range]:
    """0 ... count - 1 in shards. The number of files is kept low, for each costs an open file while training."""
    size = size or max(1024, math.ceil(count / 256))
    return [range(begin, min(begin + size, count)) for begin in range(0, count, size)]


def _numpy(tensor: Any) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def _predicted_sizes(plan: Plan, latents: tuple[int, int, int], length: int, width: int) -> dict[str, int]:
    """Bytes: "moments", and for the text "tokens" or "states" (which have the tokens too)."""
    tokens = len(plan.captions) * length * 5
    return {
        "moments": 2 * len(plan.pictures) * math.prod(latents),
        "tokens": tokens,
        "states": tokens + 2 * len(plan.captions) * length * width,
    }


def _choose_text(sizes: dict[str, int]) -> Literal["states"]:
    if sizes["states"] <= ASK_ABOVE:
        return "states"
    raise InputError(
        f"text states would take {_bytes(sizes['states'])}; choose --text states if there is room for them, or --text "
        f"tokens ({_bytes(sizes['tokens'])}), with which training runs the text encoder at every step"
    )


def _announce(plan: Plan, sizes: dict[str, int], text: str, out: Path) -> None:
    captions = sum(map(len, plan.rows))
    other = "tokens" if text == "states" else "states"
    _say(
        ALONE,
        f"{len(plan.pictures):,} pictures: {_bytes(sizes['moments'])}; {captions:,} captions, {len(plan.captions):,} "
        f"distinct: --text {text} takes {_bytes(sizes[text])} (--text {other}: {_bytes(sizes[other])}); "
        f"{_bytes(_free(out))} are free at {out}",
    )


def _check_disk(out: Path, needed: int) -> None:
    written = sum(path.stat().st_size for path in out.rglob("*.npy")) if out.is_dir() else 0
    # The tables of ids and captions are small beside the rest.
    missing = int(1.02 * needed) + 2**20 - written
    if missing > _free(out):
        raise InputError(
            f"{out}: the features need {_bytes(missing)} more and {_bytes(_free(out))} are free there; make room, give "
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


def _progress(what: str, share: Share, total: int, done: int) -> Any:
    from tqdm import tqdm

    return tqdm(
        desc=what if share.count == 1 else f"{what} (process 0 of {share.count})",
        total=total,
        initial=done,
        unit=" " + what,
        disable=share.rank > 0 or done == total,
        mininterval=0.5 if sys.stderr.isatty() else 30,
    )


def _all_shards(writer: FeatureWriter, kind: str, count: int) -> list[dict[str, Any]]:
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


def _say(share: Share, text: str) -> None:
    if share.rank == 0:
        print(text, file=sys.stderr, flush=True)
