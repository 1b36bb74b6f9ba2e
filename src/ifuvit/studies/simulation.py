"""Studies answered by simulated raters, whose preferences and errors are known, to check the analysis by.

A rater sees a picture's utility: the model's strength, what the picture and the rater's own taste add, and noise of a
Gumbel distribution, with which rankings follow a Plackett-Luce model. Counts are of pictures that show the asked number or
one that is wrong by one or two, and raters miscount some.
"""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from ifuvit.studies.answers import Answer
from ifuvit.studies.counting import SCORES, counts, difference, group_scores
from ifuvit.studies.design import Assignment, Item, Rater, Study
from ifuvit.studies.preference import (
    average_ranks,
    choice_stages,
    fit_strengths,
    preference_numbers,
    preferred,
    rankings,
)

AT = "2026-01-01T00:00:00+00:00"
KINDS = ("bus", "sheep", "person", "apple")
"""Those of the paper's prompts."""


@dataclass(frozen=True, kw_only=True)
class RaterModel:
    """How simulated raters differ from ideal ones."""

    picture_spread: float = 0.6
    """Standard deviation of what a picture adds to its model's strength, the same for all raters."""
    taste_spread: float = 0.3
    """Standard deviation of what a rater's taste adds to a model's strength."""
    slot_bias: float = 0.0
    """What the leftmost slot adds."""
    tie_below: float = 0.15
    """Pictures closer to each other than this in the order are tied."""
    skipped: float = 0.05
    """Share of items without an answer."""
    miscounts: float = 0.08
    """Share of pictures that a rater counts wrong by one, on average; raters differ by a factor of up to two."""
    careless: int = 0
    """How many raters, the last ones, answer without looking."""


def _identity(number: int, prefix: str) -> list[str]:
    return [f"{prefix}{index:04d}" for index in range(number)]


def simulate_preference(
    strengths: dict[str, float],
    *,
    items: int,
    raters: int,
    raters_per_item: int,
    how: RaterModel,
    seed: int,
    repeats: int = 2,
    checks: int = 3,
) -> tuple[Study, list[Answer]]:
    """A preference study and its answers.

    Args:
        strengths: log-strength of each model.
        repeats: items that every rater judges twice.
        checks: attention checks of every rater: the model of index 0 spoiled.
    """
    rng = np.random.default_rng(seed)
    models = tuple(strengths)
    number = len(models)
    pictures = rng.normal(scale=how.picture_spread, size=(items, number))
    tastes = rng.normal(scale=how.taste_spread, size=(raters, number))
    names, people = _identity(items, "item-"), _identity(raters, "rater-")
    check_names = _identity(checks, "check-")
    assigned: list[list[tuple[str, str]]] = [[] for _ in people]
    for place, name in enumerate(names):
        for k in range(raters_per_item):
            assigned[(place * raters_per_item + k) % raters].append((name, "rating"))
    tasks: list[tuple[Assignment, ...]] = []
    answers: list[Answer] = []
    for index, own in enumerate(assigned):
        seen = [*own, *((name, "repeat") for name, _ in own[:repeats]), *((name, "check") for name in check_names)]
        of_rater = []
        for task, (name, purpose) in enumerate(seen):
            order = tuple(int(model) for model in rng.permutation(number))
            check = purpose == "check"
            of_rater.append(Assignment(item=name, order=order, purpose=purpose, expected=0 if check else None))  # type: ignore[arg-type]
            utility = np.array(list(strengths.values())) + tastes[index]
            utility = utility + (0 if check else pictures[int(name[-4:])]) + rng.gumbel(size=number)
            if check:
                utility[0] -= 100
            utility[order[0]] += how.slot_bias
            if index >= raters - how.careless:
                utility = rng.gumbel(size=number)
            skipped = purpose == "rating" and rng.random() < how.skipped
            ranks = tuple(float(rank) for rank in _ranks(utility, how.tie_below)[list(order)])
            answers.append(
                Answer(
                    rater=people[index],
                    task=task,
                    item=name,
                    purpose=purpose,  # type: ignore[arg-type]
                    order=order,
                    status="skipped" if skipped else "answered",
                    ranks=None if skipped else ranks,
                    seconds=10.0,
                    at=AT,
                )
            )
        tasks.append(tuple(of_rater))
    blank = tuple(f"{model}.png" for model in range(number))
    return (
        _study(
            "preference",
            models,
            tuple(Item(id=name, prompt=name, pictures=blank) for name in names),
            tuple(Item(id=name, prompt=name, pictures=blank) for name in check_names),
            tuple(Rater(id=name, token=name, tasks=own) for name, own in zip(people, tasks)),
            raters_per_item,
            seed,
        ),
        answers,
    )


def _ranks(utility: np.ndarray, tie_below: float) -> np.ndarray:
    """(..., M) ranks, 1 is best; a picture closer than `tie_below` to the one before is tied with it, and the ranks after
    them are left out."""
    order = np.argsort(-utility, axis=-1)
    falling = np.take_along_axis(utility, order, axis=-1)
    begins = np.ones(utility.shape, bool)
    begins[..., 1:] = falling[..., :-1] - falling[..., 1:] >= tie_below
    by_place = np.maximum.accumulate(np.where(begins, np.arange(1, utility.shape[-1] + 1), 0), axis=-1)
    ranks = np.empty_like(utility)
    np.put_along_axis(ranks, order, by_place.astype(float), axis=-1)
    return ranks


def preference_truth(
    strengths: dict[str, float], *, how: RaterModel, answers: int = 400_000, seed: int = 12345
) -> dict[str, np.ndarray]:
    """What endlessly many answers would tell, each about an item and by a rater of its own.

    Returns:
        {"points": (M,), "win_rates": (M, M), "strengths": (M,): those planted, but that pictures and tastes move them
        toward each other}.
    """
    rng = np.random.default_rng(seed)
    number = len(strengths)
    utility = np.array(list(strengths.values())) + rng.gumbel(size=(answers, number))
    utility += rng.normal(scale=np.hypot(how.picture_spread, how.taste_spread), size=(answers, number))
    utility[np.arange(answers), rng.integers(number, size=answers)] += how.slot_bias
    ranks = average_ranks(_ranks(utility, how.tie_below))
    sets, stages = choice_stages(ranks)
    return {
        "points": (number + 1 - ranks).mean(0),
        "win_rates": np.array([[preferred(a, b).mean() for b in ranks.T] for a in ranks.T]),
        "strengths": fit_strengths(stages.sum(0, keepdims=True), sets)[0],
    }


# --------------------------------------------------------------------------------------------------------------- counts


def simulate_count(
    right: dict[str, float],
    *,
    raters: int,
    raters_per_item: int,
    how: RaterModel,
    seed: int,
    pictures_per_prompt: int = 10,
    repeats: int = 2,
    checks: int = 3,
) -> tuple[Study, list[Answer], dict[str, int]]:
    """A study of the paper's 20 prompts, its answers, and what the pictures really show, by item.

    Args:
        right: of each model, the share of its pictures that show the asked number; the others are wrong by one or two.
    """
    rng = np.random.default_rng(seed)
    models = tuple(right)
    items, shown = [], {}
    for model, share in enumerate(right.values()):
        for kind in KINDS:
            for asked in range(1, 6):
                for index in range(pictures_per_prompt):
                    name = f"item-{len(items):05d}"
                    wrong = int(rng.choice([-1, 1, 2])) if rng.random() >= share else 0
                    shown[name] = max(asked + wrong, 0)
                    items.append(
                        Item(
                            id=name,
                            prompt=f"{asked} {kind}",
                            pictures=(f"{name}.png",),
                            model=model,
                            kind=kind,
                            count=asked,
                            index=index,
                        )
                    )
    check_items = tuple(
        Item(id=f"check-{place}", prompt="check", pictures=("check.png",), kind=KINDS[0], count=1 + place % 5)
        for place in range(checks)
    )
    people = _identity(raters, "rater-")
    misses = how.miscounts * rng.uniform(2 / 3, 4 / 3, size=raters)
    assigned: list[list[Item]] = [[] for _ in people]
    for place, chosen in enumerate(rng.permutation(len(items))):
        for k in range(raters_per_item):
            assigned[(place * raters_per_item + k) % raters].append(items[chosen])
    answers: list[Answer] = []
    tasks = []
    for index, own in enumerate(assigned):
        seen: list[tuple[Item, Any]] = [(item, "rating") for item in own]
        seen += [(item, "repeat") for item in own[:repeats]] + [(item, "check") for item in check_items]
        for task, (item, purpose) in enumerate(seen):
            truth = shown.get(item.id, item.count or 0)
            told = max(truth + int(rng.choice([-1, 1])), 0) if rng.random() < misses[index] else truth
            if purpose == "check":
                told = truth
            if index >= raters - how.careless:
                told = int(rng.integers(6, 10))
            skipped = purpose == "rating" and rng.random() < how.skipped
            answers.append(
                Answer(
                    rater=people[index],
                    task=task,
                    item=item.id,
                    purpose=purpose,
                    order=(),
                    status="cannot tell" if skipped else "answered",
                    count=None if skipped else told,
                    seconds=5.0,
                    at=AT,
                )
            )
        tasks.append(
            tuple(
                Assignment(item=item.id, purpose=purpose, expected=item.count if purpose == "check" else None)
                for item, purpose in seen
            )
        )
    raters_ = tuple(Rater(id=name, token=name, tasks=own) for name, own in zip(people, tasks))
    return _study("count", models, tuple(items), check_items, raters_, raters_per_item, seed), answers, shown


def count_truth(right: dict[str, float], *, how: RaterModel) -> dict[str, tuple[float, float]]:
    """Average error and match ratio of each model that endlessly many pictures and raters would tell."""
    truth = {}
    for model, share in right.items():
        chances = np.zeros(2)
        for asked in range(1, 6):
            for wrong, of_picture in ((0, share), (-1, (1 - share) / 3), (1, (1 - share) / 3), (2, (1 - share) / 3)):
                shown = asked + wrong
                for told, of_rater in ((shown, 1 - how.miscounts), *((shown + e, how.miscounts / 2) for e in (-1, 1))):
                    error = abs(max(told, 0) - asked)
                    chances += of_picture * of_rater / 5 * np.array([error, error == 0])
        truth[model] = (float(chances[0]), float(chances[1]))
    return truth


# ------------------------------------------------------------------------------------------------------------- coverage


def preference_coverage(
    strengths: dict[str, float],
    *,
    how: RaterModel,
    studies: int,
    items: int = 50,
    raters: int = 10,
    raters_per_item: int = 5,
    samples: int = 400,
) -> dict[str, Any]:
    """How often the analysis of simulated preference studies finds what was planted.

    Returns:
        {"studies", "order_found": share of studies in which the models' order by strength is the planted one, "covered":
        {"points": {model: share of studies whose interval has the truth in it}, "win_rates": {"a over b": ...}, "strengths":
        {model: ...}}, "width": {the same: mean width of the intervals}}.
    """
    truth = preference_truth(strengths, how=how)
    models = list(strengths)
    pairs = list(itertools.combinations(range(len(models)), 2))
    planted = sorted(models, key=lambda model: -strengths[model])
    found = []
    tally = Tally()
    for seed in range(studies):
        study, answers = simulate_preference(
            strengths, items=items, raters=raters, raters_per_item=raters_per_item, how=how, seed=seed
        )
        ratings = [one for one in answers if one.purpose == "rating"]
        numbers = preference_numbers(rankings(study, ratings), samples=samples, seed=seed)
        found.append(numbers["order"] == planted)
        for name in ("points", "strengths"):
            for place, model in enumerate(models):
                tally.add(name, model, numbers[name][model], truth[name][place])
        for a, b in pairs:
            estimate = numbers["win_rates"][models[a]][models[b]]
            tally.add("win_rates", f"{models[a]} over {models[b]}", estimate, truth["win_rates"][a, b])
    return {"studies": studies, "order_found": float(np.mean(found)), **tally.result()}


def count_coverage(
    right: dict[str, float],
    *,
    how: RaterModel,
    studies: int,
    raters: int = 10,
    raters_per_item: int = 3,
    samples: int = 400,
) -> dict[str, Any]:
    """The same of simulated counting studies: {"studies", "order_found": by match ratio, "covered": {"average_error":
    {model: share}, "match_ratio": {model: share}, "match_ratio_difference": {"a less b": share}}, "width"}."""
    truth = count_truth(right, how=how)
    models = list(right)
    found = []
    tally = Tally()
    for seed in range(studies):
        study, answers, _ = simulate_count(right, raters=raters, raters_per_item=raters_per_item, how=how, seed=seed)
        table = counts(study, [one for one in answers if one.purpose == "rating"])
        ratios = {}
        for place, model in enumerate(models):
            scores = group_scores(table, table.model == place, samples=samples, seed=seed)
            ratios[model] = scores["match_ratio"]["value"]
            for name, value in zip(SCORES, truth[model]):
                tally.add(name, model, scores[name], value)
        found.append(
            sorted(models, key=lambda model: -ratios[model]) == sorted(models, key=lambda model: -right[model])
        )
        for a, b in itertools.combinations(range(len(models)), 2):
            estimate = difference(table, a, b, samples=samples, seed=seed)["match_ratio"]
            lead = truth[models[a]][1] - truth[models[b]][1]
            tally.add("match_ratio_difference", f"{models[a]} less {models[b]}", estimate, lead)
    return {"studies": studies, "order_found": float(np.mean(found)), **tally.result()}


class Tally:
    """Which intervals had the truth in them, and how wide they were."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[str, list[tuple[bool, float]]]] = {}

    def add(self, name: str, part: str, estimate: dict[str, Any], truth: float) -> None:
        low, high = estimate["interval"]
        self._seen.setdefault(name, {}).setdefault(part, []).append((low <= truth <= high, high - low))

    def result(self) -> dict[str, Any]:
        def mean(place: int) -> dict[str, dict[str, float]]:
            return {
                name: {part: float(np.mean([one[place] for one in seen])) for part, seen in parts.items()}
                for name, parts in self._seen.items()
            }

        return {"covered": mean(0), "width": mean(1)}


def _study(
    kind: Any,
    models: tuple[str, ...],
    items: tuple[Item, ...],
    checks: tuple[Item, ...],
    raters: tuple[Rater, ...],
    raters_per_item: int,
    seed: int,
) -> Study:
    return Study(
        id=f"simulated-{seed}",
        kind=kind,
        title="simulated",
        consent="",
        models=models,
        items=items,
        checks=checks,
        raters=raters,
        raters_per_item=raters_per_item,
        owner_token="owner",
        seed=seed,
        picture_size=64,
    )
