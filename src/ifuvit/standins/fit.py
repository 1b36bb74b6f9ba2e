"""The training loop of the stand-ins: small networks, one process, minutes on a CPU.

What a stand-in brings is its network, its optimizer and its loss; every random draw of the loss depends on (seed, step)
alone. So the same command gives the same weights on the same machine, and a run that was interrupted and resumes from a
checkpoint ends with the weights of one that was not.
"""

import math
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ifuvit.training.checkpoint import gather, prune, read_newest, restore, write
from ifuvit.training.distributed import Stop, graceful_shutdown
from ifuvit.training.ema import EMA
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import reading

KEEP = 2
"""Checkpoints of a run that stay."""


def warmup_cosine(position: float, *, warmup: float, end: float = 1.0, floor: float = 0.0) -> float:
    """The share of the peak learning rate at `position` (0 to `end`, in steps or as a share) of a training: it rises in a line
    up to `warmup`, and then falls along a half cosine to `floor`."""
    if position < warmup:
        return position / warmup
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * (min(position, end) - warmup) / (end - warmup)))


def rise_and_fall(*, warmup: int, steps: int) -> Callable[[int, float], float]:
    """`warmup_cosine` to 0 for `Fit.schedule`, by steps: what a step ends with while it rises, so that the first is no
    standstill, and what it begins with while it falls, so that the last is none."""
    rise = max(1, warmup)
    return lambda step, _: warmup_cosine(step + (step < rise), warmup=rise, end=max(steps, rise + 1))


@dataclass(kw_only=True)
class Fit:
    """A training: `run` it. What changes while it runs is what a checkpoint holds."""

    network: nn.Module
    optimizers: Mapping[torch.optim.Optimizer, float]
    """With their peak learning rates."""
    loss: Callable[[int], Mapping[str, Tensor]]
    """The terms of the loss of a step, counted from 0, scalars; "loss" is minimized, the others are logged."""
    schedule: Callable[[int, float], float]
    """The share of the peak rates of a step, by its number, from 0, and the progress (0 to 1) that it leads to."""
    clip: float
    """Largest norm of the gradient."""
    steps: int | None = None
    minutes: float | None = None
    """Where both are given, whichever ends first decides."""
    log: Callable[[dict[str, float]], None]
    """Takes the step, its terms, the share of the peak rates, the gradient norm and the seconds so far."""
    log_every: int = 50
    project: Callable[[], object] = lambda: None
    """Brings parameters back into their bounds, after every step."""
    ema: EMA | None = None
    evaluate: Callable[[], dict[str, float]] | None = None
    """Measures the network, with the averaged weights where there are some."""
    evaluate_every: int = 250
    out: Path | None = None
    """Run directory for checkpoints; without one a training cannot be resumed."""
    checkpoint_minutes: float = 3.0
    step: int = 0
    seconds: float = 0.0

    def resume(self) -> None:
        """Go to the newest checkpoint of the run directory, if there is one.

        Raises:
            InputError: there are checkpoints, and none can be read.
        """
        assert self.out is not None and self.ema is not None
        checkpoint, problems = read_newest(self.out)
        for problem in problems:
            print(f"{problem}; an older checkpoint is used", file=sys.stderr)
        if checkpoint is not None:
            restore(checkpoint, self.network, self.ema, list(self.optimizers))
            with reading(self.out):
                self.step, self.seconds = int(checkpoint.state["step"]), float(checkpoint.state["seconds"])
            prune(self.out, self.step, keep=KEEP)  # a fault after the last checkpoint may have left older ones
            print(f"resuming from step {self.step}", file=sys.stderr)

    def run(self) -> None:
        """Train to the end. With a run directory, SIGTERM or SIGINT end the process after a checkpoint.

        Raises:
            InputError: the loss or the gradient is not finite; the network stays as it was before that step.
        """
        from tqdm import tqdm

        first, begun_at = self.step, self.seconds
        start = saved = time.monotonic()
        with (
            graceful_shutdown() if self.out else nullcontext(Stop()) as stop,
            tqdm(total=1.0, bar_format="{percentage:3.0f}%|{bar:20}| {desc}", disable=None, mininterval=0.5) as bar,
        ):
            while self._progress() < 1:
                share = self.schedule(self.step, self._progress(1))
                terms, norm = self._update(share)
                self.step += 1
                self.seconds = begun_at + time.monotonic() - start

                done = self._progress() >= 1
                values = {name: value.item() for name, value in terms.items()}
                if self.step % self.log_every == 0 or done:
                    facts = {"rate_share": share, "gradient_norm": norm.item(), "seconds": round(self.seconds, 2)}
                    self.log({"step": self.step, **values, **facts})
                if self.evaluate and (self.step % self.evaluate_every == 0 or done):
                    with self.ema.applied() if self.ema else nullcontext():
                        self.log({"step": self.step, **self.evaluate()})
                    self.seconds = begun_at + time.monotonic() - start
                if self.out and (done or stop.number or time.monotonic() - saved > 60 * self.checkpoint_minutes):
                    self._save(self.out)
                    saved = time.monotonic()
                if stop.number and not done:
                    _end(stop.number, self.step)

                bar.n = min(self._progress(), 1.0)
                speed = (self.step - first) / max(self.seconds - begun_at, 1e-9)
                told = " ".join(f"{name} {value:.4g}" for name, value in values.items())
                bar.set_description_str(f"step {self.step} {told} {speed:.2f} steps/s")

    def _progress(self, ahead: int = 0) -> float:
        by_steps = (self.step + ahead) / self.steps if self.steps else 0.0
        return max(by_steps, self.seconds / (60 * self.minutes) if self.minutes else 0.0)

    def _update(self, share: float) -> tuple[Mapping[str, Tensor], Tensor]:
        """One step: the terms of the loss and the norm of the gradient."""
        parameters = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        terms = self.loss(self.step)
        self.network.zero_grad(set_to_none=True)
        terms["loss"].backward()
        norm = nn.utils.clip_grad_norm_(parameters, self.clip)
        for name, value in (("loss", terms["loss"]), ("gradient", norm)):
            if not torch.isfinite(value):
                kept = f"the last checkpoint in {self.out} is kept; " if self.out else ""
                peaks = " and ".join(f"{peak:g}" for peak in self.optimizers.values())
                raise InputError(
                    f"the {name} is {value.item()} at step {self.step + 1}; {kept}try a learning rate below {peaks} or "
                    "--precision fp32"
                )
        for optimizer, peak in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = peak * share
            optimizer.step()
        with torch.no_grad():
            self.project()
        if self.ema:
            self.ema.update(self.step)
        return terms, norm

    def _save(self, run: Path) -> None:
        assert self.ema is not None
        state = {"step": self.step, "seconds": self.seconds}
        write(run, self.step, gather(self.network, self.ema, list(self.optimizers), state), keep=KEEP)


def _end(number: int, step: int) -> None:
    print(f"\nstopped at step {step}; the same command resumes there", file=sys.stderr)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)
