"""`ifuvit train`: what its options say about kinds and defaults."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ifuvit.diffusion.objective import Flow
from ifuvit.diffusion.settings import PAPER_EVALUATION_SETTINGS, SamplingSettings
from ifuvit.evaluation.protocols import protocols
from ifuvit.training.config import DataConfig, Muon, TrainConfig


@pytest.fixture
def parsed(ifuvit: Callable, monkeypatch: pytest.MonkeyPatch) -> Callable[..., TrainConfig]:
    """The configuration that `ifuvit train cross-early --data a --out b OPTIONS` trains with."""
    from ifuvit.training import loop

    given: list[TrainConfig] = []

    def train(config: TrainConfig) -> Path:
        given.append(config)
        return config.out

    monkeypatch.setattr(loop, "train", train)

    def run(*options: Any) -> TrainConfig:
        assert ifuvit("train", "cross-early", "--data", "a", "--out", "b", *options).status == 0
        return given.pop()

    return run


def test_kinds_and_their_options(parsed: Callable[..., TrainConfig]) -> None:
    config = parsed(
        "--objective", "flow", "--shift", 3, "--optimizer=muon", "--muon-momentum", 0.9, "--betas", 0.9, 0.95
    )
    assert config.recipe.objective == Flow(shift=3.0)
    assert config.recipe.optimizer == Muon(muon_momentum=0.9, betas=(0.9, 0.95))
    assert config.data == DataConfig(data=Path("a"))


def test_an_option_of_another_kind(refusal: Callable[..., str]) -> None:
    assert "--shift" in refusal("train", "cross-early", "--data", "a", "--out", "b", "--shift", 3)
    assert refusal("train", "cross-early", "--objective", "floe").startswith(
        "ifuvit: --objective floe: must be ddpm or"
    )


def test_evaluation_is_sampled_as_the_protocol_says(
    parsed: Callable[..., TrainConfig], refusal: Callable[..., str]
) -> None:
    assert parsed().evaluation.evaluate_sampling == protocols["quick"].sampling
    during = ("--evaluate-every", 10, "--evaluate-data", "scenes")
    told = parsed(*during, "--evaluate-steps", 9, "--evaluate-solver", "ddim", "--steps", 50)
    assert told.evaluation.evaluate_sampling == SamplingSettings(steps=9, solver="ddim", guidance_scale=2.0)
    assert told.steps == 50
    paper = parsed(*during, "--evaluate-protocol", "paper", "--evaluate-guidance-scale", 3)
    assert paper.evaluation.evaluate_sampling == PAPER_EVALUATION_SETTINGS.changed(guidance_scale=3.0)
    line = refusal("train", "cross-early", "--data", "a", "--out", "b", "--evaluate-steps", 0)
    assert line.startswith("ifuvit: --evaluate-steps 0: must be from 1 to 1000")
