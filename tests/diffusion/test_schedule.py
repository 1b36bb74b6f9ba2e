"""The forward process against diffusers' scheduler and by hand."""

import math

import pytest
import torch

from ifuvit.diffusion.schedule import NUM_TIMESTEPS, add_noise, alphas_cumprod, signal_to_noise


def test_equals_stable_diffusions_schedule() -> None:
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    scheduler = DDPMScheduler(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    )
    assert NUM_TIMESTEPS == 1000 and alphas_cumprod().shape == (1000,)
    torch.testing.assert_close(alphas_cumprod().float(), scheduler.alphas_cumprod, rtol=3e-5, atol=0)

    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(5, 4, 3, 3, generator=generator) for _ in range(2))
    n = torch.tensor([1, 2, 500, 999, 1000])
    expected = scheduler.add_noise(latents, noise, n - 1)  # type: ignore[arg-type]  # diffusers counts from 0
    torch.testing.assert_close(add_noise(latents, noise, n), expected, rtol=1e-4, atol=1e-5)


def test_first_and_last_step_by_hand() -> None:
    low, high = math.sqrt(0.00085), math.sqrt(0.012)
    product, products = 1.0, []
    for n in range(1, 1001):
        product *= 1 - (low + (high - low) * (n - 1) / 999) ** 2
        products.append(product)
    assert alphas_cumprod().tolist() == pytest.approx(products, rel=1e-9)
    assert alphas_cumprod()[0].item() == pytest.approx(1 - 0.00085)
    latents, noise = torch.full((1, 1, 2, 2), 3.0), torch.full((1, 1, 2, 2), -2.0)
    noisy = add_noise(latents, noise, torch.tensor([1]))
    assert noisy[0, 0, 0, 0].item() == pytest.approx(3 * math.sqrt(0.99915) - 2 * math.sqrt(0.00085), rel=1e-6)


def test_variance_is_preserved() -> None:
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(4, 1, 100, 100, generator=generator) for _ in range(2))
    noisy = add_noise(latents, noise, torch.tensor([1, 300, 700, 1000]))
    assert noisy.flatten(1).std(1).tolist() == pytest.approx([1] * 4, abs=0.02)


def test_every_image_has_its_own_timestep() -> None:
    latents, noise = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4)
    n = torch.tensor([7, 900, 7])
    together = add_noise(latents, noise, n)
    for i in range(3):
        assert torch.equal(together[i : i + 1], add_noise(latents[i : i + 1], noise[i : i + 1], n[i : i + 1]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_noise_keeps_the_type(dtype: torch.dtype) -> None:
    latents = torch.randn(2, 1, 2, 2, dtype=dtype)
    assert add_noise(latents, torch.randn_like(latents), torch.tensor([3, 4])).dtype == dtype


def test_signal_to_noise() -> None:
    n = torch.arange(1, 1001)
    snr = signal_to_noise(n)
    assert snr.dtype == torch.float32
    assert (snr.diff() < 0).all()
    assert snr[0].item() == pytest.approx(0.99915 / 0.00085, rel=1e-5)
    a = alphas_cumprod()[499].item()
    assert signal_to_noise(torch.tensor([500], dtype=torch.int32)).item() == pytest.approx(a / (1 - a), rel=1e-6)
