"""`ifuvit convert uvit`: a directory that IFUViT loads, and one line for every mistake."""

import json
import pickle

import pytest
import reference_uvit
import torch

from ifuvit import IFUViT
from ifuvit.utils.command_line import parse


@pytest.fixture
def checkpoint(tmp_path):
    torch.save(reference_uvit.random_state(), tmp_path / "uvit.pth")
    return tmp_path / "uvit.pth"


def test_convert(ifuvit, checkpoint, tmp_path):
    out = tmp_path / "out"
    printed = ifuvit("convert", "uvit", checkpoint, out, "--heads", 4).out
    assert printed.startswith(f"{out}: U-ViT with") and "depth 4, 4 heads" in printed and "7 text tokens" in printed
    model, state = IFUViT.from_pretrained(out), torch.load(checkpoint)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    index = json.loads((out / "model_index.json").read_text())
    text = index["text"]
    assert index["latent_normalization"] == {"mean": [0.0], "scale": [0.2301]}
    assert index["autoencoder"] == {"reference": "stabilityai/sd-vae-ft-ema", "fingerprint": None}
    assert text == {"reference": "clip-vit-large-patch14", "fingerprint": None, "max_tokens": 7, "layers": None}
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["command"] == "convert" and manifest["backbone"]["num_heads"] == 4

    ifuvit("convert", "uvit", checkpoint, out, "--heads", 2, "--text-tokens", 22)  # replaces the first
    c = IFUViT.from_pretrained(out).config
    assert (c.num_heads, c.text_tokens, c.latent_size) == (2, 22, 2)


def truncated(path):
    path.write_bytes(path.read_bytes()[:-1000])


def pickled(path):
    path.write_bytes(pickle.dumps({"a": parse}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (truncated, "not a readable checkpoint, it may be truncated"),
        (pickled, "not a checkpoint of plain tensors"),
        (lambda path: path.write_text("hello, this is a text file"), "uvit.pth: not a"),
        (lambda path: path.write_bytes(b""), "not a readable checkpoint"),
        (lambda path: torch.save([1, 2], path), "holds no state dict"),
        (lambda path: torch.save({"step": 3}, path), "holds no state dict"),
        (lambda path: torch.save({"fc.weight": torch.ones(2)}, path), "not a U-ViT"),
        (lambda path: path.unlink(), "no such file"),
    ],
)
def test_bad_checkpoints_get_one_line(refusal, checkpoint, tmp_path, spoil, message):
    spoil(checkpoint)
    assert message in refusal("convert", "uvit", checkpoint, tmp_path / "out", "--heads", 4)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["uvit", "{checkpoint}", "{out}", "--heads", "5"], "--heads 5"),
        (["uvit", "{checkpoint}", "{out}"], "--heads"),
        (["dit", "{checkpoint}", "{out}", "--heads", "4"], "dit"),
        (["uvit", "{checkpoint}", "{photos}", "--heads", "4"], "holds something else"),
        (["uvit", "{checkpoint}", "{checkpoint}", "--heads", "4"], "is a file"),
        (["uvit", "{photos}", "{out}", "--heads", "4"], "is a directory"),
        (["uvit", "{checkpoint}", "{out}", "--heads", "4", "--latent-scale", "0"], "--latent-scale 0"),
        (["uvit", "{checkpoint}", "{out}", "--heads", "4", "--text-tokens", "9"], "--text-tokens 9"),
    ],
)
def test_mistakes_get_one_line(refusal, checkpoint, tmp_path, arguments, message):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "holiday.png").touch()
    paths = {"checkpoint": checkpoint, "out": tmp_path / "out", "photos": photos}
    assert message in refusal("convert", *[argument.format(**paths) for argument in arguments])
    assert list(photos.iterdir()) == [photos / "holiday.png"]


def test_a_model_of_others_is_not_replaced(refusal, checkpoint, tmp_path):
    """A directory that a training wrote has a model_index.json too."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model_index.json").write_text("{}")
    message = refusal("convert", "uvit", checkpoint, tmp_path / "out", "--heads", 4)
    assert "holds something else already (model_index.json)" in message
