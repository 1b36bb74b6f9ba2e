"""Averages by a power of time, against the integrals that they stand for."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.integrate import quad
from tiny_training import tiny, write_features

from ifuvit.model.lora import merged_state
from ifuvit.model.uvit import IFUViT
from ifuvit.training import power_ema
from ifuvit.training.loop import train
from ifuvit.training.power_ema import PowerEMA, combination, exponent_of, reconstruct
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import write_json
from ifuvit.utils.weights import load_state

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


def test_every_byte_of_an_average_counts(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    file = power_ema.path_of(copy, 300)
    content = bytearray(file.read_bytes())
    content[-2] ^= 64
    file.write_bytes(content)
    with pytest.raises(InputError, match="step-00000300.safetensors: its checksum is not the one"):
        reconstruct(copy, 0.08)


@pytest.mark.parametrize(
    ("tensors", "what"),
    [
        ({"x": torch.zeros(2)}, "damaged"),
        ({"7.weight": torch.zeros(1, 2)}, "damaged"),
        ({}, "does not hold two averages"),
        ({"0.weight": torch.zeros(1, 2)}, "does not hold two averages"),
        ({"0.weight": torch.zeros(3), "1.weight": torch.zeros(3)}, "another shape"),
    ],
)
def test_averages_of_something_else(run: Path, tmp_path: Path, tensors: dict, what: str) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    save_file(tensors, power_ema.path_of(copy, 1600))
    with pytest.raises(InputError, match=f"step-00001600.safetensors: .*{what}"):
        reconstruct(copy, 0.08)


@pytest.mark.parametrize("widths", [[0.5, 2], [0.05], "ab", [0.05, 0.05]])
def test_widths_that_are_none(run: Path, tmp_path: Path, widths: object) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    write_json(copy / "config.json", {"config": {"recipe": {"ema": {"power_ema": widths}}}})
    with pytest.raises(InputError, match="config.json: "):
        reconstruct(copy, 0.08)


def test_averages_of_adapters_are_merged(tmp_path: Path) -> None:
    """As a model without adapters has them: `convert average` ended in a traceback."""
    data = write_features(tmp_path / "data")
    base = train(tiny(data, tmp_path / "base", steps=2))
    settings = {"init_from": str(base), "lora_rank": 2, "learning_rate": 1e-2, "save_every": 2, "warmup_steps": 0}
    adapted = train(tiny(data, tmp_path / "adapted", steps=4, power_ema=WIDTHS, **settings))
    weights, step = reconstruct(adapted, WIDTHS[0])
    before = IFUViT.from_pretrained(base)
    load_state(before, weights, where="averages")
    states = power_ema.read(adapted, 4)
    expected = merged_state(states[0], rank=2, alpha=2.0)
    assert step == 4 and all(torch.allclose(weights[name], value, atol=1e-6) for name, value in expected.items())
    changed = [
        name
        for name, value in IFUViT.from_pretrained(base).state_dict().items()
        if not torch.equal(value, weights[name])
    ]
    assert changed and all(name.endswith(("qkv.weight", "proj.weight", "fc1.weight", "fc2.weight")) for name in changed)
