"""What a model can do, skill by skill: each the share of right images of one set of prompts."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, NamedTuple

from ifuvit.metrics.intervals import estimate
from ifuvit.results import COUNT_SCORES, RELATION_SCORES, Metric, Metrics, ObjectCounts


class Skill(NamedTuple):
    """A score of one set of prompts."""

    prompts: str
    """The set."""
    part: Literal["counts", "relations"]
    score: str
    """A field of `CountScores` or `RelationScores`."""


SKILLS: Mapping[str, Skill] = {
    "right kind": Skill("grounds", "counts", "right_kind"),
    "right ground": Skill("grounds", "counts", "right_ground"),
    "right kind and count": Skill("paper", "counts", "right"),
    "match ratio of counts": Skill("paper", "counts", "match_ratio"),
    "average error of counts": Skill("paper", "counts", "average_error"),
    "relation": Skill("relations", "relations", "right"),
    "held-out counts": Skill("held-out-counts", "counts", "right"),
    "held-out relations": Skill("held-out-relations", "relations", "right"),
    "paraphrased counts": Skill("paraphrases", "counts", "right"),
    "paraphrased relations": Skill("relation-paraphrases", "relations", "right"),
}
"""By the metric's name, in the order of tables."""
_LOSSES = {
    "lost by paraphrase, counts": ("paper", "paraphrases"),
    "lost by paraphrase, relations": ("relations", "relation-paraphrases"),
}


def skill_metrics(objects: Mapping[str, ObjectCounts]) -> Metrics:
    """The skills that were measured, as metrics.

    What paraphrases lose is the difference of both shares of right images; where the sets have as many images, image i of
    both starts from the same noise and asks for the same, and the interval is that of paired differences.

    Args:
        objects: of an evaluation, by set of prompts.
    """
    found = []
    for name, skill in SKILLS.items():
        scores = getattr(objects.get(skill.prompts), skill.part, None)
        if (one := scores and getattr(scores.overall, skill.score)) is None:
            continue
        shown = (COUNT_SCORES if skill.part == "counts" else RELATION_SCORES)[skill.score]
        found.append(Metric(**vars(one), name=name, subject="counts", unit=shown.unit, better=shown.better))
    for name, (plain, paraphrased) in _LOSSES.items():
        if plain in objects and paraphrased in objects:
            found += _loss(name, objects[plain], objects[paraphrased])
    return tuple(found)


def _loss(name: str, plain: ObjectCounts, paraphrased: ObjectCounts) -> list[Metric]:
    sides = [[float(one.right) for one in side.images if one.right is not None] for side in (plain, paraphrased)]
    if not all(sides):
        return []
    if len(sides[0]) == len(sides[1]):
        lost = estimate([before - after for before, after in zip(*sides)])
    else:
        before, after = (estimate(side) for side in sides)
        lost = replace(before, value=before.value - after.value, interval=None, interval_from=None)
    return [Metric(**vars(lost), name=name, subject="counts", unit="share", better="lower")]
