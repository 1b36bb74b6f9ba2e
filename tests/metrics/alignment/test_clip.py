"""CLIP score with a tiny random CLIP built here, offline, against transformers' own forward pass and preprocessing."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_clip import text_config, write_tokenizer

from ifuvit.metrics.alignment.base import AlignmentModel, clip_score
from ifuvit.metrics.alignment.clip import CLIP, DEFAULT_CLIP
from ifuvit.utils.errors import InputError

CAPTIONS = ["three sheep on grass", "a bus", "sheep " * 30]
LIMIT = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from transformers import CLIPConfig, CLIPModel

    folder = tmp_path_factory.mktemp("clip")
    text = text_config(write_tokenizer(folder, max_tokens=LIMIT), max_tokens=LIMIT)
    vision = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip(folder):
    return CLIP.from_pretrained(folder)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Images of three shapes, one of them gray."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    files = [folder / f"{number}.png" for number in range(3)]
    for file, shape in zip(files, [(48, 48, 3), (40, 90, 3), (70, 50)]):
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(file)
    return files


def test_the_three_scales():
    cosines = np.array([0.3, -0.2, 0.5])
    score = clip_score(cosines)
    assert score.cosine.value == pytest.approx(0.2) and score.times_100 == pytest.approx(20)
    # The mean of the clamped (Hessel et al.), which is not the clamp of the mean.
    assert score.clamped == pytest.approx(2.5 * 0.8 / 3)
    assert score.standard_error == pytest.approx(np.std(cosines, ddof=1) / 3**0.5)
    assert score.cosine.n == 3 and score.cosine.interval is not None
    assert score.cosine.interval[0] <= score.cosine.value <= score.cosine.interval[1]
    assert clip_score([-0.1, -0.3]).clamped == 0
    assert clip_score([0.25]).standard_error is None


def test_agrees_with_the_forward_pass_of_transformers(clip, folder, files):
    from transformers import CLIPModel, CLIPTokenizerFast

    model, tokenizer = CLIPModel.from_pretrained(folder).eval(), CLIPTokenizerFast.from_pretrained(folder)
    tokens = tokenizer(CAPTIONS, padding=True, truncation=True, return_tensors="pt")
    pixels = torch.stack([clip.preprocess(Image.open(file).convert("RGB")) for file in files])
    with torch.no_grad():
        out = model(pixel_values=pixels, **tokens)
    expected = (out.image_embeds * out.text_embeds).sum(-1).numpy()
    cosines, truncated = clip.cosines(files, CAPTIONS)
    np.testing.assert_allclose(cosines, expected, atol=1e-6)
    assert truncated == 1 and cosines.dtype == np.float64


class _Tensors:
    """A CLIP model as torchmetrics expects it: features are tensors, whatever the version of transformers."""

    def __init__(self, model):
        self.model, self.config = model, model.config

    def to(self, device):
        return self

    def get_image_features(self, pixels):
        return _as_tensor(self.model.get_image_features(pixel_values=pixels))

    def get_text_features(self, ids, mask):
        return _as_tensor(self.model.get_text_features(input_ids=ids, attention_mask=mask))


def _as_tensor(features):
    return features if isinstance(features, torch.Tensor) else features.pooler_output


def test_agrees_with_torchmetrics(clip, files):
    functional = pytest.importorskip("torchmetrics.functional.multimodal.clip_score")

    def processor(text=None, images=None, **_):
        if images is not None:
            images = [Image.fromarray(one.permute(1, 2, 0).numpy()) for one in images]
            return {"pixel_values": torch.stack([clip.preprocess(one) for one in images])}
        return clip.tokenizer(text, padding=True, return_tensors="pt")

    captions = ["three sheep", "a bus", "a sheep"]
    images = [torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1) for file in files]
    theirs = functional.clip_score(images, captions, lambda: (_Tensors(clip.model), processor))
    ours = clip_score(clip.cosines(files, captions)[0])
    assert max(ours.times_100, 0) == pytest.approx(theirs.item(), abs=1e-4)
    # Were it clamped to 0, the two would agree about nothing.
    assert theirs > 0


@pytest.mark.parametrize("shape", [(48, 48), (90, 40), (33, 71), (32, 32), (300, 200)])
def test_images_are_preprocessed_as_transformers_does(clip, shape):
    try:
        from transformers import CLIPImageProcessorPil as Processor  # type: ignore[attr-defined]
    except ImportError:
        from transformers import CLIPImageProcessor as Processor
    processor = Processor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8))
    expected = torch.as_tensor(np.asarray(processor(image, return_tensors="np")["pixel_values"][0]))
    torch.testing.assert_close(clip.preprocess(image), expected, atol=1e-5, rtol=0)


def test_the_batch_size_does_not_matter(clip, files):
    one, _ = clip.cosines(files, CAPTIONS, batch_size=1)
    all_at_once, _ = clip.cosines(files, CAPTIONS, batch_size=8)
    np.testing.assert_allclose(one, all_at_once, atol=1e-6)
    nothing, truncated = clip.cosines([], [])
    assert nothing.shape == (0,) and truncated == 0


def test_size_crops_and_resizes_first(clip, files, tmp_path):
    from ifuvit.data.images import center_crop_resize, load_image

    made = tmp_path / "made.png"
    center_crop_resize(load_image(files[1]), 24).save(made)
    np.testing.assert_allclose(
        clip.cosines([files[1]], ["a bus"], size=24)[0], clip.cosines([made], ["a bus"])[0], atol=1e-7
    )


def test_the_prefix_stands_before_every_caption(folder, files):
    with_prefix = CLIP.from_pretrained(folder, prefix="an image of ")
    plain = CLIP.from_pretrained(folder)
    assert with_prefix.prefix == "an image of " and plain.prefix == ""
    told = [f"an image of {caption}" for caption in CAPTIONS]
    np.testing.assert_allclose(with_prefix.cosines(files, CAPTIONS)[0], plain.cosines(files, told)[0], atol=1e-7)


def test_names_tell_the_model(clip):
    assert clip.score_name == "CLIP score" and clip.name == "CLIP ViT-24/8@32"
    assert isinstance(clip, AlignmentModel)
    vision = clip.model.config.vision_config
    before = (vision.hidden_size, vision.patch_size, vision.image_size)
    try:
        vision.hidden_size, vision.patch_size, vision.image_size = 1024, 14, 224
        assert CLIP(clip.model, clip.tokenizer, folder=clip.folder).name == "CLIP ViT-L/14"
        vision.hidden_size, vision.patch_size = 768, 32
        assert CLIP(clip.model, clip.tokenizer, folder=clip.folder).name == "CLIP ViT-B/32"
    finally:
        vision.hidden_size, vision.patch_size, vision.image_size = before


def test_older_transformers_give_tensors(clip, files, monkeypatch):
    expected, _ = clip.cosines(files, CAPTIONS)
    for name in ("get_image_features", "get_text_features"):
        new = getattr(clip.model, name)

        def old(new=new, **inputs):
            features = new(**inputs)
            return features if isinstance(features, torch.Tensor) else features.pooler_output

        monkeypatch.setattr(clip.model, name, old)
    np.testing.assert_array_equal(clip.cosines(files, CAPTIONS)[0], expected)


def test_the_fingerprint_follows_the_weights(clip, folder, tmp_path):
    same, other = tmp_path / "same", tmp_path / "other"
    shutil.copytree(folder, same)
    assert CLIP.from_pretrained(same).fingerprint == clip.fingerprint
    shutil.copytree(folder, other)
    model = CLIP.from_pretrained(other)
    with torch.no_grad():
        model.model.logit_scale.add_(1)
    model.model.save_pretrained(other)
    assert CLIP.from_pretrained(other).fingerprint != clip.fingerprint


def test_mistakes_are_told_in_one_line(clip, files, folder, tmp_path):
    with pytest.raises(InputError, match="3 images, but 2 captions"):
        clip.cosines(files, CAPTIONS[:2])
    with pytest.raises(InputError, match=r"1\.png: its caption is empty"):
        clip.cosines(files, ["a bus", " ", "a bus"])
    with pytest.raises(InputError, match=r"gone\.png: no such file"):
        clip.cosines([tmp_path / "gone.png"], ["a bus"])
    with pytest.raises(InputError, match="no such folder; give a folder or a hub id"):
        CLIP.from_pretrained(tmp_path / "nowhere")
    text_only, no_weights = tmp_path / "text", tmp_path / "bare"
    text_only.mkdir()
    (text_only / "config.json").write_text('{"model_type": "clip_text_model"}')
    with pytest.raises(InputError, match="clip_text_model model, not a whole CLIP model"):
        CLIP.from_pretrained(text_only)
    shutil.copytree(folder, no_weights)
    (no_weights / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(InputError, match="CLIP model .*: cannot be loaded"):
        CLIP.from_pretrained(no_weights)
    (no_weights / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"no \*\.safetensors"):
        CLIP.from_pretrained(no_weights)


def test_a_score_that_is_no_number_names_the_file(folder, files):
    damaged = CLIP.from_pretrained(folder)
    with torch.no_grad():
        damaged.model.visual_projection.weight.fill_(float("nan"))
    with pytest.raises(InputError, match=r"0\.png: its CLIP score is not a number"):
        damaged.cosines(files, CAPTIONS)


def test_without_a_network_the_hub_is_told_of(monkeypatch):
    import huggingface_hub

    def fail(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(InputError, match="openai/clip-vit-large-patch14.*hf download"):
        CLIP.from_pretrained(DEFAULT_CLIP)
