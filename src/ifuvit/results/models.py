"""Models, data and their costs, as results tell them."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal

from ifuvit.results.base import Values
from ifuvit.utils.config import from_dict

Conditioning = Literal["concat", "cross", "cross-separate", "mmdit", "adaln"]
CONDITIONINGS: Mapping[Conditioning, str] = {
    "concat": "concatenation",
    "cross": "cross-attention",
    "cross-separate": "separate cross-attention",
    "mmdit": "MM-DiT",
    "adaln": "adaptive LayerNorm",
}
"""How text enters a fused block, and what a sentence calls it."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where and how text enters a backbone."""

    conditioning: Conditioning
    n_text: int
    n_image: int | tuple[int, int]

    @property
    def fusion(self) -> str:
        """As the paper calls it; its ablations (Figure 7) and other places have names of their own."""
        image_only = self.n_image not in (0, (0, 0))
        if image_only and isinstance(self.n_image, tuple) and 0 in self.n_image:
            return "first blocks only" if self.n_image[0] == 0 else "last blocks only"
        if self.n_text and image_only:
            return "intermediate"
        return "text block only" if self.n_text else "middle only" if image_only else "early"

    @property
    def words(self) -> str:
        """In a sentence: "cross-attention, intermediate fusion [1, 2]"."""
        fusion = f"{self.fusion} fusion" if self.fusion in ("early", "intermediate") else self.fusion
        return f"{CONDITIONINGS[self.conditioning]}, {fusion} {self._numbers}"

    def __str__(self) -> str:
        return f"{self.conditioning}, {self.fusion} {self._numbers}"

    @property
    def _numbers(self) -> str:
        n_image = self.n_image if isinstance(self.n_image, int) else "+".join(map(str, self.n_image))
        return f"[{self.n_text}, {n_image}]"


@dataclass(frozen=True, kw_only=True)
class TrainingFacts:
    """How the weights of a model were made."""

    steps: int
    batch_size: int
    seed: int | None = None
    seconds: float | None = None
    images: int | None = None
    """Of the encoded data set, without those held out."""
    captions: int | None = None
    """Of the encoded data set."""
    data: str | None = None
    """The encoded data set's fingerprint."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """What was evaluated."""

    name: str
    kind: Literal["ifuvit", "diffusers", "images"]
    sha256: str | None = None
    """Of the backbone's weights."""
    fingerprint: str | None = None
    """SHA-256 over all that decides what a model generates: weights, autoencoder, text encoder, latent scale."""
    solver: str | None = None
    """The solver that "auto" in the protocol's sampling settings stands for."""
    model: Values | None = None
    """The backbone's configuration, where it is of this package."""
    training: TrainingFacts | None = None

    def __post_init__(self) -> None:
        _ = self.setting  # refuses a configuration that has none

    @property
    def setting(self) -> Setting | None:
        """How text enters the backbone, where it is of this package."""
        if self.model is None:
            return None
        names = [one.name for one in fields(Setting)]
        return from_dict(Setting, {name: self.model[name] for name in names if name in self.model}, where="model")


@dataclass(frozen=True, kw_only=True)
class ReferenceData:
    """The reference images and captions of an evaluation."""

    where: str
    split: str | None = None
    images: int
    left_out: int = 0
    """Images that cannot be used."""
    sha256: str
    """Of the list of images and captions."""


@dataclass(frozen=True, kw_only=True)
class Gflops:
    """Of one forward pass for one image."""

    without_attention: float
    """Without the products of attention, as the paper counts."""
    with_attention: float


@dataclass(frozen=True, kw_only=True)
class GuidedStepGflops:
    """Of one guided sampling step for one image."""

    plain: float
    """Two forward passes."""
    shared: float
    """What both branches share is computed once."""


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What a model costs: counted from its configuration, and measured where it was evaluated."""

    parameters: int | None = None
    gflops: Gflops | None = None
    guided_step_gflops: GuidedStepGflops | None = None
    early_fusion_step_gflops: GuidedStepGflops | None = None
    """Of early fusion by concatenation (U-ViT) in the same size."""
    training_steps_per_second: float | None = None
    images_per_second: float | None = None
    peak_memory_gib: float | None = None
    """Of the whole process."""
