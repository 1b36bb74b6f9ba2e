"""Where the report's numbers come from: every result file with its protocol and all its choices."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ifuvit.reporting.measured import evaluation_table
from ifuvit.reporting.results import Estimate, Results
from ifuvit.reporting.tables import Table


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


def sources(results: Results) -> list[Source]:
    """Every file that numbers of the report come from."""
    found = [
        Source(
            file=one.file,
            what=f"Evaluation of {one.name}",
            protocol=_protocol(one.protocol, one.data),
            facts=_facts(
                protocol=one.protocol,
                data=one.data,
                target=one.target,
                setting=one.target.get("setting") or {},
                run={"device": one.device, "finished": one.finished},
            ),
            table=evaluation_table(one),
        )
        for one in results.evaluations
    ]
    for one in results.judgments:
        found.append(
            Source(
                file=one.file,
                what=f"Objects counted in {one.name}",
                protocol=one.about,
                facts=_facts(counter=one.counter or {}),
            )
        )
    for one in results.studies:
        answered, expected = one.answers["answered"], one.answers["expected"]
        told = f"{answered:,} of {expected:,} answers, by {len(one.raters)} raters"
        found.append(Source(file=one.file, what=f"Human study ({one.kind}): {one.name}", protocol=told))
    for one in results.sweeps:
        protocol = dict(one.protocol) | one.protocol.get("sampling", {})
        protocol.pop("guidance_scale", None)
        protocol.pop("sampling", None)
        protocol |= {"name": str(protocol.get("name")).partition(", changed: guidance_scale")[0]}
        found.append(
            Source(
                file=one.file,
                what="Sweep over guidance scales",
                protocol=_protocol(protocol, one.data),
                facts=_facts(protocol=protocol, data=one.data),
            )
        )
    for one in results.experiments:
        done = sum(run.get("status") == "done" for run in one.runs)
        told = f"scale {one.scale}; seeds {', '.join(map(str, one.seeds))}; {done} of {len(one.runs)} runs done"
        found.append(
            Source(
                file=one.file,
                what=f"Experiment {one.name}: {one.title}",
                protocol="; ".join(filter(None, (told, _protocol(one.protocol, one.data)))),
                facts=_facts(protocol=one.protocol, data=one.data),
            )
        )
    for one in results.trainings:
        images = f"; evaluations during training: {one.images:,} images each" if one.images else ""
        found.append(
            Source(file=one.file, what=f"Training of {one.name}", protocol=f"log of {one.steps:,} steps{images}")
        )
    for one in results.costs:
        told = "counted from the settings alone: parameters and 2 x multiply-adds"
        found.append(Source(file=one.file, what="Costs", protocol=told))
    for one in results.benches:
        source = Source(
            file=one.file, what=f"Speed: bench {one.action}", protocol=one.machine, facts=_facts(run=one.choices)
        )
        found.append(source)
    return found


_SIDES = {"captioned": "against the captions' own images", "all": "against all images of the split"}


def _protocol(protocol: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """The choices that matter most, in a sentence."""
    told = []
    sampling = protocol.get("sampling", protocol)  # results once had its fields in the protocol itself
    for key, text in (
        ("name", "protocol {}"),
        ("images", "{:,} images"),
        ("solver", "{}"),
        ("steps", "{} steps"),
        ("guidance_scale", "w = {:g}"),
        ("start", "from {}"),
        ("initial_latents", "from {}"),
        ("seed", "seed {}"),
    ):
        if (value := protocol.get(key, sampling.get(key))) is not None:
            told.append(text.format(value))
    if protocol.get("reference") in _SIDES:
        told.append(_SIDES[protocol["reference"]])
    if data.get("where"):
        told.append(f"data {data['where']}" + (f" ({data['split']})" if data.get("split") else ""))
    if sets := protocol.get("count_prompts"):
        counted = ", ".join(f"{name} x {images}" for name, images in sets)
        told.append(f"counting prompts: {counted}; w = {protocol['count_guidance_scale']:g}")
    return "; ".join(told)


def _facts(**sets: Mapping[str, Any]) -> dict[str, str]:
    """Plain values by name, with what they belong to."""
    return {
        f"{of}: {key.replace('_', ' ')}": _word(value)
        for of, values in sets.items()
        for key, value in values.items()
        if value is not None and value != "" and not isinstance(value, (dict, Estimate))
    }


def _word(value: Any) -> str:
    return ", ".join(map(_word, value)) if isinstance(value, list) else str(value)
