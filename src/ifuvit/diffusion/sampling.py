"""Noise to latents: diffusers' solvers around the guided denoiser.

The diffusion is Stable Diffusion's discrete schedule, and the network is fed n in 1 … 1000. diffusers counts t = n - 1
from 0 to 999, so every timestep of a scheduler is moved by `TIME_OFFSET` before the network sees it.

    solver     diffusers' class                  order  ends at  noise after the start
    dpm++      DPMSolverSinglestepScheduler      3      n = 1    none          the paper's (U-ViT's "fast" DPM-Solver++)
    dpm++2m    DPMSolverMultistepScheduler       2      n = 1    none
    unipc      UniPCMultistepScheduler           2      n = 1    none
    ddim       DPMSolverSinglestepScheduler      1      n = 1    none          the same formula as DDIM with eta = 0
    euler-a    EulerAncestralDiscreteScheduler   1      n = 0    every step

One step is one evaluation of the (guided) network for every solver. See docs/sampling.md for how far each one is from
an exact solution.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ifuvit.diffusion.initial_latents import InitialLatentsDistribution
from ifuvit.diffusion.schedule import BETA_END, BETA_START, NUM_TIMESTEPS, add_noise, alphas_cumprod
from ifuvit.diffusion.settings import DEFAULT_SETTINGS, SamplingSettings, Solver
from ifuvit.utils.errors import InputError

STOCHASTIC = frozenset({"euler-a"})

TIME_OFFSET = 1
SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": NUM_TIMESTEPS,
    "beta_start": BETA_START,
    "beta_end": BETA_END,
    "beta_schedule": "scaled_linear",
}
"""The noise schedule in diffusers' words."""

_NOISE_STREAM, _SOLVER_STREAM, _MEAN_STREAM = 0, 1, 2


def initial_noise(shape: Sequence[int], seed: int, indices: Sequence[int]) -> Tensor:
    """Gaussian noise at n = 1000, one draw per image.

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
    means = torch.from_numpy(distribution.draw(normal))[:, :, None, None]
    return add_noise(means, noise, torch.full((len(noise),), NUM_TIMESTEPS))


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


def make_scheduler(solver: Solver, steps: int, device: torch.device | str = "cpu") -> Any:
    """diffusers' scheduler for `solver` with the paper's schedule, its timesteps set."""
    if solver == "euler-a":
        from diffusers.schedulers.scheduling_euler_ancestral_discrete import EulerAncestralDiscreteScheduler

        scheduler: Any = EulerAncestralDiscreteScheduler(**SCHEDULE)
    elif solver == "unipc":
        from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

        scheduler = UniPCMultistepScheduler(**SCHEDULE, solver_order=2, final_sigmas_type="sigma_min")
    elif solver == "dpm++2m":
        from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

        # By default its last step is of first order only below 15 steps; of second order it overshoots.
        scheduler = DPMSolverMultistepScheduler(
            **SCHEDULE, solver_order=2, final_sigmas_type="sigma_min", euler_at_final=True
        )
    else:
        from diffusers.schedulers.scheduling_dpmsolver_singlestep import DPMSolverSinglestepScheduler

        # diffusers' own DDIM assumes that the number of steps divides 1000; first-order DPM-Solver++ is the same
        # formula and goes from each timestep to the next one of the actual grid.
        scheduler = DPMSolverSinglestepScheduler(
            **SCHEDULE,
            solver_order=3 if solver == "dpm++" else 1,
            final_sigmas_type="sigma_min",
            lower_order_final=True,
        )
    scheduler.set_timesteps(steps, device=device)
    timesteps, sigmas = _uniform_grid(steps)
    if solver == "euler-a":
        sigmas[-1] = 0
    scheduler.timesteps, scheduler.sigmas = timesteps[:-1].to(device), sigmas
    # The position in the grid is counted, not looked up by the timestep's value.
    scheduler.set_begin_index(0)
    return scheduler


def _uniform_grid(steps: int) -> tuple[Tensor, Tensor]:
    """Timesteps t from 999 to 0 in equal, fractional steps (S + 1,), and sigma / alpha there, with log alpha
    interpolated linearly, as U-ViT's solver has them. diffusers would round the timesteps to integers."""
    log_alphas = alphas_cumprod().log().numpy() / 2
    timesteps = np.linspace(len(log_alphas) - 1, 0, steps + 1)
    log_alphas = np.interp(timesteps, np.arange(len(log_alphas)), log_alphas)
    sigmas = np.sqrt(np.expm1(-2 * log_alphas))
    return torch.from_numpy(timesteps.astype(np.float32)), torch.from_numpy(sigmas.astype(np.float32))


def _stage_formula(orders: Sequence[int], step: int) -> str:
    """diffusers' `solver_type` with which a step of the singlestep solver is U-ViT's: the second stage of a third-order
    step has the "heun" coefficients, everything else the "midpoint" ones. One type for all steps, as diffusers has it,
    is up to a tenth less accurate."""
    inner = orders[step] == 2 and step + 1 < len(orders) and orders[step + 1] == 3
    return "heun" if inner else "midpoint"


def _guidance_scales(settings: SamplingSettings, timesteps: Tensor, orders: Sequence[int]) -> list[float]:
    """The guidance scale of every evaluation. The evaluations of a multi-stage step are compared with each other, so they
    are guided alike."""
    scales: list[float] = []
    for n, stage in zip((timesteps.float() + TIME_OFFSET).tolist(), orders, strict=True):
        level = n / NUM_TIMESTEPS
        scales.append(settings.guidance_scale_at(level) if stage == 1 else scales[-1])
    return scales


@torch.no_grad()
def sample(
    model: Any,
    noise: Tensor,
    text: Any,
    null_text: Any,
    settings: SamplingSettings = DEFAULT_SETTINGS,
    *,
    generators: Sequence[torch.Generator] | None = None,
    callback: Callable[[int], None] | None = None,
    **changes: Any,
) -> Tensor:
    """Solve the diffusion from n = 1000 down to n = 1 (to no noise at all for "euler-a").

    Args:
        model: has `guided(latents, timesteps, text, null_text, guidance_scale=w)` -> predicted noise, as `IFUViT`.
        noise: (B, C, H, W), standard normal: the state at n = 1000. See `initial_noise` and `initial_latents`.
        text: the prompts, encoded by `model.encode_text`, batch B.
        null_text: the null caption or a negative prompt, encoded likewise, batch 1 or B.
        settings: solver, steps and guidance. What `noise` is, is up to the caller: `initial_latents` has no effect here.
        generators: B generators, required by a stochastic solver only. See `image_generators`.
        callback: called after every step with the number of steps done.
        changes: fields of `settings` by keyword, as `guidance_scale=2.0, num_inference_steps=50`.

    Returns:
        (B, C, H, W) float32 latents in the scale that the network works in (the decoder wants them divided by the
        latent scale).

    Raises:
        InputError: settings outside their range, or a stochastic solver without one generator per image.
    """
    settings = settings.changed(**changes)
    scheduler = make_scheduler(settings.solver, settings.steps, noise.device)
    draws: dict[str, Any] = {}
    if settings.solver in STOCHASTIC:
        if generators is None or len(generators) != len(noise):
            raise InputError(f"solver {settings.solver!r} draws noise at every step: give one generator for each image")
        draws["generator"] = list(generators)
    latents = noise.float()
    if settings.solver == "euler-a":
        # This scheduler works on latents divided by alpha = 1 / sqrt(1 + sigma^2). Its own init_noise_sigma leaves out
        # the 1, as if the state at n = 1000 had no signal part.
        latents = latents * float(1 + scheduler.sigmas[0] ** 2) ** 0.5
    orders = scheduler.order_list if settings.solver == "dpm++" else [1] * settings.steps
    scales = _guidance_scales(settings, scheduler.timesteps, orders)
    for step, (t, scale) in enumerate(zip(scheduler.timesteps, scales, strict=True)):
        if settings.solver == "dpm++":
            scheduler.register_to_config(solver_type=_stage_formula(orders, step))
        predicted = model.guided(
            scheduler.scale_model_input(latents, t),
            (t.float() + TIME_OFFSET).expand(len(latents)),
            text,
            null_text,
            guidance_scale=scale,
        )
        latents = scheduler.step(predicted.float(), t, latents, return_dict=False, **draws)[0]
        if callback is not None:
            callback(step + 1)
    return latents


def _bits(seed: int, index: int, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, index, stream))))


def _check_seed(seed: int, indices: Sequence[int]) -> None:
    if seed < 0 or any(index < 0 for index in indices):
        raise InputError(f"seed {seed}: seeds and image indices must be at least 0")
