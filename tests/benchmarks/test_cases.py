"""The cases of `ifuvit bench train` and `sample`: real steps, on the same tensors, with the FLOPs they have."""

from pathlib import Path

import pytest
import torch
from tiny_training import MODEL, tiny, write_features

from ifuvit.benchmarks.config import TimingConfig
from ifuvit.benchmarks.machine import make_accelerator
from ifuvit.benchmarks.reference import guided_step
from ifuvit.benchmarks.sampling import GUIDANCE_SCALE, Guided, difference_from_plain, sampling, sampling_cases
from ifuvit.benchmarks.timing import time_cases
from ifuvit.benchmarks.training import random_batch, training_cases
from ifuvit.data.encoded import EncodedDataset
from ifuvit.diffusion.objective import DDPM
from ifuvit.encoders.normalization import LatentNormalization
from ifuvit.model.flops import forward_flops, guided_step_flops, text_flops
from ifuvit.model.settings import as_uvit
from ifuvit.model.uvit import IFUViT
from ifuvit.training.batches import Batches

CPU = torch.device("cpu")
CONFIGS = {"concat-early": as_uvit(MODEL), "cross-intermediate": MODEL}
QUICK = TimingConfig(rounds=1, warmup=2, min_seconds=0)


@pytest.fixture
def seen(monkeypatch):
    """The latents and timesteps that any backbone is given (the stand-in for U-ViT's is one of ours)."""
    seen, plain = [], IFUViT.encode_image

    def recorded(self, latents, timesteps):
        if latents.device.type != "meta":  # where FLOPs are counted
            seen.append((type(self).__name__, latents.clone(), timesteps.clone()))
        return plain(self, latents, timesteps)

    monkeypatch.setattr(IFUViT, "encode_image", recorded)
    return seen


def runs(**settings):
    return {
        name: tiny(Path(), Path(), model=config, batch_size=3, warmup_steps=0, **settings)
        for name, config in CONFIGS.items()
    }


def test_batch_is_like_training_s(tmp_path) -> None:
    features = EncodedDataset.open(write_features(tmp_path / "features"))
    unit = LatentNormalization(scale=(1.0,))
    real = Batches(features, torch.arange(20).numpy(), normalization=unit, seed=0, batch_size=3, caption_dropout=0.1)[0]
    mine = random_batch(MODEL, 3, seed=0, device=CPU)
    assert {name: (t.shape, t.dtype) for name, t in mine.items()} == {
        name: (t.shape, t.dtype) for name, t in real.items()
    }
    assert 0 <= mine["uniform"].min() and mine["uniform"].max() < 1
    again, other = (random_batch(MODEL, 3, seed=seed, device=CPU) for seed in (0, 1))
    assert torch.equal(mine["noise"], again["noise"]) and not torch.equal(mine["noise"], other["noise"])


def test_all_train_on_the_same_tensors(reference, batch, seen) -> None:
    cases = training_cases(runs(), reference, batch, make_accelerator("fp32", CPU))
    assert [case.name for case in cases] == ["U-ViT", *CONFIGS]
    assert [case.base for case in cases] == [None, "U-ViT", "U-ViT"]
    time_cases(cases, QUICK, CPU)
    assert {name for name, _, _ in seen} == {"UViT", "IFUViT"}
    for _, latents, timesteps in seen:
        assert torch.equal(latents, seen[0][1]) and torch.equal(timesteps, DDPM().sample_times(batch["uniform"]))


def test_training_flops() -> None:
    batch = random_batch(MODEL, 3, seed=0, device=CPU)
    cases = training_cases(runs(), None, batch, make_accelerator("fp32", CPU))
    assert [case.base for case in cases] == [None, "concat-early"]
    for case, config in zip(cases, CONFIGS.values(), strict=True):
        assert case.flops == 9 * forward_flops(config).total and case.items == 3


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_training_step_learns(batch, precision) -> None:
    accelerator = make_accelerator(precision, CPU)
    for case in training_cases(runs(learning_rate=1e-2), None, batch, accelerator):
        step = case.prepare()
        losses = [float(step()[0]) for _ in range(40)]  # type: ignore[index]
        assert losses[-1] < 0.8 * losses[0]


def test_all_sample_on_the_same_tensors(reference, batch, seen) -> None:
    cases = sampling_cases(CONFIGS, reference, batch, make_accelerator("fp32", CPU), seed=0)
    time_cases(cases, QUICK, CPU)
    assert {name for name, _, _ in seen} == {"UViT", "IFUViT"}
    for _, latents, timesteps in seen:
        assert torch.equal(latents, batch["latents"]) and torch.equal(timesteps, DDPM().sample_times(batch["uniform"]))


def test_sampling_cases(reference, batch) -> None:
    accelerator = make_accelerator("fp32", CPU)
    against = sampling_cases(CONFIGS, reference, batch, accelerator, seed=0)
    alone = sampling_cases(CONFIGS, None, batch, accelerator, seed=0)
    ways = [f"{name}, {way}" for name in CONFIGS for way in ("plain", "shared", "text once a prompt")]
    assert [case.name for case in against] == ["U-ViT", *ways]
    assert [case.base for case in against] == [None] + 2 * ["U-ViT", "U-ViT", None]
    first = "concat-early, plain"
    assert {case.name: case.base for case in alone if case.base} == {
        "concat-early, shared": first,
        "cross-intermediate, plain": first,
        "cross-intermediate, shared": first,
    }
    plain, shared = (guided_step_flops(MODEL, shared=shared).total for shared in (False, True))
    assert [case.flops for case in alone[3:]] == [3 * plain, 3 * shared, 3 * text_flops(MODEL).total]
    assert against[0].flops == 3 * guided_step_flops(as_uvit(MODEL), shared=False).total


def test_shared_plain_and_u_vit_s_steps_are_one_function(reference, batch) -> None:
    for config in CONFIGS.values():
        guided = Guided(config, batch, seed=0)
        with torch.no_grad():
            plain, shared = guided.plain(), guided.shared()
            conditional = guided.model(guided.latents, guided.timesteps, guided.embeddings)
        assert (conditional - plain).abs().max() > 0.01 * plain.abs().max()
        torch.testing.assert_close(shared, plain, rtol=1e-4, atol=1e-4 * float(plain.abs().max()))
    theirs, ours = reference.build(MODEL).eval(), Guided(as_uvit(MODEL), batch, seed=0)
    theirs.load_state_dict(ours.model.state_dict())
    with torch.no_grad():
        given = guided_step(
            theirs, ours.latents, ours.timesteps, ours.embeddings, ours.null_embeddings[0], GUIDANCE_SCALE
        )
        torch.testing.assert_close(given, ours.plain(), rtol=1e-4, atol=1e-4)


def test_difference_notices_a_shared_step_that_is_another(batch, monkeypatch) -> None:
    accelerator = make_accelerator("fp32", CPU)
    assert difference_from_plain(MODEL, batch, accelerator, seed=0) < 1e-5
    monkeypatch.setattr(Guided, "shared", lambda self: 1.5 * self.plain())
    assert difference_from_plain(MODEL, batch, accelerator, seed=0) == pytest.approx(0.5, abs=1e-6)


def test_sampling_is_without_gradients_and_in_the_precision_asked_for() -> None:
    layer, x = torch.nn.Linear(2, 2), torch.ones(1, 2)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with sampling(make_accelerator(precision, CPU)):
            assert layer(x).dtype == dtype and not layer(x).requires_grad
    assert layer(x).requires_grad
