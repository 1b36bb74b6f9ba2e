"""Attention probabilities of the fused blocks, computed beside the fused kernel from the queries and keys that it is given.

The pass itself is left alone: hooks read what goes through the blocks (`ifuvit.model.intermediates`), so an observed image is
the same bit for bit, and a model that nobody observes has nothing to do.

Shapes: B images, h heads, N = 1 + P image tokens with the time token first, L text tokens.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ifuvit.model.intermediates import record_intermediates
from ifuvit.model.settings import IFUViTConfig
from ifuvit.model.uvit import EncodedText, IFUViT


class BlockAttention(NamedTuple):
    """The attention of a fused block, float32. With two softmaxes ("added" cross-attention) `text` and `image` each sum to one
    over their keys, else both together."""

    text: Tensor
    """(B, h, N, L), image queries over text keys."""
    image: Tensor
    """(B, h, N, N), image queries over image keys."""
    text_to_text: Tensor | None
    """(B, h, L, L), text queries over text keys, where text asks too: with concatenation and in all but the last block of "mmdit"."""
    text_to_image: Tensor | None
    """(B, h, L, N), text queries over image keys."""


class Logits(NamedTuple):
    """Scaled products of queries and keys, before the softmax: (B, h, queries, keys), masked keys at -inf. With one softmax
    `text` is None and `every` has all keys: text first where text asks too, else image first."""

    every: Tensor
    text: Tensor | None


def logits(
    queries: Tensor,
    keys: Tensor,
    text_keys: Tensor | None,
    text_mask: Tensor | None,
    config: IFUViTConfig,
    text_queries: Tensor | None = None,
) -> Logits:
    """What a fused block's softmax is given.

    Args:
        queries, keys: (B, h, tokens, d) of the block, text first with concatenation and "mmdit".
        text_keys: (B, h, L, d) where image tokens alone ask.
        text_mask: (B, L) bool, True at tokens that are seen; None where all are.
        text_queries: (B, h, N, d) of the image tokens for text, where they have others for it.
    """
    scaled = queries.float() / math.sqrt(queries.shape[-1])
    every = scaled @ keys.float().transpose(-2, -1)
    seen = None if text_mask is None else text_mask[:, None, None, :]
    if text_keys is None:
        return Logits(
            _masked(every, None if seen is None else F.pad(seen, (0, keys.shape[2] - seen.shape[-1]), value=True)), None
        )
    if text_queries is not None:
        scaled = text_queries.float() / math.sqrt(text_queries.shape[-1])
    text = _masked(scaled @ text_keys.float().transpose(-2, -1), seen)
    if config.two_softmaxes:
        return Logits(every, text)
    return Logits(torch.cat([every, text], -1), None)


def probabilities(given: Logits, config: IFUViTConfig) -> BlockAttention:
    """The softmax of a block, and its parts by what asks and what is read."""
    every, length = given.every.softmax(-1), config.text_tokens
    if given.text is not None:
        return BlockAttention(given.text.softmax(-1), every, None, None)
    if every.shape[-2] != every.shape[-1]:  # image tokens alone ask
        image, text = every.split([every.shape[-1] - length, length], -1)
        return BlockAttention(text, image, None, None)
    of_text, of_image = every[:, :, :length], every[:, :, length:]
    return BlockAttention(of_image[..., :length], of_image[..., length:], of_text[..., :length], of_text[..., length:])


def _masked(scores: Tensor, seen: Tensor | None) -> Tensor:
    return scores if seen is None else scores.masked_fill(~seen, -math.inf)


class Pass:
    """One pass of the network over the prompts' branch, which can be asked for its attention block by block."""

    def __init__(
        self, model: IFUViT, named: Mapping[str, Tensor], text_mask: Tensor | None, latents: Tensor, timesteps: Tensor
    ) -> None:
        self.latents, self.timesteps = latents, timesteps
        """(B, C, H, W) noisy latents, and (B,) times that the network was fed."""
        self.named = named
        """See `record_intermediates`; the fused blocks may have a second branch behind the first."""
        self._model, self._mask = model, text_mask

    @property
    def level(self) -> float:
        """The noise level, 0 to 1."""
        return float(self.timesteps[0]) / 1000

    def logits(self) -> Iterator[tuple[str, Logits]]:
        """What the softmax of every fused block is given, in order; one block at a time is in memory."""
        rows = len(self.latents)
        for name, _ in self._model.fused_blocks():
            text_keys = self.named.get(f"{name}.text_keys")
            text_queries = self.named.get(f"{name}.text_queries")
            yield (
                name,
                logits(
                    self.named[f"{name}.queries"][:rows],
                    self.named[f"{name}.keys"][:rows],
                    None if text_keys is None else text_keys[:rows],
                    self._mask,
                    self._model.config,
                    None if text_queries is None else text_queries[:rows],
                ),
            )

    def attention(self) -> Iterator[tuple[str, BlockAttention]]:
        """The attention of every fused block in order."""
        for name, given in self.logits():
            yield name, probabilities(given, self._model.config)


def observe(model: IFUViT, latents: Tensor, timesteps: Tensor, text: EncodedText) -> Pass:
    """A pass without guidance, observed."""
    with torch.no_grad(), record_intermediates(model) as named:
        model.fuse(model.encode_image(latents, timesteps), text)
    return Pass(model, dict(named), text.mask, latents, timesteps)


class ObservedModel:
    """A backbone for `Pipeline(..., denoiser=...)` that shows every pass to an observer, and predicts what the backbone does.

    Args:
        model: the backbone.
        observer: called after every pass with a `Pass` and the text that it read. With guidance rescale the second pass of a
            step, at the same time, is not shown.
    """

    def __init__(self, model: IFUViT, observer: Callable[[Pass, EncodedText], None]) -> None:
        self.model, self.observer = model, observer
        self._last: float | None = None

    def guided(
        self,
        latents: Tensor,
        timesteps: Tensor,
        text: EncodedText,
        null_text: EncodedText,
        guidance_scale: float | Tensor = 4.0,
    ) -> Tensor:
        """As `IFUViT.guided`."""
        with record_intermediates(self.model) as named:
            predicted = self.model.guided(latents, timesteps, text, null_text, guidance_scale=guidance_scale)
        if (time := float(timesteps[0])) != self._last:
            self._last = time
            self.observer(Pass(self.model, dict(named), text.mask, latents, timesteps), text)
        return predicted
