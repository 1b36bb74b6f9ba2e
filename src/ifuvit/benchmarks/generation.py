"""Whole images: from prompts to pixels, by a model as it is shipped, with few and many solver steps; and as U-ViT's code
would draw them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ifuvit.benchmarks import reference as uvit
from ifuvit.benchmarks.reference import as_uvit
from ifuvit.benchmarks.timing import Case, Step
from ifuvit.diffusion.sampling import initial_noise, sample
from ifuvit.diffusion.settings import SamplingSettings

if TYPE_CHECKING:
    from ifuvit.benchmarks.reference import Reference
    from ifuvit.pipeline import Pipeline


def generation_cases(
    pipeline: "Pipeline",
    reference: "Reference | None",
    prompts: Sequence[str],
    settings: Sequence[SamplingSettings],
) -> list[Case]:
    """A case for each of some sampling settings, compared with U-ViT's code, or with the first case.

    Args:
        prompts: of one batch.
        settings: the first has the most steps, as many as U-ViT's code takes; its code samples by dpm++.
    """
    most = settings[0].steps
    base = _name(settings[0]) if reference is None else f"{uvit.NAME}, {most} steps"
    cases = []
    if reference is not None:

        def theirs() -> Step:
            config = pipeline.model.config
            model = _TwoPasses(reference.build(as_uvit(config)).to(pipeline.device).eval())
            shape = (config.latent_channels, config.latent_size, config.latent_size)
            noise = initial_noise(shape, 0, range(len(prompts))).to(pipeline.device)

            def draw() -> object:
                with (
                    torch.no_grad(),
                    torch.autocast(pipeline.device.type, dtype=pipeline.dtype, enabled=pipeline.dtype != torch.float32),
                ):
                    text, null = (pipeline.text_encoder(captions)[0].float() for captions in (list(prompts), [""]))
                    return pipeline.decode(sample(model, noise, text, null, SamplingSettings(steps=most)))

            return draw

        cases.append(Case(name=base, prepare=theirs, items=len(prompts)))
    for one in settings:
        generate = partial(pipeline, prompts, one, batch_size=len(prompts))
        name = _name(one)
        cases.append(
            Case(
                name=name,
                prepare=lambda generate=generate: generate,
                items=len(prompts),
                base=None if name == base else base,
            )
        )
    return cases


def _name(settings: SamplingSettings) -> str:
    """What results call a case: what differs from the paper's solver, guided everywhere."""
    name = f"{settings.steps} steps"
    if settings.solver != "dpm++":
        name += f" of {settings.solver}"
    if settings.guidance_interval != (0, 1):
        low, high = settings.guidance_interval
        name += f", guided from {low:g} to {high:g}"
    return name


@dataclass(frozen=True)
class _TwoPasses:
    """U-ViT's guided network as `sample` wants it."""

    model: nn.Module

    def guided(
        self, latents: Tensor, timesteps: Tensor, text: Tensor, null_text: Tensor, guidance_scale: float
    ) -> Tensor:
        return uvit.guided_step(self.model, latents, timesteps, text, null_text[0], guidance_scale)
