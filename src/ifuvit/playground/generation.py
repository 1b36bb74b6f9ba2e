"""What the page asks models for: images as they grow, and where each word is looked at. No web here."""

import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from ifuvit.analysis.attention import word_maps
from ifuvit.analysis.recording import ObservedModel, Pass
from ifuvit.analysis.words import PromptTokens, read_tokens
from ifuvit.diffusion.settings import SamplingSettings
from ifuvit.model.uvit import EncodedText
from ifuvit.utils.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

    from ifuvit.pipeline import Pipeline

ALL_BLOCKS = "mean of all blocks"
# Decoding images on the way may take so much of the time, compared with sampling.
_SHARE_OF_PREVIEWS = 0.5


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


def generate(pipeline: "Pipeline", request: Request) -> Iterator[Progress]:
    """Sample the images of a request, and show them as they grow. The images are those of `Pipeline` bit for bit. An iterator
    that is closed stops the sampling.

    Raises:
        InputError: settings that the model does not take.
    """
    events: queue.Queue[Progress | BaseException] = queue.Queue()
    watched = _Watched(pipeline, request, events.put)

    def sample() -> None:
        try:
            images = pipeline(
                [request.prompt] * request.images,
                request.settings,
                negative_prompt=request.negative_prompt or None,
                seed=request.seed,
                batch_size=request.images,
                denoiser=watched,
            )
            seconds = time.monotonic() - watched.begun
            events.put(
                Progress(
                    step=watched.step, images=images, seconds=seconds, finished=True, attention=watched.attention()
                )
            )
        except BaseException as error:  # it is raised where the iterator is read
            events.put(error)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        while True:
            event = events.get()
            if isinstance(event, BaseException):
                raise event
            yield event
            if event.finished:
                return
    finally:
        watched.stopped = True
        thread.join()


class _Stopped(Exception):
    """Nobody waits for the images any more."""


@dataclass
class _Watched:
    """The backbone for `Pipeline(..., denoiser=...)`: shows what it expects, and sums the attention up."""

    pipeline: "Pipeline"
    request: Request
    show: Any
    stopped: bool = False
    step: int = 0
    begun: float = field(default_factory=time.monotonic)
    previewing: float = 0.0
    sums: dict[str, Tensor] = field(default_factory=dict)
    passes: int = 0

    def __post_init__(self) -> None:
        self.tokens, self.why_none = _tokens(self.pipeline, self.request.prompt)
        model = self.pipeline.model
        self.inner = model if self.tokens is None else ObservedModel(model, self._add)

    def guided(
        self,
        latents: Tensor,
        timesteps: Tensor,
        text: EncodedText,
        null_text: EncodedText,
        guidance_scale: float | Tensor = 4.0,
    ) -> Tensor:
        """As `IFUViT.guided`."""
        if self.stopped:
            raise _Stopped
        predicted = self.inner.guided(latents, timesteps, text, null_text, guidance_scale=guidance_scale)
        self.step += 1
        begun = time.monotonic()
        if self.previewing <= _SHARE_OF_PREVIEWS * (begun - self.begun - self.previewing):
            clean = self.pipeline.objective.clean_latents(predicted.float(), latents.float(), timesteps)
            images = self.pipeline.decode(clean)
            self.previewing += time.monotonic() - begun
            self.show(Progress(step=self.step, images=images, seconds=time.monotonic() - self.begun))
        return predicted

    def _add(self, observed: Pass, text: EncodedText) -> None:
        self.passes += 1
        for name, attention in observed.attention():
            # Of image patches, without the time token, to text tokens: (B, L, P).
            of_text = attention.text[:, :, 1:].mean(1).transpose(-2, -1)
            self.sums[name] = of_text + self.sums.get(name, 0)

    def attention(self) -> WordMaps | str:
        """The maps of all passes, or why there are none."""
        if self.tokens is None or not self.sums:
            return self.why_none
        maps = {name: word_maps((total / self.passes).cpu().numpy(), self.tokens) for name, total in self.sums.items()}
        maps = {ALL_BLOCKS: np.mean(list(maps.values()), 0), **maps}
        side = round(next(iter(maps.values())).shape[-1] ** 0.5)
        return WordMaps(
            tokens=self.tokens, maps={name: one.reshape(*one.shape[:-1], side, side) for name, one in maps.items()}
        )


def _tokens(pipeline: "Pipeline", prompt: str) -> tuple[PromptTokens | None, str]:
    """The words of a prompt, or why their attention cannot be shown."""
    if pipeline.model.config.conditioning == "adaln":
        return None, "this model pools the caption: no patch looks at single words"
    try:
        return read_tokens(pipeline.text_encoder, prompt), ""
    except InputError as error:
        return None, str(error)


def overlay(image: "Image", values: np.ndarray, size: int = 384) -> "Image":
    """A map (S, S) over the gray image, from 0 to its largest value."""
    from PIL import Image

    from ifuvit.reporting.attention_figures import colored

    heat = Image.fromarray(colored(values / max(float(values.max()), 1e-12)))
    under = image.convert("L").convert("RGB").resize((size, size), Image.Resampling.LANCZOS)
    return Image.blend(under, heat.resize((size, size), Image.Resampling.NEAREST), 0.72)


def enlarged(image: "Image", least: int = 256) -> "Image":
    """A small image by a whole factor, so that every pixel stays a crisp square."""
    from PIL import Image

    factor = max(1, least // image.width)
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
