"""The training objective, one frozen value from the configuration to the solver.

It owns the path from latents to noise: which times training visits, the noisy latents there, what the network predicts, the
loss, how a prediction becomes what a solver wants, and the solvers. A pipeline saves it in model_index.json.

    objective  noisy latents                           network predicts                          paths end in
    ddpm       sqrt(a_n) latents + sqrt(1 - a_n) noise noise                                     a_1000 = 0.0047
    flow       (1 - t) latents + t noise               velocity noise - latents, or the latents  pure noise

A time is what the network is fed: n = 1 … 1000 for `DDPM`, 1000 t for `Flow`. So a time / 1000 is the noise level, 0 … 1, by
which guidance intervals and the bands of the validation loss are told.

The random numbers come from outside (`ifuvit.training.batches`): a draw depends on the seed and the sample alone, and the
objective only says what they mean.

Torch is imported where it is needed: configurations hold objectives, and help texts should not wait for it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import tyro

from ifuvit.utils.config import Finite, Positive, check
from ifuvit.utils.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

NUM_TIMESTEPS = 1000
"""The time of the most noise."""
MIN_CLEAN_TIME = 0.05
"""Flow time below which errors of predicted latents weigh no more (Li and He 2025, arXiv:2511.13720)."""

_NAMES = tyro.conf.arg(name="objective", metavar="ddpm|flow")


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What `DDPM` and `Flow` have in common: the interface that training, validation and sampling use."""

    solvers: ClassVar[tuple[str, ...]]
    """Those that can follow it backwards; the first is the default."""
    time_offset: ClassVar[int]
    """What to add to a timestep of diffusers' schedulers to get a time."""
    starts_from_noise: ClassVar[bool]
    """Whether the path ends in pure noise. If not, sampling may start from a distribution of initial latents."""

    def __post_init__(self) -> None:
        check(self)

    def sample_times(self, uniform: "Tensor") -> "Tensor":
        """Times of training from uniform random numbers in [0, 1): (B,) float32 -> (B,)."""
        raise NotImplementedError

    def times_at(self, levels: "Tensor") -> "Tensor":
        """The times of noise levels in (0, 1): (B,) float32 -> (B,)."""
        raise NotImplementedError

    def noisy_latents(self, latents: "Tensor", noise: "Tensor", times: "Tensor") -> "Tensor":
        """(B, C, H, W) normalized latents, (B, C, H, W) standard normal noise, (B,) -> (B, C, H, W)."""
        raise NotImplementedError

    def errors(self, predicted: "Tensor", latents: "Tensor", noise: "Tensor", times: "Tensor") -> "Tensor":
        """The squared error of each image, unweighted, which is what validation reports: (B,) float32.

        Args:
            predicted: (B, C, H, W), the network's output for `noisy_latents(latents, noise, times)` and `times`.
            latents, noise: (B, C, H, W).
            times: (B,).
        """
        raise NotImplementedError

    def loss(self, predicted: "Tensor", latents: "Tensor", noise: "Tensor", times: "Tensor") -> "Tensor":
        """The loss of a batch, a scalar; arguments as in `errors`."""
        return self.errors(predicted, latents, noise, times).mean()

    def for_solver(self, predicted: "Tensor", latents: "Tensor", time: float) -> "Tensor":
        """What a solver wants (noise for `DDPM`, velocity for `Flow`) from the network's output.

        Args:
            predicted: (B, C, H, W), the (guided) output for `latents` at `time`.
            latents: (B, C, H, W), noisy.
            time: of all of them; above 0.
        """
        return predicted

    def clean_latents(self, predicted: "Tensor", latents: "Tensor", times: "Tensor") -> "Tensor":
        """The latents without noise that the network's output stands for; arguments as in `errors`, `latents` noisy."""
        raise NotImplementedError

    def make_scheduler(self, solver: str, num_inference_steps: int, device: "torch.device | str" = "cpu") -> Any:
        """diffusers' scheduler for a solver, its timesteps set (see `ifuvit.diffusion.solvers`).

        Raises:
            InputError: a solver of another objective.
        """
        raise NotImplementedError

    def scheduler_config(self) -> dict[str, Any]:
        """The content of a pipeline's scheduler_config.json, in diffusers' words."""
        raise NotImplementedError

    label: ClassVar[str]
    """Its name in messages."""

    def resolve_solver(self, solver: str) -> str:
        """The solver to use: the default one for "auto".

        Raises:
            InputError: a solver of another objective.
        """
        if solver == "auto":
            return self.solvers[0]
        if solver not in self.solvers:
            known = next((other.label for other in OBJECTIVES.values() if solver in other.solvers), None)
            what = f"unknown solver {solver!r}" if known is None else f"solver {solver!r} is one of {known} models"
            raise InputError(f"{what}; this is a {self.label} model: choose auto, {', '.join(self.solvers)}")
        return solver


@dataclass(frozen=True, kw_only=True)
class DDPM(Objective):
    """Noise prediction over Stable Diffusion's 1000 discrete steps, as the paper and U-ViT train (Ho et al. 2020)."""

    name: Annotated[Literal["ddpm"], _NAMES] = "ddpm"
    """What the network learns: ddpm predicts the noise of 1000 discrete steps (the paper's), flow is rectified flow."""
    snr_gamma: Positive[float] | None = None
    """Weight timesteps by min(SNR, gamma) / SNR; default: the paper's plain mean. (Hang et al. 2023, Min-SNR, which moves
    effort from fine texture to layout.)"""

    label: ClassVar[str] = "ddpm"
    solvers: ClassVar[tuple[str, ...]] = ("dpm++", "dpm++2m", "unipc", "ddim", "euler-a")
    time_offset: ClassVar[int] = 1
    starts_from_noise: ClassVar[bool] = False

    def sample_times(self, uniform: "Tensor") -> "Tensor":
        """n = 1 … 1000, int64, all equally likely."""
        # 1 + floor(1000 u), exactly: u has 24 bits, and their product with 1000 does not fit into a float32.
        return 1 + ((uniform * 2**24).long() * NUM_TIMESTEPS >> 24)

    def times_at(self, levels: "Tensor") -> "Tensor":
        """n = 1 … 1000, int64: the ceilings of 1000 levels."""
        return self.sample_times(levels)

    def noisy_latents(self, latents: "Tensor", noise: "Tensor", times: "Tensor") -> "Tensor":
        from ifuvit.diffusion.schedule import add_noise

        return add_noise(latents, noise, times)

    def errors(self, predicted: "Tensor", latents: "Tensor", noise: "Tensor", times: "Tensor") -> "Tensor":
        return _mean_square(predicted.float() - noise.float())

    def loss(self, predicted: "Tensor", latents: "Tensor", noise: "Tensor", times: "Tensor") -> "Tensor":
        from ifuvit.diffusion.schedule import signal_to_noise

        errors = self.errors(predicted, latents, noise, times)
        if self.snr_gamma is not None:
            snr = signal_to_noise(times)
            errors = errors * snr.clamp(max=self.snr_gamma) / snr
        return errors.mean()

    def clean_latents(self, predicted: "Tensor", latents: "Tensor", times: "Tensor") -> "Tensor":
        from ifuvit.diffusion.schedule import remove_noise

        return remove_noise(latents, predicted, times)

    def make_scheduler(self, solver: str, num_inference_steps: int, device: "torch.device | str" = "cpu") -> Any:
        from ifuvit.diffusion.solvers import ddpm_scheduler

        return ddpm_scheduler(self.resolve_solver(solver), num_inference_steps, device)

    def scheduler_config(self) -> dict[str, Any]:
        from ifuvit.diffusion.schedule import SCHEDULE

        return {
            "_class_name": "DPMSolverSinglestepScheduler",
            **SCHEDULE,
            "prediction_type": "epsilon",
            "solver_order": 3,
            "final_sigmas_type": "sigma_min",
            "lower_order_final": True,
        }


@dataclass(frozen=True, kw_only=True)
class Flow(Objective):
    """Rectified flow: straight paths from latents at t = 0 to noise at t = 1 (Liu et al. 2022, arXiv:2209.03003)."""

    name: Annotated[Literal["flow"], _NAMES] = "flow"
    """What the network learns: ddpm predicts the noise of 1000 discrete steps (the paper's), flow is rectified flow."""
    prediction: Literal["velocity", "clean"] = "velocity"
    """What the network predicts; the loss is the velocity's squared error either way. (Clean latents: Li and He 2025.)"""
    times: Literal["uniform", "logit-normal"] = "uniform"
    """How the times of training are distributed, before the shift (logit-normal: Esser et al. 2024, arXiv:2403.03206)."""
    logit_mean: Finite = 0.0
    """Mean of logit(t) of logit-normal times."""
    logit_std: Positive[float] = 1.0
    """Deviation of logit(t) of logit-normal times."""
    shift: Positive[float] = 1.0
    """Move times towards noise by t -> shift t / (1 + (shift - 1) t), in training and in the solver's grid alike."""

    label: ClassVar[str] = "flow"
    solvers: ClassVar[tuple[str, ...]] = ("dpm++2m", "heun", "euler")
    time_offset: ClassVar[int] = 0
    starts_from_noise: ClassVar[bool] = True

    def sample_times(self, uniform: "Tensor") -> "Tensor":
        """1000 t, float32."""
        t = uniform
        if self.times == "logit-normal":
            normal = (2 * uniform - 1).erfinv() * math.sqrt(2)
            t = (self.logit_mean + self.logit_std * normal).sigmoid()
        return NUM_TIMESTEPS * self.shifted(t)

    def times_at(self, levels: "Tensor") -> "Tensor":
        return NUM_TIMESTEPS * levels

    def shifted(self, t: Any) -> Any:
        """Flow times, a tensor or an array, moved by `shift`; 0 and 1 stay."""
        return self.shift * t / (1 + (self.shift - 1) * t)

    def noisy_latents(self, latents: "Tensor", noise: "Tensor", times: "Tensor") -> "Tensor":
        t = (times / NUM_TIMESTEPS).view(-1, 1, 1, 1).to(latents.dtype)
        return (1 - t) * latents + t * noise

    def errors(self, predicted: "Tensor", latents: "Tensor", noise: "Tensor", times: "Tensor") -> "Tensor":
        if self.prediction == "velocity":
            return _mean_square(predicted.float() - (noise - latents).float())
        # With velocity = (noisy - latents) / t the noisy latents cancel: an error of the latents counts 1 / t in velocity.
        t = (times / NUM_TIMESTEPS).clamp(min=MIN_CLEAN_TIME)
        return _mean_square(predicted.float() - latents.float()) / t.square()

    def for_solver(self, predicted: "Tensor", latents: "Tensor", time: float) -> "Tensor":
        # Not clamped: a solver's step multiplies by no more than t again.
        return predicted if self.prediction == "velocity" else (latents - predicted) / (time / NUM_TIMESTEPS)

    def clean_latents(self, predicted: "Tensor", latents: "Tensor", times: "Tensor") -> "Tensor":
        if self.prediction == "clean":
            return predicted
        return latents - (times / NUM_TIMESTEPS).view(-1, 1, 1, 1).to(latents.dtype) * predicted

    def make_scheduler(self, solver: str, num_inference_steps: int, device: "torch.device | str" = "cpu") -> Any:
        from ifuvit.diffusion.solvers import flow_scheduler

        solver = self.resolve_solver(solver)
        return flow_scheduler(solver, num_inference_steps, self.shifted, device)

    def scheduler_config(self) -> dict[str, Any]:
        return {
            "_class_name": "DPMSolverMultistepScheduler",
            "num_train_timesteps": NUM_TIMESTEPS,
            "prediction_type": "flow_prediction",
            "use_flow_sigmas": True,
            "flow_shift": self.shift,
            "solver_order": 2,
            "final_sigmas_type": "zero",
        }


AnyObjective = DDPM | Flow
OBJECTIVES: Mapping[str, type[DDPM] | type[Flow]] = {"ddpm": DDPM, "flow": Flow}


def _mean_square(differences: "Tensor") -> "Tensor":
    """(B, C, H, W) -> (B,)."""
    return differences.square().flatten(1).mean(1)
