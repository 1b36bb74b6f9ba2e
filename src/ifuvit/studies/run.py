"""What `ifuvit study` does: people count objects in models' images, or rank the images."""

import shutil
import socket
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from ifuvit import results
from ifuvit.data.prompts import read_prompts
from ifuvit.metrics.counting.prompts import PROMPT_SETS
from ifuvit.studies.analysis import analyze_study
from ifuvit.studies.answers import EXPORTS, read_answers
from ifuvit.studies.config import (
    StudyAnalyzeConfig,
    StudyExportConfig,
    StudyImportConfig,
    StudyMakeConfig,
    StudyServeConfig,
)
from ifuvit.studies.counting import count_items
from ifuvit.studies.design import STUDY_FILE, Study, assign, make_raters, new_token, read_study
from ifuvit.studies.form import read_returned, write_forms
from ifuvit.studies.making import CONSENT, make_items, parse_count, scene_captions
from ifuvit.studies.sources import Drawn, draw, open_models, take
from ifuvit.studies.store import DATABASE, Entry, Store
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

MAKE, ANALYZE = "study make", "study analyze"


# ------------------------------------------------------------------------------------------------------------- making


def make(config: StudyMakeConfig) -> Study:
    """Make a study in `config.out`.

    Raises:
        InputError: images that are missing or broken, or a directory that cannot be written.
    """
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
            raters_per_item=config.answers_per_item,
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
            raters_per_item=config.answers_per_item,
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
    return study


def _images(config: StudyMakeConfig, drawings: Path) -> list[Drawn]:
    """Every model's images; generated into `drawings`, unless they are there."""
    device = find_device(config.device)
    targets = open_models(config.models, captions=config.captions, device=device)
    if targets[0].generator is None:
        if config.prompts_file is not None or config.images_per_prompt is not None:
            raise InputError(
                "--prompts-file and --images-per-prompt are for models that generate; images have their prompts"
            )
        given = zip(targets, config.model_names, config.models)
        return [take(target, name, Path(model)) for target, name, model in given]
    prompts = _prompts(config)
    batch_size = config.batch_size or (8 if device.type == "cpu" else 64)
    return [
        draw(target, name, prompts, drawings, config.sampling, seed=config.seed, batch_size=batch_size)
        for target, name in zip(targets, config.model_names)
    ]


def _prompts(config: StudyMakeConfig) -> list[str]:
    """What models generate from, each prompt as often as it has images."""
    if config.prompts_file is not None:
        prompts = read_prompts(config.prompts_file)
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


def import_answers(config: StudyImportConfig) -> tuple[int, int]:
    """Add the answers of files to a study's; returns how many there are, and how many of them are new.

    Raises:
        InputError: a study or answers that are missing or broken.
    """
    study = read_study(config.study)
    entries: list[Entry] = []
    agreed: dict[str, str] = {}
    for file in config.files:
        given, consents = read_returned(study, file)
        entries += given
        agreed |= consents
    store = Store(config.study)
    try:
        return len(entries), store.merge(entries, agreed=agreed)
    finally:
        store.close()


def export(config: StudyExportConfig) -> None:
    """Write answers or forms to `config.out`.

    Raises:
        InputError: a study that is missing or broken, or an output that cannot be written.
    """
    study = read_study(config.study)
    if config.format == "forms":
        write_forms(study, config.study, config.out)
    elif config.out.is_dir():
        raise InputError(f"--out {config.out}: is a directory; give the name of a file")
    else:
        _, write = EXPORTS[config.format]
        write_text(config.out, write(study, read_answers(config.study)))


# ---------------------------------------------------------------------------------------------------------- analyzing


def analyze(config: StudyAnalyzeConfig) -> tuple[Path, results.PreferenceStudy | results.CountStudy]:
    """Analyze a study; returns the file that was written and what it holds.

    Raises:
        InputError: a study that is missing or broken, too few answers, or a counter that does not fit.
    """
    from ifuvit.evaluation.networks import open_counter

    if find_spec("krippendorff") is None:
        raise InputError("analysis requires more packages (krippendorff): pip install 'ifuvit[study]'")
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
    analysis = analyze_study(
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
            **manifest(ANALYZE, to_dict(config), started=started),
            "study": {"directory": str(config.study), "id": study.id, "title": study.title},
            "counter": facts,
            **analysis,
        },
        results.PreferenceStudy if study.kind == "preference" else results.CountStudy,
    )
    written = config.out or config.study / "analysis.json"
    results.write(written, result)
    return written, result


# ------------------------------------------------------------------------------------------------------------ serving


def serve(config: StudyServeConfig, *, say: Callable[[str], None]) -> None:
    """Serve a study until interrupted.

    Args:
        say: called with what the owner should know, when the server listens.

    Raises:
        InputError: no study, packages that are missing, or a port that is taken.
    """
    try:
        import uvicorn

        from ifuvit.studies.server import make_app
    except ImportError as error:
        raise InputError(f"serving requires more packages ({error.name}): pip install 'ifuvit[study]'") from None

    study = read_study(config.study)
    host = f"[{config.host}]" if ":" in config.host else config.host
    url = (config.url or f"http://{host}:{config.port}").rstrip("/")
    try:
        family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
        listening = socket.create_server((config.host, config.port), family=family, backlog=1024)
    except OSError as error:
        raise InputError(f"--host {config.host} --port {config.port}: cannot listen there ({error.strerror})") from None
    app = make_app(config.study, url=url)
    say(f"the owner's page, with every rater's link: {url}/owner/{study.owner_token}/")
    if config.host not in ("127.0.0.1", "localhost", "::1"):
        say("others can reach this server; links and answers travel unencrypted unless a proxy encrypts them")
    # No log of requests: they have the tokens in them.
    settings = uvicorn.Config(app, access_log=False, server_header=False, log_level="warning")
    uvicorn.Server(settings).run(sockets=[listening])
