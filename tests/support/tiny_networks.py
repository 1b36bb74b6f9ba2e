"""What the tests of distances share: a few small images, and a free port for processes to meet at."""

import socket
from collections.abc import Sequence
from pathlib import Path

import numpy as np
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
