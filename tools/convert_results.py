"""Bring result files of earlier versions up to the present schema (`ifuvit.results.SCHEMA`), in place.

    python tools/convert_results.py PATH [PATH ...]

A PATH is a file, or a directory that is searched. Files without a schema number are those that `ifuvit` wrote before there was
one; no number changes. Files that are up to date, and files that are not results, stay as they are.
"""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ifuvit import results
from ifuvit.model.flops import cost_of
from ifuvit.model.settings import IFUViTConfig
from ifuvit.utils.config import from_dict, to_dict
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import read_json, write_json, write_text

_LOWER, _HIGHER = {"better": "lower"}, {"better": "higher"}
_DISTANCE = {"subject": "distance", **_LOWER, "decimals": 2}
_COVERAGE = {"subject": "coverage", **_HIGHER}
_SCORE = {"subject": "alignment", **_HIGHER}
_SHARE = {"subject": "counts", "unit": "share", **_HIGHER}
# Every metric that was ever written.
_METRICS: dict[str, dict[str, Any]] = {
    **{
        f"{kind}{suffix}": facts
        for suffix in ("", "-EffNetLite0", "-DINOv2", "-CLIP")
        for kind, facts in (("KID", _DISTANCE), ("precision", _COVERAGE), ("recall", _COVERAGE))
    },
    **dict.fromkeys(("FD-EffNetLite0", "FID", "FD-DINOv2", "CMMD"), _DISTANCE),
    **dict.fromkeys(("TwoTower score", "CLIP score"), _SCORE),
    "right kind and count": _SHARE,
    "match ratio of counts": _SHARE,
    "average error of counts": {"subject": "counts", "unit": "objects", **_LOWER},
}
_ESTIMATE = ("value", "interval", "interval_from", "n")


# ----------------------------------------------------------------------------------------------------------------- parts


def estimate(value: Mapping[str, Any]) -> dict[str, Any]:
    """An estimate without the facts that newer ones do not have."""
    return {key: value[key] for key in _ESTIMATE if key in value}


def metric(name: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """A named number: `floor` of distances and `real` of the others are the value of real images."""
    if name not in _METRICS:
        raise InputError(f"metric {name!r} is unknown; the known ones are {', '.join(_METRICS)}")
    known = (*_ESTIMATE, "floor", "real", "network", "values")
    further = {key: one for key, one in value.items() if key not in known}
    real = value.get("floor") or value.get("real")
    return {
        "name": name,
        **_METRICS[name],
        **estimate(value),
        "reference": real,
        "network": value.get("network"),
        "values": value.get("values", []),
        "details": further,
    }


def metrics(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [metric(name, value) for name, value in values.items()]


def objects(counts: Any = None, relations: Any = None) -> dict[str, Any]:
    return {"counts": counts, "relations": relations}


def counter(value: Any) -> Any:
    if value is None:
        return None
    known = ("name", "threshold", "sha256", "errors")
    details = {key: one for key, one in value.items() if key not in known}
    return {**{key: value[key] for key in known if key in value}, "details": details}


def protocol(value: Any) -> Any:
    """Sampling settings are nested. Before there was a choice of initial latents, all were noise."""
    if value is None:
        return None
    value = dict(value)
    names = ("solver", "steps", "guidance_scale", "guidance_interval")
    latents = {"color": "data-mean", "noise": "noise"}[value.pop("start", "noise")]
    sampling = {name: value.pop(name) for name in names if name in value}
    number = value.pop("images")
    name = value.pop("name").replace("changed: images=", "changed: num_images=")
    return {"name": name, "num_images": number, **value, "sampling": {**sampling, "initial_latents": latents}}


def target(value: Mapping[str, Any]) -> dict[str, Any]:
    return {"model" if key == "setting" else key: one for key, one in value.items()}


def costs(value: Any, model: Any = None) -> Any:
    """With a guided step of early fusion by concatenation in the model's size, which is counted."""
    if value is None or model is None:
        return value
    early = replace(from_dict(IFUViTConfig, model), conditioning="concat", n_text=0, n_image=0)
    return {**value, "early_fusion_step_gflops": cost_of(early)["guided_step_gflops"]}


def made(value: Mapping[str, Any]) -> dict[str, Any]:
    names = ("command", "ifuvit_version", "config", "started", "finished", "machine")
    return {"ifuvit_version": "unknown", "config": {}, **{name: value[name] for name in names if name in value}}


# ----------------------------------------------------------------------------------------------------------------- kinds


def evaluation(value: Mapping[str, Any]) -> dict[str, Any]:
    held_out, model = value.get("held_out"), value["target"].get("setting")
    sets = {
        "paper": objects(counts=value.get("counts")),
        "all-kinds": objects(counts=value.get("all_kinds")),
        "relations": objects(relations=value.get("relations")),
        "held-out": objects(**held_out) if held_out else objects(),
    }
    return {
        **made(value),
        "kind": "evaluation",
        "target": target(value["target"]),
        "protocol": protocol(value["protocol"]),
        "data": value["data"],
        "metrics": metrics(value["metrics"]),
        "objects": {name: one for name, one in sets.items() if any(one.values())},
        "counter": counter(value.get("counter")),
        "costs": costs(value.get("costs"), model),
        "images": value.get("images"),
        "processes": value.get("processes", 1),
        "device": value.get("device"),
    }


def generated_by_evaluation(value: Mapping[str, Any]) -> dict[str, Any]:
    settings = dict(value["settings"])
    seed, latents = settings.pop("seed"), {"color": "data-mean"}.get(settings.pop("start", "noise"), "noise")
    of = value["of"]
    return {
        **made(value),
        "kind": "generated images",
        **{"model": of["name"], "sha256": of["sha256"], "seed": seed, "images": value["images"]},
        "sampling": {**settings, "initial_latents": latents},
    }


def generated(value: Mapping[str, Any]) -> dict[str, Any]:
    config, model = value["config"], value.get("model", {})
    names = ("solver", "steps", "guidance_scale", "guidance_interval")
    latents = {"color": "data-mean"}.get(config.get("start", "noise"), "noise")
    return {
        **made(value),
        "kind": "generated images",
        "model": Path(config["model"]).name,
        "sha256": model.get("sha256"),
        "seed": value.get("seed", config["seed"]),
        "sampling": {**{name: config[name] for name in names if name in config}, "initial_latents": latents},
        "images": value["images"],
        "complete": value.get("complete", True),
        "encoders": value.get("encoders", {}),
        "device": value.get("device"),
    }


def counted_images(value: Mapping[str, Any]) -> dict[str, Any]:
    """Counting objects in a directory of images was a command of its own; it is an evaluation of those images."""
    images = [*value["judgments"], *({**one, "counted": None} for one in value["not_judged"])]
    return {
        **made(value),
        "kind": "evaluation",
        "target": {"name": Path(value["generated"]["directory"]).name, "kind": "images"},
        "protocol": {"name": "counts of given images", "num_images": value["images"]},
        "metrics": [],
        "objects": {
            "captions": {
                **objects(value["counts"], value["relations"]),
                "thresholds": value.get("sweep", []),
                "images": sorted(images, key=lambda one: one["file"]),
            }
        },
        "counter": counter(value["counter"]),
    }


def sweep(value: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **made(value),
        "kind": "sweep",
        "protocol": protocol(value["protocol"]),
        "data": value["data"],
        "points": [{**point, "metrics": metrics(point["metrics"])} for point in value["points"]],
        "missing": value["missing"],
    }


def experiment(value: Mapping[str, Any]) -> dict[str, Any]:
    rows = value["table"]
    early = {
        row["guidance_scale"]: row["costs"].get("guided_step_gflops")
        for row in rows
        if (row["conditioning"], row["n_text"], row["n_image"]) == ("concat", 0, 0)
    }
    names = ("name", "title", "scale", "seeds", "runs", "headline", "expected", "data")
    return {
        **made(value),
        "kind": "experiment",
        **{name: value[name] for name in names},
        "protocol": protocol(value["protocol"]),
        "table": [
            {
                "name": row["setting"],
                "setting": {name: row[name] for name in ("conditioning", "n_text", "n_image")},
                **{name: row[name] for name in ("in_the_paper", "guidance_scale", "seeds")},
                "metrics": metrics(row["metrics"]),
                "costs": {**row["costs"], "early_fusion_step_gflops": early.get(row["guidance_scale"])},
            }
            for row in rows
        ],
        "verdicts": [verdict(claim) for claim in value["claims"]],
    }


def verdict(claim: Mapping[str, Any]) -> dict[str, Any]:
    """`holds` was the sign of a difference, `clear` whether its interval leaves out 0."""
    word = ("holds" if claim["holds"] else "does not hold") if claim["clear"] else "undecided"
    kept = {name: one for name, one in claim.items() if name not in ("holds", "clear")}
    return {**kept, "difference": estimate(claim["difference"]), "verdict": word}


def benchmark(value: Mapping[str, Any]) -> dict[str, Any]:
    def timed(row: Mapping[str, Any]) -> dict[str, Any]:
        return {"steps_per_round" if key == "steps_a_turn" else key: one for key, one in row.items()}

    comparisons = {}
    for title, contest in value["results"].items():
        one = {**contest, "rows": [timed(row) for row in contest["rows"]]}
        if growth := one.pop("growth", None):
            one["scaling"] = {"axis": growth["axis"], "steps": growth["kind"], "settings": growth["settings"]}
        comparisons[title] = one
    return {
        **made(value),
        "kind": "benchmark",
        "action": {"growth": "scaling"}.get(action := value["command"].removeprefix("bench "), action),
        "hardware": value["hardware"],
        "process_peak_memory": value["process_peak_memory"],
        "comparisons": comparisons,
        "reference": value.get("reference"),
    }


def study(value: Mapping[str, Any]) -> dict[str, Any]:
    names = ("study", "models", "items", "least_passed", "raters", "everyone", "without_flagged")
    answers = {key.replace(" ", "_"): number for key, number in value["answers"].items()}
    return {
        **made(value),
        "kind": f"{value['kind']} study",
        **{name: value[name] for name in names},
        "answers": answers,
        "counter": counter(value.get("counter")),
    }


def converted(value: Mapping[str, Any]) -> dict[str, Any] | None:
    """A result without a schema number as one of the present schema; None for something else.

    Raises:
        InputError: a result of a known command that is broken.
    """
    command = value.get("command")
    if command == "evaluate":
        found = generated_by_evaluation(value) if "settings" in value else evaluation(value)
    elif command == "generate":
        found = generated(value)
    elif command == "count judge":
        found = counted_images(value)
    elif command == "sweep":
        found = sweep(value)
    elif command == "experiment":
        found = experiment(value)
    elif command == "study analyze":
        found = study(value)
    elif isinstance(command, str) and command.startswith("bench "):
        found = benchmark(value)
    else:
        return None
    return results.to_json(results.from_json({"schema": results.SCHEMA, **found}))


def series(value: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Several evaluations of one model, which were put into one file by hand, as a list of results."""
    shared = {key: value[key] for key in ("target", "data", "machine", "ifuvit_version")}
    found = []
    for point in value["points"]:
        counts = point.get("counts")
        if counts is not None and "overall" not in counts:
            counts = {"overall": counts, "by_count": {}}
        one = converted({"command": "evaluate", "config": {}, **shared, **point, "counts": counts})
        assert one is not None
        found.append({**one, "config": {"command_line": value["command"]}})
    return found


def line(text: str) -> str:
    """A line of a training run's log."""
    value = json.loads(text)
    if isinstance(value.get("evaluation", {}).get("metrics"), dict):
        told = value["evaluation"]
        told = from_dict(results.TrainingEvaluation, {**told, "metrics": metrics(told["metrics"])})
        return json.dumps({**value, "evaluation": to_dict(told)}, ensure_ascii=False)
    return text


# ----------------------------------------------------------------------------------------------------------------- files


def renamed(value: Any) -> Any:
    """Facts about numbers say "images" where they said "pictures"."""
    if isinstance(value, dict):
        return {
            key: one.replace("picture", "image")
            if key in ("interval_from", "how", "resize") and isinstance(one, str)
            else renamed(one)
            for key, one in value.items()
        }
    return [renamed(one) for one in value] if isinstance(value, list) else value


def convert(file: Path) -> bool:
    """Convert a file in place, and say whether it was changed.

    Raises:
        InputError: a result that is broken.
    """
    try:
        if file.name == "metrics.jsonl":
            old = file.read_text(encoding="utf-8")
            new = "".join(
                line(json.dumps(renamed(json.loads(text)))) + "\n" if "evaluation" in text else text + "\n"
                for text in old.splitlines()
            )
            if new != old:
                write_text(file, new)
            return new != old
        value = renamed(read_json(file))
        if not isinstance(value, dict) or results.is_result(value):
            return False
        found: Any = series(value) if str(value.get("command")).startswith("ifuvit evaluate") else converted(value)
        if found is not None:
            write_json(file, found)
        return found is not None
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{file}: cannot be converted ({reason})") from None


def files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    for root, _, names in os.walk(path):
        yield from (Path(root) / name for name in sorted(names) if name.endswith(".json") or name == "metrics.jsonl")


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    try:
        for path in map(Path, sys.argv[1:]):
            for file in files(path):
                if convert(file):
                    print(f"{file}: converted")
    except InputError as error:
        sys.exit(f"convert_results: {error}")


if __name__ == "__main__":
    main()
