"""`ifuvit study`: people count objects in models' images, or rank them: made, served, gathered and analyzed."""

import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from ifuvit import results
from ifuvit.metrics.counting.prompts import PROMPT_SETS
from ifuvit.studies.design import MAX_MODELS
from ifuvit.utils.config import to_dict
from ifuvit.utils.devices import find_device
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import (
    OutputDirectory,
    atomic_directory,
    manifest,
    now,
    write_json,
    write_manifest,
    write_text,
)

if TYPE_CHECKING:
    from ifuvit.studies.sources import Drawn

MAKE, ANALYSE = "study make", "study analyze"


@dataclass(frozen=True, kw_only=True)
class StudyMakeConfig:
    """Draw or take images of the same prompts and seeds for all models, blind them, and assign them to raters."""

    kind: Positional[Literal["count", "preference"]]
    """count: how many objects are there? preference: rank the models' images of a prompt."""
    models: Positional[tuple[str, ...]]
    """Models that draw (shipped names, run or pipeline directories, diffusers pipelines); or directories of images: of
    `ifuvit generate`, with prompts in x.txt beside x.png, with a metadata.jsonl, or with --captions. Images are matched by
    prompt and by which of its images they are. Either all or none draw."""
    out: Path
    """Directory to write. What models draw is kept beside it, as OUT.drawings, until the study is whole, so that a command
    that was killed goes on where it was."""
    names: tuple[str, ...] = ()
    """What to call the models in results; default: their directories' names. Raters never see them."""
    prompts_file: Path | None = None
    """One prompt a line, for models that draw. Default: for a count the paper's 20 prompts, for a preference 100 captions of
    held-out OpenMoji scenes."""
    captions: Path | None = None
    """For directories of bare images: the prompts, one a line for every image in the order of their names."""
    images_per_prompt: int | None = None
    """Images a prompt, for models that draw. Default: the paper's, 10 for a count and 1 for a preference."""
    steps: int = 50
    """As for `ifuvit generate`."""
    guidance_scale: float = 4.0
    """As for `ifuvit generate`: the standard w."""
    device: str = "auto"
    """As for `ifuvit generate`."""
    batch_size: Annotated[int | None, arg(metavar="INT")] = None
    """As for `ifuvit generate`."""
    size: int | None = None
    """Crop and scale all images to squares of so many pixels. Without it they have to be of one size already."""
    raters: int = 10
    """Raters, each with a private link."""
    raters_per_item: int | None = None
    """How many raters get each item. Default: 3 for a count, 5 for a preference."""
    repeats: int = 3
    """Items that a rater gets a second time, unannounced: how consistent is one with oneself?"""
    checks: int = 3
    """Items a rater whose answer is beyond doubt: scenes with a known count, or a image cut to pieces among the others."""
    interval_width: float | None = None
    """Tell how many raters it takes for 95 % intervals of this width. Default: 0.1 of each model's share of right counts, 0.3
    points of its mean rank points."""
    title: str = "What do you see?"
    """Heading of the raters' pages."""
    consent: Path | None = None
    """Text file that raters read before they begin; empty lines separate paragraphs."""
    seed: int = 0
    """Of the images that are drawn, the assignment and all orders."""

    def __post_init__(self) -> None:
        if len(self.models) < (2 if self.kind == "preference" else 1):
            raise InputError(f"a {self.kind} study of {len(self.models)} models: give more")
        if self.kind == "preference" and len(self.models) > MAX_MODELS:
            raise InputError(f"{len(self.models)} models: nobody can rank more than {MAX_MODELS} side by side")
        if self.names and len(self.names) != len(self.models):
            raise InputError(f"--names: {len(self.names)} for {len(self.models)} models; give as many")
        if len(set(self.model_names)) < len(self.models):
            raise InputError(f"models {', '.join(self.model_names)}: give different --names")
        for name in ("images_per_prompt", "steps", "batch_size", "size", "raters", "raters_per_item"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise InputError(f"--{name.replace('_', '-')} {value}: must be at least 1")
        for name in ("repeats", "checks", "seed"):
            if getattr(self, name) < 0:
                raise InputError(f"--{name} {getattr(self, name)}: must not be negative")
        if self.answers_an_item > self.raters:
            raise InputError(f"--raters-per-item {self.answers_an_item}: there are but {self.raters} --raters")
        if self.interval_width is not None and not self.interval_width > 0:
            raise InputError(f"--interval-width {self.interval_width}: must be above 0")

    @property
    def model_names(self) -> tuple[str, ...]:
        """What the models are called in results."""
        return self.names or tuple(Path(model).resolve().name for model in self.models)

    @property
    def answers_an_item(self) -> int:
        """How many raters get each item."""
        return self.raters_per_item or {"count": 3, "preference": 5}[self.kind]


@dataclass(frozen=True, kw_only=True)
class StudyServeConfig:
    """Serve a study's pages to its raters, and its progress to its owner, until interrupted."""

    study: Positional[Path]
    """Directory that `ifuvit study make` wrote."""
    host: str = "127.0.0.1"
    """Address to listen at. The default is for this machine alone; 0.0.0.0 is for everybody who can reach it, unencrypted."""
    port: int = 8000
    """Port to listen at."""
    url: str | None = None
    """Where raters reach the server, if not at host and port: https://example.org behind a proxy that encrypts."""

    def __post_init__(self) -> None:
        if not 0 < self.port < 65536:
            raise InputError(f"--port {self.port}: must be from 1 to 65535")


@dataclass(frozen=True, kw_only=True)
class StudyImportConfig:
    """Take answers that raters sent back from static forms; what is there already is left out."""

    study: Positional[Path]
    """Directory that `ifuvit study make` wrote."""
    files: Positional[tuple[Path, ...]]
    """JSON or CSV files of answers."""


@dataclass(frozen=True, kw_only=True)
class StudyExportConfig:
    """Write a study's answers for other programs, or its static forms for raters without access to a server."""

    study: Positional[Path]
    """Directory that `ifuvit study make` wrote."""
    format: Positional[Literal["csv", "json", "label-studio", "forms"]]
    """csv, json, label-studio: all raters' answers. forms: a directory of HTML files, one a rater, that need no server."""
    out: Path
    """File to write; for forms a directory."""


@dataclass(frozen=True, kw_only=True)
class StudyAnalyzeConfig:
    """Tell what the answers say of the models, how sure that is, and how far raters agree."""

    study: Positional[Path]
    """Directory that `ifuvit study make` wrote."""
    out: Path | None = None
    """JSON file to write, plots beside it. Default: analysis.json in the study."""
    counter: Annotated[str | None, arg(metavar="NAME|DIR")] = None
    """Of a count: compare with this automatic counter, as of `ifuvit count judge`; "openmoji" is the shipped one."""
    detector: Annotated[str | None, arg(metavar="FOLDER|ID")] = None
    """Of a count of photographs: compare with this zero-shot detector instead."""
    threshold: Annotated[float | None, arg(metavar="FLOAT")] = None
    """Least score of a detector's box that counts."""
    device: str = "cpu"
    """Where the counter or detector computes: cpu, cuda, cuda:1, mps, auto."""
    least_passed: float = 0.75
    """Share of attention checks below which a rater is flagged. All numbers are told with and without flagged raters."""
    samples: int = 1000
    """How often each bootstrap draws."""
    seed: int = 0
    """Of the bootstrap."""

    def __post_init__(self) -> None:
        if self.counter is not None and self.detector is not None:
            raise InputError("--counter and --detector: give one of them")
        if not 0 <= self.least_passed <= 1:
            raise InputError(f"--least-passed {self.least_passed}: must be from 0 to 1")
        if self.samples < 100:
            raise InputError(f"--samples {self.samples}: too few for an interval; give at least 100")
        if self.seed < 0:
            raise InputError(f"--seed {self.seed}: must not be negative")


def run(config: StudyMakeConfig | StudyImportConfig | StudyExportConfig | StudyAnalyzeConfig) -> Path:
    """Make, import, export or analyze, and return what was written.

    Raises:
        InputError: images, a study or answers that are missing or broken, or a place that cannot be written.
    """
    if isinstance(config, StudyMakeConfig):
        return make(config)
    if isinstance(config, StudyAnalyzeConfig):
        return analyze(config)
    return import_answers(config) if isinstance(config, StudyImportConfig) else export(config)


# ------------------------------------------------------------------------------------------------------------- making


def make(config: StudyMakeConfig) -> Path:
    """Make a study; see `run`."""
    from ifuvit.studies.design import STUDY_FILE, Study, assign, make_raters, new_token
    from ifuvit.studies.making import CONSENT, make_items
    from ifuvit.studies.store import DATABASE

    started = now()
    OutputDirectory(config.out, MAKE).earlier()
    if (config.out / DATABASE).exists():
        raise InputError(f"--out {config.out}: holds a study with answers; give a new or empty directory")
    consent = CONSENT if config.consent is None else _read_text(config.consent, "--consent")
    drawings = config.out.with_name(f"{config.out.name}.drawings")
    drawn = _images(config, drawings)
    with atomic_directory(config.out) as directory:
        items, checks, size = make_items(
            config.kind, drawn, directory, checks=config.checks, seed=config.seed, size=config.size
        )
        tasks = assign(
            items,
            checks,
            models=len(config.models) if config.kind == "preference" else 0,
            raters=config.raters,
            raters_per_item=config.answers_an_item,
            repeats=config.repeats,
            seed=config.seed,
        )
        study = Study(
            id=new_token()[:12],
            kind=config.kind,
            title=config.title,
            consent=consent,
            models=config.model_names,
            items=items,
            checks=checks,
            raters=make_raters(tasks),
            raters_per_item=config.answers_an_item,
            owner_token=new_token(),
            seed=config.seed,
            image_size=size,
        )
        write_json(directory / STUDY_FILE, to_dict(study))
        write_manifest(
            directory, MAKE, to_dict(config), started=started, seed=config.seed, sources=[one.source for one in drawn]
        )
    (config.out / STUDY_FILE).chmod(0o600)  # it has everybody's tokens
    shutil.rmtree(drawings, ignore_errors=True)
    return config.out


def _images(config: StudyMakeConfig, drawings: Path) -> "list[Drawn]":
    """Every model's images; drawn into `drawings`, if they are not there."""
    from ifuvit.evaluation.targets import Settings
    from ifuvit.studies.sources import draw, open_models, take

    device = find_device(config.device)
    targets = open_models(config.models, captions=config.captions, device=device)
    if targets[0].generator is None:
        if config.prompts_file is not None or config.images_per_prompt is not None:
            raise InputError(
                "--prompts-file and --images-per-prompt are for models that draw; images have their prompts"
            )
        given = zip(targets, config.model_names, config.models)
        return [take(target, name, Path(model)) for target, name, model in given]
    prompts = _prompts(config)
    settings = Settings(solver="dpm++", steps=config.steps, guidance_scale=config.guidance_scale, seed=config.seed)
    batch_size = config.batch_size or (8 if device.type == "cpu" else 64)
    return [
        draw(target, name, prompts, drawings, settings, batch_size=batch_size)
        for target, name in zip(targets, config.model_names)
    ]


def _prompts(config: StudyMakeConfig) -> list[str]:
    """What models draw from, each prompt as often as it has images."""
    from ifuvit.commands.generate import GenerateConfig, read_prompts
    from ifuvit.studies.making import parse_count, scene_captions

    if config.prompts_file is not None:
        prompts = read_prompts(GenerateConfig(prompts_file=config.prompts_file))
    else:
        prompts = PROMPT_SETS["paper"] if config.kind == "count" else scene_captions(100, seed=config.seed)
    if config.kind == "count":
        for prompt in prompts:
            parse_count(prompt)
    images = config.images_per_prompt or {"count": 10, "preference": 1}[config.kind]
    return [prompt for prompt in prompts for _ in range(images)]


def _read_text(file: Path, option: str) -> str:
    try:
        return file.read_text(encoding="utf-8-sig").strip()
    except FileNotFoundError:
        raise InputError(f"{option} {file}: no such file") from None
    except (UnicodeDecodeError, IsADirectoryError):
        raise InputError(f"{option} {file}: not a UTF-8 text file") from None


# ------------------------------------------------------------------------------------------------- answers in and out


def import_answers(config: StudyImportConfig) -> Path:
    """Import answers; see `run`."""
    from ifuvit.studies.design import read_study
    from ifuvit.studies.form import read_returned
    from ifuvit.studies.store import Entry, Store

    if not config.files:
        raise InputError("no files; give the files that raters sent back")
    study = read_study(config.study)
    entries: list[Entry] = []
    agreed: dict[str, str] = {}
    for file in config.files:
        given, consents = read_returned(study, file)
        entries += given
        agreed |= consents
    store = Store(config.study)
    try:
        new = store.merge(entries, agreed=agreed)
    finally:
        store.close()
    print(f"{len(config.files)} files, {len(entries)} answers, {new} of them new")
    return config.study


def export(config: StudyExportConfig) -> Path:
    """Export answers or forms; see `run`."""
    from ifuvit.studies.answers import EXPORTS, read_answers
    from ifuvit.studies.design import read_study
    from ifuvit.studies.form import write_forms

    study = read_study(config.study)
    if config.format == "forms":
        write_forms(study, config.study, config.out)
    elif config.out.is_dir():
        raise InputError(f"--out {config.out}: is a directory; give the name of a file")
    else:
        _, write = EXPORTS[config.format]
        write_text(config.out, write(study, read_answers(config.study)))
    return config.out


# ---------------------------------------------------------------------------------------------------------- analyzing


def analyze(config: StudyAnalyzeConfig) -> Path:
    """Analyze a study; see `run`."""
    from ifuvit.evaluation.networks import open_counter
    from ifuvit.reporting.plots import as_file
    from ifuvit.reporting.study_section import study_plots
    from ifuvit.reporting.tables import slug
    from ifuvit.studies.analysis import analyse_study
    from ifuvit.studies.answers import read_answers
    from ifuvit.studies.counting import count_items
    from ifuvit.studies.design import read_study

    if find_spec("krippendorff") is None:
        raise InputError("analysis needs more packages (krippendorff): pip install 'ifuvit[study]'")
    started = now()
    study = read_study(config.study)
    if study.kind != "count" and (config.counter or config.detector):
        raise InputError(f"{config.study}: a {study.kind} study, in which nothing is counted; leave the counter out")
    answers = read_answers(config.study)
    automatic = facts = None
    if config.counter is not None or config.detector is not None or config.threshold is not None:
        counter = open_counter(
            config.counter or "openmoji",
            detector=config.detector,
            threshold=config.threshold,
            device=find_device(config.device),
        )
        automatic, facts = count_items(study, config.study, counter), to_dict(counter.facts())
    analysis = analyse_study(
        study,
        answers,
        automatic=automatic,
        least_passed=config.least_passed,
        samples=config.samples,
        seed=config.seed,
    )
    result = results.from_json(
        {
            "schema": results.SCHEMA,
            **manifest(ANALYSE, to_dict(config), started=started),
            "study": {"directory": str(config.study), "id": study.id, "title": study.title},
            "counter": facts,
            **analysis,
        },
        results.PreferenceStudy if study.kind == "preference" else results.CountStudy,
    )
    written = config.out or config.study / "analysis.json"
    results.write(written, result)
    for plot in study_plots(result):
        write_text(written.parent / "plots" / f"{slug(plot.title)}.svg", as_file(plot))
    return written


# ------------------------------------------------------------------------------------------------------------ serving


def serve(config: StudyServeConfig) -> None:
    """Serve a study until interrupted.

    Raises:
        InputError: no study, packages that are missing, or a port that is taken.
    """
    import socket

    try:
        import uvicorn

        from ifuvit.studies.server import make_app
    except ImportError as error:
        raise InputError(f"serving needs more packages ({error.name}): pip install 'ifuvit[study]'") from None

    from ifuvit.studies.design import read_study

    study = read_study(config.study)
    host = f"[{config.host}]" if ":" in config.host else config.host
    url = (config.url or f"http://{host}:{config.port}").rstrip("/")
    try:
        family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
        listening = socket.create_server((config.host, config.port), family=family, backlog=1024)
    except OSError as error:
        raise InputError(f"--host {config.host} --port {config.port}: cannot listen there ({error.strerror})") from None
    app = make_app(config.study, url=url)
    print(f"the owner's page, with every rater's link: {url}/owner/{study.owner_token}/", flush=True)
    if config.host not in ("127.0.0.1", "localhost", "::1"):
        print(
            "others can reach this server; links and answers travel unencrypted unless a proxy encrypts them",
            flush=True,
        )
    # No log of requests: they have the tokens in them.
    settings = uvicorn.Config(app, access_log=False, server_header=False, log_level="warning")
    uvicorn.Server(settings).run(sockets=[listening])


# -------------------------------------------------------------------------------------------------------- command line
