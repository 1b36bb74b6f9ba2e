"""The configuration of `ifuvit experiment`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from ifuvit.experiments import EXPERIMENTS, SCALES
from ifuvit.utils.config import idle
from ifuvit.utils.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """Run one of the paper's experiments, or the atlas: data, every setting trained with every seed, evaluation, table. The same
    command again resumes where it stopped; given several times at once, on one or many machines, each takes the runs that no
    other is at. docs/experiments.md lists experiments, costs and expected results.

    Example:
        ifuvit experiment table1 --scale smoke --out out/table1
    """

    name: Positional[Annotated[str, arg(metavar="NAME")]]
    """table1 (four settings), ablation (text block and middle fusion, each alone), n_text (none to four text blocks),
    position (fusion in the first blocks, in the middle, in the last), guidance_sweep (the curve and its elbow), or atlas (all
    published ways by which text enters, skill by skill)."""
    out: Path
    """Directory to write: experiment.json and the evaluations' results and images."""
    scale: str = "openmoji"
    """smoke (minutes on a CPU, numbers without meaning), small (a tenth of openmoji), openmoji (hours on a CPU), paper
    (MS-COCO, the paper's recipe)."""
    recipe: Literal["modern", "paper"] = "modern"
    """How runs at the scales of drawn scenes are trained: as the openmoji presets are, or with the paper's objective (noise
    prediction, plain mean), optimizer (AdamW on all weights), latents (one scale) and text (the last layer as it is, visible
    padding). The scale paper has the paper's."""
    equal: Literal["width", "flops", "parameters"] | None = None
    """What all settings have in common with the scale's preset: the width, or by other widths the FLOPs of a forward pass, or the
    number of parameters. Default: flops for atlas, else width."""
    seeds: int = 1
    """Runs of every setting: seeds 1234, 1235, ... It may grow from one call to the next."""
    only: tuple[str, ...] = ()
    """Train and evaluate these settings alone, now."""
    runs: Annotated[Path | None, arg(metavar="DIR")] = None
    """Where data, features and training runs lie. Experiments of one scale that are given the same directory train a
    setting once for all of them. Default: OUT."""
    data: Annotated[Path | None, arg(metavar="DIR")] = None
    """For the scale paper: MS-COCO 2014 unpacked, with train2014/, val2014/ and annotations/."""
    autoencoder: Annotated[str | None, arg(metavar="NAME")] = None
    """Instead of the scale's, for instance a local folder of it."""
    text_encoder: Annotated[str | None, arg(metavar="NAME")] = None
    """Instead of the scale's, for instance a local folder of it."""
    weights: Annotated[tuple[str, ...], arg(metavar="NAME=PATH")] = ()
    """Weights of evaluation networks that are not embedded, as for `ifuvit evaluate`."""
    detector: Annotated[str | None, arg(metavar="FOLDER|ID")] = None
    """For the scale paper: also count objects, by this zero-shot detector, as for `ifuvit evaluate`."""
    steps: Annotated[int | None, arg(metavar="INT")] = None
    """Training steps instead of the recipe's."""
    images: Annotated[int | None, arg(metavar="INT")] = None
    """Images an evaluation instead of the protocol's."""
    dry_run: bool = False
    """Print what is done, what is missing and how long it would take, then stop."""

    def __post_init__(self) -> None:
        for field, known in (("name", EXPERIMENTS), ("scale", SCALES)):
            if (value := getattr(self, field)) not in known:
                what = "experiment" if field == "name" else "scale"
                raise InputError(f"unknown {what} {value!r}; the {what}s are {', '.join(known)}")
        for field in ("seeds", "steps", "images"):
            if (value := getattr(self, field)) is not None and value < 1:
                raise InputError(f"--{field} {value}: must be at least 1")
        settings = [setting.name for setting in EXPERIMENTS[self.name].settings]
        for setting in self.only:
            if setting not in settings:
                raise InputError(f"--only {setting}: no setting of {self.name}, which has {', '.join(settings)}")
        if SCALES[self.scale].scenes is None and self.data is None:
            raise InputError(
                f"--scale {self.scale} needs --data DIR: MS-COCO 2014 with train2014/, val2014/ and annotations/captions_*.json"
            )
        if SCALES[self.scale].scenes is not None and self.data is not None:
            raise InputError(f"--data {self.data}: is for --scale paper; {self.scale} draws its own scenes")

    def without_effect(self) -> dict[str, str]:
        """Options that have no effect with the others."""
        papers = SCALES[self.scale].scenes is None and self.recipe != "paper"
        return idle(
            (papers, ("recipe",), f"with --scale {self.scale}, which has the paper's"),
            (bool(EXPERIMENTS[self.name].guidance_scales), ("detector",), f"with {self.name}, which counts nothing"),
        )
