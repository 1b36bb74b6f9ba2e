"""The configuration of an evaluation."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro import MISSING
from tyro.conf import AvoidSubcommands, OmitArgPrefixes, Positional, arg

from ifuvit.data.prompts import PromptSet
from ifuvit.diffusion.settings import SamplingSettings
from ifuvit.evaluation.protocols import Protocol, protocols
from ifuvit.metrics.counting.prompts import PROMPT_SETS
from ifuvit.utils.command_line import read_weights
from ifuvit.utils.errors import InputError

ProtocolName = Literal["quick", "paper", "clean"]
Metric = Literal["distances", "alignment", "counts", "costs"]


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Judge a model or images: Fréchet and kernel distances from real images, text-image alignment, object counts
    and costs, each with how sure it is.

    A model draws the protocol's captions first; the images are kept beside the result, and those that are there
    already are not drawn again. docs/evaluation.md tells what every protocol fixes."""

    target: Positional[Annotated[str, arg(metavar="TARGET")]]
    """A shipped model, a run, a pipeline directory, a directory of images with captions, or a diffusers pipeline (its
    directory or its name on the hub)."""
    data: Path
    """The real images and their captions: a directory of `ifuvit scenes`, MS-COCO unpacked, or a captioned folder."""
    out: Path
    """The result, a JSON file."""
    protocol: ProtocolName = "quick"
    """quick: 1,000 images and the embedded networks. paper: FID-30K and CLIP score as U-ViT has them. clean: as paper,
    with clean-fid's resize."""
    metrics: tuple[Metric, ...] = ("distances", "alignment", "counts", "costs")
    """What to measure."""
    num_images: Annotated[int | None, arg(metavar="INT")] = None
    """Images, instead of the protocol's number. The name of the result's protocol then says that it was changed, as it does for
    sampling settings, seed and counting prompts."""
    sampling: Annotated[SamplingSettings | None, OmitArgPrefixes, AvoidSubcommands] = None
    """Instead of the protocol's, which is None."""
    seed: Annotated[int | None, arg(metavar="INT")] = None
    """Of the noise, instead of the protocol's."""
    count_prompts: Annotated[tuple[str, ...], arg(metavar="SET=INT")] = ()
    """Sets of counting prompts with the images a prompt, instead of the protocol's, as `paper=10 all-kinds=2`."""
    captions: Annotated[Path | None, arg(metavar="FILE")] = None
    """One caption a line for a directory of bare images, in the order of their names."""
    statistics: Annotated[Path | None, arg(metavar="FILE.npz")] = None
    """The real side's statistics, of `ifuvit reference-stats` or pytorch-fid, instead of computing features anew."""
    weights: Annotated[tuple[str, ...], arg(metavar="NAME=PATH")] = ()
    """Where the weights of networks lie that are not embedded, as `inception=FILE.pth` or `clip=FOLDER`."""
    counter: str = "openmoji"
    """The counter of drawn objects: the shipped one, or a directory of `ifuvit count train`."""
    detector: Annotated[str | None, arg(metavar="FOLDER|ID")] = None
    """Count objects by this zero-shot detector of transformers, as google/owlv2-base-patch16-ensemble; for photographs."""
    images_dir: Annotated[Path | None, arg(metavar="DIR")] = None
    """Where the images are kept. Default: beside the result, RESULT-images."""
    cache: Annotated[Path | None, arg(metavar="DIR")] = None
    """Keep the real side's features here for the next evaluation."""
    device: str = "auto"
    """auto (an accelerator where there is one), cpu, cuda, cuda:1, mps."""
    batch_size: Annotated[int | None, arg(metavar="INT")] = None
    """Images drawn at once. Default: 16 on a CPU, else 64. It does not change them."""

    def __post_init__(self) -> None:
        if not self.metrics:
            raise InputError("--metrics: give at least one of distances, alignment, counts, costs")
        if self.batch_size is not None and self.batch_size < 1:
            raise InputError(f"--batch-size {self.batch_size}: must be at least 1")
        read_weights(self.weights)
        self.resolved_protocol()  # refuses impossible values

    def resolved_protocol(self) -> Protocol:
        """The protocol with this configuration's changes, which are added to its name."""
        base = protocols[self.protocol]
        sampling = self.sampling or base.sampling
        changes = {
            field.name: value
            for field in fields(sampling)
            if (value := getattr(sampling, field.name)) != getattr(base.sampling, field.name)
        }
        own: dict[str, Any] = {"num_images": self.num_images, "seed": self.seed}
        own = {name: value for name, value in own.items() if value not in (None, getattr(base, name))}
        said = [f"{name}={value}" for name, value in (changes | own).items()]
        if self.count_prompts:
            own["count_prompts"] = tuple(_prompt_set(item) for item in self.count_prompts)
            said += self.count_prompts
        if not said:
            return base
        return replace(base, name=f"{base.name}, changed: {', '.join(said)}", sampling=sampling, **own)


def default_config(protocol: ProtocolName) -> EvaluateConfig:
    """The defaults of the command line under a protocol: its own sampling settings. Required fields are missing."""
    return EvaluateConfig(
        target=MISSING, data=MISSING, out=MISSING, protocol=protocol, sampling=protocols[protocol].sampling
    )


def _prompt_set(item: str) -> tuple[PromptSet, int]:
    name, _, number = item.partition("=")
    if name not in PROMPT_SETS or not number.isdigit() or int(number) < 1:
        raise InputError(f"--count-prompts {item}: give SET=INT with a set of {', '.join(PROMPT_SETS)}")
    return name, int(number)  # type: ignore[return-value]
