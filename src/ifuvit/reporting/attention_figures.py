"""Figures of attention maps over generated images: the paper's Figure 8, and small multiples over noise levels."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fontpkg
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ifuvit.results import Analysis

_CELL, _GAP, _LABEL, _LINE = 92, 8, 104, 17
_PAPER, _INK, _SOFT = (250, 250, 250), (30, 30, 30), (105, 105, 105)
# From dark to bright, evenly spaced.
COLORS = np.array([(8, 6, 40), (84, 20, 110), (180, 45, 92), (245, 125, 30), (252, 250, 180)], np.float64)


@dataclass(frozen=True, kw_only=True)
class ModelMaps:
    """The maps of one prompt in one model, border cropped."""

    name: str
    title: str
    image: Image.Image
    blocks: tuple[str, ...]
    words: tuple[str, ...]
    maps: np.ndarray
    """(bands and then all levels, blocks, heads, words, S, S); NaN in bands without evaluations."""
    bands: tuple[tuple[float, float], ...]
    border: int
    grid: int
    """Patches along the side of the uncropped grid."""


def read_maps(directory: Path, analysis: Analysis) -> Iterator[list[ModelMaps]]:
    """For every prompt its maps in every model of an analysis that was written to `directory`; none if it has no words of those
    that are asked for."""
    names = ("text", "evaluations", "token_words", "token_categories", "patches", "axis.patch")
    read = {}
    for model in analysis.models:
        with np.load(directory / analysis.arrays[model.name], allow_pickle=False) as arrays:
            read[model.name] = {name: arrays[name] for name in names}  # each of which is decompressed whole
    for prompt in range(len(analysis.prompts)):
        yield _maps_of(directory, analysis, read, prompt)


def _maps_of(
    directory: Path, analysis: Analysis, read: Mapping[str, Mapping[str, np.ndarray]], prompt: int
) -> list[ModelMaps]:
    border, wanted = int(analysis.config["crop_border"]), analysis.config["words"]
    found = []
    for model in analysis.models:
        arrays = read[model.name]
        text, numbers = arrays["text"][prompt], arrays["evaluations"]
        of_word, categories = arrays["token_words"][prompt], arrays["token_categories"][prompt]
        of_patches, patches = arrays["patches"][prompt], arrays["axis.patch"].tolist()
        words = analysis.prompts[prompt].split()
        side, tokens = text.shape[-1], text.shape[3]
        text = np.concatenate([text, of_patches], 3)  # (bands, blocks, heads, tokens and patches, S, S)
        every = np.nan_to_num(text) * (numbers / numbers.sum())[:, None, None, None, None, None]
        text = np.concatenate([text, every.sum(0, keepdims=True)])
        text = text[..., border : side - border, border : side - border]
        text, of_patches = text[:, :, :, :tokens], text[:, :, :, tokens:]
        names, maps = [], []
        for number, word in enumerate(words):
            if (not wanted or word in wanted) and (of_word == number).any():
                names.append(word)
                maps.append(text[:, :, :, of_word == number].sum(3))
        if not wanted:
            for name, category in (("start, end", "special"), ("padding", "padding")):
                if (categories == category).any():
                    names.append(name)
                    maps.append(text[:, :, :, categories == category].sum(3))
            names.append("all words, mean")
            maps.append(text[:, :, :, of_word >= 0].sum(3) / max(len(words), 1))
            for number, (row, column) in enumerate(patches):
                names.append(f"from patch {row},{column}")
                maps.append(of_patches[:, :, :, number])
        if not names:
            continue
        with Image.open(directory / analysis.images[model.name][prompt]) as image:
            picture = image.convert("RGB")
        found.append(
            ModelMaps(
                name=model.name,
                title=f"{model.name} ({model.setting})",
                image=picture,
                blocks=analysis.blocks[model.name],
                words=tuple(names),
                maps=np.stack(maps, 3),
                bands=analysis.bands,
                border=border,
                grid=side,
            )
        )
    return found


def _columns(models: Sequence[ModelMaps]) -> list[str]:
    """All blocks of the models on the way of an image, so that the same block has the same column in every model."""
    kinds = ("in_blocks", "mid_block", "out_blocks")

    def order(block: str) -> tuple[int, int]:
        kind, _, number = block.partition(".")
        return kinds.index(kind), int(number or 0)

    return sorted({block for one in models for block in one.blocks}, key=order)


def by_words(models: Sequence[ModelMaps], prompt: str) -> Image.Image:
    """Blocks as columns and words as rows, models below each other; means over noise levels and heads."""
    return _stacked(
        prompt,
        "Each map has its own scale, from 0 to its largest value; under it its mean, and the largest value over the mean.",
        [
            _table(one, one.maps[-1].mean(1).swapaxes(0, 1), one.words, _columns(models))  # (words, blocks, S, S)
            for one in models
        ],
    )


def by_levels(models: Sequence[ModelMaps], prompt: str, words: int) -> Image.Image:
    """Blocks as columns and bands of noise levels as rows, most noise first; the mean over the first `words` rows."""
    tables = []
    for one in models:
        shown = [band for band in range(len(one.bands)) if np.isfinite(one.maps[band]).all()][::-1]
        labels = [f"level {one.bands[band][0]:g}-{one.bands[band][1]:g}" for band in shown]
        tables.append(_table(one, one.maps[shown][:, :, :, :words].mean((2, 3)), labels, _columns(models)))
    return _stacked(prompt, "Means over words and heads by noise level; 1 is pure noise.", tables)


def colored(values: np.ndarray) -> np.ndarray:
    """Numbers from 0 to 1 as colors: (...) -> (..., 3) uint8."""
    place = np.clip(values, 0, 1) * (len(COLORS) - 1)
    low = np.minimum(place.astype(int), len(COLORS) - 2)
    part = (place - low)[..., None]
    return np.rint(COLORS[low] * (1 - part) + COLORS[low + 1] * part).astype(np.uint8)


def _table(one: ModelMaps, maps: np.ndarray, rows: Sequence[str], columns: Sequence[str]) -> Image.Image:
    """Maps (rows, blocks, S, S) over the gray image, each block in its column; columns of image-only blocks stay empty."""
    font, small = _font(13), _font(10)
    width = _LABEL + len(columns) * (_CELL + _GAP)
    height = 2 * _LINE + len(rows) * (_CELL + _GAP + 12)
    table = Image.new("RGB", (width + _CELL + _GAP, height), _PAPER)
    draw = ImageDraw.Draw(table)
    draw.text((0, 0), one.title, fill=_INK, font=font)
    left = _LABEL + _CELL + _GAP
    table.paste(one.image.resize((_CELL, _CELL), Image.Resampling.LANCZOS), (_LABEL, 2 * _LINE))
    places = [columns.index(block) for block in one.blocks]
    for column, block in zip(places, one.blocks, strict=True):
        draw.text((left + column * (_CELL + _GAP), _LINE), block, fill=_SOFT, font=small)
    # The border that was cropped of the maps is cropped of the image under them.
    edge = one.image.width * one.border // one.grid
    under = one.image.crop((edge, edge, one.image.width - edge, one.image.height - edge)).convert("L").convert("RGB")
    under = under.resize((_CELL, _CELL), Image.Resampling.LANCZOS)
    for row, name in enumerate(rows):
        y = 2 * _LINE + row * (_CELL + _GAP + 12)
        draw.text((0, y + _CELL // 2 - 8), _fitting(name, font, _LABEL - 6), fill=_INK, font=font)
        for number, column in enumerate(places):
            of_cell = maps[row, number]
            largest, mean = float(of_cell.max()), float(of_cell.mean())
            heat = Image.fromarray(colored(of_cell / largest if largest > 0 else of_cell))
            heat = heat.resize((_CELL, _CELL), Image.Resampling.NEAREST)
            x = left + column * (_CELL + _GAP)
            table.paste(Image.blend(under, heat, 0.72), (x, y))
            ratio = largest / mean if mean > 0 else math.nan
            draw.text((x, y + _CELL), f"{100 * mean:.2g} %, ×{ratio:.1f}", fill=_SOFT, font=small)
    return table


def _stacked(prompt: str, about: str, tables: Sequence[Image.Image]) -> Image.Image:
    width = max([_GAP * 2 + table.width for table in tables] + [520])
    height = 3 * _LINE + sum(table.height + 2 * _GAP for table in tables)
    figure = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(figure)
    draw.text((_GAP, 6), _fitting(prompt, _font(16), width - 2 * _GAP), fill=_INK, font=_font(16))
    draw.text((_GAP, 6 + _LINE + 4), _fitting(about, _font(11), width - 2 * _GAP), fill=_SOFT, font=_font(11))
    y = 3 * _LINE
    for table in tables:
        figure.paste(table, (_GAP, y))
        y += table.height + 2 * _GAP
    return figure


def _font(size: int) -> Any:
    return ImageFont.truetype(fontpkg.path("Noto Sans"), size)


def _fitting(text: str, font: Any, width: int) -> str:
    while text and font.getlength(text) > width:
        text = text[:-2] + "…" if text.endswith("…") else text[:-1] + "…"
        if text == "…":
            break
    return text
