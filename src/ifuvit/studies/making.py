"""Images of several models become a study: matched by prompt, blinded, made into items and checks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from ifuvit.data.scenes import KINDS, draw_scene
from ifuvit.metrics.counting.parsing import Asked, parse_noun_phrase, parse_prompt
from ifuvit.metrics.counting.prompts import PROMPT_SETS
from ifuvit.studies.design import IMAGES, Item, Kind
from ifuvit.studies.images import blind, blind_name, common_size, spoil, write_blind
from ifuvit.studies.sources import ModelImages
from ifuvit.utils.errors import InputError

_SCENES_SEED = 90_001
"""Checks of counts are scenes that no training set has seen."""


@dataclass(frozen=True, kw_only=True)
class Made:
    """What a study shows."""

    items: tuple[Item, ...]
    checks: tuple[Item, ...]
    practice: tuple[Item, ...]
    size: int
    """Pixels of all images' sides."""


def make_items(
    kind: Kind,
    sources: Sequence[ModelImages],
    directory: Path,
    *,
    checks: int,
    practice: int,
    seed: int,
    size: int | None,
) -> Made:
    """Write blinded images into `directory`/images.

    Args:
        sources: every model's images, of the same prompts.
        checks: how many items with a known answer to make.
        practice: how many items for practice to make, of the same sort as checks.
        size: pixels of the images' sides; None for what they have.

    Raises:
        InputError: images that do not match, cannot be read or are of different sizes, or prompts that ask for no count.
    """
    keys = list(sources[0].files)
    for one in sources[1:]:
        for here, there in ((sources[0], one), (one, sources[0])):
            if missing := next((key for key in here.files if key not in there.files), None):
                prompt, number = missing
                raise InputError(
                    f"{there.model}: has no image {number + 1} of the prompt {prompt!r}, as {here.model} has"
                )
    asked = {prompt: parse_count(prompt) for prompt, _ in keys} if kind == "count" else {}
    if size is None:
        size = common_size([file for one in sources for file in one.files.values()])

    images = directory / IMAGES
    images.mkdir(parents=True)
    names = {(model, key): blind_name() for model in range(len(sources)) for key in keys}
    # In an order that reveals nothing, for files have dates.
    for (model, key), name in sorted(names.items(), key=lambda pair: pair[1]):
        blind(sources[model].files[key], images / name, size=size)

    models = range(len(sources))
    if kind == "preference":
        items = [
            Item(id=f"i{number:04d}", prompt=prompt, images=tuple(names[model, (prompt, index)] for model in models), index=index)
            for number, (prompt, index) in enumerate(keys)
        ]  # fmt: skip
    else:
        items = [
            Item(
                id=f"i{number:04d}-{model}",
                prompt=prompt,
                images=(names[model, (prompt, index)],),
                model=model,
                kind=asked[prompt].kind if asked else None,
                count=asked[prompt].count if asked else None,
                index=index,
            )
            for number, (prompt, index) in enumerate(keys)
            for model in models
        ]
    if kind == "count":
        kinds = list(dict.fromkeys(one.kind for one in asked.values()))
        known = _scenes(kinds, images, number=checks + practice, seed=seed, size=size)
    else:
        known = _spoiled_items(items, len(sources), images, number=checks + practice, seed=seed)
    return Made(
        items=tuple(items),
        checks=tuple(replace(item, id=f"c{number:04d}") for number, item in enumerate(known[:checks])),
        practice=tuple(replace(item, id=f"p{number:04d}") for number, item in enumerate(known[checks:])),
        size=size,
    )


def parse_count(prompt: str) -> Asked:
    """What a prompt of a study of counts asks for.

    Raises:
        InputError: no number of objects of one kind.
    """
    asked = parse_prompt(prompt)
    asked = asked if isinstance(asked, Asked) else parse_noun_phrase(prompt)
    if asked is None:
        raise InputError(f"prompt {prompt!r}: asks for no number of objects of one kind, as 'three sheep' does")
    return asked


def plural(kind: str) -> str:
    """Several of a kind: "people"."""
    for names in ({known.name: known.plural for known in KINDS}, _coco_plurals()):
        if kind in names:
            return names[kind]
    return f"{kind}s"


def _coco_plurals() -> dict[str, str]:
    two = [prompt for prompt in PROMPT_SETS["coco"] if prompt.startswith("two ")]
    return {asked.kind: prompt.removeprefix("two ") for prompt in two if (asked := parse_noun_phrase(prompt))}


def scene_captions(number: int, *, seed: int) -> list[str]:
    """Captions of so many held-out OpenMoji scenes, all different."""
    captions: dict[str, None] = {}
    index = 0
    while len(captions) < number:
        captions[draw_scene(_SCENES_SEED + seed, index, size=32, split="val").captions[index % 5]] = None
        index += 1
    return list(captions)


def _spoiled_items(items: Sequence[Item], models: int, images: Path, *, number: int, seed: int) -> list[Item]:
    """Some of the items with one image spoiled, all under new names."""
    rng = np.random.default_rng((seed, 2))
    made = []
    for index in range(number):
        item, model = items[int(rng.integers(len(items)))], int(rng.integers(models))
        spoiled = model if len(item.images) > 1 else 0
        names = []
        for place, name in enumerate(item.images):
            with Image.open(images / name) as image:
                names.append(blind_name())
                write_blind(spoil(image, seed=seed + index) if place == spoiled else image, images / names[-1])
        model = model if len(item.images) > 1 else item.model
        made.append(Item(id=f"k{index:04d}", prompt=item.prompt, images=tuple(names), model=model, index=item.index))
    return made


def _scenes(kinds: Sequence[str], images: Path, *, number: int, seed: int, size: int) -> list[Item]:
    """Real OpenMoji scenes of the study's kinds where it has such kinds, else of any."""
    known = {kind.name for kind in KINDS}
    wanted = known & set(kinds) or known
    made: list[Item] = []
    index = 0
    while len(made) < number:
        scene = draw_scene(_SCENES_SEED + seed, index, size=max(size, 32), split="val")
        index += 1
        if scene.relation is not None or scene.objects[0][0] not in wanted:
            continue
        name = blind_name()
        write_blind(Image.fromarray(scene.image).resize((size, size)), images / name)
        made.append(
            Item(
                id=f"k{len(made):04d}",
                prompt=scene.captions[0],
                images=(name,),
                kind=scene.objects[0][0],
                count=len(scene.objects),
            )
        )
    return made
