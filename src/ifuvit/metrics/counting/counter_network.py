"""The object counter's network: a small detector of centers for images of OpenMoji Scenes' kinds.

It is of the kind of CenterNet (Zhou et al. 2019, "Objects as Points"): a map of 4 x 4 pixel cells that says where a
center is, which kind it would be, and where in the cell it lies; local maxima are the objects.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ifuvit.data.images import ImageSource, center_crop_resize, load_image
from ifuvit.data.scenes import KINDS
from ifuvit.metrics.counting.scores import Detection
from ifuvit.utils.config import from_dict, to_dict
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import read_json
from ifuvit.utils.weights import load_weights, save_model

CELL = 4
"""Pixels a cell of the maps is wide and high."""
MIN_DISTANCE = 6.0
"""Of two centers closer than this (in pixels) only the surer one counts: the boxes of a 64 x 64 scene are disjoint and at
least 8 pixels wide, so that true centers are at least 9 apart."""


def read_squares(files: Sequence[ImageSource], size: int) -> np.ndarray:
    """(B, size, size, 3) uint8; images of another size are cropped to a square and resized.

    Raises:
        InputError: a file that is missing or no image.
    """
    images = np.empty((len(files), size, size, 3), np.uint8)
    for number, file in enumerate(files):
        image = load_image(file)
        images[number] = np.asarray(image if image.size == (size, size) else center_crop_resize(image, size))
    return images


class Maps(NamedTuple):
    """What the network gives, per cell (h = H / 4, w = W / 4)."""

    center: torch.Tensor
    """(B, h, w) logits of being a center."""
    offset: torch.Tensor
    """(B, 2, h, w) x and y of the nearest center from the middle of the cell, in cells."""
    kind: torch.Tensor
    """(B, kinds, h, w) logits of the kind."""


@dataclass(frozen=True, kw_only=True)
class ObjectCounterConfig:
    """The network of an object counter."""

    kinds: tuple[str, ...] = tuple(kind.name for kind in KINDS)
    """Names of the kinds, in the order of the logits."""
    image_size: int = 64
    """Side of the square images it is made for, pixels; larger and smaller ones have to be resized to it."""
    width: int = 64
    """Channels of the maps; twice as many at half their resolution."""
    threshold: float = 0.5
    """Score from which on a local maximum counts as an object."""

    def __post_init__(self) -> None:
        if not self.kinds or len(set(self.kinds)) != len(self.kinds):
            raise InputError(f"kinds {self.kinds}: give at least one, each once")
        if self.image_size < 8 * CELL or self.image_size % (2 * CELL):
            raise InputError(f"image_size {self.image_size}: must be a multiple of {2 * CELL}, at least {8 * CELL}")
        if self.width < 8:
            raise InputError(f"width {self.width}: must be at least 8")
        if not 0 < self.threshold < 1:
            raise InputError(f"threshold {self.threshold}: must be between 0 and 1")


def _norm_conv(inputs: int, outputs: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs))


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _norm_conv(width, width)
        self.second = _norm_conv(width, width)
        # Starts as the identity.
        nn.init.zeros_(self.second[1].weight)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(x + self.second(functional.relu(self.first(x))))


class ObjectCounter(nn.Module):
    """Finds the objects of known kinds in small images."""

    def __init__(self, config: ObjectCounterConfig | None = None) -> None:
        super().__init__()
        self.config = config or ObjectCounterConfig()
        width = self.config.width
        self.stem = nn.Sequential(
            # 2 x 2 pixels become 12 channels: convolutions of 3 channels are slow on CPUs.
            nn.PixelUnshuffle(2),
            _norm_conv(12, width // 2),
            nn.ReLU(),
            _norm_conv(width // 2, width, stride=2),
            nn.ReLU(),
        )
        self.fine = nn.Sequential(_Residual(width), _Residual(width))
        self.coarse = nn.Sequential(
            _norm_conv(width, 2 * width, stride=2), nn.ReLU(), _Residual(2 * width), _Residual(2 * width)
        )
        self.lateral = nn.Conv2d(2 * width, width, 1)
        self.merged = _Residual(width)
        self.head = nn.Sequential(
            nn.Conv2d(width, 2 * width, 1), nn.ReLU(), nn.Conv2d(2 * width, 3 + len(self.config.kinds), 1)
        )
        with torch.no_grad():
            # One cell in a hundred is a center: begin with that, or the background drowns everything at first.
            self.head[-1].bias[0] = -4.6  # type: ignore[index]

    def forward(self, images: torch.Tensor) -> Maps:
        """Images (B, 3, H, W) in [-1, 1], H and W multiples of 8, to maps of cells of 4 x 4 pixels."""
        fine = self.fine(self.stem(images))
        coarse = self.lateral(self.coarse(fine))
        merged = self.merged(fine + functional.interpolate(coarse, scale_factor=2.0, mode="nearest"))
        out = self.head(merged).float()
        return Maps(out[:, 0], out[:, 1:3], out[:, 3:])

    @torch.no_grad()
    def detect(self, images: torch.Tensor, *, threshold: float | None = None) -> list[list[Detection]]:
        """Find the objects.

        Args:
            images: (B, 3, S, S) in [-1, 1], S = `config.image_size`.
            threshold: least score; `config.threshold` by default.

        Returns:
            For every image its objects, the surest first. Where a center is does not depend on the kind, so one
            object is never counted as two kinds.

        Raises:
            InputError: images of another shape.
        """
        size = self.config.image_size
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, size, size):
            raise InputError(f"images of shape {tuple(images.shape)}: expected (B, 3, {size}, {size})")
        training = self.training
        self.eval()
        maps = self(images.to(self.head[-1].weight.device, torch.float32))  # type: ignore[union-attr, arg-type]
        self.train(training)
        score = maps.center.sigmoid()
        highest = functional.max_pool2d(score[:, None], 3, 1, 1)[:, 0]
        peaks = (score == highest) & (score >= (self.config.threshold if threshold is None else threshold))
        found: list[list[Detection]] = [[] for _ in range(len(images))]
        where = peaks.nonzero()
        kinds = maps.kind.argmax(1)[peaks].tolist()
        offsets = maps.offset.permute(0, 2, 3, 1)[peaks].tolist()
        for (image, row, column), value, kind, (dx, dy) in zip(where.tolist(), score[peaks].tolist(), kinds, offsets):
            x, y = CELL * (column + 0.5 + dx), CELL * (row + 0.5 + dy)
            found[image].append(Detection(self.config.kinds[kind], x, y, value))
        return [_without_neighbors(objects) for objects in found]

    def save_pretrained(self, directory: str | Path, *, dtype: torch.dtype = torch.float32) -> None:
        """Write config.json, model.safetensors with the weights in `dtype`, and their checksums."""
        save_model(directory, self, to_dict(self.config), dtype=dtype)

    @classmethod
    def from_pretrained(cls, directory: str | Path, *, device: str | torch.device = "cpu") -> "ObjectCounter":
        """Load a counter that `save_pretrained` or a training of it wrote, in evaluation mode.

        Raises:
            InputError: nothing there, or a damaged or unfitting file.
        """
        directory = Path(directory)
        if not (directory / "config.json").is_file():
            raise InputError(
                f"{directory}: holds no object counter (no config.json); `ifuvit make-standin counter` makes one"
            )
        values = read_json(directory / "config.json")
        if not isinstance(values, dict):
            raise InputError(f"{directory / 'config.json'}: not an object counter's configuration")
        counter = cls(from_dict(ObjectCounterConfig, values, where=str(directory / "config.json")))
        load_weights(counter, directory / "model.safetensors")
        return counter.to(device).eval()


def _without_neighbors(objects: list[Detection]) -> list[Detection]:
    kept: list[Detection] = []
    for one in sorted(objects, key=lambda one: -one.score):
        if all((one.x - other.x) ** 2 + (one.y - other.y) ** 2 >= MIN_DISTANCE**2 for other in kept):
            kept.append(one)
    return kept
