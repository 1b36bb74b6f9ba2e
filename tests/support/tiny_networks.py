"""What the tests of distances share: small images, features, and a free port for processes."""

import math
import socket
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def write_images(
    directory: Path, count: int, *, sides: Sequence[tuple[int, int]] = ((32, 32),), seed: int = 0
) -> list[Path]:
    """Smooth random images 00.png, 01.png, ..., whose sizes go round `sides` (width, height)."""
    directory.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    files = []
    for number in range(count):
        small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
        file = directory / f"{number:02d}.png"
        small.resize(sides[number % len(sides)], Image.Resampling.BICUBIC).save(file)
        files.append(file)
    return files


def free_port() -> int:
    """One that no one listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def cloud(count, width=16, *, seed=0, shift=0.0, spread=1.0, mixing=0):
    """Correlated normal features; the same `mixing` gives the same distribution."""
    mix = np.random.default_rng(mixing + 1000).standard_normal((width, width)) / math.sqrt(width)
    return (np.random.default_rng(seed).standard_normal((count, width)) @ mix * spread + shift).astype(np.float32)


def check_widths(found):
    """Of estimates from as many sets of images: the spread of their values, and the width of their intervals."""
    spread = np.std([estimate.value for estimate in found])
    widths = np.mean([estimate.interval[1] - estimate.interval[0] for estimate in found])
    assert widths / (2 * 1.96) == pytest.approx(spread, rel=0.35)
