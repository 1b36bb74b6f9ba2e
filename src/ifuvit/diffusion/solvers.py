"""diffusers' schedulers as the solvers of the two objectives.

    objective  solver    diffusers' class                   order  ends at
    ddpm       dpm++     DPMSolverSinglestepScheduler       3      n = 1    the paper's (U-ViT's "fast" DPM-Solver++)
    ddpm       dpm++2m   DPMSolverMultistepScheduler        2      n = 1
    ddpm       unipc     UniPCMultistepScheduler            2      n = 1
    ddpm       ddim      DPMSolverSinglestepScheduler       1      n = 1    the same formula as DDIM with eta = 0
    ddpm       euler-a   EulerAncestralDiscreteScheduler    1      n = 0    draws noise at every step
    flow       dpm++2m   DPMSolverMultistepScheduler        2      t = 0
    flow       heun      FlowMatchHeunDiscreteScheduler     2      t = 0
    flow       euler     FlowMatchEulerDiscreteScheduler    1      t = 0

One step is one evaluation of the (guided) network for every solver. The grids are our own: equal, fractional steps in n, or in
t before the shift; diffusers would round timesteps to integers.

Every scheduler has `stages`, a number for each evaluation: 1 where a step of the solver begins, more where it goes on. The
evaluations of one step are compared with each other.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_dpmsolver_singlestep import DPMSolverSinglestepScheduler
from diffusers.schedulers.scheduling_euler_ancestral_discrete import EulerAncestralDiscreteScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_flow_match_heun_discrete import FlowMatchHeunDiscreteScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from torch import Tensor

from ifuvit.diffusion.schedule import NUM_TIMESTEPS, SCHEDULE, alphas_cumprod


def ddpm_scheduler(solver: str, num_inference_steps: int, device: torch.device | str) -> Any:
    """A scheduler for the noise schedule of `DDPM`."""
    if solver == "euler-a":
        scheduler: Any = EulerAncestralDiscreteScheduler(**SCHEDULE)
    elif solver == "unipc":
        scheduler = UniPCMultistepScheduler(**SCHEDULE, solver_order=2, final_sigmas_type="sigma_min")
    elif solver == "dpm++2m":
        # Its last step is of first order only below 15 steps, unless asked: of second order it overshoots.
        scheduler = DPMSolverMultistepScheduler(
            **SCHEDULE, solver_order=2, final_sigmas_type="sigma_min", euler_at_final=True
        )
    else:
        # diffusers' own DDIM assumes that the number of steps divides 1000; first-order DPM-Solver++ is the same
        # formula and goes from each timestep to the next one of the actual grid.
        scheduler = _Singlestep(
            **SCHEDULE,
            solver_order=3 if solver == "dpm++" else 1,
            final_sigmas_type="sigma_min",
            lower_order_final=True,
        )
    scheduler.set_timesteps(num_inference_steps, device=device)
    timesteps, sigmas = _ddpm_grid(num_inference_steps)
    if solver == "euler-a":
        sigmas[-1] = 0
    stages = scheduler.order_list if solver == "dpm++" else [1] * num_inference_steps
    return _on_grid(scheduler, timesteps[:-1].to(device), sigmas, stages)


def flow_scheduler(
    solver: str, num_inference_steps: int, shifted: Callable[[np.ndarray], np.ndarray], device: torch.device | str
) -> Any:
    """A scheduler of `Flow`, which moves the times of its grid by `shifted`."""
    stages = [1] * num_inference_steps
    if solver == "euler":
        scheduler: Any = FlowMatchEulerDiscreteScheduler()
    elif solver == "heun":
        scheduler = _Heun()
        # Every interval is evaluated at both ends, but the last, which ends at t = 0, and, where the number of evaluations is
        # even, the first: one step of first order does not lower the order of the whole.
        stages = [1] * (num_inference_steps % 2 == 0) + [1, 2] * ((num_inference_steps - 1) // 2) + [1]
    else:
        scheduler = DPMSolverMultistepScheduler(
            solver_order=2, use_flow_sigmas=True, prediction_type="flow_prediction", final_sigmas_type="zero"
        )
    scheduler.set_timesteps(num_inference_steps, device=device)
    ends = np.linspace(1, 0, stages.count(1) + 1)
    begun = np.cumsum([stage == 1 for stage in stages])  # intervals
    t = torch.from_numpy(shifted(np.array([*ends[begun + np.array(stages) - 2], 0.0])).astype(np.float32))
    return _on_grid(scheduler, (NUM_TIMESTEPS * t[:-1]).to(device), t, stages)


def _on_grid(scheduler: Any, timesteps: Tensor, sigmas: Tensor, stages: Sequence[int]) -> Any:
    scheduler.timesteps, scheduler.sigmas, scheduler.stages = timesteps, sigmas, list(stages)
    scheduler.set_begin_index(0)  # the place in the grid is counted, not looked up by the timestep's value
    return scheduler


def _ddpm_grid(num_inference_steps: int) -> tuple[Tensor, Tensor]:
    """Timesteps t from 999 to 0 in equal, fractional steps (S + 1,), and sigma / alpha there, with log alpha
    interpolated linearly, as U-ViT's solver has them."""
    log_alphas = alphas_cumprod().log().numpy() / 2
    timesteps = np.linspace(len(log_alphas) - 1, 0, num_inference_steps + 1)
    log_alphas = np.interp(timesteps, np.arange(len(log_alphas)), log_alphas)
    sigmas = np.sqrt(np.expm1(-2 * log_alphas))
    return torch.from_numpy(timesteps.astype(np.float32)), torch.from_numpy(sigmas.astype(np.float32))


class _Singlestep(DPMSolverSinglestepScheduler):
    """With U-ViT's formulas: the second stage of a third-order step has the "heun" coefficients, everything else the
    "midpoint" ones. One `solver_type` for all stages, as diffusers has it, is up to a tenth less accurate."""

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        orders, place = self.order_list, self.step_index or 0
        inner = orders[place] == 2 and place + 1 < len(orders) and orders[place + 1] == 3
        self.register_to_config(solver_type="heun" if inner else "midpoint")
        return super().step(model_output, timestep, sample, *args, **kwargs)


class _Heun(FlowMatchHeunDiscreteScheduler):
    """With steps of first order where `stages` has no second evaluation."""

    stages: list[int]

    def step(self, model_output: Any, timestep: Any, sample: Any, *args: Any, **kwargs: Any) -> Any:
        result = super().step(model_output, timestep, sample, *args, **kwargs)
        if self.stages[self.step_index or 0 :][:1] == [1]:
            self.prev_derivative = self.dt = self.sample = None
        return result
