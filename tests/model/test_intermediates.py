"""What is recorded of a forward pass."""

from dataclasses import replace

import pytest
import torch
from backbones import SETTINGS, TINY, L, N, assert_same, every_setting, inputs, make, setting_name

from ifuvit.model.blocks import JointBlock
from ifuvit.model.intermediates import record_intermediates
from ifuvit.model.settings import IFUViTConfig


@every_setting
def test_every_block_is_recorded(config: IFUViTConfig) -> None:
    model = make(config)
    latents, timesteps, embeddings, _ = inputs(config)
    with torch.no_grad():
        plain = model(latents, timesteps, embeddings)
        with record_intermediates(model) as named:
            out = model(latents, timesteps, embeddings)
        text = model.encode_text(embeddings)
    assert torch.equal(plain, out)

    blocks = {f"in_blocks.{i}": model.in_blocks[i] for i in range(2)} | {"mid_block": model.mid_block}
    blocks |= {f"out_blocks.{i}": model.out_blocks[i] for i in range(2)}
    fused = [name for name, _ in model.fused_blocks()]
    expected = {f"{name}.{what}" for name in blocks for what in ("input", "output", "queries", "keys")}
    last = fused[-1] if config.conditioning == "mmdit" and config.double_blocks is None else None
    expected |= {f"{name}.text_keys" for name in fused if "cross" in config.conditioning or name == last}
    if config.conditioning == "cross-separate" and config.cross_attention == "added":
        expected |= {f"{name}.text_queries" for name in fused}
    assert set(named) == expected
    for name, block in blocks.items():
        tokens = N + L if config.conditioning in ("concat", "mmdit") and name in fused else N
        going_on = N if name == last else tokens
        assert named[f"{name}.input"].shape == (3, tokens, 32) and named[f"{name}.output"].shape == (3, going_on, 32)
        assert named[f"{name}.queries"].shape == named[f"{name}.keys"].shape == (3, 4, going_on, 8)
        if (
            block.modulation is not None
            or isinstance(block, JointBlock)
            or config.qk_norm
            or config.positions == "rotary"
        ):
            continue
        with torch.no_grad():
            qkv = block.attn.qkv(block.norm1(named[f"{name}.input"]))  # type: ignore[operator, union-attr]
        queries, keys, _ = qkv.split(32, -1)
        assert_same(named[f"{name}.queries"].transpose(1, 2).flatten(2), queries, 1e-5)
        assert_same(named[f"{name}.keys"].transpose(1, 2).flatten(2), keys, 1e-5)
    if "cross" in config.conditioning:
        assert text.keys is not None
        for index, name in enumerate(fused):
            assert torch.equal(named[f"{name}.text_keys"], text.keys[:, index])
    elif config.conditioning != "adaln":  # text stands first
        assert text.tokens is not None
        front = named[f"{fused[0]}.input"]
        assert torch.equal(front[:, :L], text.tokens)


@pytest.mark.parametrize("config", [c for c in SETTINGS if c.conditioning != "mmdit"], ids=setting_name)
def test_an_input_stands_behind_the_skip(config: IFUViTConfig) -> None:
    """What goes on from a block's input to its output is attention and MLP alone."""
    model = make(config)
    outputs = {}
    model.mid_block.register_forward_hook(lambda _, args, out: outputs.update(middle=out))
    model.out_blocks[0].register_forward_pre_hook(lambda _, args: outputs.update(skip=args[1]))
    with torch.no_grad(), record_intermediates(model) as named:
        model(*inputs(config)[:3])
        x = outputs["middle"]
        if x.shape[1] > named["out_blocks.0.input"].shape[1]:
            x = x[:, L:]
        concatenated = model.out_blocks[0].join(x, outputs["skip"])  # type: ignore[operator]
    assert torch.equal(named["out_blocks.0.input"], concatenated)
    assert torch.equal(named["mid_block.output"], outputs["middle"])


@pytest.mark.parametrize("conditioning", ["concat", "cross"])
def test_guided_records_both_branches(conditioning: str) -> None:
    model = make(replace(TINY, conditioning=conditioning, n_image=(1, 0)))  # type: ignore[arg-type]
    latents, timesteps, embeddings, _ = inputs(TINY)
    with torch.no_grad(), record_intermediates(model) as named:
        text = model.encode_text(embeddings)
        model.guided(latents, timesteps, text, text.rows(torch.tensor([0])))
    assert named["in_blocks.0.input"].shape[0] == 3 and named["mid_block.queries"].shape[0] == 6


def test_nothing_stays_behind() -> None:
    model = make(TINY)
    with torch.no_grad(), pytest.raises(KeyError), record_intermediates(model) as named:
        raise KeyError
    with torch.no_grad(), record_intermediates(model) as first:
        pass
    model(*inputs(TINY)[:3])
    assert not named and not first
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
