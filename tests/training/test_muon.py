"""Muon against torch's own, and on kernels of convolutions."""

import pytest
import torch
from torch import nn

from ifuvit.training.muon import Muon, orthogonalize


@pytest.mark.parametrize("shape", [(24, 24), (32, 8), (8, 32)])
def test_it_steps_as_torchs_own_does(shape) -> None:
    """Up to bfloat16, in which torch iterates, over steps with momentum, weight decay and both shapes' rates."""
    torch.manual_seed(0)
    start = torch.randn(shape)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    settings = {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.1}
    optimizers = Muon([ours], **settings), torch.optim.Muon([theirs], **settings)
    for _ in range(4):
        ours.grad = torch.randn(shape)
        theirs.grad = ours.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    moved = (ours - start).norm()
    assert (ours - theirs).norm() < 0.02 * moved and moved > 0.05


def test_singular_values_come_near_one() -> None:
    values = torch.linalg.svdvals(orthogonalize(torch.randn(16, 40, generator=torch.Generator().manual_seed(0))))
    assert ((values > 0.6) & (values < 1.3)).all()


def test_a_kernel_is_a_matrix_of_its_output_channels() -> None:
    torch.manual_seed(0)
    kernel, matrix = nn.Parameter(torch.randn(8, 4, 3, 3)), nn.Parameter(torch.empty(8, 36))
    matrix.data.copy_(kernel.flatten(1))
    gradient = torch.randn(8, 4, 3, 3)
    for parameter in (kernel, matrix):
        parameter.grad = gradient.reshape(parameter.shape).clone()
        Muon([parameter], lr=0.1).step()
    assert torch.equal(kernel.flatten(1), matrix)


def test_a_parameter_without_a_gradient_stays() -> None:
    parameter = nn.Parameter(torch.ones(2, 2))
    Muon([parameter], lr=0.1, weight_decay=0.5).step()
    assert torch.equal(parameter, torch.ones(2, 2))
