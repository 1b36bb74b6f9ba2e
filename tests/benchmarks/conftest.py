"""Fixtures of several tests of benchmarks."""

from pathlib import Path

import pytest
import torch
from stand_in_uvit import write_checkout
from tiny_training import MODEL
from torch import Tensor

from ifuvit.benchmarks.reference import Reference, load_reference
from ifuvit.benchmarks.training import random_batch


@pytest.fixture
def reference(tmp_path: Path) -> Reference:
    """A stand-in for a checkout of U-ViT's code."""
    return load_reference(write_checkout(tmp_path / "checkout"))


@pytest.fixture
def batch() -> dict[str, Tensor]:
    """A batch of three for the tiny backbone."""
    return random_batch(MODEL, 3, seed=0, device=torch.device("cpu"))
