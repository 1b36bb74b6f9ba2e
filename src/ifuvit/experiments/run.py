"""`ifuvit experiment`: the paper's experiments from the data to the table, resumed where they stopped.

experiment.json is gathered from the files of the plan's stages after every stage. The same command may be given several times
at once, on one machine or on many that share a disk: every call takes the runs that no other one is at.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ifuvit import results
from ifuvit.experiments.config import ExperimentConfig
from ifuvit.experiments.cost_estimate import Stage, overview
from ifuvit.experiments.outcome import elbows, table, verdicts
from ifuvit.experiments.plan import Plan
from ifuvit.utils.config import to_dict
from ifuvit.utils.distributed import Processes
from ifuvit.utils.errors import InputError, LockedError
from ifuvit.utils.files import OutputDirectory, lock, manifest, now

_WAIT_SECONDS = 5.0
"""Between looks whether another call has finished what all runs need."""


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
    _work(plan)
    return config.out


def _work(plan: Plan) -> None:
    started, stages = now(), plan.stages()
    processes, _ = Processes.init()
    failed: set[tuple[str, int]] = set()
    elsewhere: set[tuple[str, int]] = set()
    tried: set[tuple[str, int]] = set()

    def write() -> None:
        if processes.first:
            # Other calls may have failed meanwhile, in runs that this one has not tried.
            theirs = {run: why for run, why in _failures(plan.config).items() if run not in tried}
            mine = {run: why for run, why in plan.failures.items() if run in tried}
            plan.failures = {**theirs, **mine}
            _write(plan, started)

    for number, stage in enumerate(stages, start=1):
        # All processes look before any begins, and then do the same.
        if stage.run in failed | elsewhere or all(processes.all_gather(stage.done)):
            continue
        with _claimed(stage, processes) as claimed:
            if not claimed and stage.run is not None:
                elsewhere.add(stage.run)
                continue
            if all(processes.all_gather(stage.done)):  # by the call that was waited for
                continue
            if processes.first:
                print(f"[{number}/{len(stages)}] {stage.what}", file=sys.stderr, flush=True)
            write()
            if stage.run is not None:
                tried.add(stage.run)
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
    write()
    if elsewhere and processes.first:
        print(f"ifuvit: other calls are at {len(elsewhere)} of the runs", file=sys.stderr, flush=True)
    if failed:
        setting, seed = sorted(failed)[0]
        raise InputError(
            f"{len(failed)} of {len(plan.experiment.settings) * len(plan.seeds)} runs failed, such as {setting}, seed {seed} "
            f"({plan.failures[setting, seed]}); {plan.config.out / 'experiment.json'} has the others, and the same command tries "
            "again"
        )


@contextmanager
def _claimed(stage: Stage, processes: Processes) -> Iterator[bool]:
    """Within the block no other call does this stage. False if one is at it; what all runs need is waited for."""
    with ExitStack() as stack:

        def take() -> bool:
            try:
                stack.enter_context(lock(stage.place, flag="--runs"))
            except LockedError:
                return False
            return True

        # All processes look together, so that none waits in a collective operation for longer than that.
        while not (taken := all(processes.all_gather(take if processes.first else lambda: True))) and stage.run is None:
            time.sleep(_WAIT_SECONDS)
        yield taken


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
        equal=plan.equal,
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
    for field in ("name", "scale", "recipe", "equal", "steps", "images", "autoencoder", "text_encoder", "detector"):
        was, mine = before.config.get(field), getattr(config, field)
        if was != mine:
            raise InputError(f"{config.out}: holds an experiment with {field} {was}, not {mine}; give another --out")
    if (seeds := len(before.seeds)) > config.seeds:
        raise InputError(
            f"{config.out}: holds an experiment with {seeds} seeds; give --seeds {seeds} or more, or another --out"
        )
    return _failures(config)


def _failures(config: ExperimentConfig) -> dict[tuple[str, int], str]:
    """The runs that are told to have failed, with the reasons."""
    if not (config.out / "experiment.json").is_file():
        return {}
    before = results.from_file(config.out / "experiment.json", results.ExperimentResult)
    return {(run.setting, run.seed): run.reason or "" for run in before.runs if run.status == "failed"}
