"""What can be evaluated, and how results describe it."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_pipeline import write_tiny_pipeline

from ifuvit.diffusion.settings import SamplingSettings
from ifuvit.evaluation.targets import open_target
from ifuvit.results import TrainingFacts
from ifuvit.utils.errors import InputError

CPU = torch.device("cpu")


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("b", "a", "c"):
        Image.new("RGB", (8, 8)).save(folder / f"{name}.png")
    return folder


def test_a_run_tells_its_setting_and_training(tmp_path):
    run = write_tiny_pipeline(tmp_path / "my-run")
    training = {"steps": 20, "batch_size": 64, "seed": 7, "seconds": 10.0}
    (run / "pipeline/training.json").write_text(json.dumps(training))
    target = open_target(str(run), device=CPU)
    assert (target.name, target.kind) == ("my-run", "ifuvit") and target.generator is not None
    described = target.describe()
    assert described.setting is not None and described.setting.conditioning == "cross"
    assert described.training == TrainingFacts(**training) and described.fingerprint == target.fingerprint


def test_bare_images_and_a_caption_file(images, tmp_path):
    bare = open_target(str(images), device=CPU)
    assert [(file.name, caption) for file, caption in bare.images or []] == [
        ("a.png", None),
        ("b.png", None),
        ("c.png", None),
    ]
    captions = tmp_path / "captions.txt"
    captions.write_text("one\ntwo\nthree\n")
    told = open_target(str(images), device=CPU, captions=captions)
    assert [caption for _, caption in told.images or []] == ["one", "two", "three"]
    captions.write_text("one\u2028still one\r\ntwo\x0c\nthree")  # only line feeds end a line
    told = open_target(str(images), device=CPU, captions=captions)
    assert [caption for _, caption in told.images or []] == ["one\u2028still one", "two\x0c", "three"]
    captions.write_text("one\ntwo\n")
    with pytest.raises(InputError, match="2 captions for 3 images"):
        open_target(str(images), device=CPU, captions=captions)


def test_numbered_images_and_captions_go_by_number(tmp_path):
    """10.png comes after 9.png, with or without leading zeros."""
    for number in range(12):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number}.png")
    target = open_target(str(tmp_path), device=CPU)
    assert [file.name for file, _ in target.images or []] == [f"{number}.png" for number in range(12)]


def test_images_with_sidecars_or_a_manifest(images):
    (images / "manifest.json").write_text(json.dumps({"images": [{"file": "c.png", "prompt": "a bus"}]}))
    target = open_target(str(images), device=CPU)
    assert target.images == [(images / "c.png", "a bus")]
    (images / "manifest.json").unlink()
    for name in ("a", "b"):
        (images / f"{name}.txt").write_text(name)
    with pytest.raises(InputError, match=r"c\.txt: no such caption file; 3 images need as many captions"):
        open_target(str(images), device=CPU)


def test_a_folder_with_something_else(images):
    (images / "notes.pdf").write_bytes(b"%PDF")
    with pytest.raises(InputError, match=r"notes\.pdf: not an image"):
        open_target(str(images), device=CPU)


@pytest.mark.parametrize("name", ["no-such-model", "./nowhere", "/nowhere/at/all"])
def test_unknown_targets(name):
    with pytest.raises(InputError, match="neither a directory, nor .* one of the shipped names"):
        open_target(name, device=CPU)


def test_a_diffusers_pipeline(tmp_path):
    """Another library's pipeline is told by its model_index.json and draws reproducibly."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from tiny_pipeline import write_text_encoder, write_vae
    from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    tokenizer = AutoTokenizer.from_pretrained(write_text_encoder(tmp_path / "text"))
    unet = UNet2DConditionModel(
        sample_size=4,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=2,
        cross_attention_dim=16,
        attention_head_dim=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )
    StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(write_vae(tmp_path / "vae")),
        text_encoder=CLIPTextModel(CLIPTextConfig(vocab_size=len(tokenizer), max_position_embeddings=16, **sizes)),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    ).save_pretrained(tmp_path / "sd")
    target = open_target(str(tmp_path / "sd"), device=CPU)
    assert target.kind == "diffusers" and target.generator is not None
    settings = SamplingSettings(steps=2, guidance_scale=2.0)
    three = target.generator(["a", "a", "a"], settings, seed=0, first_index=0, batch_size=2)
    again = target.generator(["a"], settings, seed=0, first_index=2, batch_size=1)
    with pytest.raises(InputError, match="samples without --guidance-interval"):
        options = {"seed": 0, "first_index": 0, "batch_size": 1}
        target.generator(["a"], settings.changed(guidance_interval=(0.2, 0.8)), **options)
    assert len(target.fingerprint or "") == 64
    # Its own autoencoder is the floor of its distances: what diffusers decodes from the posterior's mean.
    assert target.decoder is not None and target.decoder.size == 8
    Image.effect_noise((8, 8), 60).convert("RGB").save(tmp_path / "noise.png")
    (decoded,) = target.decoder([tmp_path / "noise.png"])
    pixels = torch.from_numpy(np.array(Image.open(tmp_path / "noise.png"))).permute(2, 0, 1)[None] / 127.5 - 1
    vae = AutoencoderKL.from_pretrained(tmp_path / "sd" / "vae")
    with torch.no_grad():
        expected = vae.decode(vae.encode(pixels.float()).latent_dist.mean).sample.clamp(-1, 1)
    assert np.abs((np.asarray(decoded) / 127.5 - 1) - expected[0].permute(1, 2, 0).numpy()).max() < 0.01
    assert three[2].tobytes() == again[0].tobytes() and three[0].tobytes() != three[2].tobytes()
