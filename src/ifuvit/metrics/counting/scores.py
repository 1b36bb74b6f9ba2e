"""Scores of images by the objects that were found in them: the paper's counting scores (Eqs. 9 and 10), and relations.

Every share has Wilson's interval and every other mean a bootstrap interval, over images. docs/counting.md explains every
score.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from ifuvit.data.scenes import MAX_COUNT, Relation, is_held_out_count, is_held_out_relation
from ifuvit.metrics.counting.parsing import Asked, AskedRelation
from ifuvit.metrics.intervals import estimate, share
from ifuvit.results import Confusion, Counts, CountScores, ObjectScores, Relations, RelationScores
from ifuvit.utils.errors import InputError

S = TypeVar("S", CountScores, RelationScores)


class Detection(NamedTuple):
    """One object found."""

    kind: str
    x: float
    """Of its center, in pixels from the left."""
    y: float
    """Of its center, in pixels from the top."""
    score: float
    """How sure the network is that an object's center is there, 0 to 1."""


def counts(objects: Sequence[Detection]) -> dict[str, int]:
    """Objects by kind, the most frequent kind first."""
    numbers: dict[str, int] = {}
    for one in objects:
        numbers[one.kind] = numbers.get(one.kind, 0) + 1
    return dict(sorted(numbers.items(), key=lambda item: (-item[1], item[0])))


def relation_holds(relation: Relation, first: tuple[float, float], second: tuple[float, float]) -> bool:
    """Whether a center (x, y) stands in `relation` to another: in the right direction, and farther along the relation's
    axis than across it (scenes keep to half as far across). y grows downward."""
    dx, dy = second[0] - first[0], second[1] - first[1]
    if relation in ("left of", "right of"):
        return abs(dx) >= abs(dy) and (dx > 0) == (relation == "left of") and dx != 0
    return abs(dy) >= abs(dx) and (dy > 0) == (relation == "above") and dy != 0


def relation_of(objects: Sequence[Detection], first: str, relation: Relation, second: str) -> bool:
    """Whether the surest object of kind `first` stands in `relation` to the surest one of kind `second`."""
    places = [next(((one.x, one.y) for one in objects if one.kind == kind), None) for kind in (first, second)]
    return places[0] is not None and places[1] is not None and relation_holds(relation, places[0], places[1])


# ------------------------------------------------------------------------------------------------------------- scores


def is_right(asked: Asked | AskedRelation, objects: Sequence[Detection], *, every_kind: bool = True) -> bool:
    """Whether an image shows exactly the objects that its prompt asks for, in the asked relation.

    Args:
        asked: what the prompt asks for; its ground is another question.
        objects: what was found, the surest first.
        every_kind: whether objects of every kind were looked for, not of the asked kind alone.
    """
    kinds = sorted(one.kind for one in objects)
    if isinstance(asked, AskedRelation):
        exact = kinds == sorted((asked.first, asked.second))
        return exact and relation_of(objects, asked.first, asked.relation, asked.second)
    return kinds.count(asked.kind) == asked.count and (not every_kind or len(kinds) == asked.count)


def count_metrics(
    asked: Sequence[tuple[str, int]],
    counted: Sequence[int],
    *,
    objects: Sequence[int] | None = None,
    right_ground: Sequence[bool | None] | None = None,
) -> Counts:
    """The paper's counting scores (Eqs. 9 and 10).

    Args:
        asked: (kind, count) of every image's prompt.
        counted: how many objects of the asked kind each image shows.
        objects: how many objects of any kind of OpenMoji Scenes each image shows, where all kinds were looked for.
        right_ground: whether each image has the ground that its prompt names; None where it names none.

    Returns:
        Scores over all images, by count, by object and by both (cells), and the confusion of asked and counted numbers.
        Without `objects` only the average error and the match ratio are measured; with them also, in all but the cells,
        `right_kind` (there are objects, all of the asked kind), `right_count` (as many objects as asked, of whatever
        kinds) and `right` (both), and combinations "in training" scenes are kept apart from "held out" ones.

    Raises:
        InputError: the arguments differ in length.
    """
    if len(asked) != len(counted):
        raise InputError(f"{len(asked)} images asked for, {len(counted)} counted; give as many of both")
    if objects is not None and len(objects) != len(counted):
        raise InputError(f"{len(objects)} numbers of objects, {len(counted)} counted; give as many of both")
    values: dict[str, list[float | None]] = {}
    if objects is not None:
        found = list(zip(asked, counted, objects))
        values["right_kind"] = [float(0 < number == total) for _, number, total in found]
        values["right_count"] = [float(total == count) for (_, count), _, total in found]
        values["right"] = [float(number == total == count) for (_, count), number, total in found]
    equations: dict[str, list[float | None]] = {
        "average_error": [float(abs(number - count)) for (_, count), number in zip(asked, counted)],
        "match_ratio": [float(number == count) for (_, count), number in zip(asked, counted)],
    }
    values |= equations | _grounds(right_ground)
    combinations = [_combination(is_held_out_count(*one)) if objects is not None else None for one in asked]
    return Counts(
        overall=_means(CountScores, values, range(len(asked))),
        by_count=_means_by(CountScores, [count for _, count in asked], values),
        by_object=_means_by(CountScores, [kind for kind, _ in asked], values),
        by_combination=_means_by(CountScores, combinations, values),
        cells={
            kind: _means_by(CountScores, [count if one == kind else None for one, count in asked], equations)
            for kind in sorted({kind for kind, _ in asked})
        },
        confusion=_confusion([count for _, count in asked], counted),
    )


def relation_metrics(
    asked: Sequence[AskedRelation],
    found: Sequence[Sequence[Detection]],
    *,
    right_ground: Sequence[bool | None] | None = None,
) -> Relations:
    """Whether images show two objects in the asked relation.

    Args:
        asked: what every image's prompt asks for.
        found: the objects of whatever kind in each.
        right_ground: whether each image has the ground that its prompt names; None where it names none.

    Returns:
        Shares over all images, by relation, and by combination ("in training" or "held out").
    """
    values: dict[str, list[float | None]] = {}
    for one, objects in zip(asked, found, strict=True):
        kinds = [thing.kind for thing in objects]
        placed = relation_of(objects, one.first, one.relation, one.second)
        both = one.first in kinds and one.second in kinds
        exact = sorted(kinds) == sorted((one.first, one.second))
        row = {"both_kinds": both, "right_objects": exact, "right": is_right(one, objects)}
        for name, value in {**row, "placed_if_both_kinds": placed if both else None}.items():
            values.setdefault(name, []).append(None if value is None else float(value))
    values |= _grounds(right_ground)
    combinations = [_combination(is_held_out_relation(one.first, one.relation, one.second)) for one in asked]
    return Relations(
        overall=_means(RelationScores, values, range(len(asked))),
        by_relation=_means_by(RelationScores, [one.relation for one in asked], values),
        by_combination=_means_by(RelationScores, combinations, values),
    )


def _grounds(right_ground: Sequence[bool | None] | None) -> dict[str, list[float | None]]:
    if right_ground is None or all(one is None for one in right_ground):
        return {}
    return {"right_ground": [None if one is None else float(one) for one in right_ground]}


def score(
    asked: Sequence[Asked | AskedRelation],
    found: Sequence[Sequence[Detection]],
    *,
    grounds: Sequence[str | None] | None = None,
    every_kind: bool = True,
) -> ObjectScores:
    """Scores of images by what was found in them.

    Args:
        asked: what each image was to show.
        found: the objects in each, the surest first.
        grounds: the ground of each, where its prompt names one.
        every_kind: whether objects of every kind of OpenMoji Scenes were looked for, not of the asked kind alone.

    Returns:
        `count_metrics` of the images of one kind, and `relation_metrics` of those of two; None where there are none.
    """
    right_ground = [
        None if one.ground is None else ground == one.ground
        for one, ground in zip(asked, grounds or [None] * len(asked), strict=True)
    ]
    rows = list(zip(asked, found, right_ground, strict=True))
    singles = [(one, objects, right) for one, objects, right in rows if isinstance(one, Asked)]
    pairs = [(one, objects, right) for one, objects, right in rows if isinstance(one, AskedRelation)]
    counts = relations = None
    if singles:
        counts = count_metrics(
            [(one.kind, one.count) for one, _, _ in singles],
            [sum(thing.kind == one.kind for thing in objects) for one, objects, _ in singles],
            objects=[len(objects) for _, objects, _ in singles] if every_kind else None,
            right_ground=[right for _, _, right in singles],
        )
    if pairs:
        relations = relation_metrics(
            [one for one, _, _ in pairs],
            [objects for _, objects, _ in pairs],
            right_ground=[right for _, _, right in pairs],
        )
    return ObjectScores(counts=counts, relations=relations)


def _combination(held_out: bool) -> str:
    return "held out" if held_out else "in training"


def _means(scores: type[S], values: Mapping[str, Sequence[float | None]], places: Sequence[int]) -> S:
    """The estimate of every value over the images at `places`, but those where it is None."""
    means: dict[str, Any] = {}
    for name, of_all in values.items():
        chosen = [value for place in places if (value := of_all[place]) is not None]
        of = estimate if name == "average_error" else share
        means[name] = of(chosen) if chosen else None
    return scores(images=len(places), **means)


def _means_by(scores: type[S], keys: Sequence[Any], values: Mapping[str, Sequence[float | None]]) -> dict[str, S]:
    """`_means` of every group of images with the same key; those whose key is None are in none."""
    return {
        str(key): _means(scores, values, [place for place, one in enumerate(keys) if one == key])
        for key in sorted(set(keys) - {None})
    }


def _confusion(asked: Sequence[int], counted: Sequence[int]) -> Confusion:
    most = max([MAX_COUNT, *asked])
    rows = {str(count): [0] * (most + 2) for count in range(1, most + 1)}
    for count, number in zip(asked, counted):
        rows[str(count)][min(number, most + 1)] += 1
    return Confusion(
        counted=(*map(str, range(most + 1)), "more"), asked={count: tuple(row) for count, row in rows.items()}
    )
