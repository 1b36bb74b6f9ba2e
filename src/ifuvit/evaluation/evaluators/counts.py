"""Object counts: whether images of prompts like "three sheep" or "a bus left of an apple" show what was asked for."""

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ifuvit.evaluation.evaluators.base import Findings, Images, ImageSet, Setup
from ifuvit.evaluation.networks import open_counter
from ifuvit.metrics.counting.prompts import PROMPT_SETS
from ifuvit.utils.config import to_dict

if TYPE_CHECKING:
    from ifuvit.evaluation.targets import Target


class Counts:
    """See `Evaluator`. Objects of photographs are only counted by a detector, and not at all without one."""

    requires_reference = False
    requires_captions = False  # of a directory, the images whose prompts can be read are counted

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.counter = None
        if setup.detector is not None or setup.protocol.counts_scenes:
            self.counter = open_counter(
                setup.counter, detector=setup.detector, threshold=setup.threshold, device=setup.device
            )
        elif setup.processes.first:
            print("ifuvit: objects are not counted; photographs require --detector", file=sys.stderr)

    def facts(self) -> Mapping[str, Any]:
        if self.counter is None:
            return {}
        counter = to_dict(self.counter.facts())
        return {
            **{key: counter[key] for key in ("sha256", "threshold", "details")},
            "thresholds": list(self.setup.thresholds),
        }

    def image_sets(self) -> Sequence[ImageSet]:
        return [] if self.counter is None else counting_prompts(self.setup)

    def prepare(self) -> None:
        pass

    def __call__(self, images: Mapping[str, Images], target: "Target") -> Findings:
        from ifuvit.metrics.counting.counters import count_images

        if self.counter is None:
            return Findings()
        wanted = [name for name, _ in self.setup.protocol.count_prompts if name in images] or ["captions"]
        objects = {
            name: count_images(
                images[name].files,
                images[name].prompts,
                self.counter,
                thresholds=self.setup.thresholds,
                processes=self.setup.processes,
            )
            for name in wanted
        }
        return Findings(objects=objects, counter=self.counter.facts())


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
