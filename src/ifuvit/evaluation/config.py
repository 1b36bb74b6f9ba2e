"""The configuration of an evaluation."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from ifuvit.diffusion import Solver, Start
from ifuvit.evaluation.protocols import Protocol, protocols
from ifuvit.metrics.counting.prompts import PROMPT_SETS, PromptSet
from ifuvit.utils.command_line import read_weights
from ifuvit.utils.errors import InputError

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
    protocol: Literal["quick", "paper", "clean"] = "quick"
    """quick: 1,000 images and the embedded networks. paper: FID-30K and CLIP score as U-ViT has them. clean: as paper,
    with clean-fid's resize."""
    metrics: tuple[Metric, ...] = ("distances", "alignment", "counts", "costs")
    """What to measure."""
    num_images: Annotated[int | None, arg(metavar="INT")] = None
    """Instead of the protocol's number of images. The result's protocol then says that it was changed; so for the next
    options."""
    guidance_scale: Annotated[float | None, arg(metavar="FLOAT")] = None
    """The standard w (the paper's s = w - 1), instead of the protocol's."""
    guidance_interval: Annotated[tuple[float, float] | None, arg(metavar="LOW HIGH")] = None
    """The part of the noise range that is guided, in n / 1000, instead of the protocol's (all of it)."""
    solver: Annotated[Solver | None, arg(metavar="NAME")] = None
    """dpm++, dpm++2m, unipc, ddim or euler-a, instead of the protocol's."""
    start: Annotated[Start | None, arg(metavar="NAME")] = None
    """color or noise, instead of the protocol's."""
    steps: Annotated[int | None, arg(metavar="INT")] = None
    """Solver steps, instead of the protocol's."""
    seed: Annotated[int | None, arg(metavar="INT")] = None
    """Of the noise, instead of the protocol's."""
    count_prompts: Annotated[tuple[str, ...], arg(metavar="SET=INT")] = ()
    """Sets of counting prompts with the images a prompt, instead of the protocol's, as `paper=10 all-kinds=2`; `ifuvit
    count prompts SET` prints a set."""
    captions: Annotated[Path | None, arg(metavar="FILE")] = None
    """One caption a line for a directory of bare images, in the order of their names."""
    statistics: Annotated[Path | None, arg(metavar="FILE.npz")] = None
    """The real side's statistics, of `ifuvit reference-stats` or pytorch-fid, instead of computing features anew."""
    weights: Annotated[tuple[str, ...], arg(metavar="NAME=PATH")] = ()
    """Where the weights of networks lie that are not embedded, as `inception=FILE.pth` or `clip=FOLDER`."""
    counter: str = "openmoji"
    """The counter of drawn objects: the shipped one, or a directory of `ifuvit make-standin counter`."""
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
        """The protocol with this configuration's changes, which its name then tells."""
        base = protocols[self.protocol]
        changeable = ("num_images", "guidance_scale", "guidance_interval", "solver", "start", "steps", "seed")
        given = {name: getattr(self, name) for name in changeable}
        changes = {name: value for name, value in given.items() if value not in (None, getattr(base, name))}
        told = [f"{name}={value}" for name, value in changes.items()]
        if self.count_prompts:
            changes["count_prompts"] = tuple(_prompt_set(item) for item in self.count_prompts)
            told += self.count_prompts
        return replace(base, name=f"{base.name}, changed: {', '.join(told)}", **changes) if changes else base


def _prompt_set(item: str) -> tuple[PromptSet, int]:
    name, _, number = item.partition("=")
    if name not in PROMPT_SETS or not number.isdigit() or int(number) < 1:
        raise InputError(f"--count-prompts {item}: give SET=INT with a set of {', '.join(PROMPT_SETS)}")
    return name, int(number)  # type: ignore[return-value]
