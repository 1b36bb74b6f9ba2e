"""The optimizer of the small models that judge images."""

import math

import pytest
import torch
from torch import nn

from ifuvit.standins.optimizer import Descent
from ifuvit.utils.errors import InputError


def descent_of(network: nn.Module, *, steps: int = 20, warmup: int = 4) -> Descent:
    return Descent(network, steps=steps, learning_rate=0.1, warmup=warmup, clip=1.0, weight_decay=0.0)


def test_the_rate_rises_in_a_line_and_falls_along_a_cosine():
    network = nn.Linear(1, 1)
    descent = descent_of(network)
    rates = []
    for _ in range(20):
        descent.step(network(torch.ones(1, 1)).square().sum())
        rates.append(descent.optimizer.param_groups[0]["lr"])
    assert rates[:4] == pytest.approx([0.025, 0.05, 0.075, 0.1]) and rates[4] == pytest.approx(0.1)
    assert rates[12] == pytest.approx(0.05) and 0 < rates[19] < 0.001
    assert all(later < earlier for earlier, later in zip(rates[4:], rates[5:]))


def test_the_loss_falls_and_a_step_keeps_nothing_of_the_last_gradient():
    torch.manual_seed(0)
    network, inputs = nn.Linear(3, 1), torch.randn(8, 3)
    descent = descent_of(network, warmup=0)
    losses = []
    for _ in range(20):
        loss = (network(inputs) - inputs.sum(1, keepdim=True)).square().mean()
        descent.step(loss)
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_a_gradient_that_is_not_finite_is_refused():
    network = nn.Linear(1, 1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(InputError, match="not finite at step 1; try a learning rate below 0.1"):
        descent_of(network).step(network(torch.full((1, 1), math.inf)).sum())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
