"""Studies answered by simulated raters, whose preferences and errors are known, to check the analysis by.

A rater sees an image's utility: the model's strength, what the image and the rater's own taste add, and noise of a
Gumbel distribution, with which rankings follow a Plackett-Luce model. Counts are of images that show the asked number or
one that is wrong by one or two, and raters miscount some.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ifuvit.studies.analysis import analyze_study
from ifuvit.studies.answers import Answer
from ifuvit.studies.design import Assignment, Item, Rater, Study
from ifuvit.studies.preference import choice_stages, fit_strengths
from ifuvit.studies.ranks import average_ranks

AT = "2026-01-01T00:00:00+00:00"
KINDS = ("bus", "sheep", "person", "apple")
"""Those of the paper's prompts."""


@dataclass(frozen=True, kw_only=True)
class RaterModel:
    """How simulated raters differ from ideal ones."""

    image_spread: float = 0.6
    """Standard deviation of what an image adds to its model's strength, the same for all raters."""
    taste_spread: float = 0.3
    """Standard deviation of what a rater's taste adds to a model's strength."""
    slot_bias: float = 0.0
    """What the leftmost slot adds."""
    tie_below: float = 0.15
    """Images closer to each other than this in the order are tied."""
    skipped: float = 0.05
    """Share of items without an answer."""
    miscounts: float = 0.08
    """Share of images that a rater counts wrong by one, on average; raters differ by a factor of up to two."""
    careless: int = 0
    """How many raters, the last ones, answer at random."""


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
        repeats: items that every rater evaluators twice.
        checks: attention checks of every rater: the model of index 0 spoiled.
    """
    rng = np.random.default_rng(seed)
    models = tuple(strengths)
    number = len(models)
    images = rng.normal(scale=how.image_spread, size=(items, number))
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
            utility = utility + (0 if check else images[int(name[-4:])]) + rng.gumbel(size=number)
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
            tuple(Item(id=name, prompt=name, images=blank) for name in names),
            tuple(Item(id=name, prompt=name, images=blank) for name in check_names),
            tuple(Rater(id=name, token=name, tasks=own) for name, own in zip(people, tasks)),
            raters_per_item,
            seed,
        ),
        answers,
    )


def _ranks(utility: np.ndarray, tie_below: float) -> np.ndarray:
    """(..., M) ranks, 1 is best; an image closer than `tie_below` to the one before is tied with it, and the ranks after
    them are left out."""
    order = np.argsort(-utility, axis=-1)
    falling = np.take_along_axis(utility, order, axis=-1)
    begins = np.ones(utility.shape, bool)
    begins[..., 1:] = falling[..., :-1] - falling[..., 1:] >= tie_below
    by_place = np.maximum.accumulate(np.where(begins, np.arange(1, utility.shape[-1] + 1), 0), axis=-1)
    ranks = np.empty_like(utility)
    np.put_along_axis(ranks, order, by_place.astype(float), axis=-1)
    return ranks


def expected_order(
    strengths: dict[str, float], *, items: int, raters: int, raters_per_item: int, how: RaterModel, seed: int = 12345
) -> float:
    """The chance that a study of this design finds the models' order, from how far strengths that are fitted to so many
    independent answers scatter, and from what raters' tastes and images, which are few, scatter on top.

    It is the study's power: what any analysis could tell from so many comparisons of models so near each other.
    """
    rng = np.random.default_rng(seed)
    planted, answers, times = np.array(list(strengths.values())), items * raters_per_item, 200
    number = len(planted)
    utility = planted + rng.gumbel(size=(times * answers, number))
    utility += rng.normal(scale=np.hypot(how.image_spread, how.taste_spread), size=utility.shape)
    utility[np.arange(len(utility)), rng.integers(number, size=len(utility))] += how.slot_bias
    sets, stages = choice_stages(average_ranks(_ranks(utility, how.tie_below)))
    fitted = fit_strengths(stages.reshape(times, answers, -1).sum(1), sets)
    of_raters = how.taste_spread**2 * (1 / raters - 1 / answers)
    of_items = how.image_spread**2 * (1 / items - 1 / answers)
    # Images and tastes move all strengths toward each other, and so they do what these add.
    slope = fitted.mean(0) @ planted / ((planted - planted.mean()) @ planted)
    more = rng.normal(scale=slope * np.sqrt(of_raters + of_items), size=(100, times, number))
    order = np.argsort(-planted)
    return float((np.diff((fitted + more)[..., order], axis=-1) < 0).all(-1).mean())


# --------------------------------------------------------------------------------------------------------------- counts


def simulate_count(
    right: dict[str, float],
    *,
    raters: int,
    raters_per_item: int,
    how: RaterModel,
    seed: int,
    images_per_prompt: int = 10,
    repeats: int = 2,
    checks: int = 3,
) -> tuple[Study, list[Answer], dict[str, int]]:
    """A study of the paper's 20 prompts, its answers, and what the images really show, by item.

    Args:
        right: of each model, the share of its images that show the asked number; the others are wrong by one or two.
    """
    rng = np.random.default_rng(seed)
    models = tuple(right)
    items, shown = [], {}
    for model, share in enumerate(right.values()):
        for kind in KINDS:
            for asked in range(1, 6):
                for index in range(images_per_prompt):
                    name = f"item-{len(items):05d}"
                    wrong = int(rng.choice([-1, 1, 2])) if rng.random() >= share else 0
                    shown[name] = max(asked + wrong, 0)
                    items.append(
                        Item(
                            id=name,
                            prompt=f"{asked} {kind}",
                            images=(f"{name}.png",),
                            model=model,
                            kind=kind,
                            count=asked,
                            index=index,
                        )
                    )
    check_items = tuple(
        Item(id=f"check-{place}", prompt="check", images=("check.png",), kind=KINDS[0], count=1 + place % 5)
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


# ------------------------------------------------------------------------------------------------------------- coverage

Simulated = tuple[Study, list[Answer], dict[str, int] | None]
"""A study, its answers, and for a count what an automatic counter finds, by item."""


def flat_estimates(numbers: Any, name: str = "") -> dict[str, dict[str, Any]]:
    """Every number with an interval of an analysis, as {"points / a": estimate}."""
    if isinstance(numbers, dict) and "interval_from" in numbers:
        return {name: numbers}
    parts = numbers.items() if isinstance(numbers, dict) else enumerate(numbers) if isinstance(numbers, list) else ()
    found: dict[str, dict[str, Any]] = {}
    for key, part in parts:
        found |= flat_estimates(part, f"{name} / {key}" if name else str(key))
    return found


def coverage(
    simulate: Callable[[int], Simulated], *, truth: Simulated, planted: Sequence[str], studies: int, samples: int = 300
) -> dict[str, Any]:
    """How often the analysis of simulated studies finds what was planted.

    Args:
        simulate: makes the study of a seed.
        truth: a study so large that its numbers are what endlessly many items and raters would tell.
        planted: the models, best first.

    Returns:
        {"studies", "order_found": share of studies with the models in the planted order, by strength or match ratio,
        "covered": {number: share of studies whose 95 % interval has the truth in it}, "width": {number: mean width of the
        intervals}}, of every number that has an interval (`flat_estimates`).
    """

    def analyze(one: Simulated, seed: int, samples: int) -> dict[str, Any]:
        return analyze_study(one[0], one[1], automatic=one[2], samples=samples, seed=seed)["everyone"]

    true = flat_estimates(analyze(truth, 0, 2))
    found, seen = [], {name: [] for name in true}
    for seed in range(studies):
        numbers = analyze(simulate(seed), seed, samples)
        found.append(_order(numbers) == list(planted))
        for name, estimate in flat_estimates(numbers).items():
            low, high = estimate["interval"]
            seen[name].append((low <= true[name]["value"] <= high, high - low))
    covered, width = ({name: float(np.mean([one[n] for one in of])) for name, of in seen.items()} for n in (0, 1))
    return {"studies": studies, "order_found": float(np.mean(found)), "covered": covered, "width": width}


def _order(numbers: dict[str, Any]) -> list[str]:
    if "order" in numbers:
        return numbers["order"]
    return sorted(numbers["models"], key=lambda model: -numbers["models"][model]["overall"]["match_ratio"]["value"])


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
        image_size=64,
    )
