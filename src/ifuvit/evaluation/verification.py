"""Drawing images again until the object counter finds in them what their prompts ask for.

Chosen images say how good a model and a counter are together; an evaluation refuses them.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ifuvit.diffusion.settings import SamplingSettings
from ifuvit.evaluation.generate import Drawn
from ifuvit.evaluation.generation import write_png
from ifuvit.evaluation.targets import ImageGenerator
from ifuvit.metrics.counting.counters import ImageCounter, count_images


def verify(
    generator: ImageGenerator,
    prompts: Sequence[str],
    files: Sequence[Path],
    settings: SamplingSettings,
    counter: ImageCounter,
    *,
    seed: int,
    redraws: int,
    facts: Mapping[str, Any],
) -> list[Drawn]:
    """Draw images again that do not show what their prompts ask for.

    Args:
        generator, prompts, files, settings, seed: as for `generate_images`, which has drawn the N images.
        counter: says whether an image has exactly the asked objects, in the asked relation, on the asked ground.
        redraws: how often an image is drawn again at most. Draw k of image i starts from noise of (seed, i + k N). If none
            is right, the last one stays.
        facts: written as text into every PNG file.
    """
    found = [Drawn(index=place, draws=1, right=None) for place in range(len(files))]

    def look(places: Sequence[int]) -> list[int]:
        """Those of the places whose images are wrong."""
        images = count_images([files[place] for place in places], [prompts[place] for place in places], counter).images
        for place, image in zip(places, images, strict=True):
            asked = counter.parse(prompts[place])
            right = image.right if asked is None or image.ground == asked.ground else False
            found[place] = found[place]._replace(right=right)
        return [place for place in places if found[place].right is False]

    wrong = look(range(len(files)))
    for draw in range(1, redraws + 1):
        if wrong:
            print(f"ifuvit: --verify: {len(wrong)} of {len(files)} images are drawn again ({draw})", file=sys.stderr)
        for place in wrong:
            index = place + draw * len(files)
            (image,) = generator([prompts[place]], settings, seed=seed, batch_size=1, first_index=index)
            write_png(files[place], image, {**facts, "prompt": prompts[place], "index": index})
            found[place] = Drawn(index=index, draws=draw + 1, right=None)
        wrong = look(wrong)
    return found
