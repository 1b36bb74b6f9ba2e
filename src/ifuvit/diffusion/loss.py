"""The training objective: mean squared error of the predicted noise (Ho et al. 2020, L_simple)."""

from torch import Tensor

from ifuvit.diffusion.schedule import signal_to_noise


def noise_errors(predicted: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error of each image: (B, C, H, W) twice -> (B,) float32."""
    return (predicted.float() - noise.float()).square().flatten(1).mean(1)


def denoising_loss(predicted: Tensor, noise: Tensor, timesteps: Tensor, snr_gamma: float | None = None) -> Tensor:
    """The loss of a batch, a scalar.

    Args:
        predicted, noise: (B, C, H, W).
        timesteps: (B,) n in 1 … 1000.
        snr_gamma: None is the paper's plain mean; a number weights timesteps by min(SNR, gamma) / SNR (Hang et al.
            2023, Min-SNR, for noise prediction), which moves effort from fine texture to layout.
    """
    errors = noise_errors(predicted, noise)
    if snr_gamma is not None:
        snr = signal_to_noise(timesteps)
        errors = errors * snr.clamp(max=snr_gamma) / snr
    return errors.mean()
