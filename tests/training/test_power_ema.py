"""Averages by a power of time, against the integrals that they stand for."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from ifuvit.training import power_ema
from ifuvit.training.power_ema import PowerEMA, combination, exponent_of, reconstruct
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import write_json

WIDTHS = (0.05, 0.10)


def profile(exponent: float, end: float, time: float) -> float:
    return (exponent + 1) * time**exponent / end ** (exponent + 1) if time <= end else 0.0


@pytest.mark.parametrize(("width", "exponent"), [(0.05, 16.97), (0.10, 6.94), (0.25, 0.72)])
def test_exponent_of_a_width(width: float, exponent: float) -> None:
    """Karras et al. give 16.97 and 6.94; the width is the profile's own standard deviation."""
    gamma = exponent_of(width)
    assert gamma == pytest.approx(exponent, abs=0.01)
    mean = quad(lambda t: t * profile(gamma, 1, t), 0, 1)[0]
    assert quad(lambda t: (t - mean) ** 2 * profile(gamma, 1, t), 0, 1)[0] ** 0.5 == pytest.approx(width)


def test_a_combination_is_the_nearest_profile() -> None:
    """The residual is orthogonal to all profiles that it is made of, by numerical integration."""
    times, exponents = np.array([2.0, 2.0, 3.0, 3.0]), np.array([2.0, 6.0, 2.0, 6.0])
    weights = combination(times, exponents, 3.0, 4.0)

    def residual(t: float) -> float:
        made = sum(w * profile(e, end, t) for w, e, end in zip(weights, exponents, times))
        return profile(4.0, 3.0, t) - made

    for end, exponent in zip(times, exponents):
        product = quad(lambda t, end=end, e=exponent: residual(t) * profile(e, end, t), 0, end, points=[2.0])[0]
        assert abs(product) < 1e-8
    assert combination(times, exponents, 3.0, 6.0) == pytest.approx([0, 0, 0, 1], abs=1e-8)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,600 steps of a model whose weights are its step and a sine of it; averages of every hundredth are kept."""
    out = tmp_path_factory.mktemp("run")
    model = torch.nn.Linear(2, 1, bias=False)
    kept, other = [PowerEMA(model, width) for width in WIDTHS], PowerEMA(model, 0.08)
    for step in range(1, 1601):
        model.weight.data = torch.tensor([[step / 1600, np.sin(step / 200)]], dtype=torch.float32)
        for average in (*kept, other):
            average.update(step - 1)
        if step % 100 == 0:
            power_ema.write(out, step, [{"weight": one.average[0]} for one in kept])
        if step == 1200:
            torch.save(other.average[0], out / "other.pt")
    write_json(out / "config.json", {"config": {"recipe": {"ema": {"power_ema": list(WIDTHS)}}}})
    return out


@pytest.mark.parametrize("width", [0.05, 0.07, 0.10, 0.15])
def test_any_width_afterwards_is_the_analytic_average(run: Path, width: float) -> None:
    """Of the step itself it is (gamma + 1) / (gamma + 2); of the sine, an integral."""
    weights, step = reconstruct(run, width)
    gamma = exponent_of(width)
    sine = quad(lambda t: np.sin(8 * t) * profile(gamma, 1, t), 0, 1, limit=200)[0]
    assert step == 1600
    assert weights["weight"][0].tolist() == pytest.approx([(gamma + 1) / (gamma + 2), sine], abs=0.004)


def test_an_earlier_step_is_the_average_of_its_time(run: Path) -> None:
    weights, step = reconstruct(run, 0.08, 1200)
    assert step == 1200
    torch.testing.assert_close(weights["weight"], torch.load(run / "other.pt"), atol=2e-3, rtol=0)


def test_what_cannot_be_reconstructed(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--step 150: .* has averages of the steps 100, 200"):
        reconstruct(run, 0.08, 150)
    write_json(tmp_path / "config.json", {"config": {"recipe": {"ema": {}}}})
    with pytest.raises(InputError, match="has kept no averages; train with --power-ema"):
        reconstruct(tmp_path, 0.08)
