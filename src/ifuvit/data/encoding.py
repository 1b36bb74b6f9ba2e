"""Images to posterior moments and captions to token ids and embeddings, shard by shard.

Batches never cross a shard's end: neither a restart nor the number of processes changes what is computed together.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from ifuvit.data.encoded import EncodedDatasetWriter, to_half
from ifuvit.data.images import Box, CaptionedImage, center_crop_resize, load_image, pad_resize, read_ahead
from ifuvit.data.plan import Skips, skip_entry
from ifuvit.utils.command_line import BAR_COLOR
from ifuvit.utils.distributed import Processes
from ifuvit.utils.errors import InputError, UnreachableError

if TYPE_CHECKING:
    from ifuvit.encoders.autoencoder import Autoencoder
    from ifuvit.encoders.text_encoder import TextEncoder

T = TypeVar("T")


ALONE = Processes()


def shard_ranges(count: int, size: int | None) -> list[range]:
    """0 ... count - 1 in shards. The number of files is kept low, for each costs an open file while training."""
    size = size or max(1024, math.ceil(count / 256))
    return [range(begin, min(begin + size, count)) for begin in range(0, count, size)]


def encode_images(
    writer: EncodedDatasetWriter,
    images: Sequence[CaptionedImage],
    shards: Sequence[range],
    autoencoder: "Autoencoder",
    skips: Skips,
    share: Processes,
    *,
    size: int,
    aspect: Literal["crop", "pad"],
    batch_size: int,
    workers: int,
) -> None:
    """Encode this process's shards that are not there yet. Each records its sums for `latent_scale`, what was "skipped",
    and the positions of "broken" images.

    Args:
        writer: of the features.
        images: the plan's.
        shards: ranges of their positions.
        autoencoder: encodes.
        skips: counts what is left out.
        share: which process this is.
        size: pixels of a side of the square.
        aspect: the largest centered square of an image, or the whole image on a white one.
        batch_size: images encoded at a time.
        workers: threads that read images.

    Raises:
        InputError: too much was left out, or latents are not finite.
    """
    import torch

    mine = range(share.rank, len(shards), share.count)
    done = {shard: facts for shard in mine if (facts := writer.done("moments", shard)) is not None}
    for facts in done.values():
        skips.add(facts["skipped"])
    todo = [shard for shard in mine if shard not in done]
    latents = (2 * autoencoder.channels, size // autoencoder.factor, size // autoencoder.factor)
    with _progress("images", share, sum(len(shards[k]) for k in mine), sum(len(shards[k]) for k in done)) as bar:
        wanted = (images[position] for shard in todo for position in shards[shard])
        loaded = read_ahead(lambda image: _load(image, size, aspect), wanted, workers=workers, ahead=4 * batch_size)
        for shard in todo:
            if writer.finished:
                return
            moments, skipped, broken = [np.empty((0, *latents), np.float16)], [], []
            # Batches are of the readable images of a shard, in order: they depend on nothing but the data.
            good = _readable(itertools.islice(loaded, len(shards[shard])), shards[shard], images, skipped, broken)
            for batch in _batches(good, batch_size):
                pixels = torch.from_numpy(np.stack([array for _, array in batch])).permute(0, 3, 1, 2)
                values = to_numpy(autoencoder.moments(pixels.float() / 127.5 - 1))
                if not np.isfinite(values).all():
                    bad = next(image for (image, _), value in zip(batch, values) if not np.isfinite(value).all())
                    raise InputError(f"image {bad.id}: the autoencoder gives infinite or undefined latents for it")
                moments.append(to_half(values))
                bar.update(len(batch))
            skips.add(skipped)
            skips.check()
            bar.update(len(skipped))
            stored = np.concatenate(moments)
            arrays: dict[str, np.ndarray] = {"moments": stored}
            if images and images[0].boxes is not None:
                left_out, cells = set(broken), latents[-1]
                layouts = [layout(images[p].boxes or (), cells) for p in shards[shard] if p not in left_out]
                arrays["layouts"] = np.array(layouts, np.uint8).reshape(-1, cells, cells)
            mean, log_variance = np.split(stored.astype(np.float64), 2, axis=1)
            squares = mean**2 + np.exp(log_variance)
            writer.write_shard(
                "moments",
                shard,
                arrays,
                rows=len(stored),
                skipped=skipped,
                broken=broken,
                count=mean.size,
                sum=float(mean.sum()),
                sum_squares=float(squares.sum()),
                layout_kinds=int(arrays["layouts"].max(initial=0)) if "layouts" in arrays else 0,
                channel_sums=mean.sum((0, 2, 3)).tolist(),
                channel_sums_squares=squares.sum((0, 2, 3)).tolist(),
            )


def layout(boxes: Sequence[Box], cells: int) -> np.ndarray:
    """Which kind of object covers the center of each cell of a grid, the smaller one where several do: (cells, cells) uint8,
    0 for none, else 1 + the kind's number.

    Raises:
        InputError: a kind's number above 254.
    """
    grid = np.zeros((cells, cells), np.uint8)
    centers = (np.arange(cells) + 0.5) / cells
    for box in sorted(boxes, key=lambda box: -box.width * box.height):
        if box.kind > 254:
            raise InputError(f"kind number {box.kind}: layouts have room for 255 kinds")
        rows = (centers >= box.top) & (centers < box.top + box.height)
        columns = (centers >= box.left) & (centers < box.left + box.width)
        grid[np.ix_(rows, columns)] = 1 + box.kind
    return grid


def encode_captions(
    writer: EncodedDatasetWriter,
    captions: Sequence[str],
    shards: Sequence[range],
    text_encoder: "TextEncoder",
    share: Processes,
    *,
    embeddings: bool,
    batch_size: int,
) -> None:
    """Encode this process's shards of distinct captions that are not there yet: to token ids, and to embeddings too.

    Raises:
        InputError: embeddings are not finite.
    """
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
                arrays["ids"].append(to_numpy(tokens.ids).astype(np.int32))
                arrays["masks"].append(to_numpy(tokens.mask).astype(np.bool_))
                if embeddings:
                    values = to_numpy(text_encoder.encode(tokens))
                    if not np.isfinite(values).all():
                        first = captions[rows[0]]
                        raise InputError(f"the text encoder gives infinite or undefined embeddings near {first!r}")
                    arrays.setdefault("embeddings", []).append(to_half(values))
                bar.update(len(rows))
            stored = {folder: np.concatenate(parts) for folder, parts in arrays.items()}
            writer.write_shard("text", shard, stored, rows=len(shards[shard]), truncated=truncated)


def latent_scale(shards: Iterable[dict[str, Any]]) -> float:
    """1 / standard deviation of latents drawn from the posteriors, over all images, channels and places.

    By the law of total variance no draw is needed: Var z = E[mean^2 + variance] - (E mean)^2. The sums are those that
    `encode_images` records, added in the order of the shards.

    Raises:
        InputError: the latents do not vary.
    """
    count = total = squares = 0.0
    for facts in shards:
        count, total, squares = count + facts["count"], total + facts["sum"], squares + facts["sum_squares"]
    variance = squares / count - (total / count) ** 2
    if not variance > 0:
        raise InputError("the latents of all images are the same constant: this is no autoencoder to train on")
    return variance**-0.5


def latent_statistics(shards: Iterable[dict[str, Any]]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation by channel of latents drawn from the posteriors, by the same law; C numbers each.

    Raises:
        InputError: a channel does not vary.
    """
    facts = list(shards)
    sums = np.sum([shard["channel_sums"] for shard in facts], axis=0)
    squares = np.sum([shard["channel_sums_squares"] for shard in facts], axis=0)
    count = sum(shard["count"] for shard in facts) / len(sums)
    mean = sums / count
    variance = squares / count - mean**2
    if not (variance > 0).all():
        raise InputError(
            f"latent channel {int(np.argmin(variance))} of all images is the same constant; train another autoencoder"
        )
    return mean.tolist(), np.sqrt(variance).tolist()


def _readable(
    loaded: Iterable[np.ndarray | str],
    positions: range,
    images: Sequence[CaptionedImage],
    skipped: list[dict[str, str]],
    broken: list[int],
) -> Iterator[tuple[CaptionedImage, np.ndarray]]:
    for position, result in zip(positions, loaded, strict=True):
        if isinstance(result, str):
            skipped.append(skip_entry(images[position], result))
            broken.append(position)
        else:
            yield images[position], result


def _load(image: CaptionedImage, size: int, aspect: Literal["crop", "pad"]) -> np.ndarray | str:
    """The pixels (size, size, 3) uint8, or the reason why there are none."""
    try:
        square = pad_resize if aspect == "pad" else center_crop_resize
        return np.asarray(square(load_image(image.source), size))
    except UnreachableError:  # as the system's own errors: the same command goes on where it stopped
        raise
    except InputError as error:
        return str(error)


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def _progress(what: str, share: Processes, total: int, done: int) -> Any:
    from tqdm import tqdm

    return tqdm(
        desc=what if share.count == 1 else f"{what} (process 0 of {share.count})",
        total=total,
        initial=done,
        unit=" " + what,
        disable=True if share.rank > 0 or done == total else None,  # None: shown on a terminal
        mininterval=0.5,
        colour=BAR_COLOR,
    )


def to_numpy(tensor: Any) -> np.ndarray:
    """A tensor of any device as an array."""
    return tensor.detach().cpu().numpy()
