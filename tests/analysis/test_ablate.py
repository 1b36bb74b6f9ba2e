"""Interventions on the text that a block reads."""

from collections import Counter as Counts
from dataclasses import replace

import numpy as np
import pytest
import torch
from backbones import SETTINGS, TINY, assert_same, inputs, make, setting_name
from tiny_pipeline import MODEL, tiny_model

from ifuvit.analysis import ablate
from ifuvit.analysis.ablate import AblatedModel, Intervention, hide_tokens, random_tokens_of_share
from ifuvit.analysis.common import AnalyzedModel, Bands, open_models
from ifuvit.analysis.recording import observe
from ifuvit.analysis.run import _asking
from ifuvit.diffusion.objective import Flow
from ifuvit.diffusion.settings import SamplingSettings
from ifuvit.metrics.counting.parsing import Asked, parse_prompt
from ifuvit.metrics.counting.scores import Detection
from ifuvit.model.settings import IFUViTConfig
from ifuvit.model.uvit import unpatchify
from ifuvit.pipeline import Pipeline

masked = [
    replace(one, mask_padding=True) for one in SETTINGS if one.image_only == (1, 1) and one.conditioning != "adaln"
]


def prepared(config: IFUViTConfig):
    model = make(config)
    latents, _, embeddings, mask = inputs(config)
    timesteps = torch.full((3,), 400.0)
    with torch.no_grad():
        text = model.encode_text(embeddings, mask)
    return model, latents, timesteps, text, text.rows(torch.tensor([0]))


@pytest.mark.parametrize("config", [*SETTINGS, *masked], ids=setting_name)
def test_null_text_everywhere_is_the_null_branch(config: IFUViTConfig) -> None:
    model, latents, timesteps, text, null = prepared(config)
    everywhere = Intervention(name="no caption", blocks=frozenset(name for name, _ in model.fused_blocks()))
    with torch.no_grad():
        got = AblatedModel(model, everywhere, range(3)).guided(latents, timesteps, text, null, 5.0)
        image = model.encode_image(latents, timesteps)
        expected = model.fuse(image, null.expand(3))
        assert_same(got, expected)
        plain = model.guided(latents, timesteps, text, null, guidance_scale=5.0)
        assert (got - plain).abs().max() > 1e-3
        # Nothing stays behind.
        assert torch.equal(plain, model.guided(latents, timesteps, text, null, guidance_scale=5.0))


@pytest.mark.parametrize("config", [*SETTINGS, *masked], ids=setting_name)
def test_without_text_the_caption_does_not_matter(config: IFUViTConfig) -> None:
    model, latents, timesteps, text, null = prepared(config)
    nothing = Intervention(
        name="no caption", blocks=frozenset(name for name, _ in model.fused_blocks()), replace_by="nothing"
    )
    one = torch.ones(3)
    other = text.rows(torch.tensor([2, 0, 1]))
    with torch.no_grad():
        results = [
            AblatedModel(model, nothing, range(3)).guided(latents, timesteps, t, null, one) for t in (text, other)
        ]
    assert_same(results[0], results[1])


@pytest.mark.parametrize("replace_by", ["null", "nothing"])
def test_one_block_of_added_cross_attention(replace_by: str) -> None:
    """There the text of one block can be changed in what the model is given."""
    model, latents, timesteps, text, null = prepared(replace(TINY, n_image=0))
    name = list(model.fused_blocks())[3][0]
    assert text.keys is not None and text.values is not None and null.keys is not None and null.values is not None
    keys, values = text.keys.clone(), text.values.clone()
    keys[:, 3], values[:, 3] = (null.keys[:, 3], null.values[:, 3]) if replace_by == "null" else (keys[:, 3], 0)
    intervention = Intervention(name="without", blocks=frozenset([name]), replace_by=replace_by)  # type: ignore[arg-type]
    with torch.no_grad():
        got = AblatedModel(model, intervention, range(3)).guided(latents, timesteps, text, null, 3.0)
        expected = model.guided(latents, timesteps, text._replace(keys=keys, values=values), null, guidance_scale=3.0)
    assert_same(got, expected)


@pytest.mark.parametrize("config", [one for one in SETTINGS if one.pools_text], ids=setting_name)
def test_without_text_nothing_pooled_modulates(config: IFUViTConfig) -> None:
    model, latents, timesteps, text, null = prepared(config)
    assert text.pooled is not None and null.pooled is not None
    blocks = frozenset(name for name, _ in model.fused_blocks())
    nothing = Intervention(name="no caption", blocks=blocks, replace_by="nothing")
    with torch.no_grad():
        got = AblatedModel(model, nothing, range(3)).guided(latents, timesteps, text, null, torch.ones(3))
        unpooled = [one._replace(pooled=torch.zeros_like(one.pooled)) for one in (text, null)]
        expected = AblatedModel(model, nothing, range(3)).guided(latents, timesteps, *unpooled, torch.ones(3))
        assert_same(got, expected)
        null_instead = replace(nothing, replace_by="null")
        other = AblatedModel(model, null_instead, range(3)).guided(latents, timesteps, text, null, torch.ones(3))
        assert (got - other).abs().max() > 1e-3
        if config.conditioning == "adaln":
            assert_same(got, model.fuse(model.encode_image(latents, timesteps), unpooled[0]))


def test_one_block_of_concatenation() -> None:
    """Against a loop over the blocks: the image tokens read the null branch's text there, the text's own path goes on."""
    config = replace(TINY, conditioning="concat", depth=2, n_image=0)
    model, latents, timesteps, text, null = prepared(config)
    length, replaced = config.text_tokens, "in_blocks.0"

    def mixed(words: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        return torch.cat([words[:, :length], image[:, length:]], 1)

    with torch.no_grad():
        image = model.encode_image(latents, timesteps).tokens
        assert text.tokens is not None and null.tokens is not None
        x, of_null = (torch.cat([words.expand(3, -1, -1), image], 1) for words in (text.tokens, null.tokens))
        skips = []
        for name, block in model.fused_blocks():
            skip, null_skip = skips.pop() if name == "out_blocks.0" else (None, None)
            after, null_after = block(x, skip), block(of_null, null_skip)
            if name == replaced:
                after = mixed(after, block(mixed(of_null, x)))
            x, of_null = after, null_after
            if name == "in_blocks.0":
                skips.append((x, of_null))
        patches = model.decoder_pred(model.norm(x[:, length + 1 :]))
        expected = model.final_layer(unpatchify(patches, config.patch_size, config.latent_channels))
        intervention = Intervention(name="without", blocks=frozenset([replaced]))
        got = AblatedModel(model, intervention, range(3)).guided(latents, timesteps, text, null, 1.0)
    assert_same(got, expected)


@pytest.mark.parametrize("conditioning", ["concat", "cross", "cross-separate", "mmdit", "adaln"])
def test_the_null_branch_and_other_levels_are_left_alone(conditioning: str) -> None:
    model, latents, timesteps, text, null = prepared(replace(TINY, conditioning=conditioning))  # type: ignore[arg-type]
    middle = Intervention(name="without", blocks=frozenset(["mid_block"]), levels=(0.0, 0.3))
    with torch.no_grad():
        out = AblatedModel(model, middle, range(3)).guided(latents, timesteps, text, null, 3.0)
        assert torch.equal(out, model.guided(latents, timesteps, text, null, guidance_scale=3.0))  # at level 0.4
        everywhere = replace(middle, levels=(0.0, 1.0))
        null_only = AblatedModel(model, everywhere, range(3)).guided(latents, timesteps, text, null, 0.0)
        assert_same(null_only, model.guided(latents, timesteps, text, null, guidance_scale=torch.zeros(3)))


@pytest.mark.parametrize("mask_padding", [False, True])
@pytest.mark.parametrize("conditioning", ["concat", "cross", "cross-separate", "mmdit"])
def test_hidden_tokens_get_no_attention(conditioning: str, mask_padding: bool) -> None:
    config = replace(TINY, conditioning=conditioning, mask_padding=mask_padding)  # type: ignore[arg-type]
    model, latents, timesteps, text, null = prepared(config)
    hidden, null_text = hide_tokens(text, null, [(0,), (1, 2), ()])
    before = dict(observe(model, latents, timesteps, text).attention())
    for name, attention in observe(model, latents, timesteps, hidden).attention():
        assert attention.text[0, :, :, 0].abs().max() == 0 and attention.text[1, :, :, 1:3].abs().max() == 0
        torch.testing.assert_close(attention.text[2], before[name].text[2])
    with torch.no_grad():  # both masks fit together
        model.guided(latents, timesteps, hidden, null_text, guidance_scale=3.0)


def test_random_tokens_of_equal_share() -> None:
    shares = np.array([0.3, 0.1, 0.1, 0.1, 0.2, 0.2])
    drawn = {random_tokens_of_share(shares, 0, [1, 2, 3, 4, 5], np.random.default_rng(seed)) for seed in range(30)}
    assert len(drawn) > 5
    for tokens in drawn:
        total = shares[list(tokens)].sum()
        assert total >= 0.3 - 1e-9 or len(tokens) == 4
        assert total - shares[tokens[-1]] < 0.3
    assert len(random_tokens_of_share(np.array([0.8, 0.1, 0.1]), 0, [1, 2], np.random.default_rng(0))) == 1


class Counter:
    """Counts what a prompt asks for, but one bus always."""

    every_kind, threshold = True, 0.5

    def parse(self, prompt):
        return parse_prompt(prompt)

    def find(self, files, asked, *, threshold):
        assert all(file.read() for file in files)
        return [[Detection("bus", 1, 1, 1.0)] for _ in asked]


def test_effects(tiny_run) -> None:
    """The caption as it is changes nothing, none at all changes everything, and scores are per image."""
    model = open_models([str(tiny_run)], torch.device("cpu"))[0]
    prompts = ["a bus", "two sheep", "a bus left of an apple", "red grass on a bus"]
    settings = SamplingSettings(steps=4)
    effects = ablate.ablate(model, prompts, settings, bands=2, counter=Counter(), batch_size=3)  # type: ignore[arg-type]
    names = [one.name for one in effects.interventions]
    assert names == ["caption", "no caption", "top token hidden", "random tokens hidden"]  # one fused block
    assert np.abs(effects.changes[0]).max() < 1e-8
    np.testing.assert_allclose(effects.changes[1], 1, atol=1e-4)
    assert (effects.changes[2:] > 0).all()
    assert effects.scores["counts right"][0, :2].tolist() == [1, 0]
    assert effects.scores["relations right"][0, 2] == 0 and np.isnan(effects.scores["counts right"][0, 2:]).all()
    unguided = model.pipeline(prompts, settings, negative_prompt="", guidance_scale=0.0)
    for got, expected in zip(effects.images[1], unguided, strict=True):  # no caption: the null branch alone
        assert np.abs(np.asarray(got, int) - np.asarray(expected, int)).max() <= 1
    listed = ablate.measurements(model, effects, Bands(2))
    lost = [one for one in listed if one.quantity == "counts right, lost" and one.of == "no caption"]
    assert [one.value for one in lost] == [0.0] and lost[0].n == 2


def test_a_model_without_attention_to_text(tiny_run) -> None:
    """With "adaln", here of a flow model, there is no token to hide, and the rest is as for the others."""
    base = open_models([str(tiny_run)], torch.device("cpu"))[0]
    parts = base.pipeline
    pipeline = Pipeline(
        tiny_model(replace(MODEL, conditioning="adaln", n_image=0)),
        parts.autoencoder,
        parts.text_encoder,
        normalization=parts.normalization,
        objective=Flow(),
    )
    model = AnalyzedModel(name="adaln", target=base.target, pipeline=pipeline)
    prompts, settings = ["a bus", "two sheep", "three apples"], SamplingSettings(steps=4)
    effects = ablate.ablate(model, prompts, settings, bands=2, batch_size=2)
    assert effects.recorded is None and effects.hidden_shares is None
    names = [one.name for one in effects.interventions]
    assert names == ["caption", "no caption", *["without"] * 3, *["only"] * 3, "without middle", "without ends"]
    np.testing.assert_allclose(effects.changes[1], 1, atol=1e-4)
    assert (effects.changes[2:] > 0).all() and np.isfinite(effects.changes).all()
    for got, expected in zip(effects.images[0], pipeline(prompts, settings), strict=True):
        assert np.abs(np.asarray(got, int) - np.asarray(expected, int)).max() <= 1


@pytest.mark.parametrize("number", [10, 12, 64])
def test_prompts_ask_for_every_count_and_relation(number: int) -> None:
    prompts = _asking(number)
    assert len(set(prompts)) == len(prompts) == number
    counts = [asked for one in prompts if isinstance(asked := parse_prompt(one), Asked)]
    relations = [one for one in prompts if " of " in one or " above " in one or " below " in one]
    assert len(counts) + len(relations) == number
    numbers = Counts(one.count for one in counts)
    assert set(numbers) == {1, 2, 3, 4, 5} and max(numbers.values()) - min(numbers.values()) <= 1
    for word in ("left", "right", "above", "below"):
        assert any(f" {word} " in one for one in relations)
