"""A small set of result files as the commands write them, with made-up numbers, for tests of the report."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw
from study_simulation import RaterModel, simulate_count, simulate_preference

from ifuvit import results
from ifuvit.benchmarks.config import BenchQualityConfig
from ifuvit.benchmarks.quality import bench_quality
from ifuvit.results import (
    Analysis,
    Benchmark,
    Comparison,
    Confusion,
    Costs,
    CountedImage,
    Counter,
    Counts,
    CountScores,
    Elbow,
    Estimate,
    Evaluation,
    Expected,
    ExperimentResult,
    ExperimentRow,
    ExperimentRun,
    Finding,
    GeneratedImages,
    Gflops,
    GuidedStepGflops,
    Hardware,
    Measurement,
    Metric,
    ObjectCounts,
    ObjectScores,
    Peak,
    Ratio,
    Reference,
    ReferenceData,
    Relations,
    RelationScores,
    Scaling,
    ScalingPoint,
    ScalingSeries,
    ScoresAtThreshold,
    SecondCount,
    Seconds,
    Setting,
    Speedup,
    Sweep,
    SweepPoint,
    Target,
    TimedCase,
    TrainingEvaluation,
    TrainingFacts,
    Verdict,
)
from ifuvit.studies.analysis import analyze_study
from ifuvit.utils.config import to_dict

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
SAMPLING = {"solver": "dpm++", "steps": 25, "guidance_scale": 2.0, "initial_latents": "noise"}
PROTOCOL = {
    "name": "quick",
    "num_images": 1000,
    "split": "val",
    "caption_seed": 0,
    "reference": "captioned",
    "size": 64,
    "networks": ["effnet-lite0"],
    "resize": "network",
    "alignment": ["two-tower"],
    "prefix": "",
    "sampling": SAMPLING,
    "seed": 0,
    "count_prompts": [["paper", 10], ["relations", 1], ["held-out-counts", 5], ["held-out-relations", 1]],
    "counts_scenes": True,
    "count_guidance_scale": 4.0,
}
DATA = ReferenceData(where="scenes", split="val", images=2000, sha256="ef" * 32)


def made(command: str, **config: Any) -> dict[str, Any]:
    """What all results have."""
    return {
        **{"command": command, "ifuvit_version": "0.1.0", "config": config},
        **{"started": "2026-01-01T00:00:00+00:00", "finished": "2026-01-01T00:09:00+00:00"},
        "machine": {"platform": "Linux", "processor": "x86_64", "cpus": 2, "python": "3.11.7"},
    }


def estimate(value: float, half: float, over: str = "bootstrap over images", n: int = 1000) -> Estimate:
    return Estimate(value=value, interval=(value - half, value + half), interval_from=over, n=n)


def metrics(quality: float) -> tuple[Metric, ...]:
    """Numbers of a model; `quality` is between 0 and 1."""
    how = "other images of the split, same n"

    def metric(
        name: str,
        subject: Any,
        one: Estimate,
        real: float | None = None,
        how: str = how,
        decoded: float | None = None,
        **more: Any,
    ) -> Metric:
        better = "lower" if subject == "distance" else "higher"
        reference = None if real is None else Reference(value=real, n=1000, how=how)
        floor = None if decoded is None else Reference(value=decoded, n=1000, how=f"{how}, decoded")
        floors = {"reference": reference, "decoded_reference": floor}
        return Metric(**vars(one), name=name, subject=subject, better=better, **floors, **more)

    pairs = "real images with their own captions"
    score = estimate(0.35 + 0.12 * quality, 0.0061)
    return (
        metric(
            "KID-EffNetLite0",
            "distance",
            estimate(0.09 - 0.06 * quality, 0.0041, "100 subsets of 1000"),
            0.00021,
            decoded=0.012,
        ),
        metric(
            "FD-EffNetLite0", "distance", estimate(210 - 90 * quality, 6.2, "10 disjoint subsets"), 41.3, decoded=74.8
        ),
        metric("precision-EffNetLite0", "coverage", estimate(0.5 + 0.2 * quality, 0.02), 0.78, decoded=0.61),
        metric("recall-EffNetLite0", "coverage", estimate(0.4 + 0.2 * quality, 0.02)),
        metric("TwoTower score", "alignment", score, 0.512, pairs, details={"x100": 35 + 12 * quality, "prefix": ""}),
    )


def costs(setting: str) -> Costs:
    counted = {
        "concat-early": (3428132, 0.5407, 0.576, 1.1519, 1.1468),
        "concat-intermediate": (3872420, 0.4935, 0.5218, 1.0436, 0.8883),
        "cross-early": (3428132, 0.451, 0.4793, 0.9587, 0.9206),
        "cross-intermediate": (3872420, 0.4558, 0.4811, 0.9621, 0.7927),
    }
    parameters, without, with_, plain, shared = counted.get(setting, counted["cross-early"])
    return Costs(
        parameters=parameters,
        gflops=Gflops(without_attention=without, with_attention=with_),
        guided_step_gflops=GuidedStepGflops(plain=plain, shared=shared),
        early_fusion_step_gflops=GuidedStepGflops(plain=1.1519, shared=1.1468),
    )


def counts(quality: float) -> Counts:
    def group(images: int, hard: float) -> CountScores:
        share = max(0.0, 1 - hard * (1 - quality))
        half = min(0.14, share, 1 - share)
        shares: dict[str, Any] = {
            key: estimate(share, half, n=images) for key in ("right_kind", "right_count", "right", "match_ratio")
        }
        return CountScores(images=images, **shares, average_error=estimate(hard * (1 - quality), half, n=images))

    def cell(count: int) -> CountScores:
        scores = group(10, 0.2 * count)
        return CountScores(images=10, match_ratio=scores.match_ratio, average_error=scores.average_error)

    confusion = {}
    for asked in range(1, 6):
        right = round(40 * max(0.0, 1 - 0.2 * asked * (1 - quality)))
        row = [0] * 7
        row[asked], row[asked + 1] = right, (40 - right) // 2
        row[asked - 1] += 40 - right - (40 - right) // 2
        confusion[str(asked)] = tuple(row)
    return Counts(
        overall=group(200, 0.6),
        by_count={str(count): group(40, 0.2 * count) for count in range(1, 6)},
        by_object={kind: group(50, 0.5) for kind in KINDS},
        by_combination={"in training": group(150, 0.5), "held out": group(50, 0.9)},
        cells={kind: {str(count): cell(count) for count in range(1, 6)} for kind in KINDS},
        confusion=Confusion(counted=("0", "1", "2", "3", "4", "5", "more"), asked=confusion),
    )


def relations(quality: float) -> Relations:
    keys = ("both_kinds", "right_objects", "right", "placed_if_both_kinds")
    shares = {key: estimate(quality, 0.1, n=80) for key in keys}
    group = RelationScores(images=80, **shares)
    single = RelationScores(images=20, **{**shares, "placed_if_both_kinds": None})
    return Relations(
        overall=group,
        by_relation=dict.fromkeys(("left of", "right of", "above", "below"), single),
        by_combination={"in training": group},
    )


COUNTER = Counter(
    name="openmoji",
    sha256="ab" * 32,
    errors={
        name: ObjectScores(counts=counts(0.999), relations=relations(0.99)) for name in ("clean", "blurred", "noisy")
    },
)


def write(path: Path, result: results.Result) -> Path:
    results.write(path, result)
    return path


def write_images(directory: Path, result: GeneratedImages, hue: int, size: int = 64) -> Path:
    """The images of a manifest: as many disks as asked."""
    write(directory / "manifest.json", result)
    for one in result.images:
        image = Image.new("RGB", (size, size), (230, 240 - hue // 4, 200 + hue // 5))
        draw = ImageDraw.Draw(image)
        for number in range(WORDS.index(one.prompt.split()[0]) + 1):
            x, y = size * (0.15 + 0.35 * (number % 3)), size * (0.2 + 0.4 * (number // 3))
            draw.ellipse((x, y, x + size / 5, y + size / 5), fill=(hue, 90, 255 - hue))
        image.save(directory / one.file)
    return directory


def generated(command: str, model: str, **sampling: Any) -> GeneratedImages:
    return GeneratedImages(
        **made(command),
        model=model,
        seed=0,
        sampling={**SAMPLING, **sampling},
        images=tuple(
            GeneratedImages.Image(file=f"{index:05d}.png", prompt=prompt, index=index)
            for index, prompt in enumerate(PROMPTS)
        ),
    )


def images_of(share: float) -> tuple[CountedImage, ...]:
    """200 images of which a share is right."""
    return tuple(
        CountedImage(file=f"{place}.png", prompt="a bus", counted={"bus": 1}, right=place < 200 * share)
        for place in range(200)
    )


def grounds(quality: float) -> Counts:
    """Of prompts that name a ground."""
    of = counts(quality)
    return replace(of, overall=replace(of.overall, right_ground=estimate(0.9 + quality / 10, 0.03, n=126)))


def write_evaluation(file: Path, setting: str, quality: float, *, seed: int = 1234, images: bool = True) -> Path:
    conditioning, n_text, n_image = ABLATION[setting]
    name = f"openmoji-{setting}"
    kept = file.with_name(f"{file.stem}-images")
    if images:
        write_images(kept / "captions", generated("evaluate", name), hue=int(250 * quality))
    model = {
        **{"latent_size": 16, "latent_channels": 4, "patch_size": 2, "embed_dim": 192, "depth": 6},
        **{"num_heads": 6, "mlp_ratio": 4.0, "text_width": 384, "text_tokens": 16},
        **{"conditioning": conditioning, "n_text": n_text, "n_image": n_image},
        **{"cross_attention": "added", "mask_padding": False},
    }
    training = TrainingFacts(steps=8000, seed=seed, batch_size=64)
    return write(
        file,
        Evaluation(
            **made("evaluate", target=name),
            target=Target(name=name, kind="ifuvit", sha256=f"{setting}-{seed}", model=model, training=training),
            protocol=PROTOCOL,
            data=DATA,
            metrics=metrics(quality),
            objects={
                "paper": ObjectCounts(counts=counts(quality), images=images_of(quality)),
                "grounds": ObjectCounts(counts=grounds(quality)),
                "paraphrases": ObjectCounts(counts=counts(quality - 0.1), images=images_of(quality - 0.1)),
                "relations": ObjectCounts(relations=relations(quality)),
                "held-out-counts": ObjectCounts(counts=counts(quality / 2)),
                "held-out-relations": ObjectCounts(relations=relations(quality / 2)),
            },
            counter=COUNTER,
            second_counts=(
                SecondCount(
                    counter=Counter(name="counter-of-another-seed"),
                    scores={"paper": ObjectScores(counts=counts(quality))},
                    same_verdict={"paper": estimate(0.985, 0.02, "Wilson's over images", 200)},
                    same_objects={"paper": estimate(0.98, 0.02, "Wilson's over images", 200)},
                    difference={"paper": estimate(0.005, 0.01, n=200)},
                ),
            ),
            costs=replace(costs(setting), training_steps_per_second=2.88, images_per_second=3.4, peak_memory_gib=1.31),
            images=f"{kept.name}/captions" if images else None,
            device="cpu",
        ),
    )


def write_object_count(file: Path, quality: float, name: str = "images-of-old") -> Path:
    """An evaluation of a directory of images whose objects were counted, and nothing else."""
    scores = ObjectCounts(
        counts=counts(quality),
        thresholds=tuple(
            ScoresAtThreshold(threshold=threshold, counts=counts(quality).overall) for threshold in (0.1, 0.3)
        ),
        images=(CountedImage(file="0.png", prompt="a bus", counted={"bus": 1}),) * 200,
    )
    return write(
        file,
        Evaluation(
            **made("evaluate"),
            target=Target(name=name, kind="images"),
            protocol=PROTOCOL,
            metrics=(),
            objects={"captions": scores},
            counter=COUNTER,
        ),
    )


def write_sweep(directory: Path) -> Path:
    points = []
    for model, best in (("openmoji-concat-early", 0.5), ("openmoji-cross-intermediate", 0.7)):
        for w in (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0):
            result = write_evaluation(
                directory / f"{model}-w{w:g}.json", model.removeprefix("openmoji-"), best, images=False
            )
            *others, score = metrics(best - 0.25 * abs(math.log(w / 2.5)))
            score = replace(score, **vars(estimate(best / 2 + 0.03 * math.log(w), 0.006)))
            points.append(SweepPoint(model=model, guidance_scale=w, result=result.name, metrics=(*others, score)))
    sweep = Sweep(**made("evaluate"), protocol=PROTOCOL, data=DATA, points=tuple(points))
    return write(directory / "sweep.json", sweep)


def experiment(name: str, seeds: tuple[int, ...], **parts: Any) -> ExperimentResult:
    titles = {"table1": "Early against intermediate fusion", "ablation": "Text block and middle fusion, each alone"}
    return ExperimentResult(
        **made("experiment"),
        name=name,
        title=titles.get(name, "Curve"),
        scale="openmoji",
        seeds=seeds,
        headline={"distance": "KID-EffNetLite0", "counts": "right kind and count"},
        expected=Expected(source="arXiv", rows={}),
        **parts,
    )


def write_experiment(directory: Path, name: str, seeds: tuple[int, ...] = (1234, 1235, 1236)) -> Path:
    settings = SETTINGS if name == "table1" else ABLATION
    runs, table = [], []
    for setting, (conditioning, n_text, n_image) in settings.items():
        quality = 0.45 + 0.3 * list(ABLATION).index(setting) / len(ABLATION)
        for seed in seeds:
            file = directory / f"{setting}-{seed}.json"
            write_evaluation(file, setting, quality, seed=seed, images=seed == seeds[0])
            run = f"runs/{setting}-{seed}"
            runs.append(ExperimentRun(setting=setting, seed=seed, run=run, result=file.name, status="done"))
        over = [
            replace(one, **vars(estimate(one.value, 0.01 * one.value, "Student's t over seeds", len(seeds))))
            for one in metrics(quality)
        ]
        right = estimate(quality, 0.05, "Student's t over seeds", len(seeds))
        over.append(Metric(**vars(right), name="right kind and count", subject="counts", unit="share", better="higher"))
        table.append(
            ExperimentRow(
                name=setting,
                setting=Setting(conditioning=conditioning, n_text=n_text, n_image=n_image),  # type: ignore[arg-type]
                in_the_paper=(n_text, 2 * n_image),
                guidance_scale=2.0,
                seeds=seeds,
                metrics=tuple(over),
                costs=costs(setting),
            )
        )
    verdicts = tuple(
        Verdict(
            claim=f"intermediate fusion has the lower distance ({conditioning})",
            better=f"{conditioning}-intermediate",
            worse=f"{conditioning}-early",
            metric="KID-EffNetLite0",
            difference=estimate(-0.0135, 0.004, "Student's t over seeds", len(seeds)),
            differences=(-0.012, -0.015),
            verdict=verdict,
        )
        for conditioning, verdict in (("concat", "holds"), ("cross", "undecided"))
    )
    parts = {"protocol": PROTOCOL, "data": DATA, "runs": tuple(runs), "table": tuple(table), "verdicts": verdicts}
    return write(directory / "experiment.json", experiment(name, seeds, **parts))


def write_guidance_experiment(directory: Path) -> Path:
    """An experiment whose results are a sweep."""
    sweep = results.from_file(write_sweep(directory / "sweeps" / "seed-1234"), Sweep)
    table = tuple(
        ExperimentRow(
            name=point.model,
            setting=Setting(conditioning="cross", n_text=1, n_image=(2, 2)),
            in_the_paper=(1, 4),
            guidance_scale=point.guidance_scale,
            seeds=(1234,),
            metrics=point.metrics,
        )
        for point in sweep.points
    )
    run = ExperimentRun(
        setting="cross-intermediate", seed=1234, run="r", result="sweeps/seed-1234/sweep.json", status="done"
    )
    failed = ExperimentRun(
        setting="cross-early", seed=1234, run="q", result="q.json", status="failed", reason="the loss is not a number"
    )
    bend = Elbow(
        setting="cross-intermediate", guidance_scale=4.0, by_seed=(4.0,), in_the_paper=4.0, verdict="undecided"
    )
    parts = {"runs": (run, failed), "table": table, "elbows": (bend,)}
    return write(directory / "experiment.json", experiment("guidance_sweep", (1234,), **parts))


def learning(share: float) -> tuple[Metric, ...]:
    """What an evaluation of scenes counts."""
    return tuple(
        Metric(**vars(estimate(value, 0.04, n=100)), name=name, subject="counts", unit="share", better="higher")
        for name, value in (("right kind and count", 0.1 + 0.85 * share), ("relation", 0.9 * share**3))
    )


def write_training(directory: Path, level: float) -> Path:
    lines: list[dict[str, Any]] = []
    for step in range(10, 8001, 10):
        lines.append({"step": step, "loss": level * (0.02 + 0.9 / (1 + step / 60)), "steps_per_second": 2.9})
        if step % 1000 == 0:
            lines.append({"step": step, "validation_loss": level * (0.021 + 0.9 / (1 + step / 60))})
            learned = step / 8000 / level
            numbers = (*metrics(learned), *learning(learned))
            told = TrainingEvaluation(images=200, guidance_scale=2.0, steps=25, metrics=numbers)
            lines.append({"step": step, "evaluation": to_dict(told)})
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
    rows: dict[str, dict[str, Any]] = {
        name: {
            "parameters": parameters,
            "gflops": {"without_attention": without, "with_attention": with_},
            "guided_step_gflops": {"plain": plain, "shared": shared},
        }
        for name, (parameters, without, with_, plain, shared) in paper.items()
    }
    rows["concat-early"]["training_memory"] = {
        **{"batch_size": 256, "precision": "bf16", "plain": {"peak": 20 * 2**30}},
        "checkpointed": {"peak": 11 * 2**29},
    }
    for setting in SETTINGS:
        counted = to_dict(costs(setting))
        rows[f"openmoji-{setting}"] = {key: counted[key] for key in ("parameters", "gflops", "guided_step_gflops")}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(rows))
    return file


def write_generated(directory: Path, model: str, hue: int, *, size: int = 64) -> Path:
    return write_images(directory, generated("generate", model, steps=50, guidance_scale=4.0), hue, size)


def write_studies(root: Path) -> Path:
    """A preference study with a careless rater, and a counting study with an automatic counter, by simulated raters."""
    how = RaterModel(careless=1)
    liked = simulate_preference(
        {"early": 0.0, "<late> & more": 3.0}, items=10, raters=4, raters_per_item=2, how=how, seed=0
    )
    study, answers, shown = simulate_count(
        {"one": 0.9, "two": 0.5}, raters=4, raters_per_item=2, how=RaterModel(), seed=0, images_per_prompt=1
    )
    for name, analysis in (
        ("liked", analyze_study(*liked, samples=100, least_passed=0.9)),
        ("counted", analyze_study(study, answers, automatic=shown, samples=100)),
    ):
        facts = {"directory": f"elsewhere/{name}", "id": name, "title": "What?"}
        told = {**made("study analyze"), "study": facts, "counter": {"name": "openmoji"}, **analysis}
        result = results.from_json({"schema": results.SCHEMA, **json.loads(json.dumps(told))})
        write(root / name / "analysis.json", result)
    return root


def _timed(name: str, seconds: float, base: float | None = None) -> TimedCase:
    faster = None if base is None else Speedup(**_rounds(base / seconds, 0.02), over="U-ViT")
    quartiles = (0.98 * seconds, 1.03 * seconds)
    return TimedCase(
        name=name,
        seconds=Seconds(median=seconds, quartiles=quartiles, rounds=(seconds,) * 6),
        steps_per_round=1,
        steps_per_second=1 / seconds,
        items=8,
        unit="images",
        items_per_second=8 / seconds,
        flops=7.8e11,
        flops_per_second=7.8e11 / seconds,
        share_of_peak=0.4 / seconds,
        speedup=faster,
    )


def _rounds(value: float, half: float) -> dict[str, Any]:
    one = estimate(value, half, "order statistics over rounds", 6)
    return {**vars(one), "quartiles": one.interval}


def benchmark(action: str, comparisons: dict[str, Comparison], *, bf16: bool | None = None) -> Benchmark:
    return Benchmark(
        **made(f"bench {action}", out="x.json", rounds=6, batch_size=8),
        action=action,  # type: ignore[arg-type]
        hardware=Hardware(device="cpu", name="A processor", threads=2, torch="2.13.0", bf16_instructions=bf16),
        process_peak_memory=2**30,
        comparisons=comparisons,
    )


def write_benches(root: Path, *, bf16: bool | None = None) -> Path:
    """Training steps against U-ViT's, and scaling by depth."""
    rows = (_timed("U-ViT", 2.0), _timed("concat-early", 1.6, 2.0), _timed("cross-intermediate", 1.25, 2.0))
    peak = Peak(flops_per_second=9e11, of="product 2056 x 512 -> 2048, forward")
    timed = Comparison(peak=peak, rows=rows, differences={"from_uvit": {"concat-early": 1e-7}})
    write(root / "train.json", benchmark("train", {"bf16": timed}, bf16=bf16))
    settings = {
        name: ScalingSeries(
            at=12,
            points=tuple(
                ScalingPoint(
                    value=depth,
                    flops=1e10 * depth,
                    relative_flops=depth / 12,
                    relative_seconds=Ratio(**_rounds((depth / 12) ** power, 0.02)),
                )
                for depth in (4, 12, 20)
            ),
            exponent=Ratio(**_rounds(power, 0.01)),
        )
        for name, power in (("concat-early", 0.9), ("cross-intermediate", 0.95))
    }
    scaled = Comparison(rows=rows, scaling=Scaling(axis="depth", steps="train", settings=settings))
    write(root / "scaling.json", benchmark("scaling", {"training steps by depth": scaled}))
    return root


def write_analyses(directory: Path) -> None:
    """One of every action of `ifuvit analyze`, of an early and an intermediate model, with made-up numbers."""
    quantities = {
        "attention": [("attention share", "content"), ("attention share", "all words"), ("focus", "words")],
        "rank": [
            (quantity, f"{condition}, {form}, mean of SVDs")
            for quantity in ("sum of singular values", "effective rank")
            for condition in ("own captions", "shuffled captions")
            for form in ("all tokens, raw", "without sinks, renormalized")
        ],
        "ablate": [("change of the prediction", "without"), ("alignment, lost", "only")],
        "probe": [("probe accuracy", "kind"), ("control accuracy", "kind")],
        "information": [("loss with wrong caption, more", "count")],
    }
    blocks = {
        "early": tuple(f"in_blocks.{i}" for i in range(3))
        + ("mid_block", "out_blocks.0", "out_blocks.1", "out_blocks.2"),
        "intermediate": ("in_blocks.2", "mid_block", "out_blocks.0"),
    }
    for action, of_action in quantities.items():
        measurements = tuple(
            Measurement(
                value=0.1 + 0.1 * number + 0.02 * place,
                interval=(0.05 + 0.1 * number, 0.2 + 0.1 * number + 0.02 * place),
                interval_from="bootstrap over prompts",
                n=64,
                model=model,
                quantity=quantity,
                of=of,
                block=None if action == "information" else block,
                levels=levels,
            )
            for number, model in enumerate(blocks)
            for quantity, of in of_action
            for place, block in enumerate(blocks[model])
            for levels in (None, (0.0, 0.5), (0.5, 1.0))
        )
        difference = Estimate(value=0.3, interval=(0.1, 0.5), interval_from="bootstrap over prompts", n=64)
        analysis = Analysis(
            command=f"analyze {action}",
            ifuvit_version="0.1.0",
            config={"seed": 0},
            action=action,  # type: ignore[arg-type]
            models=tuple(
                Target(name=name, kind="ifuvit", sha256="0" * 64, model={**MODEL, **setting})
                for name, setting in (
                    ("early", {"n_text": 0, "n_image": 0}),
                    ("intermediate", {"n_text": 1, "n_image": 2}),
                )
            ),
            blocks=blocks,
            bands=((0.0, 0.5), (0.5, 1.0)),
            prompts=("three sheep",),
            measurements=measurements,
            findings=(
                Finding(model="early", claim="A sentence.", verdict="held", difference=difference, text="It is."),
            ),
            notes=("A rule.",),
        )
        results.write(directory / f"{action}.json", analysis)


MODEL = {"conditioning": "cross", "depth": 6}


def write_all(root: Path) -> Path:
    """Results of every command below `root`."""
    write_evaluation(root / "shipped" / "evaluation.json", "cross-intermediate", 0.8)
    write_object_count(root / "shipped" / "counts.json", 0.6)
    write_sweep(root / "sweep")
    write_experiment(root / "table1", "table1")
    write_experiment(root / "ablation", "ablation", (1234,))
    write_guidance_experiment(root / "guidance")
    write_training(root / "runs" / "concat-early", 1.2)
    write_training(root / "runs" / "cross-intermediate", 1.0)
    runs = (root / "runs" / "concat-early", root / "runs" / "cross-intermediate")
    bench_quality(BenchQualityConfig(runs=runs, out=root / "quality.json"))
    write_costs(root / "costs.json")
    write_benches(root / "bench")
    write_studies(root / "studies")
    write_analyses(root / "analyses")
    write_generated(root / "images" / "early", "runs/concat-early", 40)
    write_generated(root / "images" / "intermediate", "runs/cross-intermediate", 220)
    write_generated(root / "images" / "large", "runs/coco", 120, size=160)
    return root
