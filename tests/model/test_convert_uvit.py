"""Official U-ViT checkpoints: the same output as a restatement of U-ViT, and clear refusals."""

import pytest
import reference_uvit
import torch

from ifuvit.model.convert import from_uvit, read_checkpoint, split_positions
from ifuvit.utils.errors import InputError

SHAPES = [
    ({}, 4, 2),
    ({"patch": 1, "latent_size": 4, "channels": 3, "mlp": 80, "depth": 2}, 2, 1),
    ({"latent_size": 16, "text_tokens": 77}, 8, 2),
]


@pytest.mark.parametrize(("shape", "heads", "patch"), SHAPES)
def test_output_is_uvits(shape, heads, patch):
    state = reference_uvit.random_state(**shape)
    model = from_uvit(state, heads=heads)
    c = model.config
    assert (c.conditioning, c.n_text, c.n_image, c.num_heads, c.mask_padding) == ("concat", 0, 0, heads, False)
    assert c.text_tokens == shape.get("text_tokens", 7) and c.depth == shape.get("depth", 4)
    assert c.latent_size == shape.get("latent_size", 8)
    latents = torch.randn(3, c.latent_channels, c.latent_size, c.latent_size)
    timesteps, states = torch.tensor([1.0, 500.0, 1000.0]), torch.randn(3, c.text_tokens, 24)
    with torch.no_grad():
        ours = model(latents, timesteps, states)
    theirs = reference_uvit.forward(state, latents, timesteps, states, heads=heads, patch=patch)
    assert (ours - theirs).abs().max() < 1e-5 * max(1.0, float(theirs.abs().max()))


@pytest.mark.parametrize(
    ("positions", "expected"),
    [(1 + 77 + 256, (77, 256)), (1 + 77 + 16, (77, 16)), (1 + 16 + 64, (16, 64)), (1 + 8 + 16, (8, 16)), (3, (1, 1))],
)
def test_positions(positions, expected):
    assert split_positions(positions) == expected


def test_text_tokens_can_be_told():
    assert split_positions(18) == (1, 16) and split_positions(18, 8) == (8, 9)
    for tokens in (0, 5, 17, 30):
        with pytest.raises(InputError, match=f"--text-tokens {tokens}"):
            split_positions(18, tokens)
    with pytest.raises(InputError, match="too few"):
        split_positions(2)


def prefixed(prefix, state):
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


WRAPPED = {
    "plain": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "step": 3},
    "averaged weights first": lambda state: {
        "ema": state,
        "model": prefixed("", {**state, "norm.bias": torch.zeros(3)}),
    },
    "ema_state_dict": lambda state: {"ema_state_dict": state, "state_dict": {"norm.bias": torch.zeros(3)}},
    "twice": lambda state: {"state_dict": {"nnet": state}},
    "distributed": lambda state: prefixed("module.", state),
    "compiled": lambda state: prefixed("_orig_mod.", state),
    "both": lambda state: prefixed("module._orig_mod.", state),
    "both the other way": lambda state: prefixed("_orig_mod.module.", state),
    "nnet": lambda state: {"state_dict": prefixed("nnet.", state)},
    "Lightning": lambda state: {"state_dict": prefixed("model._orig_mod.", state), "epoch": 1},
    "AveragedModel": lambda state: {"ema_state_dict": {"n_averaged": torch.tensor(5), **prefixed("module.", state)}},
}


@pytest.mark.parametrize("wrap", WRAPPED)
def test_wrapped_checkpoints(tmp_path, wrap):
    state = reference_uvit.random_state()
    torch.save(WRAPPED[wrap](state), tmp_path / "u.pth")
    read = read_checkpoint(tmp_path / "u.pth")
    assert read.keys() == state.keys() and all(torch.equal(read[name], state[name]) for name in state)


def drop(state, name):
    return {key: tensor for key, tensor in state.items() if not key.startswith(name)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {**s, "time_embed.0.weight": torch.zeros(2, 2)}, "mlp_time_embed=True"),
        (lambda s: {**s, "mid_block.attn.qkv.bias": torch.zeros(96)}, "qkv_bias=True"),
        (lambda s: drop(s, "final_layer"), "conv=False"),
        (lambda s: {**drop(s, "context_embed"), "label_emb.weight": torch.zeros(2, 2)}, "class-conditional"),
        (lambda s: drop(s, "context_embed"), "unconditional"),
        (lambda s: {"conv1.weight": torch.zeros(2, 2)}, "not a U-ViT: it has no tensor 'patch_embed.proj.weight'"),
        (lambda s: drop(s, "out_blocks.1.skip_linear"), "'out_blocks.1.skip_linear.bias' is missing"),
        (lambda s: {**s, "extra": torch.zeros(1)}, "'extra' is not in the model"),
        (lambda s: {**s, "norm.weight": torch.zeros(31)}, r"norm.weight has shape \(31,\), the model has \(32,\)"),
        (lambda s: {**s, "norm.weight": torch.full((32,), torch.nan)}, "not finite"),
        (lambda s: {**s, "pos_embed": torch.zeros(32)}, "pos_embed has 1 dimensions"),
    ],
)
def test_what_cannot_be_used(change, message):
    with pytest.raises(InputError, match=message):
        from_uvit(change(reference_uvit.random_state()), heads=4)


@pytest.mark.parametrize("heads", [0, -1, 5, 64])
def test_wrong_heads(heads):
    with pytest.raises(InputError, match=f"--heads {heads}: does not divide the checkpoint's width 32"):
        from_uvit(reference_uvit.random_state(), heads=heads)
