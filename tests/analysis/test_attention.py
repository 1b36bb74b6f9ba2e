"""Maps and shares of attention: against a loop over steps, and what is made of them."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from backbones import TINY, make

from ifuvit.analysis import attention
from ifuvit.analysis.common import AnalyzedModel, Bands, check_supported, finding, middle_blocks, open_models
from ifuvit.analysis.recording import ObservedModel
from ifuvit.analysis.words import CATEGORIES, read_tokens
from ifuvit.diffusion.settings import SamplingSettings
from ifuvit.utils.errors import InputError

PROMPTS = ["two sheep on grass", "a bus", "three red apples"]
STEPS = SamplingSettings(steps=5)


@pytest.fixture(scope="module")
def model(tiny_run):
    return open_models([str(tiny_run)], torch.device("cpu"))[0]


def test_means_are_those_of_a_loop(model) -> None:
    recorded = attention.record(model, PROMPTS, STEPS, bands=2, patches=[3], batch_size=2)
    shown: dict[int, list[dict[str, np.ndarray]]] = {0: [], 1: []}

    def keep(one, _):
        for _, found in one.attention():
            maps = {"text": found.text, "image": found.image}
            shown[int(one.level >= 0.5)].append({name: part[0].numpy() for name, part in maps.items()})

    model.pipeline(PROMPTS[1:2], STEPS, first_index=1, denoiser=ObservedModel(model.model, keep))
    assert recorded.evaluations.tolist() == [len(shown[0]), len(shown[1])] and min(recorded.evaluations) > 0
    tokens = read_tokens(model.pipeline.text_encoder, PROMPTS[1])
    for band, steps in shown.items():
        for head in range(2):
            for token in range(8):
                for patch in range(4):
                    value = np.mean([step["text"][head, 1 + patch, token] for step in steps])
                    assert recorded.text[1, band, 0, head, token, patch] == pytest.approx(value, abs=1e-6)
            for patch in range(4):
                got = np.mean([step["image"][head, 1:, 1 + patch].mean() for step in steps])
                assert recorded.image[1, band, 0, head, patch] == pytest.approx(got, abs=1e-6)
                chosen = np.mean([step["image"][head, 1 + 3, 1 + patch] for step in steps])
                assert recorded.of_patches[1, band, 0, head, 0, patch] == pytest.approx(chosen, abs=1e-6)
            for number, category in enumerate(CATEGORIES):
                if category == "time":
                    share = np.mean([step["image"][head, 1:, 0].mean() for step in steps])
                elif category == "image":
                    share = np.mean([step["image"][head, 1:, 1:].sum(-1).mean() for step in steps])
                else:
                    of = [place for place, one in enumerate(tokens.categories) if one == category]
                    share = np.mean([step["text"][head, 1:, of].sum(0).mean() for step in steps])
                assert recorded.shares[1, band, 0, head, number] == pytest.approx(share, abs=1e-6)
    whole = recorded.overall(recorded.text)[1, 0, 0, 2]
    steps = shown[0] + shown[1]
    assert whole == pytest.approx(np.mean([step["text"][0, 1:, 2] for step in steps], 0), abs=1e-6)


def test_gates_and_layer_shares_are_those_of_the_weights(model) -> None:
    assert attention.learned(model) == []  # neither gates nor a mix
    for conditioning in ("concat", "cross", "cross-separate", "mmdit"):
        config = replace(TINY, conditioning=conditioning, text_gates=True, text_layers=3, text_mix="shared")
        backbone = make(config)
        encoder = SimpleNamespace(layers=(0, 3, 6))
        one = SimpleNamespace(name="gated", model=backbone, pipeline=SimpleNamespace(text_encoder=encoder))
        found = attention.learned(one)
        gates = {name: p for name, p in backbone.named_parameters() if name.endswith("text_gate")}
        values = [m.value for m in found if m.quantity == "text gate"]
        assert values == pytest.approx([float(gate.mean()) for gate in _in_order(gates, backbone)])
        shares = {m.of: m.value for m in found if m.quantity == "layer share"}
        assert list(shares) == ["layer 0", "layer 3", "layer 6"] and sum(shares.values()) == pytest.approx(1)
        assert shares["layer 3"] == pytest.approx(float(backbone.text_mix.logits.softmax(-1)[0, 1]))


def _in_order(gates, backbone):
    for name, _ in backbone.fused_blocks():
        (gate,) = [gate for full, gate in gates.items() if full.startswith(f"{name}.")]
        yield gate


@pytest.mark.parametrize(
    ("action", "change", "says"),
    [
        ("attention", {"conditioning": "adaln"}, "conditioning='adaln' pools the caption"),
        ("rank", {"conditioning": "adaln"}, "conditioning='adaln' pools the caption"),
    ],
)
def test_what_an_action_cannot_see_is_refused(action, change, says) -> None:
    one = _model("other", **change)
    with pytest.raises(InputError, match=says):
        check_supported([one], action)
    check_supported([one], "information")
    check_supported([_model("plain")], action)


def _model(name: str, **change: str) -> SimpleNamespace:
    config = replace(TINY, **change)
    attends = AnalyzedModel.attends_to_text.fget(SimpleNamespace(model=SimpleNamespace(config=config)))  # type: ignore[attr-defined]
    return SimpleNamespace(name=name, model=SimpleNamespace(config=config), attends_to_text=attends)


def test_words_are_the_sum_of_their_tokens(model) -> None:
    tokens = read_tokens(model.pipeline.text_encoder, "two sheep")
    split = tokens._replace(words=(tokens.words[0]._replace(tokens=(1, 2)), tokens.words[1]._replace(tokens=(3,))))
    text = np.random.default_rng(0).random((2, 8, 4))
    maps = attention.word_maps(text, split)
    np.testing.assert_allclose(maps[:, 0], text[:, 1] + text[:, 2])
    np.testing.assert_allclose(maps[:, 1], text[:, 3])


def test_focus_and_border() -> None:
    flat, point = np.full((4, 4), 0.3), np.zeros((4, 4))
    point[2, 1] = 0.5
    half = np.where(np.arange(16).reshape(4, 4) < 8, 0.1, 0)
    np.testing.assert_allclose(attention.focus(np.stack([flat, point, half])), [0, 1, 0.25], atol=1e-12)
    assert attention.border_ratio(flat.reshape(-1)) == pytest.approx(1)
    assert attention.border_ratio(point.reshape(-1)) == 0
    corner = np.zeros((4, 4))
    corner[0, 0] = 1
    assert attention.border_ratio(corner.reshape(-1)) == pytest.approx(16 / 12)


def test_the_border_is_cropped() -> None:
    maps = np.arange(16.0)
    assert attention.crop(maps, 1).tolist() == [[5, 6], [9, 10]]
    with pytest.raises(InputError, match="--crop-border 2: leaves nothing of 4 x 4 patches; give at most 1"):
        attention.crop(maps, 2)


def test_bands_and_middle_blocks() -> None:
    assert [Bands(5).index(level) for level in (0.001, 0.1999, 0.2, 0.999, 1.0)] == [0, 0, 1, 4, 4]
    assert middle_blocks(12) == ("in_blocks.4", "in_blocks.5", "mid_block", "out_blocks.0", "out_blocks.1")
    assert middle_blocks(6) == ("in_blocks.2", "mid_block", "out_blocks.0")
    assert middle_blocks(2) == ("mid_block",)


def test_verdicts() -> None:
    """Told from the interval, whichever way it goes; a handful of values decides nothing."""

    def verdict(values) -> str:
        return finding("c", values, model="m", text="{difference} {verdict}")[0].verdict

    rng = np.random.default_rng(0)
    noise = rng.normal(size=40)
    assert verdict(noise + 2) == "held" and verdict(noise - 2) == "not held"
    assert verdict(noise - noise.mean()) == "undecided"
    assert verdict([2.0, 2.1, 2.2]) == "undecided" and verdict([1.0]) == "undecided"
    assert finding("c", [np.nan], model="m", text="") == []


def test_blocks_that_are_not_there_or_not_fused(model) -> None:
    with pytest.raises(InputError, match="--blocks in_blocks.7: .* has no such block"):
        attention.record(model, PROMPTS, STEPS, blocks=["in_blocks.7"])
    with pytest.raises(InputError, match="--blocks in_blocks.0: sees no text .* its fused blocks are mid_block"):
        attention.record(model, PROMPTS, STEPS, blocks=["in_blocks.0"])
