"""How raters rate images by aspect, from 1 to 5: means of models, and how far raters agree."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ifuvit.studies.agreement import krippendorffs_alpha, people_agree
from ifuvit.studies.answers import Answer
from ifuvit.studies.clustering import means, mirrored, two_way
from ifuvit.studies.design import MAX_RATING, Study


@dataclass(frozen=True, kw_only=True)
class Ratings:
    """A answers about P aspects, as arrays."""

    models: tuple[str, ...]
    aspects: tuple[str, ...]
    model: np.ndarray
    """(A,) indices into `models`."""
    ratings: np.ndarray
    """(A, P)"""
    items: np.ndarray
    """(A,) ids: one image each."""
    scenes: np.ndarray
    """(A,) what the models' images of the same prompt and seed have in common."""
    raters: np.ndarray
    """(A,) ids."""


def ratings(study: Study, answers: Sequence[Answer]) -> Ratings:
    """Those of `answers` that rate."""
    given = [(study.item(one.item), one) for one in answers if one.ratings is not None]
    return Ratings(
        models=study.models,
        aspects=study.aspects,
        model=np.array([item.model for item, _ in given], int),
        ratings=np.array([one.ratings for _, one in given], float).reshape(-1, len(study.aspects)),
        items=np.array([item.id for item, _ in given], str),
        scenes=np.array([f"{item.prompt} {item.index}" for item, _ in given], str),
        raters=np.array([one.rater for _, one in given], str),
    )


def rating_numbers(table: Ratings, *, samples: int, seed: int = 0) -> dict[str, Any]:
    """What the ratings say of the models.

    Returns:
        {"answers", "aspects": {aspect: {"means": {model: mean rating}, "shares": {model: {"1": share of answers ... "5"}},
        "differences": {model: {other: the model's mean less the other's, on the same prompts and seeds}}, "agreement":
        {"krippendorffs_alpha": ordinal, "same": share of pairs of raters of an image with the same rating}}}}, estimates
        but for the shares.
    """
    found: dict[str, Any] = {
        aspect: {"means": {}, "shares": {}, "differences": {model: {} for model in table.models}}
        for aspect in table.aspects
    }
    for index, model in enumerate(table.models):
        own = table.model == index
        if not own.any():
            continue
        estimates = two_way(
            np.concatenate([np.ones((own.sum(), 1)), table.ratings[own]], axis=1),
            table.scenes[own],
            table.raters[own],
            means,
            bounds=(1, MAX_RATING),
            samples=samples,
            seed=seed,
        )
        for place, (aspect, estimate) in enumerate(zip(table.aspects, estimates)):
            found[aspect]["means"][model] = estimate
            given = table.ratings[own, place]
            found[aspect]["shares"][model] = {
                str(rating): float((given == rating).mean()) for rating in range(1, MAX_RATING + 1)
            }
    for a, b in itertools.combinations(range(len(table.models)), 2):
        one, other = table.models[a], table.models[b]
        for aspect, estimate in zip(table.aspects, _difference(table, a, b, samples=samples, seed=seed)):
            found[aspect]["differences"][one][other] = estimate
            found[aspect]["differences"][other][one] = mirrored(estimate)
    for place, aspect in enumerate(table.aspects):
        given = table.ratings[:, place]
        found[aspect]["agreement"] = {
            "krippendorffs_alpha": krippendorffs_alpha(given[:, None], table.items, table.raters, "ordinal"),
            "same": people_agree(table.items, table.raters, given),
        }
    return {"answers": len(table.ratings), "aspects": found}


def _difference(table: Ratings, a: int, b: int, *, samples: int, seed: int) -> list[dict[str, Any] | None]:
    """By aspect, the mean of one model less that of another, whose images of the same prompt and seed are drawn together."""
    chosen = (table.model == a) | (table.model == b)
    of_a, of_b = (table.model[chosen, None] == model for model in (a, b))
    aspects = len(table.aspects)
    if not (of_a.any() and of_b.any()):
        return [None] * aspects
    given = table.ratings[chosen]
    features = np.concatenate([of_a, of_b, of_a * given, of_b * given], axis=1).astype(float)

    def statistic(sums: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):  # a sample may have nothing of one model
            return sums[:, 2 : 2 + aspects] / sums[:, :1] - sums[:, 2 + aspects :] / sums[:, 1:2]

    return two_way(
        features,
        table.scenes[chosen],
        table.raters[chosen],
        statistic,
        bounds=(1 - MAX_RATING, MAX_RATING - 1),
        samples=samples,
        seed=seed,
    )
