"""Where the report's numbers come from: every result file with its protocol and all its choices."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ifuvit.reporting.collection import Collection
from ifuvit.reporting.experiment_section import evaluation_table
from ifuvit.reporting.speed_section import machine
from ifuvit.reporting.tables import Table
from ifuvit.results import ReferenceData, Values
from ifuvit.utils.config import to_dict


@dataclass(frozen=True, kw_only=True)
class Source:
    """One result file."""

    file: Path
    what: str
    protocol: str
    """In a sentence."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """Every choice by name."""
    table: Table | None = None
    """All its numbers, if they stand nowhere else."""


def sources(found: Collection) -> list[Source]:
    """Every file that numbers of the report come from."""
    return [
        *_evaluations(found),
        *_studies(found),
        *_sweeps(found),
        *_experiments(found),
        *_analyses(found),
        *_trainings(found),
        *_costs_and_speed(found),
    ]


def _evaluations(found: Collection) -> Iterator[Source]:
    for one in found.evaluations:
        result = one.result
        target = to_dict(result.target)
        yield Source(
            file=one.file,
            what=f"Evaluation of {one.name}" if result.metrics else f"Objects counted in {one.name}",
            protocol=_sentence(result.protocol, result.data),
            facts=_facts(
                protocol=result.protocol,
                data=_data(result.data),
                target={key: value for key, value in target.items() if key != "model"},
                model=result.target.model or {},
                counter={} if result.counter is None else to_dict(replace(result.counter, errors={})),
                run={"device": result.device, "finished": result.finished},
            ),
            table=evaluation_table(one) if result.metrics else None,
        )


def _studies(found: Collection) -> Iterator[Source]:
    for one in found.studies:
        answers = one.result.answers
        told = f"{answers.answered:,} of {answers.expected:,} answers, by {len(one.result.raters)} raters"
        yield Source(file=one.file, what=f"{one.result.kind.capitalize()}: {one.name}", protocol=told)


def _sweeps(found: Collection) -> Iterator[Source]:
    for one in found.sweeps:
        sentence = _sentence(one.result.protocol, one.result.data, scale=False)
        facts = _facts(protocol=one.result.protocol or {}, data=_data(one.result.data))
        yield Source(file=one.file, what="Sweep over guidance scales", protocol=sentence, facts=facts)


def _analyses(found: Collection) -> Iterator[Source]:
    for one in found.analyses:
        result = one.result
        models = "; ".join(f"{model.name} ({model.setting})" for model in result.models)
        told = f"{models}; {len(result.prompts)} prompts" if result.prompts else models
        weights = {model.name: model.sha256 for model in result.models}
        yield Source(
            file=one.file,
            what=f"Analysis: {result.action}",
            protocol=told,
            facts=_facts(config=result.config, weights=weights, run={"finished": result.finished}),
        )


def _experiments(found: Collection) -> Iterator[Source]:
    for one in found.experiments:
        result = one.result
        done = sum(run.status == "done" for run in result.runs)
        seeds = ", ".join(map(str, result.seeds))
        failed = sum(run.status == "failed" for run in result.runs)
        told = f"scale {result.scale}; seeds {seeds}; {done} of {len(result.runs)} runs done"
        told += f", {failed} failed" if failed else ""
        told += f"; {result.recipe} recipe" if result.recipe else ""
        sentence = _sentence(result.protocol, result.data, scale=not result.points)
        yield Source(
            file=one.file,
            what=f"Experiment {result.name}: {result.title}",
            protocol="; ".join(filter(None, (told, sentence))),
            facts=_facts(protocol=result.protocol or {}, data=_data(result.data)),
        )


def _trainings(found: Collection) -> Iterator[Source]:
    for one in found.trainings:
        evaluations = one.result.evaluations
        images = f"; evaluations during training: {evaluations[-1][1].images:,} images each" if evaluations else ""
        told = f"log of {one.result.steps:,} steps{images}"
        yield Source(file=one.file, what=f"Training of {one.name}", protocol=told)


def _costs_and_speed(found: Collection) -> Iterator[Source]:
    for one in found.costs:
        told = "counted from the settings alone: parameters and 2 x multiply-adds"
        yield Source(file=one.file, what="Costs", protocol=told)
    for one in found.benchmarks:
        choices = {key: value for key, value in one.result.config.items() if key != "out"}
        told, facts = machine(one.result), _facts(run=choices)
        yield Source(file=one.file, what=f"Speed: bench {one.result.action}", protocol=told, facts=facts)
    for one in found.curves:
        runs = len(one.result.curves)
        told = f"logs of {runs} training run{'s' if runs > 1 else ''}"
        yield Source(file=one.file, what="Learning curves: bench quality", protocol=told)


# ---------------------------------------------------------------------------------------------------------------- words

_SAMPLING = {
    "solver": "{}",
    "steps": "{} steps",
    "guidance_scale": "w = {}",
    "initial_latents": "initial latents: {}",
}
_REFERENCES = {"captioned": "against the captions' own images", "all": "against all images of the split"}


def sampling_words(sampling: Values, seed: Any = None, *, scale: bool = True) -> list[str]:
    """The choices of a sampler that matter most, one phrase each."""
    told = {key: sampling[key] for key in _SAMPLING if sampling.get(key) is not None}
    words = [_SAMPLING[key].format(_word(value)) for key, value in told.items() if scale or key != "guidance_scale"]
    return [*words, *([] if seed is None else [f"seed {seed}"])]


def _sentence(protocol: Values | None, data: ReferenceData | None, *, scale: bool = True) -> str:
    """The choices that matter most. Without `scale` the guidance scale, which is another one at every point."""
    told = []
    if protocol is not None:
        name = protocol["name"] if scale else protocol["name"].partition(", changed: ")[0]
        told.append(f"protocol {name}")
        if (number := protocol.get("num_images")) is not None:
            told.append(f"{_word(number)} images")
        sampling = protocol.get("sampling")
        if isinstance(sampling, Mapping):
            told += sampling_words(sampling, protocol.get("seed"), scale=scale)
        told += [words for name, words in _REFERENCES.items() if protocol.get("reference") == name]
    if data is not None:
        told.append(f"data {data.where}" + (f" ({data.split})" if data.split else ""))
    if protocol is not None and (sets := protocol.get("count_prompts")):
        told.append(f"counting prompts: {_word(sets)}; w = {_word(protocol.get('count_guidance_scale'))}")
    return "; ".join(told)


def _data(data: ReferenceData | None) -> Values:
    return {} if data is None else to_dict(data)


def _facts(**sets: Values) -> dict[str, str]:
    """Plain values by name, with what they belong to."""
    facts: dict[str, str] = {}
    for of, values in sets.items():
        for key, value in values.items():
            name = str(key).replace("_", " ")
            if isinstance(value, Mapping):
                facts |= _facts(**{f"{of}, {name}": value})
            elif value not in (None, "", [], ()):
                facts[f"{of}: {name}"] = _exact(value)
    return facts


def _exact(value: Any) -> str:
    """Any JSON value as it is; lists by commas, pairs of a name and a number as "paper x 10"."""
    match value:
        case [str() as name, int() as number]:
            return f"{name} x {number}"
        case list() | tuple():
            return ", ".join(map(_exact, value))
        case _:
            return str(value)


def _word(value: Any) -> str:
    """Any JSON value as people write it: 1,000 and 2 for 1000 and 2.0."""
    if type(value) is int:
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else _exact(value)
