"""How images are sampled: one frozen value that goes whole from the command line to the solver. Imports no torch.

Configurations nest a `SamplingSettings`, so its fields are flags of every command that samples. A new field is declared and
checked here and used in one more place, `sampling.sample` or `Pipeline` (docs/extending.md).
"""

from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal, get_args

from ifuvit.utils.config import Finite, Fraction, Range, check, idle
from ifuvit.utils.errors import InputError

Solver = Literal["auto", "dpm++", "dpm++2m", "unipc", "ddim", "euler-a", "heun", "euler"]
SOLVERS: tuple[str, ...] = get_args(Solver)
InitialLatents = Literal["data-mean", "noise"]
INITIAL_LATENTS: tuple[str, ...] = get_args(InitialLatents)
MAX_STEPS = 1000

_DIFFUSERS_NAMES = {"num_inference_steps": "steps"}


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """How images are sampled: with model, prompt and seed, this decides the image.

    Raises:
        InputError: a field outside its range, named as its flag.
    """

    solver: Solver = "auto"
    """Solver: auto is dpm++, the paper's, for a ddpm model and dpm++2m for a flow model; docs/sampling.md has the others."""
    steps: Annotated[int, Range(least=1, most=MAX_STEPS)] = 15
    """Solver steps, 1 to 1000, each one evaluation of the guided network. The paper has 50; 15 are as good on the shipped
    model (docs/performance.md)."""
    guidance_scale: Finite = 4.0
    """Classifier-free guidance, the standard w: uncond + w (cond - uncond); 1 is no guidance. The paper counts
    s = w - 1: its images have w = 4, its evaluation w = 2."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Guide only the steps with LOW <= n / 1000 <= HIGH, n = 1000 being pure noise (for flow LOW <= t <= HIGH); the other
    steps take half the work (Kynkäänniemi et al. 2024)."""
    guidance_rescale: Fraction = 0.0
    """Rescale guided predictions toward the standard deviation of unguided ones, which large scales exceed: phi of Lin et al.
    2024; 0 is off, 0.7 their choice. A guided step then takes one more branch."""
    initial_latents: InitialLatents = "data-mean"
    """What the solver starts from: noise is pure noise as in the paper; data-mean is noise around a mean color drawn from
    the training images' distribution, where the model has it (docs/sampling.md)."""

    def __post_init__(self) -> None:
        check(self)
        if self.solver not in SOLVERS:
            raise InputError(f"--solver {self.solver}: unknown; the solvers are {', '.join(SOLVERS)}")
        low, high = self.guidance_interval
        if not 0 <= low <= high <= 1:
            raise InputError(
                f"--guidance-interval {low:g} {high:g}: give shares of the noise range, 0 <= low <= high <= 1"
            )
        if self.initial_latents not in INITIAL_LATENTS:
            raise InputError(f"--initial-latents {self.initial_latents}: give one of {', '.join(INITIAL_LATENTS)}")

    def without_effect(self, prefix: str = "") -> dict[str, str]:
        """Options that have no effect with the others; they begin with `prefix`."""
        names = [f"{prefix}{name}" for name in ("guidance_interval", "guidance_rescale")]
        return idle((self.guidance_scale == 1, names, f"with --{prefix.replace('_', '-')}guidance-scale 1"))

    def guidance_scale_at(self, level: float) -> float:
        """The guidance scale of a step at a noise level, 0 to 1; 1, no guidance, outside the interval."""
        low, high = self.guidance_interval
        return self.guidance_scale if low <= level <= high else 1.0

    def differences(self, other: "SamplingSettings") -> dict[str, Any]:
        """The fields whose values differ from those of `other`."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in own.items() if value != getattr(other, name)}

    def changed(self, **changes: Any) -> "SamplingSettings":
        """These settings with some fields changed. `steps` may also be given by diffusers' name, `num_inference_steps`.

        Raises:
            InputError: an unknown field, or a value outside its range.
        """
        names = [field.name for field in fields(self)]
        renamed = {_DIFFUSERS_NAMES.get(name, name): value for name, value in changes.items()}
        if unknown := [name for name in renamed if name not in names]:
            raise InputError(f"unknown sampling setting {unknown[0]!r}; the settings are {', '.join(names)}")
        return replace(self, **renamed)


DEFAULT_SETTINGS = SamplingSettings()
PAPER_SETTINGS = SamplingSettings(steps=50, initial_latents="noise")
"""The paper's images: w = 4, from pure noise."""
PAPER_EVALUATION_SETTINGS = PAPER_SETTINGS.changed(guidance_scale=2.0)
"""The paper's images for FID-30K and CLIP score: w = 2."""
