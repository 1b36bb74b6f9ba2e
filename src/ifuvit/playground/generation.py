"""What the page asks models for: images as they grow, and where each word is looked at. No web here."""

import queue
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from ifuvit.analysis.attention import word_maps
from ifuvit.analysis.recording import ObservedModel, Pass
from ifuvit.analysis.words import PromptTokens, read_tokens
from ifuvit.model.uvit import EncodedText
from ifuvit.playground.messages import ALL_BLOCKS, Progress, Request, WordMaps
from ifuvit.utils.errors import InputError

if TYPE_CHECKING:
    from ifuvit.pipeline import Pipeline

# Decoding images on the way may take so much of the time, compared with sampling.
_SHARE_OF_PREVIEWS = 0.5


def generate(pipeline: "Pipeline", request: Request) -> Generator[Progress, None, None]:
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
