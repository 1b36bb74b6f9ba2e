"""One step of training: what it changes, and that parts of a batch make the whole."""

import shutil
from pathlib import Path

import pytest
import torch
from tiny_training import MODEL, tiny

from ifuvit.benchmarks.machine import make_accelerator
from ifuvit.benchmarks.training import random_batch
from ifuvit.model.uvit import IFUViT
from ifuvit.training.step import TrainingStep
from ifuvit.utils.errors import InputError

CPU = torch.device("cpu")


def make(**settings) -> TrainingStep:
    torch.manual_seed(0)
    return TrainingStep(tiny(Path(), Path(), **settings), IFUViT(MODEL), make_accelerator("fp32", CPU))


@pytest.fixture
def batch():
    return random_batch(MODEL, 4, seed=0, device=CPU)


def test_it_is_adam_s_step_down_the_loss(batch) -> None:
    step, plain = make(), make()
    optimizer = torch.optim.AdamW(plain.model.parameters(), lr=1e-3 / 4, betas=(0.9, 0.9), weight_decay=0.03)
    expected = plain.loss_of(batch)
    expected.backward()
    gradients = torch.cat([p.grad.flatten() for p in plain.model.parameters() if p.grad is not None])
    optimizer.step()
    loss, norm = step(batch, 0)  # the first of four steps of warm-up
    assert loss == expected and not loss.requires_grad
    torch.testing.assert_close(norm, gradients.norm())
    for mine, theirs in zip(step.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)
        assert mine.grad is None  # ready for the next one


def test_the_average_follows(batch) -> None:
    step = make(ema=0.9)
    before = [p.detach().clone() for p in step.parameters]
    step(batch, 3)
    for average, old, new in zip(step.ema.average, before, step.parameters, strict=True):
        torch.testing.assert_close(average, 0.9 * old + 0.1 * new.detach())


def test_parts_make_the_whole(batch) -> None:
    whole, parts = make(), make(gradient_accumulation=2)
    for number in range(2):
        torch.testing.assert_close(parts(batch, number), whole(batch, number))
    for mine, theirs in zip(parts.parameters, whole.parameters, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_compiling_needs_a_compiler(monkeypatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(InputError, match="--compile needs a C\\+\\+ compiler"):
        make(compile=True)


@pytest.mark.slow
def test_compiled_it_learns_the_same(batch) -> None:
    if not any(map(shutil.which, ("g++", "clang++"))):
        pytest.skip("no C++ compiler")
    plain, compiled = make(), make(compile=True)
    for number in range(3):
        expected, given = plain(batch, number), compiled(batch, number)
        torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5)
    assert list(compiled.model.state_dict()) == list(plain.model.state_dict())
    for mine, theirs in zip(compiled.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
