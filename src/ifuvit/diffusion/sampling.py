"""Noise to latents: the solvers of an objective around the guided denoiser.

The network is fed times: n in 1 … 1000, or 1000 t for flow. diffusers' schedulers have timesteps of their own, to which an
objective's `time_offset` is added. The solvers are listed in `ifuvit.diffusion.solvers`; docs/sampling.md says how far each one
is from an exact solution.
"""

from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ifuvit.diffusion.initial_latents import InitialLatentsDistribution
from ifuvit.diffusion.objective import DDPM, NUM_TIMESTEPS, Objective
from ifuvit.diffusion.schedule import add_noise
from ifuvit.diffusion.settings import DEFAULT_SETTINGS, SamplingSettings
from ifuvit.utils.errors import InputError

_NOISE_STREAM, _SOLVER_STREAM, _MEAN_STREAM = 0, 1, 2
_DDPM = DDPM()


def initial_noise(shape: Sequence[int], seed: int, indices: Sequence[int]) -> Tensor:
    """Gaussian noise, one draw per image.

    Args:
        shape: (C, H, W) of one image's latents.
        seed: at least 0.
        indices: the images' indices, each at least 0.

    Returns:
        (len(indices), C, H, W), float32, on the CPU. An image's noise depends on (seed, index) alone.

    Raises:
        InputError: a negative seed or index.
    """
    _check_seed(seed, indices)
    noise = [_bits(seed, index, _NOISE_STREAM).standard_normal(tuple(shape), dtype=np.float32) for index in indices]
    return torch.from_numpy(np.stack(noise))


def initial_latents(
    shape: Sequence[int], seed: int, indices: Sequence[int], distribution: InitialLatentsDistribution | None
) -> Tensor:
    """Latents at n = 1000: `initial_noise`, with a spatial mean drawn from `distribution` if there is one.

    Returns:
        (len(indices), C, H, W), float32, on the CPU. An image's latents depend on (seed, index) alone.
    """
    noise = initial_noise(shape, seed, indices)
    if distribution is None:
        return noise
    normal = np.stack([_bits(seed, index, _MEAN_STREAM).standard_normal(shape[0]) for index in indices])
    return with_means(noise, normal, distribution)


def with_means(noise: Tensor, normal: np.ndarray, distribution: InitialLatentsDistribution) -> Tensor:
    """Noise (B, C, H, W) around spatial means that `distribution` makes of standard normal numbers (B, C)."""
    means = torch.from_numpy(distribution.draw(normal)).to(noise.device)[:, :, None, None]
    return add_noise(means, noise, torch.full((len(noise),), NUM_TIMESTEPS, device=noise.device))


def image_generators(seed: int, indices: Sequence[int]) -> list[torch.Generator]:
    """The random generators of a stochastic solver: one per image, seeded by (seed, index) alone, and independent of
    `initial_noise`. They live on the CPU so that every device gets the same noise.

    Raises:
        InputError: a negative seed or index.
    """
    _check_seed(seed, indices)
    return [
        torch.Generator().manual_seed(int(_bits(seed, index, _SOLVER_STREAM).integers(2**63 - 1))) for index in indices
    ]


def _guidance_scales(settings: SamplingSettings, times: Sequence[float], stages: Sequence[int]) -> list[float]:
    """The guidance scale of every evaluation. The evaluations of a multi-stage step are compared with each other, so they
    are guided alike."""
    scales: list[float] = []
    for time, stage in zip(times, stages, strict=True):
        scales.append(settings.guidance_scale_at(time / NUM_TIMESTEPS) if stage == 1 else scales[-1])
    return scales


def _rescale_guidance(guided: Tensor, unguided: Tensor, phi: float) -> Tensor:
    """Lin et al. 2024 (arXiv 2305.08891), equations 15 and 16: an image's prediction, (B, C, H, W), is scaled to the standard
    deviation of the unguided one, by a share of phi."""
    deviations = [prediction.std((1, 2, 3), keepdim=True) for prediction in (unguided, guided)]
    return guided * (phi * deviations[0] / deviations[1] + 1 - phi)


class Step(NamedTuple):
    """Where a solver stands after a step."""

    done: int
    """Steps done."""
    timestep: Tensor
    """The scheduler's, of the step that was done: a scalar, in diffusers' counting."""
    latents: Tensor
    """(B, C, H, W) float32."""


def sample(
    model: Any,
    noise: Tensor,
    text: Any,
    null_text: Any,
    settings: SamplingSettings = DEFAULT_SETTINGS,
    *,
    objective: Objective = _DDPM,
    generators: Sequence[torch.Generator] | None = None,
    callback: Callable[[int], None] | None = None,
    **changes: Any,
) -> Tensor:
    """Solve the diffusion backwards: from n = 1000 to n = 1 (to no noise at all for "euler-a"), or a flow from t = 1 to 0.

    Args:
        model: has `guided(latents, timesteps, text, null_text, guidance_scale=w)` -> what it was trained to
            predict, as `IFUViT`.
        noise: (B, C, H, W), standard normal: the state at time 1000. See `initial_noise` and `initial_latents`.
        text: the prompts, encoded by `model.encode_text`, batch B.
        null_text: the null caption or a negative prompt, encoded likewise, batch 1 or B.
        settings: solver, steps and guidance. What `noise` is, is up to the caller: `initial_latents` has no effect here.
        objective: that of the model's training.
        generators: B generators, required by a stochastic solver only. See `image_generators`.
        callback: called after every step with the number of steps done.
        changes: fields of `settings` by keyword, as `guidance_scale=2.0, num_inference_steps=50`.

    Returns:
        (B, C, H, W) float32 latents, normalized as the network's.

    Raises:
        InputError: settings outside their range, a solver of another objective, or a stochastic solver without one
            generator per image.
    """
    latents = noise
    settings = settings.changed(**changes)
    for step in sample_steps(model, noise, text, null_text, settings, objective=objective, generators=generators):
        latents = step.latents
        if callback is not None:
            callback(step.done)
    return latents


@torch.no_grad()
def sample_steps(
    model: Any,
    noise: Tensor,
    text: Any,
    null_text: Any,
    settings: SamplingSettings,
    *,
    objective: Objective = _DDPM,
    generators: Sequence[torch.Generator] | None = None,
) -> Generator[Step, Tensor | None, None]:
    """`sample` step by step: what is yielded last has its result. Latents that are sent take the place of those that were
    yielded (diffusers' callbacks do that). Arguments and errors are those of `sample`."""
    solver = objective.resolve_solver(settings.solver)
    scheduler = objective.make_scheduler(solver, settings.steps, noise.device)
    draws: dict[str, Any] = {}
    latents = noise.float()
    if solver == "euler-a":
        if generators is None or len(generators) != len(noise):
            raise InputError(f"solver {solver!r} draws noise at every step: give one generator for each image")
        draws["generator"] = list(generators)
        # This scheduler works on latents divided by alpha = 1 / sqrt(1 + sigma^2). Its own init_noise_sigma leaves out
        # the 1, as if the state at n = 1000 had no signal part.
        latents = latents * float(1 + scheduler.sigmas[0] ** 2) ** 0.5
    times = scheduler.timesteps.float() + objective.time_offset
    levels = times.tolist()  # once: asked of the device at every step, they would be waited for
    scales = _guidance_scales(settings, levels, scheduler.stages)
    for step, (t, time, level, scale) in enumerate(zip(scheduler.timesteps, times, levels, scales, strict=True)):
        state = scheduler.scale_model_input(latents, t) if solver == "euler-a" else latents
        inputs = (state, time.expand(len(latents)), text, null_text)
        predicted = model.guided(*inputs, guidance_scale=scale).float()
        if settings.guidance_rescale and scale != 1:
            unguided = model.guided(*inputs, guidance_scale=1.0).float()
            predicted = _rescale_guidance(predicted, unguided, settings.guidance_rescale)
        predicted = objective.for_solver(predicted, latents, level)
        latents = scheduler.step(predicted, t, latents, return_dict=False, **draws)[0]
        changed = yield Step(step + 1, t, latents)
        latents = latents if changed is None else changed


def _bits(seed: int, index: int, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, index, stream))))


def _check_seed(seed: int, indices: Sequence[int]) -> None:
    if seed < 0 or any(index < 0 for index in indices):
        raise InputError(f"seed {seed}: seeds and image indices must be at least 0")
