import json
import pickle

import numpy as np
import pytest

from ifuvit.data.encoded import EncodedDataset, EncodedDatasetWriter, to_half
from ifuvit.encoders.normalization import LatentNormalization
from ifuvit.utils.errors import InputError

SHARDS = [3, 0, 2]
CAPTIONS = ["a bus", "zwei Äpfel", "日本 \u2028 line"]
RNG = np.random.default_rng(0)
MOMENTS = RNG.standard_normal((5, 4, 2, 2)).astype(np.float16)
STATES = RNG.standard_normal((3, 4, 6)).astype(np.float16)
IDS = RNG.integers(0, 99, (3, 4), dtype=np.int32)
MASKS = IDS > 20
SETTINGS = {"size": 8, "text": "embeddings", "autoencoder": "a" * 64}


def write(directory, text="embeddings"):
    writer = EncodedDatasetWriter(directory)
    writer.begin(SETTINGS)
    ends = np.cumsum(SHARDS)
    moments = [
        writer.write_shard("moments", k, {"moments": MOMENTS[end - rows : end]}, rows=rows)
        for k, (rows, end) in enumerate(zip(SHARDS, ends))
    ]
    arrays = {"ids": IDS, "masks": MASKS} | ({"embeddings": STATES} if text == "embeddings" else {})
    texts = [writer.write_shard("text", 0, arrays, rows=3)]
    writer.finish(
        shards={"moments": moments, "text": texts},
        arrays={
            "null_embeddings": STATES[0],
            "null_mask": MASKS[0],
            "null_ids": IDS[0],
            "caption_starts": np.array([0, 1, 3, 4, 5, 6]),
            "caption_rows": np.array([0, 0, 1, 2, 2, 1]),
        },
        captions=CAPTIONS,
        image_ids=["4", "7", "ü", "10", "11"],
        skipped=[],
        config={},
        started="then",
        facts={
            "size": 8,
            "text": text,
            "latent_scale": 0.5,
            "latent_mean": [0.0, 1.0],
            "latent_std": [2.0, 3.0],
            "autoencoder": {"reference": "x", "fingerprint": "a" * 64, "channels": 2, "factor": 4},
            "text_encoder": {"reference": "y", "fingerprint": "b" * 64, "width": 6, "max_tokens": 4},
        },
    )
    return directory


def test_reads_what_was_written(tmp_path):
    features = EncodedDataset.open(write(tmp_path / "f"), verify=True)
    assert (len(features), features.caption_count, features.latent_channels, features.latent_size) == (5, 3, 2, 2)
    order = np.array([4, 0, 3, 3, 2])
    moments = features.moments(order)
    assert moments.dtype == np.float16 and np.array_equal(moments, MOMENTS[order])
    embeddings, mask = features.text([2, 0])
    assert np.array_equal(embeddings, STATES[[2, 0]]) and np.array_equal(mask, MASKS[[2, 0]])
    ids, mask = features.tokens([1])
    assert ids.dtype == np.int32 and np.array_equal(ids, IDS[[1]]) and mask.dtype == bool
    assert features.captions_of(1).tolist() == [0, 1]
    assert [features.caption_text(row) for row in range(3)] == CAPTIONS
    assert features.image_ids == ("4", "7", "ü", "10", "11")
    assert features.latent_scale == 0.5 and features.null_embeddings.shape == (4, 6)
    assert features.moments([]).shape == (0, 4, 2, 2)


def test_colors_are_of_normalized_latents(tmp_path):
    dataset = EncodedDataset.open(write(tmp_path / "f"))
    normalization = LatentNormalization(mean=(1.0, -2.0), scale=(0.5, 2.0))
    color = dataset.initial_latents_distribution(normalization)
    colors = (MOMENTS[:, :2].astype(np.float64).mean((2, 3)) - [1.0, -2.0]) * [0.5, 2.0]
    assert color.mean == pytest.approx(colors.mean(0)) and np.allclose(color.covariance, np.cov(colors.T))


@pytest.mark.parametrize("index", [-1, 5])
def test_out_of_range(tmp_path, index):
    features = EncodedDataset.open(write(tmp_path / "f"))
    with pytest.raises(IndexError):
        features.moments([index])
    with pytest.raises(IndexError):
        features.caption_text(index)


def test_pickles(tmp_path):
    features = EncodedDataset.open(write(tmp_path / "f"))
    features.moments([0])
    blob = pickle.dumps(features)
    assert len(blob) < 20_000
    assert np.array_equal(pickle.loads(blob).moments([4]), MOMENTS[[4]])


def test_token_mode_has_no_states(tmp_path):
    features = EncodedDataset.open(write(tmp_path / "f", text="tokens"))
    assert np.array_equal(features.tokens([0])[0], IDS[[0]])
    with pytest.raises(InputError, match="token ids"):
        features.text([0])


def test_fingerprint_is_of_the_data(tmp_path):
    first, second = (EncodedDataset.open(write(tmp_path / name)) for name in "fg")
    assert first.fingerprint == second.fingerprint and len(first.fingerprint) == 64
    assert EncodedDataset.open(write(tmp_path / "h", text="tokens")).fingerprint != first.fingerprint


def test_damage_is_found(tmp_path):
    directory = write(tmp_path / "f")
    shard = directory / "moments" / "00000.npy"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    EncodedDataset.open(directory, verify=False)
    for verify in (True, None):  # what is not asked for is done where it takes no time
        with pytest.raises(InputError, match="00000.npy: its SHA-256"):
            EncodedDataset.open(directory, verify=verify)
    shard.write_bytes(whole)
    table = directory / "caption_rows.npy"
    rows = table.read_bytes()
    table.write_bytes(rows[:-1] + bytes([rows[-1] ^ 1]))
    unverified = EncodedDataset.open(directory, verify=False)
    with pytest.raises(InputError, match="caption_rows.npy: its SHA-256"):
        unverified.captions_of(0)
    table.write_bytes(rows)
    shard.write_bytes(whole[:-1])
    with pytest.raises(InputError, match="damaged"):
        EncodedDataset.open(directory)
    shard.unlink()
    with pytest.raises(InputError, match="missing"):
        EncodedDataset.open(directory)


def test_what_is_no_features_directory(tmp_path):
    with pytest.raises(InputError, match="no such encoded data set"):
        EncodedDataset.open(tmp_path / "absent")
    with pytest.raises(InputError, match="not an encoded data set"):
        EncodedDataset.open(tmp_path)
    EncodedDatasetWriter(tmp_path / "f").begin(SETTINGS)
    with pytest.raises(InputError, match="unfinished"):
        EncodedDataset.open(tmp_path / "f")
    directory = write(tmp_path / "g")
    manifest = json.loads((directory / "manifest.json").read_text())
    (directory / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(InputError, match="layout 99"):
        EncodedDataset.open(directory)
    (directory / "manifest.json").write_text(json.dumps({**manifest, "latent_scale": 0.7}))
    with pytest.raises(InputError, match="was changed since it was written"):
        EncodedDataset.open(directory)
    del manifest["checksum"]
    (directory / "manifest.json").write_text(json.dumps({**manifest, "fingerprint": "0" * 64}))
    with pytest.raises(InputError, match="do not match its fingerprint"):
        EncodedDataset.open(directory)
    (directory / "manifest.json").write_text("{")
    with pytest.raises(InputError, match="truncated"):
        EncodedDataset.open(directory)


def test_writer_refuses_other_settings(tmp_path):
    writer = EncodedDatasetWriter(tmp_path / "f")
    writer.begin(SETTINGS)
    assert writer.check(SETTINGS)
    with pytest.raises(InputError, match="was begun with size 8, not 16"):
        writer.check({**SETTINGS, "size": 16})
    with pytest.raises(InputError, match="autoencoder aaaaaaaaaaaa, not cccccccccccc"):
        writer.check({**SETTINGS, "autoencoder": "c" * 64})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="holds something else already"):
        EncodedDatasetWriter(tmp_path / "other").check(SETTINGS)
    with pytest.raises(InputError, match="is a file"):
        EncodedDatasetWriter(tmp_path / "other" / "thesis.txt").check(SETTINGS)


def test_shard_counts_only_when_whole(tmp_path):
    writer = EncodedDatasetWriter(tmp_path)
    assert writer.done("moments", 0) is None
    facts = writer.write_shard("moments", 0, {"moments": MOMENTS}, rows=5)
    assert writer.done("moments", 0) == facts
    path = tmp_path / "moments" / "00000.npy"
    path.write_bytes(path.read_bytes()[:-2])
    assert writer.done("moments", 0) is None


def test_half_precision_never_overflows():
    values = np.array([1e9, -1e9, 65504.0, 65519.9, 1e-9, 20.0], np.float32)
    half = to_half(values)
    assert np.isfinite(half).all() and half[:3].tolist() == [65504.0, -65504.0, 65504.0]
