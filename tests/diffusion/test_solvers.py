"""Solvers of rectified flow against a flow that is known: all data from one Gaussian. (Those of ddpm: test_sampling.py.)"""

import pytest
import torch
from torch import Tensor

from ifuvit.diffusion.objective import Flow

MEAN, VARIANCE = 0.7, torch.linspace(0.05, 2.0, 64, dtype=torch.float64).view(1, 1, 8, 8)


def velocity(state: Tensor, t: float) -> Tensor:
    """E[noise - latents | state] where latents are normal of MEAN and VARIANCE."""
    spread = (1 - t) ** 2 * VARIANCE + t**2
    return -MEAN + (t - (1 - t) * VARIANCE) / spread * (state - (1 - t) * MEAN)


def solve(solver: str, steps: int, shift: float = 1.0) -> tuple[float, list[float]]:
    """The relative distance from the exact solution, and the times of the evaluations."""
    torch.manual_seed(0)
    noise = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    exact = MEAN + noise * VARIANCE.sqrt()
    scheduler, state, seen = Flow(shift=shift).make_scheduler(solver, steps), noise, []
    for time in scheduler.timesteps:
        seen.append(float(time) / 1000)
        state = scheduler.step(velocity(state, seen[-1]), time, state, return_dict=False)[0]
    assert scheduler.stages[0] == 1 and len(scheduler.stages) == steps
    return float((state - exact).norm() / exact.norm()), seen


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize(
    ("solver", "order", "at_50"), [("euler", 1, 0.03), ("heun", 2, 0.009), ("dpm++2m", 1.6, 0.005)]
)
def test_order_of_convergence(solver: str, order: float, at_50: float, shift: float) -> None:
    """(dpm++2m works in log SNR, which has no end on either side, and loses a logarithm.)"""
    errors = {steps: solve(solver, steps, shift)[0] for steps in (50, 100, 200)}
    assert errors[50] < at_50
    for few, many in ((50, 100), (100, 200)):
        assert errors[few] / errors[many] == pytest.approx(2**order, rel=0.25)
    assert errors[100] / errors[200] > 0.85 * 2**order


@pytest.mark.parametrize("solver", Flow.solvers)
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 20, 31])
def test_one_evaluation_a_step_and_none_without_noise(solver: str, steps: int) -> None:
    error, seen = solve(solver, steps)
    assert len(seen) == steps and seen[0] == 1 and min(seen) > 0
    assert all(later <= earlier for earlier, later in zip(seen, seen[1:]))
    assert error < 1.5


@pytest.mark.parametrize("steps", [19, 20])
def test_heun_evaluates_both_ends_of_intervals(steps: int) -> None:
    stages = Flow().make_scheduler("heun", steps).stages
    assert stages == [1] * (steps % 2 == 0) + [1, 2] * 9 + [1]
    assert solve("heun", steps)[0] < 0.02
