"""The diffusion process; what configurations need of it, without torch."""

from typing import Literal, get_args

Solver = Literal["dpm++", "dpm++2m", "unipc", "ddim", "euler-a"]
"""See `ifuvit.diffusion.sampling`."""
SOLVERS: tuple[str, ...] = get_args(Solver)
Start = Literal["color", "noise"]
"""Sampling starts from noise around a color as training images have, or from pure noise as in the paper; see
`ifuvit.diffusion.initial_latents`."""
STARTS: tuple[str, ...] = get_args(Start)
PAPER_STEPS = 50
"""Solver steps of the paper's images and of its evaluation."""
DEFAULT_STEPS = 15
"""As good on the shipped model: in distance, counts and alignment inside the intervals of 50 (docs/performance.md)."""
