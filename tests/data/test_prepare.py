import json
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_encoders import FakeAutoencoder, FakeTextEncoder
from PIL import Image

import ifuvit.data.prepare
from ifuvit.commands.prepare import main
from ifuvit.data.config import PrepareConfig
from ifuvit.data.encoded import EncodedDataset
from ifuvit.data.encoding import ALONE, latent_scale
from ifuvit.data.images import center_crop_resize, load_image
from ifuvit.data.prepare import encode
from ifuvit.data.sources import CocoSource, FolderSource
from ifuvit.utils.distributed import Processes
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import read_json

HERE = Path(__file__).parent


@pytest.fixture
def coco(tmp_path):
    """23 images with two captions each, one shared between images; a broken image, one without a file, and one
    empty caption."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    (tmp_path / "images").mkdir()
    for index in range(23):
        name = f"{index}.png"
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(tmp_path / "images" / name)
        images.append({"id": index, "file_name": name})
        annotations.append({"image_id": index, "caption": f"cap {index % 7}"})
        annotations.append({"image_id": index, "caption": f" longer  than\n8: {index}"})
    (tmp_path / "images" / "5.png").write_bytes(b"this is not an image")
    (tmp_path / "images" / "12.png").unlink()
    annotations.append({"image_id": 1, "caption": "  "})
    (tmp_path / "captions.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    return PrepareConfig(
        source=CocoSource(images=tmp_path / "images", captions=tmp_path / "captions.json"),
        out=tmp_path / "features",
        size=16,
        shard_size=5,
        batch_size=2,
    )


def prepare(config, share=ALONE, autoencoder=None, text_encoder=None):
    encoders = autoencoder or FakeAutoencoder(), text_encoder or FakeTextEncoder()
    return encode(config, config.source.read(), *encoders, share)


def content(directory):
    """All files but the manifest, which tells the time."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }


def test_features_are_the_encoders_answers(coco, capsys):
    features = EncodedDataset.open(prepare(coco), verify=True)
    kept = [index for index in range(23) if index not in (5, 12)]
    assert features.image_ids == tuple(map(str, kept))
    autoencoder, text_encoder = FakeAutoencoder(), FakeTextEncoder()
    for row, index in enumerate(kept):
        pixels = np.asarray(center_crop_resize(load_image(coco.source.images / f"{index}.png"), 16)).astype(np.float32)
        expected = autoencoder.moments(torch.from_numpy(pixels / 127.5 - 1).permute(2, 0, 1)[None])
        np.testing.assert_allclose(features.moments([row])[0], expected[0], rtol=2e-3, atol=2e-3)
        captions = [features.caption_text(caption) for caption in features.captions_of(row)]
        assert captions == [f"cap {index % 7}", f"longer than 8: {index}"]
        tokens = text_encoder.tokenize(captions)
        embeddings, mask = features.text(features.captions_of(row))
        assert np.array_equal(embeddings, text_encoder.encode(tokens).half().numpy())
        assert np.array_equal(mask, tokens.mask.numpy())
        assert np.array_equal(features.tokens(features.captions_of(row))[0], tokens.ids.numpy())
    assert features.caption_count == 7 + 23
    null = text_encoder.tokenize([""])
    assert np.array_equal(features.null_embeddings, text_encoder.encode(null)[0].half().numpy())
    assert not features.null_mask.any() and not features.null_ids.any()
    message = capsys.readouterr().err
    assert "23 of 30 distinct captions are longer than 8 tokens" in message
    assert "21 images" in message and "3 left out" in message


def test_latent_scale_is_that_of_drawn_latents(coco):
    features = EncodedDataset.open(prepare(coco))
    moments = features.moments(np.arange(len(features))).astype(np.float64)
    mean, log_variance = np.split(moments, 2, axis=1)
    draws = mean + np.exp(log_variance / 2) * np.random.default_rng(0).standard_normal((400, *mean.shape))
    assert features.latent_scale == pytest.approx(1 / draws.std(), rel=2e-3)
    assert features.latent_mean == pytest.approx(draws.mean((0, 1, 3, 4)).tolist(), rel=2e-2)
    assert features.latent_std == pytest.approx(draws.std((0, 1, 3, 4)).tolist(), rel=2e-2)
    with pytest.raises(InputError, match="same constant"):
        latent_scale([{"count": 4, "sum": 8.0, "sum_squares": 16.0}])


def test_what_is_left_out_is_listed(coco):
    prepare(coco)
    entries = [json.loads(line) for line in (coco.out / "skipped.jsonl").read_text().splitlines()]
    images = coco.source.images.rename(coco.source.images.with_name("moved"))
    moved = prepare(replace(coco, source=replace(coco.source, images=images), out=coco.out.with_name("fresh")))
    assert EncodedDataset.open(moved).fingerprint == EncodedDataset.open(coco.out).fingerprint
    left_out = [(entry["what"], entry["id"]) for entry in entries]
    assert left_out == [("caption", "1"), ("image", "5"), ("image", "12")]
    assert "not a readable image" in entries[1]["reason"] and "no such file" in entries[2]["reason"]


def test_too_much_left_out_stops_and_can_go_on(coco):
    with pytest.raises(InputError, match=r"3 images .* more than --max-skipped 2; .*skipped.jsonl lists them"):
        prepare(replace(coco, max_skipped=2))
    assert len((coco.out / "skipped.jsonl").read_text().splitlines()) == 3
    with pytest.raises(InputError, match="more than --max-skipped 1"):
        prepare(replace(coco, max_skipped=1))
    with pytest.raises(InputError, match="unfinished"):
        EncodedDataset.open(coco.out)
    prepare(replace(coco, max_skipped=3))
    fresh = prepare(replace(coco, out=coco.out.with_name("fresh")))
    assert content(coco.out) == content(fresh)


def test_shards_made_are_not_made_again(coco):
    class Stops(FakeAutoencoder):
        calls = 0

        def moments(self, images):
            self.calls += 1
            if self.calls == 8:
                raise KeyboardInterrupt
            return super().moments(images)

    with pytest.raises(KeyboardInterrupt):
        prepare(coco, autoencoder=Stops())
    made = {path: path.stat().st_mtime_ns for path in (coco.out / "moments").iterdir()}
    assert len(made) == 3
    prepare(coco)
    assert all(path.stat().st_mtime_ns == time_ for path, time_ in made.items())
    fresh = prepare(replace(coco, out=coco.out.with_name("fresh")))
    assert content(coco.out) == content(fresh)
    assert EncodedDataset.open(coco.out).fingerprint == EncodedDataset.open(fresh).fingerprint

    class Never(FakeAutoencoder):
        def moments(self, images):
            raise AssertionError("finished features are not made again")

    before = content(coco.out)
    prepare(coco, autoencoder=Never())
    assert content(coco.out) == before


def test_any_order_of_any_number_of_processes(coco):
    alone = prepare(coco)
    together = replace(coco, out=coco.out.with_name("together"))
    # Process 0 writes the plan and would wait for the others: begin it with too little patience, then let it end last.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ifuvit.data.prepare, "PATIENCE", 0.01)
        with pytest.raises(InputError, match="shards are missing"):
            prepare(together, Processes(0, 3))
    prepare(together, Processes(2, 3))
    prepare(together, Processes(1, 3))
    prepare(together, Processes(0, 3))
    assert content(together.out) == content(alone)


def test_token_ids_instead_of_states(coco):
    features = EncodedDataset.open(prepare(replace(coco, text="tokens")))
    ids, mask = features.tokens([0])
    assert bytes(ids[0][mask[0]].tolist()) == b"cap 0"
    assert features.null_embeddings.shape == (8, 6)
    assert not (coco.out / "embeddings").exists()
    with pytest.raises(InputError, match="text tokens, not embeddings"):
        prepare(coco)


@pytest.mark.parametrize(
    "change, match",
    [
        ({"size": 32}, "begun with size 16, not 32"),
        ({"shard_size": 6}, "shard size"),
        ({"captions": None}, "images and captions"),
    ],
)
def test_features_of_other_settings_are_refused(coco, change, match):
    prepare(coco)
    before = content(coco.out)
    if "captions" in change:
        captions = read_json(coco.source.captions)
        captions["annotations"][0]["caption"] = "another"
        coco.source.captions.write_text(json.dumps(captions))
        change = {}
    with pytest.raises(InputError, match=match):
        prepare(replace(coco, **change))
    assert content(coco.out) == before


def test_features_of_another_encoder_are_refused(coco):
    prepare(coco)
    other = FakeTextEncoder()
    other.fingerprint = "c" * 64
    with pytest.raises(InputError, match="begun with text encoder bbbbbbbbbbbb, not cccccccccccc"):
        prepare(coco, text_encoder=other)


def test_big_states_have_to_be_chosen(coco, monkeypatch):
    monkeypatch.setattr(ifuvit.data.prepare, "ASK_ABOVE", 100)
    with pytest.raises(InputError, match=r"take 4.08 kB; choose --text embeddings .* --text tokens \(1.2 kB\)"):
        prepare(coco)
    assert not coco.out.exists()
    prepare(replace(coco, text="embeddings"))


def test_full_disk_is_told_beforehand(coco, monkeypatch):
    monkeypatch.setattr(ifuvit.data.prepare, "_free", lambda path: 5000)
    with pytest.raises(InputError, match="5 kB are free"):
        prepare(coco)
    assert not coco.out.exists()


def test_infinite_latents_name_the_image(coco):
    class Broken(FakeAutoencoder):
        def moments(self, images):
            moments = super().moments(images)
            moments[1, 0, 0, 0] = torch.nan
            return moments

    with pytest.raises(InputError, match="image 1: the autoencoder gives infinite"):
        prepare(coco, autoencoder=Broken())


def test_the_size_follows_from_the_autoencoder(coco, tmp_path, monkeypatch):
    assert EncodedDataset.open(prepare(replace(coco, size=None))).latent_size == 12 // 4
    monkeypatch.setattr(FakeAutoencoder, "image_size", 512)  # as Stable Diffusion's config says
    monkeypatch.setattr("ifuvit.data.prepare.LARGEST_DEFAULT_SIZE", 20)
    assert EncodedDataset.open(prepare(replace(coco, size=None, out=tmp_path / "large"))).latent_size == 20 // 4


def test_bad_values(coco, tmp_path):
    with pytest.raises(InputError, match="--size 18: not a multiple of 4"):
        prepare(replace(coco, size=18))
    with pytest.raises(InputError, match="--batch-size 0"):
        replace(coco, batch_size=0)
    with pytest.raises(InputError, match="--max-skipped -1"):
        replace(coco, max_skipped=-1)
    with pytest.raises(InputError, match="unknown source 'cocoa'"):
        main(["cocoa"])
    with pytest.raises(InputError, match="--captions"):
        main(["coco", "--images", "x", "--out", "y"])
    with pytest.raises(InputError, match="no such directory"):
        main(["coco", "--images", str(tmp_path / "x"), "--captions", "x", "--out", "y"])
    with pytest.raises(InputError, match="no such folder"):
        main(["folder", str(tmp_path / "x"), "--out", "y"])


@pytest.mark.parametrize("rank, count", [("2", "2"), ("x", "1"), ("0", "0")])
def test_bad_environment(monkeypatch, rank, count):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", count)
    with pytest.raises(InputError, match="WORLD_SIZE"):
        Processes.from_environment()


def test_folder_goes_the_same_way(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in "ab":
        Image.new("RGBA", (9, 7), (0, 0, 0, 0)).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"image {name}\nignored")
    Image.new("RGB", (9, 7), (0, 0, 0)).save(folder / "c.png")
    config = PrepareConfig(source=FolderSource(folder=folder), out=tmp_path / "features", size=8)
    features = EncodedDataset.open(prepare(config))
    assert features.image_ids == ("a.png", "b.png")
    assert [features.caption_text(row) for row in range(2)] == ["image a", "image b"]
    # White is 1 in every channel; the stand-in's first mean is 3 x + 1.
    assert (features.moments([0])[0, 0] == 4).all()


def test_whole_images_on_a_white_square(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    Image.new("RGB", (16, 8), (0, 0, 0)).save(folder / "a.png")
    (folder / "a.txt").write_text("a black bar")
    config = PrepareConfig(source=FolderSource(folder=folder), out=tmp_path / "cropped", size=16)
    cropped = EncodedDataset.open(prepare(config)).moments([0])[0, 0]
    padded = EncodedDataset.open(prepare(replace(config, out=tmp_path / "padded", aspect="pad"))).moments([0])[0, 0]
    assert (cropped == -2).all()  # 3 x + 1
    assert (padded[0] == 4).all() and (padded[-1] == 4).all() and (padded[len(padded) // 2] == -2).all()
    with pytest.raises(InputError, match="was begun with"):
        prepare(replace(config, out=tmp_path / "cropped", aspect="pad"))


def work(values, seconds):
    """What a process started by `start` does."""
    config = pickle.loads(bytes.fromhex(values))
    encode(
        config, config.source.read(), FakeAutoencoder(float(seconds)), FakeTextEncoder(), Processes.from_environment()
    )


def start(config, environment=None, seconds=0.0):
    program = "import sys; sys.path[:0] = sys.argv[1].split(':'); import test_prepare; test_prepare.work(*sys.argv[2:])"
    return subprocess.Popen(
        [sys.executable, "-c", program, f"{HERE}:{HERE.parent / 'support'}", pickle.dumps(config).hex(), str(seconds)],
        env={**os.environ, **(environment or {})},
        stderr=subprocess.PIPE,
    )


@pytest.mark.multiprocess
def test_killed_and_restarted(coco):
    process = start(coco, seconds=0.3)
    deadline = time.monotonic() + 60
    while not (coco.out / "progress" / "moments-00001.json").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (coco.out / "manifest.json").exists()
    prepare(coco)
    assert content(coco.out) == content(prepare(replace(coco, out=coco.out.with_name("fresh"))))


@pytest.mark.multiprocess
def test_two_processes_make_the_same_features(coco):
    together = replace(coco, out=coco.out.with_name("together"))
    processes = [start(together, {"RANK": str(rank), "WORLD_SIZE": "2"}) for rank in (1, 0)]
    for process in processes:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error.decode()
    assert content(together.out) == content(prepare(coco))
    assert EncodedDataset.open(together.out).fingerprint == EncodedDataset.open(coco.out).fingerprint
