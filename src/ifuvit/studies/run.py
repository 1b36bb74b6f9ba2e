"""What `ifuvit study` does: people count objects in models' images, or rank or rate the images."""

import ipaddress
import shutil
import socket
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from ifuvit import results
from ifuvit.data.prompts import read_prompts
from ifuvit.metrics.counting.prompts import PROMPT_SETS
from ifuvit.studies.analysis import analyze_study
from ifuvit.studies.answers import EXPORTS, collect, label_studio_interface, read_answers
from ifuvit.studies.config import (
    StudyAddRatersConfig,
    StudyAnalyzeConfig,
    StudyExportConfig,
    StudyImportConfig,
    StudyMakeConfig,
    StudyServeConfig,
    StudyWithdrawConfig,
)
from ifuvit.studies.counting import count_items
from ifuvit.studies.design import STUDY_FILE, Rater, Study, assign, make_raters, new_token, read_study, write_study
from ifuvit.studies.form import read_returned, write_forms
from ifuvit.studies.making import make_items, parse_count, scene_captions
from ifuvit.studies.people import add_raters, known_rater, mark_withdrawn
from ifuvit.studies.progress import links_csv, task_seconds
from ifuvit.studies.sources import ModelImages, generate_images, open_models, read_images
from ifuvit.studies.store import DATABASE, Closed, Entry, Store
from ifuvit.studies.texts import read_texts
from ifuvit.utils.config import to_dict
from ifuvit.utils.devices import find_device
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import (
    OutputDirectory,
    atomic_directory,
    lock,
    manifest,
    now,
    write_manifest,
    write_text,
)

MAKE, ANALYZE = "study make", "study analyze"


# ------------------------------------------------------------------------------------------------------------- making


def make(config: StudyMakeConfig) -> Study:
    """Make a study in `config.out`.

    Raises:
        InputError: images that are missing or broken, or a directory that cannot be written, or that another process writes.
    """
    with lock(config.out):
        return _make(config)


def _make(config: StudyMakeConfig) -> Study:
    started = now()
    OutputDirectory(config.out, MAKE).earlier()
    if (config.out / DATABASE).exists():
        raise InputError(f"--out {config.out}: holds a study with answers; give a new or empty directory")
    texts = read_texts(config.language, config.texts)
    consent = texts["consent"] if config.consent is None else _read_text(config.consent, "--consent")
    drawings = config.out.with_name(f"{config.out.name}.drawings")
    sources = _images(config, drawings)
    with atomic_directory(config.out, private=(STUDY_FILE,)) as directory:
        made = make_items(
            config.kind,
            sources,
            directory,
            checks=config.checks,
            practice=config.practice,
            seed=config.seed,
            size=config.size,
        )
        fewest = len(made.items) * config.answers_per_item // config.raters
        if config.repeats > fewest // 2:
            raise InputError(
                f"--repeats {config.repeats}: a rater has {fewest} items, of which half at most can come again"
            )
        tasks = assign(
            made.items,
            made.checks,
            practice=made.practice,
            kind=config.kind,
            models=len(config.models),
            raters=config.raters,
            wanted={item.id: config.answers_per_item for item in made.items},
            repeats=config.repeats,
            seed=config.seed,
        )
        study = Study(
            id=new_token()[:12],
            kind=config.kind,
            title=config.title or texts["title"],
            consent=consent,
            models=config.model_names,
            items=made.items,
            checks=made.checks,
            practice=made.practice,
            aspects=config.rated,
            comments=config.comments,
            texts=texts,
            raters=make_raters(tasks),
            raters_per_item=config.answers_per_item,
            owner_token=new_token(),
            join_token=new_token(),
            seed=config.seed,
            image_size=made.size,
        )
        write_study(directory, study)
        write_manifest(
            directory, MAKE, to_dict(config), started=started, seed=config.seed, sources=[one.source for one in sources]
        )
    shutil.rmtree(drawings, ignore_errors=True)
    return study


def _images(config: StudyMakeConfig, drawings: Path) -> list[ModelImages]:
    """Every model's images; generated into `drawings`, unless they are there."""
    device = find_device(config.device)
    targets = open_models(config.models, captions=config.captions, device=device)
    if targets[0].generator is None:
        names = ["prompts_file", "images_per_prompt", "batch_size"]
        names = [name for name in names if getattr(config, name) is not None]
        names += config.sampling.differences(StudyMakeConfig.sampling)
        if names:
            raise InputError(
                f"--{names[0].replace('_', '-')}: is for models that generate; {config.models[0]} holds images, which have "
                "their prompts; leave it out"
            )
        given = zip(targets, config.model_names, config.models)
        return [read_images(target, name, Path(model)) for target, name, model in given]
    prompts = _prompts(config)
    batch_size = config.batch_size or (8 if device.type == "cpu" else 64)
    return [
        generate_images(target, name, prompts, drawings, config.sampling, seed=config.seed, batch_size=batch_size)
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
    images = config.images_per_prompt or (10 if config.kind == "count" else 1)
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
        InputError: a study or answers that are missing or broken, or a closed study.
    """
    study = read_study(config.study)
    entries: list[Entry] = []
    agreed: dict[str, str] = {}
    for file in config.files:
        given, consents = read_returned(study, file)
        entries += given
        agreed |= consents
    with _store(config.study) as store:
        try:
            return len(entries), store.merge(entries, agreed=agreed, even_closed=config.even_closed)
        except Closed:
            raise InputError(
                f"{config.study}: the study is closed; open it again on the owner's page, or give --even-closed"
            ) from None


def export(config: StudyExportConfig) -> None:
    """Write answers, tasks, links or forms to `config.out`.

    Raises:
        InputError: a study that is missing or broken, or an output that cannot be written.
    """
    study = read_study(config.study)
    if config.format != "forms" and config.out.is_dir():
        raise InputError(f"--out {config.out}: is a directory; give the name of a file")
    if config.format in ("forms", "links"):
        with _store(config.study) as store:
            answers, names, participants = collect(study, store.entries()), store.names(), store.participants()
        if config.format == "forms":
            write_forms(study, config.study, config.out, seconds=task_seconds(study, answers))
        else:
            links = links_csv(study, answers, names, participants, config.url.rstrip("/"))
            write_text(config.out, links, private=True)
        return
    _, write = EXPORTS[config.format]
    write_text(config.out, write(study, [] if config.format == "label-studio-tasks" else read_answers(config.study)))
    if config.format.startswith("label-studio"):
        write_text(config.out.with_suffix(".xml"), label_studio_interface(study))


@contextmanager
def _store(directory: Path) -> Iterator[Store]:
    """The answers of a study.

    Raises:
        InputError: they cannot be read or written.
    """
    store = Store(directory)
    try:
        yield store
    except sqlite3.Error as error:
        raise InputError(f"{directory / DATABASE}: nothing was changed ({error}); try again") from None
    finally:
        store.close()


# ------------------------------------------------------------------------------------------------------------- people


def add(config: StudyAddRatersConfig) -> tuple[tuple[Rater, ...], int]:
    """Add raters; see `people.add_raters`."""
    read_study(config.study)
    with _store(config.study) as store:
        answers = collect(read_study(config.study), store.entries())
    return add_raters(
        config.study,
        answers,
        config.number,
        replacing=config.replacing,
        raters_per_item=config.raters_per_item,
    )


def withdraw(config: StudyWithdrawConfig) -> int:
    """Delete all that a rater left; returns how many answers there were. A command that was killed may be given again.

    Raises:
        InputError: there is no such rater, or the answers cannot be written now.
    """
    known_rater(read_study(config.study), config.rater)
    with _store(config.study) as store:
        mark_withdrawn(config.study, config.rater)  # first, so that nothing comes in any more
        return store.forget(config.rater)


# ---------------------------------------------------------------------------------------------------------- analyzing


_RESULTS = {"preference": results.PreferenceStudy, "count": results.CountStudy, "rating": results.RatingStudy}


def analyze(
    config: StudyAnalyzeConfig,
) -> tuple[Path, results.PreferenceStudy | results.CountStudy | results.RatingStudy]:
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
        least_pace=config.least_pace,
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
        _RESULTS[study.kind],
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
        InputError: no study, one that another process serves, packages that are missing, a port that is taken, or no address
            to give to raters.
    """
    try:
        from ifuvit.studies import connections
        from ifuvit.studies.server import make_app
    except ImportError as error:
        raise InputError(f"serving requires more packages ({error.name}): pip install 'ifuvit[study]'") from None

    study = read_study(config.study)
    with lock(config.study / DATABASE, flag="study"):
        url = config.url.rstrip("/") if config.url else f"http://{address(config.host)}:{config.port}"
        try:
            family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
            listening = socket.create_server((config.host, config.port), family=family, backlog=128)
        except OSError as error:
            raise InputError(
                f"--host {config.host} --port {config.port}: cannot listen there ({error.strerror})"
            ) from None
        app = make_app(
            config.study,
            url=url,
            participant_parameter=config.participant_parameter,
            completion_code=config.completion_code,
            completion_url=config.completion_url,
        )
        say(f"raters reach the study at {url}")
        say(f"your own page, with every rater's link: {url}/owner/{study.owner_token}/")
        if config.host not in ("127.0.0.1", "localhost", "::1"):
            say("others can reach this server; links and answers travel unencrypted unless a proxy encrypts them")
        elif config.url is None:
            say("only this machine can reach it; for colleagues in the same network give --host 0.0.0.0")
        connections.run(app, listening)


def address(host: str) -> str:
    """The host as it stands in links: for one that means all of the machine's addresses, the one in its network.

    Raises:
        InputError: the machine has no such address.
    """
    if host not in _EVERYWHERE:
        return f"[{host}]" if ":" in host else host
    family, anywhere = _EVERYWHERE[host]
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((anywhere, 9))  # of a datagram socket: nothing is sent, but the way out is looked up
            found = ipaddress.ip_address(probe.getsockname()[0].partition("%")[0])
    except OSError:
        found = None
    if found is None or found.is_loopback or found.is_unspecified:
        raise InputError(
            f"--host {host}: this machine's address in a network is not known; give --url http://ADDRESS:PORT as raters reach it"
        )
    return f"[{found}]" if found.version == 6 else str(found)


_EVERYWHERE = {
    "0.0.0.0": (socket.AF_INET, "192.0.2.1"),
    "": (socket.AF_INET, "192.0.2.1"),
    "::": (socket.AF_INET6, "2001:db8::1"),
}
"""Hosts that mean all addresses, and an address (of documentation's own networks) that lies outside."""
