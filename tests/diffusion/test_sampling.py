from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from solver_accuracy import GUIDANCE_SCALE, UVIT_SOLVER, distance, exact, problem
from torch import Tensor

from ifuvit.diffusion.objective import DDPM
from ifuvit.diffusion.sampling import image_generators, initial_noise, sample
from ifuvit.diffusion.schedule import alphas_cumprod
from ifuvit.pipeline import Pipeline
from ifuvit.utils.errors import InputError


class GaussianData:
    """The exact denoiser of data whose cells are independent normal variables of the given variance."""

    def __init__(self, variance: Tensor) -> None:
        self.variance, self.seen = variance, []

    def guided(
        self, latents: Tensor, timesteps: Tensor, text: object, null_text: object, *, guidance_scale: float
    ) -> Tensor:
        self.seen.append((timesteps, guidance_scale))
        log_a = np.interp(timesteps.numpy(), np.arange(1, 1001), alphas_cumprod().log().numpy())
        a = torch.from_numpy(np.exp(log_a)).float().view(-1, 1, 1, 1)
        return (1 - a).sqrt() * latents / (a * self.variance + 1 - a)

    def solution(self, noise: Tensor) -> Tensor:
        """The probability flow keeps x / (its standard deviation); from n = 1000 to n = 1."""
        start, end = [a * self.variance + 1 - a for a in (alphas_cumprod()[-1].item(), alphas_cumprod()[0].item())]
        return noise * (end / start) ** 0.5


@pytest.fixture(scope="module")
def network():
    model, noise, text, null_text = problem()
    return model, noise, text, null_text, exact(model, noise, text, null_text, guidance_scale=GUIDANCE_SCALE, units=9)


@pytest.mark.parametrize("steps", [20, 50])
def test_default_solver_is_as_accurate_as_uvits(network, steps):
    model, noise, text, null_text, target = network
    result = sample(model, noise, text, null_text, guidance_scale=GUIDANCE_SCALE, num_inference_steps=steps)
    assert distance(result, target) == pytest.approx(UVIT_SOLVER[steps], rel=0.02)


@pytest.mark.parametrize(("solver", "tolerance"), [("dpm++", 8e-3), ("dpm++2m", 2e-2), ("unipc", 1e-2), ("ddim", 4e-2)])
def test_deterministic_solvers_reach_the_exact_solution(solver, tolerance):
    data = GaussianData(torch.linspace(0.1, 2.0, 64).view(1, 1, 8, 8))
    noise = initial_noise((1, 8, 8), 0, range(3))
    errors = []
    for steps in (50, 200):
        result = sample(data, noise, None, None, num_inference_steps=steps, solver=solver)
        errors.append(distance(result, data.solution(noise)))
    assert errors[0] < tolerance
    assert errors[1] < errors[0] / 3


def test_more_steps_of_dpm2m_are_closer_to_the_solution():
    """diffusers ends runs of fewer than 15 steps by a step of first order, and longer ones, left alone, by one of second order,
    which overshoots: with a trained model 15 steps were farther from the solution than 12."""
    pipeline = Pipeline.from_pretrained("openmoji-4-cross-intermediate")
    with torch.no_grad():
        text, null_text = (
            pipeline.model.encode_text(*pipeline.text_encoder(captions))
            for captions in (["a bus left of an apple", "three sheep", "a sheep below a star"], [""])
        )
        noise = initial_noise((4, 16, 16), 0, range(3))
        draw = partial(sample, pipeline.model, noise, text, null_text, guidance_scale=4.0)
        target = draw(num_inference_steps=60, solver="dpm++")
        few, more = (draw(num_inference_steps=steps, solver="dpm++2m") for steps in (12, 15))
    assert distance(more, target) < 0.95 * distance(few, target)


def test_the_offset_matters():
    """Fed diffusers' own timestep instead of n, the solution is another one."""

    class Off(GaussianData):
        def guided(self, latents, timesteps, text, null_text, *, guidance_scale):
            return super().guided(latents, (timesteps - 1).clamp(min=1), text, null_text, guidance_scale=guidance_scale)

    variance, noise = torch.full((1, 1, 8, 8), 0.5), initial_noise((1, 8, 8), 0, [0])
    good, bad = [
        distance(sample(kind(variance), noise, None, None, num_inference_steps=200), kind(variance).solution(noise))
        for kind in (GaussianData, Off)
    ]
    assert bad > 3 * good


@pytest.mark.parametrize("solver", DDPM.solvers)
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 7, 20, 31])
def test_one_evaluation_a_step_from_1000_on(solver, steps):
    data, done = GaussianData(torch.ones(1)), []
    result = sample(
        data,
        initial_noise((2, 4, 4), 0, range(2)),
        None,
        None,
        guidance_scale=3.5,
        num_inference_steps=steps,
        solver=solver,
        generators=image_generators(0, range(2)),
        callback=done.append,
    )
    seen = torch.stack([timesteps for timesteps, _ in data.seen])
    assert seen.shape == (steps, 2) and bool((seen[:, 0] == seen[:, 1]).all())
    assert seen[0, 0] == 1000 and bool((seen >= 1).all()) and bool((seen.diff(dim=0) < 0).all())
    assert {scale for _, scale in data.seen} == {3.5}
    assert done == list(range(1, steps + 1))
    assert result.shape == (2, 2, 4, 4) and result.dtype == torch.float32 and bool(result.isfinite().all())


def test_stochastic_solver_samples_the_data():
    variance = torch.tensor([0.25, 1.0, 2.0]).view(1, 3, 1, 1)
    indices = range(64)
    result = sample(
        GaussianData(variance),
        initial_noise((3, 16, 16), 0, indices),
        None,
        None,
        num_inference_steps=400,  # of first order: at 50 steps a tenth of the variance is missing
        solver="euler-a",
        generators=image_generators(0, indices),
    )
    assert torch.allclose(result.var((0, 2, 3)), variance.flatten(), rtol=0.06)
    assert result.mean((0, 2, 3)).abs().max() < 0.05


@pytest.mark.parametrize("solver", DDPM.solvers)
def test_the_network_sees_the_noise_itself_first(solver):
    """Whatever a solver keeps its state in, at n = 1000 the state is the noise."""
    inputs = []

    class Data(GaussianData):
        def guided(self, latents: Tensor, *arguments: Any, **options: Any) -> Tensor:
            inputs.append(latents)
            return super().guided(latents, *arguments, **options)

    noise = initial_noise((1, 4, 4), 0, [0, 1])
    settings = {"num_inference_steps": 5, "solver": solver, "generators": image_generators(0, [0, 1])}
    sample(Data(torch.ones(1)), noise, None, None, **settings)
    assert torch.allclose(inputs[0], noise, rtol=1e-4)


@pytest.mark.parametrize("solver", DDPM.solvers)
def test_an_image_does_not_depend_on_its_batch(solver):
    data, shape = GaussianData(torch.full((1,), 0.7)), (1, 4, 4)

    def draw(indices):
        return sample(
            data,
            initial_noise(shape, 5, indices),
            None,
            None,
            num_inference_steps=6,
            solver=solver,
            generators=image_generators(5, indices),
        )

    together = draw([3, 4, 5])
    assert torch.equal(torch.cat([draw([i]) for i in (3, 4, 5)]), together)
    assert not torch.equal(together[0], together[1])


def test_initial_noise_depends_on_seed_and_index_alone():
    noise = initial_noise((4, 16, 16), 7, range(32))
    assert noise.shape == (32, 4, 16, 16) and noise.dtype == torch.float32
    assert torch.equal(initial_noise((4, 16, 16), 7, [30, 2]), noise[[30, 2]])
    assert not torch.equal(initial_noise((4, 16, 16), 8, [0])[0], noise[0])
    assert abs(float(noise.mean())) < 0.02 and abs(float(noise.std()) - 1) < 0.02
    # (seed, index) are not mixed up: no image of one seed is another's neighbor
    assert not torch.equal(initial_noise((4,), 0, [1]), initial_noise((4,), 1, [0]))
    # the bits of this version: another result means that seeds no longer give the images they gave
    assert initial_noise((2,), 0, [0]).flatten().tolist() == pytest.approx(FIRST_NOISE, abs=1e-6)


FIRST_NOISE = [1.1176220178604126, -1.3871248960494995]


def test_a_stochastic_solver_has_a_random_stream_of_its_own():
    seeds = [generator.initial_seed() for generator in image_generators(0, [0, 1])]
    assert seeds[0] == 4143496759297204775 != seeds[1]  # the bits of this version, as above
    of_the_noise = np.random.Generator(np.random.PCG64(np.random.SeedSequence((0, 0, 0))))
    assert torch.equal(initial_noise((2,), 0, [0])[0], torch.from_numpy(of_the_noise.standard_normal(2, np.float32)))
    assert seeds[0] != np.random.Generator(np.random.PCG64(np.random.SeedSequence((0, 0, 0)))).integers(2**63 - 1)


def test_grid_of_the_paper():
    """51 equal steps in n from 1000 to 1, ending in the noise of n = 1."""
    scheduler = DDPM().make_scheduler("dpm++", 50)
    assert torch.allclose(scheduler.timesteps + 1, torch.linspace(1000, 1, 51)[:-1], atol=1e-3)
    a = alphas_cumprod()
    assert scheduler.sigmas[-1].item() == pytest.approx(((1 - a[0]) / a[0]).sqrt().item(), rel=1e-6)
    assert scheduler.order_list == [1, 2, 3] * 16 + [1, 2]


@pytest.mark.parametrize("solver, stages", [("ddim", 1), ("dpm++2m", 1), ("dpm++", 3)])
def test_guidance_in_an_interval(solver, stages):
    """Guided are the steps whose n / 1000 is inside, both ends included; the others take the conditional branch alone. Where
    a solver's step takes three evaluations, all are guided as the first."""
    data, noise = GaussianData(torch.ones(1)), torch.zeros(2, 1, 2, 2)
    options = {"guidance_interval": (0.1, 0.5005), "num_inference_steps": 10, "solver": solver}
    sample(data, noise, None, None, guidance_scale=3.0, **options)
    levels = [timesteps[0].item() / 1000 for timesteps, _ in data.seen]
    deciding = [levels[index // stages * stages] for index in range(10)]
    assert [scale for _, scale in data.seen] == [3.0 if 0.1 <= level <= 0.5005 else 1.0 for level in deciding]
    assert sum(scale == 3.0 for _, scale in data.seen) == (5 if stages == 1 else 4)


def test_guidance_beside_its_interval_is_none(network):
    model, noise, text, null_text, _ = network
    draw = partial(sample, model, noise, text, null_text, num_inference_steps=4)
    alone, everywhere = draw(guidance_scale=1.0), draw(guidance_scale=4.0)
    assert torch.equal(draw(guidance_scale=4.0, guidance_interval=(0.0, 0.0)), alone)  # n begins at 1
    assert torch.equal(draw(guidance_scale=4.0, guidance_interval=(0.0, 1.0)), everywhere)
    assert not torch.equal(alone, everywhere)


def test_guidance_rescale_is_diffusers():
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

    class Linear:
        def __init__(self, rescale: float) -> None:
            self.rescale, self.scales = rescale, []

        def guided(self, latents, timesteps, text, null_text, *, guidance_scale):
            self.scales.append(guidance_scale)
            unguided, null = latents * text, latents * null_text
            guided = null + guidance_scale * (unguided - null)
            return rescale_noise_cfg(guided, unguided, self.rescale) if self.rescale else guided

    noise, text, null_text = initial_noise((4, 8, 8), 0, range(3)), *torch.randn(2, 3, 4, 8, 8)
    draw = partial(sample, noise=noise, text=text, null_text=null_text, num_inference_steps=3, guidance_scale=4.0)
    plain = Linear(0.0)
    expected, rescaled = draw(Linear(0.7)), draw(plain, guidance_rescale=0.7)
    assert torch.allclose(rescaled, expected, rtol=1e-4, atol=1e-5) and plain.scales == [4.0, 1.0] * 3
    assert not torch.allclose(rescaled, draw(Linear(0.0)), rtol=0.1)
    plain.scales.clear()
    draw(plain, guidance_rescale=0.7, guidance_interval=(0.0, 0.5))
    assert plain.scales.count(4.0) < 3 and plain.scales.count(1.0) == 3  # unguided steps have nothing to rescale


@pytest.mark.parametrize(
    "change",
    [
        {"solver": "magic"},
        {"num_inference_steps": 0},
        {"num_inference_steps": 1001},
        {"solver": "euler-a"},
        {"guidance_interval": (0.5, 0.4)},
        {"guidance_interval": (0.0, 1.1)},
        {"guidance_interval": (float("nan"), 1.0)},
    ],
)
def test_mistakes(change):
    with pytest.raises(InputError, match="magic|steps|generator|noise range"):
        sample(GaussianData(torch.ones(1)), torch.zeros(1, 1, 2, 2), None, None, **change)
    with pytest.raises(InputError, match="-1"):
        initial_noise((2,), -1, [0])
