"""A user's checkout: how it is found and loaded, and that its steps are U-ViT's."""

import sys
from dataclasses import replace

import pytest
import torch
from stand_in_uvit import write_checkout
from tiny_training import MODEL
from torch.nn.functional import mse_loss

from ifuvit.benchmarks.machine import make_accelerator
from ifuvit.benchmarks.reference import ReferenceStep, difference_from_uvit, guided_step, load_reference
from ifuvit.diffusion.objective import DDPM
from ifuvit.diffusion.schedule import add_noise
from ifuvit.model.settings import as_uvit
from ifuvit.model.uvit import IFUViT
from ifuvit.utils.errors import InputError

CPU = torch.device("cpu")
UVIT = as_uvit(MODEL)


def test_loading_prints_nothing_and_leaves_paths_alone(tmp_path, capsys) -> None:
    before = list(sys.path)
    reference = load_reference(write_checkout(tmp_path / "checkout"))
    assert capsys.readouterr() == ("", "") and sys.path == before and "libs" not in sys.modules
    facts = reference.facts()
    assert facts["attention"] == "stand-in" and len(facts["sha256"]) == 64
    model = reference.build(MODEL)
    assert type(model).__name__ == "UViT" and model.config == UVIT


def test_a_second_checkout_is_not_the_first(tmp_path) -> None:
    first = load_reference(write_checkout(tmp_path / "first"))
    second = load_reference(write_checkout(tmp_path / "second", backbone="class UViT: second = True"))
    assert second.module.UViT.second and not hasattr(first.module.UViT, "second")


def test_mistakes(tmp_path) -> None:
    def fails(name: str, **files) -> str:
        with pytest.raises(InputError) as error:
            load_reference(write_checkout(tmp_path / name, **files)).build(MODEL)
        assert "\n" not in str(error.value)
        return str(error.value)

    with pytest.raises(InputError, match="nowhere: no libs/uvit_t2i.py there; give a checkout of https://github.com"):
        load_reference(tmp_path / "nowhere")
    assert "needs 'no_such_package', which is missing; `pip install" in fails("a", backbone="import no_such_package")
    assert "needs 'timm', which is missing; the checkout is incomplete" in fails("b", timm=None)
    assert "cannot be imported (SyntaxError" in fails("c", backbone="class")
    assert "has no class UViT" in fails("d", backbone="")
    assert "its UViT is not the one of" in fails("e", backbone="class UViT: pass")


def test_difference_is_that_of_the_same_weights(reference, batch) -> None:
    accelerator = make_accelerator("fp32", CPU)
    assert difference_from_uvit(UVIT, reference, batch, accelerator) == 0

    class Louder(reference.module.UViT):
        def forward(self, x, timesteps, context):
            return super().forward(x, timesteps, context) * 1.25

    reference.module.UViT = Louder
    assert difference_from_uvit(UVIT, reference, batch, accelerator) == pytest.approx(0.2, abs=1e-6)


def test_training_step_is_that_of_its_trainer(reference, batch) -> None:
    torch.manual_seed(0)
    model = reference.build(MODEL)
    mine = IFUViT(UVIT)
    mine.load_state_dict(model.state_dict())
    average = {name: value.clone() for name, value in mine.state_dict().items()}
    optimizer = torch.optim.AdamW(mine.parameters(), lr=2e-4, betas=(0.9, 0.9), weight_decay=0.03)
    step = ReferenceStep(model, make_accelerator("fp32", CPU))
    for number in range(3):
        timesteps = DDPM().sample_times(batch["uniform"])
        noisy = add_noise(batch["latents"], batch["noise"], timesteps)
        loss = mse_loss(mine(noisy, timesteps, batch["text_embeddings"].float()), batch["noise"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = 2e-4 * number / 5000
        optimizer.step()
        for name, value in mine.state_dict().items():
            average[name] = 0.9999 * average[name] + 0.0001 * value
        torch.testing.assert_close(step(batch), loss.detach())
    for name, value in mine.state_dict().items():
        torch.testing.assert_close(step.model.state_dict()[name], value)
        torch.testing.assert_close(step.average.state_dict()[name], average[name])
    assert not step.average.training


def test_guided_step_has_the_standard_w(reference, batch) -> None:
    model = reference.build(MODEL).eval()
    latents, timesteps, text = batch["latents"], 1000 * batch["uniform"], batch["text_embeddings"].float()
    null = text[-1]
    with torch.no_grad():
        given = guided_step(model, latents, timesteps, text, null, 3.0)
        conditional, empty = model(latents, timesteps, text), model(latents, timesteps, null.expand_as(text))
    torch.testing.assert_close(given, empty + 3 * (conditional - empty))


def test_as_uvit_keeps_the_size() -> None:
    other = replace(MODEL, conditioning="cross", n_text=2, n_image=(1, 0), mask_padding=True)
    assert as_uvit(other) == UVIT and as_uvit(UVIT) == UVIT and as_uvit(replace(MODEL, depth=4)) != UVIT
