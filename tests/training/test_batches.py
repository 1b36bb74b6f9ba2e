import math
import threading

import numpy as np
import pytest
import torch
from scipy import stats
from tiny_training import image_of, write_features

from ifuvit.data.encoded import EncodedDataset
from ifuvit.diffusion.objective import DDPM
from ifuvit.encoders.normalization import LatentNormalization
from ifuvit.training.batches import Batches, load, validation_batch

IMAGES = 20
UNIT = LatentNormalization(scale=(1.0,))
VALIDATION_TIMESTEPS = [44, 193, 292, 301, 472]


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    return EncodedDataset.open(write_features(tmp_path_factory.mktemp("features") / "f", images=IMAGES))


def batches(features, **settings):
    defaults = {"seed": 1, "batch_size": 12, "caption_dropout": 0.1}
    values = {**defaults, "normalization": LatentNormalization(scale=(features.latent_scale,)), **settings}
    return Batches(features, values.pop("images", np.arange(IMAGES)), **values)


def same(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


def concatenated(parts):
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def test_shapes_and_types(features):
    batch = batches(features)[0]
    kinds = {name: (tuple(t.shape), t.dtype) for name, t in batch.items()}
    assert kinds == {
        "latents": ((12, 4, 8, 8), torch.float32),
        "noise": ((12, 4, 8, 8), torch.float32),
        "uniform": ((12,), torch.float32),
        "dropped": ((12,), torch.bool),
        "text_embeddings": ((12, 4, 8), torch.float16),
        "text_mask": ((12, 4), torch.bool),
    }


@pytest.mark.parametrize("step", [0, 1, 3, 1_000_000])
def test_shares_of_ranks_make_the_batch_of_one_process(features, step):
    whole = batches(features)[step]
    for size in (2, 3, 12):
        shares = [batches(features, rank=r, world_size=size)[step] for r in range(size)]
        assert same(concatenated(shares), whole)


def test_depends_on_seed_and_step_alone(features):
    one = batches(features)
    for _ in range(3):
        one[7]
    assert same(one[5], batches(features)[5])
    for other in (one[6], batches(features, seed=2)[5]):
        for name in ("latents", "noise", "uniform", "text_embeddings"):
            assert not torch.equal(other[name], one[5][name])
    # The same sample in batches of another size.
    assert same({k: v[:4] for k, v in one[1].items()}, batches(features, batch_size=4)[3])


@pytest.mark.parametrize("workers", [None, 0, 1, 3])
def test_threads_of_the_loader_change_nothing(features, workers):
    loaded = list(load(batches(features), range(3, 12), workers=workers, device=torch.device("cpu")))
    assert len(loaded) == 9
    for step, batch in zip(range(3, 12), loaded):
        assert same(batch, batches(features)[step])


@pytest.mark.parametrize("workers", [0, 2])
def test_threads_make_batches_ahead_of_time(features, workers):
    stream, asked, ahead = batches(features), [], threading.Event()

    class Recorded:
        def __getitem__(self, step):
            asked.append((step, threading.current_thread()))
            if step == 2:
                ahead.set()
            return stream[step]

    loader = iter(load(Recorded(), range(100), workers=workers, device=torch.device("cpu")))  # type: ignore[arg-type]
    assert same(next(loader), stream[0])
    assert ahead.wait(60 if workers else 0) == (workers > 0)
    del loader  # ends the threads
    steps, threads = zip(*asked, strict=True)
    assert (threading.current_thread() in threads) == (workers == 0)
    assert sorted(steps) == list(range(len(steps))) and len(steps) < 10


def test_an_error_while_a_batch_is_made_reaches_the_training_loop(features):
    stream = batches(features, images=np.array([0, IMAGES]))
    for workers in (0, 2):
        with pytest.raises(IndexError, match=f"index {IMAGES + 1} is out of bounds"):
            list(load(stream, range(3), workers=workers, device=torch.device("cpu")))


@pytest.mark.parametrize("batch_size", [4, 7, 50])
def test_every_epoch_visits_each_image_once(features, batch_size):
    images = np.array([2, 3, 5, 7, 11, 13, 17])
    stream = batches(features, images=images, batch_size=batch_size)
    order = np.concatenate([image_of(stream[k]["latents"].numpy()) for k in range(1 + 70 // batch_size)])[:70]
    epochs = order.reshape(10, 7)
    assert all(np.array_equal(np.sort(epoch), images) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 5  # shuffled anew


def test_captions_are_the_images_own_and_all_come_up(features):
    embeddings, _ = features.text(np.arange(2 * IMAGES))
    seen = set()
    for k in range(15):
        batch = batches(features, caption_dropout=0.0)[k]
        for image, text in zip(image_of(batch["latents"].numpy()), batch["text_embeddings"].numpy()):
            (row,) = np.flatnonzero((embeddings == text).all((1, 2)))
            assert row // 2 == image
            seen.add(int(row))
    assert len(seen) > 1.9 * IMAGES * 0.9


@pytest.mark.parametrize("dropout", [0.0, 0.1, 1.0])
def test_caption_dropout(features, dropout):
    batch = batches(features, batch_size=3000, caption_dropout=dropout)[0]
    null = (batch["text_embeddings"] == torch.from_numpy(features.null_embeddings)).all(2).all(1)
    assert abs(null.float().mean() - dropout) <= 3.5 * (dropout * (1 - dropout) / 3000) ** 0.5
    assert not batch["text_mask"][null].any()
    assert (batch["text_mask"][~null].any(1)).float().mean() > 0.9 if dropout < 1 else True


def test_draws_have_the_right_distributions(features):
    batch = batches(features, batch_size=10_000)[0]
    n = DDPM().sample_times(batch["uniform"])
    assert n.dtype == torch.int64 and n.min() == 1 and n.max() == 1000
    counts = torch.histc(n.float(), bins=10, min=0.5, max=1000.5)
    assert ((counts - 1000).abs() < 4 * 1000**0.5).all()
    assert abs(batch["noise"].mean()) < 0.01 and abs(batch["noise"].std() - 1) < 0.01
    flat = batch["noise"].flatten(1)
    assert abs((flat[:-1] * flat[1:]).mean()) < 0.01  # samples do not share their noise


def test_noise_is_normal(features):
    parts = [batches(features, batch_size=1000)[k]["noise"] for k in range(2)]
    noise = torch.cat(parts).double().flatten().numpy()
    assert stats.kstest(noise, "norm").pvalue > 1e-3
    for power in range(2, 7):  # the moments tell the tails, 0 or (power - 1)!! in a normal distribution
        expected, spread = (math.prod(range(n - 1, 0, -2)) for n in (power, 2 * power))
        assert abs((noise**power).mean() - expected * (power % 2 == 0)) < 4 * (spread / len(noise)) ** 0.5
    assert 4.4 < abs(noise).max() < 6


def test_latents_are_drawn_from_the_posterior_and_scaled(tmp_path):
    exact = EncodedDataset.open(write_features(tmp_path / "mean", log_variance=-30.0, latent_scale=0.25))
    wide = EncodedDataset.open(write_features(tmp_path / "wide", log_variance=-2.0, latent_scale=0.25))
    one, other = (batches(f, batch_size=400)[0] for f in (exact, wide))
    images = image_of(4 * one["latents"].numpy())
    assert np.allclose(one["latents"], 0.25 * exact.moments(images)[:, :4].astype(np.float32), atol=1e-5)
    epsilon = (other["latents"] - one["latents"]) / (0.25 * np.exp(-1.0))
    assert abs(epsilon.mean()) < 0.01 and abs(epsilon.std() - 1) < 0.01
    assert abs((epsilon * other["noise"]).mean()) < 0.01  # the posterior's draw is not the diffusion's
    assert torch.equal(one["noise"], other["noise"])
    first, later = (batches(wide, images=np.array([3]), batch_size=1)[k]["latents"] for k in (0, 1))
    assert not torch.equal(first, later)  # drawn anew at every visit


def test_token_ids_take_the_place_of_states(tmp_path, features):
    tokens = EncodedDataset.open(write_features(tmp_path / "f", images=IMAGES, text="tokens"))
    one, other = batches(features, caption_dropout=0.5)[2], batches(tokens, caption_dropout=0.5)[2]
    assert one.keys() - other.keys() == {"text_embeddings"} and other.keys() - one.keys() == {"text_ids"}
    assert all(torch.equal(one[name], other[name]) for name in one.keys() & other.keys())
    null = (other["text_ids"] == torch.from_numpy(tokens.null_ids)).all(1)
    assert (
        torch.equal(null, (one["text_embeddings"] == torch.from_numpy(features.null_embeddings)).all(2).all(1))
        and null.any()
    )


def test_validation_is_fixed_and_covers_the_bands(features):
    images = np.arange(IMAGES)
    whole = validation_batch(features, UNIT, images, 0)
    parts = [validation_batch(features, UNIT, images[a : a + 8], a) for a in (0, 8, 16)]
    assert same(concatenated(parts), whole)
    assert (whole["uniform"] * 10).long().tolist() == [j % 10 for j in range(IMAGES)]
    n = DDPM().times_at(whole["uniform"])
    assert ((n - 1) // 100).tolist() == [j % 10 for j in range(IMAGES)]
    assert n.tolist()[:5] == VALIDATION_TIMESTEPS  # another result means that validation losses no longer compare
    assert not (whole["text_embeddings"] == 0).all(2).all(1).any()
    assert not torch.equal(whole["noise"][:12], batches(features, images=images)[0]["noise"])


@pytest.mark.parametrize("device, told", [("cuda", []), ("cuda:1", [torch.device("cuda:1")])])
def test_batches_for_a_gpu_are_pinned_for_it(features, monkeypatch, device, told):
    chosen, pinned = [], []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    (batch,) = load(batches(features), range(1), workers=0, device=torch.device(device))
    assert chosen == told and len(pinned) == len(batch)
