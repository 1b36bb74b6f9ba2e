"""The encoded data set on disk: latents and text embeddings, which training reads instead of images and captions.

Its directory:

    plan.json                settings and counts; written first, so that a restart knows what it continues
    moments/00000.npy ...    (rows, 2C, h, w) float16: the posterior's mean and log-variance, a row an image
    embeddings/00000.npy ... (rows, L, D) float16: text embeddings, a row a distinct caption (only with --text embeddings)
    ids/00000.npy ...        (rows, L) int32: token ids, a row a distinct caption
    masks/00000.npy ...      (rows, L) bool: True for real tokens, False for padding
    null_{embeddings,mask,ids}.npy   the null caption: (L, D) float16, (L,) bool, (L,) int32
    caption_starts.npy       (N + 1,) int64: the captions of image i are caption_rows[starts[i] : starts[i + 1]]
    caption_rows.npy         int64: rows of distinct captions
    captions.jsonl           the distinct captions, one a line, in the order of the rows
    caption_offsets.npy      (U + 1,) int64: where each line of captions.jsonl begins
    images.jsonl             the images' ids, one a line, in the order of the rows
    skipped.jsonl            what was left out, and why
    manifest.json            written last: a directory without it is unfinished. Settings, encoders, latent scale, and
                             size and SHA-256 of every file above

While it is made, `progress/` has one JSON file for every finished shard; that file is the shard's commit mark.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_type_hints

import numpy as np

from ifuvit.diffusion.initial_latents import InitialLatentsDistribution
from ifuvit.encoders.normalization import LatentNormalization
from ifuvit.utils.config import Positive, from_dict
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import (
    OutputDirectory,
    atomic_path,
    is_present,
    read_json,
    read_object,
    reading,
    seal,
    sha256,
    unseal,
    write_json,
    write_manifest,
    write_text,
)

FORMAT = 2
"""Version of the layout above; a change that readers must know of raises it."""

VERIFY_BELOW = 2_000_000_000
"""Bytes of a data set up to which opening it takes the seconds to compare all checksums."""

HALF_MAX = 65504.0
"""The largest finite half-precision number."""


class EncodedDatasetWriter:
    """Writes a encoded data set shard by shard, so that it can be interrupted, restarted, and shared by processes.

    A shard is one or more arrays and facts about them; it counts as done once its mark in `progress/` is there, which
    is written after the arrays. All files take their names only when they are whole. Two processes that write the same
    shard do no harm: they write the same bytes.

    Args:
        directory: the encoded data set; made if need be.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self._output = OutputDirectory(self.directory, "prepare", record="plan.json", signed=False)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """In the block no other preparation writes here (see `ifuvit.utils.files.OutputDirectory.lock`)."""
        with self._output.lock():
            if self.finished:  # and killed before it had tidied up
                shutil.rmtree(self.directory / "progress", ignore_errors=True)
            yield

    @property
    def finished(self) -> bool:
        """Whether the manifest has been written."""
        return is_present(self.directory / "manifest.json")

    def check(self, settings: Mapping[str, Any]) -> bool:
        """Whether a preparation with these settings was begun here.

        Raises:
            InputError: the directory holds something else, or a data set encoded with other settings.
        """
        return self._output.matches(settings)

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Write plan.json, unless the same preparation was begun before (see `check`)."""
        if not self.check(settings):
            self._output.begin(settings)

    def done(self, kind: str, shard: int) -> dict[str, Any] | None:
        """The facts of a finished shard, or None if it is yet to be made."""
        mark = self._mark(kind, shard)
        if not is_present(mark):
            return None
        try:
            with reading(mark):
                facts = unseal(read_object(mark), where=mark)
                sizes = {self.directory / name: int(entry["bytes"]) for name, entry in facts["files"].items()}
        except InputError:  # damaged: the shard is made again
            return None
        whole = all(is_present(path) and path.stat().st_size == size for path, size in sizes.items())
        return facts if whole else None

    def write_shard(self, kind: str, shard: int, arrays: Mapping[str, np.ndarray], **facts: Any) -> dict[str, Any]:
        """Write the arrays of one shard, {folder: array}, and then its mark. Returns what `done` will return."""
        files = {}
        for folder, array in arrays.items():
            name = f"{folder}/{shard:05d}.npy"
            files[name] = self._write_array(name, array)
        facts = {**facts, "files": files}
        write_json(self._mark(kind, shard), seal(facts))
        return facts

    def finish(
        self,
        *,
        shards: Mapping[str, Sequence[Mapping[str, Any]]],
        arrays: Mapping[str, np.ndarray],
        captions: Sequence[str],
        image_ids: Iterable[str],
        skipped: Iterable[Mapping[str, str]],
        config: Mapping[str, Any],
        started: str,
        facts: Mapping[str, Any],
    ) -> None:
        """Write the tables and, last, the manifest. `shards` has the facts of all shards by kind."""
        files: dict[str, dict[str, Any]] = {}
        for kind_shards in shards.values():
            for shard in kind_shards:
                files.update(shard["files"])
        lines = [(json.dumps(caption, ensure_ascii=False) + "\n").encode() for caption in captions]
        offsets = np.cumsum([0, *map(len, lines)], dtype=np.int64)
        for name, array in {**arrays, "caption_offsets": offsets}.items():
            files[f"{name}.npy"] = self._write_array(f"{name}.npy", array)
        texts = {
            "captions.jsonl": b"".join(lines).decode(),
            "images.jsonl": "".join(json.dumps(image_id, ensure_ascii=False) + "\n" for image_id in image_ids),
            "skipped.jsonl": "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in skipped),
        }
        for name, text in texts.items():
            write_text(self.directory / name, text)
            files[name] = _entry(self.directory / name)
        rows = {kind: [shard["rows"] for shard in kind_shards] for kind, kind_shards in shards.items()}
        write_manifest(
            self.directory,
            "prepare",
            config,
            started=started,
            format=FORMAT,
            fingerprint=_fingerprint(files),
            rows=rows,
            **facts,
            files=files,
        )
        for left_over in self.directory.rglob(".*.tmp"):
            left_over.unlink(missing_ok=True)
        shutil.rmtree(self.directory / "progress", ignore_errors=True)

    def _mark(self, kind: str, shard: int) -> Path:
        return self.directory / "progress" / f"{kind}-{shard:05d}.json"

    def _write_array(self, name: str, array: np.ndarray) -> dict[str, Any]:
        with atomic_path(self.directory / name) as temporary:
            with open(temporary, "wb") as file:
                # np.save's bytes, but written by Python: np.save says of a full disk neither why nor where.
                np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
                file.write(np.ascontiguousarray(array).data)
            return _entry(temporary)


class EncodedDataset:
    """A finished encoded data set, memory-mapped: opening is cheap, and rows are read when asked for. Needs numpy
    only. Can be pickled (data loading processes open the files again).

    Attributes:
        directory: where it lies.
        manifest: the content of manifest.json.
        has_layouts: whether it knows where which kind of object is.
        layout_kinds: the largest number that its layouts have, at most that of the kinds.
        text_mode: "embeddings", or "tokens" where the text is to be encoded during training.
        latent_scale: 1 / standard deviation of latents drawn from the posteriors, over all images and channels.
        latent_mean, latent_std: their mean and standard deviation by channel, C numbers each.
        autoencoder: {"reference", "fingerprint", "channels", "factor"} of the encoder of the images.
        text_encoder: {"reference", "fingerprint", "width", "max_tokens", "layers"} of the encoder of the captions.
        fingerprint: SHA-256 over all data, in hexadecimal; equal for equal features.
        caption_starts, caption_rows: (N + 1,) and flat int64; `captions_of` in bulk.
        null_embeddings: (L, D) float16, null_mask: (L,) bool, null_ids: (L,) int32: the null caption "".
    """

    def __init__(self, directory: Path, manifest: Mapping[str, Any]) -> None:
        self.directory, self.manifest = directory, manifest
        self.text_mode: Literal["embeddings", "tokens"] = manifest["text"]
        self.latent_scale: float = manifest["latent_scale"]
        self.latent_mean: Sequence[float] = manifest["latent_mean"]
        self.latent_std: Sequence[float] = manifest["latent_std"]
        self.autoencoder: Mapping[str, Any] = manifest["autoencoder"]
        self.text_encoder: Mapping[str, Any] = manifest["text_encoder"]
        self.size: int = manifest["size"]
        self.fingerprint: str = manifest["fingerprint"]
        self.latent_channels: int = self.autoencoder["channels"]
        self.latent_size: int = self.size // self.autoencoder["factor"]
        length, width = self.text_encoder["max_tokens"], self.text_encoder["width"]
        rows = manifest["rows"]
        moments_shape = (2 * self.latent_channels, self.latent_size, self.latent_size)
        self._moments = _Shards(directory / "moments", rows["moments"], moments_shape, np.float16)
        self.has_layouts: bool = manifest.get("layouts", False)
        self.layout_kinds: int = manifest.get("layout_kinds", 0)
        self._layouts = _Shards(directory / "layouts", rows["moments"], moments_shape[1:], np.uint8)
        self._ids = _Shards(directory / "ids", rows["text"], (length,), np.int32)
        self._masks = _Shards(directory / "masks", rows["text"], (length,), np.bool_)
        self._embeddings = _Shards(directory / "embeddings", rows["text"], (length, width), np.float16)

    @classmethod
    def open(cls, directory: str | Path, *, verify: bool | None = None) -> "EncodedDataset":
        """Open a finished encoded data set.

        Args:
            directory: what `ifuvit prepare` wrote.
            verify: read every file and compare its SHA-256 with the manifest; otherwise sizes are compared, and the tables
                when they are read. None: if the files have at most `VERIFY_BELOW` bytes.

        Raises:
            InputError: not an encoded data set, unfinished, of another layout, or a file is missing or damaged.
        """
        directory = Path(directory)
        if not directory.is_dir():
            raise InputError(f"{directory}: no such encoded data set; `ifuvit prepare` makes one")
        if not (directory / "manifest.json").exists():
            if (directory / "plan.json").exists():
                raise InputError(f"{directory}: is unfinished; run the same `ifuvit prepare` again")
            raise InputError(f"{directory}: not an encoded data set (no manifest.json); `ifuvit prepare` makes one")
        manifest = read_json(directory / "manifest.json")
        if not isinstance(manifest, dict) or manifest.get("command") != "prepare":
            raise InputError(f"{directory}: not an encoded data set; `ifuvit prepare` makes one")
        if manifest.get("format") != FORMAT:
            raise InputError(f"{directory}: has layout {manifest.get('format')}, not {FORMAT}; prepare it again")
        manifest = unseal(manifest, where=directory / "manifest.json")
        _check_manifest(manifest, where=str(directory / "manifest.json"))
        if verify is None:
            verify = sum(entry["bytes"] for entry in manifest["files"].values()) <= VERIFY_BELOW
        for name, entry in manifest["files"].items():
            path = directory / name
            if not is_present(path):
                raise InputError(f"{path}: is missing; prepare it again")
            if path.stat().st_size != entry["bytes"]:
                size = path.stat().st_size
                raise InputError(f"{path}: has {size} bytes, not {entry['bytes']}: damaged; prepare it again")
            if verify:
                _verify(path, entry)
        if _fingerprint(manifest["files"]) != manifest["fingerprint"]:
            raise InputError(f"{directory / 'manifest.json'}: damaged: its checksums do not match its fingerprint")
        try:
            return cls(directory, manifest)
        except InputError:
            raise
        except (ValueError, OverflowError) as error:  # sizes that no array can have
            raise InputError(f"{directory / 'manifest.json'}: damaged ({error}); encode the data again") from None

    def __reduce__(self) -> Any:
        return (EncodedDataset, (self.directory, self.manifest))

    def __len__(self) -> int:
        """The number of images, N."""
        return len(self._moments)

    @property
    def caption_count(self) -> int:
        """The number of distinct captions, U."""
        return len(self._ids)

    def moments(self, indices: np.ndarray | Sequence[int]) -> np.ndarray:
        """Posterior moments of images: (B,) int64 -> (B, 2C, h, w) float16, mean and log-variance, unscaled.

        Raises:
            IndexError: an index outside 0 ... N - 1.
        """
        return self._moments.take(indices)

    def layouts(self, indices: np.ndarray | Sequence[int]) -> np.ndarray:
        """Which kind of object covers each latent cell (see `ifuvit.data.encoding.layout`): (B,) -> (B, h, w) uint8.

        Raises:
            IndexError: an index outside 0 ... N - 1.
        """
        return self._layouts.take(indices)

    def captions_of(self, index: int) -> np.ndarray:
        """The caption rows of one image, int64 (at least one). Images with equal captions share their rows."""
        return self.caption_rows[self.caption_starts[index] : self.caption_starts[index + 1]]

    def text(self, rows: np.ndarray | Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Text embeddings and mask of caption rows: (B,) -> (B, L, D) float16, (B, L) bool.

        Raises:
            InputError: the features hold token ids only (`text_mode` is "tokens").
        """
        if self.text_mode != "embeddings":
            raise InputError(f"{self.directory}: holds token ids, not text embeddings; encode `tokens(rows)` instead")
        return self._embeddings.take(rows), self._masks.take(rows)

    def tokens(self, rows: np.ndarray | Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Token ids and mask of caption rows: (B,) -> (B, L) int32, (B, L) bool. They are there in both text modes."""
        return self._ids.take(rows), self._masks.take(rows)

    def caption_text(self, row: int) -> str:
        """The caption of a row."""
        if not 0 <= row < self.caption_count:
            raise IndexError(f"caption row {row} of {self.caption_count}")
        begin, end = (int(offset) for offset in self._caption_offsets[row : row + 2])
        with open(self.directory / "captions.jsonl", "rb") as file:
            file.seek(begin)
            return json.loads(file.read(end - begin))

    def initial_latents_distribution(self, normalization: LatentNormalization) -> InitialLatentsDistribution:
        """Fitted to the normalized latents of at most 10,000 evenly spaced images."""
        chosen = np.unique(np.linspace(0, len(self) - 1, min(len(self), 10_000)).astype(np.int64))
        means = [
            self.moments(part)[:, : self.latent_channels].mean((2, 3), dtype=np.float64)
            for part in np.array_split(chosen, math.ceil(len(chosen) / 256))
        ]
        normalized = normalization.normalize(np.concatenate(means)[:, :, None, None])
        return InitialLatentsDistribution.fit(normalized[:, :, 0, 0])

    @cached_property
    def image_ids(self) -> tuple[str, ...]:
        """The ids the data set gave its images, in the order of the rows."""
        with open(self._verified("images.jsonl"), encoding="utf-8") as file:
            return tuple(json.loads(line) for line in file)

    @cached_property
    def caption_starts(self) -> np.ndarray:
        return self._table("caption_starts")

    @cached_property
    def caption_rows(self) -> np.ndarray:
        return self._table("caption_rows")

    @cached_property
    def null_embeddings(self) -> np.ndarray:
        return self._table("null_embeddings")

    @cached_property
    def null_mask(self) -> np.ndarray:
        return self._table("null_mask")

    @cached_property
    def null_ids(self) -> np.ndarray:
        return self._table("null_ids")

    @cached_property
    def _caption_offsets(self) -> np.ndarray:
        self._verified("captions.jsonl")
        return self._table("caption_offsets")

    def _table(self, name: str) -> np.ndarray:
        return np.load(self._verified(f"{name}.npy"))

    def _verified(self, name: str) -> Path:
        """The path of a file with the manifest's SHA-256."""
        _verify(self.directory / name, self.manifest["files"][name])
        return self.directory / name


class _Shards:
    """Rows spread over memory-mapped files, which are opened when first touched."""

    def __init__(self, folder: Path, rows: Sequence[int], shape: tuple[int, ...], dtype: Any) -> None:
        self.folder, self.shape, self.dtype = folder, shape, np.dtype(dtype)
        self.ends = np.cumsum(rows, dtype=np.int64)
        self.starts = self.ends - np.asarray(rows, dtype=np.int64)
        self.maps: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def take(self, indices: np.ndarray | Sequence[int]) -> np.ndarray:
        indices = np.asarray(indices, dtype=np.int64)
        if indices.ndim != 1:
            raise ValueError(f"rows of {self.folder.name} are asked for by a vector, not by shape {indices.shape}")
        if len(indices) and not (0 <= indices.min() and indices.max() < len(self)):
            raise IndexError(f"rows {indices.min()} to {indices.max()} of {self.folder}, which has {len(self)}")
        shards = np.searchsorted(self.ends, indices, side="right")
        for shard in np.unique(shards).tolist():
            self._map(shard)  # whose shape is compared with the manifest's before an array of that is made
        out = np.empty((len(indices), *self.shape), self.dtype)
        rows = indices - self.starts[shards]
        # Row by row, for each is then copied once, from the map to its place; a gather by shard copies twice.
        for place, (shard, row) in enumerate(zip(shards.tolist(), rows.tolist(), strict=True)):
            out[place] = self._map(shard)[row]
        return out

    def _map(self, shard: int) -> np.ndarray:
        if shard not in self.maps:
            path = self.folder / f"{shard:05d}.npy"
            with reading(path):
                array = np.load(path, mmap_mode="r")
            expected = (int(self.ends[shard] - self.starts[shard]), *self.shape)
            if array.shape != expected or array.dtype != self.dtype:
                raise InputError(f"{path}: is {array.dtype} {array.shape}, not {self.dtype} {expected}: damaged")
            self.maps[shard] = array.view(np.ndarray)  # rows of a memmap are slow to name
        return self.maps[shard]


def to_half(values: np.ndarray) -> np.ndarray:
    """float16 of `values`, which must be finite; what is beyond half precision's range becomes its largest number."""
    assert np.isfinite(values).all()
    return values.clip(-HALF_MAX, HALF_MAX).astype(np.float16)


@dataclass(frozen=True, kw_only=True)
class _AutoencoderFacts:
    reference: str
    fingerprint: str
    channels: Positive[int]
    factor: Positive[int]


@dataclass(frozen=True, kw_only=True)
class _TextEncoderFacts:
    reference: str
    fingerprint: str
    width: Positive[int]
    max_tokens: Positive[int]


@dataclass(frozen=True, kw_only=True)
class _File:
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class _Rows:
    moments: tuple[int, ...]
    text: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class _Facts:
    """What is read of a manifest."""

    text: Literal["embeddings", "tokens"]
    size: Positive[int]
    fingerprint: str
    latent_scale: Positive[float]
    latent_mean: tuple[float, ...]
    latent_std: tuple[Positive[float], ...]
    autoencoder: _AutoencoderFacts
    text_encoder: _TextEncoderFacts
    rows: _Rows
    files: Mapping[str, _File]


_FACTS = (_Facts, _AutoencoderFacts, _TextEncoderFacts, _File, _Rows)


def _check_manifest(manifest: Mapping[str, Any], *, where: str) -> None:
    """Refuse a manifest that lacks what is read, or has something else in its place."""

    def chosen(cls: Any, values: Any) -> Any:
        """The fields of `cls` and of what is in it; what else a manifest has is not read."""
        if cls not in _FACTS or not isinstance(values, Mapping):
            return values
        hints = get_type_hints(cls)
        return {field.name: chosen(hints[field.name], values.get(field.name)) for field in fields(cls)}

    facts = from_dict(_Facts, chosen(_Facts, manifest), where=where)
    channels = facts.autoencoder.channels
    if {len(facts.latent_mean), len(facts.latent_std)} != {channels} or facts.size % facts.autoencoder.factor:
        raise InputError(f"{where}: damaged: latents of {channels} channels have other statistics or another size")


def _verify(path: Path, entry: Mapping[str, Any]) -> None:
    if sha256(path) != entry["sha256"]:
        raise InputError(f"{path}: its SHA-256 is not the manifest's: damaged; prepare it again")


def _entry(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def _fingerprint(files: Mapping[str, Mapping[str, Any]]) -> str:
    # skipped.jsonl is no data, and its reasons may name paths: moved images must not change the fingerprint.
    names = sorted(name for name in files if name != "skipped.jsonl")
    lines = "".join(f"{files[name]['sha256']}  {name}\n" for name in names)
    return hashlib.sha256(lines.encode()).hexdigest()
