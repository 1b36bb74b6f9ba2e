"""Named intermediates of the backbone, by hooks, so that the forward pass itself need not know of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.utils.hooks import RemovableHandle

from ifuvit.model.uvit import Block, IFUViT, split_heads


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
        d); where a fused block of cross-attention reads text, NAME.text_keys (B, h, L, d). In a fused block of concatenation
        the L text tokens stand first. `IFUViT.guided` gives the fused blocks both branches, the prompts' first.
    """
    named: dict[str, Tensor] = {}
    handles = [
        handle
        for name, block in model.named_modules()
        if isinstance(block, Block) and not name.startswith("text_blocks")
        for handle in _watch(name, block, named)
    ]
    try:
        yield named
    finally:
        for handle in handles:
            handle.remove()


def _watch(name: str, block: Block, named: dict[str, Tensor]) -> list[RemovableHandle]:
    def on_norm(_: Any, arguments: tuple[Tensor]) -> None:  # called for the text's keys too, but before the block runs
        named[f"{name}.input"] = arguments[0]

    def on_qkv(_: Any, arguments: Any, out: Tensor) -> None:
        named[f"{name}.queries"], named[f"{name}.keys"], _ = split_heads(out, 3, block.attn.num_heads)

    def on_attention(_: Any, arguments: Any) -> None:
        if arguments[1] is not None:
            named[f"{name}.text_keys"] = arguments[1][0]

    def on_output(_: Any, arguments: Any, out: Tensor) -> None:
        named[f"{name}.output"] = out

    return [
        block.register_forward_hook(on_output),
        block.norm1.register_forward_pre_hook(on_norm),
        block.attn.qkv.register_forward_hook(on_qkv),
        block.attn.register_forward_pre_hook(on_attention),
    ]
