"""Linear layers against torch's own."""

import pytest
import torch
import torch.nn.functional as F

from ifuvit.model import kernels as module
from ifuvit.model.kernels import Linear, linear


@pytest.fixture(autouse=True)
def onednn(monkeypatch):
    """Whatever the processor."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(module, "_onednn_is_faster", lambda: True)


@pytest.mark.parametrize("shape", [(5, 12), (3, 7, 12), (2, 3, 4, 12)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_result_and_gradients_are_those_of_torch(shape, bias):
    torch.manual_seed(0)
    values = [torch.randn(shape), torch.randn(8, 12), torch.randn(8) if bias else None]
    gradient = torch.randn(*shape[:-1], 8)
    found = []
    for function in (F.linear, linear):
        x, weight, offset = (None if v is None else v.clone().requires_grad_() for v in values)
        out = function(x, weight, offset)
        out.backward(gradient)
        found.append([out, x.grad, weight.grad, None if offset is None else offset.grad])
    for expected, given in zip(*found, strict=True):
        torch.testing.assert_close(given, expected, rtol=1e-5, atol=1e-5)


def test_gradients_by_finite_steps():
    layer = Linear(6, 4)
    x = torch.randn(3, 5, 6, requires_grad=True)
    assert "OneDNN" in type(layer(x).grad_fn).__name__
    torch.autograd.gradcheck(layer, (x,), eps=1e-2, atol=1e-3, rtol=1e-2, nondet_tol=1e-5)


def test_only_what_needs_a_gradient_gets_one():
    layer = Linear(6, 4).requires_grad_(False)
    x = torch.randn(3, 6, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None and layer.weight.grad is None and layer.bias.grad is None


@pytest.mark.parametrize("case", ["autocast", "bfloat16", "columns", "meta", "vector", "empty"])
def test_everything_else_is_left_to_torch(case):
    x, weight = torch.randn(3, 6, requires_grad=True), torch.randn(4, 6)
    if case == "bfloat16":
        x, weight = x.bfloat16(), weight.bfloat16()
    elif case == "columns":
        weight = torch.randn(4, 12)[:, :6]
    elif case == "meta":
        x, weight = x.to("meta"), weight.to("meta")
    elif case == "vector":
        x = x[0]
    elif case == "empty":
        x = x[:0]
    with torch.autocast("cpu", torch.bfloat16, enabled=case == "autocast"):
        out, expected = linear(x, weight), F.linear(x, weight)
    assert "OneDNN" not in type(out.grad_fn).__name__
    assert out.dtype == expected.dtype and out.shape == expected.shape
