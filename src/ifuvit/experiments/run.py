"""`ifuvit experiment`: the paper's experiments from drawing the data to the table, resumed where they stopped.

An experiment is a list of stages. Every stage is the call of another command, and whether it is done is read from what that
command left on the disk; there is no other record of progress. experiment.json is gathered anew from those files after every
stage.
"""

import os
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from ifuvit import results
from ifuvit.data import prepare
from ifuvit.data.config import PrepareConfig
from ifuvit.data.scenes import config as scenes
from ifuvit.data.sources import CocoSource
from ifuvit.evaluation import run as evaluation
from ifuvit.evaluation import scales
from ifuvit.evaluation.config import EvaluateConfig
from ifuvit.experiments import EXPERIMENTS, SCALES, Setting
from ifuvit.experiments.cost_estimate import Stage, TrainingSpeed, overview
from ifuvit.experiments.outcome import table, verdicts
from ifuvit.utils.config import to_dict
from ifuvit.utils.distributed import Processes
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import OutputDirectory, manifest, now, read_json, write_json

if TYPE_CHECKING:
    from ifuvit.model.settings import IFUViTConfig
    from ifuvit.training.config import TrainConfig

FIRST_SEED = 1234
"""The paper's; further runs have the next ones."""

# The scenes of the shipped models.
_SCENES_SEED = 1


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """Run one of the paper's experiments: data, every setting trained with every seed, evaluation, table. The same command
    again resumes where it stopped. docs/experiments.md lists experiments, costs and expected results.

    Example:
        ifuvit experiment table1 --scale smoke --out out/table1
    """

    name: Positional[Annotated[str, arg(metavar="NAME")]]
    """table1 (four settings), ablation (text block and middle fusion, each alone), or guidance_sweep."""
    out: Path
    """Directory to write: experiment.json and the evaluations' results and images."""
    scale: str = "openmoji"
    """smoke (minutes on a CPU, numbers without meaning), openmoji (hours on a CPU), paper (MS-COCO, the paper's
    recipe)."""
    seeds: int = 1
    """Runs of every setting: seeds 1234, 1235, ... It may grow from one call to the next."""
    only: tuple[str, ...] = ()
    """Train and evaluate these settings alone, now."""
    runs: Annotated[Path | None, arg(metavar="DIR")] = None
    """Where data, features and training runs lie. Experiments of one scale that are given the same directory train a
    setting once for all of them. Default: OUT."""
    data: Annotated[Path | None, arg(metavar="DIR")] = None
    """For the scale paper: MS-COCO 2014 unpacked, with train2014/, val2014/ and annotations/."""
    autoencoder: Annotated[str | None, arg(metavar="NAME")] = None
    """Instead of the scale's, for instance a local folder of it."""
    text_encoder: Annotated[str | None, arg(metavar="NAME")] = None
    """Instead of the scale's, for instance a local folder of it."""
    weights: Annotated[tuple[str, ...], arg(metavar="NAME=PATH")] = ()
    """Weights of evaluation networks that are not embedded, as for `ifuvit evaluate`."""
    detector: Annotated[str | None, arg(metavar="FOLDER|ID")] = None
    """For the scale paper: also count objects, by this zero-shot detector, as for `ifuvit evaluate`."""
    steps: Annotated[int | None, arg(metavar="INT")] = None
    """Training steps instead of the recipe's."""
    images: Annotated[int | None, arg(metavar="INT")] = None
    """Images an evaluation instead of the protocol's."""
    dry_run: bool = False
    """Print what is done, what is missing and how long it would take, then stop."""

    def __post_init__(self) -> None:
        for field, known in (("name", EXPERIMENTS), ("scale", SCALES)):
            if (value := getattr(self, field)) not in known:
                what = "experiment" if field == "name" else "scale"
                raise InputError(f"unknown {what} {value!r}; the {what}s are {', '.join(known)}")
        for field in ("seeds", "steps", "images"):
            if (value := getattr(self, field)) is not None and value < 1:
                raise InputError(f"--{field} {value}: must be at least 1")
        settings = [setting.name for setting in EXPERIMENTS[self.name].settings]
        for setting in self.only:
            if setting not in settings:
                raise InputError(f"--only {setting}: no setting of {self.name}, which has {', '.join(settings)}")
        if SCALES[self.scale].scenes is None and self.data is None:
            raise InputError(
                f"--scale {self.scale} needs --data DIR: MS-COCO 2014 with train2014/, val2014/ and annotations/captions_*.json"
            )
        if SCALES[self.scale].scenes is not None and self.data is not None:
            raise InputError(f"--data {self.data}: is for --scale paper; {self.scale} draws its own scenes")


class Plan:
    """Where everything of one experiment lies, and what has to be done for it."""

    def __init__(self, config: ExperimentConfig) -> None:
        self.config = config
        self.experiment, self.scale = EXPERIMENTS[config.name], SCALES[config.scale]
        self.seeds = [FIRST_SEED + number for number in range(config.seeds)]
        self.runs = config.runs or config.out
        self.data = config.data or self.runs / "scenes"
        self.cache = self.runs / "cache"

    def wanted(self, setting: Setting) -> bool:
        """Whether this call is to train and evaluate a setting."""
        return not self.config.only or setting.name in self.config.only

    # ------------------------------------------------------------------------------------------ what the commands are told

    def model(self, setting: Setting) -> "IFUViTConfig":
        """The backbone of a setting at this scale."""
        from ifuvit.model.presets import presets

        return setting.at(replace(presets[self.scale.preset], **self.scale.model))

    def run_directory(self, setting: Setting, seed: int) -> Path:
        """Where a setting is trained with a seed."""
        return self.runs / "runs" / f"{setting.name}-seed-{seed}"

    def features(self, split: str) -> Path:
        """Where the features of a split lie."""
        return self.runs / "features" / split

    def scenes_config(self) -> scenes.ScenesConfig:
        """The data, where they are drawn."""
        assert self.scale.scenes is not None
        train, val = self.scale.scenes
        return scenes.ScenesConfig(out=self.data, train=train, val=val, seed=_SCENES_SEED)

    def prepare_config(self, split: str) -> PrepareConfig[CocoSource]:
        """The encoded data set of a split."""
        drawn = self.scale.scenes is not None
        name = split if drawn else f"{split}2014"
        return PrepareConfig(
            source=CocoSource(
                images=self.data / "images" / name if drawn else self.data / name,
                captions=self.data / "annotations" / f"captions_{name}.json",
            ),
            out=self.features(split),
            autoencoder=self.config.autoencoder or self.scale.autoencoder,
            text_encoder=self.config.text_encoder or self.scale.text_encoder,
            text=self.scale.text,
        )

    def train_config(self, setting: Setting, seed: int) -> "TrainConfig":
        """A run: the preset's recipe with the scale's changes."""
        from ifuvit.training.config import default_config

        return default_config(
            self.scale.preset,
            data=self.features("train"),
            val_data=self.features("val"),
            out=self.run_directory(setting, seed),
            model=self.model(setting),
            seed=seed,
            evaluate_data=self.data,
            evaluate_protocol=self.scale.protocol,
            evaluate_weights=self.config.weights,
            **{**self.scale.recipe, **({} if self.config.steps is None else {"steps": self.config.steps})},
        )

    def evaluate_config(self, setting: Setting, seed: int) -> EvaluateConfig:
        """The evaluation of a run at the protocol's guidance scale."""
        counts: tuple[Literal["counts"], ...] = ("counts",) if self.scale.scenes or self.config.detector else ()
        return EvaluateConfig(
            targets=(str(self.run_directory(setting, seed)),),
            data=self.data,
            out=self.config.out / "results" / f"{setting.name}-seed-{seed}.json",
            protocol=self.scale.protocol,
            metrics=("distances", "alignment", *counts, "costs"),
            num_images=self.config.images or self.scale.images,
            sampling=self.scale.sampling,
            count_prompts=self.scale.count_prompts,
            weights=self.config.weights,
            detector=self.config.detector,
            cache=self.cache,
        )

    def sweep_config(self, seed: int) -> EvaluateConfig:
        """The evaluations of all runs of a seed at the experiment's guidance scales."""
        # What an earlier call evaluated stays in the file, whatever this one is told to do only.
        settings = [
            setting
            for setting in self.experiment.settings
            if self.wanted(setting) or any(self._sweep_out(seed).glob(f"{setting.name}-seed-*.json"))
        ]
        return EvaluateConfig(
            targets=tuple(str(self.run_directory(setting, seed)) for setting in settings),
            data=self.data,
            out=self._sweep_out(seed),
            guidance_scales=self.experiment.guidance_scales,
            protocol=self.scale.protocol,
            num_images=self.config.images or self.scale.images,
            sampling=self.scale.sampling,
            weights=self.config.weights,
            cache=self.cache,
        )

    def evaluations(self, setting: Setting, seed: int) -> list[EvaluateConfig]:
        """All evaluations of a run."""
        if not self.experiment.guidance_scales:
            return [self.evaluate_config(setting, seed)]
        target = str(self.run_directory(setting, seed))
        return replace(self.sweep_config(seed), targets=(target,)).points()

    def result(self, setting: Setting, seed: int) -> Path:
        """The file of a run's evaluation."""
        if self.experiment.guidance_scales:
            return self._sweep_out(seed) / "sweep.json"
        out = self.evaluate_config(setting, seed).out
        assert out is not None
        return out

    def _sweep_out(self, seed: int) -> Path:
        return self.config.out / "sweeps" / f"seed-{seed}"

    # ------------------------------------------------------------------------------------------------ what is on the disk

    def drawn(self) -> bool:
        """Whether the data are there."""
        return self.scale.scenes is None or _made(self.data, "scenes", to_dict(self.scenes_config()), free={"out"})

    def prepared(self, split: str) -> bool:
        """Whether the features of a split are there."""
        free = {"out", "images", "captions", "batch_size", "shard_size", "max_skipped", "workers", "device"}
        return _made(self.features(split), "prepare", to_dict(self.prepare_config(split)), free=free)

    def looked(self) -> bool:
        """Whether the evaluators have seen the real images."""
        record = self.cache / "evaluators.json"
        return self.drawn() and record.is_file() and read_json(record) == self._judges()

    def trained(self, setting: Setting, seed: int) -> bool:
        """Whether a run has reached its last step."""
        from ifuvit.training.checkpoint import is_finished

        return is_finished(self.train_config(setting, seed))

    def results(self, setting: Setting, seed: int) -> list[results.Evaluation]:
        """The finished evaluations of a run."""
        if not (self.drawn() and self.trained(setting, seed)):
            return []
        found = [scales.finished(wanted, self._real_side) for wanted in self.evaluations(setting, seed)]
        return [result for result in found if result is not None]

    def evaluated(self, setting: Setting, seed: int) -> bool:
        """Whether all evaluations of a run are finished."""
        return len(self.results(setting, seed)) == len(self.evaluations(setting, seed))

    def _judges(self) -> dict[str, Any]:
        """What the real side's features depend on."""
        config = self.evaluate_config(self.experiment.settings[0], FIRST_SEED)
        return {
            "protocol": to_dict(config.resolved_protocol()),
            "weights": list(config.weights),
            "data": self._real_side,
        }

    @cached_property
    def _real_side(self) -> str | None:
        return scales.reference_fingerprint(self.evaluate_config(self.experiment.settings[0], FIRST_SEED))

    @cached_property
    def training_speed(self) -> TrainingSpeed:
        """That of this experiment's finished runs, or else of the scale."""
        runs = [(setting, seed) for setting in self.experiment.settings for seed in self.seeds]
        return TrainingSpeed.of(self.scale, [self.train_config(*run) for run in runs if self.trained(*run)])

    # ------------------------------------------------------------------------------------------------------------- stages

    def stages(self) -> list[Stage]:
        """All that this call is to do, in order: the whole table with the first seed, then with the next."""
        stages = []
        if self.scale.scenes is not None:
            train, val = self.scale.scenes
            what = f"scenes: {train:,} for training, {val:,} for evaluation"
            stages.append(Stage(what, self.drawn, self._draw, self.scale.preparation_seconds * 0.1))
        for split, share in (("train", 0.6), ("val", 0.1)):
            done, work = partial(self.prepared, split), partial(self._prepare, split)
            stages.append(Stage(f"features of {split}", done, work, self.scale.preparation_seconds * share))
        what = f"the real images by the evaluators of protocol {self.scale.protocol}"
        stages.append(Stage(what, self.looked, self._look, self.scale.preparation_seconds * 0.2))
        settings = [setting for setting in self.experiment.settings if self.wanted(setting)]
        for seed in self.seeds:
            for setting in settings:
                run = f"{setting.name}, seed {seed}"
                done, work = partial(self.trained, setting, seed), partial(self._train, setting, seed)
                seconds = self.training_speed.seconds_left(self.train_config(setting, seed))
                stages.append(Stage(f"train {run}", done, work, seconds))
                if not self.experiment.guidance_scales:
                    done, work = partial(self.evaluated, setting, seed), partial(self._evaluate, setting, seed)
                    stages.append(Stage(f"evaluate {run}", done, work, self.scale.evaluation_seconds))
            if self.experiment.guidance_scales:
                points = len(settings) * len(self.experiment.guidance_scales)
                what = f"sweep of {len(settings)} settings over {len(self.experiment.guidance_scales)} guidance scales, seed {seed}"
                done, work = partial(self._swept, settings, seed), partial(self._sweep, seed)
                stages.append(Stage(what, done, work, points * self.scale.evaluation_seconds))
        return stages

    def _draw(self) -> None:
        processes, _ = Processes.init()
        processes.all_gather(lambda: scenes.run(self.scenes_config()) if processes.first else None)

    def _prepare(self, split: str) -> None:
        prepare.run(self.prepare_config(split))

    def _look(self) -> None:
        """Features of the real side, once for all. Weights that are missing show here, before days of training."""
        config = self.evaluate_config(self.experiment.settings[0], FIRST_SEED)
        setup = evaluation.setup_of(config)
        for evaluator in evaluation.open_evaluators(config, setup).values():
            evaluator.prepare()
        if setup.processes.first:
            write_json(self.cache / "evaluators.json", self._judges())

    def _train(self, setting: Setting, seed: int) -> None:
        from ifuvit.training import loop

        config = self.train_config(setting, seed)
        record = config.out / "config.json"
        steps = read_json(record).get("config", {}).get("steps") if record.is_file() else config.steps
        if steps != config.steps:
            raise InputError(
                f"{config.out}: is a run of {steps} steps, not {config.steps}; give --steps {steps}, or another --runs"
            )
        loop.train(config)

    def _evaluate(self, setting: Setting, seed: int) -> None:
        evaluation.evaluate(self.evaluate_config(setting, seed))

    def _sweep(self, seed: int) -> None:
        scales.evaluate_scales(self.sweep_config(seed))

    def _swept(self, settings: Sequence[Setting], seed: int) -> bool:
        return all(self.evaluated(setting, seed) for setting in settings)


def run(config: ExperimentConfig) -> Path:
    """Do what is missing of an experiment. Under `accelerate launch` or `torchrun` all processes call it together.

    Returns:
        `config.out`, with experiment.json.

    Raises:
        InputError: a directory that holds another experiment, or whatever the commands refuse.
        SystemExit: after SIGTERM or SIGINT while training, when the checkpoint has been written.
    """
    started = now()
    plan = Plan(config)
    _check(config)
    stages = plan.stages()
    if config.dry_run:
        print(overview(plan.experiment, plan.scale, len(plan.seeds), stages, plan.training_speed))
        return config.out
    processes, _ = Processes.init()
    for number, stage in enumerate(stages, start=1):
        # All processes look before any begins, and then do the same.
        if not all(processes.all_gather(stage.done)):
            if processes.first:
                print(f"[{number}/{len(stages)}] {stage.what}", file=sys.stderr, flush=True)
                _write(plan, started)
            stage.work()
    if processes.first:
        _write(plan, started)
    return config.out


def _write(plan: Plan, started: str) -> None:
    """experiment.json, gathered from what is on the disk."""
    config, experiment = plan.config, plan.experiment
    evaluations = {
        setting.name: {seed: plan.results(setting, seed) for seed in plan.seeds} for setting in experiment.settings
    }
    first = next((found[0] for by_seed in evaluations.values() for found in by_seed.values() if found), None)
    result = results.ExperimentResult(
        **manifest("experiment", to_dict(config), started=started),
        name=experiment.name,
        title=experiment.title,
        scale=plan.scale.name,
        seeds=tuple(plan.seeds),
        protocol=first and first.protocol,
        data=first and first.data,
        runs=tuple(
            results.ExperimentRun(
                setting=setting.name,
                seed=seed,
                run=os.path.relpath(plan.run_directory(setting, seed), config.out),
                result=os.path.relpath(plan.result(setting, seed), config.out),
                status="done" if plan.evaluated(setting, seed) else "missing",
            )
            for setting in experiment.settings
            for seed in plan.seeds
        ),
        headline={str(quantity): name for quantity, name in plan.scale.headline.items()},
        table=table(experiment, evaluations),
        verdicts=verdicts(experiment, plan.scale.headline, evaluations),
        expected=results.Expected(source=experiment.source, rows=experiment.expected),
    )
    results.write(config.out / "experiment.json", result)


def _check(config: ExperimentConfig) -> None:
    """Refuse a directory that holds something else, or another plan."""
    directory = OutputDirectory(config.out, "experiment", record="experiment.json")
    mine, fields = to_dict(config), ("name", "scale", "steps", "images", "autoencoder", "text_encoder", "detector")
    directory.matches({"config": {field: mine[field] for field in fields}})
    earlier = directory.earlier()
    if earlier is not None and (seeds := earlier["config"]["seeds"]) > config.seeds:
        raise InputError(f"--out {config.out}: holds {seeds} seeds; give --seeds {seeds} or more, or another --out")


def _made(directory: Path, command: str, config: dict[str, Any], *, free: Collection[str]) -> bool:
    """Whether a command has finished a directory as `config` says, fields in `free` aside."""
    file = directory / "manifest.json"
    if not file.is_file():
        return False
    record = read_json(file)
    return (
        isinstance(record, dict)
        and record.get("command") == command
        and all(record["config"].get(name) == value for name, value in config.items() if name not in free)
    )
