"""The one schema of result files: what commands write, and what the report and other commands read.

A result file is JSON: {"schema": SCHEMA, "kind": ..., and the fields of the class of that kind}. Writers make the dataclass
and call `write`; readers call `from_file`. Nothing else parses a result.
"""

import itertools
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, get_args

from ifuvit.utils.config import from_dict, to_dict
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import read_json, seal, unseal, write_json

SCHEMA = 1
"""Goes up when a field changes its name or meaning; `tools/convert_results.py` brings older files up to date."""

Better = Literal["lower", "higher"]
Subject = Literal["distance", "alignment", "coverage", "counts"]
"""What a metric is about, in the order of tables. Distances and alignment scores are what the paper's tables have;
"coverage" is precision and recall."""
Values = Mapping[str, Any]
"""JSON values that are shown by name and not computed with."""


# ------------------------------------------------------------------------------------------------------------- numbers


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number with how sure it is."""

    value: float
    interval: tuple[float, float] | None = None
    """95 %."""
    interval_from: str | None = None
    """What varies in it, as "bootstrap over images"."""
    n: int | None = None
    """How many of those."""

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.value, *(self.interval or ())))):
            raise InputError(f"{self.value} with interval {self.interval}: not finite numbers")


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The same number of real images: the floor of a distance, the score of real pairs."""

    value: float
    how: str
    """What was compared with what."""
    n: int | None = None


@dataclass(frozen=True, kw_only=True)
class Metric(Estimate):
    """A number that says how good images are, with all that is needed to show it and to compare it; from an estimate it is
    `Metric(**vars(estimate), name=..., ...)`."""

    name: str
    subject: Subject
    unit: Literal["", "share", "objects"] = ""
    """Shares are from 0 to 1; tables show them in percent."""
    better: Better | None
    decimals: int = 3
    """Worth showing where there is no interval."""
    reference: Reference | None = None
    decoded_reference: Reference | None = None
    """Of a distance: what the same real images get when the model's own autoencoder has encoded and decoded them, which a
    perfect backbone would reach. None where no autoencoder is known."""
    network: Values | None = None
    """{"name", "fingerprint", ...} of the network that it comes from."""
    values: tuple[float, ...] = ()
    """Of the single runs, where it is a mean over runs."""
    details: Values = field(default_factory=dict)
    """Further facts, as the prefix of captions or other scales of the same score."""


Metrics = tuple[Metric, ...]


def by_name(metrics: Iterable[Metric]) -> dict[str, Metric]:
    """Metrics by their names."""
    return {one.name: one for one in metrics}


def distinct(sets: Iterable[Iterable[Metric]]) -> list[Metric]:
    """The first metric of every name, by subject, else in the order in which they come."""
    found: dict[str, Metric] = {}
    for one in itertools.chain.from_iterable(sets):
        found.setdefault(one.name, one)
    return sorted(found.values(), key=lambda one: get_args(Subject).index(one.subject))


def in_common(sets: Iterable[Iterable[Metric]], name: str, *, decoded: bool = False) -> float | None:
    """The number of real images by a metric, where all sets that have it agree but for rounding; None otherwise. With
    `decoded`, of real images that the models' autoencoder has encoded and decoded."""
    found = [one.decoded_reference if decoded else one.reference for of in sets for one in of if one.name == name]
    known = [one.value for one in found if one is not None]
    return known[0] if known and all(math.isclose(value, known[0], rel_tol=1e-6) for value in known) else None


@dataclass(frozen=True, kw_only=True)
class Score:
    """How a field of `CountScores` or `RelationScores` is shown."""

    title: str
    unit: Literal["share", "objects"]
    better: Better


COUNT_SCORES: Mapping[str, Score] = {
    "right_kind": Score(title="right kind", unit="share", better="higher"),
    "right_count": Score(title="right number", unit="share", better="higher"),
    "right": Score(title="both", unit="share", better="higher"),
    "average_error": Score(title="average error", unit="objects", better="lower"),
    "match_ratio": Score(title="match ratio", unit="share", better="higher"),
    "right_ground": Score(title="right ground", unit="share", better="higher"),
}
RELATION_SCORES: Mapping[str, Score] = {
    "both_kinds": Score(title="both kinds", unit="share", better="higher"),
    "right_objects": Score(title="right objects", unit="share", better="higher"),
    "right": Score(title="and relation", unit="share", better="higher"),
    "placed_if_both_kinds": Score(title="relation if both kinds", unit="share", better="higher"),
    "right_ground": Score(title="right ground", unit="share", better="higher"),
}


@dataclass(frozen=True, kw_only=True)
class CountScores:
    """Scores of a group of images by the number of objects in them; docs/counting.md explains each. None: not measured."""

    images: int
    answers: int | None = None
    """How many people's answers, where people counted."""
    right_kind: Estimate | None = None
    right_count: Estimate | None = None
    right: Estimate | None = None
    average_error: Estimate | None = None
    """Mean |counted - asked| (the paper's Eq. 9)."""
    match_ratio: Estimate | None = None
    """Share with counted = asked (Eq. 10)."""
    right_ground: Estimate | None = None
    """Of the images whose prompt names a ground."""


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """How many images of each asked count show how many objects."""

    counted: tuple[str, ...]
    asked: Mapping[str, tuple[int, ...]]

    def __post_init__(self) -> None:
        for asked, row in self.asked.items():
            if len(row) != len(self.counted):
                raise InputError(f"row {asked!r} has {len(row)} numbers under {len(self.counted)} headings")


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Counting scores of images of one kind of object each, over all and by group."""

    overall: CountScores
    by_count: Mapping[str, CountScores]
    by_object: Mapping[str, CountScores] = field(default_factory=dict)
    by_combination: Mapping[str, CountScores] = field(default_factory=dict)
    """"in training" and "held out"."""
    cells: Mapping[str, Mapping[str, CountScores]] = field(default_factory=dict)
    """By object and asked count."""
    confusion: Confusion | None = None

    def __post_init__(self) -> None:
        for counts in (self.by_count, *self.cells.values()):
            if wrong := [count for count in counts if not count.isdecimal()]:
                raise InputError(f"{wrong[0]!r} is not a count")


@dataclass(frozen=True, kw_only=True)
class RelationScores:
    """Shares of a group of images of two objects in a spatial relation; docs/counting.md explains each."""

    images: int
    both_kinds: Estimate | None = None
    right_objects: Estimate | None = None
    right: Estimate | None = None
    placed_if_both_kinds: Estimate | None = None
    right_ground: Estimate | None = None
    """Of the images whose prompt names a ground."""


@dataclass(frozen=True, kw_only=True)
class Relations:
    """Relation scores over all images and by group."""

    overall: RelationScores
    by_relation: Mapping[str, RelationScores] = field(default_factory=dict)
    by_combination: Mapping[str, RelationScores] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ObjectScores:
    """Scores of a set of images: of those of one kind of object, and of those of two. None where there are no such images."""

    counts: Counts | None = None
    relations: Relations | None = None


@dataclass(frozen=True, kw_only=True)
class CountedImage:
    """What was found in one image."""

    file: str
    prompt: str
    counted: Mapping[str, int] | None = None
    """Objects by kind; None where the counter cannot read the prompt."""
    objects: tuple[tuple[str, float, float, float], ...] = ()
    """(kind, x, y, score)."""
    right: bool | None = None
    """Whether these are exactly the objects that the prompt asks for, in its relation."""
    ground: str | None = None
    """Which ground it has, where the prompt names one; "other" for none of the known ones."""


@dataclass(frozen=True, kw_only=True)
class ScoresAtThreshold:
    """Overall scores at another threshold of the counter or detector."""

    threshold: float
    counts: CountScores | None = None
    relations: RelationScores | None = None


@dataclass(frozen=True, kw_only=True)
class ObjectCounts(ObjectScores):
    """Scores of a set of images, with what they come from."""

    thresholds: tuple[ScoresAtThreshold, ...] = ()
    images: tuple[CountedImage, ...] = ()

    @property
    def counted(self) -> int:
        """How many images have a prompt that the counter can read."""
        return sum(one.counted is not None for one in self.images)


@dataclass(frozen=True, kw_only=True)
class Counter:
    """The object counter or detector that counted, and how well it does."""

    name: str
    threshold: float | None = None
    sha256: str | None = None
    errors: Mapping[str, ObjectScores] = field(default_factory=dict)
    """Its own scores on real images whose contents are known, by what was done to them."""
    details: Values = field(default_factory=dict)
    """Further facts of a detector."""


@dataclass(frozen=True, kw_only=True)
class SecondCount:
    """What another counter found in the same images, and how far both agree; by set of counting prompts."""

    counter: Counter
    scores: Mapping[str, ObjectScores]
    same_verdict: Mapping[str, Estimate]
    """Share of images that are right to both counters or to none."""
    same_objects: Mapping[str, Estimate]
    """Share of images in which both find the same numbers of the same kinds."""
    difference: Mapping[str, Estimate]
    """The share of right images by the first counter less that by this one, image by image."""


# -------------------------------------------------------------------------------------------- models, data and their costs


Conditioning = Literal["concat", "cross", "cross-separate", "mmdit", "adaln"]
CONDITIONINGS: Mapping[Conditioning, str] = {
    "concat": "concatenation",
    "cross": "cross-attention",
    "cross-separate": "separate cross-attention",
    "mmdit": "MM-DiT",
    "adaln": "adaptive LayerNorm",
}
"""How text enters a fused block, and what a sentence calls it."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where and how text enters a backbone."""

    conditioning: Conditioning
    n_text: int
    n_image: int | tuple[int, int]

    @property
    def fusion(self) -> str:
        """As the paper calls it; its ablations (Figure 7) and other places have names of their own."""
        image_only = self.n_image not in (0, (0, 0))
        if image_only and isinstance(self.n_image, tuple) and 0 in self.n_image:
            return "first blocks only" if self.n_image[0] == 0 else "last blocks only"
        if self.n_text and image_only:
            return "intermediate"
        return "text block only" if self.n_text else "middle only" if image_only else "early"

    @property
    def words(self) -> str:
        """In a sentence: "cross-attention, intermediate fusion [1, 2]"."""
        fusion = f"{self.fusion} fusion" if self.fusion in ("early", "intermediate") else self.fusion
        return f"{CONDITIONINGS[self.conditioning]}, {fusion} {self._numbers}"

    def __str__(self) -> str:
        return f"{self.conditioning}, {self.fusion} {self._numbers}"

    @property
    def _numbers(self) -> str:
        n_image = self.n_image if isinstance(self.n_image, int) else "+".join(map(str, self.n_image))
        return f"[{self.n_text}, {n_image}]"


@dataclass(frozen=True, kw_only=True)
class TrainingFacts:
    """How the weights of a model were made."""

    steps: int
    batch_size: int
    seed: int | None = None
    seconds: float | None = None
    images: int | None = None
    """Of the encoded data set, without those held out."""
    captions: int | None = None
    """Of the encoded data set."""
    data: str | None = None
    """The encoded data set's fingerprint."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """What was evaluated."""

    name: str
    kind: Literal["ifuvit", "diffusers", "images"]
    sha256: str | None = None
    """Of the backbone's weights."""
    fingerprint: str | None = None
    """SHA-256 over all that decides what a model generates: weights, autoencoder, text encoder, latent scale."""
    solver: str | None = None
    """The solver that "auto" in the protocol's sampling settings stands for."""
    model: Values | None = None
    """The backbone's configuration, where it is of this package."""
    training: TrainingFacts | None = None

    def __post_init__(self) -> None:
        _ = self.setting  # refuses a configuration that has none

    @property
    def setting(self) -> Setting | None:
        """How text enters the backbone, where it is of this package."""
        if self.model is None:
            return None
        names = [one.name for one in fields(Setting)]
        return from_dict(Setting, {name: self.model[name] for name in names if name in self.model}, where="model")


@dataclass(frozen=True, kw_only=True)
class ReferenceData:
    """The reference images and captions of an evaluation."""

    where: str
    split: str | None = None
    images: int
    left_out: int = 0
    """Images that cannot be used."""
    sha256: str
    """Of the list of images and captions."""


@dataclass(frozen=True, kw_only=True)
class Gflops:
    """Of one forward pass for one image."""

    without_attention: float
    """Without the products of attention, as the paper counts."""
    with_attention: float


@dataclass(frozen=True, kw_only=True)
class GuidedStepGflops:
    """Of one guided sampling step for one image."""

    plain: float
    """Two forward passes."""
    shared: float
    """What both branches share is computed once."""


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What a model costs: counted from its configuration, and measured where it was evaluated."""

    parameters: int | None = None
    gflops: Gflops | None = None
    guided_step_gflops: GuidedStepGflops | None = None
    early_fusion_step_gflops: GuidedStepGflops | None = None
    """Of early fusion by concatenation (U-ViT) in the same size."""
    training_steps_per_second: float | None = None
    images_per_second: float | None = None
    peak_memory_gib: float | None = None
    """Of the whole process."""


# ---------------------------------------------------------------------------------------------------------- result files


@dataclass(frozen=True, kw_only=True)
class Result:
    """What all result files have: the facts of `ifuvit.utils.files.manifest`."""

    kind: ClassVar[str]

    command: str
    ifuvit_version: str
    config: Values
    """The command's resolved configuration."""
    started: str | None = None
    finished: str | None = None
    machine: Values = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Evaluation(Result):
    """One model or directory of images under one protocol."""

    kind = "evaluation"

    target: Target
    protocol: Values
    """The resolved protocol; its "name" says whether it was changed."""
    data: ReferenceData | None = None
    """None where nothing was compared with reference images."""
    metrics: Metrics
    objects: Mapping[str, ObjectCounts] = field(default_factory=dict)
    """By set of counting prompts (`ifuvit.metrics.counting.prompts`); of a directory's images, "captions"."""
    counter: Counter | None = None
    second_counts: tuple[SecondCount, ...] = ()
    """What further counters found in the same images."""
    costs: Costs | None = None
    evaluators: Mapping[str, Values] = field(default_factory=dict)
    """What decided the numbers, by evaluator: networks with their hashes."""
    images: str | None = None
    """Directory of the captions' images, relative to the file."""
    processes: int = 1
    device: str | None = None

    def __post_init__(self) -> None:
        _check_protocol(self.protocol)

    @property
    def guidance_scale(self) -> float:
        """Of the captions' images.

        Raises:
            InputError: the protocol has none.
        """
        sampling = self.protocol.get("sampling")
        scale = sampling.get("guidance_scale") if isinstance(sampling, Mapping) else None
        if not isinstance(scale, (int, float)):
            raise InputError(f"{self.target.name}: its protocol has no guidance scale")
        return float(scale)


@dataclass(frozen=True, kw_only=True)
class SweepPoint:
    """One model at one guidance scale."""

    model: str
    guidance_scale: float
    result: str | None = None
    """Its `Evaluation`, relative to the sweep's file."""
    metrics: Metrics = ()


@dataclass(frozen=True, kw_only=True)
class Sweep(Result):
    """Several models at several guidance scales, on the same captions and noise. Valid while points are missing."""

    kind = "sweep"

    protocol: Values | None = None
    """Of the first point; None before there is one, as is `data`."""
    data: ReferenceData | None = None
    points: tuple[SweepPoint, ...]
    missing: tuple[SweepPoint, ...] = ()
    """Those that are not evaluated yet."""

    def __post_init__(self) -> None:
        if self.protocol is not None:
            _check_protocol(self.protocol)

    @property
    def complete(self) -> bool:
        return not self.missing


@dataclass(frozen=True, kw_only=True)
class GeneratedImages(Result):
    """The manifest of a directory of images with their prompts, of `ifuvit generate` or an evaluation."""

    kind = "generated images"

    @dataclass(frozen=True, kw_only=True)
    class Image:
        file: str
        prompt: str
        index: int
        """Of its noise."""
        draws: int = 1
        """How often it was drawn."""
        verified: bool | None = None
        """Whether the counter found what the prompt asks for; None where it cannot read it, or was not asked."""

    model: str
    """Its name."""
    sha256: str | None = None
    """Of the backbone's weights."""
    seed: int
    sampling: Values
    """The resolved sampling settings."""
    images: tuple[Image, ...]
    complete: bool = True
    """False while they are being generated."""
    encoders: Values = field(default_factory=dict)
    device: str | None = None
    verified_by: Values | None = None
    """{"counter", "sha256", "redraws"} where images were drawn again until a counter agreed. They are chosen: no evaluation
    takes them."""

    @property
    def verification(self) -> str:
        """What became of it, in words; empty where nothing was verified."""
        if self.verified_by is None:
            return ""
        told = [one.verified for one in self.images if one.verified is not None]
        redrawn = sum(one.draws > 1 for one in self.images)
        return (
            f"chosen by the counter: {sum(told)} of {len(told)} images show what was asked, {redrawn} were drawn again, "
            f"{len(self.images) - len(told)} have prompts that it cannot read"
        )


# ----------------------------------------------------------------------------------------------------------- experiments


@dataclass(frozen=True, kw_only=True)
class ExperimentRun:
    """One setting with one seed; the paths are relative to the experiment's file."""

    setting: str
    seed: int
    run: str
    result: str
    status: Literal["done", "missing", "failed"]
    reason: str | None = None
    """Why it failed, when it was last tried."""


@dataclass(frozen=True, kw_only=True)
class ExperimentRow:
    """Means over seeds of one setting at one guidance scale."""

    name: str
    setting: Setting
    in_the_paper: tuple[int, int | tuple[int, int]]
    """[N_text, N_image] at the paper's depth."""
    guidance_scale: float
    seeds: tuple[int, ...]
    """Those that there are results of."""
    metrics: Metrics
    costs: Costs = Costs()


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the paper claims of two settings, and what came out."""

    claim: str
    better: str
    worse: str
    metric: str
    difference: Estimate
    """better - worse, seed by seed: the mean with Student's interval; one seed has none."""
    differences: tuple[float, ...] = ()
    """By seed, where there are several."""
    verdict: Literal["holds", "does not hold", "undecided"]
    """Holds: the interval has the claimed sign throughout; does not hold: the other one; else undecided."""


@dataclass(frozen=True, kw_only=True)
class Elbow:
    """Where a curve of distance against alignment over guidance scales bends most."""

    setting: str
    guidance_scale: float | None
    """Of the means over seeds; None if the curve does not bend toward low distances."""
    by_seed: tuple[float | None, ...]
    in_the_paper: float
    verdict: Literal["holds", "does not hold", "undecided"]
    """Of the paper's: it holds if all of three seeds or more have it, and does not if none of them has."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """The paper's numbers by setting and metric."""

    source: str
    rows: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, kw_only=True)
class ExperimentResult(Result):
    """Settings trained and evaluated alike. Valid while runs are missing."""

    kind = "experiment"

    name: str
    title: str
    scale: str
    recipe: str = ""
    """Which training recipe: "modern" or "paper"; "" in files from before there were two."""
    equal: Literal["width", "flops", "parameters"] = "width"
    """What the settings have in common; for the last two their widths differ."""
    seeds: tuple[int, ...]
    protocol: Values | None = None
    data: ReferenceData | None = None
    runs: tuple[ExperimentRun, ...]
    headline: Mapping[str, str]
    """The metric's name for each quantity that claims compare."""
    table: tuple[ExperimentRow, ...]
    verdicts: tuple[Verdict, ...] = ()
    elbows: tuple[Elbow, ...] = ()
    expected: Expected

    def __post_init__(self) -> None:
        if not self.seeds:
            raise InputError("seeds: there are none")
        if self.protocol is not None:
            _check_protocol(self.protocol)

    @property
    def complete(self) -> bool:
        return all(run.status == "done" for run in self.runs)

    @property
    def points(self) -> tuple[SweepPoint, ...]:
        """Its rows as points of a sweep, if it has several guidance scales."""
        if len({row.guidance_scale for row in self.table}) < 2:
            return ()
        return tuple(
            SweepPoint(model=row.name, guidance_scale=row.guidance_scale, metrics=row.metrics) for row in self.table
        )


# ------------------------------------------------------------------------------------------------------------ benchmarks


@dataclass(frozen=True, kw_only=True)
class Ratio(Estimate):
    """The median over rounds of a ratio of two times of the same round."""

    quartiles: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Speedup(Ratio):
    """How many times as fast as another case."""

    over: str


@dataclass(frozen=True, kw_only=True)
class Seconds:
    """Of a step."""

    median: float
    quartiles: tuple[float, float]
    rounds: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class TimedCase:
    """One benchmark case."""

    name: str
    seconds: Seconds
    steps_per_round: int
    steps_per_second: float
    items: int
    """Per step."""
    unit: str
    """Of items, as "images"."""
    items_per_second: float
    flops: float | None = None
    """Per step."""
    flops_per_second: float | None = None
    share_of_peak: float | None = None
    peak_memory: int | None = None
    """Bytes."""
    speedup: Speedup | None = None


@dataclass(frozen=True, kw_only=True)
class Peak:
    """FLOP/s of the fastest matrix product of the models' sizes in the same rounds."""

    flops_per_second: float
    of: str
    products: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ScalingPoint:
    """A backbone with another size, relative to its own."""

    value: int
    flops: float
    relative_flops: float
    relative_seconds: Ratio


@dataclass(frozen=True, kw_only=True)
class ScalingSeries:
    """One backbone along an axis."""

    at: int
    """Its own size."""
    points: tuple[ScalingPoint, ...]
    exponent: Ratio | None = None
    """e of seconds ~ FLOPs ** e; None where FLOPs hardly change."""


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """How time follows operations."""

    axis: Literal["image-tokens", "text-tokens", "depth"]
    steps: Literal["train", "sample"]
    settings: Mapping[str, ScalingSeries]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Cases that were timed in the same rounds."""

    rows: tuple[TimedCase, ...]
    peak: Peak | None = None
    scaling: Scaling | None = None
    differences: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Of results, from the code or the way that a case is compared with."""

    def __post_init__(self) -> None:
        if not self.rows:
            raise InputError("rows: there are none")


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """Where and how precisely was computed."""

    device: str
    name: str
    torch: str
    cuda: str | None = None
    threads: int
    float32_matmul_precision: str | None = None
    bf16_instructions: bool | None = None
    """Of a processor."""


@dataclass(frozen=True, kw_only=True)
class Benchmark(Result):
    """Result of `ifuvit bench`."""

    kind = "benchmark"

    action: Literal["train", "sample", "generate", "onnx", "scaling"]
    hardware: Hardware
    process_peak_memory: int
    """Bytes."""
    comparisons: Mapping[str, Comparison]
    """By title."""
    reference: Values | None = None
    """Facts of the other code that was timed."""


@dataclass(frozen=True, kw_only=True)
class LearningPoint:
    """An evaluation while a run trained."""

    step: int
    minutes: float
    """Of training up to there."""
    counts: Metric | None = None
    """Share of images of counting prompts with exactly the asked objects."""
    relations: Metric | None = None
    """Share of images of relation prompts with one of each kind, rightly placed."""


@dataclass(frozen=True, kw_only=True)
class LearningCurve:
    """What a run had learned when."""

    name: str
    run: str
    recipe: Values = field(default_factory=dict)
    """Its training recipe."""
    machine: Values = field(default_factory=dict)
    """Where it trained."""
    points: tuple[LearningPoint, ...]
    minutes_to: Mapping[str, Mapping[str, float | None]]
    """"counts" and "relations": by share of right images, the minutes until it is first reached; None if it is not."""

    def __post_init__(self) -> None:
        if not self.points:
            raise InputError("points: there are none")
        for of in self.minutes_to.values():
            for mark in of:
                if not mark.replace(".", "", 1).isdecimal():
                    raise InputError(f"minutes_to: {mark!r} is not a share")


@dataclass(frozen=True, kw_only=True)
class LearningCurves(Result):
    """Result of `ifuvit bench quality`: runs side by side."""

    kind = "learning curves"

    curves: tuple[LearningCurve, ...]

    def __post_init__(self) -> None:
        if not self.curves:
            raise InputError("curves: there are none")


# ---------------------------------------------------------------------------------------------------------- human studies


@dataclass(frozen=True, kw_only=True)
class SelfConsistency:
    """How raters answered the same item twice."""

    repeats: int
    same: Estimate | None = None
    pairs_kept: Estimate | None = None
    """Of rankings: share of pairs of models in the same order."""
    difference: Estimate | None = None
    """Of counts: mean |first - second|."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far raters agree. None: not of this kind of study, or undefined."""

    krippendorffs_alpha: Estimate | None = None
    kendalls_w: Estimate | None = None
    rank_correlation: Estimate | None = None
    same: Estimate | None = None


@dataclass(frozen=True, kw_only=True)
class Slots:
    """Points by slot, and Friedman's test that the slot does not matter."""

    points: tuple[Estimate, ...]
    statistic: float | None = None
    p: float | None = None


@dataclass(frozen=True, kw_only=True)
class Preferences:
    """How raters rank models."""

    answers: int
    order: tuple[str, ...]
    """The models by strength."""
    points: Mapping[str, Estimate]
    win_rates: Mapping[str, Mapping[str, Estimate]]
    strengths: Mapping[str, Estimate]
    best: Mapping[str, Estimate]
    slots: Slots
    agreement: Agreement
    self_consistency: SelfConsistency

    def __post_init__(self) -> None:
        for name in ("points", "win_rates", "strengths", "best"):
            if missing := sorted(set(self.order) - getattr(self, name).keys()):
                raise InputError(f"{name}: {missing[0]!r} is missing")


@dataclass(frozen=True, kw_only=True)
class CellsWon:
    """Combinations of object and count in which one model has the better mean."""

    won: int
    tied: int
    lost: int
    cells: int


@dataclass(frozen=True, kw_only=True)
class PeopleAndCounter:
    """Both scores by people and by the counter, on the same images."""

    people: CountScores
    counter: CountScores


@dataclass(frozen=True, kw_only=True)
class CounterAgreement:
    """The automatic counter next to people."""

    images: int
    same: Estimate | None = None
    same_people: Estimate | None = None
    difference: Estimate | None = None
    absolute_difference: Estimate | None = None
    correlation: Estimate | None = None
    models: Mapping[str, PeopleAndCounter]


@dataclass(frozen=True, kw_only=True)
class ScoreDifferences:
    """Both counting scores of one model less those of another."""

    average_error: Estimate | None = None
    match_ratio: Estimate | None = None


@dataclass(frozen=True, kw_only=True)
class PeoplesCounts:
    """What raters counted."""

    answers: int
    models: Mapping[str, Counts]
    differences: Mapping[str, Mapping[str, ScoreDifferences]]
    cells_won: Mapping[str, Mapping[str, Mapping[str, CellsWon]]]
    agreement: Agreement
    self_consistency: SelfConsistency
    counter: CounterAgreement | None = None

    def __post_init__(self) -> None:
        for one in self.models:
            for other in self.models:
                told = self.cells_won.get(one, {}).get(other, {})
                if one != other and not ({"average_error", "match_ratio"} <= told.keys() and self._differ(one, other)):
                    raise InputError(f"models {one!r} and {other!r} are not compared")

    def _differ(self, one: str, other: str) -> bool:
        return other in self.differences.get(one, {})


@dataclass(frozen=True, kw_only=True)
class StudyFacts:
    """Which study was analyzed."""

    directory: str
    id: str
    title: str


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Of all tasks but repeats and attention checks."""

    expected: int
    answered: int
    cannot_tell: int
    skipped: int


@dataclass(frozen=True, kw_only=True)
class Rater:
    """What is known of one."""

    rater: str
    tasks: int
    answered: int
    not_told: int
    """Skipped, or "cannot tell"."""
    checks: int
    passed: int
    repeats: int
    same: int
    median_seconds: float | None = None
    fast: bool = False
    """Much faster than the others."""
    flagged: bool
    """Failed attention checks, or fast."""


@dataclass(frozen=True, kw_only=True)
class StudyAnalysis(Result):
    """What the answers of a human study say."""

    study: StudyFacts
    models: tuple[str, ...]
    items: int
    answers: Answers
    least_passed: float
    """Share of attention checks below which a rater is flagged."""
    least_pace: float = 0.0
    """Share of the raters' median time below which one is flagged."""
    raters: tuple[Rater, ...]
    counter: Counter | None = None
    """The automatic counter that people are compared with."""

    @property
    def name(self) -> str:
        return Path(self.study.directory).name or self.study.title

    @property
    def flagged(self) -> int:
        """How many raters failed too many attention checks, or were too fast."""
        return sum(row.flagged for row in self.raters)


@dataclass(frozen=True, kw_only=True)
class PreferenceStudy(StudyAnalysis):
    """Raters ranked the models' images of the same prompt."""

    kind = "preference study"

    everyone: Preferences
    without_flagged: Preferences | None = None
    """The same numbers without flagged raters; None if there are none."""


@dataclass(frozen=True, kw_only=True)
class CountStudy(StudyAnalysis):
    """Raters counted objects."""

    kind = "count study"

    everyone: PeoplesCounts
    without_flagged: PeoplesCounts | None = None
    """The same numbers without flagged raters; None if there are none."""


@dataclass(frozen=True, kw_only=True)
class AspectRatings:
    """How raters rate models by one aspect, from 1 to 5."""

    means: Mapping[str, Estimate]
    shares: Mapping[str, Mapping[str, float]]
    """By model, the share of answers of every rating."""
    differences: Mapping[str, Mapping[str, Estimate | None]]
    """The mean of one model less that of another."""
    agreement: Agreement


@dataclass(frozen=True, kw_only=True)
class PeoplesRatings:
    """How raters rate images."""

    answers: int
    aspects: Mapping[str, AspectRatings]
    self_consistency: SelfConsistency


@dataclass(frozen=True, kw_only=True)
class RatingStudy(StudyAnalysis):
    """Raters rated every image by aspect."""

    kind = "rating study"

    everyone: PeoplesRatings
    without_flagged: PeoplesRatings | None = None
    """The same numbers without flagged raters; None if there are none."""


# -------------------------------------------------------------------------------------------------------- training's log


@dataclass(frozen=True, kw_only=True)
class TrainingEvaluation:
    """What a line of a run's metrics.jsonl has under "evaluation"."""

    images: int
    guidance_scale: float
    steps: int
    """Of the solver."""
    solver: str | None = None
    initial_latents: str | None = None
    """Which ones; None in logs of before they were recorded."""
    metrics: Metrics


@dataclass(frozen=True, kw_only=True)
class TrainingRecord:
    """A training run's metrics.jsonl, as far as it is shown. Other keys of its lines are free."""

    loss: tuple[tuple[int, float], ...]
    validation: tuple[tuple[int, float], ...]
    evaluations: tuple[tuple[int, TrainingEvaluation], ...]
    speed: tuple[tuple[int, float], ...] = ()
    """(step, steps a second up to there since the entry before)."""
    levels: tuple[tuple[int, Mapping[str, float]], ...] = ()
    """(step, the validation loss by band of the noise level, as "0.3-0.4")."""
    learning_rate: tuple[tuple[int, float], ...] = ()
    gradient_norm: tuple[tuple[int, float], ...] = ()
    batch_size: float | None = None
    """Images a step; None where the log does not say."""

    def seconds_at(self, step: int) -> float:
        """Seconds of training up to a step, without evaluations, validation and saving: from the speeds of the log, and after
        its last entry from that one's.

        Raises:
            InputError: the log has no speeds.
        """
        if not self.speed:
            raise InputError("the log of the training has no steps_per_second")
        seconds, done = 0.0, 0
        for until, speed in (*self.speed, (step, self.speed[-1][1])):
            until = min(until, step)
            seconds += max(until - done, 0) / speed
            done = max(until, done)
        return seconds

    @property
    def steps(self) -> int:
        """The last step of the log."""
        return max(entries[-1][0] for entries in (self.loss, self.validation, self.evaluations) if entries)


_CURVES = ("loss", "validation_loss", "steps_per_second", "learning_rate", "gradient_norm")
"""Keys of the lines of metrics.jsonl with one number."""


def read_training(file: Path) -> TrainingRecord | None:
    """The log of `ifuvit train`; None for an empty one, or one of something else that is trained.

    Raises:
        InputError: a line that is not of this form. The last one may be cut short, for the run may go on.
    """
    curves: dict[str, list[tuple[int, float]]] = {name: [] for name in _CURVES}
    evaluations, levels, batch_size, last = [], [], None, 0
    lines = _text(file).split("\n")
    for number, text in enumerate(lines, start=1):
        where = f"{file}: line {number}"
        if not text:
            continue
        try:
            line = json.loads(text)
        except (json.JSONDecodeError, RecursionError):
            if number == len(lines):
                break
            raise InputError(f"{where}: not JSON") from None
        if not isinstance(line, dict):
            raise InputError(f"{where}: not an object")
        if "psnr" in line:  # an autoencoder's
            return None
        step = line.get("step")
        if type(step) is not int:
            raise InputError(f"{where}: 'step' is not a whole number")
        if step < last:
            raise InputError(f"{where}: step {step} comes after step {last}; it is not the log of one run")
        last = step
        for key, values in curves.items():
            if key in line:
                values.append((step, _finite(line[key], f"{where}: {key!r}")))
        if "validation_loss_by_noise_level" in line:
            of_bands = line["validation_loss_by_noise_level"]
            if not isinstance(of_bands, dict):
                raise InputError(f"{where}: 'validation_loss_by_noise_level' is not an object")
            levels.append((step, {band: _finite(one, f"{where}: {band!r}") for band, one in of_bands.items()}))
        if "samples" in line and step > 0:
            batch_size = _finite(line["samples"], f"{where}: 'samples'") / step
        if "evaluation" in line:
            told = from_dict(TrainingEvaluation, line["evaluation"], where=f"{where}: evaluation")
            evaluations.append((step, told))
    if not (curves["loss"] or curves["validation_loss"] or evaluations):
        return None
    return TrainingRecord(
        loss=tuple(curves["loss"]),
        validation=tuple(curves["validation_loss"]),
        evaluations=tuple(evaluations),
        speed=tuple((step, one) for step, one in curves["steps_per_second"] if one > 0),
        levels=tuple(levels),
        learning_rate=tuple(curves["learning_rate"]),
        gradient_norm=tuple(curves["gradient_norm"]),
        batch_size=batch_size,
    )


def _finite(value: Any, where: str) -> float:
    if not (isinstance(value, float | int) and math.isfinite(value)):
        raise InputError(f"{where} is not a number")
    return float(value)


# ---------------------------------------------------------------------------------------------- output of `ifuvit costs`


@dataclass(frozen=True, kw_only=True)
class TrainingMemory:
    """Of one step on one GPU, counted: {"peak": bytes, ...} with and without activation checkpointing."""

    batch_size: int
    precision: str
    plain: Values
    checkpointed: Values

    def __post_init__(self) -> None:
        for name in ("plain", "checkpointed"):
            if type(getattr(self, name).get("peak")) is not int:
                raise InputError(f"{name}: 'peak' is not a number of bytes")


@dataclass(frozen=True, kw_only=True)
class CountedCosts:
    """A row of `ifuvit costs --json`, which maps names of presets to rows and has no schema number."""

    parameters: int
    gflops: Gflops
    guided_step_gflops: GuidedStepGflops
    training_memory: TrainingMemory | None = None
    gpus: Mapping[str, Values] = field(default_factory=dict)
    """Memory and days of a training by number of GPUs."""


def read_costs(file: Path) -> dict[str, CountedCosts]:
    """The output of `ifuvit costs --json`.

    Raises:
        InputError: missing, broken, or something else.
    """
    value = read_json(file)
    if not isinstance(value, dict):
        raise InputError(f"{file}: not the output of `ifuvit costs --json`")
    return {str(name): from_dict(CountedCosts, row, where=f"{file}: {name}") for name, row in value.items()}


# -------------------------------------------------------------------------------------------------------------- analyses


@dataclass(frozen=True, kw_only=True)
class Measurement(Estimate):
    """One number of an analysis: of a model, and where they matter of a block and of noise levels."""

    model: str
    quantity: str
    """What was measured, as "attention share"."""
    of: str = ""
    """Of what, or under which condition, as "content" or "shuffled captions"."""
    block: str | None = None
    """None for a number of the whole model."""
    levels: tuple[float, float] | None = None
    """The band of noise levels; None for all of them."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A sentence that an analysis tests, and what came out."""

    model: str
    claim: str
    verdict: Literal["held", "not held", "undecided"]
    difference: Estimate
    """What decides: above 0 if the claim holds. Undecided where its interval contains 0."""
    text: str
    """The numbers in a sentence."""


@dataclass(frozen=True, kw_only=True)
class Analysis(Result):
    """Why a model does what it does: one action of `ifuvit analyze` on one or several models."""

    kind = "analysis"

    action: Literal["attention", "rank", "ablate", "probe", "information"]
    models: tuple[Target, ...]
    blocks: Mapping[str, tuple[str, ...]]
    """The analyzed blocks of each model in their order."""
    bands: tuple[tuple[float, float], ...]
    """Of noise levels; 1 is pure noise."""
    prompts: tuple[str, ...] = ()
    measurements: tuple[Measurement, ...]
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    """Rules that decided the numbers, as which tokens are sinks."""
    arrays: Mapping[str, str] = field(default_factory=dict)
    """The .npz file with the raw arrays of each model, relative to this file."""
    images: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The image files of each model, one for each prompt, relative to this file."""

    def of(self, quantity: str, **fields: Any) -> list[Measurement]:
        """The measurements of a quantity whose fields have these values, in order."""
        return [
            one
            for one in self.measurements
            if one.quantity == quantity and all(getattr(one, name) == value for name, value in fields.items())
        ]


# -------------------------------------------------------------------------------------------------------- files in and out

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


def _check_protocol(protocol: Values) -> None:
    if not isinstance(protocol.get("name"), str):
        raise InputError("protocol: field 'name' is missing")


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{file}: no such file") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not UTF-8 text ({error})") from None
