"""Latents are centered and scaled, and come back."""

import math

import numpy as np
import pytest
import torch

from ifuvit.encoders.normalization import LatentNormalization
from ifuvit.utils.config import from_dict, to_dict
from ifuvit.utils.errors import InputError

BY_CHANNEL = LatentNormalization(mean=(1.0, -2.0, 0.5), scale=(0.5, 2.0, 4.0))


def latents() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, 3, 4, 4), np.float32)


def test_round_trip() -> None:
    given = latents()
    normalized = BY_CHANNEL.normalize(given.copy())
    assert normalized.dtype == np.float32
    np.testing.assert_allclose(normalized[:, 1], (given[:, 1] + 2) * 2, rtol=1e-6)
    back = BY_CHANNEL.denormalize(torch.from_numpy(normalized))
    assert back.dtype == torch.float32
    np.testing.assert_allclose(back.numpy(), given, atol=1e-6)


def test_one_scale_is_a_product_and_a_quotient_to_the_last_bit() -> None:
    scale, given = 0.2301, latents()
    one = LatentNormalization(scale=(scale,))
    assert np.array_equal(one.normalize(given.copy()), given * np.float32(scale))
    assert torch.equal(one.denormalize(torch.from_numpy(given)), torch.from_numpy(given) / scale)


def test_saved_and_read() -> None:
    assert from_dict(LatentNormalization, to_dict(BY_CHANNEL)) == BY_CHANNEL


@pytest.mark.parametrize(
    "values",
    [
        {"mean": (0.0,), "scale": (1.0, 2.0)},
        {"mean": (), "scale": ()},
        {"scale": (0.0,)},
        {"scale": (math.nan,)},
        {"mean": (math.inf,), "scale": (1.0,)},
    ],
)
def test_refused(values) -> None:
    with pytest.raises(InputError, match="latent normalization"):
        LatentNormalization(**values)


def test_of_another_number_of_channels() -> None:
    BY_CHANNEL.check_channels(3)
    with pytest.raises(InputError, match="of 3 channels, the backbone has 4"):
        BY_CHANNEL.check_channels(4)
