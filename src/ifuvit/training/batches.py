"""The stream of training batches, without state: batch k can be made from k alone, so a resumed run needs no replay.

Sample number j = step * batch_size + i of a run gets its picture from the shuffle of epoch j // N, and all its random
draws (caption, caption dropout, timestep, posterior, noise) from a counter-based generator keyed by (seed, j). Neither
the number of processes nor of loader workers changes a bit of it.
"""

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ifuvit.data.features import Features
from ifuvit.diffusion.schedule import NUM_TIMESTEPS, add_noise
from ifuvit.encoders.autoencoder import sample_posterior
from ifuvit.encoders.text_encoder import TextEncoder, Tokens
from ifuvit.training.signals import leave_signals

_SHUFFLE, _TRAIN, _VALIDATE = 0, 1, 2  # independent streams of one seed


def _generator(seed: int, stream: int, index: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, stream], counter=[0, 0, 0, index]))


class Batches(Dataset):
    """Item `step` is this process's share of global batch `step`, a dictionary of tensors:

    latents (b, C, H, W) float32, scaled; noise (b, C, H, W) float32; timesteps (b,) int64, n in 1 … 1000; text_mask
    (b, L) bool; and text_states (b, L, D) float16, or text_ids (b, L) int32 where the features hold token ids.

    Args:
        features: prepared features.
        pictures: (N,) int64, rows of the features to draw from.
        seed: the run's seed.
        batch_size: global batch.
        caption_dropout: probability that the null caption replaces a caption.
        rank, world_size: this process and their number; world_size divides batch_size.
    """

    def __init__(
        self,
        features: Features,
        pictures: np.ndarray,
        *,
        seed: int,
        batch_size: int,
        caption_dropout: float,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        assert batch_size % world_size == 0 and len(pictures) > 0
        self.features, self.pictures, self.seed = features, pictures, seed
        self.batch_size, self.caption_dropout = batch_size, caption_dropout
        self.rank, self.share = rank, batch_size // world_size
        self._shuffle = lru_cache(maxsize=2)(self._make_shuffle)

    def __getstate__(self) -> dict:  # loader workers make their own cache
        return {key: value for key, value in self.__dict__.items() if key != "_shuffle"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._shuffle = lru_cache(maxsize=2)(self._make_shuffle)

    def _make_shuffle(self, epoch: int) -> np.ndarray:
        return _generator(self.seed, _SHUFFLE, epoch).permutation(self.pictures)

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        first = step * self.batch_size + self.rank * self.share
        samples = range(first, first + self.share)
        pictures = np.array([self._shuffle(j // len(self.pictures))[j % len(self.pictures)] for j in samples])
        draws = [_generator(self.seed, _TRAIN, j) for j in samples]
        captions = np.array([_choose(self.features, i, d) for i, d in zip(pictures, draws, strict=True)])
        dropped = np.array([d.random() < self.caption_dropout for d in draws])
        timesteps = np.array([d.integers(1, NUM_TIMESTEPS, endpoint=True) for d in draws])
        return _collate(self.features, pictures, captions, dropped, timesteps, draws)


def load(batches: Batches, steps: range, *, workers: int | None, device: torch.device) -> DataLoader:
    """The batches of these steps, in order, on the CPU.

    Args:
        workers: processes that make them ahead of time; 0 makes them when asked for. None is 0 on a CPU, else 4.
        device: where they will go; for a GPU they lie in pinned memory.
    """
    return DataLoader(
        batches,
        batch_size=None,
        sampler=steps,  # type: ignore[arg-type]
        num_workers=workers if workers is not None else (0 if device.type == "cpu" else 4),
        pin_memory=device.type == "cuda",
        worker_init_fn=leave_signals,
    )


def validation_batch(features: Features, pictures: np.ndarray, seed: int, first: int) -> dict[str, Tensor]:
    """Like an item of `Batches` for the given pictures, each with a fixed caption, noise and timestep: sample j (counted
    from `first`) has a timestep from band j % 10 of ten equal bands. No caption is dropped."""
    samples = np.arange(first, first + len(pictures))
    draws = [_generator(seed, _VALIDATE, int(j)) for j in samples]
    captions = np.array([_choose(features, i, d) for i, d in zip(pictures, draws, strict=True)])
    band = NUM_TIMESTEPS // 10
    timesteps = samples % 10 * band + np.array([d.integers(1, band, endpoint=True) for d in draws])
    return _collate(features, pictures, captions, np.zeros(len(pictures), bool), timesteps, draws)


def noisy_latents(batch: Mapping[str, Tensor]) -> Tensor:
    """The latents of a batch at its timesteps: (b, C, H, W) float32."""
    return add_noise(batch["latents"], batch["noise"], batch["timesteps"])


def text_states(batch: Mapping[str, Tensor], encoder: TextEncoder | None) -> Tensor:
    """The text states of a batch, (b, L, D) float32: as the features hold them, or encoded from its token ids."""
    if encoder is None:
        return batch["text_states"].float()
    return encoder.encode(Tokens(batch["text_ids"], batch["text_mask"], 0)).clone()


def _choose(features: Features, picture: int, draw: np.random.Generator) -> int:
    captions = features.captions_of(int(picture))
    return int(captions[draw.integers(len(captions))])


def _collate(
    features: Features,
    pictures: np.ndarray,
    captions: np.ndarray,
    dropped: np.ndarray,
    timesteps: np.ndarray,
    draws: list[np.random.Generator],
) -> dict[str, Tensor]:
    moments = features.moments(pictures).astype(np.float32)
    shape = (moments.shape[1] // 2, *moments.shape[2:])
    posterior, noise = (np.stack([d.standard_normal(shape, np.float32) for d in draws]) for _ in range(2))
    latents = sample_posterior(moments, posterior) * np.float32(features.latent_scale)
    batch = {"latents": latents, "noise": noise, "timesteps": timesteps.astype(np.int64)}
    if features.text_mode == "states":
        batch["text_states"], batch["text_mask"] = features.text(captions)
        batch["text_states"][dropped] = features.null_states
    else:
        batch["text_ids"], batch["text_mask"] = features.tokens(captions)
        batch["text_ids"][dropped] = features.null_ids
    batch["text_mask"][dropped] = features.null_mask
    return {name: torch.from_numpy(array) for name, array in batch.items()}
