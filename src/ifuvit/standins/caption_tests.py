"""How well a model of text-image alignment distinguishes true captions from false ones, on OpenMoji Scenes.

A score is of use only if "two sheep" beats "three sheep" on an image of two sheep, and "left of" beats "right of". What is in
a scene is known, so this can be measured: by choosing among captions that differ in one thing, and by retrieval, where
a caption counts as right if it is true of the image, whichever image it was written for.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from ifuvit.data.coco import read_coco
from ifuvit.data.scenes import (
    BACKGROUNDS,
    INVERSE,
    KIND_INDEX,
    KINDS,
    MAX_COUNT,
    RELATIONS,
    Relation,
    prompt_for,
    read_annotations,
    relation_prompt_for,
)
from ifuvit.utils.errors import InputError

# ------------------------------------------------------------------------------------------------------------- scenes


class Meaning(NamedTuple):
    """What an image shows, or what a caption states about it."""

    objects: tuple[str, ...]
    """Names of the kinds: one for every object, the relation's subject first."""
    relation: Relation | None
    """Of the first object to the second; None if there is none, or the caption does not state it."""
    background: str | None
    """Its name; None if the caption does not state it."""

    def codes(self) -> tuple[int, int, int]:
        """Objects, relation and background as numbers, where equal numbers mean the same: "a bus left of an apple" is
        "an apple right of a bus". Relations and backgrounds begin at 1; 0 stands for None."""
        objects, relation = self.objects, self.relation
        if len(set(objects)) > 1 and objects[0] > objects[1]:
            objects, relation = objects[::-1], INVERSE[relation] if relation else None
        numbers = [KIND_INDEX[kind] for kind in objects]
        if len(set(objects)) == 1:
            code = numbers[0] * MAX_COUNT + len(objects) - 1
        else:
            code = len(KINDS) * MAX_COUNT + numbers[0] * len(KINDS) + numbers[1]
        names = [background.name for background in BACKGROUNDS]
        return (
            code,
            RELATIONS.index(relation) + 1 if relation else 0,
            names.index(self.background) + 1 if self.background else 0,
        )


# One of these is in every caption of two kinds that states how they stand.
_PLACE_WORDS = {"left", "right", "above", "over", "below", "under", "top", "bottom"}


def stated(caption: str, image: Meaning) -> Meaning:
    """What an image's own caption states about it: always the objects, the relation and the background if it mentions them."""
    phrases = {background.name: background.phrase for background in BACKGROUNDS}
    background = image.background if image.background and phrases[image.background] in caption else None
    return Meaning(image.objects, image.relation if _PLACE_WORDS & set(caption.split()) else None, background)


def describes(captions: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Which captions are true of which images.

    Args:
        captions: (C, 3) `Meaning.codes` of captions.
        images: (P, 3) of images.

    Returns:
        (C, P) bool.
    """
    said, shown = captions[:, None], images[None]
    return (said[..., 0] == shown[..., 0]) & ((said[..., 1:] == 0) | (said[..., 1:] == shown[..., 1:])).all(-1)


class Scenes(NamedTuple):
    """Images of one split with captions."""

    files: list[Path]
    meanings: list[Meaning]
    held_out: np.ndarray
    """(N,) bool, whether the combination occurs in no training image."""
    captions: list[str]
    """U different ones."""
    stated: np.ndarray
    """(U, 3) codes of what they state"""
    rows: list[list[int]]
    """Which of `captions` every image has, the plainest first."""

    @property
    def shown(self) -> np.ndarray:
        """(N, 3) codes of what the images show."""
        return np.array([meaning.codes() for meaning in self.meanings])


def read_scenes(
    directory: Path,
    split: Literal["train", "val"],
    *,
    images: int | None = None,
    relations: float | None = None,
    captions: int | None = None,
) -> Scenes:
    """One split.

    Args:
        directory: what `ifuvit scenes` wrote.
        split: which.
        images: take the first so many at most; all by default.
        relations: of these, the share that shows two kinds of objects (fewer if there are not as many); as they come by
            default.
        captions: of each image take the plainest and, in turn, others, so that all ways of saying occur; all by default.

    Raises:
        InputError: missing, broken or empty annotations, or images of other things than OpenMoji Scenes.
    """
    annotations = directory / "annotations"
    scenes = {str(identity): scene for identity, scene in read_annotations(directory, split).items()}
    chosen = read_coco(directory / "images" / split, annotations / f"captions_{split}.json")
    if unknown := next((one for one in chosen if one.id not in scenes), None):
        raise InputError(f"{annotations}: instances_{split}.json has no image {unknown.id}, which has captions")
    if relations is None or images is None:
        chosen = chosen[:images]
    else:
        related = [one for one in chosen if scenes[one.id].relation][: round(relations * images)]
        others = [one for one in chosen if not scenes[one.id].relation][: images - len(related)]
        chosen = related + others
    meanings = [
        Meaning(tuple(kind for kind, _ in scene.objects), scene.relation, scene.background)
        for scene in (scenes[one.id] for one in chosen)
    ]
    held_out = np.array([scenes[one.id].held_out for one in chosen], bool)
    places: dict[str, int] = {}
    codes: list[tuple[int, int, int]] = []
    rows: list[list[int]] = []
    files: list[Path] = []
    for number, (one, meaning) in enumerate(zip(chosen, meanings)):
        if one.problem or not one.captions:
            raise InputError(one.problem or f"{one.source}: has no caption in {annotations}")
        assert isinstance(one.source, Path)
        files.append(one.source)
        plainest, *others = one.captions
        turn = number % max(1, len(others))
        kept = [plainest, *others[turn:], *others[:turn]][:captions]
        for caption in kept:
            if caption not in places:
                places[caption] = len(places)
                codes.append(stated(caption, meaning).codes())
        rows.append([places[caption] for caption in kept])
    return Scenes(files, meanings, held_out, list(places), np.array(codes), rows)


# -------------------------------------------------------------------------------------------------------- measurement


def measure(
    scenes: Scenes, images: np.ndarray, captions: np.ndarray, plain: "dict[str, np.ndarray]", *, seed: int = 0
) -> dict[str, Any]:
    """How well true captions are told from false ones.

    Args:
        scenes: N images.
        images: (N, E) their embeddings.
        captions: (U, E) of `scenes.captions`.
        plain: embeddings of plain prompts that are not among them, by prompt.
        seed: of the choice of images and captions for retrieval.

    Returns:
        For "all" images, those "in training" combinations and those "held out" the tests of `_tests`.
    """
    groups = {"all": np.ones(len(images), bool), "in training": ~scenes.held_out, "held out": scenes.held_out}
    return {
        name: _tests(scenes, images, captions, plain, np.flatnonzero(chosen), seed)
        for name, chosen in groups.items()
        if chosen.any()
    }


def plain_prompts(meanings: Sequence[Meaning]) -> list[str]:
    """The prompts that `measure` compares images with: every count of every kind, and for every pair of kinds that
    occurs all relations."""
    prompts = [prompt_for(kind.name, count) for kind in KINDS for count in range(1, MAX_COUNT + 1)]
    pairs = {meaning.objects for meaning in meanings if meaning.relation}
    both = sorted(pairs | {pair[::-1] for pair in pairs})
    return prompts + [relation_prompt_for(a, relation, b) for a, b in both for relation in RELATIONS]


def _tests(
    scenes: Scenes,
    images: np.ndarray,
    captions: np.ndarray,
    plain: "dict[str, np.ndarray]",
    chosen: np.ndarray,
    seed: int,
) -> dict[str, Any]:
    same = [n for n in chosen if scenes.meanings[n].relation is None]
    related = [n for n in chosen if scenes.meanings[n].relation is not None]

    def scores(number: int, prompts: Sequence[str]) -> np.ndarray:
        return np.stack([plain[prompt] for prompt in prompts]) @ images[number]

    by_count: dict[int, list[np.ndarray]] = {count: [] for count in range(1, MAX_COUNT + 1)}
    kinds: list[tuple[float, float]] = []
    for number in same:
        kind, count = scenes.meanings[number].objects[0], len(scenes.meanings[number].objects)
        by_count[count].append(scores(number, [prompt_for(kind, other) for other in by_count]))
        value = scores(number, [prompt_for(other.name, count) for other in KINDS])
        true = KIND_INDEX[kind]
        kinds.append((float(value.argmax() == true), float((value < value[true]).sum() / (len(KINDS) - 1))))
    turned: dict[str, list[float]] = {relation: [] for relation in RELATIONS}
    placed: list[float] = []
    for number in related:
        (first, second), relation = scenes.meanings[number].objects, scenes.meanings[number].relation
        assert relation is not None
        value = scores(number, [relation_prompt_for(first, other, second) for other in RELATIONS])
        true = RELATIONS.index(relation)
        swapped = scores(number, [relation_prompt_for(second, relation, first)])[0]
        turned[relation].append(float(value[true] > swapped))
        placed.append(float(value.argmax() == true))

    def mean(values: Sequence[float]) -> float | None:
        return float(np.mean(values)) if len(values) else None

    exact = [float(row.argmax() == count - 1) for count, rows in by_count.items() for row in rows]
    return {
        "images": len(chosen),
        "retrieval": {str(size): _retrieval(scenes, images, captions, chosen, size, seed) for size in (100, 1000)},
        "count": {
            "images": len(same),
            "of 5": mean(exact),
            "of 5 by count": {
                str(count): mean([float(row.argmax() == count - 1) for row in rows]) for count, rows in by_count.items()
            },
            "of 2": {
                f"{a} or {b}": mean(
                    [float(row[a - 1] > row[b - 1]) for row in by_count[a]]
                    + [float(row[b - 1] > row[a - 1]) for row in by_count[b]]
                )
                for a, b in ((1, 2), (2, 3), (3, 4), (4, 5))
            },
        },
        "kind": {
            "images": len(same),
            f"of {len(KINDS)}": mean([first for first, _ in kinds]),
            "of 2": mean([second for _, second in kinds]),
        },
        "relation": {
            "images": len(related),
            "of 4": mean(placed),
            "objects swapped": mean([value for values in turned.values() for value in values]),
            "objects swapped by relation": {relation: mean(values) for relation, values in turned.items()},
        },
    }


def _retrieval(
    scenes: Scenes, images: np.ndarray, captions: np.ndarray, chosen: np.ndarray, size: int, seed: int
) -> dict[str, float] | None:
    """R@1 among `size` images and one caption of each, mean over up to 10 disjoint draws: how often the caption
    nearest to an image is true of it, and the image nearest to a caption is one that it is true of."""
    rng = np.random.default_rng([seed, size])
    order = rng.permutation(chosen)
    draws = [order[start : start + size] for start in range(0, len(order) - size + 1, size)][:10]
    if not draws:
        return None
    shown, results = scenes.shown, []
    for numbers in draws:
        rows = np.array([scenes.rows[number][int(rng.integers(len(scenes.rows[number])))] for number in numbers])
        true = describes(scenes.stated[rows], shown[numbers])
        similarity = captions[rows] @ images[numbers].T
        results.append(
            (
                true[similarity.argmax(0), np.arange(size)].mean(),
                true[np.arange(size), similarity.argmax(1)].mean(),
            )
        )
    caption, image = np.mean(results, axis=0)
    return {"draws": len(draws), "caption of an image": float(caption), "image of a caption": float(image)}


def table(measured: dict[str, Any]) -> str:
    """The measurements as text, in percent."""

    def cell(value: float | None) -> str:
        return f"{'-' if value is None else f'{100 * value:.1f}':>12}"

    def retrieval(size: int, which: str) -> list[float | None]:
        return [(scores["retrieval"][str(size)] or {}).get(which) for scores in measured.values()]

    lines = [f"{'right, %':<44}" + "".join(f"{name:>12}" for name in measured)]
    rows: list[tuple[str, list[float | None]]] = [
        (f"{which}, R@1 of {size}", retrieval(size, which))
        for size in (100, 1000)
        for which in ("caption of an image", "image of a caption")
    ]
    first = next(iter(measured.values()))
    for test in ("count", "kind", "relation"):
        for name, value in first[test].items():
            if name == "images":
                continue
            if not isinstance(value, dict):
                rows.append((f"{test}, {name}", [scores[test][name] for scores in measured.values()]))
                continue
            for part in value:
                text = f"{test}, {name.removesuffix(' by count').removesuffix(' by relation')}: {part}"
                rows.append((text, [scores[test][name][part] for scores in measured.values()]))
    return "\n".join([*lines, *(f"{text:<44}" + "".join(map(cell, values)) for text, values in rows)])
