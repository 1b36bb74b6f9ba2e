"""The plan of an experiment: its stages, each the call of one command, and which of them are done.

Whether a stage is done is read from what its command left on the disk, by comparing the configuration and the hashes in there
with those of the plan; there is no other record of progress.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ifuvit import results
from ifuvit.data import prepare
from ifuvit.data.config import PrepareConfig
from ifuvit.data.scenes import config as scenes
from ifuvit.data.sources import CocoSource
from ifuvit.evaluation import run as evaluation
from ifuvit.evaluation import scales
from ifuvit.evaluation.config import EvaluateConfig
from ifuvit.experiments import EXPERIMENTS, SCALES, Setting
from ifuvit.experiments.config import ExperimentConfig
from ifuvit.experiments.cost_estimate import Stage, TrainingSpeed
from ifuvit.experiments.definition import Equal
from ifuvit.experiments.matching import matched
from ifuvit.utils.config import to_dict
from ifuvit.utils.distributed import Processes
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import read_json, reading, write_json

if TYPE_CHECKING:
    from ifuvit.evaluation.config import ProtocolName
    from ifuvit.model.settings import IFUViTConfig
    from ifuvit.training.config import TrainConfig

FIRST_SEED = 1234
"""The paper's; further runs have the next ones."""

# The scenes of the shipped models.
_SCENES_SEED = 1


class Plan:
    """Where everything of one experiment lies, and what is left to do for it."""

    def __init__(self, config: ExperimentConfig) -> None:
        self.config = config
        self.experiment, self.scale = EXPERIMENTS[config.name], SCALES[config.scale]
        self.seeds = [FIRST_SEED + number for number in range(config.seeds)]
        self.runs = config.runs or config.out
        self.data = config.data or self.runs / "scenes"
        self.cache = self.runs / "cache"
        self.equal: Equal = config.equal or self.experiment.equal
        self.recipe = config.recipe if self.scale.scenes is not None else "paper"
        self.failures: dict[tuple[str, int], str] = {}
        """Why runs failed, by setting and seed; they are left out until they are tried again."""

    def wanted(self, setting: Setting) -> bool:
        """Whether this call trains and evaluates a setting."""
        return not self.config.only or setting.name in self.config.only

    # ------------------------------------------------------------------------------------------ configurations of the commands

    def model(self, setting: Setting) -> "IFUViTConfig":
        """The backbone of a setting at this scale."""
        from ifuvit.model.presets import presets

        papers = PAPERS_TEXT if self._apart else {}
        # A head on the middle block is no part of what is compared.
        base = replace(presets[self.scale.preset], **{**self.scale.model, **papers, "layout_kinds": 0})
        return matched(setting.at(base), base, self.equal)

    def run_directory(self, setting: Setting, seed: int) -> Path:
        """Where a setting is trained with a seed."""
        matched = "" if self.equal == "width" else f"-equal-{self.equal}"
        return self.runs / f"runs{self._apart}{matched}" / f"{setting.name}-seed-{seed}"

    def encoded(self, split: str) -> Path:
        """Where the encoded data set of a split lies."""
        return self.runs / f"features{self._apart}" / split

    @property
    def protocol(self) -> "ProtocolName":
        """Of the evaluations."""
        return self.experiment.protocol or self.scale.protocol if self.scale.scenes is not None else self.scale.protocol

    @property
    def _apart(self) -> str:
        """What keeps runs and encoded data sets of the paper's recipe apart from those of the modern one."""
        return "-paper" if self.recipe == "paper" and self.scale.scenes is not None else ""

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
            out=self.encoded(split),
            autoencoder=self.config.autoencoder or self.scale.autoencoder,
            text_encoder=self.config.text_encoder or self.scale.text_encoder,
            text_layer=() if self._apart else None,  # the last as in the paper, or the default
            text=self.scale.text,
        )

    def train_config(self, setting: Setting, seed: int) -> "TrainConfig":
        """A run: the preset's recipe with the scale's changes, or the paper's at this scale."""
        from ifuvit.training.config import default_config

        paper = papers_recipe() if self._apart else {}
        return default_config(
            self.scale.preset,
            data=self.encoded("train"),
            val_data=self.encoded("val"),
            out=self.run_directory(setting, seed),
            model=self.model(setting),
            seed=seed,
            evaluate_data=self.data,
            evaluate_protocol=self.scale.protocol,
            evaluate_weights=self.config.weights,
            layout_weight=0.0,
            **{**paper, **self.scale.recipe, **({} if self.config.steps is None else {"steps": self.config.steps})},
        )

    def evaluate_config(self, setting: Setting, seed: int) -> EvaluateConfig:
        """The evaluation of a run at the protocol's guidance scale."""
        counts: tuple[Literal["counts"], ...] = ("counts",) if self.scale.scenes or self.config.detector else ()
        return EvaluateConfig(
            targets=(str(self.run_directory(setting, seed)),),
            data=self.data,
            out=self.config.out / "results" / f"{setting.name}-seed-{seed}.json",
            protocol=self.protocol,
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
        # What an earlier call evaluated stays in the file, whatever this one does only.
        settings = [
            setting
            for setting in self.experiment.settings
            if (setting.name, seed) not in self.failures
            and (self.wanted(setting) or any(self._sweep_out(seed).glob(f"{setting.name}-seed-*.json")))
        ]
        return EvaluateConfig(
            targets=tuple(str(self.run_directory(setting, seed)) for setting in settings),
            data=self.data,
            out=self._sweep_out(seed),
            guidance_scales=self.experiment.guidance_scales,
            protocol=self.protocol,
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

    def scenes_done(self) -> bool:
        """Whether the data are there."""
        if self.scale.scenes is None:
            return True
        decisive = to_dict(self.scenes_config())
        del decisive["out"]
        return _made(self.data, "scenes", decisive)

    def prepared(self, split: str) -> bool:
        """Whether the encoded data set of a split is there."""
        config = to_dict(self.prepare_config(split))
        decisive = ("autoencoder", "text_encoder", "text_layer", "max_tokens", "size", "text")
        return _made(self.encoded(split), "prepare", {name: config[name] for name in decisive})

    def reference_cached(self) -> bool:
        """Whether the features of the reference images are kept."""
        record = self.cache / "evaluators.json"
        return self.scenes_done() and record.is_file() and read_json(record) == self._evaluators()

    def trained(self, setting: Setting, seed: int) -> bool:
        """Whether a run has reached its last step."""
        from ifuvit.training.checkpoint import is_finished

        return is_finished(self.train_config(setting, seed))

    def results(self, setting: Setting, seed: int) -> list[results.Evaluation]:
        """The finished evaluations of a run."""
        if not (self.scenes_done() and self.trained(setting, seed)):
            return []
        found = [scales.finished(wanted, self._reference_sha256) for wanted in self.evaluations(setting, seed)]
        return [result for result in found if result is not None]

    def evaluated(self, setting: Setting, seed: int) -> bool:
        """Whether all evaluations of a run are finished."""
        return len(self.results(setting, seed)) == len(self.evaluations(setting, seed))

    def _evaluators(self) -> dict[str, Any]:
        """What the features of the reference images depend on."""
        config = self.evaluate_config(self.experiment.settings[0], FIRST_SEED)
        return {
            "protocol": to_dict(config.resolved_protocol()),
            "weights": list(config.weights),
            "data": self._reference_sha256,
        }

    @cached_property
    def _reference_sha256(self) -> str | None:
        return scales.reference_fingerprint(self.evaluate_config(self.experiment.settings[0], FIRST_SEED))

    @cached_property
    def training_speed(self) -> TrainingSpeed:
        """Of this experiment's finished runs, or else of the scale."""
        runs = [(setting, seed) for setting in self.experiment.settings for seed in self.seeds]
        return TrainingSpeed.of(self.scale, [self.train_config(*run) for run in runs if self.trained(*run)])

    # ------------------------------------------------------------------------------------------------------------- stages

    def stages(self) -> list[Stage]:
        """All that this call does, in order: the whole table with the first seed, then with the next."""
        stages = []
        if self.scale.scenes is not None:
            train, val = self.scale.scenes
            what = f"scenes: {train:,} for training, {val:,} for evaluation"
            stages.append(
                Stage(what, self.scenes_done, self._write_scenes, self.scale.preparation_seconds * 0.1, self.data)
            )
        for split, share in (("train", 0.6), ("val", 0.1)):
            done, work = partial(self.prepared, split), partial(self._prepare, split)
            seconds = self.scale.preparation_seconds * share
            stages.append(Stage(f"encoded data set, {split}", done, work, seconds, self.encoded(split)))
        what = f"features of the reference images, protocol {self.protocol}"
        seconds = self.scale.preparation_seconds * 0.2
        stages.append(Stage(what, self.reference_cached, self._cache_reference, seconds, self.cache))
        settings = [setting for setting in self.experiment.settings if self.wanted(setting)]
        for seed in self.seeds:
            for setting in settings:
                run, place = f"{setting.name}, seed {seed}", self.run_directory(setting, seed)
                done, work = partial(self.trained, setting, seed), partial(self._train, setting, seed)
                seconds = self.training_speed.seconds_left(self.train_config(setting, seed))
                stages.append(Stage(f"train {run}", done, work, seconds, place, (setting.name, seed)))
                if not self.experiment.guidance_scales:
                    done, work = partial(self.evaluated, setting, seed), partial(self._evaluate, setting, seed)
                    seconds = self.scale.evaluation_seconds
                    stages.append(Stage(f"evaluate {run}", done, work, seconds, place, (setting.name, seed)))
            if self.experiment.guidance_scales:
                points = len(settings) * len(self.experiment.guidance_scales)
                what = f"evaluate {len(settings)} settings at {len(self.experiment.guidance_scales)} guidance scales, seed {seed}"
                done, work = partial(self._swept, settings, seed), partial(self._sweep, seed)
                seconds = points * self.scale.evaluation_seconds
                stages.append(Stage(what, done, work, seconds, self._sweep_out(seed)))
        return stages

    def _write_scenes(self) -> None:
        processes, _ = Processes.init()
        processes.all_gather(lambda: scenes.run(self.scenes_config()) if processes.first else None)

    def _prepare(self, split: str) -> None:
        prepare.run(self.prepare_config(split))

    def _cache_reference(self) -> None:
        """Compute the features of the reference images once. Weights that are missing show here, before days of training."""
        config = self.evaluate_config(self.experiment.settings[0], FIRST_SEED)
        setup = evaluation.setup_of(config)
        for evaluator in evaluation.open_evaluators(config, setup).values():
            evaluator.prepare()
        if setup.processes.first:
            write_json(self.cache / "evaluators.json", self._evaluators())

    def _train(self, setting: Setting, seed: int) -> None:
        from ifuvit.training import loop

        config = self.train_config(setting, seed)
        record = config.out / "config.json"
        with reading(record):
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
        return all(self.evaluated(setting, seed) for setting in settings if (setting.name, seed) not in self.failures)


PAPERS_TEXT: Mapping[str, Any] = {
    "text_width": 384,
    "text_norm": "none",
    "mask_padding": False,
    "position_std": 0.02,
}
"""What the paper's recipe changes in the backbone of the openmoji presets: MiniLM's last layer as it is, padding visible, and
U-ViT's positions."""


def papers_recipe() -> dict[str, Any]:
    """What the paper's recipe changes in that of the openmoji presets: noise prediction with the plain mean, AdamW with its
    betas and weight decay on all weights, and latents with one scale. The peak rate, the batch and the schedule stay this
    scale's: the paper's 2e-4 takes its million steps."""
    from ifuvit.diffusion.objective import DDPM
    from ifuvit.training.config import AdamW

    return {"objective": DDPM(), "optimizer": AdamW(learning_rate=1.5e-3), "latent_normalization": "scalar"}


def _made(directory: Path, command: str, config: Mapping[str, Any]) -> bool:
    """Whether a command has finished a directory with these fields of its configuration."""
    file = directory / "manifest.json"
    if not file.is_file():
        return False
    record = read_json(file)
    return (
        isinstance(record, dict)
        and record.get("command") == command
        and isinstance(made := record.get("config"), dict)
        and {name: made.get(name) for name in config} == dict(config)
    )
