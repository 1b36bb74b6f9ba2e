"""What the page and the process of the models tell each other. No torch here: the page needs none."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ifuvit.analysis.words import PromptTokens
from ifuvit.diffusion.settings import SamplingSettings
from ifuvit.utils.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

ALL_BLOCKS = "mean of all blocks"
"""In place of the name of a block."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """Images to generate."""

    prompt: str
    negative_prompt: str = ""
    """Empty is the null caption."""
    seed: int
    images: int
    settings: SamplingSettings

    def check(self, *, max_steps: int, max_images: int) -> None:
        """Refuse what the page's fields would not let through, for the server can be asked without them.

        Raises:
            InputError: an empty prompt, or a number outside its limits.
        """
        if not self.prompt.strip():
            raise InputError("the prompt is empty; say what to draw, as three sheep on grass")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed {self.seed}: must be from 0 to {2**32 - 1}")
        for name, value, most in (("steps", self.settings.steps, max_steps), ("images", self.images, max_images)):
            if not 1 <= value <= most:
                raise InputError(f"{name} {value}: must be from 1 to {most} here")


@dataclass(frozen=True, kw_only=True)
class WordMaps:
    """Where the patches of each image look in the prompt: means over heads and steps."""

    tokens: PromptTokens
    maps: dict[str, np.ndarray]
    """By fused block, and `ALL_BLOCKS`: (images, words, S, S)."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Images on their way."""

    step: int
    """Evaluations of the network done. Solvers of higher order take more than one a step."""
    images: "list[Image]"
    """What the network expects them to become; at the end, what they are."""
    seconds: float
    finished: bool = False
    attention: WordMaps | str = ""
    """When finished: the maps, or why there are none."""
