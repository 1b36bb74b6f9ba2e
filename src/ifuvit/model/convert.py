"""Official U-ViT checkpoints (baofff/U-ViT, libs/uvit_t2i.py) as this package's model.

U-ViT is the setting "concat, early" (n_text = n_image = 0), and the parameters have the same names and shapes here.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ifuvit.model.settings import IFUViTConfig
from ifuvit.model.uvit import IFUViT
from ifuvit.utils.errors import InputError
from ifuvit.utils.weights import load_state, read_torch_file

CLIP_TOKENS = 77
# Where training scripts keep the weights in a larger checkpoint; averaged weights first.
_WRAPPERS = ("ema_state_dict", "nnet_ema", "model_ema", "ema", "state_dict", "nnet", "model")
# What wrapped modules put before the names: torch.compile, DDP and AveragedModel, U-ViT's train state, Lightning.
_PREFIXES = ("_orig_mod.", "module.", "nnet.", "model.")


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a file that torch.save wrote: itself a dictionary of tensors, or such a dictionary under a
    usual name (state_dict, model, ema, …), its names with or without the usual prefixes. Only tensors and plain
    containers are unpickled.

    Raises:
        InputError: no such file, a damaged one, one that needs unpickling, or one without a state dict.
    """
    content = read_torch_file(Path(path))
    while isinstance(content, dict) and (
        inner := next((content[name] for name in _WRAPPERS if isinstance(content.get(name), dict)), None)
    ):
        content = inner
    if isinstance(content, dict):
        content = {str(name): value for name, value in content.items() if name != "n_averaged"}  # AveragedModel's
    if not content or not isinstance(content, dict) or not all(isinstance(x, Tensor) for x in content.values()):
        raise InputError(f"{path}: holds no state dict (a dictionary of names and tensors)")
    while prefix := next((prefix for prefix in _PREFIXES if all(name.startswith(prefix) for name in content)), None):
        content = {name.removeprefix(prefix): tensor for name, tensor in content.items()}
    return content


def from_uvit(
    state: Mapping[str, Tensor], *, heads: int, text_tokens: int | None = None, where: str = "checkpoint"
) -> IFUViT:
    """Build the model from a text-to-image U-ViT's state dict. Everything but the number of heads is read off the
    shapes; see `split_positions` for the one that can be ambiguous.

    Args:
        state: names and tensors as U-ViT has them; the values become fp32.
        heads: attention heads, which the shapes do not show.
        text_tokens: L, where the guess of `split_positions` is wrong.
        where: names the checkpoint in errors.

    Raises:
        InputError: not a text-to-image U-ViT, one of a kind that is not supported, damaged weights, or a number of heads
            that does not divide the width.
    """
    _check_kind(state, where)
    width, channels, patch_size, _ = state["patch_embed.proj.weight"].shape
    if heads < 1 or width % heads:
        raise InputError(f"--heads {heads}: does not divide the checkpoint's width {width}; U-ViT-S has 8, U-ViT-M 12")
    tokens, patches = split_positions(state["pos_embed"].shape[1], text_tokens, where=where)
    hidden = state["mid_block.mlp.fc1.weight"].shape[0]
    config = IFUViTConfig(
        latent_size=math.isqrt(patches) * patch_size,
        latent_channels=channels,
        patch_size=patch_size,
        embed_dim=width,
        depth=2 * len({name.split(".")[1] for name in state if name.startswith("in_blocks.")}),
        num_heads=heads,
        mlp_ratio=hidden / width,
        text_width=state["context_embed.weight"].shape[1],
        text_tokens=tokens,
        conditioning="concat",
        n_text=0,
        n_image=0,
        mask_padding=False,
    )
    model = IFUViT(config)
    load_state(model, state, where=where)
    for name, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise InputError(f"{where}: {name} has values that are not finite; the checkpoint is damaged")
    return model.eval()


def split_positions(positions: int, text_tokens: int | None = None, *, where: str = "checkpoint") -> tuple[int, int]:
    """The length of `pos_embed`, 1 + L + P, into L text tokens and P patches (a square number).

    Shapes do not tell L and P apart. The guess is L = 77 (CLIP's) where that leaves a square, else the largest P that is
    a power of four, as for latents whose side is a power of two; `text_tokens` overrides both.

    Raises:
        InputError: `text_tokens` leaves no square, or nothing fits.
    """

    def is_square(number: int) -> bool:
        return number > 0 and math.isqrt(number) ** 2 == number

    if text_tokens is not None:
        if text_tokens < 1 or not is_square(positions - 1 - text_tokens):
            raise InputError(
                f"--text-tokens {text_tokens}: {where} has {positions} positions, which leaves "
                f"{positions - 1 - text_tokens} patches, not a square number"
            )
        return text_tokens, positions - 1 - text_tokens
    if is_square(positions - 1 - CLIP_TOKENS):
        return CLIP_TOKENS, positions - 1 - CLIP_TOKENS
    if positions < 3:
        raise InputError(f"{where}: pos_embed has {positions} positions, too few for time, text and patches")
    patches = 4 ** int(math.log(positions - 2, 4) + 1e-9)
    return positions - 1 - patches, patches


def _check_kind(state: Mapping[str, Tensor], where: str) -> None:
    """Refuse what is not a text-to-image U-ViT, and kinds of it that are not supported."""
    needed = {"patch_embed.proj.weight": 4, "pos_embed": 3, "mid_block.mlp.fc1.weight": 2}
    if missing := [name for name in needed if name not in state]:
        raise InputError(f"{where}: not a U-ViT: it has no tensor {missing[0]!r} (but {min(state)!r}, for example)")
    for name, dimensions in {**needed, "context_embed.weight": 2}.items():
        if name in state and state[name].ndim != dimensions:
            raise InputError(f"{where}: {name} has {state[name].ndim} dimensions, not {dimensions}: not a U-ViT")
    if "context_embed.weight" not in state:
        kind = "a class-conditional" if "label_emb.weight" in state else "an unconditional"
        raise InputError(
            f"{where}: {kind} U-ViT, without text (no context_embed.weight); only text-to-image ones can be used"
        )
    if any(name.startswith("time_embed.") for name in state):
        raise InputError(
            f"{where}: was trained with mlp_time_embed=True (it has time_embed weights); the time token has no MLP here, "
            "as in U-ViT's own text-to-image models, so it cannot be used"
        )
    if any(name.endswith("attn.qkv.bias") for name in state):
        raise InputError(
            f"{where}: was trained with qkv_bias=True; attention has no such bias here, so it cannot be used"
        )
    if not any(name.startswith("final_layer.") for name in state):
        raise InputError(f"{where}: was trained with conv=False (no final_layer); that kind cannot be used")
