"""What an evaluator is: it names the images that it requires, and turns them into numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from ifuvit.data.images import ImageSource
from ifuvit.evaluation import protocols
from ifuvit.evaluation.reference_images import ReferenceImages
from ifuvit.results import Costs, Counter, Metric, ObjectCounts, SecondCount
from ifuvit.utils.distributed import Processes

if TYPE_CHECKING:
    import torch

    from ifuvit.evaluation.targets import Target


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What every evaluator is made from."""

    protocol: protocols.Protocol
    reference: ReferenceImages | None = None
    """None where no evaluator requires reference images."""
    device: "torch.device"
    weights: Mapping[str, str] = field(default_factory=dict)
    """File, folder or hub id by name of a network, for those that are not embedded."""
    statistics: Path | None = None
    """A .npz file that takes the place of the reference images' features."""
    cache: Path | None = None
    """Directory that keeps the features of reference images."""
    counters: tuple[str, ...] = ("openmoji",)
    detector: str | None = None
    threshold: float | None = None
    thresholds: tuple[float, ...] = ()
    """See `ifuvit.evaluation.networks.open_counter` and `count_images`."""
    processes: Processes = Processes()


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """Images that a model has to generate, one for each prompt."""

    name: str
    """Sets of one name are generated once and shared. "captions" has the protocol's captions."""
    prompts: Sequence[str]
    guidance_scale: float


@dataclass(frozen=True, kw_only=True)
class Images:
    """A set of images that is there. The images of a directory are the set "captions", and the only one."""

    files: Sequence[ImageSource]
    prompts: Sequence[str]
    """Of each file; "" where an image of a directory has none."""
    per_second: float | None = None
    """How fast they were generated; None if none were, this time."""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What an evaluator contributes to a result."""

    metrics: tuple[Metric, ...] = ()
    objects: Mapping[str, ObjectCounts] = field(default_factory=dict)
    counter: Counter | None = None
    second_counts: tuple[SecondCount, ...] = ()
    costs: Costs | None = None

    def __add__(self, other: "Findings") -> "Findings":
        return Findings(
            metrics=self.metrics + other.metrics,
            objects={**self.objects, **other.objects},
            counter=self.counter or other.counter,
            second_counts=self.second_counts + other.second_counts,
            costs=self.costs or other.costs,
        )


class Evaluator(Protocol):
    """One kind of measurement. Its constructor takes a `Setup` and loads its networks, so that missing weights are
    found before any work; `prepare` looks at the reference images; then it can be called any number of times.

    All processes of a launch make it and call it together, each with a share of the images.
    """

    requires_reference: ClassVar[bool]
    """Whether it compares with reference images."""
    requires_captions: ClassVar[bool]
    """Whether it can only measure images whose prompts are known."""

    def __init__(self, setup: Setup) -> None: ...

    def facts(self) -> Mapping[str, Any]:
        """JSON values that decide its numbers, besides the images and the protocol: networks with their hashes."""
        ...

    def image_sets(self) -> Sequence[ImageSet]:
        """The images that a model has to generate for it."""
        ...

    def prepare(self) -> None:
        """Measure the reference images, once.

        Raises:
            InputError: fewer reference images than the protocol's.
        """
        ...

    def __call__(self, images: Mapping[str, Images], target: "Target") -> Findings:
        """Measure.

        Args:
            images: all sets of this evaluation, by name.
            target: where they are from.

        Raises:
            InputError: a file is not an image, or images that cannot be measured.
        """
        ...


def captions(setup: Setup) -> ImageSet:
    """The protocol's captions of reference images, for a model to generate."""
    assert setup.reference is not None
    protocol = setup.protocol
    chosen = setup.reference.choose(protocol.num_images, protocol.caption_seed)
    return ImageSet(
        name="captions", prompts=[caption for _, caption in chosen], guidance_scale=protocol.sampling.guidance_scale
    )
