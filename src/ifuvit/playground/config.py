"""Settings of `ifuvit playground`."""

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import arg

from ifuvit.diffusion.settings import DEFAULT_SETTINGS, MAX_STEPS
from ifuvit.utils.config import Range, check
from ifuvit.utils.errors import InputError


@dataclass(frozen=True, kw_only=True)
class PlaygroundConfig:
    """Serve a page to try models on, until interrupted: two models side by side on the same seed, the image growing step by
    step, and where each word of the prompt is looked at. It works offline. Requires the extra "playground".

    Example:
        ifuvit playground --model openmoji-cross-intermediate runs/mine
    """

    model: Annotated[tuple[str, ...], arg(metavar="[MODEL ...]")] = ()
    """Models to choose from: shipped names, run directories of `ifuvit train`, or pipeline directories. The first is shown on
    the left; with two or more the second is on the right. Default: the shipped ones."""
    host: str = "127.0.0.1"
    """Address to listen at. The default is for this machine alone; anybody who reaches another one can generate images."""
    port: Annotated[int, Range(least=1, most=65535)] = 7860
    """Port to listen at."""
    max_steps: Annotated[int, Range(least=1, most=MAX_STEPS)] = 100
    """Most solver steps a visitor can ask for."""
    max_images: Annotated[int, Range(least=1, most=64)] = 8
    """Most images a visitor can ask for at a time."""
    max_waiting: Annotated[int, Range(least=1, most=1000)] = 20
    """Most requests that wait; one is served at a time, further ones are refused."""
    device: str = "auto"
    """auto (an accelerator where there is one), cpu, cuda, cuda:1, mps."""
    open: bool = False
    """Open the page in a browser."""

    def __post_init__(self) -> None:
        check(self)
        if len(set(self.model)) < len(self.model):
            raise InputError(f"--model {' '.join(self.model)}: give each model once")

    @property
    def steps(self) -> int:
        """Solver steps that the page begins with."""
        return min(DEFAULT_SETTINGS.steps, self.max_steps)
