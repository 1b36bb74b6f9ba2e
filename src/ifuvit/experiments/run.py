"""`ifuvit experiment`: the paper's experiments from the data to the table, resumed where they stopped.

experiment.json is gathered from the files of the plan's stages after every stage.
"""

import os
import sys
from pathlib import Path

from ifuvit import results
from ifuvit.experiments.config import ExperimentConfig
from ifuvit.experiments.cost_estimate import overview
from ifuvit.experiments.outcome import elbows, table, verdicts
from ifuvit.experiments.plan import Plan
from ifuvit.utils.config import to_dict
from ifuvit.utils.distributed import Processes
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import OutputDirectory, manifest, now


def run(config: ExperimentConfig) -> Path:
    """Do what is missing of an experiment. Under `accelerate launch` or `torchrun` all processes call it together.

    Returns:
        `config.out`, with experiment.json.

    Raises:
        InputError: a directory that holds another experiment, or whatever the commands refuse. What a single run refuses
            comes last, when all others are done: it is in experiment.json, and no table leaves it out without a word.
        SystemExit: after SIGTERM or SIGINT while training, when the checkpoint has been written.
    """
    plan = Plan(config)
    plan.failures |= _check(config)
    if config.dry_run:
        print(overview(plan.experiment, plan.scale, len(plan.seeds), plan.stages(), plan.training_speed))
        return config.out
    with _directory(config).lock():
        _work(plan)
    return config.out


def _work(plan: Plan) -> None:
    started, stages = now(), plan.stages()
    processes, _ = Processes.init()
    failed: set[tuple[str, int]] = set()
    for number, stage in enumerate(stages, start=1):
        # All processes look before any begins, and then do the same.
        if stage.run in failed or all(processes.all_gather(stage.done)):
            continue
        if processes.first:
            print(f"[{number}/{len(stages)}] {stage.what}", file=sys.stderr, flush=True)
            _write(plan, started)
        try:
            stage.work()
        except InputError as error:
            if stage.run is None:
                raise
            failed.add(stage.run)
            plan.failures[stage.run] = str(error)
            if processes.first:
                print(f"ifuvit: {stage.what} failed: {error}", file=sys.stderr, flush=True)
        else:
            if stage.run is not None:
                plan.failures.pop(stage.run, None)
    if processes.first:
        _write(plan, started)
    if failed:
        setting, seed = sorted(failed)[0]
        raise InputError(
            f"{len(failed)} of {len(plan.experiment.settings) * len(plan.seeds)} runs failed, such as {setting}, seed {seed} "
            f"({plan.failures[setting, seed]}); {plan.config.out / 'experiment.json'} has the others, and the same command tries "
            "again"
        )


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
        recipe=plan.recipe,
        seeds=tuple(plan.seeds),
        protocol=first and first.protocol,
        data=first and first.data,
        runs=tuple(
            results.ExperimentRun(
                setting=setting.name,
                seed=seed,
                run=os.path.relpath(plan.run_directory(setting, seed), config.out),
                result=os.path.relpath(plan.result(setting, seed), config.out),
                status=(
                    "done"
                    if plan.evaluated(setting, seed)
                    else "failed"
                    if (setting.name, seed) in plan.failures
                    else "missing"
                ),
                reason=plan.failures.get((setting.name, seed)),
            )
            for setting in experiment.settings
            for seed in plan.seeds
        ),
        headline={str(quantity): name for quantity, name in plan.scale.headline.items()},
        table=table(experiment, evaluations),
        verdicts=verdicts(experiment, plan.scale.headline, evaluations),
        elbows=elbows(experiment, plan.scale.headline, evaluations),
        expected=results.Expected(source=experiment.source, rows=experiment.expected),
    )
    results.write(config.out / "experiment.json", result)


def _directory(config: ExperimentConfig) -> OutputDirectory:
    return OutputDirectory(config.out, "experiment", record="experiment.json")


def _check(config: ExperimentConfig) -> dict[tuple[str, int], str]:
    """Refuse a directory that holds something else, or another plan; the runs that failed there, with the reasons."""
    if _directory(config).earlier() is None:
        return {}
    before = results.from_file(config.out / "experiment.json", results.ExperimentResult)
    for field in ("name", "scale", "recipe", "steps", "images", "autoencoder", "text_encoder", "detector"):
        was, mine = before.config.get(field), getattr(config, field)
        if was != mine:
            raise InputError(f"{config.out}: holds an experiment with {field} {was}, not {mine}; give another --out")
    if (seeds := len(before.seeds)) > config.seeds:
        raise InputError(
            f"{config.out}: holds an experiment with {seeds} seeds; give --seeds {seeds} or more, or another --out"
        )
    return {(run.setting, run.seed): run.reason or "" for run in before.runs if run.status == "failed"}
