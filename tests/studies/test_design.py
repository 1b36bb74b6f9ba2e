"""Who sees what: everybody's share is fair, orders are random, and repeats and checks are where they should be."""

from collections import Counter

import numpy as np
import pytest

from ifuvit.studies.design import (
    TASKS_BEFORE_CHECKS,
    Item,
    Rater,
    Study,
    assign,
    interval_width,
    items_needed,
    make_raters,
    new_token,
    raters_needed,
)
from ifuvit.utils.errors import InputError

MODELS = 4


def items(number: int, *, kind: str) -> list[Item]:
    if kind == "preference":
        return [Item(id=f"i{n}", prompt="a", images=tuple("wxyz")) for n in range(number)]
    return [Item(id=f"i{n}", prompt="a", images=("x",), model=n % MODELS, kind="bus", count=1) for n in range(number)]


def checks(number: int, *, kind: str) -> list[Item]:
    if kind == "preference":
        return [Item(id=f"c{n}", prompt="a", images=tuple("wxyz"), model=n % MODELS) for n in range(number)]
    return [Item(id=f"c{n}", prompt="a", images=("x",), kind="bus", count=n) for n in range(number)]


def assigned(rated: list[Item], own_checks: list[Item], *, kind: str, raters_per_item: int, **sizes):
    """The tasks of raters where every item is for as many of them."""
    wanted = {item.id: raters_per_item for item in rated}
    return assign(rated, own_checks, kind=kind, models=MODELS, wanted=wanted, **sizes)  # type: ignore[arg-type]


def plan(kind: str, seed: int):
    """An assignment of sizes drawn at random."""
    rng = np.random.default_rng(seed)
    raters = int(rng.integers(1, 13))
    sizes = {"raters": raters, "raters_per_item": int(rng.integers(1, raters + 1)), "seed": seed}
    rated = items(int(rng.integers(raters * 4, 120)), kind=kind)
    practice = [
        Item(id=f"p{n}", prompt="a", images=own.images, model=own.model) for n, own in enumerate(checks(2, kind=kind))
    ]
    tasks = assigned(rated, checks(3, kind=kind), kind=kind, practice=practice, repeats=2, **sizes)
    return rated, sizes, tasks


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("kind", ["count", "preference"])
def test_shares_are_balanced(kind: str, seed: int) -> None:
    rated, sizes, tasks = plan(kind, seed)
    shares = [[task.item for task in own if task.purpose == "rating"] for own in tasks]
    assert all(len(set(share)) == len(share) for share in shares)
    assert Counter(item for share in shares for item in share) == dict.fromkeys(
        (item.id for item in rated), sizes["raters_per_item"]
    )
    loads = [len(share) for share in shares]
    assert max(loads) - min(loads) <= 1
    if kind == "count":
        model = {item.id: item.model for item in rated}
        for number in range(MODELS):
            of_model = [sum(model[item] == number for item in share) for share in shares]
            assert max(of_model) - min(of_model) <= 2


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("kind", ["count", "preference"])
def test_practice_repeats_and_checks(kind: str, seed: int) -> None:
    _, _, tasks = plan(kind, seed)
    for whole in tasks:
        assert [(task.item, task.expected) for task in whole[:2]] == [("p0", None), ("p1", None)]
        own = whole[2:]
        first = {task.item: place for place, task in enumerate(own) if task.purpose == "rating"}
        repeats = [(place, task) for place, task in enumerate(own) if task.purpose == "repeat"]
        assert len({task.item for _, task in repeats}) == len(repeats) == min(2, len(first) // 2)
        for place, task in repeats:
            assert place > first[task.item], "a repeat comes later than what it repeats"
            assert place >= 2 * len(own) / 3, "it is in the last third"
        own_checks = {task.item: task.expected for task in own if task.purpose == "check"}
        assert own_checks == {"c0": 0, "c1": 1, "c2": 2}
        assert all(task.purpose == "rating" for task in own[:TASKS_BEFORE_CHECKS]), "no check is among the first"
        assert all(task.expected is None for task in own if task.purpose != "check")


def test_orders_are_random_and_independent() -> None:
    tasks = assigned(
        items(300, kind="preference"), [], kind="preference", raters=6, raters_per_item=4, repeats=0, seed=1
    )
    orders = [task.order for own in tasks for task in own]
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders)
    seen = Counter(orders)
    assert len(seen) == 24
    # 1,200 orders, 50 of each expected: chi-square with 23 degrees of freedom exceeds 49.7 once in a thousand.
    assert sum((number - 50) ** 2 / 50 for number in (*seen.values(),)) < 49.7
    places = Counter((slot, model) for order in orders for slot, model in enumerate(order))
    assert all(abs(number - 300) < 75 for number in places.values())  # five standard deviations
    by_item: dict[str, set] = {}
    for own in tasks:
        for task in own:
            by_item.setdefault(task.item, set()).add(task.order)
    assert np.mean([len(found) for found in by_item.values()]) > 3.5, "another order for every rater of an item"


def test_the_order_of_tasks_differs_between_raters() -> None:
    tasks = assigned(items(30, kind="count"), [], kind="count", raters=3, raters_per_item=3, repeats=0, seed=0)
    assert len({tuple(task.item for task in own) for own in tasks}) == 3


def test_the_same_seed_gives_the_same_plan() -> None:
    assert plan("preference", 7) == plan("preference", 7)
    one, other = (
        assigned(items(20, kind="count"), [], kind="count", raters=4, raters_per_item=2, repeats=1, seed=s)
        for s in (1, 2)
    )
    assert one != other


def test_tokens_cannot_be_guessed_and_do_not_follow_from_the_seed() -> None:
    tokens = {rater.token for _ in range(20) for rater in make_raters([(), (), ()])}
    assert len(tokens) == 60 and min(map(len, tokens)) >= 32
    assert [rater.id for rater in make_raters([()] * 3)] == ["r01", "r02", "r03"]


def test_a_study_is_checked() -> None:
    def study(*tasks) -> Study:
        return Study(
            id="s", kind="preference", title="", consent="", models=("a", "b"), items=(Item(id="i", prompt="", images=("x", "y")),),
            checks=(), raters=(Rater(id="r", token=new_token(), tasks=tasks),), raters_per_item=1, owner_token="t", seed=0, image_size=8,
        )  # fmt: skip

    (task,) = assign(study().items, (), kind="preference", models=2, raters=1, wanted={"i": 1}, repeats=0, seed=3)[0]
    assert study(task).images(task) == tuple(("x", "y")[model] for model in task.order)
    for order in ((0,), (0, 0), (0, 2), ()):
        with pytest.raises(InputError, match="is not one of models"):
            study(type(task)(item="i", order=order))
    with pytest.raises(InputError, match="there is no item 'j'"):
        study(type(task)(item="j", order=(0, 1)))


def test_how_many_raters() -> None:
    for width in (0.08, 0.1, 0.2):
        needed = raters_needed(width, items=400, deviation=0.5)
        assert needed is not None
        assert interval_width(items=400, raters_per_item=needed, deviation=0.5) <= width + 1e-12
        assert needed == 1 or interval_width(items=400, raters_per_item=needed - 1, deviation=0.5) > width
    assert raters_needed(0.05, items=400, deviation=0.5) is None, "items alone vary more than that"
    enough = items_needed(0.05, raters_per_item=3, deviation=0.5)
    assert interval_width(items=enough, raters_per_item=3, deviation=0.5) <= 0.05
    assert interval_width(items=enough - 1, raters_per_item=3, deviation=0.5) > 0.05


def test_the_expected_width_is_that_of_simulated_studies() -> None:
    rng = np.random.default_rng(0)
    number, raters, share = 50, 4, 0.5
    items_part = rng.normal(0, share**0.5, (4000, number, 1))
    answers = items_part + rng.normal(0, (1 - share) ** 0.5, (4000, number, raters))
    spread = 2 * 1.96 * answers.mean((1, 2)).std()
    assert interval_width(items=number, raters_per_item=raters, deviation=1.0, between_items=share) == pytest.approx(
        spread, rel=0.05
    )
