"""Adapters: on every matrix of attention and MLP, the same numbers in training, merged, and apart."""

import json
from dataclasses import replace

import pytest
import torch
from backbones import OTHERS, PAPERS, TINY, make

from ifuvit.model.lora import add_lora, load_adapter, merged_state, write_adapter
from ifuvit.utils.errors import InputError

LORA = {"rank": 3, "alpha": 6.0}


def backbone(conditioning="cross", reading="added"):
    return make(replace(TINY, conditioning=conditioning, cross_attention=reading, n_text=1, n_image=1))


def adapted(model):
    """With adapters that do something."""
    add_lora(model, **LORA)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.1)
    return model


def predict(model):
    generator = torch.Generator().manual_seed(1)
    latents, text = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 7, 24, generator=generator)
    return model(latents, torch.tensor([900.0, 30.0]), text)


@pytest.mark.parametrize(("conditioning", "reading"), PAPERS + OTHERS)
def test_merged_is_adapted(conditioning, reading):
    model = backbone(conditioning, reading)
    before = predict(model)
    add_lora(model, **LORA)
    assert torch.allclose(
        predict(model), before, rtol=1e-5, atol=1e-5 * float(before.abs().max())
    )  # they begin by doing nothing
    model = adapted(backbone(conditioning, reading))
    after = predict(model)
    assert (after - before).abs().max() > 1e-3
    plain = backbone(conditioning, reading)
    tolerance = 1e-5 * float(after.abs().max())
    plain.load_state_dict(merged_state(model.state_dict(), **LORA))
    assert torch.allclose(predict(plain), after, atol=tolerance)
    # Everything that is trained has an effect, and only adapters are trained.
    after.square().sum().backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained and all(".lora_" in name for name in trained)
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters() if parameter.requires_grad)
    layers = {name.split(".lora_")[0].split(".")[-1] for name in trained}
    assert layers >= {"qkv", "proj", "fc1", "fc2"} and "skip_linear" not in layers


def test_kept_apart(tmp_path):
    model = adapted(backbone())
    wanted = predict(model)
    write_adapter(tmp_path / "run" / "adapter", model.state_dict(), base="some-model", **LORA)
    for place in (tmp_path / "run", tmp_path / "run" / "adapter"):
        again = backbone()
        load_adapter(again, place)
        assert torch.allclose(predict(again), wanted, atol=1e-5 * float(wanted.abs().max()))
    none, half = backbone(), backbone()
    load_adapter(none, tmp_path / "run", scale=0.0)
    assert torch.equal(predict(none), predict(backbone()))
    load_adapter(half, tmp_path / "run", scale=0.5)
    assert (predict(half) - wanted).abs().max() > 1e-4


def test_the_files_are_pefts(tmp_path):
    """peft reads them, and computes the same with its own layers (but for text's keys and values)."""
    import peft

    model = adapted(backbone("concat"))
    write_adapter(tmp_path / "adapter", model.state_dict(), base="some-model", **LORA)
    theirs = peft.PeftModel.from_pretrained(backbone("concat"), tmp_path / "adapter")
    wanted = predict(model)
    assert torch.allclose(predict(theirs.get_base_model()), wanted, atol=1e-5 * float(wanted.abs().max()))


def test_refusals(tmp_path, monkeypatch):
    model = adapted(backbone())
    write_adapter(tmp_path / "adapter", model.state_dict(), base="some-model", **LORA)
    with pytest.raises(InputError, match="adapter .*nowhere: no adapter_config.json there"):
        load_adapter(backbone(), tmp_path / "nowhere")
    other = backbone()
    with torch.no_grad():
        other.pos_embed.add_(1)
    with pytest.raises(InputError, match="was trained on other weights, those of some-model; give that model"):
        load_adapter(other, tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps({**config, "r": None}))
    with pytest.raises(InputError, match="adapter_config.json: its SHA-256 is not that of"):
        load_adapter(backbone(), tmp_path / "adapter")
    (tmp_path / "adapter" / "checksums.json").unlink()
    with pytest.raises(InputError, match="adapter_model.safetensors: damaged"):
        load_adapter(backbone(), tmp_path / "adapter")
    monkeypatch.setattr("ifuvit.model.lora.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"LoRA requires peft; install with `pip install 'ifuvit\[lora\]'`"):
        add_lora(backbone(), **LORA)


def test_every_byte_of_an_adapter_counts(tmp_path):
    write_adapter(tmp_path / "a", adapted(backbone()).state_dict(), base="some-model", **LORA)
    file = tmp_path / "a" / "adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-2] ^= 64
    file.write_bytes(content)
    model = backbone()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(InputError, match="adapter_model.safetensors: its SHA-256 is not that of"):
        load_adapter(model, tmp_path / "a")
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda parts: {}, "holds no adapters"),
        (
            lambda parts: {"base_model.model.x.lora_A.weight": torch.zeros(3, 3)},
            "tensor .* is no adapter of this model",
        ),
        (lambda parts: {"in_blocks.0": torch.zeros(3), **parts}, "tensor 'in_blocks.0' is no adapter of this model"),
        (lambda parts: dict([*parts.items()][1:]), "tensor .* is no adapter of this model"),
        (lambda parts: {name: part[:2] for name, part in parts.items()}, "adapters of .* have shapes"),
        (lambda parts: {name: part.fill_(float("nan")) for name, part in parts.items()}, ".*not finite"),
    ],
)
def test_other_tensors_are_refused_and_change_nothing(tmp_path, damage, what):
    """Tensors of other names were passed over, and those of other shapes a traceback."""
    from safetensors.torch import load_file, save_file

    write_adapter(tmp_path / "a", adapted(backbone()).state_dict(), base="some-model", **LORA)
    (tmp_path / "a" / "checksums.json").unlink()
    file = tmp_path / "a" / "adapter_model.safetensors"
    save_file({name: part.contiguous() for name, part in damage(load_file(file)).items()}, file)
    model = backbone()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(InputError, match=f"adapter_model.safetensors: {what}"):
        load_adapter(model, tmp_path / "a")
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_what_peft_computes_otherwise_is_refused(tmp_path):
    write_adapter(tmp_path / "a", adapted(backbone()).state_dict(), base="some-model", **LORA)
    (tmp_path / "a" / "checksums.json").unlink()
    file = tmp_path / "a" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "use_rslora": True}))
    with pytest.raises(InputError, match="adapter_config.json: use_rslora is not what"):
        load_adapter(backbone(), tmp_path / "a")
