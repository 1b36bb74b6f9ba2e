"""Where and how precisely benchmarks compute."""

import platform
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ifuvit.results import Hardware
from ifuvit.utils.devices import use_bf16

if TYPE_CHECKING:
    from accelerate import Accelerator


def make_accelerator(precision: str, device: torch.device) -> "Accelerator":
    """As training's, in "fp32" or "bf16" (autocast). One that was made before must not prepare anything more."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    # private: a second precision in one process, which accelerate refuses otherwise; checked on accelerate 1.15
    AcceleratorState._reset_state(True)
    return Accelerator(cpu=device.type == "cpu", mixed_precision="bf16" if precision == "bf16" else "no")


def hardware(device: torch.device) -> Hardware:
    """The device and torch's settings."""
    return Hardware(
        device=str(device),
        name=torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        torch=torch.__version__,
        cuda=torch.version.cuda if device.type == "cuda" else None,
        threads=torch.get_num_threads(),
        float32_matmul_precision=torch.get_float32_matmul_precision(),
        bf16_instructions=use_bf16("auto", device) if device.type == "cpu" else None,
    )


def _processor() -> str:
    """The processor's name, as far as the system names it."""
    described = Path("/proc/cpuinfo")
    if described.is_file():
        for line in described.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
