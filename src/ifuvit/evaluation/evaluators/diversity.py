"""Diversity: how much images of the same prompt differ, as a model that gives one image again and again would not show."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ifuvit.evaluation.evaluators.base import Findings, Images, ImageSet, Setup
from ifuvit.evaluation.evaluators.counts import counting_prompts
from ifuvit.metrics.intervals import estimate
from ifuvit.results import Metric
from ifuvit.utils.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from ifuvit.evaluation.targets import Target


class Diversity:
    """See `Evaluator`. Over the protocol's first set of counting prompts, which has several images a prompt."""

    requires_reference = False
    requires_captions = True

    def __init__(self, setup: Setup) -> None:
        from ifuvit.metrics.distances.feature_networks import load_feature_network

        self.setup = setup
        self.networks = [
            load_feature_network(
                name, weights=setup.weights.get(name), resize=setup.protocol.resize, device=setup.device
            )
            for name in setup.protocol.networks
        ]

    def facts(self) -> Mapping[str, Any]:
        return {"networks": [network.facts() for network in self.networks]}

    def image_sets(self) -> Sequence[ImageSet]:
        return counting_prompts(self.setup)[:1]

    def prepare(self) -> None:
        pass

    def __call__(self, images: Mapping[str, Images], target: "Target") -> Findings:
        from ifuvit.metrics.distances.feature_networks import extract_features

        wanted = next((name for name, _ in self.setup.protocol.count_prompts[:1] if name in images), "captions")
        metrics = []
        for network in self.networks:
            features = extract_features(network, images[wanted].files, size=self.setup.protocol.size)
            found = estimate(pairwise_distances(features, images[wanted].prompts), over="prompts")
            metrics.append(
                Metric(
                    **vars(found),
                    name=f"diversity{network.suffix}",
                    subject="coverage",
                    better="higher",
                    network=network.facts(),
                )
            )
        return Findings(metrics=tuple(metrics))


def pairwise_distances(features: "np.ndarray", prompts: Sequence[str]) -> list[float]:
    """The mean cosine distance, 1 - cos, between pairs of images of the same prompt, for each prompt with several.

    Args:
        features: (N, D).
        prompts: of each image.

    Raises:
        InputError: no prompt has two images.
    """
    import numpy as np

    unit = features.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    groups: dict[str, list[int]] = {}
    for place, prompt in enumerate(prompts):
        groups.setdefault(prompt, []).append(place)
    several = [unit[places] for places in groups.values() if len(places) > 1]
    if not several:
        raise InputError("diversity requires several images of a prompt; give --count-prompts paper=10, or more images")
    # Of N unit vectors, the sum over all pairs of one with another is |their sum|² - N.
    return [float(1 - ((one.sum(0) ** 2).sum() - len(one)) / (len(one) * (len(one) - 1))) for one in several]
