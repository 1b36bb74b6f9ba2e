"""Training from the first step to the last. `Run` (ifuvit.training.setup) has what the loop uses."""

from contextlib import nullcontext
from pathlib import Path

from ifuvit.training.config import TrainConfig


def train(config: TrainConfig) -> Path:
    """Train, or resume training. Under `accelerate launch` or `torchrun` all processes call it together.

    Returns:
        the run directory: config.json, metrics.jsonl, run.html, checkpoints/, samples/, and pipeline/ with the averaged
        weights, which `ifuvit generate --model` takes.

    Raises:
        InputError: settings or data that do not fit, another process that trains there, or a loss or gradient that is not
            a number.
        SystemExit: 143, 130 or 129 after SIGTERM, SIGINT or SIGHUP, when the checkpoint has been written.
    """
    from ifuvit.training.checkpoint import lock

    with nullcontext() if config.dry_run else lock(config.out):
        _train(config)
    return config.out


def _train(config: TrainConfig) -> None:
    from ifuvit.training.distributed import graceful_shutdown, should_stop
    from ifuvit.training.setup import Run

    run = Run(config)
    if config.dry_run:
        return
    run.publish_newest()
    with graceful_shutdown() as stop, run.progress():
        for batch in run.batches_left():
            # Learn. A batch depends on its step alone.
            loss, norm = run.train_step(batch, run.step)
            run.advance(loss, norm)

            # Report, validate, evaluate, save and sample. What is logged at a step comes before its checkpoint, so that a run
            # that resumes there has it.
            if run.is_due(config.logging.log_every):
                run.report_losses()
            with run.paused():
                if run.is_due(config.validation.validate_every):
                    run.validate()
                if run.is_due(config.evaluation.evaluate_every):
                    run.evaluate()
                stopping = should_stop(run.accelerator, stop, run.step)
                if run.is_due(config.checkpoints.save_every) or stopping:
                    run.save()
                if run.is_due(config.samples.sample_every):
                    run.sample()
                run.show()
            if stopping:
                break
    run.finish(stop)
