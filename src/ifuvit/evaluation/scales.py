"""Evaluation of several models over several guidance scales: the paper's curve of distance against alignment (Fig. 3)."""

from pathlib import Path

from ifuvit import results
from ifuvit.evaluation import run
from ifuvit.evaluation.config import EvaluateConfig, labels
from ifuvit.evaluation.targets import fingerprint_of_pipeline
from ifuvit.shipped import find
from ifuvit.utils.config import to_dict
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import OutputDirectory, manifest, now

# Decide an evaluation's numbers besides the protocol, the data, the model and the evaluators' own facts.
_DECISIVE = ("metrics", "captions")


def evaluate_scales(config: EvaluateConfig) -> Path:
    """Evaluate every model at every guidance scale on the same captions and noise; points that are done already stay.
    Under `accelerate launch` or `torchrun` all processes call it together.

    sweep.json, a `results.Sweep`, is written after every point and is valid while points are missing.

    Returns:
        `config.out`.

    Raises:
        InputError: an unknown model, a directory that holds something else, or whatever `evaluate` refuses.
    """
    assert config.out is not None
    for target in config.targets:
        find(target)
    with OutputDirectory(config.out, "evaluate", record="sweep.json").lock():
        return _evaluate_scales(config, config.out)


def _evaluate_scales(config: EvaluateConfig, out: Path) -> Path:
    from ifuvit.utils.distributed import Processes

    started, points, names = now(), config.points(), labels(config.targets)
    data = reference_fingerprint(points[0])
    found = [finished(point, data) for point in points]
    processes, _ = Processes.init()
    processes.wait()  # all have looked before one writes

    def write() -> None:
        done = [(point, result) for point, result in zip(points, found) if result is not None]
        first = done[0][1] if done else None
        sweep = results.Sweep(
            **manifest("evaluate", to_dict(config), started=started),
            protocol=first and first.protocol,
            data=first and first.data,
            points=tuple(_point(config, point, names, result) for point, result in done),
            missing=tuple(_point(config, point, names) for point, result in zip(points, found) if result is None),
        )
        if processes.first:
            results.write(out / "sweep.json", sweep)

    write()
    for place, point in enumerate(points):
        if found[place] is None:
            found[place] = results.from_file(run.evaluate(point), results.Evaluation)
            write()
    return out


def finished(point: EvaluateConfig, data: str | None) -> results.Evaluation | None:
    """The result at `point.out` if evaluating it again would give the same one; None if there is none, or one of another
    protocol, other data, another model or other networks.

    Args:
        point: an evaluation of a model of this package.
        data: `reference_fingerprint` of it.

    Raises:
        InputError: a file at `point.out` that is not a result, or networks that cannot be loaded.
    """
    assert point.out is not None
    if not point.out.is_file():
        return None
    result = results.from_file(point.out, results.Evaluation)
    try:
        model = fingerprint_of_pipeline(find(point.targets[0]))
    except InputError:
        return None
    settings = to_dict(point)
    same = (
        result.protocol == to_dict(point.resolved_protocol())
        and all(result.config.get(key) == settings[key] for key in _DECISIVE)
        and (result.data and result.data.sha256) == data
        and result.target.fingerprint == model
        and result.evaluators == run.evaluator_facts(point)
    )
    return result if same else None


def reference_fingerprint(config: EvaluateConfig) -> str | None:
    """SHA-256 of the reference images of an evaluation, as its result has it."""
    from ifuvit.evaluation.reference_images import ReferenceImages

    if config.data is None:
        return None
    return ReferenceImages.open(config.data, split=config.resolved_protocol().split).fingerprint


def _point(
    config: EvaluateConfig, point: EvaluateConfig, names: dict[str, str], result: results.Evaluation | None = None
) -> results.SweepPoint:
    assert config.out is not None and point.out is not None
    return results.SweepPoint(
        model=names[point.targets[0]],
        guidance_scale=point.resolved_protocol().sampling.guidance_scale,
        result=None if result is None else str(point.out.relative_to(config.out)),
        metrics=() if result is None else result.metrics,
    )
