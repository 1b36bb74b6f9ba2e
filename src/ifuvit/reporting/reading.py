"""Reading result files below the directories of a report."""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ifuvit.reporting.results import (
    Bench,
    Claim,
    Costs,
    Estimate,
    Evaluation,
    Experiment,
    ExperimentRow,
    HumanStudy,
    Images,
    Judgment,
    Results,
    Setting,
    Sweep,
    SweepPoint,
    Training,
)
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import read_json, sha256

_OURS = re.compile(r'"command"\s*:\s*"(evaluate|sweep|experiment|count judge|generate|study analyze|bench \w+)"')
# What a run or a data set holds besides results; larger files are annotations of a data set.
_NOT_RESULTS = {"checkpoints", "pipeline", "transformer", "vae", "annotations"}
_MAX_BYTES = 50_000_000


def read_results(directories: Sequence[Path]) -> Results:
    """All results in and below `directories`, in the order given, files of one directory by name.

    Raises:
        InputError: a directory is missing, a result is broken, or there is none at all.
    """
    found: dict[str, dict[Any, Any]] = {name: {} for name in Results.__dataclass_fields__}
    for file in _files(directories):
        for result in _read(file):
            kind = _KINDS[type(result)]
            found[kind].setdefault(_identity(result), result)
    if not any(found.values()):
        where = ", ".join(map(str, directories))
        raise InputError(f"{where}: no results; make some with `ifuvit evaluate MODEL --data DIR --out RESULT.json`")
    return _without_parts(Results(**{kind: tuple(values.values()) for kind, values in found.items()}))


def read_study(file: Path) -> HumanStudy:
    """The result that `ifuvit study analyze` wrote.

    Raises:
        InputError: it is missing or broken.
    """
    with _reading(file, "result of `ifuvit study analyze`"):
        return _study(file, _estimates(read_json(file)))


def read_bench(file: Path) -> Bench:
    """The result that `ifuvit bench` wrote.

    Raises:
        InputError: it is missing or broken.
    """
    with _reading(file, "result of `ifuvit bench`"):
        return _bench(file, _estimates(read_json(file)))


def _without_parts(results: Results) -> Results:
    """What a sweep or an experiment has made is told by its table: its parts are left out, but for the evaluations of an
    experiment's first seed, whose counts, images and losses are shown. The same weights under the same protocol stand once."""
    parts = {point.result.resolve() for sweep in results.sweeps for point in sweep.points if point.result is not None}
    shown: set[Path] = set()
    for experiment in results.experiments:
        for run in experiment.runs:
            files = {(experiment.file.parent / run[key]).resolve() for key in ("result", "run")}
            if run["seed"] == experiment.seeds[0]:
                shown |= files
            if run["seed"] != experiment.seeds[0] or experiment.points:
                parts |= files
    evaluations: list[Evaluation] = []
    left_out: list[Evaluation] = []
    alone = results.alone
    for one in sorted(results.evaluations, key=lambda one: one not in alone):
        if one.file.resolve() in parts or any(one.same_as(other) for other in evaluations):
            left_out.append(one)
            continue
        if any(one.name == other.name for other in evaluations):
            one = replace(one, name=f"{one.name} ({_place(one.file, one.name)})")
        evaluations.append(one)
    later_seeds = parts - shown
    models = {sha256(one.directory / "manifest.json"): one.name for one in results.images}
    unseen = {one.images.resolve().parent for one in left_out if one.images is not None}
    alike = Counter((one.name, one.scale) for one in results.experiments)
    actions = Counter(one.action for one in results.benches)
    return replace(
        results,
        experiments=tuple(
            replace(one, apart=f" ({_place(one.file, 'experiment')})") if alike[one.name, one.scale] > 1 else one
            for one in results.experiments
        ),
        benches=tuple(
            replace(one, apart=f" ({_place(one.file, one.action)})") if actions[one.action] > 1 else one
            for one in results.benches
        ),
        evaluations=tuple(evaluations),
        judgments=tuple(
            replace(one, name=f"{models[one.images]} ({one.name})") if one.images in models else one
            for one in results.judgments
        ),
        sweeps=tuple(one for one in results.sweeps if one.file.resolve() not in parts),
        trainings=tuple(run for run in results.trainings if run.file.resolve().parent not in later_seeds),
        images=tuple(one for one in results.images if one.directory.resolve().parent not in unseen),
    )


def _place(file: Path, name: str) -> str:
    """What tells a file from others of the same result's name: its own, or the directory of the experiment it belongs to."""
    return next(part for part in (file.stem, *reversed(file.resolve().parent.parts)) if part not in (name, "results"))


_KINDS = {
    Evaluation: "evaluations",
    Judgment: "judgments",
    HumanStudy: "studies",
    Sweep: "sweeps",
    Experiment: "experiments",
    Training: "trainings",
    Costs: "costs",
    Bench: "benches",
    Images: "images",
}


def _identity(result: Any) -> Path:
    return (result.directory if isinstance(result, Images) else result.file).resolve()


def _files(directories: Sequence[Path]) -> Iterator[Path]:
    seen = set()
    for directory in directories:
        if not directory.is_dir():
            raise InputError(f"{directory}: no such directory")
        for root, folders, names in os.walk(directory):
            folders[:] = sorted(name for name in folders if name not in _NOT_RESULTS and not name.startswith("."))
            for name in sorted(names):
                file = Path(root) / name
                if (name.endswith(".json") or name == "metrics.jsonl") and (real := file.resolve()) not in seen:
                    seen.add(real)
                    yield file


@contextmanager
def _reading(file: Path, what: str) -> Iterator[None]:
    """Whatever does not fit a result's form is the file's fault."""
    try:
        yield
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{file}: not a whole {what} ({reason}); make it again") from None


def _read(file: Path) -> Iterator[Any]:
    if file.name == "metrics.jsonl":
        training = _training(file)
        if training is not None:
            yield training
        return
    if file.stat().st_size > _MAX_BYTES:
        return
    text = file.read_text(encoding="utf-8", errors="replace")
    if file.name == "costs.json" and '"guided_step_gflops"' in text:
        with _reading(file, "output of `ifuvit costs --json`"):
            yield Costs(file=file, rows={str(name): _cost(row) for name, row in read_json(file).items()})
        return
    if not (match := _OURS.search(text)):
        return
    value = read_json(file)
    command = value.get("command") if isinstance(value, dict) else match[1]
    with _reading(file, f"result of `ifuvit {command}`"):
        value = _estimates(value)
        if command == "evaluate" and file.name == "manifest.json" and "settings" in value:
            yield _drawn(file, value)
        elif command == "evaluate":
            evaluation = _evaluation(file, value)
            yield evaluation
            if evaluation.images and (manifest := evaluation.images / "manifest.json").is_file():
                yield from _read(manifest)
        elif command == "count judge":
            yield _judgment(file, value)
        elif command == "study analyze":
            yield _study(file, value)
        elif command == "sweep":
            yield _sweep(file, value)
        elif command == "experiment":
            yield _experiment(file, value)
        elif str(command).startswith("bench "):
            yield _bench(file, value)
        elif command == "generate" and file.name == "manifest.json" and value.get("images"):
            yield _generated(file, value)


def _estimates(value: Any) -> Any:
    """The same JSON value with every {"value", "interval", ...} in it an Estimate."""
    if isinstance(value, list):
        return [_estimates(item) for item in value]
    if not isinstance(value, dict):
        return value
    if not {"value", "interval"} <= value.keys():
        return {key: _estimates(item) for key, item in value.items()}
    known = dict(value)
    floor, real = known.pop("floor", None), known.pop("real", None)
    how = None
    if floor is not None:
        real, how = floor["value"], floor["how"]
    elif isinstance(real, dict):
        real, how = real["value"], real["how"]
    elif real is not None:
        how = "the real pairs"
    interval = known.pop("interval")
    return Estimate(
        value=float(known.pop("value")),
        interval=None if interval is None else (float(interval[0]), float(interval[1])),
        interval_from=known.pop("interval_from", None),
        n=known.pop("n", None),
        real=None if real is None else float(real),
        real_how=how,
        further=known,
    )


def _metrics(value: Any) -> dict[str, Estimate]:
    """Metrics by name: what is no estimate is refused."""
    if bad := [name for name, one in value.items() if not isinstance(one, Estimate)]:
        raise ValueError(f"{bad[0]!r} is not of the form {{value, interval, ...}}")
    return dict(value)


def _setting(value: Mapping[str, Any]) -> Setting:
    n_image = value["n_image"]
    return Setting(
        conditioning=value["conditioning"],
        n_text=value["n_text"],
        n_image=n_image if isinstance(n_image, int) else (int(n_image[0]), int(n_image[1])),
    )


def _cost(row: Any) -> dict[str, Any]:
    """A row of costs, with at least what `ifuvit costs` counts."""
    memory = row.get("training_memory")
    return {
        "parameters": int(row["parameters"]),
        "gflops": {key: float(row["gflops"][key]) for key in ("without_attention", "with_attention")},
        "guided_step_gflops": {key: float(row["guided_step_gflops"][key]) for key in ("plain", "shared")},
        "training_memory": memory
        and {
            "step": f"a step of {memory['batch_size']} in {memory['precision']}",
            **{way: int(memory[way]["peak"]) / 2**30 for way in ("plain", "checkpointed")},
        },
    }


def _scores(value: Any) -> Any:
    """Counts or relations, checked as far as tables need them."""
    if value is None:
        return None
    groups = [value["overall"]]
    groups += [group for name, by in value.items() if name.startswith("by_") for group in by.values()]
    for of_kind in value.get("cells", {}).values():
        groups += [group for count, group in of_kind.items() if int(count)]
    for group in groups:
        int(group["images"])
    if "confusion" in value:
        columns = len(value["confusion"]["counted"])
        if any(len(row) != columns for row in value["confusion"]["asked"].values()):
            raise ValueError("a row of the confusion matrix has another length than its heading")
    return value


def _evaluation(file: Path, value: Any) -> Evaluation:
    target = value["target"]
    return Evaluation(
        file=file,
        name=target["name"],
        kind=target["kind"],
        setting=_setting(target["setting"]) if target.get("setting") else None,
        target=target,
        protocol={"name": value["protocol"]["name"], **value["protocol"]},
        data=dict(value["data"]),
        metrics=_metrics(value["metrics"]),
        counts=_scores(value.get("counts")),
        all_kinds=_scores(value.get("all_kinds")),
        relations=_scores(value.get("relations")),
        held_out={key: _scores(scores) for key, scores in (value.get("held_out") or {}).items()},
        counter=value.get("counter"),
        costs=dict(value.get("costs") or {}),
        images=file.parent / value["images"] if value.get("images") else None,
        finished=value.get("finished"),
        device=value.get("device"),
    )


def _judgment(file: Path, value: Any) -> Judgment:
    return Judgment(
        file=file,
        name=Path(value["generated"]["directory"]).name if "generated" in value else file.stem,
        counts=_scores(value["counts"]),
        relations=_scores(value["relations"]),
        counter=value.get("counter"),
        thresholds=tuple(value.get("sweep") or ()),
        about=f"{value['judged']:,} of {value['images']:,} images judged",
        images=value.get("generated", {}).get("manifest_sha256", ""),
    )


def _study(file: Path, value: Any) -> HumanStudy:
    scores = ("points", "strengths", "best", "slots") if value["kind"] == "preference" else ("models", "cells_won")
    for numbers in filter(None, (value["everyone"], value["without_flagged"])):
        for key in (*scores, "agreement", "self_consistency"):
            dict(numbers[key])
    return HumanStudy(
        file=file,
        name=Path(value["study"]["directory"]).name or value["study"]["title"],
        kind=value["kind"],
        answers=dict(value["answers"]),
        raters=tuple(dict(row) for row in value["raters"]),
        least_passed=float(value["least_passed"]),
        everyone=dict(value["everyone"]),
        without_flagged=value["without_flagged"],
        counter=(value.get("counter") or {}).get("name"),
    )


def _sweep(file: Path, value: Any) -> Sweep:
    return Sweep(
        file=file,
        protocol=dict(value["protocol"] or {}),
        data=dict(value.get("data") or {}),
        points=tuple(
            SweepPoint(
                model=str(point["model"]),
                guidance_scale=float(point["guidance_scale"]),
                result=file.parent / point["result"] if point.get("result") else None,
                metrics=_metrics(point["metrics"]),
            )
            for point in value["points"]
        ),
        missing=len(value.get("missing") or ()),
    )


def _experiment(file: Path, value: Any) -> Experiment:
    return Experiment(
        file=file,
        name=value["name"],
        title=value.get("title") or value["name"],
        scale=value["scale"],
        seeds=tuple(value["seeds"]),
        runs=tuple({key: run[key] for key in ("setting", "seed", "run", "result", "status")} for run in value["runs"]),
        protocol=dict(value.get("protocol") or {}),
        data=dict(value.get("data") or {}),
        rows=tuple(
            ExperimentRow(
                name=row["setting"],
                setting=_setting(row),
                guidance_scale=row.get("guidance_scale"),
                seeds=tuple(row.get("seeds", value["seeds"])),
                metrics=_metrics(row["metrics"]),
                costs=dict(row.get("costs") or {}),
            )
            for row in value["table"]
        ),
        claims=tuple(
            Claim(
                text=claim["claim"],
                metric=claim["metric"],
                difference=claim["difference"],
                holds=claim["holds"],
                clear=claim["clear"],
            )
            for claim in value.get("claims") or ()
        ),
    )


_BENCH_ROW = {"name", "unit", "items_per_second", "flops_per_second", "share_of_peak", "peak_memory", "speedup"}


def _bench(file: Path, value: Any) -> Bench:
    for contest in value["results"].values():
        for row in contest["rows"]:
            if missing := _BENCH_ROW - row.keys():
                raise KeyError(min(missing))
            float(row["seconds"]["median"])
        for setting in contest.get("growth", {}).get("settings", {}).values():
            for point in setting["points"]:
                _metrics({"relative_seconds": point["relative_seconds"]})
                float(point["relative_flops"])
    hardware = value["hardware"]
    return Bench(
        file=file,
        action=value["command"].removeprefix("bench "),
        machine=f"{hardware['name']} ({hardware['device']}{_instructions(hardware)}), {hardware['threads']} threads, "
        f"torch {hardware['torch']}"
        + ("; the processor's time of one thread" if value["config"].get("clock") == "processor" else ""),
        choices={key: choice for key, choice in value["config"].items() if key != "out"},
        contests=dict(value["results"]),
    )


def _instructions(hardware: Mapping[str, Any]) -> str:
    bf16 = hardware.get("bf16_instructions")
    return "" if bf16 is None else f", with{'' if bf16 else 'out'} bf16 instructions"


def _training(file: Path) -> Training | None:
    """None for a log of something else (make-standin autoencoder's)."""
    loss, validation, evaluations, images = [], [], [], None
    with _reading(file, "log of `ifuvit train`"):
        lines = file.read_text(encoding="utf-8").splitlines()
        for number, text in enumerate(lines, start=1):
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                if number == len(lines):  # of a run that goes on, or was killed
                    break
                raise ValueError(f"line {number} is not JSON") from None
            step = int(line["step"])
            if "psnr" in line:
                return None
            if "loss" in line:
                loss.append((step, float(line["loss"])))
            if "validation_loss" in line:
                validation.append((step, float(line["validation_loss"])))
            if "evaluation" in line:
                images = line["evaluation"].get("images")
                evaluations.append((step, _metrics(_estimates(line["evaluation"]["metrics"]))))
    if not (loss or validation or evaluations):
        return None
    return Training(
        file=file,
        name=file.resolve().parent.name,
        loss=tuple(loss),
        validation=tuple(validation),
        evaluations=tuple(evaluations),
        images=images,
    )


def _images(value: Any) -> tuple[tuple[int, str, str], ...]:
    return tuple((int(one["index"]), str(one["prompt"]), str(one["file"])) for one in value["images"])


def _choices(settings: Mapping[str, Any]) -> dict[str, Any]:
    told = {key: settings[key] for key in ("seed", "solver", "steps", "guidance_scale")}
    return {**told, "start": settings.get("start", "noise")}  # before there was a choice, all started from noise


def _generated(file: Path, value: Any) -> Images:
    config = value["config"]
    return Images(
        directory=file.parent,
        name=Path(config["model"]).name,
        choices=_choices(config),
        images=_images(value),
    )


def _drawn(file: Path, value: Any) -> Images:
    """What an evaluation drew."""
    settings = value["settings"]
    return Images(
        directory=file.parent,
        name=value["of"]["name"],
        choices=_choices(settings),
        images=_images(value),
    )
