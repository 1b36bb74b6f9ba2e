"""`ifuvit train`: train a backbone on prepared features, on one processor or many machines.

Training is one function, `run`, from top to bottom. What it calls is in `ifuvit.training`.
"""

import json
import math
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ifuvit.diffusion.settings import SamplingSettings
from ifuvit.training.config import TrainConfig, learning_rate_at
from ifuvit.training.distributed import check_launch, should_stop
from ifuvit.training.inputs import (
    check_features,
    check_same_encoders,
    initialize,
    load_pipeline,
    load_text_encoder,
    split,
)
from ifuvit.training.run_directory import claim, settle_precision
from ifuvit.training.signals import graceful_shutdown
from ifuvit.training.trackers import check_installed, flat
from ifuvit.utils.config import to_dict
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import atomic_path, now, write_manifest

if TYPE_CHECKING:
    from torch import Tensor

    from ifuvit.data.encoded import EncodedDataset
    from ifuvit.pipeline import Pipeline


def run(config: TrainConfig) -> Path:
    """Train, or resume training. Under `accelerate launch` or `torchrun` all processes call it together.

    Returns:
        the run directory: config.json, metrics.jsonl, checkpoints/, samples/, and pipeline/ with the averaged weights,
        which `ifuvit generate --model` takes.

    Raises:
        InputError: settings or data that do not fit, or a loss or gradient that is no number.
        SystemExit: 143 or 130 after SIGTERM or SIGINT, when the checkpoint has been written.
    """
    import torch
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from torch import Tensor
    from tqdm import tqdm

    from ifuvit.model.uvit import IFUViT
    from ifuvit.training import checkpoint
    from ifuvit.training.batches import Batches, load
    from ifuvit.training.step import TrainingStep
    from ifuvit.training.summary import screen, trial
    from ifuvit.training.validation import validate
    from ifuvit.utils.distributed import Processes, destroy_process_group_at_exit

    # The data: prepared features, some of them held out where there are no others for validation.
    started = now()
    features = EncodedDataset.open(config.data)
    val_features = features if config.val_data is None else EncodedDataset.open(config.val_data)
    check_features(config, features, config.data)
    if val_features is not features:
        check_same_encoders(features, val_features)
    train_images, val_images = split(config, features, val_features)

    # The processes. accelerate finds out about devices, ranks and launchers.
    AcceleratorState._reset_state(True)  # a second run in one interpreter may have another precision
    config = settle_precision(config)
    trackers = [name for name in ("tensorboard", "wandb") if getattr(config, name)]
    check_installed(trackers)
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),
        mixed_precision="bf16" if config.precision == "bf16" else "no",
        log_with=trackers or None,  # type: ignore[arg-type]
        project_dir=config.out / "tracking" if trackers else None,
    )
    destroy_process_group_at_exit()
    main, device, processes = accelerator.is_main_process, accelerator.device, accelerator.num_processes
    check_launch(accelerator)
    parts = config.gradient_accumulation
    if config.batch_size % (processes * parts):
        raise InputError(
            f"batch_size={config.batch_size} is not a multiple of {processes} processes x gradient_accumulation={parts}"
        )

    # The model, and how it learns from a batch.
    torch.manual_seed(config.seed)
    model = IFUViT(config.model)
    model.gradient_checkpointing = config.gradient_checkpointing
    loaded = None
    if config.init_from is not None and not checkpoint.saved_steps(config.out):
        loaded = initialize(model, config.init_from)
    text_encoder = None if features.text_mode == "embeddings" else load_text_encoder(features, device)
    train_step = TrainingStep(config, model, accelerator, text_encoder)
    model, optimizer, ema = train_step.model, train_step.optimizer, train_step.ema

    # Where the run stands.
    if main and not config.dry_run:
        claim(config, features, len(train_images))
    accelerator.wait_for_everyone()
    saved, damaged = (None, []) if config.dry_run else checkpoint.read_newest(config.out)
    if main:
        for problem in damaged:
            print(f"passed over a damaged checkpoint: {problem}", file=sys.stderr)
    step, pending, seconds = 0, [], 0.0
    if saved is not None:
        checkpoint.restore(saved, model, ema, optimizer)
        step, pending, seconds = saved.state["step"], saved.state["pending"], saved.state["seconds"]
        del saved
    if main and not config.dry_run:
        checkpoint.trim_log(config.out / "metrics.jsonl", step)

    batches = Batches(
        features,
        train_images,
        seed=config.seed,
        batch_size=config.batch_size,
        caption_dropout=config.caption_dropout,
        rank=accelerator.process_index,
        world_size=processes,
    )

    # One screen before the first step.
    tried = trial(accelerator, model, batches, train_step.loss_of, parts)
    if main:
        print(screen(config, features, len(train_images), accelerator, step, tried, loaded), file=sys.stderr)
    if config.dry_run:
        return config.out
    if trackers:
        accelerator.init_trackers("ifuvit", config=flat(to_dict(config)))

    # What draws images: all processes for an evaluation, the main process alone for sample grids.
    pipeline = evaluation = None
    if config.evaluate_every:
        from ifuvit.training.evaluation import Evaluation

        pipeline = load_pipeline(config, features, device)
        evaluation = Evaluation(config, pipeline, Processes(accelerator.process_index, processes))
    elif config.sample_every and main:
        try:
            pipeline = load_pipeline(config, features, device)
        except InputError as error:
            print(f"no sample grids: {error}", file=sys.stderr)

    def due(every: int) -> bool:
        """Whether this step ends an interval; the last step does. 0 is never."""
        return every > 0 and (step % every == 0 or step == config.steps)

    def report(line: Mapping[str, Any]) -> None:
        """A line for the log and the trackers."""
        if metrics is not None:
            _log(metrics, {"step": step, **line})
        if trackers:
            accelerator.log(flat(line), step=step)

    def settle(losses: list[tuple[int, Tensor, Tensor]]) -> None:
        """Average what the processes saw over the last steps, and stop if it is no number."""
        if losses:
            values = torch.stack([torch.stack([loss.float(), norm.float()]) for _, loss, norm in losses])
            values = cast(Tensor, accelerator.reduce(values, reduction="mean"))
            for (at, _, _), (loss, norm) in zip(losses, values.tolist(), strict=True):
                if not (math.isfinite(loss) and math.isfinite(norm)):
                    raise InputError(
                        f"{config.out}: loss {loss}, gradient norm {norm} at step {at}; training has diverged. Lower "
                        f"learning_rate or set gradient_clip; {checkpoint.last_good(config.out)}"
                    )
                pending.append([at, loss, norm])
            losses.clear()

    def save() -> None:
        """Checkpoint, and the pipeline directory with the averaged weights."""
        settle(losses)
        state = {"step": step, "pending": pending, "seconds": seconds + time.monotonic() - begun}
        whole = checkpoint.gather(model, ema, optimizer, state)
        if main:
            checkpoint.write(config.out, step, whole, keep=config.keep_checkpoints)
            _write_pipeline(config, features, whole.ema, state)
        accelerator.wait_for_everyone()

    # The loop. A batch depends on its step alone, so the loader simply starts at the present one.
    loader = load(batches, range(step, config.steps), workers=config.workers, device=device)
    metrics = open(config.out / "metrics.jsonl", "a", encoding="utf-8") if main else None
    bar = tqdm(
        total=config.steps,
        initial=step,
        desc="train",
        disable=not main,
        mininterval=0.5 if sys.stderr.isatty() else 30,
        dynamic_ncols=True,
    )
    losses: list[tuple[int, Tensor, Tensor]] = []
    begun = interval_begun = time.monotonic()
    waited, interval_first = 0.0, step
    model.train()
    with graceful_shutdown() as stop, bar, checkpoint.full_disk_told(config.out, lambda: step):
        ready = time.monotonic()
        for batch in loader:
            waited += time.monotonic() - ready
            batch = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}

            # Learn.
            loss, norm = train_step(batch, step)
            step += 1
            losses.append((step, loss, norm))

            # Report.
            if due(config.log_every):
                settle(losses)
                elapsed = time.monotonic() - interval_begun
                line = {
                    "loss": sum(loss for _, loss, _ in pending) / len(pending),
                    "gradient_norm": sum(norm for _, _, norm in pending) / len(pending),
                    "learning_rate": learning_rate_at(config, step - 1),
                    "samples": step * config.batch_size,
                    "steps_per_second": (step - interval_first) / elapsed,
                    "data_wait": waited / elapsed,
                }
                pending.clear()
                report(line)
                bar.set_postfix(loss=f"{line['loss']:.4f}", wait=f"{line['data_wait']:.0%}", refresh=False)
                interval_begun, interval_first, waited = time.monotonic(), step, 0.0
            bar.update()

            # Validate, evaluate, save and sample. What is logged at a step comes before its checkpoint, so that a run that
            # goes on from there has it.
            paused = time.monotonic()
            if due(config.validate_every) and len(val_images):
                with ema.applied():
                    report(validate(accelerator, model, val_features, val_images, config, text_encoder))
            if evaluation is not None and due(config.evaluate_every):
                evaluation.pipeline.model.load_state_dict(checkpoint.gather_average(model, ema, everywhere=True))
                report({"evaluation": evaluation.measure()})
            stopping = should_stop(accelerator, stop, step)
            if due(config.save_every) or stopping:
                save()
            if due(config.sample_every):
                average = checkpoint.gather_average(model, ema)
                if main and pipeline is not None:
                    pipeline.model.load_state_dict(average)
                    _write_samples(config, pipeline, step)
            if stopping:
                break
            interval_begun += time.monotonic() - paused
            ready = time.monotonic()

    if metrics is not None:
        metrics.close()
    if trackers:
        accelerator.end_training()
    if stop.number is not None:
        if main:
            print(
                f"stopped by {signal.Signals(stop.number).name} at step {step}; the same command resumes",
                file=sys.stderr,
            )
        raise SystemExit(128 + stop.number)
    if main:
        write_manifest(
            config.out,
            "train",
            to_dict(config),
            started=started,
            seed=config.seed,
            features=features.fingerprint,
            processes=processes,
            device=str(device),
            steps=step,
            training_seconds=round(seconds + time.monotonic() - begun, 1),
        )
    return config.out


def _log(metrics: Any, line: Mapping[str, Any]) -> None:
    metrics.write(json.dumps(line) + "\n")
    metrics.flush()


def _write_pipeline(
    config: TrainConfig, features: "EncodedDataset", average: "Mapping[str, Tensor]", state: Mapping[str, Any]
) -> None:
    """RUN/pipeline: the averaged weights, where the encoders are to be found, and how far training is."""
    from ifuvit.model.uvit import IFUViT
    from ifuvit.pipeline import write_pipeline

    model = IFUViT(config.model)
    model.load_state_dict(dict(average))
    write_pipeline(
        config.out / "pipeline",
        model=model.eval(),
        autoencoder=features.autoencoder,
        text_encoder=features.text_encoder,
        latent_scale=features.latent_scale,
        initial_latents=features.initial_latents_distribution,
        training={
            "steps": state["step"],
            "batch_size": config.batch_size,
            "seed": config.seed,
            "seconds": round(state["seconds"], 1),
        },
    )


def _write_samples(config: TrainConfig, pipeline: "Pipeline", step: int) -> None:
    """RUN/samples/step-…png: a grid for fixed prompts and seeds."""
    from ifuvit.utils.image_grid import make_grid

    prompts = [prompt for prompt in config.sample_prompts for _ in range(2)]
    images = pipeline(prompts, SamplingSettings(steps=25), seed=0)
    with atomic_path(config.out / "samples" / f"step-{step:08d}.png") as path:
        make_grid(images, prompts).save(path, format="PNG")
