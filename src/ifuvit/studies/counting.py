"""What raters counted: the paper's two scores, its cells won and tied, and how the automatic counter agrees with them."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ifuvit.metrics.counting.parsing import Asked
from ifuvit.studies.agreement import people_agree
from ifuvit.studies.answers import Answer
from ifuvit.studies.clustering import Dispersion, means, mirrored, two_way
from ifuvit.studies.design import IMAGES, Study
from ifuvit.utils.errors import InputError

if TYPE_CHECKING:
    from ifuvit.metrics.counting.counters import ImageCounter

SCORES = ("average_error", "match_ratio")
"""Eq. 9, mean |counted - asked|, and Eq. 10, share with counted = asked."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """A answers, as arrays (A,)."""

    models: tuple[str, ...]
    model: np.ndarray
    """Index into `models`."""
    kind: np.ndarray
    asked: np.ndarray
    counted: np.ndarray
    items: np.ndarray
    """Ids: one image each."""
    scenes: np.ndarray
    """What the models' images of the same prompt and seed have in common."""
    raters: np.ndarray

    @property
    def scores(self) -> np.ndarray:
        """(A, 2): those of `SCORES`, of one answer."""
        error = np.abs(self.counted - self.asked).astype(float)
        return np.stack([error, (error == 0).astype(float)], axis=1)


def counts(study: Study, answers: Sequence[Answer]) -> Counts:
    """Those of `answers` that tell a number."""
    given = [(study.item(one.item), one) for one in answers if one.count is not None]
    return Counts(
        models=study.models,
        model=np.array([item.model for item, _ in given], int),
        kind=np.array([item.kind for item, _ in given], str),
        asked=np.array([item.count for item, _ in given], int),
        counted=np.array([one.count for _, one in given], int),
        items=np.array([item.id for item, _ in given], str),
        scenes=np.array([f"{item.prompt} {item.index}" for item, _ in given], str),
        raters=np.array([one.rater for _, one in given], str),
    )


def count_numbers(table: Counts, *, samples: int, seed: int = 0) -> dict[str, Any]:
    """What the counts say of the models.

    Returns:
        {"answers", "models": {model: {"overall": scores, "by_object": {kind: scores}, "by_count": {"1": scores}, "cells":
        {kind: {"1": scores}}}}, "differences": {model: {other: scores of the model less those of the other, on the same
        prompts and seeds}}, "cells_won": {model: {other: {score: {"won", "tied", "lost", "cells"}}}}}; scores are
        {"answers", "images", "average_error", "match_ratio"}, estimates.
    """

    def scores(chosen: np.ndarray, dispersion: Dispersion | None = None) -> dict[str, Any]:
        return group_scores(table, chosen, dispersion=dispersion, samples=samples, seed=seed)

    asked, kinds = [int(count) for count in np.unique(table.asked)], [str(kind) for kind in np.unique(table.kind)]
    models: dict[str, Any] = {}
    for index, name in enumerate(table.models):
        own = table.model == index
        groups = {
            "by_object": {kind: own & (table.kind == kind) for kind in kinds},
            "by_count": {str(count): own & (table.asked == count) for count in asked},
        }
        cells = {
            kind: {str(count): own & (table.kind == kind) & (table.asked == count) for count in asked} for kind in kinds
        }
        all_images = error_dispersion(table, own)
        models[name] = {
            "overall": scores(own),
            **{by: {key: scores(one) for key, one in group.items() if one.any()} for by, group in groups.items()},
            "cells": {
                kind: {key: scores(one, all_images) for key, one in row.items() if one.any()}
                for kind, row in cells.items()
            },
        }
    differences: dict[str, Any] = {name: {} for name in table.models}
    won: dict[str, Any] = {name: {} for name in table.models}
    for a, b in itertools.combinations(range(len(table.models)), 2):
        one, other = table.models[a], table.models[b]
        differences[one][other] = difference(table, a, b, samples=samples, seed=seed)
        differences[other][one] = {score: mirrored(found) for score, found in differences[one][other].items()}
        for x, y in ((one, other), (other, one)):
            won[x][y] = {score: cells_won(models[x]["cells"], models[y]["cells"], score) for score in SCORES}
    return {"answers": len(table.counted), "models": models, "differences": differences, "cells_won": won}


def error_dispersion(table: Counts, chosen: np.ndarray) -> Dispersion | None:
    """How much the average errors of images scatter, of the (A,) chosen answers; None of a single image or none. The match
    ratio, whose variance follows from itself, needs none."""
    image = np.unique(table.items[chosen], return_inverse=True)[1].reshape(-1)
    errors = np.bincount(image, weights=table.scores[chosen, 0]) / np.bincount(image)
    if len(errors) < 2:
        return None
    ratio = errors.var(ddof=1) / errors.mean() if errors.any() else 0.0
    return Dispersion(of_item=np.array([ratio, 0.0]), items=len(errors), name=f"all {len(errors)} images scatter")


def group_scores(
    table: Counts, chosen: np.ndarray, *, dispersion: Dispersion | None = None, samples: int, seed: int = 0
) -> dict[str, Any]:
    """Both scores of the (A,) chosen answers."""
    found: dict[str, Any] = {"answers": int(chosen.sum()), "images": len(np.unique(table.items[chosen]))}
    if not chosen.any():
        return {**found, **dict.fromkeys(SCORES)}
    features = np.concatenate([np.ones((chosen.sum(), 1)), table.scores[chosen]], axis=1)
    estimates = two_way(
        features,
        table.scenes[chosen],
        table.raters[chosen],
        means,
        bounds=(0, [np.inf, 1]),
        dispersion=dispersion,
        samples=samples,
        seed=seed,
    )
    return {**found, **dict(zip(SCORES, estimates))}


def difference(table: Counts, a: int, b: int, *, samples: int, seed: int = 0) -> dict[str, Any]:
    """Both scores of one model less those of another, whose images of the same prompt and seed are drawn together."""
    chosen = (table.model == a) | (table.model == b)
    of_a, of_b = (table.model[chosen, None] == model for model in (a, b))
    if not (of_a.any() and of_b.any()):
        return dict.fromkeys(SCORES)
    features = np.concatenate([of_a, of_b, of_a * table.scores[chosen], of_b * table.scores[chosen]], axis=1)

    def statistic(sums: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):  # a sample may have nothing of one model
            return sums[:, 2:4] / sums[:, :1] - sums[:, 4:] / sums[:, 1:2]

    estimates = two_way(
        features.astype(float),
        table.scenes[chosen],
        table.raters[chosen],
        statistic,
        bounds=([-np.inf, -1], [np.inf, 1]),
        samples=samples,
        seed=seed,
    )
    return dict(zip(SCORES, estimates))


def cells_won(cells: Mapping[str, Any], others: Mapping[str, Any], score: str) -> dict[str, int]:
    """In how many combinations of object and count one model has the better mean, as the paper reports for its 20.

    Returns:
        {"won", "tied": with exactly the same mean, "lost", "cells": all that both have}.
    """
    better = []
    for kind, row in cells.items():
        for count, group in row.items():
            other = others.get(kind, {}).get(count)
            if other is not None:
                lead = group[score]["value"] - other[score]["value"]
                better.append(0 if abs(lead) < 1e-12 else np.sign(lead) * (-1 if score == "average_error" else 1))
    return {name: better.count(sign) for name, sign in (("won", 1), ("tied", 0), ("lost", -1))} | {"cells": len(better)}


# ------------------------------------------------------------------------------------------------- automatic counter


def count_items(study: Study, directory: Path, counter: "ImageCounter") -> dict[str, int]:
    """How many objects of the asked kind an automatic counter finds, by item; items whose prompts it cannot read are left out.

    Raises:
        InputError: it can read none of them.
    """
    asked = {item.id: read for item in study.items if isinstance(read := counter.parse(item.prompt), Asked)}
    if not asked:
        raise InputError(f"{directory}: the counter can read none of the prompts, as {study.items[0].prompt!r}")
    files = [directory / IMAGES / study.item(item).images[0] for item in asked]
    found = counter.find(files, list(asked.values()), threshold=counter.threshold)
    return {item: sum(one.kind == read.kind for one in objects) for (item, read), objects in zip(asked.items(), found)}


def counter_agreement(
    table: Counts, automatic: Mapping[str, int], *, samples: int, seed: int = 0
) -> dict[str, Any] | None:
    """The automatic counter next to people, image by image.

    Args:
        automatic: how many objects of the asked kind it finds, by item.

    Returns:
        {"images": counted by both, "same": share of answers that give the counter's number, "same_people": share of pairs
        of raters of one image who give the same number, the most that can be expected of it, "difference": mean of the
        counter's number less theirs, "absolute_difference", "correlation": Pearson's between the counter's number and an
        image's mean, "models": {model: {"people": both scores by people, "counter": by the counter, on these images}}},
        estimates; None where no image is counted by both.
    """
    by_both = np.isin(table.items, list(automatic))
    if not by_both.any():
        return None
    found = np.array([automatic[item] for item in table.items[by_both]], float)
    given = table.counted[by_both].astype(float)
    items, scenes, raters = table.items[by_both], table.scenes[by_both], table.raters[by_both]
    ahead = found - given
    features = np.stack([np.ones_like(given), ahead == 0, ahead, abs(ahead)], axis=1)
    bounds = ([0, -np.inf, 0], [1, np.inf, np.inf])
    same, difference, absolute = two_way(features, scenes, raters, means, bounds=bounds, samples=samples, seed=seed)
    return {
        "images": len(np.unique(items)),
        "same": same,
        "same_people": people_agree(items, raters, given),
        "difference": difference,
        "absolute_difference": absolute,
        "correlation": _correlation(items, found, given, samples=samples, seed=seed),
        "models": _by_people_and_counter(table, by_both, found, samples=samples, seed=seed),
    }


def _correlation(
    items: np.ndarray, found: np.ndarray, given: np.ndarray, *, samples: int, seed: int
) -> dict[str, Any] | None:
    of_item = np.unique(items, return_inverse=True)[1].reshape(-1)
    numbers = np.bincount(of_item)
    x, y = (np.bincount(of_item, weights=values) / numbers for values in (found, given))
    if len(x) < 3 or x.std() == 0 or y.std() == 0:
        return None

    def pearson(sums: np.ndarray) -> np.ndarray:
        n, sx, sy, sxx, syy, sxy = sums.T
        with np.errstate(invalid="ignore", divide="ignore"):  # of a sample where all are the same
            return ((n * sxy - sx * sy) / np.sqrt((n * sxx - sx**2) * (n * syy - sy**2)))[:, None]

    features = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)
    (estimate,) = two_way(
        features, np.arange(len(x)), np.zeros(len(x)), pearson, bounds=(-1, 1), samples=samples, seed=seed
    )
    return estimate


def _by_people_and_counter(
    table: Counts, by_both: np.ndarray, found: np.ndarray, *, samples: int, seed: int
) -> dict[str, Any]:
    counter = np.zeros(len(table.counted), int)
    counter[by_both] = found
    # The counter sees each image once.
    first = np.zeros(len(table.counted), bool)
    first[np.unique(table.items, return_index=True)[1]] = True
    by_counter = Counts(**{**vars(table), "counted": counter, "raters": np.full(len(counter), "counter")})
    return {
        name: {
            "people": group_scores(table, by_both & (table.model == index), samples=samples, seed=seed),
            "counter": group_scores(by_counter, by_both & first & (table.model == index), samples=samples, seed=seed),
        }
        for index, name in enumerate(table.models)
    }
