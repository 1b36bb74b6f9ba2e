"""Named intermediates of the backbone, by hooks, so that the forward pass itself need not know of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from ifuvit.model.blocks import Block, JointBlock
from ifuvit.model.uvit import IFUViT


@contextmanager
def record_intermediates(model: IFUViT) -> Iterator[dict[str, Tensor]]:
    """Record what happens inside the in-, middle and out-blocks:

        with record_intermediates(model) as named:
            model(latents, timesteps, text_embeddings)

    Args:
        model: the module itself, and not what torch.compile made of it, which calls no hooks.

    Yields:
        tensors by names such as "in_blocks.3.queries", of the latest pass; they carry gradients. For every block NAME:
        NAME.input (B, tokens, D), behind its skip, and NAME.output (B, tokens, D); NAME.queries and NAME.keys (B, h, tokens,
        d); where image tokens alone ask for text, NAME.text_keys (B, h, L, d), and NAME.text_queries (B, h, N, d) if they ask
        by weights of their own. In a fused block of concatenation or "mmdit" the L text tokens stand first; in the last of
        "mmdit" text has keys alone, and stands first in its input only. `IFUViT.guided` gives the fused blocks both branches, the prompts' first.
    """
    named: dict[str, Tensor] = {}
    handles = [
        handle
        for name, block in model.named_modules()
        if isinstance(block, (Block, JointBlock)) and not name.startswith("text_blocks")
        for handle in _watch(name, block, named)
    ]
    try:
        yield named
    finally:
        for handle in handles:
            handle.remove()


def _watch(name: str, block: Block | JointBlock, named: dict[str, Tensor]) -> list[RemovableHandle]:
    words: list[Tensor] = []

    def on_text_norm(_: Any, arguments: tuple[Tensor]) -> None:
        words.append(arguments[0])

    def on_norm(_: Any, arguments: tuple[Tensor]) -> None:  # called for the text's keys too, but before the block runs
        named[f"{name}.input"] = torch.cat([words.pop(), arguments[0]], 1) if words else arguments[0]

    def on_heads(_: Any, arguments: Any, out: tuple[Tensor, Tensor, Tensor]) -> None:
        named[f"{name}.queries"], named[f"{name}.keys"], _ = out

    def on_attention(_: Any, arguments: Any) -> None:
        if arguments[1] is not None:
            named[f"{name}.text_keys"] = arguments[1][0]

    def on_cross(_: Any, arguments: Any) -> None:
        named[f"{name}.text_keys"] = arguments[1][0]

    def on_text_queries(_: Any, arguments: Any, out: Tensor) -> None:
        named[f"{name}.text_queries"] = out

    def on_joint(_: Any, arguments: Any) -> None:
        (queries, keys, _), (text_queries, text_keys, _), _ = arguments
        if text_queries is None:
            named[f"{name}.text_keys"] = text_keys
        else:
            named[f"{name}.queries"] = torch.cat([text_queries, queries], 2)
            named[f"{name}.keys"] = torch.cat([text_keys, keys], 2)

    def on_output(_: Any, arguments: Any, out: Tensor) -> None:
        named[f"{name}.output"] = out

    handles = [
        block.register_forward_hook(on_output),
        block.norm1.register_forward_pre_hook(on_norm),
        block.attn.heads.register_forward_hook(on_heads),
    ]
    if isinstance(block, JointBlock):
        handles.append(block.text_stream.norm1.register_forward_pre_hook(on_text_norm))
        handles.append(block.joint.register_forward_pre_hook(on_joint))
    elif block.cross is not None:
        handles.append(block.cross.register_forward_pre_hook(on_cross))
        handles.append(block.cross.q_norm.register_forward_hook(on_text_queries))
    else:
        handles.append(block.attn.register_forward_pre_hook(on_attention))
    return handles
