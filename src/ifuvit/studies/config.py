"""Configurations of `ifuvit study`."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import SplitResult, urlsplit

from tyro.conf import OmitArgPrefixes, Positional

from ifuvit.diffusion.settings import SamplingSettings
from ifuvit.studies.design import MAX_MODELS
from ifuvit.utils.config import Fraction, NonNegative, Positive, Range, check, idle
from ifuvit.utils.errors import InputError


@dataclass(frozen=True, kw_only=True)
class StudyMakeConfig:
    """Generate or collect images of the same prompts for all models, blind them, and assign them to raters.

    Example: ifuvit study make preference openmoji-4-cross-intermediate openmoji-4-concat-early --out study
    """

    kind: Positional[Literal["count", "preference", "rating"]]
    """count: how many objects are there? preference: rank the models' images of a prompt; of two models, say which is better.
    rating: rate every image from 1 to 5, by aspect."""
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
    """One prompt per line, for models that generate. Default: for a count the paper's 20 prompts, else 100 captions of
    held-out OpenMoji scenes."""
    captions: Path | None = None
    """For directories of bare images: the prompts, one line for every image in the order of their names."""
    images_per_prompt: Positive[int] | None = None
    """Images per prompt, for models that generate. Default: the paper's 10 for a count, else 1."""
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
    """How many raters get each item. Default: 5 for a preference, else 3."""
    repeats: NonNegative[int] = 3
    """Items that a rater gets a second time, unannounced, to measure self-consistency."""
    checks: NonNegative[int] = 4
    """Attention checks per rater, whose answer is beyond doubt: scenes with a known count, or an image cut to pieces."""
    practice: NonNegative[int] = 2
    """Tasks that every rater answers first and that enter no number."""
    aspects: tuple[str, ...] = ()
    """What is rated, in a study of ratings; the last one should be about the image itself, for attention checks go by it.
    Default: alignment quality."""
    comments: bool = False
    """Let raters write a comment on each task."""
    interval_width: Positive[float] | None = None
    """Print how many raters are required for 95 % intervals of this width. Default: 0.1 of each model's share of right counts,
    0.3 of its mean points or ratings."""
    language: Literal["en", "de"] = "en"
    """Of the raters' pages. Prompts stay as they are."""
    texts: Path | None = None
    """JSON file with texts of the pages in your own words or language, by the keys of studies/languages/en.json; what it leaves
    out is of --language."""
    title: str | None = None
    """Heading of the raters' first page."""
    consent: Path | None = None
    """Text file that raters read before they begin; empty lines separate paragraphs."""
    seed: NonNegative[int] = 0
    """Of the images that are generated, the assignment and all orders."""

    def __post_init__(self) -> None:
        check(self)
        if len(self.models) < (2 if self.kind == "preference" else 1):
            raise InputError(f"a {self.kind} study of {len(self.models)} models: give more")
        if self.aspects and self.kind != "rating":
            raise InputError(f"--aspects: are for a study of ratings, not for a {self.kind}; leave them out")
        for aspect in self.aspects:
            if not re.fullmatch(r"[a-z][a-z0-9_]*", aspect) or self.aspects.count(aspect) > 1:
                raise InputError(f"--aspects {aspect}: must be different words of small letters, as alignment, quality")
        if self.kind == "preference" and len(self.models) > MAX_MODELS:
            raise InputError(f"{len(self.models)} models: nobody can rank more than {MAX_MODELS} side by side")
        if self.names and len(self.names) != len(self.models):
            raise InputError(f"--names: {len(self.names)} for {len(self.models)} models; give as many")
        if len(set(self.model_names)) < len(self.models):
            raise InputError(f"models {', '.join(self.model_names)}: give different --names")
        if self.answers_per_item > self.raters:
            raise InputError(f"--raters-per-item {self.answers_per_item}: there are only {self.raters} --raters")

    def without_effect(self) -> dict[str, str]:
        """Options that have no effect with the others. What only models need is refused when it is known what they are."""
        return self.sampling.without_effect()

    @property
    def model_names(self) -> tuple[str, ...]:
        """What results call the models."""
        return self.names or tuple(Path(model).resolve().name for model in self.models)

    @property
    def answers_per_item(self) -> int:
        """How many raters get each item."""
        return self.raters_per_item or {"count": 3, "preference": 5, "rating": 3}[self.kind]

    @property
    def rated(self) -> tuple[str, ...]:
        """What is rated; nothing in other studies."""
        return (self.aspects or ("alignment", "quality")) if self.kind == "rating" else ()


@dataclass(frozen=True, kw_only=True)
class StudyServeConfig:
    """Serve a study's pages to its raters, and its progress to its owner, until interrupted.

    Example: ifuvit study serve study --port 8080
    """

    study: Positional[Path]
    """Directory that `ifuvit study make` wrote."""
    host: str = "127.0.0.1"
    """Address to listen at. The default is for this machine alone; 0.0.0.0 is for everybody in the network, unencrypted."""
    port: Annotated[int, Range(least=1, most=65535)] = 8000
    """Port to listen at."""
    url: str | None = None
    """Where raters reach the server, if not at host and port: https://example.org behind a proxy that encrypts. Default for
    --host 0.0.0.0: this machine's address in its network."""
    participant_parameter: str = "PROLIFIC_PID"
    """Parameter of the link for recruited people that says who they are."""
    completion_code: str | None = None
    """Code that raters are shown when they have answered everything."""
    completion_url: str | None = None
    """Where raters are taken who have answered everything, as Prolific's completion URL: by a button, or by itself 20 s after
    their last answer, so that they can undo it or stay."""

    def __post_init__(self) -> None:
        check(self)
        if self.url is not None and not _is_origin(self.url):
            raise InputError(
                f"--url {self.url}: must be a scheme and a host alone, as https://study.example.org; the pages are at the root"
            )
        if self.completion_url is not None and not (_parts(self.completion_url).netloc):
            raise InputError(f"--completion-url {self.completion_url}: must begin with https:// or http:// and a host")
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", self.participant_parameter):
            raise InputError(f"--participant-parameter {self.participant_parameter}: must be a word, as PROLIFIC_PID")


def _parts(url: str) -> SplitResult:
    """Of an address of the web; empty ones of anything else."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return urlsplit("")
    return parts if parts.scheme in ("http", "https") and parts.hostname and "@" not in parts.netloc else urlsplit("")


def _is_origin(url: str) -> bool:
    parts = _parts(url)
    return (
        bool(parts.netloc)
        and parts.path in ("", "/")
        and not (parts.query or parts.fragment or "?" in url or "#" in url)
    )


@dataclass(frozen=True, kw_only=True)
class StudyAddRatersConfig:
    """Add raters to a study, who get what is short of answers: items of raters who withdrew, of raters to be replaced, and, if
    more raters per item are asked for, of all.

    Example: ifuvit study add-raters study 1 --replacing r03
    """

    study: Positional[Path]
    """Directory that `ifuvit study make` wrote."""
    number: Positional[Positive[int]]
    """How many raters to add."""
    replacing: tuple[str, ...] = ()
    """Raters who will answer no more: what they have not answered is short of answers. Their links go on working."""
    raters_per_item: Positive[int] | None = None
    """How many raters each item is to have from now on. Default: as before."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class StudyWithdrawConfig:
    """Delete all that one rater answered, as the consent text promises. It cannot be undone; that and when it was done stays
    noted in study.json, and the rater's link is dead.

    Example: ifuvit study withdraw study r03
    """

    study: Positional[Path]
    """Directory that `ifuvit study make` wrote."""
    rater: Positional[str]
    """The rater, as r03."""


@dataclass(frozen=True, kw_only=True)
class StudyImportConfig:
    """Add answers that raters sent back from static forms, or that Label Studio exported. Answers that the study has already
    are skipped; of different answers to one task the one that was given last counts.

    Example: ifuvit study import study rater-01.json rater-02.json
    """

    study: Positional[Path]
    """Directory that `ifuvit study make` wrote."""
    files: Positional[tuple[Path, ...]]
    """JSON or CSV files of answers; of Label Studio its JSON export of the tasks of `ifuvit study export label-studio-tasks`."""
    even_closed: bool = False
    """Take them although the study is closed."""

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
    format: Positional[Literal["csv", "json", "label-studio", "label-studio-tasks", "forms", "links"]]
    """csv, json, label-studio: all raters' answers. label-studio-tasks: tasks to annotate there, before any answer; both with
    their interface as FILE.xml. forms: a directory of HTML files, one per rater, that require no server. links: a CSV file of
    raters and their private links."""
    out: Path
    """File to write; for forms a directory."""
    url: str = "http://127.0.0.1:8000"
    """Of links: where raters reach the server."""

    def __post_init__(self) -> None:
        if not _is_origin(self.url):
            raise InputError(f"--url {self.url}: must be a scheme and a host alone, as https://study.example.org")

    def without_effect(self) -> dict[str, str]:
        """Options that have no effect with the others."""
        return idle((self.format != "links", ("url",), f"with {self.format}; it is for links"))


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
    least_passed: Fraction = 0.6
    """Share of attention checks below which a rater is flagged, if more than one was failed. All numbers are given with and
    without flagged raters."""
    least_pace: Fraction = 0.33
    """A rater is flagged whose median time per task is below this share of the median over all raters; 0 flags nobody."""
    samples: Annotated[int, Range(least=100)] = 10_000
    """How often each bootstrap draws; an interval requires at least 100."""
    seed: NonNegative[int] = 0
    """Of the bootstrap."""

    def __post_init__(self) -> None:
        check(self)
        if self.counter is not None and self.detector is not None:
            raise InputError("--counter and --detector: give one of them")

    def without_effect(self) -> dict[str, str]:
        """Options that have no effect with the others."""
        uncounted = self.counter is None and self.detector is None
        return idle(
            (uncounted, ("device",), "without --counter or --detector"),
            (self.detector is None, ("threshold",), "without --detector"),
        )


ACTIONS = {
    "make": StudyMakeConfig,
    "serve": StudyServeConfig,
    "add-raters": StudyAddRatersConfig,
    "withdraw": StudyWithdrawConfig,
    "export": StudyExportConfig,
    "import": StudyImportConfig,
    "analyze": StudyAnalyzeConfig,
}
