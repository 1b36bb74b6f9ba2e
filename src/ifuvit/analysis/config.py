"""Configurations of `ifuvit analyze`. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from tyro.conf import OmitArgPrefixes, Positional

from ifuvit.diffusion.settings import SamplingSettings
from ifuvit.shipped import DEFAULT_MODEL
from ifuvit.utils.config import Fraction, NonNegative, Positive, Range, check, idle
from ifuvit.utils.errors import InputError

CONTROLS = ("shuffled", "random-model", "random-attention")
_Level = Annotated[float, Range(above=0, below=1)]


@dataclass(frozen=True, kw_only=True)
class _Common:
    models: Positional[tuple[str, ...]] = (DEFAULT_MODEL,)
    """Shipped models' names, run directories of `ifuvit train`, or pipeline directories; several are set side by side."""
    out: Path
    """Directory to write: analysis.json, raw arrays, plots and index.html. A previous output of the action is replaced."""
    seed: NonNegative[int] = 0
    """Of initial latents and whatever else is random; prompt i depends on (seed, i)."""
    batch_size: Positive[int] = 8
    """Prompts or scenes at a time."""
    device: str = "auto"
    """auto (an accelerator where there is one), cpu, cuda, cuda:1, mps."""

    def __post_init__(self) -> None:
        check(self)
        if not self.models:
            raise InputError("no models; give at least one")

    def without_effect(self) -> dict[str, str]:
        """Options that have no effect with the others."""
        sampling, file = getattr(self, "sampling", None), getattr(self, "prompts_file", None)
        return ({} if sampling is None else sampling.without_effect()) | idle(
            (file is not None, ("num_prompts",), "with --prompts-file")
        )


@dataclass(frozen=True, kw_only=True)
class AnalyzeAttentionConfig(_Common):
    """Where the image looks: text-to-image attention of every fused block as a map for every word, averaged over the sampling
    steps, heads and, for the synopsis, prompts; and how much attention goes to content, number, relation and function words,
    padding, special tokens, image and time. The sums stay in memory, one set for each prompt: 0.4 to 2 MB for the shipped models, and
    at the paper's size with 13 fused blocks 41 MB, with concatenation 82 MB; the number of steps does not matter. In all, two
    prompts at the paper's size took 0.55 GB above the loaded model with early concatenation, 0.2 GB of it for sampling itself.

    Example:
        ifuvit analyze attention openmoji-4-concat-early openmoji-4-cross-intermediate --out attention
    """

    prompts: tuple[str, ...] = ("three sheep on grass",)
    """What to generate while attention is recorded, each prompt in quotes."""
    prompts_file: Path | None = None
    """Text file with further prompts, one per line."""
    words: tuple[str, ...] = ()
    """Only these words of the prompts in the figures. Default: all."""
    blocks: tuple[str, ...] = ()
    """Only these fused blocks, as mid_block or in_blocks.2. Default: all."""
    bands: Positive[int] = 5
    """Equal bands of noise levels that are also told apart."""
    crop_border: NonNegative[int] = 0
    """Leave out this many patches at every border of the maps; the paper leaves out one."""
    patches: tuple[str, ...] = ()
    """Patches, as ROW,COLUMN from 0, whose own image-to-image attention is kept. Default: the central one."""
    sampling: Annotated[SamplingSettings, OmitArgPrefixes] = SamplingSettings()


@dataclass(frozen=True, kw_only=True)
class AnalyzeRankConfig(_Common):
    """Rank of the text-image block of attention (image queries, text keys) by block and noise level: singular values, effective
    rank, stable rank, energy of the first value, with controls. Two models side by side test the paper's claim that early
    fusion has smaller singular values at its ends. At the paper's size two prompts at a time took 0.75 GB above the loaded
    model with early concatenation; the number of steps does not matter.

    Example:
        ifuvit analyze rank openmoji-4-concat-early openmoji-4-cross-intermediate --out rank
    """

    num_prompts: Positive[int] = 64
    """Captions of held-out OpenMoji scenes, if no file is given."""
    prompts_file: Path | None = None
    """Text file with prompts instead, one per line."""
    bands: Positive[int] = 3
    """Equal bands of noise levels that are also told apart."""
    crop_border: NonNegative[int] = 1
    """Leave out this many patches at every border, as the paper does with one."""
    controls: tuple[Literal["shuffled", "random-model", "random-attention"], ...] = CONTROLS
    """Controls to compute: attention to another prompt's caption, attention of an untrained model, and attention of random
    queries and keys of the same width whose products vary as much. Sink tokens are left out in any case, too."""
    sampling: Annotated[SamplingSettings, OmitArgPrefixes] = SamplingSettings()


@dataclass(frozen=True, kw_only=True)
class AnalyzeAblateConfig(_Common):
    """Where text matters, by effect: in one fused block at a time the image reads the null caption's text, or none, or only
    this block reads the caption. Measured: the change of the predicted noise, in units of what the caption changes at all;
    the alignment score; and whether counts and relations are right.

    Example:
        ifuvit analyze ablate openmoji-4-concat-early openmoji-4-cross-intermediate --num-prompts 16 --out ablate
    """

    num_prompts: Positive[int] = 32
    """Prompts, half of them counts and half relations, if no file is given."""
    prompts_file: Path | None = None
    """Text file with prompts instead, one per line."""
    replace_by: Literal["null", "nothing"] = "null"
    """What an ablated block reads instead of the caption: the null caption's text, or no text at all."""
    blocks: tuple[str, ...] = ()
    """Only these fused blocks, as mid_block or in_blocks.2. Default: all."""
    levels: tuple[Fraction, Fraction] = (0.0, 1.0)
    """Ablate at noise levels LOW to HIGH only; 1 is pure noise."""
    bands: Positive[int] = 5
    """Equal bands of noise levels by which the change of the predicted noise is told."""
    sinks: bool = True
    """Also hide the text token that gets most attention in all blocks, and, to compare, random tokens of equal share."""
    alignment: Literal["two-tower", "clip", "none"] = "two-tower"
    """Model of the alignment score."""
    counter: str | None = "openmoji"
    """Counter of objects (see `ifuvit evaluate`); "none" for prompts that are not of OpenMoji Scenes."""
    sampling: Annotated[SamplingSettings, OmitArgPrefixes] = SamplingSettings()

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.levels
        if low >= high:
            raise InputError(f"--levels {low:g} {high:g}: give LOW below HIGH, between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class AnalyzeProbeConfig(_Common):
    """What image tokens know, by block and noise level: linear probes for the kind of object, the count, the side of a relation
    and the ground, on noised held-out scenes, and the same probes with shuffled labels as a control.

    Example:
        ifuvit analyze probe openmoji-4-concat-early openmoji-4-cross-intermediate --out probe
    """

    num_scenes: Positive[int] = 1500
    """Scenes; a quarter of them tests the probes."""
    levels: tuple[_Level, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    """Noise levels, between 0 and 1."""
    text: Literal["null", "caption"] = "null"
    """What the model reads. With its caption the text itself tells the labels; null shows what is seen in the image."""


@dataclass(frozen=True, kw_only=True)
class AnalyzeInformationConfig(_Common):
    """What text tells the model, by noise level and skill: the loss with the null caption less the loss with the caption, and
    the loss with a wrong caption (another count, the opposite relation, another kind or ground) less that with the right one,
    on held-out scenes.

    Example:
        ifuvit analyze information openmoji-4-concat-early openmoji-4-cross-intermediate --out information
    """

    num_scenes: Positive[int] = 128
    """Scenes for each skill."""
    levels: tuple[_Level, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    """Noise levels, between 0 and 1."""


ACTIONS: Mapping[str, Any] = MappingProxyType(
    {
        "attention": AnalyzeAttentionConfig,
        "rank": AnalyzeRankConfig,
        "ablate": AnalyzeAblateConfig,
        "probe": AnalyzeProbeConfig,
        "information": AnalyzeInformationConfig,
    }
)
"""By the word that follows `ifuvit analyze`."""
