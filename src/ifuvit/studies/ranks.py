"""Rankings of models as arrays, and how far those of one item agree."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ifuvit.studies.answers import Answer
from ifuvit.studies.design import Study


@dataclass(frozen=True, kw_only=True)
class Rankings:
    """A answers about M models, as arrays."""

    models: tuple[str, ...]
    ranks: np.ndarray
    """(A, M): each model's rank, 1 is best; tied ones have the average of the places that they share."""
    slots: np.ndarray
    """(A, M): where each model's image stood, 0 is leftmost."""
    items: np.ndarray
    """(A,) ids."""
    raters: np.ndarray
    """(A,) ids."""

    @property
    def points(self) -> np.ndarray:
        """(A, M): of M models the first earns M points, the last 1 (the paper's 4-3-2-1)."""
        return len(self.models) + 1 - self.ranks


def rankings(study: Study, answers: Sequence[Answer]) -> Rankings:
    """Those of `answers` that rank."""
    ranked = [one for one in answers if one.ranks is not None]
    number = len(study.models)
    slots = np.argsort(np.array([one.order for one in ranked], int).reshape(-1, number), axis=1)
    by_slot = np.array([one.ranks for one in ranked], float).reshape(-1, number)
    return Rankings(
        models=study.models,
        ranks=average_ranks(np.take_along_axis(by_slot, slots, axis=1)),
        slots=slots,
        items=np.array([one.item for one in ranked], str),
        raters=np.array([one.rater for one in ranked], str),
    )


def average_ranks(ranks: np.ndarray) -> np.ndarray:
    """(A, M) ranks of any kind as places, where tied ones have the average of those that they share: 1, 1, 3 becomes
    1.5, 1.5, 3."""
    before = (ranks[:, None, :] < ranks[:, :, None]).sum(2)
    tied = (ranks[:, None, :] == ranks[:, :, None]).sum(2)
    return before + (tied + 1) / 2


def concordance(ranks: np.ndarray, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Kendall's coefficient of concordance W of every item's raters, with its correction for ties.

    Args:
        ranks: (A, M), of any kind that orders the M models of each answer.
        items: (A,) which item each answer is about.

    Returns:
        (G,) W from 0 to 1 of the items that have two raters or more who do not tie everything, and (G,) their numbers of
        raters.
    """
    of_item = np.unique(items, return_inverse=True)[1].reshape(-1)
    number, things = int(of_item.max(initial=-1)) + 1, ranks.shape[1]
    places = average_ranks(ranks)
    sums, raters = np.zeros((number, things)), np.bincount(of_item, minlength=number)
    np.add.at(sums, of_item, places)
    # A rater's sum of t³ - t over groups of t tied things, as the things' sum of t² - 1.
    tied = ((places[:, :, None] == places[:, None, :]).sum(2) ** 2 - 1).sum(1)
    most = raters**2 * (things**3 - things) - raters * np.bincount(of_item, weights=tied, minlength=number)
    known = (raters > 1) & (most > 0)
    spread = 12 * ((sums - sums.mean(1, keepdims=True)) ** 2).sum(1)
    return spread[known] / most[known], raters[known]


def kendalls_w(ranks: np.ndarray) -> float | None:
    """`concordance` of the (raters, things) ranks of one item; None with fewer than two raters, or if all things are tied."""
    found, _ = concordance(ranks, np.zeros(len(ranks)))
    return float(found[0]) if len(found) else None
