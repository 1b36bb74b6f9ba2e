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
from ifuvit.diffusion import Solver
from ifuvit.diffusion.sampling import initial_noise, sample
from ifuvit.diffusion.settings import EVERYWHERE, Interval

if TYPE_CHECKING:
    from ifuvit.benchmarks.reference import Reference
    from ifuvit.pipeline import Pipeline


def generation_cases(
    pipeline: "Pipeline",
    reference: "Reference | None",
    prompts: Sequence[str],
    steps: Sequence[int],
    intervals: Sequence[Interval],
    *,
    solver: Solver = "dpm++",
) -> list[Case]:
    """A case for each number of solver steps and each interval of guidance, compared with U-ViT's way, or with the most
    steps guided everywhere.

    Args:
        prompts: of one batch.
        steps: the most of them is what U-ViT's way takes.
        intervals: the first is `EVERYWHERE`.
        solver: of the pipeline's images; U-ViT's way has its own.
    """
    assert intervals[0] == EVERYWHERE
    most = max(steps)
    of_solver = "" if solver == "dpm++" else f" of {solver}"
    base = f"{most} steps{of_solver}" if reference is None else f"{uvit.NAME}, {most} steps"
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
                    return pipeline.decode(sample(model, noise, text, null, num_inference_steps=most))

            return draw

        cases.append(Case(name=base, prepare=theirs, items=len(prompts)))
    for interval in intervals:
        for count in sorted(steps, reverse=True):
            name = f"{count} steps{of_solver}"
            if interval != EVERYWHERE:
                name += f", guided from {interval[0]:g} to {interval[1]:g}"
            draw = partial(
                pipeline,
                prompts,
                num_inference_steps=count,
                solver=solver,
                guidance_interval=interval,
                batch_size=len(prompts),
            )
            cases.append(
                Case(
                    name=name,
                    prepare=lambda draw=draw: draw,
                    items=len(prompts),
                    base=None if name == base else base,
                )
            )
    return cases


@dataclass(frozen=True)
class _TwoPasses:
    """U-ViT's guided network as `sample` wants it."""

    model: nn.Module

    def guided(
        self, latents: Tensor, timesteps: Tensor, text: Tensor, null_text: Tensor, guidance_scale: float
    ) -> Tensor:
        return uvit.guided_step(self.model, latents, timesteps, text, null_text[0], guidance_scale)
