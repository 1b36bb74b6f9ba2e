"""Counting the objects in images of prompts like "three sheep", and scoring what was counted.

The paper has people count (Eqs. 9 and 10). Here a counter does: for the kinds of OpenMoji Scenes a small network whose
own error is known, since the contents of scenes are; for photographs a zero-shot detector
(`ifuvit.metrics.counting.zero_shot`).
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from ifuvit.data.images import ImageSource, load_image, to_tensor
from ifuvit.metrics.counting.counter_network import ObjectCounter, read_squares
from ifuvit.metrics.counting.grounds import ground_of
from ifuvit.metrics.counting.parsing import Asked, AskedRelation, parse_prompt
from ifuvit.metrics.counting.scores import Detection, counts, is_right, score
from ifuvit.metrics.intervals import estimate, share
from ifuvit.results import CountedImage, Counter, ObjectCounts, ObjectScores, ScoresAtThreshold, SecondCount
from ifuvit.utils.distributed import Processes, merge_shares
from ifuvit.utils.errors import InputError

_BATCH_SIZE = 100


class ImageCounter(Protocol):
    """What finds the objects that a prompt asks for."""

    every_kind: bool
    """Whether it finds objects of every kind of OpenMoji Scenes, not of the asked kind alone."""
    threshold: float
    """Least score of what counts."""

    def parse(self, prompt: str) -> Asked | AskedRelation | None:
        """What a prompt asks for; None if this counter cannot read it."""
        ...

    def find(
        self, files: Sequence[ImageSource], asked: Sequence[Asked | AskedRelation], *, threshold: float
    ) -> list[list[Detection]]:
        """The objects in every image with at least this score, the surest first. What a higher threshold finds is a
        part of what a lower one finds."""
        ...

    def facts(self) -> Counter:
        """Which counter it is, and how well it counts."""
        ...


class SceneCounter:
    """Counts the 42 kinds of OpenMoji Scenes by an `ObjectCounter` whose error was measured."""

    every_kind = True

    def __init__(self, network: ObjectCounter, *, name: str, sha256: str, errors: Mapping[str, ObjectScores]) -> None:
        self.network, self.name, self.sha256, self.errors = network, name, sha256, errors
        self.threshold = network.config.threshold

    def parse(self, prompt: str) -> Asked | AskedRelation | None:
        return parse_prompt(prompt)

    def find(
        self, files: Sequence[ImageSource], asked: Sequence[Asked | AskedRelation], *, threshold: float
    ) -> list[list[Detection]]:
        found: list[list[Detection]] = []
        for start in range(0, len(files), _BATCH_SIZE):
            images = read_squares(files[start : start + _BATCH_SIZE], self.network.config.image_size)
            found += self.network.detect(to_tensor(images), threshold=threshold)
        return found

    def facts(self) -> Counter:
        return Counter(name=self.name, threshold=self.threshold, sha256=self.sha256, errors=self.errors)


def count_images(
    files: Sequence[ImageSource],
    prompts: Sequence[str],
    counter: ImageCounter,
    *,
    thresholds: Sequence[float] = (),
    processes: Processes | None = None,
) -> ObjectCounts:
    """Count the objects in images, and score whether they show what their prompts ask for.

    Args:
        files: N images.
        prompts: what each was generated from. Images whose prompt the counter cannot read are listed, but not scored.
        counter: its own threshold gives the scores.
        thresholds: further ones, for which the overall scores are computed as well.
        processes: those that call this together, each with a share of the images; alone by default.

    Raises:
        InputError: not as many prompts as files, or a file that is not an image.
    """
    if len(files) != len(prompts):
        raise InputError(f"{len(files)} images, {len(prompts)} prompts; give as many of both")
    assert all(0 < threshold < 1 for threshold in thresholds)
    read = [counter.parse(prompt) for prompt in prompts]
    asked = [one for one in read if one is not None]
    scored = [file for file, one in zip(files, read) if one is not None]
    processes = processes or Processes()
    shown, wanted = processes.share(scored), processes.share(asked)
    least = min([counter.threshold, *thresholds])
    every = merge_shares(processes.all_gather(lambda: counter.find(shown, wanted, threshold=least)))
    grounds = merge_shares(processes.all_gather(lambda: list(map(_ground, shown, wanted))))

    def at(threshold: float) -> list[list[Detection]]:
        return [[one for one in objects if one.score >= threshold] for objects in every]

    def overall(threshold: float) -> ScoresAtThreshold:
        scores = score(asked, at(threshold), grounds=grounds, every_kind=counter.every_kind)
        return ScoresAtThreshold(
            threshold=threshold,
            counts=scores.counts and scores.counts.overall,
            relations=scores.relations and scores.relations.overall,
        )

    found = at(counter.threshold)
    scores = score(asked, found, grounds=grounds, every_kind=counter.every_kind)
    of_image = iter(zip(asked, found, grounds, strict=True))

    def counted(file: ImageSource, prompt: str) -> CountedImage:
        one, objects, ground = next(of_image)
        return CountedImage(
            file=file.name,
            prompt=prompt,
            counted=counts(objects),
            objects=tuple((one.kind, round(one.x, 1), round(one.y, 1), round(one.score, 3)) for one in objects),
            right=is_right(one, objects, every_kind=counter.every_kind),
            ground=ground,
        )

    return ObjectCounts(
        counts=scores.counts,
        relations=scores.relations,
        thresholds=tuple(map(overall, thresholds)),
        images=tuple(
            CountedImage(file=file.name, prompt=prompt) if one is None else counted(file, prompt)
            for file, prompt, one in zip(files, prompts, read)
        ),
    )


def _ground(file: ImageSource, asked: Asked | AskedRelation) -> str | None:
    """The ground of an image whose prompt names one; "other" for none of the known ones."""
    return None if asked.ground is None else ground_of(np.asarray(load_image(file))) or "other"


def second_count(
    first: Mapping[str, ObjectCounts], second: Mapping[str, ObjectCounts], counter: Counter
) -> SecondCount:
    """How far two counters agree about the same images.

    Args:
        first: what was found by set of prompts.
        second: what `counter` found in the same sets.
    """
    pairs = {
        name: [(a, b) for a, b in zip(first[name].images, second[name].images, strict=True) if a.right is not None]
        for name in second
    }
    read = {name: of_set for name, of_set in pairs.items() if of_set}
    return SecondCount(
        counter=counter,
        scores={name: ObjectScores(counts=one.counts, relations=one.relations) for name, one in second.items()},
        same_verdict={name: share([float(a.right == b.right) for a, b in of_set]) for name, of_set in read.items()},
        same_objects={name: share([float(a.counted == b.counted) for a, b in of_set]) for name, of_set in read.items()},
        difference={
            name: estimate([float(bool(a.right)) - float(bool(b.right)) for a, b in of_set])
            for name, of_set in read.items()
        },
    )
