"""All numbers of a study, from its design and the answers alone."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ifuvit.studies.agreement import (
    krippendorffs_alpha,
    people_agree,
    ranking_agreement,
    rater_rows,
    self_consistency,
)
from ifuvit.studies.answers import Answer
from ifuvit.studies.clustering import SAMPLES
from ifuvit.studies.counting import count_numbers, counter_agreement, counts
from ifuvit.studies.design import Study
from ifuvit.studies.preference import preference_numbers
from ifuvit.studies.ranks import rankings
from ifuvit.studies.rating import rating_numbers, ratings
from ifuvit.utils.errors import InputError

LEAST_PASSED, LEAST_PACE = 0.6, 0.33


def analyze_study(
    study: Study,
    answers: Sequence[Answer],
    *,
    automatic: Mapping[str, int] | None = None,
    least_passed: float = LEAST_PASSED,
    least_pace: float = LEAST_PACE,
    samples: int = SAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Everything that the answers tell.

    Args:
        automatic: how many objects of the asked kind an automatic counter finds, by item.
        least_passed: share of attention checks below which a rater is flagged, if more than one was failed.
        least_pace: share of the median time of raters below which one is flagged.
        samples: how often each bootstrap draws.

    Returns:
        The fields of a `PreferenceStudy`, a `CountStudy` or a `RatingStudy` and its "kind": {"models", "items", "raters":
        `rater_rows`, "least_passed", "least_pace", "answers", "everyone": numbers, "without_flagged": numbers, or None where
        nobody is flagged}. Numbers are `preference_numbers`, `count_numbers` or `rating_numbers` with "self_consistency",
        "agreement" (of ratings by aspect) and, of counts, "counter".
        docs/human-evaluation.md explains every field.

    Raises:
        InputError: there is no answer to work with.
    """
    rated = [one for one in answers if one.purpose == "rating"]
    if not any(one.status == "answered" for one in rated):
        raise InputError(f"study {study.title!r}: nobody has answered anything yet")
    raters = rater_rows(study, answers, least_passed=least_passed, least_pace=least_pace)
    flagged = {row["rater"] for row in raters if row["flagged"]}
    numbers = _OF_KIND[study.kind]

    def of(chosen: Sequence[Answer]) -> dict[str, Any] | None:
        ratings = [one for one in chosen if one.purpose == "rating" and one.status == "answered"]
        if not ratings:
            return None
        return {
            **numbers(study, ratings, automatic, samples=samples, seed=seed),
            "self_consistency": self_consistency(study, chosen, samples=samples),
        }

    return {
        "kind": f"{study.kind} study",
        "models": list(study.models),
        "items": len(study.items),
        "answers": {
            "expected": sum(task.purpose == "rating" for rater in study.active for task in rater.tasks),
            **{
                status.replace(" ", "_"): sum(one.status == status for one in rated)
                for status in ("answered", "cannot tell", "skipped")
            },
        },
        "least_passed": least_passed,
        "least_pace": least_pace,
        "raters": raters,
        "everyone": of(answers),
        "without_flagged": of([one for one in answers if one.rater not in flagged]) if flagged else None,
    }


def _preference(
    study: Study, ratings: Sequence[Answer], automatic: Mapping[str, int] | None, *, samples: int, seed: int
) -> dict[str, Any]:
    table = rankings(study, ratings)
    return {**preference_numbers(table, samples=samples, seed=seed), "agreement": ranking_agreement(table)}


def _count(
    study: Study, ratings: Sequence[Answer], automatic: Mapping[str, int] | None, *, samples: int, seed: int
) -> dict[str, Any]:
    table = counts(study, ratings)
    return {
        **count_numbers(table, samples=samples, seed=seed),
        "agreement": {
            "krippendorffs_alpha": krippendorffs_alpha(table.counted[:, None], table.items, table.raters, "ratio"),
            "same": people_agree(table.items, table.raters, table.counted),
        },
        "counter": counter_agreement(table, automatic, samples=samples, seed=seed) if automatic else None,
    }


def _ratings(
    study: Study, given: Sequence[Answer], automatic: Mapping[str, int] | None, *, samples: int, seed: int
) -> dict[str, Any]:
    return rating_numbers(ratings(study, given), samples=samples, seed=seed)


_OF_KIND: dict[str, Callable[..., dict[str, Any]]] = {"preference": _preference, "count": _count, "rating": _ratings}
