"""A small set of result files as the commands write them, with made-up numbers, for tests of the report."""

import json
import math
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw
from study_simulation import RaterModel, simulate_count, simulate_preference

from ifuvit.studies.analysis import analyze_study

SETTINGS = {
    "concat-early": ("concat", 0, 0),
    "concat-intermediate": ("concat", 1, 2),
    "cross-early": ("cross", 0, 0),
    "cross-intermediate": ("cross", 1, 2),
}
ABLATION = {
    **{name: SETTINGS[name] for name in ("concat-early", "cross-early")},
    "concat-text-block": ("concat", 1, 0),
    "concat-middle": ("concat", 0, 2),
    "cross-text-block": ("cross", 1, 0),
    "cross-middle": ("cross", 0, 2),
    **{name: SETTINGS[name] for name in ("concat-intermediate", "cross-intermediate")},
}
KINDS = {"bus": "buses", "sheep": "sheep", "person": "people", "apple": "apples"}
WORDS = ("a", "two", "three", "four", "five")
PROMPTS = [f"{word} {one if word == 'a' else many}" for one, many in KINDS.items() for word in WORDS]
PROTOCOL = {
    "name": "quick",
    "images": 1000,
    "split": "val",
    "caption_seed": 0,
    "reference": "captioned",
    "size": 64,
    "networks": ["effnet-lite0"],
    "resize": "network",
    "alignment": ["two-tower"],
    "prefix": "",
    "solver": "dpm++",
    "steps": 25,
    "guidance_scale": 2.0,
    "seed": 0,
    "count_prompts": [["paper", 10], ["relations", 1], ["held-out", 1]],
    "counts_scenes": True,
    "count_guidance_scale": 4.0,
}


def estimate(
    value: float, half: float, over: str = "bootstrap over images", n: int = 1000, **more: Any
) -> dict[str, Any]:
    return {"value": value, "interval": [value - half, value + half], "interval_from": over, "n": n, **more}


def metrics(quality: float) -> dict[str, Any]:
    """Numbers of a model; `quality` is between 0 and 1."""
    how = "other images of the split, same n"
    return {
        "KID-EffNetLite0": estimate(
            0.09 - 0.06 * quality, 0.0041, "100 subsets of 1000", floor={"value": 0.00021, "n": 1000, "how": how}
        ),
        "FD-EffNetLite0": estimate(
            210 - 90 * quality, 6.2, "10 disjoint subsets", floor={"value": 41.3, "n": 1000, "how": how}
        ),
        "precision-EffNetLite0": estimate(0.5 + 0.2 * quality, 0.02, real={"value": 0.78, "n": 1000, "how": how}),
        "recall-EffNetLite0": estimate(0.4 + 0.2 * quality, 0.02),
        "TwoTower score": {
            **estimate(0.35 + 0.12 * quality, 0.0061),
            **{
                "standard_error": 0.003,
                "x100": 35 + 12 * quality,
                "x2.5": 0.9,
                "truncated": 0,
                "prefix": "",
                "real": {"value": 0.512, "n": 1000, "how": "real images with their own captions"},
            },
        },
    }


def costs(setting: str) -> dict[str, Any]:
    counted = {
        "concat-early": (3428132, 0.5407, 0.576, 1.1519, 1.1468),
        "concat-intermediate": (3872420, 0.4935, 0.5218, 1.0436, 0.8883),
        "cross-early": (3428132, 0.451, 0.4793, 0.9587, 0.9206),
        "cross-intermediate": (3872420, 0.4558, 0.4811, 0.9621, 0.7927),
    }
    parameters, without, with_, plain, shared = counted.get(setting, counted["cross-early"])
    return {
        "parameters": parameters,
        "gflops": {"without_attention": without, "with_attention": with_},
        "guided_step_gflops": {"plain": plain, "shared": shared},
    }


def counts(quality: float) -> dict[str, Any]:
    def group(images: int, hard: float) -> dict[str, Any]:
        share = max(0.0, 1 - hard * (1 - quality))
        half = min(0.14, share, 1 - share)
        shares = {key: estimate(share, half, n=images) for key in ("right_kind", "right_count", "right", "match_ratio")}
        return {"images": images, **shares, "average_error": estimate(hard * (1 - quality), half, n=images)}

    confusion = {}
    for asked in range(1, 6):
        right = round(40 * max(0.0, 1 - 0.2 * asked * (1 - quality)))
        row = [0] * 7
        row[asked], row[asked + 1] = right, (40 - right) // 2
        row[asked - 1] += 40 - right - (40 - right) // 2
        confusion[str(asked)] = row
    return {
        "overall": group(200, 0.6),
        "by_count": {str(count): group(40, 0.2 * count) for count in range(1, 6)},
        "by_object": {kind: group(50, 0.5) for kind in KINDS},
        "by_combination": {"in training": group(150, 0.5), "held out": group(50, 0.9)},
        "cells": {
            kind: {
                str(count): {key: group(10, 0.2 * count)[key] for key in ("images", "match_ratio", "average_error")}
                for count in range(1, 6)
            }
            for kind in KINDS
        },
        "confusion": {"counted": ["0", "1", "2", "3", "4", "5", "more"], "asked": confusion},
    }


def relations(quality: float) -> dict[str, Any]:
    keys = ("both_kinds", "right_objects", "right", "placed_if_both_kinds")
    group = {"images": 80, **{key: estimate(quality, 0.1, n=80) for key in keys}}
    names = ("left of", "right of", "above", "below")
    return {
        "overall": group,
        "by_relation": {name: {**group, "images": 20, "placed_if_both_kinds": None} for name in names},
        "by_combination": {"in training": group},
    }


COUNTER = {
    "name": "openmoji",
    "sha256": "ab" * 32,
    "errors": {name: {"counts": counts(0.999), "relations": relations(0.99)} for name in ("clean", "blurred", "noisy")},
}


def write(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def write_images(directory: Path, manifest: dict[str, Any], hue: int, size: int = 64) -> Path:
    """A image for every prompt: as many disks as asked."""
    images = []
    for index, prompt in enumerate(PROMPTS):
        image = Image.new("RGB", (size, size), (230, 240 - hue // 4, 200 + hue // 5))
        draw = ImageDraw.Draw(image)
        for number in range(WORDS.index(prompt.split()[0]) + 1):
            x, y = size * (0.15 + 0.35 * (number % 3)), size * (0.2 + 0.4 * (number // 3))
            draw.ellipse((x, y, x + size / 5, y + size / 5), fill=(hue, 90, 255 - hue))
        directory.mkdir(parents=True, exist_ok=True)
        image.save(directory / f"{index:05d}.png")
        images.append({"file": f"{index:05d}.png", "prompt": prompt, "index": index})
    write(directory / "manifest.json", {**manifest, "images": images})
    return directory


def write_evaluation(file: Path, setting: str, quality: float, *, seed: int = 1234, images: bool = True) -> Path:
    conditioning, n_text, n_image = ABLATION[setting]
    name = f"openmoji-{setting}"
    kept = file.with_name(f"{file.stem}-images")
    if images:
        drawn = {
            "command": "evaluate",
            "of": {"name": name, "sha256": f"{setting}-{seed}"},
            "settings": {"solver": "dpm++", "steps": 25, "guidance_scale": 2.0, "seed": 0},
        }
        write_images(kept / "captions", drawn, hue=int(250 * quality))
    return write(
        file,
        {
            "command": "evaluate",
            "ifuvit_version": "0.1.0",
            "config": {"target": name},
            "target": {
                "name": name,
                "kind": "ifuvit",
                "sha256": f"{setting}-{seed}",
                "setting": {
                    **{"latent_size": 16, "latent_channels": 4, "patch_size": 2, "embed_dim": 192, "depth": 6},
                    **{"num_heads": 6, "mlp_ratio": 4.0, "text_width": 384, "text_tokens": 16},
                    **{"conditioning": conditioning, "n_text": n_text, "n_image": n_image},
                    **{"cross_attention": "added", "mask_padding": False},
                },
                "training": {"steps": 8000, "seed": seed, "batch_size": 64},
            },
            "protocol": PROTOCOL,
            "data": {"where": "scenes", "split": "val", "images": 2000, "left_out": 0, "sha256": "ef" * 32},
            "metrics": metrics(quality),
            "counts": counts(quality),
            "all_kinds": None,
            "relations": relations(quality),
            "held_out": {"counts": counts(quality / 2), "relations": relations(quality / 2)},
            "counter": COUNTER,
            "costs": {
                **costs(setting),
                "training_steps_per_second": 2.88,
                "images_per_second": 3.4,
                "peak_memory_gib": 1.31,
            },
            "images": f"{kept.name}/captions" if images else None,
            "device": "cpu",
            "started": "2026-01-01T00:00:00+00:00",
            "finished": "2026-01-01T00:09:00+00:00",
            "machine": {"platform": "Linux", "processor": "x86_64", "cpus": 2, "python": "3.11.7"},
        },
    )


def write_judgment(file: Path, quality: float) -> Path:
    return write(
        file,
        {
            **{"images": 200, "judged": 200, "counts": counts(quality), "relations": None, "not_judged": []},
            **{"judgments": [], "counter": COUNTER, "generated": {"directory": "elsewhere/images-of-old"}},
            "sweep": [
                {"threshold": threshold, "counts": counts(quality)["overall"], "relations": None}
                for threshold in (0.1, 0.3)
            ],
            "command": "count judge",
        },
    )


def write_sweep(directory: Path) -> Path:
    points = []
    for model, best in (("openmoji-concat-early", 0.5), ("openmoji-cross-intermediate", 0.7)):
        for w in (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0):
            result = write_evaluation(
                directory / f"{model}-w{w:g}.json", model.removeprefix("openmoji-"), best, images=False
            )
            values = metrics(best - 0.25 * abs(math.log(w / 2.5)))
            values["TwoTower score"] = {**values["TwoTower score"], **estimate(best / 2 + 0.03 * math.log(w), 0.006)}
            points.append({"model": model, "guidance_scale": w, "result": result.name, "metrics": values})
    content = {"command": "sweep", "complete": True, "protocol": PROTOCOL, "points": points, "missing": []}
    return write(directory / "sweep.json", content)


def write_experiment(directory: Path, name: str, seeds: tuple[int, ...] = (1234, 1235, 1236)) -> Path:
    settings = SETTINGS if name == "table1" else ABLATION
    runs, table = [], []
    for setting, (conditioning, n_text, n_image) in settings.items():
        quality = 0.45 + 0.3 * list(ABLATION).index(setting) / len(ABLATION)
        for seed in seeds:
            result = directory / f"{setting}-{seed}.json"
            write_evaluation(result, setting, quality, seed=seed, images=seed == seeds[0])
            run = {"setting": setting, "seed": seed, "run": f"runs/{setting}-{seed}", "result": result.name}
            runs.append({**run, "status": "done"})
        over: dict[str, Any] = {
            key: {
                **estimate(one["value"], 0.01 * one["value"], "bootstrap over seeds", len(seeds)),
                **{fact: one[fact] for fact in ("floor", "real") if fact in one},
            }
            for key, one in metrics(quality).items()
        }
        over["right kind and count"] = estimate(quality, 0.05, "bootstrap over seeds", len(seeds))
        row = {"setting": setting, "n_text": n_text, "n_image": n_image, "conditioning": conditioning}
        table.append({**row, "guidance_scale": 2.0, "seeds": list(seeds), "metrics": over, "costs": costs(setting)})
    claims = [
        {
            "claim": f"intermediate fusion has the lower distance ({conditioning})",
            "better": f"{conditioning}-intermediate",
            "worse": f"{conditioning}-early",
            "metric": "KID-EffNetLite0",
            "difference": estimate(-0.0135, 0.004, "bootstrap over seeds", len(seeds)),
            "holds": True,
            "clear": clear,
        }
        for conditioning, clear in (("concat", True), ("cross", False))
    ]
    titles = {"table1": "Early against intermediate fusion", "ablation": "Text block and middle fusion, each alone"}
    return write(
        directory / "experiment.json",
        {
            **{"command": "experiment", "name": name, "title": titles[name], "scale": "openmoji", "seeds": list(seeds)},
            **{"protocol": PROTOCOL, "data": {"where": "scenes", "split": "val"}, "runs": runs, "table": table},
            **{"claims": claims, "expected": {}},
        },
    )


def write_guidance_experiment(directory: Path) -> Path:
    """An experiment whose results are a sweep."""
    sweep = write_sweep(directory / "sweeps" / "seed-1234")
    table = [
        {
            **{"setting": point["model"], "conditioning": "cross", "n_text": 1, "n_image": [2, 2], "costs": {}},
            **{"guidance_scale": point["guidance_scale"], "metrics": point["metrics"]},
        }
        for point in json.loads(sweep.read_text())["points"]
    ]
    run = {"setting": "cross-intermediate", "seed": 1234, "run": "r", "result": "sweeps/seed-1234/sweep.json"}
    return write(
        directory / "experiment.json",
        {
            **{
                "command": "experiment",
                "name": "guidance_sweep",
                "title": "Curve",
                "scale": "openmoji",
                "seeds": [1234],
            },
            **{"runs": [{**run, "status": "done"}], "table": table, "claims": []},
        },
    )


def write_training(directory: Path, level: float) -> Path:
    lines: list[dict[str, Any]] = []
    for step in range(10, 8001, 10):
        lines.append({"step": step, "loss": level * (0.02 + 0.9 / (1 + step / 60)), "steps_per_second": 2.9})
        if step % 1000 == 0:
            lines.append({"step": step, "validation_loss": level * (0.021 + 0.9 / (1 + step / 60))})
            lines.append({"step": step, "evaluation": {"images": 200, "metrics": metrics(step / 8000 / level)}})
    file = directory / "metrics.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def write_costs(file: Path) -> Path:
    paper = {
        "concat-early": (44692644, 29.49, 32.46, 64.92, 64.79),
        "concat-intermediate": (47843492, 25.77, 28.01, 56.02, 47.89),
        "cross-early": (44692644, 23.76, 26.04, 52.08, 49.86),
        "cross-intermediate": (47843492, 23.59, 25.57, 51.13, 42.2),
    }
    rows = {
        name: {
            "parameters": parameters,
            "gflops": {"without_attention": without, "with_attention": with_},
            "guided_step_gflops": {"plain": plain, "shared": shared},
        }
        for name, (parameters, without, with_, plain, shared) in paper.items()
    }
    rows["concat-early"]["training_memory"] = {
        **{"batch_size": 256, "precision": "bf16", "plain": {"peak": 20 * 2**30}},
        "checkpointed": {"peak": 5.5 * 2**30},
    }
    return write(file, {**rows, **{f"openmoji-{setting}": costs(setting) for setting in SETTINGS}})


def write_generated(directory: Path, model: str, hue: int, *, size: int = 64) -> Path:
    config = {"model": model, "steps": 50, "guidance_scale": 4.0, "seed": 0, "solver": "dpm++", "prompts": PROMPTS}
    return write_images(directory, {"command": "generate", "config": config, "complete": True}, hue, size)


def write_studies(root: Path) -> Path:
    """A preference study with a careless rater, and a counting study with an automatic counter, by simulated raters."""
    how = RaterModel(careless=1)
    liked = simulate_preference(
        {"early": 0.0, "<late> & more": 3.0}, items=10, raters=4, raters_per_item=2, how=how, seed=0
    )
    study, answers, shown = simulate_count(
        {"one": 0.9, "two": 0.5}, raters=4, raters_per_item=2, how=RaterModel(), seed=0, images_per_prompt=1
    )
    for name, result in (
        ("liked", analyze_study(*liked, samples=100, least_passed=0.9)),
        ("counted", analyze_study(study, answers, automatic=shown, samples=100)),
    ):
        facts = {"command": "study analyze", "study": {"directory": f"elsewhere/{name}", "title": "What?"}}
        write(root / name / "analysis.json", {**facts, "counter": {"name": "openmoji"}, **result})
    return root


def _bench_row(name: str, seconds: float, base: float | None = None) -> dict[str, Any]:
    faster = None if base is None else {**estimate(base / seconds, 0.02, "order statistics over rounds", 6)}
    return {
        **{"name": name, "seconds": {"median": seconds, "quartiles": [0.98 * seconds, 1.03 * seconds]}},
        **{"steps_per_second": 1 / seconds, "items": 8, "unit": "images", "items_per_second": 8 / seconds},
        **{"flops": 7.8e11, "flops_per_second": 7.8e11 / seconds, "share_of_peak": 0.4 / seconds, "peak_memory": None},
        "speedup": faster and {**faster, "over": "U-ViT"},
    }


def write_benches(root: Path) -> Path:
    """Training steps against U-ViT's, and growth by depth."""
    facts = {
        "config": {"out": "x.json", "rounds": 6, "batch_size": 8},
        "hardware": {"device": "cpu", "name": "A processor", "threads": 2, "torch": "2.13.0"},
    }
    rows = [_bench_row("U-ViT", 2.0), _bench_row("concat-early", 1.6, 2.0), _bench_row("cross-intermediate", 1.25, 2.0)]
    for row in rows:
        row["seconds"]["rounds"] = [row["seconds"]["median"]] * 6
    peak = {"flops_per_second": 9e11, "of": "product 2056 x 512 -> 2048, forward", "products": {}}
    results = {"bf16": {"peak": peak, "rows": rows, "differences": {"from_uvit": {"concat-early": 1e-7}}}}
    write(root / "train.json", {"command": "bench train", **facts, "results": results, "reference": None})
    settings = {
        name: {
            "at": 12,
            "points": [
                {
                    **{"value": depth, "flops": 1e10 * depth, "relative_flops": depth / 12},
                    "relative_seconds": estimate((depth / 12) ** power, 0.02, "order statistics over rounds", 6),
                }
                for depth in (4, 12, 20)
            ],
            "exponent": estimate(power, 0.01, "order statistics over rounds", 6),
        }
        for name, power in (("concat-early", 0.9), ("cross-intermediate", 0.95))
    }
    growth = {"peak": None, "rows": rows, "growth": {"axis": "depth", "kind": "train", "settings": settings}}
    write(root / "growth.json", {"command": "bench growth", **facts, "results": {"training steps by depth": growth}})
    return root


def write_all(root: Path) -> Path:
    """Results of every command below `root`."""
    write_evaluation(root / "shipped" / "evaluation.json", "cross-intermediate", 0.8)
    write_judgment(root / "shipped" / "counts.json", 0.6)
    write_sweep(root / "sweep")
    write_experiment(root / "table1", "table1")
    write_experiment(root / "ablation", "ablation", (1234,))
    write_training(root / "runs" / "concat-early", 1.2)
    write_training(root / "runs" / "cross-intermediate", 1.0)
    write_costs(root / "costs.json")
    write_benches(root / "bench")
    write_studies(root / "studies")
    write_generated(root / "images" / "early", "runs/concat-early", 40)
    write_generated(root / "images" / "intermediate", "runs/cross-intermediate", 220)
    write_generated(root / "images" / "large", "runs/coco", 120, size=160)
    return root
