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

from ifuvit.diffusion import DEFAULT_STEPS, SOLVERS
from ifuvit.diffusion.initial_latents import LatentColor
from ifuvit.diffusion.schedule import BETA_END, BETA_START, NUM_TIMESTEPS, add_noise, alphas_cumprod
from ifuvit.diffusion.settings import EVERYWHERE, Interval, check_interval, scale_at
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
MAX_STEPS = NUM_TIMESTEPS

_NOISE_STREAM, _SOLVER_STREAM, _COLOR_STREAM = 0, 1, 2


def initial_noise(shape: Sequence[int], seed: int, indices: Sequence[int]) -> Tensor:
    """Gaussian noise at n = 1000, one draw an image.

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


def initial_latents(shape: Sequence[int], seed: int, indices: Sequence[int], color: LatentColor | None) -> Tensor:
    """Latents at n = 1000 to start from: `initial_noise`, around a color drawn from `color` for each image if there is one.

    Returns:
        (len(indices), C, H, W), float32, on the CPU. An image's latents depend on (seed, index) alone.
    """
    noise = initial_noise(shape, seed, indices)
    if color is None:
        return noise
    normal = np.stack([_bits(seed, index, _COLOR_STREAM).standard_normal(shape[0]) for index in indices])
    colors = torch.from_numpy(color.draw(normal))[:, :, None, None]
    return add_noise(colors, noise, torch.full((len(noise),), NUM_TIMESTEPS))


def image_generators(seed: int, indices: Sequence[int]) -> list[torch.Generator]:
    """The random generators from which a stochastic solver draws: one an image, seeded by (seed, index) alone, and
    independent of `initial_noise`. They live on the CPU so that every device gets the same noise.

    Raises:
        InputError: a negative seed or index.
    """
    _check_seed(seed, indices)
    return [
        torch.Generator().manual_seed(int(_bits(seed, index, _SOLVER_STREAM).integers(2**63 - 1))) for index in indices
    ]


def make_scheduler(solver: str, num_inference_steps: int, device: torch.device | str = "cpu") -> Any:
    """diffusers' scheduler for `solver` with the paper's schedule, its timesteps set.

    Raises:
        InputError: an unknown solver, or a number of steps outside 1 … 1000.
    """
    check_solver(solver, num_inference_steps)
    if solver == "euler-a":
        from diffusers.schedulers.scheduling_euler_ancestral_discrete import EulerAncestralDiscreteScheduler

        scheduler: Any = EulerAncestralDiscreteScheduler(**SCHEDULE)
    elif solver == "unipc":
        from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

        scheduler = UniPCMultistepScheduler(**SCHEDULE, solver_order=2, final_sigmas_type="sigma_min")
    elif solver == "dpm++2m":
        from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

        # Its last step is of first order only below 15 steps, unless asked: of second order it overshoots.
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
    scheduler.set_timesteps(num_inference_steps, device=device)
    timesteps, sigmas = _uniform_grid(num_inference_steps)
    if solver == "euler-a":
        sigmas[-1] = 0
    scheduler.timesteps, scheduler.sigmas = timesteps[:-1].to(device), sigmas
    # The place in the grid is counted, not looked up by the timestep's value.
    scheduler.set_begin_index(0)
    return scheduler


def _uniform_grid(num_inference_steps: int) -> tuple[Tensor, Tensor]:
    """Timesteps t from 999 to 0 in equal, fractional steps (S + 1,), and sigma / alpha there, with log alpha
    interpolated linearly, as U-ViT's solver has them. diffusers would round the timesteps to integers."""
    log_alphas = alphas_cumprod().log().numpy() / 2
    timesteps = np.linspace(len(log_alphas) - 1, 0, num_inference_steps + 1)
    log_alphas = np.interp(timesteps, np.arange(len(log_alphas)), log_alphas)
    sigmas = np.sqrt(np.expm1(-2 * log_alphas))
    return torch.from_numpy(timesteps.astype(np.float32)), torch.from_numpy(sigmas.astype(np.float32))


def _stage_formula(orders: Sequence[int], step: int) -> str:
    """diffusers' `solver_type` with which a step of the singlestep solver is U-ViT's: the second stage of a third-order
    step has the "heun" coefficients, everything else the "midpoint" ones. One type for all steps, as diffusers has it,
    is up to a tenth less accurate."""
    inner = orders[step] == 2 and step + 1 < len(orders) and orders[step + 1] == 3
    return "heun" if inner else "midpoint"


def check_solver(solver: str, num_inference_steps: int) -> None:
    """Raise an InputError for an unknown solver or an impossible number of steps."""
    if solver not in SOLVERS:
        raise InputError(f"unknown solver {solver!r}; the solvers are {', '.join(SOLVERS)}")
    if not 1 <= num_inference_steps <= MAX_STEPS:
        raise InputError(f"{num_inference_steps} steps: the number of steps must be from 1 to {MAX_STEPS}")


@torch.no_grad()
def sample(
    model: Any,
    noise: Tensor,
    text: Any,
    null_text: Any,
    *,
    guidance_scale: float = 4.0,
    guidance_interval: Interval = EVERYWHERE,
    num_inference_steps: int = DEFAULT_STEPS,
    solver: str = "dpm++",
    generators: Sequence[torch.Generator] | None = None,
    callback: Callable[[int], None] | None = None,
) -> Tensor:
    """Solve the diffusion from n = 1000 down to n = 1 (to no noise at all for "euler-a").

    Args:
        model: has `guided(latents, timesteps, text, null_text, guidance_scale=w)` -> predicted noise, as `IFUViT`.
        noise: (B, C, H, W), standard normal: the state at n = 1000. See `initial_noise`.
        text: the prompts, encoded by `model.encode_text`, batch B.
        null_text: the null caption or a negative prompt, encoded likewise, batch B.
        guidance_scale: the standard w: uncond + w (cond - uncond), so 1 is no guidance. The paper's s is w - 1.
        guidance_interval: (low, high); the steps with low <= n / 1000 <= high are guided, the others take one branch.
        num_inference_steps: evaluations of the guided network, 1 … 1000.
        solver: one of `SOLVERS`.
        generators: B generators, needed by a stochastic solver only. See `image_generators`.
        callback: called after every step with the number of steps done.

    Returns:
        (B, C, H, W) float32 latents in the scale that the network works in (the decoder wants them divided by the
        latent scale).

    Raises:
        InputError: an unknown solver, an impossible number of steps or interval, or a stochastic solver without one
            generator an image.
    """
    check_interval(guidance_interval)
    scheduler = make_scheduler(solver, num_inference_steps, noise.device)
    draws: dict[str, Any] = {}
    if solver in STOCHASTIC:
        if generators is None or len(generators) != len(noise):
            raise InputError(f"solver {solver!r} draws noise at every step: give one generator for each image")
        draws["generator"] = list(generators)
    latents = noise.float()
    if solver == "euler-a":
        # This scheduler works on latents divided by alpha = 1 / sqrt(1 + sigma^2). Its own init_noise_sigma leaves out
        # the 1, as if the state at n = 1000 had no signal part.
        latents = latents * float(1 + scheduler.sigmas[0] ** 2) ** 0.5
    scale = guidance_scale
    # Asked of the device at every step, they would be waited for.
    levels = [n / NUM_TIMESTEPS for n in (scheduler.timesteps.cpu().float() + TIME_OFFSET).tolist()]
    for done, (t, level) in enumerate(zip(scheduler.timesteps, levels, strict=True), start=1):
        stage = 1
        if solver == "dpm++":
            stage = scheduler.order_list[done - 1]
            scheduler.register_to_config(solver_type=_stage_formula(scheduler.order_list, done - 1))
        if stage == 1:  # the stages of a step are compared with each other, so they are guided alike
            scale = scale_at(level, guidance_scale, guidance_interval)
        predicted = model.guided(
            scheduler.scale_model_input(latents, t),
            (t.float() + TIME_OFFSET).expand(len(latents)),
            text,
            null_text,
            guidance_scale=scale,
        )
        latents = scheduler.step(predicted.float(), t, latents, return_dict=False, **draws)[0]
        if callback is not None:
            callback(done)
    return latents


def _bits(seed: int, index: int, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, index, stream))))


def _check_seed(seed: int, indices: Sequence[int]) -> None:
    if seed < 0 or any(index < 0 for index in indices):
        raise InputError(f"seed {seed}: seeds and image indices must be at least 0")
