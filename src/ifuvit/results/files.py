"""Result files, written and read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from ifuvit.results.analysis import Analysis
from ifuvit.results.base import Result
from ifuvit.results.benchmarks import Benchmark, LearningCurves
from ifuvit.results.evaluation import Evaluation, GeneratedImages, Sweep
from ifuvit.results.experiments import ExperimentResult
from ifuvit.results.studies import CountStudy, PreferenceStudy, RatingStudy
from ifuvit.utils.config import from_dict, to_dict
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import read_json, seal, unseal, write_json

SCHEMA = 1
"""Goes up when a field changes its name or meaning; `tools/convert_results.py` brings older files up to date."""

KINDS: Mapping[str, type[Result]] = {
    cls.kind: cls
    for cls in (
        Evaluation,
        Sweep,
        GeneratedImages,
        ExperimentResult,
        Benchmark,
        LearningCurves,
        PreferenceStudy,
        CountStudy,
        RatingStudy,
        Analysis,
    )
}

R = TypeVar("R", bound=Result)


def to_json(result: Result) -> dict[str, Any]:
    """What the file of a result holds."""
    return {"schema": SCHEMA, "kind": result.kind, **to_dict(result)}


def write(path: str | Path, result: Result) -> None:
    """Write a result file, whole or not at all."""
    write_json(path, seal(to_json(result)))


def is_result(value: Any) -> bool:
    """Whether JSON values claim to be a result file of any schema."""
    return isinstance(value, dict) and "schema" in value and value.get("kind") in tuple(KINDS)


def from_json(value: Any, cls: type[R] = Result, *, where: str = "result") -> R:
    """The inverse of `to_json`.

    Args:
        cls: the wanted kind; `Result` takes all.
        where: names the source, in errors.

    Raises:
        InputError: another kind or schema, or not of its form.
    """
    if not is_result(value):
        raise InputError(f"{where}: not a result file of this package, or one of a version before it had a schema")
    kind = KINDS[value["kind"]]
    if not issubclass(kind, cls):
        wanted = " or ".join(name for name, one in KINDS.items() if issubclass(one, cls))
        raise InputError(f"{where}: holds a result of kind {value['kind']!r}, not {wanted!r}")
    if value["schema"] != SCHEMA:
        raise InputError(
            f"{where}: has schema {value['schema']!r}, but this version reads {SCHEMA}; convert it with "
            "tools/convert_results.py, or make it again"
        )
    value = unseal(value, where=where)
    return from_dict(kind, {key: one for key, one in value.items() if key not in ("schema", "kind")}, where=where)  # type: ignore[return-value]


def from_file(path: str | Path, cls: type[R] = Result) -> R:
    """Read a result file.

    Args:
        path: a JSON file.
        cls: the wanted kind; `Result` takes all.

    Raises:
        InputError: a file that is missing or broken, of another kind or schema, or not of its form.
    """
    return from_json(read_json(path), cls, where=str(path))
