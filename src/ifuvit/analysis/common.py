"""What the actions of `ifuvit analyze` share: models, bands of noise levels, estimates over prompts, findings."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ifuvit import results
from ifuvit.evaluation.targets import open_target
from ifuvit.metrics.intervals import bootstrap_interval
from ifuvit.model.uvit import IFUViT
from ifuvit.pipeline import Pipeline
from ifuvit.results import Estimate, Finding, Measurement
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import atomic_path

LEAST_FOR_VERDICT = 10


@dataclass(frozen=True, kw_only=True)
class AnalyzedModel:
    """A model with its facts."""

    name: str
    target: results.Target
    pipeline: Pipeline

    @property
    def model(self) -> IFUViT:
        return self.pipeline.model

    @property
    def fused(self) -> tuple[str, ...]:
        """Names of the fused blocks in order."""
        return tuple(name for name, _ in self.model.fused_blocks())

    @property
    def attends_to_text(self) -> bool:
        """Whether image tokens attend to text tokens in the fused blocks; "adaln" has the pooled caption alone."""
        return self.model.config.conditioning != "adaln"

    def choose(self, blocks: Sequence[str]) -> tuple[str, ...]:
        """The named fused blocks, all of them if none is named.

        Raises:
            InputError: a block does not exist, or sees no text.
        """
        every = block_names(self.model)
        for name in blocks:
            if name not in every:
                raise InputError(f"--blocks {name}: {self.name} has no such block; its blocks are {', '.join(every)}")
            if name not in self.fused:
                raise InputError(
                    f"--blocks {name}: sees no text in {self.name}; its fused blocks are {', '.join(self.fused)}"
                )
        return tuple(name for name in self.fused if name in blocks) if blocks else self.fused


def check_supported(models: Sequence[AnalyzedModel], action: str) -> None:
    """Refuse models in which there is nothing for this action to see.

    Raises:
        InputError: the model, and which of its settings is in the way.
    """
    for model in models:
        if action in ("attention", "rank") and not model.attends_to_text:
            raise InputError(
                f"{model.name}: conditioning='adaln' pools the caption, so no image token attends to text; `analyze ablate`, "
                "`probe` and `information` take it"
            )


def block_names(model: IFUViT) -> tuple[str, ...]:
    """All blocks in the order in which an image goes through them."""
    half = model.config.depth // 2
    return (*(f"in_blocks.{i}" for i in range(half)), "mid_block", *(f"out_blocks.{i}" for i in range(half)))


def middle_blocks(depth: int) -> tuple[str, ...]:
    """The middle third of a backbone, an odd number of blocks: five of 13, three of 7, as the paper's intermediate fusion."""
    beside = round(((depth + 1) / 3 - 1) / 2)
    half = depth // 2
    return (
        *(f"in_blocks.{i}" for i in range(half - beside, half)),
        "mid_block",
        *(f"out_blocks.{i}" for i in range(beside)),
    )


def open_models(names: Sequence[str], device: "torch.device") -> list[AnalyzedModel]:
    """Load the models.

    Raises:
        InputError: one is not a model of this package, or two have the same name.
    """
    opened: list[AnalyzedModel] = []
    for name in names:
        target = open_target(name, device=device)
        if not isinstance(target.generator, Pipeline):
            raise InputError(f"{name}: not a text-to-image model of this package; its blocks cannot be analyzed")
        if any(one.name == target.name for one in opened):
            raise InputError(f"{name}: two models are called {target.name}; give each once, or rename a directory")
        opened.append(AnalyzedModel(name=target.name, target=target.describe(), pipeline=target.generator))
    return opened


@dataclass(frozen=True)
class Bands:
    """Equal bands of noise levels."""

    number: int

    def index(self, level: float) -> int:
        """The band of a noise level, 0 to 1; an upper edge belongs to the next one, but for 1."""
        return min(int(level * self.number), self.number - 1)

    @property
    def edges(self) -> tuple[tuple[float, float], ...]:
        return tuple((round(i / self.number, 6), round((i + 1) / self.number, 6)) for i in range(self.number))


def over(values: "Sequence[float] | np.ndarray", what: str = "prompts") -> Estimate | None:
    """Mean and 95 % bootstrap interval over prompts; None if there are no values, no interval of a single one."""
    finite = [float(value) for value in values if math.isfinite(value)]
    if not finite:
        return None
    mean = float(np.mean(finite))
    if len(finite) == 1:
        return Estimate(value=mean, n=1, interval_from=f"one of the {what}")
    interval = bootstrap_interval(finite, samples=2000)
    return Estimate(value=mean, interval=interval, interval_from=f"bootstrap over {what}", n=len(finite))


def measured(
    values: "Sequence[float] | np.ndarray",
    *,
    model: str,
    quantity: str,
    of: str = "",
    block: str | None = None,
    levels: tuple[float, float] | None = None,
    what: str = "prompts",
) -> list[Measurement]:
    """A measurement from one value for each prompt; nothing without values."""
    estimate = over(values, what)
    if estimate is None:
        return []
    return [Measurement(**vars(estimate), model=model, quantity=quantity, of=of, block=block, levels=levels)]


def finding(
    claim: str,
    differences: "Sequence[float] | np.ndarray",
    *,
    model: str,
    text: str,
    what: str = "prompts",
) -> list[Finding]:
    """Whether differences, one for each prompt, are above 0, as the claim has it.

    Args:
        text: a sentence in which {difference} and {verdict} are put.
    """
    estimate = over(differences, what)
    if estimate is None:
        return []
    verdict = verdict_of(estimate)
    shown = sentence(estimate)
    return [
        Finding(
            model=model,
            claim=claim,
            verdict=verdict,
            difference=estimate,
            text=text.format(difference=shown, verdict=verdict),
        )
    ]


def verdict_of(difference: Estimate) -> Literal["held", "not held", "undecided"]:
    """Held if the whole interval is above 0, not held if it is below, undecided if it contains 0 or comes from fewer than
    `LEAST_FOR_VERDICT` values, of which a bootstrap is too sure."""
    few = difference.n is None or difference.n < LEAST_FOR_VERDICT
    if few or difference.interval is None or difference.interval[0] <= 0 <= difference.interval[1]:
        return "undecided"
    return "held" if difference.interval[0] > 0 else "not held"


def sentence(estimate: Estimate, digits: int = 3) -> str:
    """ "0.12 [0.10, 0.14]"."""
    text = f"{estimate.value:.{digits}g}"
    if estimate.interval is None:
        return text
    low, high = estimate.interval
    return f"{text} [{low:.{digits}g}, {high:.{digits}g}]"


def write_arrays(
    file: Path, arrays: Mapping[str, tuple[np.ndarray, Sequence[str]]], **coordinates: Sequence[Any]
) -> None:
    """Write an .npz file in which every array NAME has its axes' names as NAME.axes, and axes have coordinates as axis.AXIS."""
    content: dict[str, np.ndarray] = {}
    for name, (array, axes) in arrays.items():
        assert array.ndim == len(axes), (name, array.shape, axes)
        content[name] = array
        content[f"{name}.axes"] = np.array(axes)
    for axis, values in coordinates.items():
        content[f"axis.{axis}"] = np.array(values)
    with atomic_path(file) as path, open(path, "wb") as opened:
        np.savez_compressed(opened, allow_pickle=False, **content)
