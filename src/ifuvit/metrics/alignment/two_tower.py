"""The TwoTower score: text-image alignment for OpenMoji Scenes, where no CLIP model is at hand.

Two small transformers, trained by `ifuvit make-standin two-tower` on training scenes alone, stand on two frozen networks:
EfficientNet-Lite0 (ImageNet) gives a map of an image, MiniLM gives the token embeddings of a caption. They know drawn objects of
42 kinds and how many there are, and nothing else; the shipped model does not tell which of two objects is on the left
or above (docs/alignment.md). It is not CLIP, and its score is not a CLIP score.

Shapes: B images or captions, P cells of an image's map, F features of a cell, L tokens of a caption, D the width of
their states, E the width of the common space.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import avg_pool2d, normalize, pixel_unshuffle

from ifuvit.encoders.text_encoder import TextEncoder
from ifuvit.metrics.alignment.base import AlignmentModel
from ifuvit.metrics.distances.feature_networks import load_feature_network
from ifuvit.shipped import DIRECTORY
from ifuvit.utils.config import from_dict, to_dict
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import read_json
from ifuvit.utils.weights import load_weights, save_model

SHIPPED = DIRECTORY / "two-tower-openmoji"

_LAST_BLOCKS = (4, 10)
"""Of EfficientNet-Lite0's stages with strides 8 (40 features) and 16 (112 features)."""


@dataclass(frozen=True, kw_only=True)
class TwoTowerConfig:
    """The two transformers."""

    cells: int = 16
    """P, cells of an image's map."""
    cell_features: int = 608
    """F, features of a cell."""
    tokens: int = 16
    """L, tokens of a caption."""
    token_width: int = 384
    """D, width of a token's state."""
    width: int = 128
    """Of both transformers."""
    image_depth: int = 2
    """Blocks of the image's transformer."""
    caption_depth: int = 2
    """Blocks of the caption's transformer."""
    heads: int = 4
    """Attention heads of a block."""
    embedding: int = 128
    """E, width of the common space."""

    def __post_init__(self) -> None:
        for name, value in to_dict(self).items():
            if value < 1:
                raise InputError(f"{name} is {value}; it must be at least 1")
        if self.width % self.heads:
            raise InputError(f"width {self.width} is not a multiple of heads {self.heads}")


class _Tower(nn.Module):
    """Vectors of a sequence, behind a learned one, through a transformer; what becomes of the learned one is pooled."""

    def __init__(self, length: int, inputs: int, depth: int, config: TwoTowerConfig) -> None:
        super().__init__()
        width = config.width
        self.enter = nn.Sequential(nn.LayerNorm(inputs), nn.Linear(inputs, width))
        self.pool = nn.Parameter(0.02 * torch.randn(width))
        self.positions = nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, config.heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(depth)
        )
        self.leave = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, config.embedding))

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """(B, length, inputs), and where it counts (B, length) bool -> (B, E) float32 of length 1."""
        x = self.enter(x) + self.positions
        x = torch.cat([self.pool.expand(len(x), 1, -1), x], dim=1)
        hidden = None
        if mask is not None:
            hidden = torch.cat([torch.zeros_like(mask[:, :1]), ~mask], dim=1)
        for block in self.blocks:
            x = block(x, src_key_padding_mask=hidden)
        return normalize(self.leave(x[:, 0]).float(), dim=-1)


class TwoTower(nn.Module):
    """Images and captions in one space."""

    def __init__(self, config: TwoTowerConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or TwoTowerConfig()
        self.image_tower = _Tower(config.cells, config.cell_features, config.image_depth, config)
        self.caption_tower = _Tower(config.tokens, config.token_width, config.caption_depth, config)
        # Temperature 0.07 at first, as CLIP's.
        self.log_scale = nn.Parameter(torch.tensor(1 / 0.07).log())

    def images(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, P, F) -> (B, E) of length 1."""
        return self.image_tower(maps)

    def captions(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, L, D) and (B, L) bool, true at tokens -> (B, E) of length 1."""
        return self.caption_tower(states, mask)

    def forward(
        self, maps: torch.Tensor, states: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Both embeddings."""
        return self.images(maps), self.captions(states, mask)


class ImageMaps:
    """The frozen EfficientNet-Lite0, up to two stages that still know where things are.

    Images are seen at 128 x 128 pixels, twice the size they are drawn at, for the network was trained on larger things.
    There 16 x 16 of these pixels have 112 features of the stage with that stride, and the means of 40 features of the stage
    before, whose stride is half of it. A cell is 2 x 2 of these, side by side: few cells make the transformer cheap.
    """

    size = 128
    """Side of the square that images are resized to, pixels."""
    cells = 16
    """P"""
    features = 608
    """F"""

    def __init__(self, *, device: str | torch.device = "cpu") -> None:
        network = load_feature_network("effnet-lite0", device=device)
        self.fingerprint = network.fingerprint
        """SHA-256 of the weights"""
        self._prepare = network.preparation
        self._network: Any = network.module.network

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        """The central square of an RGB image, resized (bilinear), as (3, 128, 128) uint8."""
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        # Cropped first: with a box to resize from, Pillow's filter reaches beyond it.
        square = image.crop((left, top, left + side, top + side))
        pixels = np.array(square.resize((self.size, self.size), Image.Resampling.BILINEAR))
        return torch.from_numpy(pixels).permute(2, 0, 1)

    @torch.no_grad()
    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, 128, 128) uint8 -> (B, P, F) float32."""
        # Eight at a time stay in a processor's cache.
        return torch.cat([self._maps(few) for few in pixels.split(8 if pixels.device.type == "cpu" else 256)])

    def _maps(self, pixels: torch.Tensor) -> torch.Tensor:
        network = self._network
        x = self._prepare(pixels).contiguous(memory_format=torch.channels_last)
        x = network._swish(network._bn0(network._conv_stem(x)))  # type: ignore[operator, union-attr]
        stages = []
        for number, block in enumerate(network._blocks[: _LAST_BLOCKS[-1] + 1]):  # type: ignore[index, arg-type]
            x = block(x)
            if number in _LAST_BLOCKS:
                stages.append(x)
        fine, coarse = stages
        maps = pixel_unshuffle(torch.cat([coarse, avg_pool2d(fine, 2)], dim=1), 2)
        return maps.flatten(2).transpose(1, 2)


class TwoTowerAlignment(AlignmentModel):
    """The TwoTower score: both frozen networks and the two transformers on top of them."""

    name = "TwoTower"
    score_name = "TwoTower score"

    def __init__(self, tower: TwoTower, maps: ImageMaps, text_encoder: TextEncoder, *, prefix: str = "") -> None:
        self.tower = tower.eval()
        self.maps = maps
        self.text_encoder = text_encoder
        self.prefix = prefix

    @classmethod
    def from_pretrained(
        cls, reference: str | Path = "openmoji", *, prefix: str = "", device: str | torch.device = "cpu"
    ) -> "TwoTowerAlignment":
        """Load a model.

        Args:
            reference: "openmoji", which ships with the package, or a directory that `ifuvit make-standin two-tower` wrote.
            prefix: put before every caption; the model knows captions without one.
            device: where to compute.

        Raises:
            InputError: nothing there, a damaged or unfitting file, a missing package, or frozen networks other than
                those that it was trained on.
        """
        directory = SHIPPED if str(reference) == "openmoji" else Path(reference)
        if not (directory / "config.json").is_file():
            raise InputError(
                f"{directory}: holds no two-tower model (no config.json); `ifuvit make-standin two-tower` makes one"
            )
        values = read_json(directory / "config.json")
        where = str(directory / "config.json")
        if not isinstance(values, dict) or set(values) != {"towers", "frozen"}:
            raise InputError(f"{where}: not a two-tower model's configuration")
        tower = TwoTower(from_dict(TwoTowerConfig, values["towers"], where=where))
        load_weights(tower, directory / "model.safetensors")
        maps = ImageMaps(device=device)
        text_encoder = TextEncoder.from_pretrained("minilm", max_tokens=tower.config.tokens, device=device)
        model = cls(tower.to(device), maps, text_encoder, prefix=prefix)
        for name, fingerprint in model.frozen().items():
            if values["frozen"].get(name) != fingerprint:
                raise InputError(
                    f"{where}: trained on another {name} (SHA-256 {str(values['frozen'].get(name))[:12]}…) than the "
                    f"installed one ({fingerprint[:12]}…); install that version, or train again"
                )
        return model

    def save_pretrained(self, directory: str | Path) -> None:
        """Write config.json, model.safetensors (half precision) and their checksums."""
        config = {"towers": to_dict(self.tower.config), "frozen": self.frozen()}
        save_model(directory, self.tower, config, dtype=torch.float16)

    def frozen(self) -> dict[str, str]:
        """Fingerprints of the frozen networks."""
        return {"efficientnet-lite0": self.maps.fingerprint, "minilm": self.text_encoder.fingerprint}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the values of all weights in half precision, the configuration and the frozen networks."""
        digest = hashlib.sha256(repr((to_dict(self.tower.config), self.frozen())).encode())
        for name, value in sorted(self.tower.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.cpu().half().numpy().tobytes())
        return digest.hexdigest()

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        return self.maps.preprocess(image)

    @torch.no_grad()
    def embed_images(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.tower.images(self.maps(pixels.to(self.text_encoder.device)))

    @torch.no_grad()
    def embed_captions(self, captions: Sequence[str]) -> tuple[torch.Tensor, int]:
        tokens = self.text_encoder.tokenize([self.prefix + caption for caption in captions])
        device = self.text_encoder.device
        return self.tower.captions(self.text_encoder.encode(tokens), tokens.mask.to(device)), tokens.truncated
