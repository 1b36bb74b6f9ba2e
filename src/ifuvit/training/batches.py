"""The stream of training batches, without state: batch k can be made from k alone, so a resumed run needs no replay.

Sample number j = step * batch_size + i of a run gets its image from the shuffle of epoch j // N, and all its random
numbers (caption, caption dropout, time, posterior, noise) from its own stretch of one long random stream, which belongs to
the seed. Neither the number of processes nor of loading threads changes a bit of it. What the number for the time and the
noise mean is the objective's business (`ifuvit.diffusion.objective`).
"""

import math
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ifuvit.data.encoded import EncodedDataset
from ifuvit.data.images import read_ahead
from ifuvit.encoders.autoencoder import sample_posterior
from ifuvit.encoders.normalization import LatentNormalization
from ifuvit.encoders.text_encoder import TextEncoder, Tokens

_SHUFFLE, _TRAIN, _VALIDATE = 0, 1, 2  # independent streams of one seed
# The same for every run: with 500 images other draws move the validation loss by as much as thousands of steps do.
_VALIDATION_SEED = 1234
LEVEL_BANDS = 10
"""Bands of noise levels by which the validation loss is reported."""
_LEVELS = (
    1000  # noise levels of validation, in the middle of equal parts: as many as the paper's diffusion has timesteps
)


def _generator(seed: int, stream: int, index: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, stream], counter=[0, 0, 0, index]))


class Batches:
    """Item `step` is this process's share of global batch `step`, a dictionary of tensors:

    latents (b, C, H, W) float32, normalized; noise (b, C, H, W) float32, standard normal; uniform (b,) float32, uniform in
    [0, 1), for the times; dropped (b,) bool, whether the caption is the null caption; text_mask (b, L) bool; and text_embeddings (b, L, D) float16, or text_ids (b, L) int32 where the
    data set has token ids; and layout (b, H, W) uint8 where the data set has layouts.

    Args:
        dataset: encoded images and captions.
        images: (N,) int64, rows of the data set to draw from.
        normalization: of the run's latents.
        seed: the run's seed.
        batch_size: global batch.
        caption_dropout: probability that the null caption replaces a caption.
        rank, world_size: this process and their number; world_size divides batch_size.
    """

    def __init__(
        self,
        dataset: EncodedDataset,
        images: np.ndarray,
        *,
        normalization: LatentNormalization,
        seed: int,
        batch_size: int,
        caption_dropout: float,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        assert batch_size % world_size == 0 and len(images) > 0
        self.dataset, self.images, self.normalization, self.seed = dataset, images, normalization, seed
        self.batch_size, self.caption_dropout = batch_size, caption_dropout
        self.rank, self.share = rank, batch_size // world_size
        self._shuffle = lru_cache(maxsize=2)(self._make_shuffle)

    def _make_shuffle(self, epoch: int) -> np.ndarray:
        return _generator(self.seed, _SHUFFLE, epoch).permutation(self.images)

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        first = step * self.batch_size + self.rank * self.share
        epochs, places = np.divmod(np.arange(first, first + self.share), len(self.images))
        images = np.concatenate([self._shuffle(epoch)[places[epochs == epoch]] for epoch in np.unique(epochs).tolist()])
        return _collate(self.dataset, self.normalization, images, self._draws(images, first))

    def _draws(self, images: np.ndarray, first: int) -> "_Draws":
        """What the samples from number `first` on draw. Each takes as many numbers of the stream, so where those of `first`
        begin is known."""
        shape, count = _latents_shape(self.dataset), len(images)
        size = math.prod(shape)
        each = 4 + 2 * size  # even: a word of the generator makes two numbers
        stream = np.random.Generator(np.random.PCG64DXSM((self.seed, _TRAIN)).advance(first * each // 2))
        few = np.empty((count, 3))
        posterior, noise = (np.empty((count, size), np.float32) for _ in range(2))
        for part in _parts(count, size):
            uniform = stream.random((part.stop - part.start, each), np.float32)
            few[part] = uniform[:, :3]
            posterior[part], noise[part] = _normal(uniform[:, 4 : 4 + size], uniform[:, 4 + size :])
        captions, dropout, times = few.T
        begins, ends = self.dataset.caption_starts[images], self.dataset.caption_starts[images + 1]
        return _Draws(
            captions=self.dataset.caption_rows[begins + (captions * (ends - begins)).astype(np.int64)],
            dropped=dropout < self.caption_dropout,
            uniform=times.astype(np.float32),  # no change: the stream gives float32
            posterior=posterior.reshape(count, *shape),
            noise=noise.reshape(count, *shape),
        )


def load(batches: Batches, steps: range, *, workers: int | None, device: torch.device) -> Iterable[dict[str, Tensor]]:
    """The batches of these steps, in order, on the CPU.

    Args:
        workers: threads that make them ahead of time; 0 makes them when asked for. None is 0 on a CPU, else 4.
        device: where they will go; for a GPU they lie in pinned memory.
    """
    if workers is None:
        workers = 0 if device.type == "cpu" else 4

    def make(step: int) -> dict[str, Tensor]:
        batch = batches[step]
        if device.type != "cuda":
            return batch
        if device.index is not None:
            torch.cuda.set_device(device)  # each thread has its own, the first GPU unless told
        return {name: tensor.pin_memory() for name, tensor in batch.items()}

    return read_ahead(make, steps, workers=workers, ahead=2 * workers) if workers else map(make, steps)


def validation_batch(
    dataset: EncodedDataset, normalization: LatentNormalization, images: np.ndarray, first: int
) -> dict[str, Tensor]:
    """Like an item of `Batches` for the given images, each with a fixed caption, noise and noise level, in every run the
    same. "uniform" are noise levels: that of sample j (counted from `first`) is in band j % 10 of `LEVEL_BANDS` equal bands.
    No caption is dropped."""
    samples = np.arange(first, first + len(images))
    generators = [_generator(_VALIDATION_SEED, _VALIDATE, int(j)) for j in samples]
    choices = [dataset.captions_of(int(i)) for i in images]
    captions = np.array([rows[g.integers(len(rows))] for rows, g in zip(choices, generators, strict=True)])
    band = _LEVELS // LEVEL_BANDS
    levels = samples % LEVEL_BANDS * band + np.array([g.integers(1, band, endpoint=True) for g in generators]) - 0.5
    shape = _latents_shape(dataset)
    posterior, noise = (np.stack([g.standard_normal(shape, np.float32) for g in generators]) for _ in range(2))
    dropped = np.zeros(len(images), bool)
    uniform = (levels / _LEVELS).astype(np.float32)
    return _collate(dataset, normalization, images, _Draws(captions, dropped, uniform, posterior, noise))


def text_embeddings(batch: Mapping[str, Tensor], encoder: TextEncoder | None) -> Tensor:
    """The text embeddings of a batch, (b, L, D) float32: as the data set has them, or encoded from its token ids."""
    if encoder is None:
        return batch["text_embeddings"].float()
    return encoder.encode(Tokens(batch["text_ids"], batch["text_mask"], 0)).clone()


class _Draws(NamedTuple):
    """What is random in a batch of b samples."""

    captions: np.ndarray
    """(b,) int64, rows of the data set's captions"""
    dropped: np.ndarray
    """(b,) bool, whether the null caption replaces the caption"""
    uniform: np.ndarray
    """(b,) float32, uniform in [0, 1): what the objective takes times from"""
    posterior: np.ndarray
    """(b, C, H, W) float32, standard normal: where in the posterior the latents lie"""
    noise: np.ndarray
    """(b, C, H, W) float32, standard normal: the diffusion's"""


def _parts(count: int, size: int) -> list[slice]:
    """0 … count - 1, as many at a time as have 16,384 numbers together, if `size` is how many each has. Each sample on its
    own would cost the overhead of many calls; all at once would not stay in the processor's cache (three times the time),
    and torch would start threads, of which a machine that trains has enough."""
    together = max(1, 16_384 // size)
    return [slice(begin, min(begin + together, count)) for begin in range(0, count, together)]


def _normal(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two standard normal numbers from two uniform ones in [0, 1), float32 (Box and Muller 1958). numpy's own method
    rejects numbers, so that none could tell where the next sample's begin; this one is also four times as fast. With 24
    bits it reaches to 5.8 standard deviations."""
    radius = np.sqrt(-2 * np.log(1 - one))
    angle = np.float32(2 * np.pi) * other
    return radius * np.cos(angle), radius * np.sin(angle)


def _latents_shape(dataset: EncodedDataset) -> tuple[int, int, int]:
    return dataset.latent_channels, dataset.latent_size, dataset.latent_size


def _collate(
    dataset: EncodedDataset, normalization: LatentNormalization, images: np.ndarray, draws: _Draws
) -> dict[str, Tensor]:
    latents = np.empty_like(draws.noise)
    for part in _parts(len(images), math.prod(latents.shape[1:])):
        # torch widens half precision ten times as fast as numpy does.
        moments = torch.from_numpy(dataset.moments(images[part])).float().numpy()
        latents[part] = normalization.normalize(sample_posterior(moments, draws.posterior[part]))
    arrays = {"latents": latents, "noise": draws.noise, "uniform": draws.uniform, "dropped": draws.dropped}
    if dataset.text_mode == "embeddings":
        arrays["text_embeddings"], arrays["text_mask"] = dataset.text(draws.captions)
        arrays["text_embeddings"][draws.dropped] = dataset.null_embeddings
    else:
        arrays["text_ids"], arrays["text_mask"] = dataset.tokens(draws.captions)
        arrays["text_ids"][draws.dropped] = dataset.null_ids
    arrays["text_mask"][draws.dropped] = dataset.null_mask
    if dataset.has_layouts:
        arrays["layout"] = dataset.layouts(images)
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
