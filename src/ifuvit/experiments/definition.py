"""What an experiment is: settings to train, a scale to do it at, and what is expected to come out."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from ifuvit import results
from ifuvit.diffusion.settings import SamplingSettings

if TYPE_CHECKING:
    from ifuvit.evaluation.config import ProtocolName
    from ifuvit.model.settings import IFUViTConfig

Equal = Literal["width", "flops", "parameters"]
"""What settings of one experiment have in common: the backbone's width, or the FLOPs of a forward pass or the number of
parameters of the scale's preset, by other widths."""
Quantity = Literal["distance", "alignment", "count error", "counts", "relations"]
"""What claims compare. The metric of each says which direction is better."""

# The depth at which the paper counts its image-only blocks.
_PAPER_DEPTH = 12


@dataclass(frozen=True, kw_only=True)
class Setting(results.Setting):
    """One row of a table: how and where text enters, as the paper writes it at depth 12."""

    name: str
    """Also a directory's name."""
    double_blocks: int | None = None
    """As that field of the backbone, at the paper's depth."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the backbone."""

    def at(self, base: "IFUViTConfig") -> "IFUViTConfig":
        """The backbone of this setting in the size of `base`. Image-only blocks keep their share of the depth: 4 of 12
        are 2 of 6, and (3, 3) are (1, 2)."""
        n_image: int | tuple[int, int]
        if isinstance(self.n_image, int):
            n_image = self.n_image * base.depth // _PAPER_DEPTH
        else:
            front = self.n_image[0] * base.depth // _PAPER_DEPTH
            n_image = front, sum(self.n_image) * base.depth // _PAPER_DEPTH - front
        double = None if self.double_blocks is None else self.double_blocks * base.depth // _PAPER_DEPTH
        return replace(
            base,
            conditioning=self.conditioning,
            n_text=self.n_text,
            n_image=n_image,
            double_blocks=double,
            **self.options,
        )


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What the paper concludes, as an order of two settings by one number."""

    text: str
    better: str
    """Name of the setting that is expected ahead."""
    worse: str
    by: Quantity
    """Which number; `Scale.headline` has its name."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Settings trained and evaluated alike, with every seed."""

    name: str
    title: str
    settings: tuple[Setting, ...]
    equal: Equal = "width"
    """Unless the user says otherwise."""
    protocol: "ProtocolName | None" = None
    """Of evaluations on drawn scenes, instead of the scale's."""
    guidance_scales: tuple[float, ...] = ()
    """The standard w at which every run is evaluated; empty: the protocol's, once."""
    source: str
    """Where the paper's numbers stand."""
    expected: Mapping[str, Mapping[str, float]]
    """The paper's numbers by setting and metric."""
    claims: tuple[Claim, ...] = ()
    elbow: float | None = None
    """The standard w at which the paper sees the elbow of the curve over guidance scales."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Data, size and recipe of all runs of an experiment, and their costs."""

    name: str
    about: str
    preset: str
    """Gives size and recipe; the settings replace how text enters."""
    model: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the backbone that differ from the preset's."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the training that differ from the preset's recipe."""
    scenes: tuple[int, int] | None
    """Training and validation scenes to draw; None: MS-COCO, which the user gives."""
    autoencoder: str = "openmoji"
    text_encoder: str = "minilm"
    text: Literal["embeddings", "tokens"] = "embeddings"
    """Whether the encoded data set holds text embeddings or token ids."""
    protocol: Literal["quick", "paper", "clean"] = "quick"
    """Of the evaluation."""
    images: int | None = None
    """Images per evaluation, instead of the protocol's."""
    sampling: SamplingSettings | None = None
    """Instead of the protocol's."""
    count_prompts: tuple[str, ...] = ()
    """Sets of counting prompts instead of the protocol's, as for `ifuvit evaluate`."""
    headline: Mapping[Quantity, str]
    """The metrics' names of the quantities that claims compare."""
    training_gflops_per_second: float
    """Training speed, counting 3 forward passes a step with attention products, for predictions."""
    preparation_seconds: float
    """Of scenes, encoded data sets and reference features; an estimate."""
    evaluation_seconds: float
    """Of one evaluation of one run; an estimate."""
    machine: str
    """What the training speed was measured on."""
