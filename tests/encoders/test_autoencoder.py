"""The autoencoder wrapper: exactly diffusers' numbers, strict loading, a stable fingerprint."""

import json
from functools import partial

import numpy as np
import pytest
import torch

from ifuvit.encoders import autoencoder as module
from ifuvit.encoders.autoencoder import Autoencoder, sample_posterior
from ifuvit.utils.errors import InputError


def tiny_vae(seed: int = 0, **changes):
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    torch.manual_seed(seed)
    # With attention in the middle and four channels of latent, as Stable Diffusion's has.
    config = {
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "block_out_channels": (4, 8, 8),
        "norm_num_groups": 2,
        "sample_size": 16,
    }
    # Frozen: with gradients on, torch chooses another attention kernel, which differs in the last bit.
    return AutoencoderKL(**{**config, **changes}).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def vae():
    return tiny_vae()


@pytest.fixture
def folder(vae, tmp_path):
    vae.save_pretrained(tmp_path / "vae")
    return tmp_path / "vae"


def test_moments_and_decode_are_diffusers_own(vae, folder):
    autoencoder = Autoencoder.from_pretrained(folder)
    images = torch.rand(3, 3, 16, 24) * 2 - 1
    moments = autoencoder.moments(images)
    with torch.no_grad():
        posterior = vae.encode(images).latent_dist
    assert moments.shape == (3, 8, 4, 6) and moments.dtype == torch.float32 and not moments.requires_grad
    close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-5)  # channels last or not, sums have another order
    close(moments, torch.cat([posterior.mean, posterior.logvar], dim=1))
    latents = torch.randn(3, 4, 4, 6)
    with torch.no_grad():
        close(autoencoder.decode(latents), vae.decode(latents).sample)
        close(autoencoder.reconstruct(images), vae.decode(posterior.mean).sample.clamp(-1, 1))
    assert autoencoder.channels == 4 and autoencoder.factor == 4
    assert autoencoder.image_size == vae.config.sample_size


def test_log_variance_is_clamped(vae, tmp_path):
    import copy

    loud = copy.deepcopy(vae)
    with torch.no_grad():
        loud.quant_conv.bias[4:6] = 1e4
        loud.quant_conv.bias[6:] = -1e4
    logvar = Autoencoder(loud, reference="loud").moments(torch.zeros(1, 3, 16, 16))[:, 4:]
    assert (logvar[:, :2] == 20).all() and (logvar[:, 2:] == -30).all()


def test_posterior_sample_agrees_with_diffusers_and_numpy(vae):
    autoencoder = Autoencoder(vae, reference="tiny")
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    moments, noise = autoencoder.moments(images), torch.randn(2, 4, 4, 4)
    with torch.no_grad():
        posterior = vae.encode(images).latent_dist
    latents = sample_posterior(moments, noise)
    torch.testing.assert_close(latents, posterior.mean + posterior.std * noise)
    np.testing.assert_allclose(sample_posterior(moments.numpy(), noise.numpy()), latents.numpy(), rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match="does not fit"):
        sample_posterior(moments, torch.randn(2, 8, 4, 4))


def test_fingerprint_follows_values_and_not_their_storage(vae, folder, tmp_path):
    original = Autoencoder.from_pretrained(folder)
    assert original.fingerprint == Autoencoder(vae, reference="memory").fingerprint

    original.save_pretrained(tmp_path / "half", dtype=torch.float16)
    half = Autoencoder.from_pretrained(tmp_path / "half")
    assert half.vae.dtype == torch.float32
    assert half.fingerprint != original.fingerprint  # rounded weights are other weights
    half.save_pretrained(tmp_path / "wide")  # the same values, stored wider
    assert Autoencoder.from_pretrained(tmp_path / "wide").fingerprint == half.fingerprint
    sizes = [(tmp_path / name / "diffusion_pytorch_model.safetensors").stat().st_size for name in ("half", "wide")]
    assert sizes[0] < 0.7 * sizes[1]

    config = json.loads((folder / "config.json").read_text())
    config |= {"scaling_factor": 0.5, "sample_size": 99, "_diffusers_version": "0.1"}
    (folder / "config.json").write_text(json.dumps(config))
    assert Autoencoder.from_pretrained(folder).fingerprint == original.fingerprint
    config["act_fn"] = "relu"
    (folder / "config.json").write_text(json.dumps(config))
    assert Autoencoder.from_pretrained(folder).fingerprint != original.fingerprint
    assert Autoencoder(tiny_vae(1), reference="other").fingerprint != original.fingerprint


def test_saving_leaves_no_trace_of_this_machine(folder, tmp_path):
    Autoencoder.from_pretrained(folder).save_pretrained(tmp_path / "copy")
    assert str(tmp_path) not in (tmp_path / "copy" / "config.json").read_text()


@pytest.mark.parametrize("inside", ["", "autoencoder", "vae"])
def test_found_in_a_run_or_a_pipeline(vae, tmp_path, inside):
    place = tmp_path / "there" / inside
    vae.save_pretrained(place)
    loaded = Autoencoder.from_pretrained(str(tmp_path / "there"))
    assert loaded.reference == str(place.resolve())
    assert Autoencoder.from_pretrained(loaded.reference).fingerprint == loaded.fingerprint


def test_a_folder_with_only_a_half_precision_variant(vae, tmp_path):
    import copy

    copy.deepcopy(vae).half().save_pretrained(tmp_path, variant="fp16")
    assert Autoencoder.from_pretrained(tmp_path).vae.dtype == torch.float32


def test_shipped_names(vae, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SHIPPED", tmp_path)
    vae.save_pretrained(tmp_path / "autoencoder-tiny")
    assert module.shipped_names() == ("tiny",)
    assert Autoencoder.from_pretrained("tiny").reference == "tiny"
    with pytest.raises(InputError, match=r"shipped name \(tiny\)"):
        Autoencoder.from_pretrained("tony")


def assert_one_line(error, *words):
    assert "\n" not in str(error.value) and len(str(error.value)) < 600
    for word in words:
        assert word in str(error.value)


def test_missing_folder():
    with pytest.raises(InputError) as error:
        Autoencoder.from_pretrained("/nowhere/at/all")
    assert_one_line(error, "/nowhere/at/all", "no such autoencoder")


def test_a_hub_id_that_cannot_be_had(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError) as error:
        Autoencoder.from_pretrained("nobody-here/no-autoencoder")
    assert_one_line(error, "nobody-here/no-autoencoder")


def test_a_hub_id_whose_autoencoder_is_in_a_subfolder(vae, monkeypatch):
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    def from_pretrained(source, *, subfolder=None, **_):
        if subfolder != "vae":
            raise OSError("no config.json at the root")
        return vae, {"missing_keys": [], "unexpected_keys": [], "mismatched_keys": []}

    monkeypatch.setattr(AutoencoderKL, "from_pretrained", from_pretrained)
    assert Autoencoder.from_pretrained("someone/stable-diffusion").reference == "someone/stable-diffusion"


def test_a_truncated_weights_file(folder):
    path = folder / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError) as error:
        Autoencoder.from_pretrained(folder)
    assert_one_line(error, str(folder), "cannot load")


@pytest.mark.parametrize("problem", ["missing", "unexpected", "shape"])
def test_weights_that_do_not_fit_the_config(folder, problem):
    from safetensors.torch import load_file, save_file

    path = folder / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    if problem == "missing":
        del tensors["decoder.conv_in.weight"]
    elif problem == "unexpected":
        tensors["stranger"] = torch.zeros(3)
    else:
        tensors["decoder.conv_in.weight"] = torch.zeros(2, 2)
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(InputError) as error:
        Autoencoder.from_pretrained(folder)
    assert_one_line(error, str(folder))


def test_another_kind_of_model_or_a_broken_config(folder):
    (folder / "config.json").write_text('{"_class_name": "VQModel"}')
    with pytest.raises(InputError, match="VQModel"):
        Autoencoder.from_pretrained(folder)
    (folder / "config.json").write_text('{"_class_name": "Auto')
    with pytest.raises(InputError, match="truncated"):
        Autoencoder.from_pretrained(folder)


def test_only_safetensors_are_read(folder, vae):
    torch.save(vae.state_dict(), folder / "diffusion_pytorch_model.bin")
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(InputError, match="holds no autoencoder"):
        Autoencoder.from_pretrained(folder)


def test_a_file_is_not_a_folder(folder):
    with pytest.raises(InputError, match="not a file"):
        Autoencoder.from_pretrained(folder / "config.json")


def test_shapes_are_checked(vae):
    autoencoder = Autoencoder(vae, reference="tiny")
    for shape in [(1, 3, 18, 16), (1, 1, 16, 16), (3, 16, 16)]:
        with pytest.raises(InputError, match="multiples of 4"):
            autoencoder.moments(torch.zeros(shape))
    with pytest.raises(InputError, match="expected"):
        autoencoder.decode(torch.zeros(1, 8, 4, 4))


def test_stable_diffusions_factor(tmp_path):
    vae = tiny_vae(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 8, 8),
        layers_per_block=2,
    )
    vae.save_pretrained(tmp_path / "sd")
    autoencoder = Autoencoder.from_pretrained(tmp_path / "sd")
    assert autoencoder.factor == 8
    assert autoencoder.moments(torch.zeros(1, 3, 32, 32)).shape == (1, 8, 4, 4)
