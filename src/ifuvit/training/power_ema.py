"""Averages of the weights by a power of time, and any other width of them reconstructed after training.

Karras et al. 2024 (arXiv 2312.02696), section 3 and appendix C: the average at time t weighs the weights of time tau by
(tau / t)^gamma. Its width is the standard deviation of that profile as a share of t. Two such averages are kept at every
checkpoint; the profile of another width at another step is a combination of theirs, by least squares.
"""

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from ifuvit.training.config import EMAConfig, StartConfig
from ifuvit.training.ema import EMA
from ifuvit.utils.config import from_dict
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import atomic_path, read_object, reading

if TYPE_CHECKING:
    from torch import Tensor


class PowerEMA(EMA):
    """An fp32 average of a model's parameters by a power of time. After its first update it is the model's weights.

    Args:
        model: as `EMA`.
        width: relative standard deviation, 0 … 0.2887; Karras et al. keep 0.05 and 0.10.
    """

    def __init__(self, model: nn.Module, width: float) -> None:
        super().__init__(model, decay=0.0)
        self.exponent = exponent_of(width)

    def decay_at(self, updates: int) -> float:
        return (1 - 1 / (updates + 1)) ** (self.exponent + 1)


def exponent_of(width: float) -> float:
    """gamma of a relative width: the root of width² = (gamma + 1) / ((gamma + 2)² (gamma + 3))."""
    assert 0 < width < 1 / math.sqrt(12)
    inverse = width**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


def combination(times: np.ndarray, exponents: np.ndarray, time: float, exponent: float) -> np.ndarray:
    """How much of each of N averages makes the average of another time and exponent: (N,), (N,) -> (N,), by least squares
    between their profiles."""
    products = _inner(times[:, None], exponents[:, None], times[None], exponents[None])
    wanted = _inner(times, exponents, np.array(time), np.array(exponent))
    return np.linalg.lstsq(products, wanted, rcond=None)[0]


def _inner(t: np.ndarray, a: np.ndarray, u: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The integral of the product of two profiles, of times t and u and exponents a and b (Karras et al., appendix C.2)."""
    ratio = np.where(t < u, (t / u) ** np.where(t < u, b, 0), (u / t) ** np.where(t < u, 0, a))
    return (a + 1) * (b + 1) * ratio / ((a + b + 1) * np.maximum(t, u))


# What a run keeps.


def path_of(run: Path, step: int) -> Path:
    """Where the averages of a step lie."""
    return run / "averages" / f"step-{step:08d}.safetensors"


def write(run: Path, step: int, averages: Sequence[Mapping[str, "Tensor"]]) -> Path:
    """Write the averages of a step, in the order of their widths, with their checksum."""
    from safetensors.torch import save_file

    tensors = {f"{place}.{name}": t.contiguous() for place, one in enumerate(averages) for name, t in one.items()}
    path_of(run, step).parent.mkdir(exist_ok=True)
    with atomic_path(path_of(run, step)) as temporary:
        save_file(tensors, temporary, metadata={"sha256": _checksum(tensors)})
    return path_of(run, step)


def _checksum(tensors: Mapping[str, "Tensor"]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().numpy().data)
    return digest.hexdigest()


def read(run: Path, step: int) -> list[dict[str, "Tensor"]]:
    """The averages of a step, in the order of their widths.

    Raises:
        InputError: there are none, or they are damaged.
    """
    from safetensors import SafetensorError, safe_open

    file = path_of(run, step)
    try:
        with safe_open(file, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}
            expected = (opened.metadata() or {}).get("sha256")
    except (FileNotFoundError, SafetensorError) as error:
        raise InputError(f"{file}: the averages of this step cannot be read ({error})") from None
    if expected is not None and expected != _checksum(tensors):
        raise InputError(f"{file}: its checksum is not the one that was written: damaged; copy it again")
    found: list[dict[str, Tensor]] = [{}, {}]
    with reading(file):
        for name, tensor in tensors.items():
            place, name = name.split(".", 1)
            found[("0", "1").index(place)][name] = tensor
    if not found[0] or found[0].keys() != found[1].keys():
        raise InputError(f"{file}: does not hold two averages of the same weights")
    return found


def kept_steps(run: Path) -> list[int]:
    """The steps of which a run has averages, ascending."""
    names = [path.name for path in (run / "averages").glob("step-*.safetensors")]
    return sorted(int(match[1]) for name in names if (match := re.fullmatch(r"step-([0-9]{8,})\.safetensors", name)))


def reconstruct(run: Path, width: float, step: int | None = None) -> tuple[dict[str, "Tensor"], int]:
    """The averaged weights of a run by another width.

    Args:
        run: a run directory that was trained with `power_ema`.
        width: relative standard deviation.
        step: whose average; default: the last that was kept.

    Returns:
        float32 tensors by name, as a backbone without adapters has them, and the step.

    Raises:
        InputError: the run kept no averages, none of this step, or they are damaged.
    """
    import torch

    from ifuvit.model.lora import merged_state

    steps, where = kept_steps(run), f"{run / 'config.json'}: config: recipe"
    with reading(run / "config.json"):
        recipe = read_object(run / "config.json")["config"]["recipe"]
        widths = from_dict(EMAConfig, recipe["ema"], where=f"{where}: ema").power_ema
        start = from_dict(StartConfig, recipe.get("start", {}), where=f"{where}: start")
    if not steps or not widths:
        raise InputError(f"{run}: has kept no averages; train with --power-ema 0.05 0.1")
    step = steps[-1] if step is None else step
    if step not in steps:
        raise InputError(f"--step {step}: {run} has averages of the steps {', '.join(map(str, steps))}")
    used = [one for one in steps if one <= step]
    times = np.repeat(np.array(used, np.float64), 2)
    exponents = np.tile([exponent_of(one) for one in widths], len(used))
    weights = combination(times, exponents, step, exponent_of(width)).reshape(len(used), 2)
    total: dict[str, Tensor] = {}
    for one, pair in zip(used, weights, strict=True):
        for weight, tensors in zip(pair.tolist(), read(run, one), strict=True):
            for name, tensor in tensors.items():
                before = total.setdefault(name, torch.zeros_like(tensor, dtype=torch.float64))
                if before.shape != tensor.shape:
                    raise InputError(f"{path_of(run, one)}: {name} has another shape than in the step before")
                before += weight * tensor.double()
    average = {name: tensor.float() for name, tensor in total.items()}
    if not all(tensor.isfinite().all() for tensor in average.values()):
        raise InputError(f"{run}: averages that are not finite; give an earlier --step")
    return average if start.lora is None else merged_state(average, **start.lora), step
