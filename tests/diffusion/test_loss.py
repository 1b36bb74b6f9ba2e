"""The objective by hand."""

import pytest
import torch

from ifuvit.diffusion.loss import denoising_loss, noise_errors
from ifuvit.diffusion.schedule import alphas_cumprod


def test_errors_of_each_image() -> None:
    noise = torch.zeros(2, 1, 2, 2)
    predicted = torch.tensor([[[[1.0, -1], [0, 0]]], [[[2, 2], [2, 4]]]])
    assert noise_errors(predicted, noise).tolist() == [0.5, 7.0]


def test_the_papers_loss_is_the_plain_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    predicted, noise = (torch.randn(3, 4, 5, 5, generator=generator) for _ in range(2))
    loss = denoising_loss(predicted, noise, torch.tensor([1, 500, 1000]))
    torch.testing.assert_close(loss, torch.nn.functional.mse_loss(predicted, noise))
    assert denoising_loss(noise, noise, torch.tensor([1, 2, 3])) == 0


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
    assert denoising_loss(predicted, noise, torch.tensor(n), snr_gamma=gamma).item() == pytest.approx(
        expected, rel=1e-5
    )


def test_a_large_gamma_weights_nothing() -> None:
    predicted, noise = torch.randn(4, 2, 3, 3), torch.randn(4, 2, 3, 3)
    n = torch.tensor([1, 10, 500, 1000])
    torch.testing.assert_close(denoising_loss(predicted, noise, n, snr_gamma=1e9), denoising_loss(predicted, noise, n))


def test_half_precision_predictions_are_compared_in_full() -> None:
    predicted = torch.full((1, 1, 32, 32), 300.0, dtype=torch.float16)  # its square would overflow
    loss = denoising_loss(predicted, torch.zeros(1, 1, 32, 32), torch.tensor([5]))
    assert loss.dtype == torch.float32 and loss.item() == 90_000


def test_gradient() -> None:
    predicted = torch.randn(2, 1, 2, 2, requires_grad=True)
    noise = torch.randn(2, 1, 2, 2)
    denoising_loss(predicted, noise, torch.tensor([3, 4])).backward()
    assert predicted.grad is not None
    torch.testing.assert_close(predicted.grad, 2 * (predicted.detach() - noise) / 8)
