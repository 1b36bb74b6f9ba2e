"""What competes in `ifuvit bench prepare` and `features`: the real work, on the same pictures and in the same batches."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ifuvit.benchmarks.extraction import extraction_contestants
from ifuvit.benchmarks.pictures import draw_pictures
from ifuvit.benchmarks.preparation import (
    caption_contestants,
    loader_contestant,
    picture_contestants,
    write_random_features,
)
from ifuvit.data.features import FeatureWriter
from ifuvit.data.images import load_image
from ifuvit.encoders.text_encoder import Tokens
from ifuvit.metrics.feature_networks import FeatureNetwork, Preparation
from ifuvit.model.presets import presets
from ifuvit.training import batches as batches_module
from tiny_training import MODEL

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return draw_pictures(tmp_path_factory.mktemp("pictures"), 3, size=32, seed=0)


@pytest.fixture
def written(monkeypatch):
    """The shards that were written, by their kind."""
    written, plain = [], FeatureWriter.write_shard

    def recorded(self, kind, shard, arrays, **facts):
        written.append((kind, arrays))
        return plain(self, kind, shard, arrays, **facts)

    monkeypatch.setattr(FeatureWriter, "write_shard", recorded)
    return written


def take_steps(contestants):
    for contestant in contestants:
        with contestant.within():
            contestant.prepare()()


def test_pictures_are_drawn_with_captions(pictures) -> None:
    assert [picture.id for picture in pictures] == ["000000", "000001", "000002"]
    for picture in pictures:
        assert load_image(picture.source).size == (32, 32) and len(picture.captions) == 5
    shown = [np.asarray(load_image(picture.source)).tobytes() for picture in pictures]
    assert len(set(shown)) == 3


def test_pictures_are_encoded_as_prepare_does(pictures, written) -> None:
    seen = []

    def moments(images: torch.Tensor) -> torch.Tensor:
        seen.append(images)
        return images[:, :2, ::4, ::4]

    autoencoder = SimpleNamespace(channels=1, factor=4, moments=moments)
    contestants = picture_contestants(autoencoder, pictures, size=32, batch_size=2, workers=1)  # type: ignore[arg-type]
    take_steps(contestants)
    assert [contestant.base for contestant in contestants] == [None, "autoencoder alone"]
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
    contestants = caption_contestants(encoder, ["a", "bb", "ccc"], batch_size=2)  # type: ignore[arg-type]
    take_steps(contestants)
    assert {(contestant.unit, contestant.items) for contestant in contestants} == {("captions", 3)}
    assert torch.cat(seen[:2]).equal(torch.cat(seen[2:])) and [len(part) for part in seen] == [2, 1, 2, 1]
    assert written[0][1]["states"][:, 0, 0].tolist() == [1, 2, 3]


def test_the_loader_is_training_s(tmp_path, monkeypatch) -> None:
    features = write_random_features(tmp_path / "features", MODEL, 8, seed=0)
    assert len(features) == 8 and features.latent_size == MODEL.latent_size
    assert features.moments([0]).shape == (1, 8, 8, 8) and features.text([7])[0].shape == (1, 4, 8)
    loaded, plain = [], batches_module.Batches.__getitem__

    def recorded(self, step):
        loaded.append(plain(self, step))
        return loaded[-1]

    monkeypatch.setattr(batches_module.Batches, "__getitem__", recorded)
    loader = loader_contestant(features, batch_size=3, batches=2, workers=0, device=CPU, seed=0)
    take_steps([loader])
    assert (loader.items, loader.unit) == (6, "samples")
    assert [batch["latents"].shape for batch in loaded] == 2 * [(3, 4, 8, 8)]


def test_features_of_the_paper_s_size(tmp_path) -> None:
    features = write_random_features(tmp_path / "features", presets["cross-intermediate"], 2, seed=0)
    states, _ = features.text([0, 1])
    assert features.moments([0, 1]).nbytes + states.nbytes == 2 * 134_656  # 134 KB a sample
    assert np.isfinite(states).all() and not np.array_equal(states[0], states[1])


def test_extraction_looks_at_what_the_network_alone_looks_at(pictures) -> None:
    seen = []

    class Mean(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            assert not torch.is_grad_enabled()
            return x.mean((2, 3))

    network = FeatureNetwork(Mean(), Preparation(size=16), name="Mean", distance="FD-Mean", width=3, fingerprint="0")
    files = [picture.source for picture in pictures]
    contestants = extraction_contestants(network, files, batch_size=2, workers=1)
    take_steps(contestants)
    assert [contestant.base for contestant in contestants] == [None, "network alone"]
    assert [len(part) for part in seen] == [2, 1, 2, 1]
    assert torch.equal(torch.cat(seen[:2]), torch.cat(seen[2:]))
