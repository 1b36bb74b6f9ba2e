"""Attention of the fused blocks while images are sampled: maps, and how much of it each category gets.

Shapes: Q prompts, G bands of noise levels, F blocks, h heads, L text tokens, P patches of a grid of S x S.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ifuvit.analysis.common import AnalyzedModel, Bands, finding, measured, middle_blocks, write_arrays
from ifuvit.analysis.recording import BlockAttention, ObservedModel, Pass
from ifuvit.analysis.words import CATEGORIES, PromptTokens, read_tokens
from ifuvit.diffusion.settings import SamplingSettings
from ifuvit.results import Finding, Measurement
from ifuvit.utils.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

_WORD_CATEGORIES = ("content", "number", "relation", "function")
assert CATEGORIES[: len(_WORD_CATEGORIES)] == _WORD_CATEGORIES


@dataclass(frozen=True, kw_only=True)
class RecordedAttention:
    """Means over the network's evaluations of each band; NaN in bands without any."""

    tokens: tuple[PromptTokens, ...]
    """Of the Q prompts."""
    blocks: tuple[str, ...]
    evaluations: np.ndarray
    """(G,), how many evaluations were in each band."""
    text: np.ndarray
    """(Q, G, F, h, L, P), attention of each patch to each text token."""
    from_text: np.ndarray | None
    """(Q, G, F, h, L, P), attention of each text token to each patch; with concatenation alone."""
    image: np.ndarray
    """(Q, G, F, h, P), mean attention that each patch gets from all patches."""
    of_patches: np.ndarray
    """(Q, G, F, h, patches, P), attention of the chosen patches to all patches."""
    shares: np.ndarray
    """(Q, G, F, h, categories), mean share of a patch's attention that each of `CATEGORIES` gets."""
    images: "tuple[Image, ...]"

    def overall(self, array: np.ndarray) -> np.ndarray:
        """The mean over all evaluations of an array with axes (Q, G, ...) -> (Q, ...)."""
        weights = self.evaluations / self.evaluations.sum()
        return np.einsum("qg...,g->q...", np.nan_to_num(array), weights)


class _Sums:
    """Running sums, so that memory does not grow with the number of steps."""

    def __init__(
        self,
        model: AnalyzedModel,
        blocks: Sequence[str],
        tokens: Sequence[PromptTokens],
        bands: Bands,
        patches: Sequence[int],
    ) -> None:
        c = model.model.config
        self.blocks, self.bands, self.patches = {name: i for i, name in enumerate(blocks)}, bands, list(patches)
        shape = (len(tokens), bands.number, len(blocks), c.num_heads)
        device = model.pipeline.device
        self.text = torch.zeros(*shape, c.text_tokens, c.num_patches, device=device)
        self.from_text = torch.zeros_like(self.text) if c.conditioning == "concat" else None
        self.image = torch.zeros(*shape, c.num_patches, device=device)
        self.of_patches = torch.zeros(*shape, len(patches), c.num_patches, device=device)
        self.shares = torch.zeros(*shape, len(CATEGORIES), device=device)
        self.evaluations = np.zeros(bands.number, np.int64)
        self.membership = torch.tensor(
            [[[float(token == category) for category in CATEGORIES] for token in one.categories] for one in tokens],
            device=device,
        )  # (Q, L, categories)

    def add(self, rows: slice, observed: Pass) -> None:
        band = self.bands.index(observed.level)
        if rows.start == 0:  # every batch has the same evaluations
            self.evaluations[band] += 1
        for name, attention in observed.attention():
            if name in self.blocks:
                self._add(rows, band, self.blocks[name], attention)

    def _add(self, rows: slice, band: int, block: int, attention: BlockAttention) -> None:
        text, image = attention.text[:, :, 1:], attention.image[:, :, 1:]  # the time token does not ask
        place = (rows, band, block)
        self.text[place] += text.transpose(-2, -1)
        if self.from_text is not None and attention.text_to_image is not None:
            self.from_text[place] += attention.text_to_image[..., 1:]
        self.image[place] += image[..., 1:].mean(2)
        self.of_patches[place] += image[:, :, self.patches, 1:]
        shares = text.mean(2) @ self.membership[rows]
        shares[..., CATEGORIES.index("time")] = image[..., 0].mean(2)
        shares[..., CATEGORIES.index("image")] = image[..., 1:].sum(-1).mean(2)
        self.shares[place] += shares

    def mean(self, sums: Tensor) -> np.ndarray:
        numbers = self.evaluations.reshape(1, -1, *[1] * (sums.ndim - 2))
        return np.divide(sums.cpu().numpy(), numbers, out=np.full(sums.shape, np.nan, np.float32), where=numbers > 0)


def record(
    model: AnalyzedModel,
    prompts: Sequence[str],
    settings: SamplingSettings,
    *,
    bands: int = 5,
    blocks: Sequence[str] = (),
    patches: Sequence[int] = (),
    seed: int = 0,
    batch_size: int = 8,
    also: Callable[[slice, Pass], None] | None = None,
) -> RecordedAttention:
    """Sample one image a prompt, as `Pipeline` does, and record the attention of the prompts' branch.

    Args:
        model: with its pipeline.
        prompts: Q captions.
        settings: of the sampling.
        bands: equal bands of noise levels.
        blocks: names of fused blocks; all by default.
        patches: patches (row times S plus column) whose own attention is kept.
        seed: of the initial latents; prompt i depends on (seed, i).
        batch_size: prompts at a time; it does not change anything beyond rounding.
        also: called with the rows of the batch and every pass.

    Raises:
        InputError: a prompt that is empty or too long, a block that does not exist or is not fused.
    """
    tokens = tuple(read_tokens(model.pipeline.text_encoder, prompt) for prompt in prompts)
    chosen = model.choose(blocks)
    sums = _Sums(model, chosen, tokens, Bands(bands), patches)

    def observer(rows: slice, observed: Pass) -> None:
        sums.add(rows, observed)
        if also is not None:
            also(rows, observed)

    images = sample_observed(model, prompts, settings, observer, seed=seed, batch_size=batch_size)
    return RecordedAttention(
        tokens=tokens,
        blocks=chosen,
        evaluations=sums.evaluations,
        text=sums.mean(sums.text),
        from_text=None if sums.from_text is None else sums.mean(sums.from_text),
        image=sums.mean(sums.image),
        of_patches=sums.mean(sums.of_patches),
        shares=sums.mean(sums.shares),
        images=tuple(images),
    )


def sample_observed(
    model: AnalyzedModel,
    prompts: Sequence[str],
    settings: SamplingSettings,
    observer: Callable[[slice, Pass], None],
    *,
    seed: int = 0,
    batch_size: int = 8,
) -> "list[Image]":
    """Sample one image a prompt, as `Pipeline` does, and show `observer` the batch's rows of the prompts with every pass."""
    images: list[Image] = []
    for start in range(0, len(prompts), batch_size):
        part = prompts[start : start + batch_size]
        rows = slice(start, start + len(part))
        denoiser = ObservedModel(model.model, lambda observed, _, rows=rows: observer(rows, observed))
        images += model.pipeline(part, settings, seed=seed, first_index=start, batch_size=batch_size, denoiser=denoiser)
    return images


def crop(maps: np.ndarray, border: int) -> np.ndarray:
    """Maps (..., P) as grids without `border` patches at each side: (..., S', S').

    Raises:
        InputError: nothing is left.
    """
    side = math.isqrt(maps.shape[-1])
    if 2 * border >= side:
        raise InputError(
            f"--crop-border {border}: leaves nothing of {side} x {side} patches; give at most {(side - 1) // 2}"
        )
    grid = maps.reshape(*maps.shape[:-1], side, side)
    return grid[..., border : side - border, border : side - border]


def word_maps(text: np.ndarray, tokens: PromptTokens) -> np.ndarray:
    """The maps of the words of one prompt from those of its tokens, sub-tokens added up: (..., L, P) -> (..., words, P)."""
    return np.stack([text[..., list(word.tokens), :].sum(-2) for word in tokens.words], -2)


def focus(maps: np.ndarray) -> np.ndarray:
    """How far a map is from uniform: 1 less its entropy over that of a uniform map; (..., S, S) -> (...), 0 to 1."""
    flat = maps.reshape(*maps.shape[:-2], -1).astype(np.float64)
    share = flat / flat.sum(-1, keepdims=True)
    entropy = -(share * np.log(np.where(share > 0, share, 1))).sum(-1)
    return 1 - entropy / math.log(flat.shape[-1])


def border_ratio(image: np.ndarray) -> np.ndarray:
    """Attention that patches at the border get, over that of all patches on average: (..., P) -> (...); 1 if it is uniform."""
    side = math.isqrt(image.shape[-1])
    if side < 3:
        return np.full(image.shape[:-1], np.nan)
    inner = np.zeros((side, side), bool)
    inner[1:-1, 1:-1] = True
    return image[..., ~inner.reshape(-1)].mean(-1) / image.mean(-1)


def measurements(model: AnalyzedModel, recorded: RecordedAttention, bands: Bands, border: int) -> list[Measurement]:
    """The synopsis (attention share of each category), the focus of the words' maps and the attention to the border."""
    found: list[Measurement] = []
    for levels, (shares, text, image) in _by_band(recorded, bands):
        for place, block in enumerate(recorded.blocks):
            of_block: dict[str, Any] = {"model": model.name, "block": block, "levels": levels}
            for number, category in enumerate(CATEGORIES):
                found += measured(
                    shares[:, place, :, number].mean(1), quantity="attention share", of=category, **of_block
                )
            words = shares[:, place, :, : len(_WORD_CATEGORIES)].sum(-1).mean(1)
            found += measured(words, quantity="attention share", of="all words", **of_block)
            values = [
                _focus_of_words(text[q, place].mean(0), recorded.tokens[q], border) for q in range(len(recorded.tokens))
            ]
            found += measured(values, quantity="focus", of="words", **of_block)
            found += measured(border_ratio(image[:, place].mean(1)), quantity="border attention", **of_block)
    return found


def learned(model: AnalyzedModel) -> list[Measurement]:
    """What the weights themselves say: the gates of text by block, an interval over heads; and the share of each layer of the
    text encoder in the mix, of all blocks or of each."""
    backbone, found = model.model, []
    blocks = dict(backbone.fused_blocks())
    for name, block in blocks.items():
        if block.text_gate is not None:
            gates = block.text_gate.detach().cpu().numpy()
            found += measured(gates, model=model.name, quantity="text gate", block=name, what="heads")
    if backbone.text_mix is not None:
        shares = backbone.text_mix.logits.detach().softmax(-1).tolist()
        layers = model.pipeline.text_encoder.layers or range(len(shares[0]))
        for name, of_reader in zip(blocks if len(shares) > 1 else [None], shares, strict=True):
            for layer, share in zip(layers, of_reader, strict=True):
                one = {"quantity": "layer share", "of": f"layer {layer}", "block": name, "what": "readers"}
                found += measured([share], model=model.name, **one)
    return found


def _by_band(
    recorded: RecordedAttention, bands: Bands
) -> Iterator[tuple[tuple[float, float] | None, tuple[np.ndarray, ...]]]:
    """Shares, text maps and image maps over all levels, then of each band that has evaluations."""
    arrays = (recorded.shares, recorded.text, recorded.image)
    yield None, tuple(map(recorded.overall, arrays))
    if bands.number > 1:
        for band, edges in enumerate(bands.edges):
            if recorded.evaluations[band]:
                yield edges, tuple(array[:, band] for array in arrays)


def _focus_of_words(text: np.ndarray, tokens: PromptTokens, border: int) -> float:
    """Mean focus of the maps of all words but function words; of (L, P)."""
    chosen = [i for i, word in enumerate(tokens.words) if word.category != "function"]
    if not chosen:
        return math.nan
    return float(focus(crop(word_maps(text, tokens)[chosen], border)).mean())


def findings(model: AnalyzedModel, recorded: RecordedAttention, border: int) -> list[Finding]:
    """The paper's two sentences about maps, for models with fused blocks at the ends and in the middle."""
    middle = [i for i, name in enumerate(recorded.blocks) if name in middle_blocks(model.model.config.depth)]
    ends = [i for i in range(len(recorded.blocks)) if i not in middle]
    if not middle or not ends:
        return []
    text, image = recorded.overall(recorded.text).mean(2), recorded.overall(recorded.image).mean(2)  # over heads
    of_words = np.array(
        [
            [_focus_of_words(text[q, f], recorded.tokens[q], border) for f in range(len(recorded.blocks))]
            for q in range(len(recorded.tokens))
        ]
    )
    of_border = border_ratio(image)
    return [
        *finding(
            "Text-to-image maps are more uniform in early and late blocks than in the middle.",
            of_words[:, middle].mean(1) - of_words[:, ends].mean(1),
            model=model.name,
            text="The focus of the words' maps (0 is uniform) is higher in the middle blocks by {difference}: {verdict}.",
        ),
        *finding(
            "Early and late blocks attend more to the border of the latent image.",
            of_border[:, ends].mean(1) - of_border[:, middle].mean(1),
            model=model.name,
            text="Attention to border patches, over that to all patches, is higher in early and late blocks by {difference}: "
            "{verdict}.",
        ),
    ]


def parse_patches(patches: Sequence[str], side: int) -> list[int]:
    """ "ROW,COLUMN" -> row * side + column; the central patch by default.

    Raises:
        InputError: of another form, or outside the grid.
    """
    chosen = []
    for text in patches or (f"{side // 2},{side // 2}",):
        row, _, column = text.partition(",")
        if not (row.isdigit() and column.isdigit() and int(row) < side and int(column) < side):
            raise InputError(f"--patches {text}: give ROW,COLUMN, each from 0 to {side - 1}")
        chosen.append(int(row) * side + int(column))
    return chosen


def write_recorded(
    file: Path, recorded: RecordedAttention, prompts: Sequence[str], bands: Bands, patches: Sequence[int]
) -> None:
    """Write everything recorded as an .npz file with named axes; maps are in rows and columns of patches."""
    side = math.isqrt(recorded.image.shape[-1])

    def grid(array: np.ndarray) -> np.ndarray:
        return array.reshape(*array.shape[:-1], side, side)

    first = ("prompt", "band", "block", "head")
    arrays = {
        "text": (grid(recorded.text), (*first, "token", "row", "column")),
        "image": (grid(recorded.image), (*first, "row", "column")),
        "patches": (grid(recorded.of_patches), (*first, "patch", "row", "column")),
        "shares": (recorded.shares, (*first, "category")),
        "evaluations": (recorded.evaluations, ("band",)),
        "tokens": (np.array([one.texts for one in recorded.tokens]), ("prompt", "token")),
        "token_categories": (np.array([one.categories for one in recorded.tokens]), ("prompt", "token")),
        # Which word of the prompt a token belongs to; -1 for special tokens and padding.
        "token_words": (
            np.array(
                [
                    [
                        next((i for i, word in enumerate(one.words) if t in word.tokens), -1)
                        for t in range(len(one.texts))
                    ]
                    for one in recorded.tokens
                ]
            ),
            ("prompt", "token"),
        ),
    }
    if recorded.from_text is not None:
        arrays["from_text"] = (grid(recorded.from_text), (*first, "token", "row", "column"))
    write_arrays(
        file,
        arrays,
        prompt=list(prompts),
        band=[list(edges) for edges in bands.edges],
        block=list(recorded.blocks),
        category=list(CATEGORIES),
        patch=[[patch // side, patch % side] for patch in patches],
    )
