"""U-ViT (Bao et al. 2023, text-to-image) restated in plain functions over its state dict, for comparison in tests.

It shares no code with the package. Names and the order [time, text, patches] are those of U-ViT's checkpoints.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


def random_state(
    *,
    latent_size: int = 8,
    channels: int = 4,
    patch: int = 2,
    dim: int = 32,
    depth: int = 4,
    mlp: int = 128,
    text_width: int = 24,
    text_tokens: int = 7,
    seed: int = 0,
) -> State:
    """A state dict with U-ViT's names and shapes, every tensor random (norms near 1), large enough for text to matter."""
    generator = torch.Generator().manual_seed(seed)
    state: State = {}

    def draw(name: str, *shape: int, scale: float = 0.15, mean: float = 0.0) -> None:
        state[name] = mean + scale * torch.randn(*shape, generator=generator)

    def linear(name: str, outputs: int, inputs: int, bias: bool = True) -> None:
        draw(f"{name}.weight", outputs, inputs)
        if bias:
            draw(f"{name}.bias", outputs)

    def norm(name: str) -> None:
        draw(f"{name}.weight", dim, mean=1.0)
        draw(f"{name}.bias", dim)

    draw("pos_embed", 1, 1 + text_tokens + (latent_size // patch) ** 2, dim)
    draw("patch_embed.proj.weight", dim, channels, patch, patch)
    draw("patch_embed.proj.bias", dim)
    linear("context_embed", dim, text_width)
    blocks = [f"in_blocks.{i}" for i in range(depth // 2)] + ["mid_block"]
    for block in [*blocks, *(f"out_blocks.{i}" for i in range(depth // 2))]:
        norm(f"{block}.norm1")
        linear(f"{block}.attn.qkv", 3 * dim, dim, bias=False)
        linear(f"{block}.attn.proj", dim, dim)
        norm(f"{block}.norm2")
        linear(f"{block}.mlp.fc1", mlp, dim)
        linear(f"{block}.mlp.fc2", dim, mlp)
        if block.startswith("out"):
            linear(f"{block}.skip_linear", dim, 2 * dim)
    norm("norm")
    linear("decoder_pred", patch * patch * channels, dim)
    draw("final_layer.weight", channels, channels, 3, 3)
    draw("final_layer.bias", channels)
    return state


def forward(state: State, latents: Tensor, timesteps: Tensor, context: Tensor, *, heads: int, patch: int) -> Tensor:
    """U-ViT's forward pass: (B, C, H, W), (B,) n, (B, L, text width) -> predicted noise (B, C, H, W)."""
    dim = state["pos_embed"].shape[-1]
    depth = 2 * len({name.split(".")[1] for name in state if name.startswith("in_blocks.")})

    patches = F.conv2d(latents, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=patch)
    batch, _, height, width = patches.shape
    patches = patches.reshape(batch, dim, height * width).transpose(1, 2)
    text = F.linear(context, state["context_embed.weight"], state["context_embed.bias"])
    time = _time(timesteps, dim).reshape(batch, 1, dim)
    x = torch.cat([time, text, patches], dim=1) + state["pos_embed"]

    skips = []
    for index in range(depth // 2):
        x = _block(state, f"in_blocks.{index}", x, heads)
        skips.append(x)
    x = _block(state, "mid_block", x, heads)
    for index in range(depth // 2):
        name = f"out_blocks.{index}"
        concatenated = torch.cat([x, skips.pop()], dim=-1)
        x = F.linear(concatenated, state[f"{name}.skip_linear.weight"], state[f"{name}.skip_linear.bias"])
        x = _block(state, name, x, heads)

    x = _norm(state, "norm", x)
    x = F.linear(x, state["decoder_pred.weight"], state["decoder_pred.bias"])[:, -height * width :]
    channels = latents.shape[1]
    image = latents.new_empty(latents.shape)
    for row in range(height):
        for column in range(width):
            cell = x[:, row * width + column].reshape(batch, patch, patch, channels).permute(0, 3, 1, 2)
            image[:, :, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch] = cell
    return F.conv2d(image, state["final_layer.weight"], state["final_layer.bias"], padding=1)


def _block(state: State, name: str, x: Tensor, heads: int) -> Tensor:
    batch, tokens, dim = x.shape
    qkv = F.linear(_norm(state, f"{name}.norm1", x), state[f"{name}.attn.qkv.weight"])
    queries, keys, values = qkv.reshape(batch, tokens, 3, heads, dim // heads).permute(2, 0, 3, 1, 4)
    weights = (queries @ keys.transpose(-1, -2) / math.sqrt(dim // heads)).softmax(-1)
    out = (weights @ values).transpose(1, 2).reshape(batch, tokens, dim)
    x = x + F.linear(out, state[f"{name}.attn.proj.weight"], state[f"{name}.attn.proj.bias"])
    hidden = _norm(state, f"{name}.norm2", x)
    hidden = F.gelu(F.linear(hidden, state[f"{name}.mlp.fc1.weight"], state[f"{name}.mlp.fc1.bias"]))
    return x + F.linear(hidden, state[f"{name}.mlp.fc2.weight"], state[f"{name}.mlp.fc2.bias"])


def _norm(state: State, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])


def _time(timesteps: Tensor, dim: int) -> Tensor:
    rates = [10000.0 ** (-index / (dim // 2)) for index in range(dim // 2)]
    angles = timesteps.float()[:, None] * torch.tensor(rates)
    return torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)
