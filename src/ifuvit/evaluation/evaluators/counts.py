"""Object counts: whether images of prompts like "three sheep" or "a bus left of an apple" show what was asked for."""

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ifuvit.evaluation.evaluators.base import Findings, Images, ImageSet, Setup
from ifuvit.evaluation.networks import open_counter
from ifuvit.metrics.counting.counters import ImageCounter, count_images, second_count
from ifuvit.metrics.counting.prompts import PROMPT_SETS
from ifuvit.results import ObjectCounts
from ifuvit.utils.config import to_dict

if TYPE_CHECKING:
    from ifuvit.evaluation.targets import Target


class Counts:
    """See `Evaluator`. Objects of photographs are only counted by a detector, and not at all without one."""

    requires_reference = False
    requires_captions = False  # of a directory, the images whose prompts can be read are counted

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.counters: list[ImageCounter] = []
        if setup.detector is not None or setup.protocol.counts_scenes:
            self.counters = [
                open_counter(counter, detector=setup.detector, threshold=setup.threshold, device=setup.device)
                for counter in setup.counters
            ]
        elif setup.processes.first:
            print("ifuvit: objects are not counted; photographs require --detector", file=sys.stderr)

    def facts(self) -> Mapping[str, Any]:
        if not self.counters:
            return {}
        first, *others = (to_dict(counter.facts()) for counter in self.counters)
        return {
            **{key: first[key] for key in ("sha256", "threshold", "details")},
            "thresholds": list(self.setup.thresholds),
            "second_counters": [one["sha256"] for one in others],
        }

    def image_sets(self) -> Sequence[ImageSet]:
        return counting_prompts(self.setup) if self.counters else []

    def prepare(self) -> None:
        pass

    def __call__(self, images: Mapping[str, Images], target: "Target") -> Findings:
        if not self.counters:
            return Findings()
        wanted = [name for name, _ in self.setup.protocol.count_prompts if name in images] or ["captions"]

        def count(counter: ImageCounter, thresholds: Sequence[float]) -> dict[str, ObjectCounts]:
            return {
                name: count_images(
                    images[name].files,
                    images[name].prompts,
                    counter,
                    thresholds=thresholds,
                    processes=self.setup.processes,
                )
                for name in wanted
            }

        first, *others = self.counters
        objects = count(first, self.setup.thresholds)
        return Findings(
            objects=objects,
            counter=first.facts(),
            second_counts=tuple(second_count(objects, count(other, ()), other.facts()) for other in others),
        )


def counting_prompts(setup: Setup) -> list[ImageSet]:
    """The protocol's counting prompts, for a model to generate, several images a prompt."""
    return [
        ImageSet(
            name=name,
            prompts=[prompt for prompt in PROMPT_SETS[name] for _ in range(images)],
            guidance_scale=setup.protocol.count_guidance_scale,
        )
        for name, images in setup.protocol.count_prompts
    ]
