"""Singular values and their controls."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.linalg
import torch
from backbones import TINY, inputs, make

from ifuvit.analysis import rank
from ifuvit.analysis.common import open_models
from ifuvit.analysis.recording import ObservedModel, observe, probabilities
from ifuvit.analysis.words import read_tokens
from ifuvit.diffusion.settings import SamplingSettings

PROMPTS = ["two sheep on grass", "a bus", "three red apples", "one bus left of sheep"]
STEPS = SamplingSettings(steps=4)


@pytest.fixture(scope="module")
def model(tiny_run):
    return open_models([str(tiny_run)], torch.device("cpu"))[0]


@pytest.mark.parametrize("shape", [(36, 16), (9, 16), (4, 4)])
def test_singular_values_are_scipys(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    attention = torch.randn(3, *shape, generator=generator).softmax(-1)
    attention[1, :, 3:] = 0
    got = rank.singular_values(attention).numpy()
    for one, values in zip(attention.double().numpy(), got):
        np.testing.assert_allclose(values, scipy.linalg.svdvals(one), atol=1e-7)


def test_quantities() -> None:
    found = rank.quantities(np.array([[1.0, 1, 1, 1], [3.0, 0, 0, 0], [2.0, 1, 1, 0]]))
    np.testing.assert_allclose(found["sum of singular values"], [4, 3, 4])
    np.testing.assert_allclose(found["effective rank"], [4, 1, 2**1.5])
    np.testing.assert_allclose(found["stable rank"], [4, 1, 1.5])
    np.testing.assert_allclose(found["energy of the first"], [0.25, 1, 2 / 3])


def test_sinks(model) -> None:
    """Start, end, padding, and what gets over ten times the median word's share."""
    tokens = read_tokens(model.pipeline.text_encoder, "two sheep on grass")  # [CLS] 4 words [SEP] 2 x padding
    text = torch.tensor([0.3, 0.02, 0.02, 0.21, 0.02, 0.1, 0.2, 0.1]).expand(1, 2, 5, 8)
    assert rank.not_sinks(text, [tokens]).tolist() == [[False, True, True, False, True, False, False, False]]
    text = torch.tensor([0.3, 0.02, 0.02, 0.19, 0.02, 0.1, 0.2, 0.1]).expand(1, 2, 5, 8)
    assert rank.not_sinks(text, [tokens]).tolist() == [[False, True, True, True, True, False, False, False]]


def test_spectra_are_those_of_a_loop(model) -> None:
    found = rank.record_spectra(model, PROMPTS, STEPS, bands=2, crop_border=0, batch_size=3)
    tokens = read_tokens(model.pipeline.text_encoder, PROMPTS[1])
    maps: list[np.ndarray] = []

    def keep(one, _):
        maps.extend(attention.text[0, :, 1:].numpy() for _, attention in one.attention())

    model.pipeline(PROMPTS[1:2], STEPS, first_index=1, denoiser=ObservedModel(model.model, keep))
    words = np.array([one not in ("special", "padding") for one in tokens.categories])

    def spectrum(a: np.ndarray) -> np.ndarray:
        return scipy.linalg.svdvals(a)

    def normal(a: np.ndarray) -> np.ndarray:
        return a / a.sum(-1, keepdims=True)

    every = found.evaluations[-1]
    assert every == len(maps) == found.evaluations[:2].sum()
    forms = {
        ("all tokens", "raw", "mean of SVDs"): [spectrum(head) for step in maps for head in step],
        ("without sinks", "raw", "mean of SVDs"): [spectrum(head * words) for step in maps for head in step],
        ("without sinks", "renormalized", "mean of SVDs"): [spectrum(normal(h * words)) for step in maps for h in step],
        ("all tokens", "raw", "SVD of the mean"): [spectrum(np.mean(maps, (0, 1)))],
        ("without sinks", "renormalized", "SVD of the mean"): [spectrum(normal(np.mean(maps, (0, 1)) * words))],
    }
    for form, values in forms.items():
        np.testing.assert_allclose(found.of(rank.OWN, *form)[1, -1, 0], np.mean(values, 0), atol=1e-6)


def test_shuffled_captions_are_those_of_another_prompt(model) -> None:
    """Of the prompt half of all further on, wherever batches end, on the prompt's own latents."""
    spectra = [
        rank.record_spectra(model, PROMPTS, STEPS, bands=1, crop_border=0, controls=["shuffled"], batch_size=size)
        for size in (4, 3)
    ]
    np.testing.assert_allclose(spectra[0].values, spectra[1].values, atol=1e-6)
    with torch.no_grad():
        other = model.model.encode_text(*model.pipeline.text_encoder([PROMPTS[3]]))
    values: list[list[np.ndarray]] = []
    words = [c not in ("special", "padding") for c in read_tokens(model.pipeline.text_encoder, PROMPTS[3]).categories]

    def keep(one, _):
        for _, attention in observe(model.model, one.latents, one.timesteps, other).attention():
            for head in attention.text[0, :, 1:].numpy():
                values.append([scipy.linalg.svdvals(head), scipy.linalg.svdvals(head * words)])

    model.pipeline(PROMPTS[1:2], STEPS, first_index=1, denoiser=ObservedModel(model.model, keep))
    for tokens, expected in zip(rank.TOKENS, np.mean(values, 0), strict=True):
        got = spectra[0].of("shuffled captions", tokens, "raw", "mean of SVDs")[1, -1, 0]
        np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize(("conditioning", "variant"), [("concat", "added"), ("cross", "added"), ("cross", "joint")])
def test_random_attention_is_matched(conditioning: str, variant: str) -> None:
    """Products of the heads' width in rank, as spread as the block's; masked keys stay masked."""
    config = replace(TINY, embed_dim=8, conditioning=conditioning, cross_attention=variant, mask_padding=True)  # type: ignore[arg-type]
    model = make(config)
    latents, timesteps, embeddings, mask = inputs(config)
    with torch.no_grad():
        text = model.encode_text(embeddings, mask)
    for _, given in observe(model, latents, timesteps, text).logits():
        found = rank._random(given, config, [(0, i) for i in range(3)])
        again = rank._random(given, config, [(0, i) for i in range(3)])
        for own, new, same in zip(given, found, again, strict=True):
            if own is None:
                assert new is None
                continue
            assert torch.equal(new, same) and torch.equal(own.isinf(), new.isinf())
            seen = ~own[0, 1, -1].isinf()
            assert torch.linalg.matrix_rank(new[0, 1, :, seen], rtol=1e-4) <= 2  # 8 / 4 heads
            ratio = new[0, :, :, seen].flatten(1).std(1) / own[0, :, :, seen].flatten(1).std(1)
            torch.testing.assert_close(ratio, torch.ones_like(ratio))
        assert torch.isfinite(probabilities(found, config).text).all()


def test_what_is_said_of_controls_follows_the_numbers() -> None:
    rng = np.random.default_rng(0)
    own = 1 + 0.1 * rng.normal(size=64)
    said = rank._about_controls(
        own,
        {
            "a": own + 0.1 * rng.normal(size=64) - 0.0,
            "b": own * 0.2,
            "c": -own,
            "d": own * 2,
            "e": own * 0.7,
        },
    )
    sentences = [part.strip() for part in said.split(" With ") if part.strip()]
    for sentence, words in zip(
        sentences, ("no different", "less than half", "other sign", "at least as", "more than half")
    ):
        assert words in sentence


def _spectra(blocks: tuple[str, ...], scales: list[float]) -> rank.Spectra:
    """Values of 12 prompts that differ by block in their sum alone, and a little by prompt."""
    rng = np.random.default_rng(0)
    values = np.array([2.0, 1.0, 0.5]) * np.array(scales)[:, None]  # (blocks, values)
    some = np.broadcast_to(values[:, None, None, None], (1, 12, 2, len(blocks), 2, 2, 2, 3))
    some = some * (1 + 0.01 * rng.random((1, 12, 1, len(blocks), 1, 1, 1, 1)))
    shares = np.zeros((12, len(blocks)))
    return rank.Spectra(blocks=blocks, conditions=(rank.OWN,), evaluations=np.ones(2), values=some, sink_shares=shares)


def test_early_against_intermediate() -> None:
    """The ends against the middle, and one model against the other; raw values of two scales are said to be."""

    def model(name: str, setting: str, conditioning: str) -> SimpleNamespace:
        config = SimpleNamespace(depth=2, two_softmaxes=conditioning == "cross")
        target = SimpleNamespace(setting=setting)
        return SimpleNamespace(name=name, target=target, model=SimpleNamespace(config=config))

    early = _spectra(("in_blocks.0", "mid_block", "out_blocks.0"), [1, 3, 1])
    middle = _spectra(("mid_block",), [1])
    pair = [(model("early", "concat-early", "concat"), early), (model("other", "cross-intermediate", "cross"), middle)]
    found = {(one.model, one.claim): one for one in rank.findings(pair)}
    ends = found["early", "Smaller at the ends than in the middle: sum of singular values, raw, all tokens."]
    assert ends.verdict == "held" and ends.difference.value == pytest.approx(7, rel=0.02)
    larger = found["other", "Larger than in early: sum of singular values, raw, all tokens."]
    assert larger.verdict == "not held" and larger.difference.value == pytest.approx(3.5 * (1 - 5 / 3), rel=0.02)
    assert "two scales" in larger.text
    normal = found["other", "Larger than in early: sum of singular values, renormalized, without sinks."]
    assert "two scales" not in normal.text
    same = [pair[0], (model("other", "concat-intermediate", "concat"), middle)]
    assert not any("two scales" in one.text for one in rank.findings(same))
