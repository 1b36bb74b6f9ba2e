"""What competes in `ifuvit bench prepare` and `features`: the real work, on the same images and in the same batches."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_training import MODEL

from ifuvit.benchmarks.extraction import extraction_cases
from ifuvit.benchmarks.images import draw_images
from ifuvit.benchmarks.preparation import (
    caption_cases,
    image_cases,
    loader_cases,
    write_random_features,
)
from ifuvit.data.encoded import EncodedDatasetWriter, _Shards
from ifuvit.data.images import load_image
from ifuvit.encoders.text_encoder import Tokens
from ifuvit.metrics.distances.feature_networks import FeatureNetwork, Preparation
from ifuvit.model.presets import presets
from ifuvit.training import batches as batches_module

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return draw_images(tmp_path_factory.mktemp("images"), 3, size=32, seed=0)


@pytest.fixture
def written(monkeypatch):
    """The shards that were written, by their kind."""
    written, plain = [], EncodedDatasetWriter.write_shard

    def recorded(self, kind, shard, arrays, **facts):
        written.append((kind, arrays))
        return plain(self, kind, shard, arrays, **facts)

    monkeypatch.setattr(EncodedDatasetWriter, "write_shard", recorded)
    return written


def take_steps(cases):
    for case in cases:
        with case.within():
            case.prepare()()


def test_images_are_drawn_with_captions(images) -> None:
    assert [image.id for image in images] == ["000000", "000001", "000002"]
    for image in images:
        assert load_image(image.source).size == (32, 32) and len(image.captions) == 5
    shown = [np.asarray(load_image(image.source)).tobytes() for image in images]
    assert len(set(shown)) == 3


def test_images_are_encoded_as_prepare_does(images, written) -> None:
    seen = []

    def moments(images: torch.Tensor) -> torch.Tensor:
        seen.append(images)
        return images[:, :2, ::4, ::4]

    autoencoder = SimpleNamespace(channels=1, factor=4, moments=moments)
    cases = image_cases(autoencoder, images, size=32, batch_size=2, workers=1)  # type: ignore[arg-type]
    take_steps(cases)
    assert [case.base for case in cases] == [None, "autoencoder alone"]
    assert [len(part) for part in seen] == [2, 1, 2, 1]
    torch.testing.assert_close(torch.cat(seen[:2]), torch.cat(seen[2:]))
    ((kind, arrays),) = written
    assert kind == "moments" and arrays["moments"].shape == (3, 2, 8, 8)


def test_captions_are_encoded_as_prepare_does(written) -> None:
    seen = []

    def tokenize(captions) -> Tokens:
        return Tokens(
            torch.tensor([[len(c), 0] for c in captions], dtype=torch.int32), torch.ones(len(captions), 2) > 0
        )

    def encode(tokens: Tokens) -> torch.Tensor:
        seen.append(tokens.ids)
        return tokens.ids[..., None].float()

    encoder = SimpleNamespace(tokenize=tokenize, encode=encode)
    cases = caption_cases(encoder, ["a", "bb", "ccc"], batch_size=2)  # type: ignore[arg-type]
    take_steps(cases)
    assert {(case.unit, case.items) for case in cases} == {("captions", 3)}
    assert torch.cat(seen[:2]).equal(torch.cat(seen[2:])) and [len(part) for part in seen] == [2, 1, 2, 1]
    assert written[0][1]["embeddings"][:, 0, 0].tolist() == [1, 2, 3]


@pytest.mark.parametrize("workers, names", [(0, []), (1, ["loader, 1 thread"]), (2, ["loader, 2 threads"])])
def test_the_loader_is_training_s(tmp_path, monkeypatch, workers, names) -> None:
    features = write_random_features(tmp_path / "features", MODEL, 8, shard_size=3, seed=0)
    assert len(features) == 8 and features.latent_size == MODEL.latent_size
    assert features.moments([0]).shape == (1, 8, 8, 8) and features.text([7])[0].shape == (1, 4, 8)
    made, plain = {}, batches_module.Batches.__getitem__

    def recorded(self, step):
        made.setdefault(step, []).append(plain(self, step))
        return made[step][-1]

    monkeypatch.setattr(batches_module.Batches, "__getitem__", recorded)
    cases = loader_cases(features, batch_size=3, batches=2, workers=workers, device=CPU, seed=0)
    copy = "plain copy of the bytes"
    assert [case.name for case in cases] == [copy, "rows gathered", "loader", *names]
    assert [case.base for case in cases] == [None] + (2 + len(names)) * [copy]
    assert [case.items for case in cases] == [8] + (2 + len(names)) * [6]
    take_steps(cases)
    assert sorted(made) == [0, 1] and {len(batches) for batches in made.values()} == {1 + len(names)}
    assert {tuple(batch["latents"].shape) for batches in made.values() for batch in batches} == {(3, 4, 8, 8)}


def test_as_many_bytes_are_copied_and_gathered(tmp_path, monkeypatch) -> None:
    features = write_random_features(tmp_path / "features", MODEL, 8, shard_size=3, seed=0)
    copied, gathered, copy, take = [], [], np.copyto, _Shards.take
    monkeypatch.setattr(np, "copyto", lambda target, source: (copied.append(source.nbytes), copy(target, source)))

    def recorded(self, rows):
        gathered.append(take(self, rows))
        return gathered[-1]

    monkeypatch.setattr(_Shards, "take", recorded)
    take_steps(loader_cases(features, batch_size=4, batches=2, workers=0, device=CPU, seed=0)[:2])
    sample = 2 * (8 * 8 * 8 + 4 * 8)  # bytes
    assert sum(copied) == 8 * sample and sum(rows.nbytes for rows in gathered if rows.dtype == np.float16) == 8 * sample
    moments = np.concatenate([rows for rows in gathered if rows.shape[1:] == (8, 8, 8)])
    assert np.array_equal(np.unique(moments, axis=0), np.unique(features.moments(np.arange(8)), axis=0))


def test_features_of_the_paper_s_size(tmp_path) -> None:
    features = write_random_features(tmp_path / "features", presets["cross-intermediate"], 2, shard_size=2, seed=0)
    embeddings, _ = features.text([0, 1])
    assert features.moments([0, 1]).nbytes + embeddings.nbytes == 2 * 134_656  # 134 KB a sample
    assert np.isfinite(embeddings).all() and not np.array_equal(embeddings[0], embeddings[1])


def test_extraction_looks_at_what_the_network_alone_looks_at(images) -> None:
    seen = []

    class Mean(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            assert not torch.is_grad_enabled()
            return x.mean((2, 3))

    network = FeatureNetwork(Mean(), Preparation(size=16), name="Mean", distance="FD-Mean", width=3, fingerprint="0")
    files = [image.source for image in images]
    cases = extraction_cases(network, files, batch_size=2, workers=1)
    take_steps(cases)
    assert [case.base for case in cases] == [None, "network alone"]
    assert [len(part) for part in seen] == [2, 1, 2, 1]
    assert torch.equal(torch.cat(seen[:2]), torch.cat(seen[2:]))
