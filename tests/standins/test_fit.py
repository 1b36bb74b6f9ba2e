"""The training loop of the stand-ins: schedule, steps, checkpoints, and what ends it."""

import math
import os
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from ifuvit.standins.fit import Fit, rise_and_fall, warmup_cosine
from ifuvit.training.checkpoint import path_of
from ifuvit.training.ema import EMA
from ifuvit.utils.errors import InputError


def make(network: nn.Module | None = None, *, rate=0.1, warmup=4, steps=20, loss=None, **changes) -> Fit:
    torch.manual_seed(0)
    network = network or nn.Linear(3, 1)
    lines: list[dict[str, float]] = []

    def error(step: int) -> dict[str, torch.Tensor]:
        inputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        return {"loss": (network(inputs) - inputs.sum(1, keepdim=True)).square().mean()}

    fit = Fit(
        **{
            "network": network,
            "optimizers": {torch.optim.AdamW(network.parameters(), weight_decay=0.0): rate},
            "loss": loss or error,
            "schedule": rise_and_fall(warmup=warmup, steps=steps or 1),
            "clip": 1.0,
            "steps": steps,
            "log": lines.append,
            "log_every": 1,
            **changes,
        }
    )
    fit.lines = lines  # type: ignore[attr-defined]
    return fit


def resumable(out, **changes) -> Fit:
    torch.manual_seed(1)
    network = nn.Linear(3, 1)
    nn.init.normal_(network.weight)
    return make(network, out=out, ema=EMA(network, 0.9, ramp=True), checkpoint_minutes=1e-9, **changes)


def test_the_rate_rises_in_a_line_and_falls_along_a_cosine():
    fit = make()
    fit.run()
    shares = [line["rate_share"] for line in fit.lines]
    assert shares[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0]) and shares[4] == pytest.approx(1.0)
    assert shares[12] == pytest.approx(0.5) and 0 < shares[19] < 0.01
    assert all(later < earlier for earlier, later in zip(shares[4:], shares[5:]))
    (optimizer,) = fit.optimizers
    assert optimizer.param_groups[0]["lr"] == 0.1 * shares[-1]


def test_every_optimizer_has_its_own_peak():
    network = nn.Linear(3, 1)
    fit = make(network, optimizers={torch.optim.SGD([network.weight]): 0.1, torch.optim.SGD([network.bias]): 0.0})
    before = network.bias.item(), network.weight.clone()
    fit.run()
    assert network.bias.item() == before[0] and not torch.equal(network.weight, before[1])


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_short_trainings_have_rates(steps):
    fit = make(warmup=steps // 10, steps=steps)
    fit.run()
    assert [line["step"] for line in fit.lines] == list(range(1, steps + 1))
    assert all(0 < line["rate_share"] <= 1 for line in fit.lines)


def test_a_schedule_by_progress_reaches_its_floor():
    shares = [warmup_cosine(progress, warmup=0.05, floor=0.01) for progress in np.linspace(0, 1, 101)]
    assert shares[0] == 0 and max(shares) == pytest.approx(1.0) and shares.index(max(shares)) == 5
    assert all(later < earlier for earlier, later in zip(shares[5:], shares[6:])) and shares[-1] == pytest.approx(0.01)
    assert warmup_cosine(1.5, warmup=0.05, floor=0.01) == pytest.approx(0.01)


def test_the_loss_falls_and_a_step_keeps_nothing_of_the_last_gradient():
    fit = make(warmup=0)
    fit.run()
    losses = [line["loss"] for line in fit.lines]
    assert losses[-1] < 0.1 * losses[0] and fit.step == 20


def test_large_gradients_are_clipped_and_their_norm_is_logged():
    network = nn.Linear(1, 1, bias=False)
    fit = make(network, steps=1, loss=lambda _: {"loss": 1e6 * network.weight.sum()}, clip=0.5)
    fit.run()
    assert fit.lines[0]["gradient_norm"] == pytest.approx(1e6)
    assert network.weight.grad.item() == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("poison", "message"),
    [
        (lambda weight: weight.sum() * math.inf, "the loss is inf at step 3; try a learning rate below 0.1 or"),
        (lambda weight: (weight * 0).sum().sqrt(), "the gradient is nan at step 3; try a learning rate below 0.1 or"),
    ],
)
def test_what_is_not_finite_is_refused(poison, message):
    network = nn.Linear(1, 1, bias=False)
    nn.init.ones_(network.weight)
    before = []

    def loss(step: int) -> dict[str, torch.Tensor]:
        before.append(network.weight.item())
        return {"loss": poison(network.weight) if step == 2 else network.weight.sum()}

    with pytest.raises(InputError, match=message):
        make(network, loss=loss).run()
    assert network.weight.item() == before[-1] != before[0]


def test_parameters_are_brought_back_into_their_bounds_after_every_step():
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    fit = make(network, loss=lambda _: {"loss": -network.weight.sum()}, project=lambda: network.weight.clamp_(max=0.03))
    seen = []
    fit.log = lambda _: seen.append(network.weight.item())
    fit.run()
    assert max(seen) == pytest.approx(0.03) and seen[0] < 0.03


def test_the_averaged_weights_are_measured_and_the_plain_ones_trained_on(tmp_path):
    fit = resumable(tmp_path, steps=10)
    measured = []

    def evaluate() -> dict[str, float]:
        measured.append(fit.network.weight.detach().clone())
        return {"held_out": 1.0}

    fit = replace(fit, evaluate=evaluate, evaluate_every=5)
    fit.lines = []  # type: ignore[attr-defined]
    fit.log = fit.lines.append  # type: ignore[attr-defined]
    fit.run()
    assert [line["step"] for line in fit.lines if "held_out" in line] == [5, 10]
    assert torch.equal(measured[-1], fit.ema.average[0]) and not torch.equal(measured[-1], fit.network.weight)


def test_killed_and_resumed_equals_uninterrupted(tmp_path):
    whole = resumable(tmp_path / "whole")
    whole.run()
    broken = resumable(tmp_path / "broken")
    loss = broken.loss

    def die(step: int) -> dict[str, torch.Tensor]:
        if step == 7:
            raise KeyError("killed")
        return loss(step)

    broken.loss = die
    with pytest.raises(KeyError):
        broken.run()
    resumed = resumable(tmp_path / "broken")
    resumed.resume()
    assert resumed.step == 7 and resumed.seconds > 0
    resumed.run()
    assert torch.equal(whole.network.weight, resumed.network.weight)
    assert torch.equal(whole.ema.average[0], resumed.ema.average[0])
    assert [line["loss"] for line in whole.lines[7:]] == [line["loss"] for line in resumed.lines]


def test_checkpoints_that_a_fault_left_are_deleted(tmp_path):
    fit = resumable(tmp_path, steps=3)
    fit.run()
    newest = path_of(tmp_path, 3)
    shutil.copytree(newest, path_of(tmp_path, 1))
    resumable(tmp_path, steps=3).resume()
    assert [path.name for path in sorted(newest.parent.iterdir())] == ["step-00000002", "step-00000003"]


def test_a_signal_ends_it_after_a_checkpoint(tmp_path, capsys):
    fit = resumable(tmp_path)
    loss = fit.loss

    def kill(step: int) -> dict[str, torch.Tensor]:
        if step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(step)

    fit.loss, fit.checkpoint_minutes = kill, 1e9
    with pytest.raises(SystemExit) as stop:
        fit.run()
    assert stop.value.code == 128 + signal.SIGTERM
    assert "stopped at step 5; the same command resumes there" in capsys.readouterr().err
    again = resumable(tmp_path)
    again.resume()
    assert again.step == 5


def test_time_can_end_it():
    fit = make(steps=None, minutes=1e-6, schedule=lambda _, progress: 1.0)
    fit.run()
    assert fit.step >= 1 and fit.seconds >= 60e-6
    assert make(steps=3, minutes=1e6).run() is None
