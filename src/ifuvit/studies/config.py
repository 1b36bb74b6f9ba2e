"""Configurations of `ifuvit study`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional

from ifuvit.diffusion.settings import SamplingSettings
from ifuvit.studies.design import MAX_MODELS
from ifuvit.utils.config import Fraction, NonNegative, Positive, Range, check
from ifuvit.utils.errors import InputError


@dataclass(frozen=True, kw_only=True)
class StudyMakeConfig:
    """Generate or collect images of the same prompts for all models, blind them, and assign them to raters.

    Example: ifuvit study make preference openmoji-cross-intermediate openmoji-concat-early --out study
    """

    kind: Positional[Literal["count", "preference"]]
    """count: how many objects are there? preference: rank the models' images of a prompt."""
    models: Positional[tuple[str, ...]]
    """Models that generate (shipped names, run or pipeline directories, diffusers pipelines); or directories of images: of
    `ifuvit generate`, with prompts in x.txt next to x.png, with a metadata.jsonl, or with --captions. Images are matched by
    prompt and by which of its images they are. Either all are models or all are directories of images."""
    out: Path
    """Directory to write. What models generate is kept next to it, as OUT.drawings, until the study is complete, so that a
    command that was killed resumes where it stopped."""
    names: tuple[str, ...] = ()
    """What results call the models; default: their directories' names. Raters never see them."""
    prompts_file: Path | None = None
    """One prompt per line, for models that generate. Default: for a count the paper's 20 prompts, for a preference 100
    captions of held-out OpenMoji scenes."""
    captions: Path | None = None
    """For directories of bare images: the prompts, one line for every image in the order of their names."""
    images_per_prompt: Positive[int] | None = None
    """Images per prompt, for models that generate. Default: the paper's, 10 for a count and 1 for a preference."""
    sampling: Annotated[SamplingSettings, OmitArgPrefixes] = SamplingSettings(steps=50)
    device: str = "auto"
    """As for `ifuvit generate`."""
    batch_size: Positive[int] | None = None
    """As for `ifuvit generate`."""
    size: Positive[int] | None = None
    """Crop and scale all images to squares of so many pixels. Without it they must already be of one size."""
    raters: Positive[int] = 10
    """Raters, each with a private link."""
    raters_per_item: Positive[int] | None = None
    """How many raters get each item. Default: 3 for a count, 5 for a preference."""
    repeats: NonNegative[int] = 3
    """Items that a rater gets a second time, unannounced, to measure self-consistency."""
    checks: NonNegative[int] = 3
    """Attention checks per rater, whose answer is beyond doubt: scenes with a known count, or an image cut to pieces among the
    others."""
    interval_width: Positive[float] | None = None
    """Print how many raters are required for 95 % intervals of this width. Default: 0.1 of each model's share of right counts,
    0.3 points of its mean rank points."""
    title: str = "What do you see?"
    """Heading of the raters' pages."""
    consent: Path | None = None
    """Text file that raters read before they begin; empty lines separate paragraphs."""
    seed: NonNegative[int] = 0
    """Of the images that are generated, the assignment and all orders."""

    def __post_init__(self) -> None:
        check(self)
        if len(self.models) < (2 if self.kind == "preference" else 1):
            raise InputError(f"a {self.kind} study of {len(self.models)} models: give more")
        if self.kind == "preference" and len(self.models) > MAX_MODELS:
            raise InputError(f"{len(self.models)} models: nobody can rank more than {MAX_MODELS} side by side")
        if self.names and len(self.names) != len(self.models):
            raise InputError(f"--names: {len(self.names)} for {len(self.models)} models; give as many")
        if len(set(self.model_names)) < len(self.models):
            raise InputError(f"models {', '.join(self.model_names)}: give different --names")
        if self.answers_per_item > self.raters:
            raise InputError(f"--raters-per-item {self.answers_per_item}: there are only {self.raters} --raters")

    @property
    def model_names(self) -> tuple[str, ...]:
        """What results call the models."""
        return self.names or tuple(Path(model).resolve().name for model in self.models)

    @property
    def answers_per_item(self) -> int:
        """How many raters get each item."""
        return self.raters_per_item or {"count": 3, "preference": 5}[self.kind]


@dataclass(frozen=True, kw_only=True)
class StudyServeConfig:
    """Serve a study's pages to its raters, and its progress to its owner, until interrupted.

    Example: ifuvit study serve study --port 8080
    """

    study: Positional[Path]
    """Directory that `ifuvit study make` wrote."""
    host: str = "127.0.0.1"
    """Address to listen at. The default is for this machine alone; 0.0.0.0 is for everybody who can reach it, unencrypted."""
    port: Annotated[int, Range(least=1, most=65535)] = 8000
    """Port to listen at."""
    url: str | None = None
    """Where raters reach the server, if not at host and port: https://example.org behind a proxy that encrypts."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class StudyImportConfig:
    """Add answers that raters sent back from static forms. Answers that the study has already are skipped.

    Example: ifuvit study import study rater-01.json rater-02.json
    """

    study: Positional[Path]
    """Directory that `ifuvit study make` wrote."""
    files: Positional[tuple[Path, ...]]
    """JSON or CSV files of answers."""

    def __post_init__(self) -> None:
        if not self.files:
            raise InputError("no files; give the files that raters sent back")


@dataclass(frozen=True, kw_only=True)
class StudyExportConfig:
    """Write a study's answers for other programs, or its static forms for raters without access to a server.

    Example: ifuvit study export study csv --out answers.csv
    """

    study: Positional[Path]
    """Directory that `ifuvit study make` wrote."""
    format: Positional[Literal["csv", "json", "label-studio", "forms"]]
    """csv, json, label-studio: all raters' answers. forms: a directory of HTML files, one per rater, that require no server."""
    out: Path
    """File to write; for forms a directory."""


@dataclass(frozen=True, kw_only=True)
class StudyAnalyzeConfig:
    """Compute what the answers say about the models, how sure that is, and how far raters agree.

    Example: ifuvit study analyze study --counter openmoji
    """

    study: Positional[Path]
    """Directory that `ifuvit study make` wrote."""
    out: Path | None = None
    """JSON file to write, with plots next to it. Default: analysis.json in the study."""
    counter: str | None = None
    """Of a count: compare with this automatic counter, a name, or a directory of `ifuvit make-standin counter`; "openmoji" is the
    shipped one."""
    detector: str | None = None
    """Of a count of photographs: compare with this zero-shot detector instead, a folder or a name on the hub."""
    threshold: float | None = None
    """Least score of a detector's box that counts."""
    device: str = "cpu"
    """Where the counter or detector computes: cpu, cuda, cuda:1, mps, auto."""
    least_passed: Fraction = 0.75
    """Share of attention checks below which a rater is flagged. All numbers are given with and without flagged raters."""
    samples: Annotated[int, Range(least=100)] = 1000
    """How often each bootstrap draws; an interval requires at least 100."""
    seed: NonNegative[int] = 0
    """Of the bootstrap."""

    def __post_init__(self) -> None:
        check(self)
        if self.counter is not None and self.detector is not None:
            raise InputError("--counter and --detector: give one of them")


ACTIONS = {
    "make": StudyMakeConfig,
    "serve": StudyServeConfig,
    "export": StudyExportConfig,
    "import": StudyImportConfig,
    "analyze": StudyAnalyzeConfig,
}
