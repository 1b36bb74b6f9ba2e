"""Whole images, from prompts to pixels: by a model as it is shipped, with few and many solver steps, and as U-ViT's code
would generate them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ifuvit.benchmarks import reference as uvit
from ifuvit.benchmarks.comparison import compare
from ifuvit.benchmarks.config import BenchGenerateConfig
from ifuvit.benchmarks.timing import BenchmarkCase, Step
from ifuvit.diffusion.sampling import initial_noise, sample
from ifuvit.diffusion.settings import SamplingSettings
from ifuvit.metrics.counting.prompts import PROMPT_SETS
from ifuvit.model.settings import as_uvit
from ifuvit.pipeline import Pipeline
from ifuvit.results import Comparison

if TYPE_CHECKING:
    from ifuvit.benchmarks.reference import Reference


def bench_generate(
    config: BenchGenerateConfig, reference: "Reference | None", device: torch.device
) -> dict[str, Comparison]:
    """Time whole images, in one precision after the other."""
    prompts = list(islice(cycle(PROMPT_SETS["paper"]), config.batch_size))
    comparisons = {}
    for precision in config.precision:
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        pipeline = Pipeline.from_pretrained(config.model, device=device, dtype=dtype)
        comparisons[precision] = compare(generation_cases(pipeline, reference, prompts, config.cases), config, device)
    return comparisons


def generation_cases(
    pipeline: Pipeline, reference: "Reference | None", prompts: Sequence[str], settings: Sequence[SamplingSettings]
) -> list[BenchmarkCase]:
    """A case for each of some sampling settings, compared with U-ViT's code, or with the first case.

    Args:
        prompts: of one batch.
        settings: the first has the most steps, as many as U-ViT's code takes; that code samples by dpm++.
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

            def generate() -> object:
                with (
                    torch.no_grad(),
                    torch.autocast(pipeline.device.type, dtype=pipeline.dtype, enabled=pipeline.dtype != torch.float32),
                ):
                    text, null = (pipeline.text_encoder(captions)[0].float() for captions in (list(prompts), [""]))
                    return pipeline.decode(sample(model, noise, text, null, SamplingSettings(steps=most)))

            return generate

        cases.append(BenchmarkCase(name=base, prepare=theirs, items=len(prompts)))
    for one in settings:
        generate = partial(pipeline, prompts, one, batch_size=len(prompts))
        cases.append(
            BenchmarkCase(
                name=_name(one),
                prepare=lambda generate=generate: generate,
                items=len(prompts),
                base=None if _name(one) == base else base,
            )
        )
    return cases


def _name(settings: SamplingSettings) -> str:
    """What a result calls a case: its steps, and what differs from dpm++ with the default settings."""
    others = settings.differences(SamplingSettings(solver="dpm++", steps=settings.steps))
    name = f"{settings.steps} steps"
    if solver := others.pop("solver", None):
        name += f" of {solver}"
    if interval := others.pop("guidance_interval", None):
        name += f", guided from {interval[0]:g} to {interval[1]:g}"
    return ", ".join([name, *(f"{field} {value}" for field, value in others.items())])


@dataclass(frozen=True)
class _TwoPasses:
    """U-ViT's guided network as `sample` wants it."""

    model: nn.Module

    def guided(
        self, latents: Tensor, timesteps: Tensor, text: Tensor, null_text: Tensor, guidance_scale: float
    ) -> Tensor:
        return uvit.guided_step(self.model, latents, timesteps, text, null_text[0], guidance_scale)
