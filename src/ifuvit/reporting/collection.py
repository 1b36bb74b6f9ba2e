"""The result files below the directories of a report, and what to call each on the page."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from ifuvit import results
from ifuvit.results import (
    Analysis,
    Benchmark,
    CountedCosts,
    CountStudy,
    Evaluation,
    ExperimentResult,
    GeneratedImages,
    LearningCurves,
    PreferenceStudy,
    RatingStudy,
    ReferenceData,
    Result,
    Sweep,
    TrainingRecord,
)
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import read_json

T = TypeVar("T")

# Directories of a run or a data set without results; larger files are annotations of a data set.
_NOT_RESULTS = {"checkpoints", "pipeline", "transformer", "vae", "annotations"}
_MAX_BYTES = 50_000_000
_KIND = re.compile(rf'"kind"\s*:\s*"({"|".join(results.KINDS)})"')
_UNCONVERTED = re.compile(r'"command"\s*:\s*"(evaluate|sweep|experiment|count judge|generate|study analyze|bench \w+)"')


@dataclass(frozen=True, kw_only=True)
class Item(Generic[T]):
    """A result with its file, and its name on the page."""

    file: Path
    result: T
    name: str
    apart: str = ""
    """What distinguishes it from others of its kind and name, in brackets; empty where there are none."""


@dataclass(frozen=True, kw_only=True)
class Collection:
    """All results of a report."""

    evaluations: tuple[Item[Evaluation], ...] = ()
    studies: tuple[Item[PreferenceStudy | CountStudy | RatingStudy], ...] = ()
    sweeps: tuple[Item[Sweep], ...] = ()
    experiments: tuple[Item[ExperimentResult], ...] = ()
    trainings: tuple[Item[TrainingRecord], ...] = ()
    costs: tuple[Item[dict[str, CountedCosts]], ...] = ()
    benchmarks: tuple[Item[Benchmark], ...] = ()
    curves: tuple[Item[LearningCurves], ...] = ()
    images: tuple[Item[GeneratedImages], ...] = ()
    analyses: tuple[Item[Analysis], ...] = ()

    @property
    def alone(self) -> list[Item[Evaluation]]:
        """Evaluations that are not part of an experiment."""
        inside = {(one.file.parent / run.result).resolve() for one in self.experiments for run in one.result.runs}
        return [one for one in self.evaluations if one.file.resolve() not in inside]

    @property
    def measured(self) -> "list[Item[Evaluation]]":
        """Evaluations with metrics; the others have only counted objects."""
        return [one for one in self.evaluations if one.result.metrics]


def collect(directories: Sequence[Path]) -> Collection:
    """All results in and below `directories`, in the order given, files of one directory by name.

    Raises:
        InputError: a directory is missing, a result is broken, or there is none at all.
    """
    found: dict[Path, Item] = {}
    for file in _files(directories):
        for item in _read(file):
            found.setdefault(item.file.resolve(), item)
    if not found:
        where = ", ".join(map(str, directories))
        raise InputError(f"{where}: no results; make some with `ifuvit evaluate MODEL --data DIR --out RESULT.json`")

    def of(*kinds: type) -> tuple[Item, ...]:
        return tuple(item for item in found.values() if isinstance(item.result, kinds))

    return _without_parts(
        Collection(
            evaluations=of(Evaluation),
            studies=of(PreferenceStudy, CountStudy, RatingStudy),
            sweeps=of(Sweep),
            experiments=of(ExperimentResult),
            trainings=of(TrainingRecord),
            costs=of(dict),
            benchmarks=of(Benchmark),
            curves=of(LearningCurves),
            images=of(GeneratedImages),
            analyses=of(Analysis),
        )
    )


def _without_parts(found: Collection) -> Collection:
    """Leave out the parts of sweeps and experiments, whose tables have their numbers, but for an experiment's first seed,
    whose counts, images and losses are shown. The same weights under the same protocol stand once."""
    parts = {
        (sweep.file.parent / point.result).resolve()
        for sweep in found.sweeps
        for point in sweep.result.points
        if point.result is not None
    }
    shown: set[Path] = set()
    for one in found.experiments:
        for run in one.result.runs:
            files = {(one.file.parent / path).resolve() for path in (run.result, run.run)}
            first = run.seed == one.result.seeds[0]
            if first:
                shown |= files
            if not first or one.result.points:
                parts |= files
    evaluations: list[Item[Evaluation]] = []
    left_out: list[Item[Evaluation]] = []
    alone = found.alone
    for one in sorted(found.evaluations, key=lambda one: one not in alone):
        if one.file.resolve() in parts or any(_same(one.result, other.result) for other in evaluations):
            left_out.append(one)
            continue
        if any(one.name == other.name for other in evaluations):
            one = replace(one, name=f"{one.name} ({_place(one.file, one.name)})")
        evaluations.append(one)
    later_seeds = parts - shown
    unseen = {
        (one.file.parent / one.result.images).resolve().parent for one in left_out if one.result.images is not None
    }
    return replace(
        found,
        evaluations=tuple(evaluations),
        sweeps=tuple(one for one in found.sweeps if one.file.resolve() not in parts),
        experiments=_told_apart(found.experiments, lambda one: (one.result.name, one.result.scale), "experiment"),
        trainings=_named_apart(one for one in found.trainings if one.file.resolve().parent not in later_seeds),
        benchmarks=_told_apart(found.benchmarks, lambda one: one.result.action),
        analyses=_told_apart(found.analyses, lambda one: one.result.action),
        images=tuple(one for one in found.images if one.file.resolve().parent.parent not in unseen),
    )


def _same(one: Evaluation, other: Evaluation) -> bool:
    """Whether both evaluate the same weights in the same way."""
    known = one.target.sha256 is not None and one.target.sha256 == other.target.sha256
    return known and (one.protocol, _sha256(one.data)) == (other.protocol, _sha256(other.data))


def _sha256(data: ReferenceData | None) -> str | None:
    return data and data.sha256


def _told_apart(items: Sequence[Item[T]], key: Callable[[Item[T]], object], name: str = "") -> tuple[Item[T], ...]:
    """Items with the same key distinguished by their places."""
    alike = Counter(map(key, items))
    return tuple(
        replace(one, apart=f" ({_place(one.file, name or one.name)})") if alike[key(one)] > 1 else one for one in items
    )


def _named_apart(runs: Iterable[Item[T]]) -> tuple[Item[T], ...]:
    """Runs, those of one name with the nearest directory above that is named otherwise."""
    listed = tuple(runs)
    alike = Counter(one.name for one in listed)

    def above(one: Item[T]) -> str:
        parts = reversed(one.file.resolve().parent.parts)
        return next((part for part in parts if part != one.name), "/")

    return tuple(replace(one, name=f"{one.name} ({above(one)})") if alike[one.name] > 1 else one for one in listed)


def _place(file: Path, name: str) -> str:
    """What distinguishes a file from others of the same name: its own, or the directory of the experiment it belongs to."""
    return next(part for part in (file.stem, *reversed(file.resolve().parent.parts)) if part not in (name, "results"))


def _files(directories: Sequence[Path]) -> Iterator[Path]:
    for directory in directories:
        if not directory.is_dir():
            raise InputError(f"{directory}: no such directory")
        for root, folders, names in os.walk(directory):
            folders[:] = sorted(name for name in folders if name not in _NOT_RESULTS and not name.startswith("."))
            yield from (
                Path(root) / name for name in sorted(names) if name.endswith(".json") or name == "metrics.jsonl"
            )


def _read(file: Path) -> Iterator[Item]:
    if file.name == "metrics.jsonl":
        if (record := results.read_training(file)) is not None:
            yield Item(file=file, result=record, name=file.resolve().parent.name)
        return
    if file.stat().st_size > _MAX_BYTES:
        return
    text = file.read_text(encoding="utf-8", errors="replace")
    if file.name == "costs.json" and '"guided_step_gflops"' in text:
        yield Item(file=file, result=results.read_costs(file), name="costs")
        return
    if not _KIND.search(text):
        if (match := _UNCONVERTED.search(text)) and _is_unconverted(file):
            raise InputError(
                f"{file}: written by `ifuvit {match[1]}` before result files had a schema; convert it with "
                "tools/convert_results.py"
            )
        return
    if not results.is_result(read_json(file)):
        return
    result = results.from_file(file)
    yield Item(file=file, result=result, name=_name(file, result))
    if isinstance(result, Evaluation) and result.images is not None:
        if (images := file.parent / result.images / "manifest.json").is_file():
            yield from _read(images)


def _is_unconverted(file: Path) -> bool:
    value = read_json(file)
    return isinstance(value, dict) and _UNCONVERTED.fullmatch(f'"command":"{value.get("command")}"') is not None


def _name(file: Path, result: Result) -> str:
    match result:
        case Evaluation():
            return result.target.name
        case GeneratedImages():
            return Path(result.model).name
        case PreferenceStudy() | CountStudy() | RatingStudy() | ExperimentResult():
            return result.name
        case Benchmark() | Analysis():
            return result.action
        case _:
            return file.stem
