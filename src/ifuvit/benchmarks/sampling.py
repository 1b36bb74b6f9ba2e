"""Guided sampling steps: this package's with what both branches share computed once, plainly as two passes, and U-ViT's.

A step is one evaluation of the guided network. The solver's own arithmetic is the same for all and is left out; text is
encoded once a prompt and timed by itself.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ifuvit.benchmarks import reference as uvit
from ifuvit.benchmarks.comparison import compare_models
from ifuvit.benchmarks.config import BenchSampleConfig, preset_models
from ifuvit.benchmarks.machine import make_accelerator
from ifuvit.benchmarks.timing import BenchmarkCase, Step
from ifuvit.benchmarks.training import random_batch
from ifuvit.diffusion.objective import DDPM
from ifuvit.model.flops import guided_step_flops, text_flops
from ifuvit.model.settings import IFUViTConfig, as_uvit
from ifuvit.model.uvit import EncodedText, IFUViT
from ifuvit.results import Comparison

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ifuvit.benchmarks.reference import Reference

GUIDANCE_SCALE = 2.0
"""The standard w; any but 1 takes the same time."""


def bench_sample(
    config: BenchSampleConfig, reference: "Reference | None", device: torch.device
) -> dict[str, Comparison]:
    """Time guided sampling steps of presets, in one precision after the other."""
    models, seed = preset_models(config.settings), config.seed
    batch = random_batch(next(iter(models.values())), config.batch_size, seed=seed, device=device)
    comparisons = {}
    for precision in config.precision:
        accelerator = make_accelerator(precision, device)
        from_plain = {
            name: difference_from_plain(model, batch, accelerator, seed=seed) for name, model in models.items()
        }
        comparisons[precision] = compare_models(
            sampling_cases(models, reference, batch, accelerator, seed=seed),
            models.values(),
            config,
            device,
            precision=precision,
            training=False,
            differences={
                **uvit.differences_from_uvit(models, reference, batch, accelerator),
                "from_plain": from_plain,
            },
        )
    return comparisons


@contextmanager
def sampling(accelerator: "Accelerator") -> Iterator[None]:
    """As the pipeline samples: without gradients, and under one autocast for all steps of an image, so that weights are
    converted once."""
    with torch.no_grad(), accelerator.autocast():
        yield


class Guided:
    """A backbone with random weights, large enough for text to matter, and what a step of sampling takes.

    Args:
        batch: of `random_batch`; its last caption plays the null caption.
    """

    def __init__(self, config: IFUViTConfig, batch: Mapping[str, Tensor], *, seed: int) -> None:
        torch.manual_seed(seed)
        self.latents, self.timesteps = batch["latents"], DDPM().sample_times(batch["uniform"])
        self.embeddings, self.mask = batch["text_embeddings"].float(), batch["text_mask"]
        self.null_embeddings, self.null_mask = self.embeddings[-1:], self.mask[-1:]
        self.model = IFUViT(config).to(self.latents.device).eval()
        for parameter in self.model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        self.text, self.null = self.encode(), self.model.encode_text(self.null_embeddings, self.null_mask)

    def encode(self) -> EncodedText:
        """The prompts, as once per image."""
        return self.model.encode_text(self.embeddings, self.mask)

    def shared(self) -> Tensor:
        """A step as the pipeline takes it."""
        return self.model.guided(self.latents, self.timesteps, self.text, self.null, guidance_scale=GUIDANCE_SCALE)

    def plain(self) -> Tensor:
        """The same as two whole forward passes, as the formula says."""
        conditional = self.model(self.latents, self.timesteps, self.embeddings, self.mask)
        null_embeddings, null_mask = (
            self.null_embeddings.expand_as(self.embeddings),
            self.null_mask.expand_as(self.mask),
        )
        null = self.model(self.latents, self.timesteps, null_embeddings, null_mask)
        return null + GUIDANCE_SCALE * (conditional - null)


def sampling_cases(
    configs: Mapping[str, IFUViTConfig],
    reference: "Reference | None",
    batch: Mapping[str, Tensor],
    accelerator: "Accelerator",
    *,
    seed: int,
) -> list[BenchmarkCase]:
    """U-ViT's own guided step, if there is a checkout, and of each setting the plain and the shared one and the encoding
    of its prompts. The steps are compared with U-ViT's, or with the first setting's plain one.

    Args:
        configs: by name; all of one size.
        batch: on the accelerator's device.
        accelerator: says which precision.
        seed: of the weights.
    """
    images = len(batch["latents"])
    first = next(iter(configs))
    base = f"{first}, plain" if reference is None else uvit.NAME
    cases = []
    if reference is not None:
        size = as_uvit(configs[first])

        def theirs() -> Step:
            model = accelerator.prepare(reference.build(size).eval())
            text = batch["text_embeddings"].float()
            latents, timesteps = batch["latents"], DDPM().sample_times(batch["uniform"])
            return lambda: uvit.guided_step(model, latents, timesteps, text, text[-1], GUIDANCE_SCALE)

        flops = guided_step_flops(size, shared=False).total * images
        cases.append(BenchmarkCase(name=uvit.NAME, prepare=theirs, items=images, flops=flops, within=torch.no_grad))
    for name, config in configs.items():
        ways = {
            "plain": (Guided.plain, guided_step_flops(config, shared=False)),
            "shared": (Guided.shared, guided_step_flops(config, shared=True)),
            "text once a prompt": (Guided.encode, text_flops(config)),
        }
        for way, (take, flops) in ways.items():
            called = f"{name}, {way}"
            cases.append(
                BenchmarkCase(
                    name=called,
                    prepare=lambda take=take, config=config: partial(take, Guided(config, batch, seed=seed)),
                    items=images,
                    flops=flops.total * images,
                    base=None if called == base or take is Guided.encode else base,
                    within=lambda: sampling(accelerator),
                )
            )
    return cases


def difference_from_plain(
    config: IFUViTConfig, batch: Mapping[str, Tensor], accelerator: "Accelerator", *, seed: int
) -> float:
    """How far the shared step is from the plain one: the largest difference over the largest output."""
    with sampling(accelerator):
        guided = Guided(config, batch, seed=seed)
        plain = guided.plain()
        return float((guided.shared() - plain).abs().max() / plain.abs().max())
