"""Features of image files, against the feature network's own forward pass on images that are in memory already."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ifuvit.benchmarks.timing import Case, Step
from ifuvit.data.images import load_image
from ifuvit.metrics.distances.feature_networks import extract_features

if TYPE_CHECKING:
    from ifuvit.metrics.distances.feature_networks import FeatureNetwork

ALONE = "network alone"


def extraction_cases(
    network: "FeatureNetwork", files: Sequence[Path], *, batch_size: int, workers: int | None
) -> list[Case]:
    """The network alone, and `extract_features`, which reads, stacks and prepares the images and checks the features.

    Args:
        files: images of one size. A step deals with all of them.
        batch_size: images at a time, for both.
        workers: threads that read; None as `extract_features` has it.
    """

    def alone() -> Step:
        images = torch.from_numpy(np.stack([np.asarray(load_image(file)) for file in files])).permute(0, 3, 1, 2)
        inputs = [network.preparation(part.to(network.device)) for part in images.split(batch_size)]

        def step() -> None:
            for part in inputs:
                network.module(part)

        return step

    def extract() -> None:
        extract_features(network, files, batch_size=batch_size, workers=workers)

    return [
        Case(name=ALONE, prepare=alone, items=len(files), within=torch.no_grad),
        Case(name="extract_features", prepare=lambda: extract, items=len(files), base=ALONE),
    ]
