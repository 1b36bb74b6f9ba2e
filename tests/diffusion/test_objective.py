"""The two objectives: times, noisy latents, targets and weights by hand, and that both are what a configuration says."""

import math

import pytest
import torch
from scipy import stats

from ifuvit.diffusion.objective import DDPM, OBJECTIVES, Flow, Objective
from ifuvit.diffusion.schedule import add_noise, alphas_cumprod
from ifuvit.utils.config import from_dict, to_dict
from ifuvit.utils.errors import InputError

UNIFORM = (torch.arange(4096) + 0.5) / 4096
CLEAN = Flow(prediction="clean")


def batch(count: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Predictions, latents and noise."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(count, 4, 5, 5, generator=generator) for _ in range(3))  # type: ignore[return-value]


# Noise prediction.


def test_ddpm_visits_every_timestep_equally() -> None:
    uniform = (torch.arange(2**24).float() / 2**24)[:: 2**24 // 8000]
    times = DDPM().sample_times(uniform)
    assert torch.equal(times, 1 + (uniform.double() * 1000).long())
    assert times.dtype == torch.int64 and times.min() == 1 and times.max() == 1000
    nearly_one = torch.tensor([1 - 2.0**-24])  # its float32 product with 1000 would be 1000
    assert DDPM().sample_times(nearly_one).item() == 1000
    levels = (torch.arange(1000) + 0.5) / 1000
    assert DDPM().times_at(levels).tolist() == list(range(1, 1001))


def test_ddpm_adds_noise_as_the_schedule_does() -> None:
    _, latents, noise = batch()
    n = torch.tensor([1, 500, 1000])
    assert torch.equal(DDPM().noisy_latents(latents, noise, n), add_noise(latents, noise, n))


def test_ddpm_plain_loss_is_the_mean_squared_error_of_the_noise() -> None:
    predicted, latents, noise = batch()
    n = torch.tensor([1, 500, 1000])
    loss = DDPM().loss(predicted, latents, noise, n)
    torch.testing.assert_close(loss, torch.nn.functional.mse_loss(predicted, noise))
    assert DDPM().loss(noise, latents, noise, n) == 0


def test_errors_are_of_single_images() -> None:
    predicted = torch.tensor([[1.0, 0.0], [3.0, 2.0]]).view(2, 1, 1, 2)
    noise = torch.tensor([[0.0, 0.0], [0.0, -0.0]]).view(2, 1, 1, 2)
    noise[1, 0, 0, 1] = 0.0
    assert DDPM().errors(predicted, predicted, noise, torch.tensor([1, 2])).tolist() == [0.5, 6.5]


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_weights_by_hand(gamma: float) -> None:
    n = [1, 100, 400, 700, 1000]
    predicted, noise = torch.zeros(5, 1, 1, 1), torch.arange(1.0, 6.0).reshape(5, 1, 1, 1)
    expected, weights = 0.0, []
    for step, error in zip(n, [1.0, 4.0, 9.0, 16.0, 25.0]):
        a = alphas_cumprod()[step - 1].item()
        snr = a / (1 - a)
        weights.append(min(snr, gamma) / snr)
        expected += weights[-1] * error / 5
    assert weights[0] < 0.01 and weights[-1] == 1.0  # texture counts little, layout fully
    loss = DDPM(snr_gamma=gamma).loss(predicted, noise, noise, torch.tensor(n))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_a_large_gamma_weights_nothing() -> None:
    predicted, latents, noise = batch(4)
    n = torch.tensor([1, 10, 500, 1000])
    torch.testing.assert_close(
        DDPM(snr_gamma=1e9).loss(predicted, latents, noise, n), DDPM().loss(predicted, latents, noise, n)
    )


@pytest.mark.parametrize("objective", [DDPM(), Flow(), CLEAN])
def test_half_precision_predictions_are_compared_in_full(objective: Objective) -> None:
    predicted = torch.full((1, 1, 32, 32), 300.0, dtype=torch.float16)  # its square would overflow
    zeros = torch.zeros(1, 1, 32, 32)
    loss = objective.loss(predicted, zeros, zeros, torch.tensor([1000]))
    assert loss.dtype == torch.float32 and loss.item() == 90_000


def test_gradient() -> None:
    predicted, latents, noise = batch(2)
    predicted.requires_grad_()
    DDPM().loss(predicted, latents, noise, torch.tensor([3, 4])).backward()
    assert predicted.grad is not None
    torch.testing.assert_close(predicted.grad, 2 * (predicted.detach() - noise) / predicted.numel())


# Rectified flow.


def test_flow_paths_are_straight_from_latents_to_noise() -> None:
    _, latents, noise = batch()
    noisy = Flow().noisy_latents(latents, noise, torch.tensor([0.0, 250.0, 1000.0]))
    assert torch.equal(noisy[0], latents[0]) and torch.equal(noisy[2], noise[2])
    torch.testing.assert_close(noisy[1], 0.75 * latents[1] + 0.25 * noise[1])


def test_uniform_times() -> None:
    assert torch.equal(Flow().sample_times(UNIFORM), 1000 * UNIFORM)
    assert torch.equal(Flow(shift=3.0).times_at(UNIFORM), 1000 * UNIFORM)  # noise levels are not shifted


def test_logit_normal_times() -> None:
    times = Flow(times="logit-normal", logit_mean=0.5, logit_std=2.0).sample_times(UNIFORM) / 1000
    logits = (times / (1 - times)).log()
    expected = stats.norm(0.5, 2.0).ppf(UNIFORM.double().numpy())
    torch.testing.assert_close(logits.double(), torch.from_numpy(expected), rtol=1e-3, atol=1e-3)
    edge = Flow(times="logit-normal").sample_times(torch.tensor([0.0, 1 - 2.0**-24]))
    assert edge.isfinite().all() and edge[0] == 0 and edge[1] <= 1000


@pytest.mark.parametrize("times", ["uniform", "logit-normal"])
def test_shift_moves_times_and_the_solver_s_grid_alike(times) -> None:
    plain, shifted = (Flow(times=times, shift=s).sample_times(UNIFORM) / 1000 for s in (1.0, 3.0))
    torch.testing.assert_close(shifted, 3 * plain / (1 + 2 * plain))
    for solver in Flow.solvers:
        plain, shifted = (Flow(times=times, shift=s).make_scheduler(solver, 9).timesteps / 1000 for s in (1.0, 3.0))
        torch.testing.assert_close(shifted, 3 * plain / (1 + 2 * plain))
        assert shifted[0] == 1


def test_flow_learns_the_velocity() -> None:
    predicted, latents, noise = batch()
    times = torch.tensor([0.0, 300.0, 1000.0])
    torch.testing.assert_close(
        Flow().loss(predicted, latents, noise, times), torch.nn.functional.mse_loss(predicted, noise - latents)
    )
    assert Flow().loss(noise - latents, latents, noise, times) == 0


def test_a_clean_prediction_has_the_velocity_s_loss() -> None:
    """The same network, asked for the latents instead of the velocity, has the same error, and gives the solver the same."""
    predicted, latents, noise = batch()
    times = torch.tensor([60.0, 300.0, 1000.0])
    noisy = CLEAN.noisy_latents(latents, noise, times)
    as_latents = noisy - (times / 1000).view(-1, 1, 1, 1) * predicted
    torch.testing.assert_close(
        CLEAN.errors(as_latents, latents, noise, times), Flow().errors(predicted, latents, noise, times)
    )
    for one, state, time, velocity in zip(as_latents, noisy, times.tolist(), predicted, strict=True):
        torch.testing.assert_close(CLEAN.for_solver(one, state, time), velocity, rtol=1e-4, atol=1e-4)
    assert torch.equal(Flow().for_solver(predicted, noisy, 300.0), predicted)
    assert CLEAN.loss(latents, latents, noise, times) == 0


def test_errors_of_clean_predictions_weigh_no_more_near_the_data() -> None:
    predicted, latents, noise = batch()
    near, at_bound = (CLEAN.errors(predicted, latents, noise, torch.full((3,), time)) for time in (1.0, 50.0))
    assert torch.equal(near, at_bound)


# Both.


@pytest.mark.parametrize("objective", [DDPM(snr_gamma=5.0), Flow(prediction="clean", times="logit-normal", shift=3.0)])
def test_saved_and_read(objective: Objective) -> None:
    saved = to_dict(objective)
    assert from_dict(OBJECTIVES[saved["name"]], saved) == objective


@pytest.mark.parametrize(
    "make",
    [
        lambda: DDPM(snr_gamma=math.nan),
        lambda: DDPM(snr_gamma=0.0),
        lambda: Flow(shift=0.0),
        lambda: Flow(shift=math.inf),
        lambda: Flow(logit_mean=math.nan),
        lambda: Flow(logit_std=-1.0),
    ],
)
def test_numbers_out_of_range(make) -> None:
    with pytest.raises(InputError, match="must be"):
        make()


def test_a_solver_of_the_other_objective_is_one_clear_line() -> None:
    with pytest.raises(InputError, match="solver 'heun' is one of flow models; this is a ddpm model: choose auto, dpm"):
        DDPM().make_scheduler("heun", 5)
    with pytest.raises(InputError, match="solver 'dpm\\+\\+' is one of ddpm models; this is a flow model"):
        Flow().make_scheduler("dpm++", 5)
    with pytest.raises(InputError, match="unknown solver 'magic'"):
        Flow().make_scheduler("magic", 5)
    assert DDPM().resolve_solver("auto") == "dpm++" and Flow().resolve_solver("auto") == "dpm++2m"


def test_configurations_need_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, ifuvit.training.config; sys.exit('torch' in sys.modules or 'diffusers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("objective", [DDPM(), Flow(), Flow(prediction="clean")], ids=str)
def test_clean_latents_are_those_that_the_noise_was_added_to(objective):
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 4, 3, 8, 8, generator=generator)
    times = objective.times_at(torch.tensor([0.1, 0.4, 0.7, 0.95]))
    noisy = objective.noisy_latents(latents, noise, times)
    perfect = {"ddpm": noise, "flow": noise - latents}[objective.name]
    if getattr(objective, "prediction", None) == "clean":
        perfect = latents
    torch.testing.assert_close(objective.clean_latents(perfect, noisy, times), latents, atol=1e-4, rtol=1e-4)
