"""How far the solvers are from an exact solution, on a small random model.

    python tools/solver_accuracy.py [DIRECTORY]     prints the table of docs/sampling.md; DIRECTORY/manifest.json keeps it

The exact solution integrates the probability flow by a method of its own: with y = x / alpha and s = sigma / alpha it is
dy/ds = noise(alpha y, n), done by the classical Runge-Kutta method, two units of n a step, in double precision.
"""

import sys
from importlib.metadata import version

import numpy as np
import torch
from torch import Tensor

from ifuvit import IFUViT, IFUViTConfig
from ifuvit.diffusion.objective import DDPM
from ifuvit.diffusion.sampling import image_generators, initial_noise, sample
from ifuvit.diffusion.settings import SamplingSettings
from ifuvit.model.uvit import EncodedText
from ifuvit.utils.files import now, write_manifest

GUIDANCE_SCALE = 2.0
UVIT_SOLVER = {20: 3.1229e-03, 50: 2.9161e-03, 200: 5.9310e-04}
"""Relative distance from `exact` of U-ViT's own solver (baofff/U-ViT at ce55170, dpm_solver_pp.py, predict_x0=True,
sample(steps=…, eps=1/1000, T=1.0)) run once by hand on exactly `problem()`, noise prediction in float32."""


def problem() -> tuple[IFUViT, Tensor, EncodedText, EncodedText]:
    """A random model, (4, 4, 8, 8) noise, four prompts and the null caption; the same numbers everywhere."""
    bits = np.random.Generator(np.random.PCG64(0))
    config = IFUViTConfig(
        latent_size=8, embed_dim=64, num_heads=4, depth=4, text_width=32, text_tokens=8, conditioning="concat", n_text=0, n_image=0
    )  # fmt: skip
    model = IFUViT(config).eval()
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if parameter.ndim > 1:  # three times the initial weights: far enough from linear to tell solvers apart
                parameter.copy_(torch.from_numpy(0.06 * bits.standard_normal(parameter.shape)))
            else:
                parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
        states = torch.from_numpy(bits.standard_normal((5, 8, 32), dtype=np.float32))
        text, null_text = model.encode_text(states[:4]), model.encode_text(states[4:])
    return model, initial_noise((4, 8, 8), 0, range(4)), text, null_text


@torch.no_grad()
def exact(
    model: IFUViT, noise: Tensor, text: EncodedText, null_text: EncodedText, *, guidance_scale: float, units: int = 3
) -> Tensor:
    """The solution at n = 1 of the flow that starts from `noise` at n = 1000; `units` of n a step (a divisor of 999)."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    log_alphas = np.cumsum(np.log(1 - betas)) / 2

    def alpha_sigma(n: float) -> tuple[float, float]:
        alpha = float(np.exp(np.interp(n, np.arange(1, 1001), log_alphas)))
        return alpha, (1 - alpha**2) ** 0.5

    def n_of(s: float) -> float:
        return float(np.interp(-np.log1p(s * s) / 2, log_alphas[::-1], np.arange(1000, 0, -1)))

    def slope(y: Tensor, s: float, n: float) -> Tensor:
        x = (y / (1 + s * s) ** 0.5).float()
        return model.guided(x, torch.full((len(x),), n), text, null_text, guidance_scale=guidance_scale).double()

    y = noise.double() / alpha_sigma(1000)[0]
    for n in range(1000, 1, -units):
        (a0, s0), (a1, s1) = alpha_sigma(n), alpha_sigma(n - units)
        s_start, s_end = s0 / a0, s1 / a1
        h, middle = s_end - s_start, (s_start + s_end) / 2
        k1 = slope(y, s_start, n)
        k2 = slope(y + h / 2 * k1, middle, n_of(middle))
        k3 = slope(y + h / 2 * k2, middle, n_of(middle))
        k4 = slope(y + h * k3, s_end, n - units)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return (y * alpha_sigma(1)[0]).float()


def distance(a: Tensor, b: Tensor) -> float:
    """Relative distance of a from b."""
    return float((a - b).norm() / b.norm())


def main() -> None:
    started = now()
    model, noise, text, null_text = problem()
    target = exact(model, noise, text, null_text, guidance_scale=GUIDANCE_SCALE)
    coarser = exact(model, noise, text, null_text, guidance_scale=GUIDANCE_SCALE, units=9)
    columns = (20, 50, 200)
    distances = {"U-ViT's own": {str(steps): UVIT_SOLVER.get(steps) for steps in columns}}
    for solver in DDPM.solvers:
        distances[solver] = {}
        for steps in columns:
            settings = SamplingSettings(solver=solver, steps=steps, guidance_scale=GUIDANCE_SCALE)
            result = sample(model, noise, text, null_text, settings, generators=image_generators(0, range(4)))
            distances[solver][str(steps)] = distance(result, target)
    print(f"exact solution, against one with three times larger steps: {distance(coarser, target):.1e}\n")
    print("| solver | 20 steps | 50 steps | 200 steps |\n|---|---|---|---|")
    for solver, row in distances.items():
        print(f"| {solver} | {' | '.join(f'{value:.2e}' for value in row.values() if value is not None)} |")
    if len(sys.argv) > 1:
        write_manifest(
            sys.argv[1],
            "tools/solver_accuracy.py",
            {"guidance_scale": GUIDANCE_SCALE},
            started=started,
            torch=torch.__version__,
            diffusers=version("diffusers"),
            exact_solution_with_three_times_larger_steps=distance(coarser, target),
            relative_distance=distances,
        )


if __name__ == "__main__":
    main()
