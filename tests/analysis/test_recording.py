"""Recorded attention is what the fused kernel computes: against loops that can be read, and against the blocks' own output."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from backbones import OTHER_SETTINGS, PAPER_SETTINGS, TINY, L, N, inputs, make, setting_name
from torch import Tensor

from ifuvit.analysis.recording import ObservedModel, Pass, observe
from ifuvit.model import blocks
from ifuvit.model.blocks import split_heads
from ifuvit.model.kernels import attend
from ifuvit.model.settings import IFUViTConfig
from ifuvit.model.uvit import IFUViT
from ifuvit.pipeline import Pipeline

masked = [replace(config, mask_padding=True) for config in PAPER_SETTINGS]


def softmax(scores: list[float]) -> list[float]:
    exponentials = [math.exp(score - max(scores)) for score in scores]
    return [one / sum(exponentials) for one in exponentials]


def loop(queries: Tensor, keys: Tensor, seen: Tensor | None) -> np.ndarray:
    """The attention of one image and head: (Q, d), (K, d), (K,) bool -> (Q, K)."""
    rows = []
    for query in queries.double():
        scores = [float(query @ key) / math.sqrt(len(query)) for key in keys.double()]
        if seen is not None:
            scores = [score if ok else -math.inf for score, ok in zip(scores, seen.tolist(), strict=True)]
        rows.append(softmax(scores))
    return np.array(rows)


def attention_outputs(model: IFUViT, run: Callable[[], Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """What goes into every fused block's attention, and what comes out."""
    found: dict[str, tuple[Tensor, Tensor]] = {}
    handles = [
        block.attn.register_forward_hook(lambda _, args, out, name=name: found.update({name: (args[0], out)}))
        for name, block in model.fused_blocks()
    ]
    with torch.no_grad():
        run()
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("config", [*PAPER_SETTINGS, *masked], ids=setting_name)
def test_attention_is_the_blocks_own(config: IFUViTConfig) -> None:
    """Probabilities times values are what the kernel gives, and they are those of a plain loop."""
    model = make(config)
    latents, timesteps, embeddings, mask = inputs(config)
    with torch.no_grad():
        text = model.encode_text(embeddings, mask)
    seen = observe(model, latents, timesteps, text)
    outputs = attention_outputs(model, lambda: model(latents, timesteps, embeddings, mask))
    assert [name for name, _ in seen.attention()] == [name for name, _ in model.fused_blocks()]
    for index, (name, attention) in enumerate(seen.attention()):
        block = dict(model.fused_blocks())[name]
        x, out = outputs[name]
        with torch.no_grad():
            queries, keys, values = split_heads(block.attn.qkv(x), 3, config.num_heads)
        if config.conditioning == "concat":
            assert attention.text_to_text is not None and attention.text_to_image is not None
            text_values, values = values[:, :, :L], values[:, :, L:]
            asking = torch.cat([attention.text_to_text, attention.text_to_image], -1)
            of_text = asking @ torch.cat([text_values, values], 2)
            sums = attention.text.sum(-1) + attention.image.sum(-1)
            torch.testing.assert_close(asking.sum(-1), torch.ones_like(asking[..., 0]))
        else:
            assert text.values is not None and attention.text_to_text is None
            text_values, of_text = text.values[:, index], None
            sums = attention.text.sum(-1) + attention.image.sum(-1)
        expected = 2.0 if config.conditioning == "cross" and config.cross_attention == "added" else 1.0
        torch.testing.assert_close(sums, torch.full_like(sums, expected))
        read = attention.text @ text_values + attention.image @ values
        whole = read if of_text is None else torch.cat([of_text, read], 2)
        with torch.no_grad():
            projected = block.attn.proj(whole.transpose(1, 2).flatten(2))
        assert (projected - out).abs().max() < 1e-5 * max(1.0, float(out.abs().max()))

        # One image and head of each block by the loop.
        shown = mask[1] if config.mask_padding else None
        q, k = queries[1, 2], keys[1, 2]
        everything = torch.ones(N, dtype=torch.bool)
        if config.conditioning == "concat":
            plain = loop(q, k, None if shown is None else torch.cat([shown, everything]))
            text_part, image_part = plain[L:, :L], plain[L:, L:]
        else:
            assert text.keys is not None
            of_keys = text.keys[1, index, 2]
            if config.cross_attention == "joint":
                plain = loop(q, torch.cat([k, of_keys]), None if shown is None else torch.cat([everything, shown]))
                image_part, text_part = plain[:, :N], plain[:, N:]
            else:
                image_part, text_part = loop(q, k, None), loop(q, of_keys, shown)
        np.testing.assert_allclose(attention.text[1, 2].numpy(), text_part, atol=1e-6)
        np.testing.assert_allclose(attention.image[1, 2].numpy(), image_part, atol=1e-6)


@pytest.mark.parametrize("masking", [False, True], ids=["shown", "masked"])
@pytest.mark.parametrize("config", [c for c in OTHER_SETTINGS if c.conditioning != "adaln"], ids=setting_name)
def test_attention_is_what_the_kernel_of_other_conditionings_gives(
    config: IFUViTConfig, masking: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, mask_padding=masking)
    model = make(config)
    latents, timesteps, embeddings, mask = inputs(config)
    with torch.no_grad():
        text = model.encode_text(embeddings, mask)
    calls: list[tuple[Tensor, Tensor]] = []

    def spy(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        calls.append((values, attend(queries, keys, values, mask)))
        return calls[-1][1]

    monkeypatch.setattr(blocks, "attend", spy)
    seen = observe(model, latents, timesteps, text)
    calls = calls[config.image_only[0] :]  # text's own blocks ran before
    for _, attention in seen.attention():
        values, out = calls.pop(0)
        if config.two_softmaxes:
            of_text = calls.pop(0)
            torch.testing.assert_close(attention.image @ values, out, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(attention.text @ of_text[0], of_text[1], atol=1e-5, rtol=1e-5)
        else:
            text_first = config.conditioning != "cross-separate"
            parts = [attention.text, attention.image] if text_first else [attention.image, attention.text]
            torch.testing.assert_close(torch.cat(parts, -1) @ values, out[:, :, -N:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("conditioning", ["concat", "cross"])
def test_the_prompts_branch_is_recorded(conditioning: str) -> None:
    """With guidance the pass has two branches; the attention is that of the first, as in a pass without guidance."""
    model = make(replace(TINY, conditioning=conditioning))  # type: ignore[arg-type]
    latents, _, embeddings, _ = inputs(TINY)
    timesteps = torch.full((3,), 500.0)
    shown: list[Pass] = []
    with torch.no_grad():
        text = model.encode_text(embeddings)
        null = text.rows(torch.tensor([2]))
        observed = ObservedModel(model, lambda one, _: shown.append(one))
        got = observed.guided(latents, timesteps, text, null, guidance_scale=3.0)
        assert torch.equal(got, model.guided(latents, timesteps, text, null, guidance_scale=3.0))
    alone = dict(observe(model, latents, timesteps, text).attention())
    assert shown[0].level == 0.5
    for name, attention in shown[0].attention():
        assert len(attention.text) == 3
        torch.testing.assert_close(attention.text, alone[name].text, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_an_observed_image_is_the_same_bit_for_bit(tiny_run, rescale: float) -> None:
    pipeline = Pipeline.from_pretrained(tiny_run)
    prompts, settings = ["two sheep", "a bus on grass"], {"steps": 4, "guidance_rescale": rescale}
    plain = pipeline(prompts, **settings)
    times: list[float] = []
    observed = ObservedModel(pipeline.model, lambda one, _: times.append(one.level))
    images = pipeline(prompts, **settings, denoiser=observed)
    assert [image.tobytes() for image in images] == [image.tobytes() for image in plain]
    assert len(times) == 4 and times == sorted(times, reverse=True)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in pipeline.model.modules())
