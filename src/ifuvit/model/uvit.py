"""IF-U-ViT: a U-shaped vision transformer in which text is fused in the middle (Hu, Jia, Rostami 2024, Fig. 2).

One backbone gives every setting of the paper: `n_text` transformer blocks on the text alone, `n_image` image-only
blocks at each end, fused blocks between them, by concatenation or by cross-attention. With `n_text = n_image = 0` and
concatenation it is U-ViT (Bao et al. 2023), parameter names included.

Shapes:
    B  batch                 C, H, W  latent channels, height, width       L  text tokens
    P  patches               N = 1 + P  image tokens: time first           D  embedding dimension
    h  heads                 d = D / h                                     F  fused blocks
"""

import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ifuvit.model.kernels import Linear, attend, linear
from ifuvit.model.settings import IFUViTConfig
from ifuvit.utils.config import from_dict, to_dict
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import read_json
from ifuvit.utils.weights import load_weights, save_model


class EncodedText(NamedTuple):
    """Text made ready for the fused blocks: everything about a caption that depends neither on the timestep nor on the
    image, so it is computed once a prompt. All tensors have the batch first."""

    tokens: Tensor | None
    """(B, L, D) for concatenation."""
    keys: Tensor | None
    """(B, F, h, L, d) for cross-attention."""
    values: Tensor | None
    """(B, F, h, L, d) for cross-attention."""
    mask: Tensor | None
    """(B, L) bool, True at real tokens; None where padding is not masked."""

    def by_block(self, blocks: int) -> list[tuple[Tensor, Tensor] | None]:
        """Text keys and values (B, h, L, d) of every fused block in order; None for each with concatenation."""
        if self.keys is None or self.values is None:
            return [None] * blocks
        return [(self.keys[:, index], self.values[:, index]) for index in range(blocks)]

    def expand(self, batch: int) -> "EncodedText":
        """Repeat a single caption `batch` times (without copying); a batch of that size is returned as it is."""
        return EncodedText(*[None if part is None else part.expand(batch, *part.shape[1:]) for part in self])

    def rows(self, indices: Tensor) -> "EncodedText":
        """Choose captions by index: (B',) int64 -> a batch of B'."""
        return EncodedText(*[None if part is None else part[indices] for part in self])

    def concatenated(self, other: "EncodedText") -> "EncodedText":
        """The captions of both, along the batch."""
        return EncodedText(
            *[None if a is None or b is None else torch.cat([a, b]) for a, b in zip(self, other, strict=True)]
        )


class Attention(nn.Module):
    """Multi-head self-attention that can take further keys and values from text."""

    def __init__(self, config: IFUViTConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.joint = config.cross_attention == "joint"
        self.qkv = Linear(config.embed_dim, 3 * config.embed_dim, bias=False)
        self.proj = Linear(config.embed_dim, config.embed_dim)

    def keys_values(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Normalized text (B, L, D) -> keys and values (B, h, L, d), by the weights that serve the image tokens."""
        _, weight = self.qkv.weight.split([text.shape[-1], 2 * text.shape[-1]])
        keys, values = split_heads(linear(text, weight), 2, self.num_heads)
        return keys, values

    def forward(self, x: Tensor, text: tuple[Tensor, Tensor] | None, mask: Tensor | None) -> Tensor:
        queries, keys, values = split_heads(self.qkv(x), 3, self.num_heads)  # (B, h, N, d) each
        if text is None:
            out = attend(queries, keys, values, mask)
        elif self.joint:  # one softmax over [image; text] keys
            both = None if mask is None else F.pad(mask, (x.shape[1], 0), value=True)
            out = attend(queries, torch.cat([keys, text[0]], 2), torch.cat([values, text[1]], 2), both)
        else:  # two softmaxes, outputs added
            out = attend(queries, keys, values, None) + attend(queries, *text, mask)
        return self.proj(out.transpose(1, 2).flatten(2))  # (B, N, D)


class Block(nn.Module):
    """A pre-norm transformer block; out-blocks begin with a linear layer on [x, skip] (the long skip)."""

    def __init__(self, config: IFUViTConfig, *, skip: bool = False) -> None:
        super().__init__()
        width = config.embed_dim
        self.skip_linear = Linear(2 * width, width) if skip else None
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(config)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential()
        self.mlp.add_module("fc1", Linear(width, int(width * config.mlp_ratio)))
        self.mlp.add_module("act", nn.GELU())
        self.mlp.add_module("fc2", Linear(int(width * config.mlp_ratio), width))

    def text_keys_values(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Text tokens (B, L, D) -> this block's text keys and values (B, h, L, d): K, V = W_kv norm1(text)."""
        return self.attn.keys_values(self.norm1(text))

    def forward(
        self,
        x: Tensor,
        skip: Tensor | None = None,
        text: tuple[Tensor, Tensor] | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        if skip is not None:
            x = self.join(x, skip)
        x = x + self.attn(self.norm1(x), text, mask)
        return x + self.mlp(self.norm2(x))

    def join(self, x: Tensor, skip: Tensor) -> Tensor:
        """The long skip. Text tokens stand first in a sequence that has them: where only x has text, it bypasses the
        linear layer; where only the skip has text, it is sliced off."""
        assert self.skip_linear is not None
        text = max(x.shape[1] - skip.shape[1], 0)
        concatenated = self.skip_linear(torch.cat([x[:, text:], skip[:, skip.shape[1] - x.shape[1] + text :]], -1))
        return torch.cat([x[:, :text], concatenated], 1) if text else concatenated


class PatchEmbed(nn.Module):
    """Latent (B, C, H, W) -> patch tokens (B, P, D)."""

    def __init__(self, config: IFUViTConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(config.latent_channels, config.embed_dim, config.patch_size, config.patch_size)

    def forward(self, latents: Tensor) -> Tensor:
        return self.proj(latents).flatten(2).transpose(1, 2)


class Standardize(nn.Module):
    """Features (B, L, text_width) centered and scaled, by the means and deviations of the training captions' tokens.
    Parameters that are not trained: they travel with the weights, the average and the checkpoints."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(width), requires_grad=False)
        self.std = nn.Parameter(torch.ones(width), requires_grad=False)

    def set(self, mean: np.ndarray, std: np.ndarray) -> None:
        """(text_width,) each."""
        self.mean.data.copy_(torch.from_numpy(mean))
        self.std.data.copy_(torch.from_numpy(std))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class IFUViT(nn.Module):
    """The backbone: noisy latents, timesteps and text embeddings in; the predicted noise, or what else the objective has
    the network predict, out."""

    def __init__(self, config: IFUViTConfig) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        half, width = config.depth // 2, config.embed_dim
        # Before any module draws, so that it does not depend on which there are.
        seed = int(torch.randint(2**62, (), device="cpu"))

        self.patch_embed = PatchEmbed(config)
        self.text_norm = Standardize(config.text_width) if config.text_norm == "standardize" else nn.Identity()
        self.context_embed = Linear(config.text_width, width)
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + config.text_tokens + config.num_patches, width))
        self.text_blocks = nn.ModuleList(Block(config) for _ in range(config.n_text))
        self.in_blocks = nn.ModuleList(Block(config) for _ in range(half))
        self.mid_block = Block(config)
        self.out_blocks = nn.ModuleList(Block(config, skip=True) for _ in range(half))
        self.norm = nn.LayerNorm(width)
        self.decoder_pred = Linear(width, config.patch_size**2 * config.latent_channels)
        self.final_layer = nn.Conv2d(config.latent_channels, config.latent_channels, 3, padding=1)
        self.layout_head = (
            Linear(width, config.patch_size**2 * (1 + config.layout_kinds)) if config.layout_kinds else None
        )
        self.init_weights(seed)

    def init_weights(self, seed: int) -> None:
        """U-ViT's initialization: truncated normal (0.02) linear layers and position embeddings, zero biases. One thing
        differs (but for `position_std`): the last convolution starts as the identity, shrunk to the gain of U-ViT's random kernel. From a random
        kernel it may learn to send one latent channel through a shifted tap, and that channel is lost at the border for
        good; with a gain of 1 the output layers learn too fast (docs/decisions.md).

        What is drawn for a parameter depends on `seed` and its name alone, so that settings of one seed have equal weights
        wherever both have them."""

        def generator(name: str) -> torch.Generator | None:
            device = self.pos_embed.device
            if device.type == "meta":
                return None
            return torch.Generator(device).manual_seed(seed ^ zlib.crc32(name.encode()))

        nn.init.trunc_normal_(self.pos_embed, std=self.config.position_std, generator=generator("pos_embed"))
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02, generator=generator(name))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.dirac_(self.final_layer.weight)
        self.final_layer.weight.data /= math.sqrt(3)
        assert self.final_layer.bias is not None
        bound = 1 / math.sqrt(self.final_layer.weight[0].numel())  # PyTorch's default for convolutions
        nn.init.uniform_(self.final_layer.bias, -bound, bound, generator=generator("final_layer"))

    # The figure of the paper, in three parts: the text's own path, the image's own path, and what both share.
    # fmt: off

    def encode_text(self, text_embeddings: Tensor, text_mask: Tensor | None = None) -> EncodedText:
        """The text's own path: projection, position, `n_text` blocks; for cross-attention also every fused block's keys
        and values. It depends on the caption alone, so a sampler calls it once a prompt.

        Args:
            text_embeddings: (B, L, text_width) last hidden states of the frozen text encoder.
            text_mask: (B, L) bool, True at real tokens; only read if the config masks padding.

        Raises:
            ValueError: a shape that does not fit the config.
        """
        c = self.config
        if text_embeddings.shape[1:] != (c.text_tokens, c.text_width):
            raise InputError(
                f"text embeddings of shape {tuple(text_embeddings.shape)} do not fit the model's "
                f"(batch, {c.text_tokens}, {c.text_width}); encode with the text encoder it was trained with"
            )
        mask = text_mask if c.mask_padding else None
        if c.mask_padding and text_mask is None:
            raise InputError("mask_padding=True requires a text_mask of shape (batch, text_tokens)")

        text = self.context_embed(self.text_norm(text_embeddings))                              # (B, L, D)
        text = text + self.pos_embed[:, 1 : 1 + c.text_tokens]
        for block in self.text_blocks:
            text = self._run(block, text, mask=_over_keys(mask))                                # (B, L, D)
        if c.conditioning == "concat":
            return EncodedText(text, None, None, mask)
        keys, values = zip(*[block.text_keys_values(text) for _, block in self.fused_blocks()])
        return EncodedText(None, torch.stack(keys, 1), torch.stack(values, 1), mask)            # (B, F, h, L, d)

    def encode_image(self, latents: Tensor, timesteps: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The image's own path: patches, time token, position, and the image-only in-blocks.

        Args:
            latents: (B, C, H, W) noisy latents.
            timesteps: (B,) n in 1 … 1000; may be fractional.

        Returns:
            image tokens (B, N, D), and the long skips collected so far.

        Raises:
            ValueError: a shape that does not fit the config.
        """
        c = self.config
        if latents.shape[1:] != (c.latent_channels, c.latent_size, c.latent_size):
            raise InputError(
                f"latents of shape {tuple(latents.shape)} do not fit the model's "
                f"(batch, {c.latent_channels}, {c.latent_size}, {c.latent_size})"
            )
        pos_time, _, pos_patches = self.pos_embed.split([1, c.text_tokens, c.num_patches], 1)
        time = timestep_embedding(timesteps, c.embed_dim).to(latents.dtype)[:, None]            # (B, 1, D)
        image = torch.cat([time + pos_time, self.patch_embed(latents) + pos_patches], 1)        # (B, N, D)
        skips = []
        for index in range(c.image_only[0]):
            image = self._run(self.in_blocks[index], image)                                     # (B, N, D)
            skips.append(image)
        return image, skips

    def fuse(self, image: Tensor, skips: list[Tensor], text: EncodedText) -> Tensor:
        """Both paths meet: the fused blocks, then the image-only out-blocks.

        Args:
            image, skips: from `encode_image`.
            text: from `encode_text`, of the same batch.

        Returns:
            the prediction (B, C, H, W).
        """
        c = self.config
        half, (front, back) = c.depth // 2, c.image_only
        skips, num_image = list(skips), image.shape[1]
        keys_values = iter(text.by_block(c.num_fused))

        if c.conditioning == "concat":
            assert text.tokens is not None
            x = torch.cat([text.tokens.to(image.dtype), image], 1)                              # (B, L + N, D)
            mask = None if text.mask is None else F.pad(text.mask, (0, num_image), value=True)
        else:
            x, mask = image, text.mask                                                          # (B, N, D)
        mask = _over_keys(mask)

        # fused in-blocks, the middle block, fused out-blocks
        for index in range(front, half):
            x = self._run(self.in_blocks[index], x, None, next(keys_values), mask)
            skips.append(x)
        x = self._run(self.mid_block, x, None, next(keys_values), mask)
        for index in range(half - back):
            x = self._run(self.out_blocks[index], x, skips.pop(), next(keys_values), mask)

        # image-only out-blocks: the text ends here
        image = x[:, -num_image:]                                                               # (B, N, D)
        for index in range(half - back, half):
            image = self._run(self.out_blocks[index], image, skips.pop())

        patches = self.decoder_pred(self.norm(image[:, 1:]))                                    # (B, P, patch² C)
        return self.final_layer(unpatchify(patches, c.patch_size, c.latent_channels))           # (B, C, H, W)

    # fmt: on

    def fused_blocks(self) -> Iterator[tuple[str, Block]]:
        """The F blocks that see text, in order, with their names."""
        half, (front, back) = self.config.depth // 2, self.config.image_only
        for index in range(front, half):
            yield f"in_blocks.{index}", self.in_blocks[index]  # type: ignore[misc]
        yield "mid_block", self.mid_block
        for index in range(half - back):
            yield f"out_blocks.{index}", self.out_blocks[index]  # type: ignore[misc]

    def forward(
        self, latents: Tensor, timesteps: Tensor, text_embeddings: Tensor, text_mask: Tensor | None = None
    ) -> Tensor:
        """Predict the noise in `latents`. (`ifuvit.model.intermediates` records what happens inside.)

        Args:
            latents: (B, C, H, W) noisy latents.
            timesteps: (B,) n in 1 … 1000 (diffusers' timestep + 1).
            text_embeddings: (B, L, text_width) last hidden states of the frozen text encoder.
            text_mask: (B, L) bool, True at real tokens; only read if the config masks padding.

        Returns:
            the prediction (B, C, H, W).

        Raises:
            ValueError: a shape that does not fit the config.
        """
        text = self.encode_text(text_embeddings, text_mask)
        image, skips = self.encode_image(latents, timesteps)
        return self.fuse(image, skips, text)

    def layout_logits(self, middle: Tensor) -> Tensor:
        """Which kind of object covers which latent cell, as a head on the middle block's output sees it: (B, N or L + N, D) ->
        (B, 1 + kinds, H, W), the first for none. A help in training that is not the paper's; sampling does not call it."""
        c = self.config
        assert self.layout_head is not None
        return unpatchify(self.layout_head(middle[:, -c.num_patches :]), c.patch_size, 1 + c.layout_kinds)

    def guided(
        self,
        latents: Tensor,
        timesteps: Tensor,
        text: EncodedText,
        null_text: EncodedText,
        guidance_scale: float | Tensor = 4.0,
    ) -> Tensor:
        """A forward pass with classifier-free guidance (`forward_with_cfg` elsewhere): null + w (conditional - null).
        What both branches share is computed once: the image-only in-blocks see no text, so they run on B latents, not
        on 2B.

        Args:
            latents, timesteps: as in `forward`.
            text: the prompts, batch B.
            null_text: the null caption or a negative prompt, batch 1 or B.
            guidance_scale: the standard w, a number or one per image (B,); 1 is no guidance, and then only one branch
                runs. The paper's s (its Eq. 8) is w - 1.

        Returns:
            the guided prediction (B, C, H, W).
        """
        image, skips = self.encode_image(latents, timesteps)
        if isinstance(guidance_scale, (int, float)) and guidance_scale == 1:
            return self.fuse(image, skips, text)
        both = text.concatenated(null_text.expand(len(latents)))
        conditional, null = self.fuse(torch.cat([image, image]), [torch.cat([s, s]) for s in skips], both).chunk(2)
        if isinstance(guidance_scale, Tensor):
            guidance_scale = guidance_scale.view(-1, 1, 1, 1)
        return null + guidance_scale * (conditional - null)

    def _run(
        self,
        block: nn.Module,
        x: Tensor,
        skip: Tensor | None = None,
        text: tuple[Tensor, Tensor] | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            out = checkpoint(block, x, skip, text, mask, use_reentrant=False)
            assert isinstance(out, Tensor)
            return out
        return block(x, skip, text, mask)

    def save_pretrained(self, directory: str | Path, *, dtype: torch.dtype | None = None) -> None:
        """Write `config.json`, `model.safetensors` and their checksums; `dtype` stores the weights in less precision."""
        save_model(directory, self, to_dict(self.config), dtype=dtype)

    @classmethod
    def from_pretrained(cls, directory_or_name: str | Path, *, device: str | torch.device = "cpu") -> "IFUViT":
        """Load a model (in fp32, in evaluation mode): a shipped name, a run or a pipeline directory, or a directory that
        `save_pretrained` wrote.

        Raises:
            ValueError: nothing there, a damaged file, or weights of another shape than the config says.
        """
        from ifuvit.shipped import find

        directory = Path(directory_or_name)
        if not (directory / "model.safetensors").is_file():
            directory = find(directory_or_name) / "transformer"
        config = from_dict(IFUViTConfig, read_json(directory / "config.json"), where=str(directory / "config.json"))
        model = cls(config)
        load_weights(model, directory / "model.safetensors")
        return model.to(device).eval()


def split_heads(x: Tensor, parts: int, num_heads: int) -> tuple[Tensor, ...]:
    """(B, N, parts * D) -> `parts` tensors (B, h, N, d)."""
    return x.unflatten(-1, (parts, num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


def _over_keys(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else mask[:, None, None, :]


def timestep_embedding(timesteps: Tensor, width: int) -> Tensor:
    """Sinusoids of the timestep: (B,) -> (B, width), cosines first, frequencies 1 … 1/10000 (as U-ViT)."""
    half = width // 2
    exponents = torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
    angles = timesteps[:, None].float() * torch.exp(-math.log(10000.0) * exponents)
    return torch.cat([angles.cos(), angles.sin()], -1)


def unpatchify(patches: Tensor, patch_size: int, channels: int) -> Tensor:
    """(B, P, patch * patch * C) -> (B, C, H, W)."""
    side = math.isqrt(patches.shape[1])
    x = patches.unflatten(1, (side, side)).unflatten(-1, (patch_size, patch_size, channels))  # B, y, x, py, px, C
    return x.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
