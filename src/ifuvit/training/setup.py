"""A run as one object: what the loop trains, where it stands, and what it reports, saves and shows on the way."""

import json
import math
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

from ifuvit.data.encoded import EncodedDataset
from ifuvit.model.lora import add_lora, merged_state, write_adapter
from ifuvit.model.uvit import IFUViT, Standardize
from ifuvit.training import checkpoint, power_ema
from ifuvit.training.alignment import exported
from ifuvit.training.batches import Batches, load
from ifuvit.training.config import TrainConfig, learning_rate_at
from ifuvit.training.distributed import Stop, check_installed, check_launch, flat
from ifuvit.training.inputs import (
    check_dataset,
    check_layouts,
    check_path_drop,
    check_same_encoders,
    choose_normalization,
    initialize,
    load_alignment,
    load_pipeline,
    load_text_encoder,
    measure_text,
    split,
)
from ifuvit.training.step import TrainingStep
from ifuvit.training.summary import run_summary, trial
from ifuvit.training.validation import validate
from ifuvit.utils.command_line import BAR_COLOR
from ifuvit.utils.config import to_dict
from ifuvit.utils.distributed import Processes, destroy_process_group_at_exit
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import atomic_path, now, reading, write_manifest

if TYPE_CHECKING:
    from ifuvit.diffusion.initial_latents import InitialLatentsDistribution
    from ifuvit.pipeline import Pipeline
    from ifuvit.reporting.run_page import State


class Run:
    """A training run, new or resumed. All processes of a launch make one together.

    Raises:
        InputError: settings or data that do not fit, or a run directory of something else.

    Attributes:
        config: with the precision settled.
        accelerator: accelerate's, with this run's processes and precision.
        train_step: the model, its optimizers and its average.
        step: optimizer steps done.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.started = now()
        self._page_due = 0.0
        self._open_data(config)
        self._start_processes(config)
        loaded = self._make_model()
        normalization = self._claim_directory()
        self._restore()
        self.batches = Batches(
            self.dataset,
            self.train_images,
            normalization=self.normalization,
            seed=self.recipe.start.seed,
            batch_size=self.recipe.batches.batch_size,
            caption_dropout=self.recipe.batches.caption_dropout,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
        )
        parts = self.config.runtime.gradient_accumulation
        tried = trial(self.accelerator, self.model, self.batches, self.train_step.loss_of, parts)
        if self.is_main:
            summary = run_summary(
                self.config,
                self.dataset,
                len(self.train_images),
                self.accelerator,
                self.step,
                tried,
                normalization=normalization,
                loaded=loaded,
            )
            print(summary, file=sys.stderr)
        if not self.config.dry_run:
            self._load_pipeline()
            if self.trackers:
                self.accelerator.init_trackers("ifuvit", config=flat(to_dict(self.config)))

    # Setting up, in this order.

    def _open_data(self, config: TrainConfig) -> None:
        """Encoded data sets; some images of the first are held out where there is no second one for validation."""
        val_data, verify = config.data.val_data, config.data.verify_data or None
        self.dataset = EncodedDataset.open(config.data.data, verify=verify)
        self.val_dataset = self.dataset if val_data is None else EncodedDataset.open(val_data, verify=verify)
        check_dataset(config.recipe.model, self.dataset, config.data.data)
        check_layouts(config.recipe, self.dataset, config.data.data)
        check_path_drop(config.recipe)
        if self.val_dataset is not self.dataset:
            check_same_encoders(self.dataset, self.val_dataset)
        self.train_images, self.val_images = split(config, self.dataset, self.val_dataset)

    def _start_processes(self, config: TrainConfig) -> None:
        """accelerate finds out about devices, ranks and launchers."""
        AcceleratorState._reset_state(True)  # a second run in one interpreter may have another precision
        self.config = config = checkpoint.settle_precision(config)
        self.recipe = config.recipe
        self.trackers = [name for name in ("tensorboard", "wandb") if getattr(config.logging, name)]
        check_installed(self.trackers)
        self.accelerator = Accelerator(
            cpu=not torch.accelerator.is_available(),
            mixed_precision="bf16" if self.recipe.start.precision == "bf16" else "no",
            log_with=self.trackers or None,  # type: ignore[arg-type]
            project_dir=config.out / "tracking" if self.trackers else None,
        )
        destroy_process_group_at_exit()
        self.is_main, self.device = self.accelerator.is_main_process, self.accelerator.device
        check_launch(self.accelerator, self.recipe.optimizer.name, align_to=self.recipe.alignment.align_to)
        processes, parts = self.accelerator.num_processes, config.runtime.gradient_accumulation
        batch_size = self.recipe.batches.batch_size
        if batch_size % (processes * parts):
            raise InputError(
                f"batch_size={batch_size} is not a multiple of {processes} processes x gradient_accumulation={parts}"
            )

    def _make_model(self) -> dict[str, list[str]] | None:
        """The model and how it learns. Returns what was loaded from another model, if the run starts from one."""
        kept = checkpoint.read_normalization(self.config.out)
        self.normalization, self.normalization_source = (
            choose_normalization(self.recipe, self.dataset) if kept is None else (kept, "this run's")
        )
        torch.manual_seed(self.recipe.start.seed)
        model = IFUViT(self.recipe.model)
        model.gradient_checkpointing = self.config.runtime.gradient_checkpointing
        alignment = load_alignment(self.recipe, self.dataset, self.normalization, self.device)
        if alignment is not None:
            alignment.attach(model)
        loaded = None
        if self.recipe.start.init_from is not None and not checkpoint.saved_steps(self.config.out):
            loaded = initialize(model, self.recipe.start.init_from)
        if self.recipe.start.lora is not None:
            if loaded is not None and loaded["new"]:
                raise InputError(
                    f"--lora-rank {self.recipe.start.lora_rank}: {loaded['new'][0]} is not in {self.recipe.start.init_from}, and "
                    "adapters alone do not learn it; take that model's preset, autoencoder and text encoder"
                )
            add_lora(model, **self.recipe.start.lora)
        self.text_encoder = (
            None if self.dataset.text_mode == "embeddings" else load_text_encoder(self.dataset, self.device)
        )
        begun = checkpoint.saved_steps(self.config.out) or (loaded is not None and "text_norm.mean" in loaded["loaded"])
        if isinstance(model.text_norm, Standardize) and not begun:
            model.text_norm.set(*measure_text(self.dataset, self.text_encoder))
        self.train_step = TrainingStep(self.config, model, self.accelerator, self.text_encoder, alignment)
        self.model, self.ema = self.train_step.model, self.train_step.ema
        return loaded

    def _claim_directory(self) -> tuple[Any, str]:
        """Make the run directory, or check that it is this run's. Returns the latent normalization and where it is from."""
        self.accelerator.wait_for_everyone()
        if self.is_main and not self.config.dry_run:
            alignment = self.train_step.alignment
            checkpoint.claim(
                self.config,
                self.dataset,
                len(self.train_images),
                self.normalization,
                aligned_to=None if alignment is None else alignment.features.fingerprint,
            )
        self.accelerator.wait_for_everyone()
        return self.normalization, self.normalization_source

    def _restore(self) -> None:
        """The newest checkpoint, if there is one."""
        out = self.config.out
        saved, damaged = (None, []) if self.config.dry_run else checkpoint.read_newest(out)
        if self.is_main:
            for problem in damaged:
                print(f"skipped a damaged checkpoint: {problem}", file=sys.stderr)
        self.step, self.pending, self.seconds, self.restored = 0, [], 0.0, saved
        if saved is not None:
            if self.train_step.power_averages:
                kept = power_ema.read(out, saved.state["step"])
                for average, tensors in zip(self.train_step.power_averages, kept, strict=True):
                    checkpoint.restore_average(self.model, average, tensors)
            checkpoint.restore(saved, self.model, self.ema, self.train_step.optimizers)
            with reading(checkpoint.path_of(out, saved.state["step"]) / "state.json"):
                self.step, self.seconds = saved.state["step"], float(saved.state["seconds"])
                self.pending = [[int(step), float(loss), float(norm)] for step, loss, norm in saved.state["pending"]]
        if self.step > self.config.steps:
            raise InputError(
                f"--steps {self.config.steps}: {out} has {self.step} steps already; give --steps {self.step} or more"
            )
        if self.is_main and not self.config.dry_run:
            checkpoint.trim_log(out / "metrics.jsonl", self.step)

    def _load_pipeline(self) -> None:
        """What generates images: all processes for an evaluation, the main process alone for sample grids."""
        self.pipeline: Pipeline | None = None
        self.evaluation = None
        inputs = (self.recipe, self.dataset, self.normalization, self._initial_latents, self.device)
        if self.config.evaluation.evaluate_every:
            from ifuvit.training.evaluation import Evaluation

            self.pipeline = load_pipeline(*inputs)
            processes = Processes(self.accelerator.process_index, self.accelerator.num_processes)
            self.evaluation = Evaluation(self.config, self.pipeline, processes)
        elif self.config.samples.sample_every and self.is_main:
            try:
                self.pipeline = load_pipeline(*inputs)
            except InputError as error:
                print(f"no sample grids: {error}", file=sys.stderr)

    # What the loop calls.

    def publish_newest(self) -> None:
        """What follows a checkpoint, for the one that the run resumes from, where a kill or a full disk came in between: the
        pipeline directory, the deletion of older checkpoints, and the sample grid."""
        if self.restored is None:
            return
        self.begun = time.monotonic()
        if self.is_main:
            checkpoint.prune(self.config.out, self.step, keep=self.config.checkpoints.keep_checkpoints)
            if checkpoint.published_step(self.config.out) != self.step:
                self._write_pipeline(self.restored.ema)
        self.restored = None
        missing = self.is_main and self.pipeline is not None and not self._grid.is_file()
        if self.is_due(self.config.samples.sample_every) and self._any(missing):
            self.sample()

    @contextmanager
    def progress(self) -> Iterator[None]:
        """Within the block the run trains: the log and the progress bar are open, and time is counted."""
        from tqdm import tqdm

        self.unsettled: list[tuple[int, Tensor, Tensor]] = []
        self.begun = self.interval_begun = time.monotonic()
        self.waited, self.interval_first = 0.0, self.step
        self.model.train()
        self.metrics = open(self.config.out / "metrics.jsonl", "a", encoding="utf-8") if self.is_main else None
        self.show()  # reads the log
        self.bar = tqdm(
            total=self.config.steps,
            initial=self.step,
            desc="train",
            disable=None if self.is_main else True,  # None: shown on a terminal
            mininterval=0.5,
            dynamic_ncols=True,
            colour=BAR_COLOR,
        )
        try:
            with self.bar, checkpoint.full_disk_as_error(self.config.out, lambda: self.step):
                yield
        except BaseException as error:
            self._write_page("failed", str(error) or type(error).__name__)
            raise
        finally:
            if self.metrics is not None:
                self.metrics.close()

    def batches_left(self) -> Iterator[dict[str, Tensor]]:
        """The batches from the present step on, on the device. Each depends on its step alone, so nothing is replayed."""
        steps = range(self.step, self.config.steps)
        loader = iter(load(self.batches, steps, workers=self.config.runtime.workers, device=self.device))
        while True:
            asked = time.monotonic()
            batch = next(loader, None)
            if batch is None:
                return
            self.waited += time.monotonic() - asked
            yield {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}

    def advance(self, loss: Tensor, norm: Tensor) -> None:
        """Count a step. Its loss and gradient norm stay on the device until they are needed."""
        self.step += 1
        self.unsettled.append((self.step, loss, norm))
        self.bar.update()

    def is_due(self, every: int) -> bool:
        """Whether this step ends an interval; the last step does. 0 is never."""
        return every > 0 and (self.step % every == 0 or self.step == self.config.steps)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is done in the block does not count in the speed of training."""
        paused = time.monotonic()
        yield
        self.interval_begun += time.monotonic() - paused

    def report_losses(self) -> None:
        """A line of metrics.jsonl: means since the line before."""
        self._settle()
        elapsed = time.monotonic() - self.interval_begun
        recipe, steps = self.recipe, self.config.steps
        line = {
            "loss": sum(loss for _, loss, _ in self.pending) / len(self.pending),
            "gradient_norm": sum(norm for _, _, norm in self.pending) / len(self.pending),
            "learning_rate": learning_rate_at(recipe.optimizer.learning_rate, recipe.schedule, steps, self.step - 1),
            "samples": self.step * recipe.batches.batch_size,
            "steps_per_second": (self.step - self.interval_first) / elapsed,
            "data_wait": self.waited / elapsed,
        }
        self.pending.clear()
        self._report(line)
        self.bar.set_postfix(loss=f"{line['loss']:.4f}", wait=f"{line['data_wait']:.0%}", refresh=False)
        self.interval_begun, self.interval_first, self.waited = time.monotonic(), self.step, 0.0

    def validate(self) -> None:
        """The validation loss of the averaged weights."""
        if len(self.val_images):
            with self.ema.applied():
                self._report(
                    validate(
                        self.accelerator,
                        self.model,
                        self.val_dataset,
                        self.val_images,
                        self.normalization,
                        self.config,
                        self.text_encoder,
                    )
                )

    def evaluate(self) -> None:
        """Metrics of images from the averaged weights."""
        assert self.evaluation is not None
        average = checkpoint.gather_average(self.model, self.ema, everywhere=True)
        self.evaluation.pipeline.model.load_state_dict(self._without_adapters(exported(average)))
        self._report({"evaluation": self.evaluation.measure()})

    def save(self) -> None:
        """A checkpoint, and the pipeline directory with the averaged weights."""
        self._settle()
        self._check_weights()
        state = {"step": self.step, "pending": self.pending, "seconds": self._seconds()}
        averages = [checkpoint.gather_average(self.model, one) for one in self.train_step.power_averages]
        if averages and self.is_main:  # before the checkpoint, which a run resumes from only with its averages
            power_ema.write(self.config.out, self.step, averages)
        whole = checkpoint.gather(self.model, self.ema, self.train_step.optimizers, state)
        if self.is_main:
            checkpoint.write(self.config.out, self.step, whole, keep=self.config.checkpoints.keep_checkpoints)
            self._write_pipeline(whole.ema)
        self.accelerator.wait_for_everyone()

    def sample(self) -> None:
        """RUN/samples/step-…png: a grid for fixed prompts and seeds."""
        from ifuvit.utils.image_grid import make_grid

        average = checkpoint.gather_average(self.model, self.ema)
        if self.is_main and self.pipeline is not None:
            self.pipeline.model.load_state_dict(self._without_adapters(exported(average)))
            prompts = [prompt for prompt in self.config.samples.sample_prompts for _ in range(2)]
            images = self.pipeline(prompts, num_inference_steps=25, seed=0)
            with atomic_path(self._grid) as path:
                make_grid(images, prompts).save(path, format="PNG")

    def show(self) -> None:
        """RUN/run.html, where it is due: when there is a new validation, evaluation or sample grid, else once a minute, or as
        much less often as keeps it below a hundredth of the time."""
        c = self.config
        news = (c.validation.validate_every, c.evaluation.evaluate_every, c.samples.sample_every)
        if any(map(self.is_due, news)) or time.monotonic() >= self._page_due:
            begun = time.monotonic()
            self._write_page("training")
            ended = time.monotonic()
            self._page_due = ended + max(60.0, 100 * (ended - begun))

    def finish(self, stop: Stop) -> None:
        """After the last step, or the one after which the run was stopped.

        Raises:
            SystemExit: it was stopped.
        """
        if self.trackers:
            self.accelerator.end_training()
        if stop.number is not None:
            if self.is_main:
                name = signal.Signals(stop.number).name
                print(f"stopped by {name} at step {self.step}; the same command resumes", file=sys.stderr)
                self._write_page("stopped", f"by {name} at step {self.step:,}; the same command resumes")
            raise SystemExit(128 + stop.number)
        if self.is_main:
            write_manifest(
                self.config.out,
                "train",
                to_dict(self.config),
                started=self.started,
                seed=self.recipe.start.seed,
                dataset=self.dataset.fingerprint,
                processes=self.accelerator.num_processes,
                device=str(self.device),
                steps=self.step,
                training_seconds=round(self._seconds(), 1),
            )
            self._write_page("finished", f"after {self.step:,} steps")

    # Helpers of those.

    @cached_property
    def _initial_latents(self) -> "InitialLatentsDistribution | None":
        """The distribution of initial latents; None for an objective whose paths end in pure noise."""
        if self.recipe.objective.starts_from_noise:
            return None
        return self.dataset.initial_latents_distribution(self.normalization)

    @property
    def _grid(self) -> Path:
        """The sample grid of the present step."""
        return self.config.out / "samples" / f"step-{self.step:08d}.png"

    def _any(self, flag: bool) -> bool:
        """Whether a flag is set in any process."""
        return bool(cast(Tensor, self.accelerator.gather(torch.tensor([float(flag)], device=self.device))).max())

    def _without_adapters(self, average: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The averaged weights as a backbone without adapters has them."""
        lora = self.recipe.start.lora
        return dict(average) if lora is None else merged_state(average, **lora)

    def _seconds(self) -> float:
        """Spent on training, in all sessions of the run."""
        return self.seconds + time.monotonic() - self.begun

    def _report(self, line: Mapping[str, Any]) -> None:
        """A line for the log and the trackers."""
        if self.metrics is not None:
            self.metrics.write(json.dumps({"step": self.step, **line}) + "\n")
            self.metrics.flush()
        if self.trackers:
            self.accelerator.log(flat(line), step=self.step)

    def _write_page(self, state: "State", why: str = "") -> None:
        """RUN/run.html. Whatever is wrong with it must not cost the training."""
        if not self.is_main:
            return
        from ifuvit.reporting.run_page import write_run_page

        try:
            write_run_page(self.config.out, step=self.step, state=state, why=why)
        except Exception as error:
            print(f"{self.config.out / 'run.html'}: not written: {type(error).__name__}: {error}", file=sys.stderr)

    def _settle(self) -> None:
        """Average over the processes what they saw in the last steps, and stop if it is not a number."""
        if not self.unsettled:
            return
        values = torch.stack([torch.stack([loss.float(), norm.float()]) for _, loss, norm in self.unsettled])
        values = cast(Tensor, self.accelerator.reduce(values, reduction="mean"))
        for (step, _, _), (loss, norm) in zip(self.unsettled, values.tolist(), strict=True):
            if not (math.isfinite(loss) and math.isfinite(norm)):
                self._diverged(f"loss {loss}, gradient norm {norm} at step {step}")
            self.pending.append([step, loss, norm])
        self.unsettled.clear()

    def _check_weights(self) -> None:
        """Refuse to save weights that are not numbers: the loss of a step is that before its update."""
        with torch.no_grad():
            finite = torch.stack([parameter.isfinite().all() for parameter in map(_local, self.train_step.parameters)])
        smallest = cast(Tensor, self.accelerator.gather(finite.all().float().reshape(1))).min()
        if not smallest:
            self._diverged(f"weights that are not finite after step {self.step}")

    def _diverged(self, what: str) -> None:
        raise InputError(
            f"{self.config.out}: {what}; training has diverged. Lower learning_rate or set gradient_clip; "
            f"{checkpoint.last_good(self.config.out)}"
        )

    def _write_pipeline(self, average: Mapping[str, Tensor]) -> None:
        """RUN/pipeline: the averaged weights, how to sample them, and where the encoders are to be found."""
        from ifuvit.pipeline import write_pipeline

        start = self.recipe.start
        if start.lora is not None:
            write_adapter(self.config.out / "adapter", average, base=str(start.init_from), **start.lora)
        model = IFUViT(self.recipe.model)
        model.load_state_dict(self._without_adapters(exported(average)))
        write_pipeline(
            self.config.out / "pipeline",
            model=model.eval(),
            autoencoder=self.dataset.autoencoder,
            text_encoder=self.dataset.text_encoder,
            objective=self.recipe.objective,
            normalization=self.normalization,
            initial_latents=self._initial_latents,
            training={
                "steps": self.step,
                "batch_size": self.recipe.batches.batch_size,
                "seed": self.recipe.start.seed,
                "seconds": round(self._seconds(), 1),
                "images": len(self.train_images),
                "captions": self.dataset.caption_count,
                "data": self.dataset.fingerprint,
            },
        )


def _local(parameter: Tensor) -> Tensor:
    """This process's part of a parameter that may be sharded."""
    return cast(Any, parameter).to_local() if hasattr(parameter, "to_local") else parameter
