"""The schema of result files: every kind comes back as it was written, and a file of another shape is one line."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ifuvit import results
from ifuvit.results import (
    Agreement,
    Analysis,
    Answers,
    AspectRatings,
    Benchmark,
    CellsWon,
    Comparison,
    Confusion,
    Costs,
    CountedImage,
    Counter,
    Counts,
    CountScores,
    CountStudy,
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
    LearningCurve,
    LearningCurves,
    LearningPoint,
    Measurement,
    Metric,
    ObjectCounts,
    ObjectScores,
    Peak,
    PeoplesCounts,
    PeoplesRatings,
    Preferences,
    PreferenceStudy,
    Rater,
    RatingStudy,
    Ratio,
    Reference,
    ReferenceData,
    Relations,
    RelationScores,
    Result,
    Scaling,
    ScalingPoint,
    ScalingSeries,
    ScoreDifferences,
    ScoresAtThreshold,
    Seconds,
    SelfConsistency,
    Setting,
    Slots,
    Speedup,
    StudyFacts,
    Sweep,
    SweepPoint,
    Target,
    TimedCase,
    TrainingEvaluation,
    TrainingFacts,
    Verdict,
)
from ifuvit.utils.config import to_dict
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import manifest

ONE = Estimate(value=0.5, interval=(0.4, 0.6), interval_from="bootstrap over images", n=200)
METRICS = (
    Metric(
        **vars(ONE), name="KID-X", subject="distance", better="lower", reference=Reference(value=0.0, n=9, how="real")
    ),
    Metric(
        **vars(ONE), name="right kind and count", subject="counts", better="higher", unit="share", values=(0.4, 0.6)
    ),
)
SCORES = CountScores(images=200, average_error=ONE, match_ratio=ONE)
COUNTS = Counts(
    overall=SCORES,
    by_count={"1": SCORES},
    cells={"bus": {"1": SCORES}},
    confusion=Confusion(counted=("0", "1", "more"), asked={"1": (1, 2, 3)}),
)
OBJECTS = ObjectScores(counts=COUNTS, relations=Relations(overall=RelationScores(images=3, right=ONE)))
COUNTED = ObjectCounts(
    counts=COUNTS,
    thresholds=(ScoresAtThreshold(threshold=0.3, counts=SCORES),),
    images=(
        CountedImage(file="0.png", prompt="a bus", counted={"bus": 1}, objects=(("bus", 1.0, 2.0, 0.9),)),
        CountedImage(file="1.png", prompt="a mess"),
    ),
)
COUNTER = Counter(name="openmoji", threshold=0.5, errors={"clean": OBJECTS}, details={"query": "a {}"})
DATA = ReferenceData(where="scenes", split="val", images=2000, sha256="ab")
COSTS = Costs(parameters=5, gflops=Gflops(without_attention=1, with_attention=2), peak_memory_gib=0.5)
RATIO = Ratio(value=1.1, quartiles=(1.0, 1.2))
CASE = TimedCase(
    name="a",
    seconds=Seconds(median=1.0, quartiles=(0.9, 1.1), rounds=(0.9, 1.0, 1.1)),
    steps_per_round=2,
    steps_per_second=1.0,
    items=8,
    unit="images",
    items_per_second=8.0,
    speedup=Speedup(value=1.1, quartiles=(1.0, 1.2), over="b"),
)
STUDY: dict[str, Any] = {
    "study": StudyFacts(directory="s", id="1", title="S"),
    "models": ("x", "y"),
    "items": 3,
    "answers": Answers(expected=4, answered=3, cannot_tell=0, skipped=1),
    "least_passed": 0.75,
    "raters": (Rater(rater="r", tasks=1, answered=1, not_told=0, checks=1, passed=0, repeats=0, same=0, flagged=True),),
}


def made(command: str) -> dict[str, Any]:
    return manifest(command, {"out": "x"}, started="2026-01-01T00:00:00+00:00")


def every_kind() -> list[Result]:
    agreement = {"agreement": Agreement(krippendorffs_alpha=ONE), "self_consistency": SelfConsistency(repeats=0)}
    pair = {"x": {"y": ScoreDifferences(match_ratio=ONE)}, "y": {"x": ScoreDifferences()}}
    won = {score: CellsWon(won=1, tied=0, lost=0, cells=1) for score in ("average_error", "match_ratio")}
    return [
        Evaluation(
            **made("evaluate"),
            target=Target(
                name="m",
                kind="ifuvit",
                sha256="cd",
                model={"conditioning": "cross", "n_text": 1, "n_image": [2, 3], "depth": 6},
                training=TrainingFacts(steps=10, batch_size=2),
            ),
            protocol={"name": "quick", "num_images": 1000},
            data=DATA,
            metrics=METRICS,
            objects={"paper": COUNTED},
            counter=COUNTER,
            costs=COSTS,
            images="m-images",
        ),
        Sweep(
            **made("evaluate"),
            protocol=None,
            points=(SweepPoint(model="m", guidance_scale=1.5, result="a.json", metrics=METRICS),),
            missing=(SweepPoint(model="m", guidance_scale=2.0),),
        ),
        GeneratedImages(
            **made("generate"),
            model="m",
            seed=0,
            sampling={"solver": "dpm++", "steps": 15},
            images=(GeneratedImages.Image(file="0.png", prompt="a bus", index=0),),
        ),
        ExperimentResult(
            **made("experiment"),
            name="table1",
            title="T",
            scale="smoke",
            seeds=(1, 2),
            runs=(ExperimentRun(setting="cross-early", seed=1, run="r", result="r.json", status="missing"),),
            headline={"distance": "KID-X"},
            table=(
                ExperimentRow(
                    name="cross-early",
                    setting=Setting(conditioning="cross", n_text=0, n_image=0),
                    in_the_paper=(0, 0),
                    guidance_scale=2.0,
                    seeds=(1,),
                    metrics=METRICS,
                    costs=COSTS,
                ),
            ),
            verdicts=(Verdict(claim="c", better="a", worse="b", metric="KID-X", difference=ONE, verdict="undecided"),),
            elbows=(Elbow(setting="a", guidance_scale=4.0, by_seed=(4.0, None), in_the_paper=4.0, verdict="holds"),),
            expected=Expected(source="arXiv", rows={"cross-early": {"FID-30K": 5.0}}),
        ),
        Benchmark(
            **made("bench scaling"),
            action="scaling",
            hardware=Hardware(device="cpu", name="x", torch="2", threads=1),
            process_peak_memory=1,
            comparisons={
                "fp32": Comparison(
                    rows=(CASE,),
                    peak=Peak(flops_per_second=1.0, of="product"),
                    scaling=Scaling(
                        axis="depth",
                        steps="train",
                        settings={
                            "a": ScalingSeries(
                                at=4,
                                points=(ScalingPoint(value=4, flops=1, relative_flops=1, relative_seconds=RATIO),),
                            )
                        },
                    ),
                    differences={"from_plain": {"a": 0.0}},
                )
            },
        ),
        LearningCurves(
            **made("bench quality"),
            curves=(
                LearningCurve(
                    name="a",
                    run="runs/a",
                    points=(LearningPoint(step=1, minutes=0.5, counts=METRICS[0]),),
                    minutes_to={"counts": {"0.8": 0.5, "0.95": None}},
                ),
            ),
        ),
        PreferenceStudy(
            **made("study analyze"),
            **STUDY,
            everyone=Preferences(
                answers=3,
                order=("x",),
                points={"x": ONE},
                win_rates={"x": {}},
                strengths={"x": ONE},
                best={"x": ONE},
                slots=Slots(points=(ONE,), p=0.5),
                **agreement,
            ),
        ),
        CountStudy(
            **made("study analyze"),
            **STUDY,
            everyone=PeoplesCounts(
                answers=3,
                models={"x": COUNTS, "y": COUNTS},
                differences=pair,
                cells_won={"x": {"y": won}, "y": {"x": won}},
                **agreement,
            ),
        ),
        RatingStudy(
            **made("study analyze"),
            **STUDY,
            everyone=PeoplesRatings(
                answers=3,
                aspects={
                    "quality": AspectRatings(
                        means={"x": ONE},
                        shares={"x": {"1": 0.25, "5": 0.75}},
                        differences={"x": {"y": ONE}, "y": {"x": None}},
                        agreement=agreement["agreement"],
                    )
                },
                self_consistency=agreement["self_consistency"],
            ),
        ),
        Analysis(
            **made("analyze rank"),
            action="rank",
            models=(Target(name="x", kind="ifuvit"),),
            blocks={"x": ("mid_block",)},
            bands=((0.0, 0.5), (0.5, 1.0)),
            prompts=("a bus",),
            measurements=(
                Measurement(**vars(ONE), model="x", quantity="effective rank", block="mid_block", levels=(0.0, 0.5)),
            ),
            findings=(Finding(model="x", claim="c", verdict="held", difference=ONE, text="t"),),
            notes=("n",),
            arrays={"x": "x/rank.npz"},
            images={"x": ("x/0000.png",)},
        ),
    ]


@pytest.mark.parametrize("result", every_kind(), ids=lambda one: one.kind)
def test_every_kind_comes_back_as_it_was_written(result: Result, tmp_path: Path) -> None:
    results.write(tmp_path / "r.json", result)
    assert results.from_file(tmp_path / "r.json") == result
    assert results.from_file(tmp_path / "r.json", type(result)) == result


def test_the_test_knows_every_kind() -> None:
    assert {one.kind for one in every_kind()} == set(results.KINDS)


def damaged(value: Any, path: tuple[Any, ...] = ()) -> Any:
    """(where, JSON with one value replaced by one of a wrong type or left out)."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        one = value[key]
        for wrong in ([[1]], "nonsense", 10**400):
            if one is None or isinstance(wrong, type(one)):
                continue
            value[key] = wrong
            yield (*path, key), wrong
        value[key] = one
        yield from ((where, wrong) for where, wrong in damaged(one, (*path, key)))
        if isinstance(value, dict):
            del value[key]
            yield (*path, key), "left out"
            value[key] = one


@pytest.mark.parametrize("result", every_kind(), ids=lambda one: one.kind)
def test_a_file_of_the_wrong_shape_is_one_line(result: Result) -> None:
    """Whatever is wrong, it is accepted as a value that fits, or refused by name; never another exception."""
    value = json.loads(json.dumps(results.to_json(result)))
    refused = 0
    for where, _ in damaged(value):
        try:
            results.from_json(value, where="r.json")
        except InputError as error:
            refused += 1
            text = str(error)
            assert text.startswith("r.json: ") and "\n" not in text
            if len(where) > 1 and "result file" not in text:
                assert str(where[0]) in text
    assert refused > 20
    assert results.from_json(value) == result


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"schema": 0}, r"r.json: has schema 0, but this version reads 1; convert it"),
        ({"schema": [1]}, r"has schema \[1\]"),
        ({"kind": "sweep"}, "unknown field"),
        ({"kind": "poem"}, "not a result file"),
        ({"kind": ["sweep"]}, "not a result file"),
        ({"metrics": [{"name": "a"}]}, "r.json: metrics: 0: field 'better' is missing"),
        ({"metrics": [{**to_dict(METRICS[0]), "value": float("nan")}]}, "metrics: 0: nan .*not finite"),
        ({"protocol": {}}, "protocol: field 'name' is missing"),
        ({"target": {"name": "m", "kind": "ifuvit", "model": {"n_text": 0}}}, "target: model: field"),
    ],
)
def test_errors_name_the_place(change: dict[str, Any], told: str) -> None:
    value = {**results.to_json(every_kind()[0]), **change}
    with pytest.raises(InputError, match=told):
        results.from_json(json.loads(json.dumps(value)), where="r.json")


def test_another_kind_than_wanted() -> None:
    value = json.loads(json.dumps(results.to_json(every_kind()[0])))
    with pytest.raises(InputError, match="holds a result of kind 'evaluation', not 'sweep'"):
        results.from_json(value, Sweep, where="r.json")


@pytest.mark.parametrize(
    ("setting", "fusion", "text", "words"),
    [
        (("concat", 0, 0), "early", "concat, early [0, 0]", "concatenation, early fusion [0, 0]"),
        (("cross", 1, 4), "intermediate", "cross, intermediate [1, 4]", "cross-attention, intermediate fusion [1, 4]"),
        (("cross", 1, (3, 2)), "intermediate", "cross, intermediate [1, 3+2]", "cross-attention, intermediate fusion [1, 3+2]"),
        (("cross", 1, 0), "text block only", "cross, text block only [1, 0]", "cross-attention, text block only [1, 0]"),
        (("concat", 0, 4), "middle only", "concat, middle only [0, 4]", "concatenation, middle only [0, 4]"),
    ],
)  # fmt: skip
def test_the_paper_s_names_of_settings(setting: Any, fusion: str, text: str, words: str) -> None:
    conditioning, n_text, n_image = setting
    one = Setting(conditioning=conditioning, n_text=n_text, n_image=n_image)
    assert (one.fusion, str(one), one.words) == (fusion, text, words)


def test_metrics_in_the_order_of_tables() -> None:
    score = Metric(**vars(ONE), name="score", subject="alignment", better="higher")
    assert [one.name for one in results.distinct([[METRICS[1], score], [METRICS[0], score]])] == [
        "KID-X",
        "score",
        "right kind and count",
    ]


def test_real_images_have_one_value_but_for_rounding() -> None:
    def sets(*values: float | None) -> list[tuple[Metric]]:
        references = [None if value is None else Reference(value=value, how="real") for value in values]
        return [(replace(METRICS[0], reference=one),) for one in references]

    assert results.in_common(sets(0.86567259, None, 0.865672592), "KID-X") == 0.86567259
    assert results.in_common(sets(0.86567259, 0.866), "KID-X") is None
    assert results.in_common(sets(None), "KID-X") is None
    assert results.in_common(sets(0.5), "FID") is None


def line(step: int, **more: Any) -> str:
    return json.dumps({"step": step, **more})


def test_training_s_log(tmp_path: Path) -> None:
    told = TrainingEvaluation(images=200, guidance_scale=2.0, steps=25, metrics=METRICS)
    log = tmp_path / "metrics.jsonl"
    log.write_text(
        "\n".join(
            [line(1, loss=0.5, samples=8), line(2, validation_loss=0.4), line(2, evaluation=to_dict(told)), '{"st']
        )
    )
    record = results.read_training(log)
    assert record is not None and record.steps == 2
    assert (record.loss, record.validation) == (((1, 0.5),), ((2, 0.4),))
    assert record.evaluations == ((2, told),)
    log.write_text(line(1, psnr=20.0, loss=0.5))
    assert results.read_training(log) is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{\n" + line(1, loss=1.0), "line 1: not JSON"),
        ("[1]", "line 1: not an object"),
        (line(1, loss="x"), "'loss' is not a number"),
        (line(1, loss=float("nan")), "'loss' is not a number"),
        ('{"loss": 1}', "'step' is not a whole number"),
        (line(1, evaluation=[]), "line 1: evaluation: holds list"),
        (line(1, evaluation={"images": 1}), "line 1: evaluation: field"),
    ],
)
def test_training_s_log_of_the_wrong_shape(text: str, told: str, tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    log.write_text(text)
    with pytest.raises(InputError, match=told):
        results.read_training(log)


def test_the_output_of_costs(tmp_path: Path) -> None:
    row = {"parameters": 1, "gflops": {"without_attention": 1, "with_attention": 2}}
    step = GuidedStepGflops(plain=4, shared=3)
    file = tmp_path / "costs.json"
    file.write_text(json.dumps({"a": {**row, "guided_step_gflops": to_dict(step)}}))
    assert results.read_costs(file)["a"].guided_step_gflops == step
    memory = {"batch_size": 1, "precision": "bf16", "plain": {"peak": 1}, "checkpointed": {}}
    for wrong in ([], {"a": row}, {"a": {**row, "guided_step_gflops": to_dict(step), "training_memory": memory}}):
        file.write_text(json.dumps(wrong))
        with pytest.raises(InputError, match="costs.json"):
            results.read_costs(file)


def test_schema_of_a_replaced_result() -> None:
    """Dataclasses are frozen values: `replace` checks again."""
    with pytest.raises(InputError, match="not finite"):
        replace(ONE, value=float("inf"))
