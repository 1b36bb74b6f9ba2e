"""One step of training: what it changes, and that parts of a batch make the whole."""

import shutil
from dataclasses import replace
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


def with_layout(batch, **settings) -> TrainingStep:
    torch.manual_seed(0)
    model = replace(MODEL, layout_kinds=3)
    config = tiny(Path(), Path(), model=model, layout_weight=0.5, **settings)
    return TrainingStep(config, IFUViT(model), make_accelerator("fp32", CPU))


def test_a_layout_is_learned_where_it_is_weighed(batch) -> None:
    """Half of each image is of one kind: the head comes to tell it, and the loss is the noise's again after its end."""
    side = MODEL.latent_size
    batch["layout"] = torch.zeros(4, side, side, dtype=torch.uint8)
    batch["layout"][:, :, side // 2 :] = 3
    step = with_layout(batch, steps=160, layout_until=0.5, learning_rate=1e-2)
    plain = make().loss_of(batch)
    assert step.loss_of(batch, 79) > plain and step.loss_of(batch, 80).item() == pytest.approx(plain.item(), rel=0.2)
    for number in range(80):
        step(batch, number)
        assert all(parameter.grad is None for parameter in step.parameters)
    logits = step.backbone.layout_logits(step._middle)
    assert logits.shape == (4, 4, side, side)
    assert (logits.argmax(1) == batch["layout"]).float().mean() > 0.95


def test_parts_with_a_layout_make_the_whole(batch) -> None:
    batch["layout"] = torch.randint(0, 4, (4, MODEL.latent_size, MODEL.latent_size), dtype=torch.uint8)
    whole, parts = with_layout(batch), with_layout(batch, gradient_accumulation=2)
    torch.testing.assert_close(parts(batch, 0), whole(batch, 0))


def test_compiling_needs_a_compiler(monkeypatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(InputError, match="--compile needs a C\\+\\+ compiler"):
        make(compile=True)


@pytest.mark.long
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


def test_samples_without_a_caption_teach_the_branch_without_text(batch) -> None:
    """Where all captions are dropped, nothing reaches the text path and the fused blocks; where none is, all learn."""
    torch.manual_seed(0)
    model = replace(MODEL, path_drop=True)
    step = TrainingStep(tiny(Path(), Path(), model=model), IFUViT(model), make_accelerator("fp32", CPU))
    plain = make().loss_of(batch)
    assert step.loss_of(batch) == plain
    loss = step.loss_of({**batch, "dropped": torch.ones(4, dtype=torch.bool)})
    assert loss != plain
    loss.backward()
    gradients = {name: p.grad for name, p in step.model.named_parameters()}
    assert all(gradients[name] is not None for name in gradients)  # distributed training waits for each
    silent = {name for name, grad in gradients.items() if not grad.any()}
    assert {name.split(".")[0] for name in silent} == {"context_embed", "text_blocks", "mid_block"}


class Halves:
    """Stands in for a frozen network: one feature for the left half of an image, another for the right one."""

    width = 3

    def __call__(self, images: torch.Tensor, side: int) -> torch.Tensor:
        assert images.shape[1:] == (3, 32, 32)
        found = torch.zeros(len(images), side, side, 3)
        found[:, :, : side // 2, 0] = found[:, :, side // 2 :, 1] = 1
        return found.flatten(1, 2)


class Decoder:
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return latents[:, :3].repeat_interleave(4, 2).repeat_interleave(4, 3)


def test_the_middle_block_is_aligned_until_its_end(batch) -> None:
    from ifuvit.encoders.normalization import LatentNormalization
    from ifuvit.training.alignment import Alignment, exported

    alignment = Alignment(Halves(), Decoder(), LatentNormalization(scale=(0.5,)))  # type: ignore[arg-type]
    torch.manual_seed(0)
    model = IFUViT(MODEL)
    alignment.attach(model)
    settings = {"align_to": "halves", "align_until": 0.5, "steps": 160, "learning_rate": 1e-2}
    step = TrainingStep(tiny(Path(), Path(), **settings), model, make_accelerator("fp32", CPU), alignment=alignment)
    plain = make().loss_of(batch)
    assert step.loss_of(batch, 79) > plain + 0.2 and step.loss_of(batch, 80) == plain
    step.loss_of(batch, 80).backward()
    assert all(p.grad is not None for p in step.parameters)
    step.model.zero_grad(set_to_none=True)
    for number in range(60):
        step(batch, number)
    step.loss_of(batch)
    assert alignment.loss(model, step._middle, batch["latents"]) < 0.1
    IFUViT(MODEL).load_state_dict(exported(model.state_dict()))  # the head stays behind
