"""IF-U-ViT: a U-shaped vision transformer in which text is fused in the middle (Hu, Jia, Rostami 2024, Fig. 2).

One backbone gives every setting of the paper: `n_text` transformer blocks on the text alone, `n_image` image-only
blocks at each end, fused blocks between them, by concatenation or by cross-attention. With `n_text = n_image = 0` and
concatenation it is U-ViT (Bao et al. 2023), parameter names included. Other ways by which text enters the fused blocks, and
the options of modern blocks, are in `ifuvit.model.blocks`; the three parts of the forward pass are the same.

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

from ifuvit.model.blocks import Block, JointBlock, make_norm
from ifuvit.model.kernels import Linear
from ifuvit.model.settings import IFUViTConfig
from ifuvit.utils.config import from_dict, to_dict
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import read_json
from ifuvit.utils.weights import load_weights, save_model


class EncodedText(NamedTuple):
    """Text made ready for the fused blocks: everything about a caption that depends neither on the timestep nor on the
    image, so it is computed once a prompt. All tensors have the batch first."""

    tokens: Tensor | None
    """(B, L, D) for concatenation and "mmdit"."""
    keys: Tensor | None
    """(B, F, h, L, d) for cross-attention, "cross" and "cross-separate"."""
    values: Tensor | None
    """(B, F, h, L, d), as the keys."""
    mask: Tensor | None
    """(B, L) bool, True at real tokens; None where padding is not masked."""
    pooled: Tensor | None = None
    """(B, D), the mean text token embedded, where it modulates the fused blocks."""

    def by_block(self, blocks: int) -> list[tuple[Tensor, Tensor] | None]:
        """Text keys and values (B, h, L, d) of every fused block in order; None for each where it reads none."""
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


class EncodedLatents(NamedTuple):
    """Noisy images on the way to the fused blocks: everything that does not depend on text. All tensors have the batch
    first."""

    tokens: Tensor
    """(B, N, D)."""
    skips: list[Tensor]
    """The long skips collected so far, (B, N, D) each."""
    time: Tensor | None
    """(B, D), the embedded timestep, where it modulates blocks."""
    values: Tensor | None
    """(B, h, N, d) of the first block, for the value residual."""

    def twice(self) -> "EncodedLatents":
        """The same images once more, along the batch."""
        tokens, skips, *rest = self
        again = [None if part is None else torch.cat([part, part]) for part in rest]
        return EncodedLatents(torch.cat([tokens, tokens]), [torch.cat([s, s]) for s in skips], *again)


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


class TextMix(nn.Module):
    """A softmax over the text encoder's layers for each of M readers: (B, L, layers * width) -> (B, M, L, width)."""

    def __init__(self, readers: int, layers: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(readers, layers))

    def forward(self, x: Tensor) -> Tensor:
        weights = self.logits.softmax(-1)[:, None, :, None]
        return (x.unflatten(-1, (weights.shape[2], -1))[:, None] * weights).sum(-2)


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
        readers = config.num_fused if config.text_mix == "block" else 1
        self.text_mix = TextMix(readers, config.text_layers) if config.text_mix != "none" else None
        layers = 1 if self.text_mix is None else config.text_layers
        self.context_embed = Linear(config.text_width // layers, width)
        patches = config.num_patches if config.positions == "learned" else 0
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + config.text_tokens + patches, width))
        self.time_embed = _mlp(width) if config.modulation != "none" or config.conditioning == "adaln" else None
        self.pool_embed = _mlp(width) if config.pools_text else None
        self.modulation = Linear(width, 6 * width) if config.modulation == "adaln-single" else None
        self.text_blocks = nn.ModuleList(Block(config, text=True) for _ in range(config.n_text))
        self.in_blocks = nn.ModuleList(make_block(config, index) for index in range(half))
        self.mid_block = make_block(config, half)
        self.out_blocks = nn.ModuleList(make_block(config, half + 1 + index) for index in range(half))
        self.norm = make_norm(config)
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
        good; with a gain of 1 the output layers learn too fast (docs/decisions.md). Modulation starts at zero.

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
                if name.endswith(("modulation", "modulation.linear")):
                    nn.init.zeros_(module.weight)
                else:
                    nn.init.trunc_normal_(module.weight, std=0.02, generator=generator(name))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.dirac_(self.final_layer.weight)
        self.final_layer.weight.data /= math.sqrt(3)
        assert self.final_layer.bias is not None
        bound = 1 / math.sqrt(self.final_layer.weight[0].numel())  # PyTorch's default for convolutions
        nn.init.uniform_(self.final_layer.bias, -bound, bound, generator=generator("final_layer"))

    @property
    def device(self) -> torch.device:
        """Of the weights; diffusers asks for it."""
        return self.pos_embed.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.pos_embed.dtype

    # The figure of the paper, in three parts: the text's own path, the image's own path, and what both share.
    # fmt: off

    def encode_text(self, text_embeddings: Tensor, text_mask: Tensor | None = None) -> EncodedText:
        """The text's own path: projection, position, `n_text` blocks; then what the conditioning reads of it: the tokens,
        every fused block's keys and values, or the pooled caption. It depends on the caption alone, so a sampler calls it
        once a prompt.

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

        text, rows, readers = self.text_norm(text_embeddings), mask, 1
        if self.text_mix is not None:                                                           # M readers, one after the other
            text = self.text_mix(text)
            readers = text.shape[1]
            text, rows = text.flatten(0, 1), None if mask is None else mask.repeat_interleave(readers, 0)
        text = self.context_embed(text)                                                         # (B M, L, D)
        text = text + self.pos_embed[:, 1 : 1 + c.text_tokens]
        for block in self.text_blocks:
            text = self._run(block, text, mask=_over_keys(rows))                                # (B M, L, D)

        texts = text.unflatten(0, (-1, readers)).unbind(1)                                      # M times (B, L, D)
        text = texts[0] if readers == 1 else torch.stack(texts).mean(0)                         # for those who read all
        pooled = None if self.pool_embed is None else self.pool_embed(_mean(text, mask))        # (B, D)
        if c.conditioning in ("concat", "mmdit"):
            return EncodedText(text, None, None, mask, pooled)
        if c.conditioning == "adaln":
            return EncodedText(None, None, None, None, pooled)
        blocks = [block for _, block in self.fused_blocks() if isinstance(block, Block)]
        texts = texts if c.text_mix == "block" else [text] * len(blocks)
        keys, values = zip(*[block.text_keys_values(own) for block, own in zip(blocks, texts, strict=True)])
        return EncodedText(None, torch.stack(keys, 1), torch.stack(values, 1), mask, pooled)    # (B, F, h, L, d)

    def encode_image(self, latents: Tensor, timesteps: Tensor) -> EncodedLatents:
        """The image's own path: patches, time token, position, and the image-only in-blocks.

        Args:
            latents: (B, C, H, W) noisy latents.
            timesteps: (B,) n in 1 … 1000; may be fractional.

        Raises:
            ValueError: a shape that does not fit the config.
        """
        c = self.config
        if latents.shape[1:] != (c.latent_channels, c.latent_size, c.latent_size):
            raise InputError(
                f"latents of shape {tuple(latents.shape)} do not fit the model's "
                f"(batch, {c.latent_channels}, {c.latent_size}, {c.latent_size})"
            )
        pos_time, pos_patches = self.pos_embed[:, :1], self.pos_embed[:, 1 + c.text_tokens :]
        time = timestep_embedding(timesteps, c.embed_dim).to(latents.dtype)                     # (B, D)
        patches = self.patch_embed(latents)                                                     # (B, P, D)
        if c.positions == "learned":
            patches = patches + pos_patches
        image = torch.cat([time[:, None] + pos_time, patches], 1)                               # (B, N, D)

        time = None if self.time_embed is None else self.time_embed(time)                       # (B, D)
        vector = self.modulating(time)
        first = self.in_blocks[0]
        assert isinstance(first, (Block, JointBlock))
        values = first.image_values(image, vector) if c.value_residual else None                # (B, h, N, d)
        skips = []
        for index in range(c.image_only[0]):
            image = self._run(self.in_blocks[index], image, vector=vector, first_values=values) # (B, N, D)
            skips.append(image)
        return EncodedLatents(image, skips, time, values)

    def fuse(self, image: EncodedLatents, text: EncodedText) -> Tensor:
        """Both paths meet: the fused blocks, then the image-only out-blocks.

        Args:
            image: from `encode_image`.
            text: from `encode_text`, of the same batch.

        Returns:
            the prediction (B, C, H, W).
        """
        c = self.config
        half, (front, back) = c.depth // 2, c.image_only
        tokens, skips, num_image = image.tokens, list(image.skips), image.tokens.shape[1]
        keys_values = iter(text.by_block(c.num_fused))
        alone, fused = self.modulating(image.time), self.modulating(image.time, text.pooled)
        values = image.values

        if c.conditioning in ("concat", "mmdit"):
            assert text.tokens is not None
            x = torch.cat([text.tokens.to(tokens.dtype), tokens], 1)                            # (B, L + N, D)
            mask = None if text.mask is None else F.pad(text.mask, (0, num_image), value=True)
        else:
            x, mask = tokens, text.mask                                                         # (B, N, D)
        mask = _over_keys(mask)

        # fused in-blocks, the middle block, fused out-blocks
        for index in range(front, half):
            x = self._run(self.in_blocks[index], x, None, next(keys_values), mask, fused, values)
            skips.append(x)
        x = self._run(self.mid_block, x, None, next(keys_values), mask, fused, values)
        for index in range(half - back):
            x = self._run(self.out_blocks[index], x, skips.pop(), next(keys_values), mask, fused, values)

        # image-only out-blocks: the text ends here
        x = x[:, -num_image:]                                                                   # (B, N, D)
        for index in range(half - back, half):
            x = self._run(self.out_blocks[index], x, skips.pop(), vector=alone, first_values=values)

        patches = self.decoder_pred(self.norm(x[:, 1:]))                                        # (B, P, patch² C)
        return self.final_layer(unpatchify(patches, c.patch_size, c.latent_channels))           # (B, C, H, W)

    # fmt: on

    def modulating(self, time: Tensor | None, pooled: Tensor | None = None) -> Tensor | None:
        """What modulates blocks, from the embedded timestep and the pooled caption (B, D): their sum, or for "adaln-single"
        (B, 6 D); nothing where no block is modulated."""
        if time is None:
            return None
        vector = time if pooled is None else time + pooled
        return vector if self.modulation is None else self.modulation(F.silu(vector))

    def fused_blocks(self) -> Iterator[tuple[str, Block | JointBlock]]:
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
        return self.fuse(self.encode_image(latents, timesteps), text)

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
        image = self.encode_image(latents, timesteps)
        if isinstance(guidance_scale, (int, float)) and guidance_scale == 1:
            return self.fuse(image, text)
        count = latents.shape[0]  # neither `len` nor `chunk`: an exported graph would have this batch alone
        both = self.fuse(image.twice(), text.concatenated(null_text.expand(count)))
        conditional, null = both[:count], both[count:]
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
        vector: Tensor | None = None,
        first_values: Tensor | None = None,
    ) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            out = checkpoint(block, x, skip, text, mask, vector, first_values, use_reentrant=False)
            assert isinstance(out, Tensor)
            return out
        return block(x, skip, text, mask, vector, first_values)

    def save_pretrained(self, directory: str | Path, *, dtype: torch.dtype | None = None) -> None:
        """Write `config.json`, `model.safetensors` and their checksums; `dtype` stores the weights in less precision."""
        save_model(directory, self, to_dict(self.config), dtype=dtype)

    @classmethod
    def from_pretrained(
        cls,
        directory_or_name: str | Path,
        *,
        device: str | torch.device = "cpu",
        torch_dtype: torch.dtype | None = None,
    ) -> "IFUViT":
        """Load a model (in fp32 unless `torch_dtype`, diffusers' word, says otherwise; in evaluation mode): a shipped name, a run
        or a pipeline directory, a name on the hub, or a directory that `save_pretrained` wrote.

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
        return model.to(device, torch_dtype).eval()


def make_block(config: IFUViTConfig, place: int) -> Block | JointBlock:
    """The block at a place 0 … depth of the image's way: in-blocks, the middle block, out-blocks."""
    half, (front, back) = config.depth // 2, config.image_only
    last = config.depth - back  # of the fused blocks
    fused, skip, first = front <= place <= last, place > half, place == 0
    doubles = config.num_fused if config.double_blocks is None else config.double_blocks
    if fused and config.conditioning == "mmdit" and place - front < doubles:
        # the skip of an out-block comes from the in-block that stands as far from the middle
        text_skip = skip and config.depth - place >= front
        return JointBlock(config, skip=skip, text_skip=text_skip, last=place == last, first=first)
    return Block(config, skip=skip, fused=fused, first=first)


def _mlp(width: int) -> nn.Sequential:
    return nn.Sequential(Linear(width, width), nn.SiLU(), Linear(width, width))


def _mean(text: Tensor, mask: Tensor | None) -> Tensor:
    """The mean of the tokens that are seen: (B, L, D), (B, L) -> (B, D)."""
    if mask is None:
        return text.mean(1)
    seen = mask[:, :, None].to(text.dtype)
    return (text * seen).sum(1) / seen.sum(1).clamp(min=1)


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
