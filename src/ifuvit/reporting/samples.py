"""Sample grids: the same prompts and seeds drawn by different models, side by side."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ifuvit.reporting.results import Images, Results
from ifuvit.utils.errors import InputError

# As many prompts as are looked at: side by side, and of one model alone.
_COLUMNS, _ALONE = 12, 24
_MODELS = 6
# Images up to this size are kept bit for bit; larger ones become JPEG, so that the page can be mailed.
_LOSSLESS = 128


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Images of the same prompts and seeds by several models, or of one model alone."""

    models: tuple[str, ...]
    facts: str
    """What all images have in common."""
    columns: tuple[tuple[str, tuple[str, ...]], ...]
    """(prompt, data URI by model)."""
    large: bool
    of: int
    """How many images each model has of which these are some."""
    directories: tuple[Path, ...]


def grids(results: Results) -> list[Grid]:
    """A grid for every way of drawing; models that drew the same prompts in that way share one.

    The images are the first of each prompt, spread evenly over the prompts: not chosen by their looks.
    """
    groups: dict[Any, list[Images]] = {}
    for one in results.images:
        key = (tuple(one.choices.items()), tuple((index, prompt) for index, prompt, _ in one.images))
        groups.setdefault(key, []).append(one)
    shared = sorted(groups.values(), key=lambda group: -len(group))
    return [grid for group in shared if (grid := _grid(group[:_MODELS])) is not None]


def _grid(group: Sequence[Images]) -> Grid | None:
    first = {}
    for position, (_, prompt, _) in enumerate(group[0].images):
        first.setdefault(prompt, position)
    positions = list(first.values())
    wanted = _COLUMNS if len(group) > 1 else _ALONE
    if len(positions) > wanted:
        positions = [positions[number * len(positions) // wanted] for number in range(wanted)]
    files = [[one.directory / one.images[position][2] for one in group] for position in positions]
    if not all(file.is_file() for row in files for file in row):
        return None  # drawn, but not kept
    choices = group[0].choices
    uris = [tuple(_data_uri(file) for file in row) for row in files]
    return Grid(
        models=tuple(one.name for one in group),
        facts=f"{choices['solver']}, {choices['steps']} steps, w = {choices['guidance_scale']:g}, seed {choices['seed']}, "
        f"from {choices['initial_latents']}",
        columns=tuple((group[0].images[position][1], row) for position, row in zip(positions, uris)),
        large=any(uri.startswith("data:image/jpeg") for row in uris for uri in row),
        of=len(group[0].images),
        directories=tuple(one.directory for one in group),
    )


def _data_uri(file: Path) -> str:
    """The image inside a page, without the file's text metadata."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            converted = image.convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise InputError(f"{file}: cannot be read as a image ({error}); draw it again") from None
    kind = "png" if max(converted.size) <= _LOSSLESS else "jpeg"
    out = io.BytesIO()
    converted.save(out, format=kind, **({"optimize": True} if kind == "png" else {"quality": 88}))
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"
