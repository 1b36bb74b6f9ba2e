"""How far raters agree with each other and with themselves, and who gave answers without looking."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from ifuvit.studies.answers import Answer, passed
from ifuvit.studies.clustering import jackknife, means, two_way
from ifuvit.studies.design import Study
from ifuvit.studies.ranks import Rankings, concordance

ENOUGH_TIMES = 5
"""Tasks of which a rater's median time says something."""


def krippendorffs_alpha(
    values: np.ndarray, items: np.ndarray, raters: np.ndarray, level: Literal["ordinal", "ratio"]
) -> dict[str, Any] | None:
    """Krippendorff's alpha.

    Args:
        values: (A, M) M values of each answer: a model's rank each, or one count.
        items: (A,) which item each answer is about.
        raters: (A,) who gave it.
        level: of measurement.

    Returns:
        An estimate; None where no item has two answers, or all values are the same.
    """
    import krippendorff

    domain, of_value = np.unique(values, return_inverse=True)
    names, of_item = np.unique(items, return_inverse=True)
    cells = (of_item.reshape(-1, 1), np.arange(values.shape[1])[None, :], of_value.reshape(values.shape))

    def alpha(chosen: np.ndarray) -> np.ndarray:
        counts = np.zeros((len(names), values.shape[1], len(domain)), int)
        np.add.at(counts, (cells[0][chosen], cells[1], cells[2][chosen]), 1)
        paired = counts[counts.sum(2)[:, 0] > 1].reshape(-1, len(domain))
        present = paired.any(0)
        if present.sum() < 2:
            return np.array([np.nan])
        return np.array(
            [
                krippendorff.alpha(
                    value_counts=paired[:, present], value_domain=domain[present], level_of_measurement=level
                )
            ]
        )

    (found,) = jackknife(alpha, items, raters, bounds=(-1, 1))
    return found


def ranking_agreement(table: Rankings) -> dict[str, Any]:
    """{"kendalls_w": mean over items that several raters ranked, "rank_correlation": the mean of Spearman's between their
    raters, which is 0 by chance, "krippendorffs_alpha": ordinal}, estimates or None."""

    def means(chosen: np.ndarray) -> np.ndarray:
        found, raters = concordance(table.ranks[chosen], table.items[chosen])
        if len(found) == 0:
            return np.array([np.nan, np.nan])
        return np.array([found.mean(), ((raters * found - 1) / (raters - 1)).mean()])

    together, correlation = jackknife(means, table.items, table.raters, bounds=([0, -1], 1))
    return {
        "kendalls_w": together,
        "rank_correlation": correlation,
        "krippendorffs_alpha": krippendorffs_alpha(table.ranks, table.items, table.raters, "ordinal"),
    }


def people_agree(items: np.ndarray, raters: np.ndarray, given: np.ndarray) -> dict[str, Any] | None:
    """Share of pairs of raters of one image that give the same number; None where no image has two."""
    of_item = np.unique(items, return_inverse=True)[1].reshape(-1)
    of_number = np.unique(np.stack([of_item, given]), axis=1, return_inverse=True)[1].reshape(-1)

    def share(chosen: np.ndarray) -> np.ndarray:
        same, pairs = (
            (times * (times - 1)).sum() for times in (np.bincount(ids[chosen]) for ids in (of_number, of_item))
        )
        return np.array([same / pairs if pairs else np.nan])

    (found,) = jackknife(share, items, raters, bounds=(0, 1))
    return found


# --------------------------------------------------------------------------------------------------- single raters


def self_consistency(study: Study, answers: Sequence[Answer], *, samples: int) -> dict[str, Any]:
    """How raters rated the same item twice.

    Returns:
        {"repeats": pairs of answers, "same": share of equal ones; of rankings "pairs_kept": share of pairs of models in the
        same order, of counts and ratings "difference": mean of |first - second|}, estimates or None.
    """
    pairs = repeated(answers)
    name = "pairs_kept" if study.kind == "preference" else "difference"
    if not pairs:
        return {"repeats": 0, "same": None, name: None}
    rows = [(1, float(_rating(first) == _rating(second)), _closeness(first, second)) for first, second in pairs]
    same, closeness = two_way(
        np.array(rows),
        np.array([first.item for first, _ in pairs]),
        np.array([first.rater for first, _ in pairs]),
        means,
        bounds=(0, [1, 1 if study.kind == "preference" else np.inf]),
        samples=samples,
    )
    return {"repeats": len(pairs), "same": same, name: closeness}


def repeated(answers: Sequence[Answer]) -> list[tuple[Answer, Answer]]:
    """Both answers to items that a rater rated twice."""
    first = {(one.rater, one.item): one for one in answers if one.purpose == "rating" and one.status == "answered"}
    return [
        (first[one.rater, one.item], one)
        for one in answers
        if one.purpose == "repeat" and one.status == "answered" and (one.rater, one.item) in first
    ]


def _rating(answer: Answer) -> Any:
    """A count, ratings, or ranks by model."""
    if answer.ranks is None:
        return answer.count if answer.ratings is None else answer.ratings
    return tuple(rank for _, rank in sorted(zip(answer.order, answer.ranks)))


def _closeness(first: Answer, second: Answer) -> float:
    if first.ratings is not None:
        assert second.ratings is not None
        return float(np.abs(np.subtract(first.ratings, second.ratings)).mean())
    if first.ranks is None:
        assert first.count is not None and second.count is not None
        return float(abs(first.count - second.count))
    one, other = (np.sign(np.subtract.outer(ranks, ranks)) for ranks in (_rating(first), _rating(second)))
    return float((one == other)[np.triu_indices(len(one), 1)].mean())


def rater_rows(
    study: Study, answers: Sequence[Answer], *, least_passed: float, least_pace: float
) -> list[dict[str, Any]]:
    """What is known of each rater who has not withdrawn.

    Args:
        least_passed: share of attention checks that has to be passed; who passes fewer is flagged, if more than one was
            failed: one slip is no sign of carelessness.
        least_pace: share of the median time per task over raters; who is faster is flagged. Times of fewer than
            `ENOUGH_TIMES` tasks, or of fewer than three raters, say nothing.

    Returns:
        [{"rater", "tasks", "answered", "not_told": skipped, or "cannot tell", "checks": how many the rater did, "passed",
        "repeats", "same": equal ones of them, "median_seconds", "fast": whether the rater was too fast, "flagged": for the
        checks or for being fast}].
    """
    rows, enough = [], {}
    for rater in study.active:
        own = [one for one in answers if one.rater == rater.id]
        rated = [one for one in own if one.purpose == "rating"]
        # A skipped check is not passed.
        checks = [bool(passed(rater.tasks[one.task], one)) for one in own if one.purpose == "check"]
        pairs = repeated(own)
        seconds = [one.seconds for one in rated if one.seconds is not None]
        median = float(np.median(seconds)) if seconds else None
        if len(seconds) >= ENOUGH_TIMES:
            enough[rater.id] = median
        failed = len(checks) - sum(checks)
        rows.append(
            {
                "rater": rater.id,
                "tasks": len(rater.tasks),
                "answered": sum(one.status == "answered" for one in rated),
                "not_told": sum(one.status != "answered" for one in rated),
                "checks": len(checks),
                "passed": sum(checks),
                "repeats": len(pairs),
                "same": sum(_rating(first) == _rating(second) for first, second in pairs),
                "median_seconds": median,
                "fast": False,
                "flagged": failed > 1 and sum(checks) < least_passed * len(checks),
            }
        )
    if len(enough) > 2:
        usual = float(np.median(list(enough.values())))
        for row in rows:
            row["fast"] = enough.get(row["rater"], usual) < least_pace * usual
            row["flagged"] = row["flagged"] or row["fast"]
    return rows
