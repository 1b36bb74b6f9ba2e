"""Where a command computes, and in which precision."""

import os
import resource
import sys
from typing import TYPE_CHECKING, Literal

from ifuvit.utils.errors import InputError

if TYPE_CHECKING:
    import torch


def find_device(name: str) -> "torch.device":
    """The device of that name; "auto" is an accelerator if there is one, else the CPU. Under a launcher that starts
    several processes on a machine (LOCAL_RANK), each gets an accelerator of its own as far as there are enough.

    Raises:
        InputError: it cannot be used.
    """
    import torch

    if name == "auto":
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        if accelerator is None:
            return torch.device("cpu")
        rank = os.environ.get("LOCAL_RANK", "")
        if not rank.isdecimal():
            return accelerator
        return torch.device(accelerator.type, int(rank) % torch.accelerator.device_count())
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"--device {name}: cannot be used here ({str(error).splitlines()[0]})") from None


def check_compiler(device: "torch.device") -> None:
    """Raise an InputError if torch.compile has nothing to compile with: Triton on a GPU, a C++ compiler elsewhere."""
    import shutil
    from importlib.util import find_spec

    if device.type == "cuda":
        if find_spec("triton") is None:
            raise InputError("--compile needs Triton, which is not installed; `pip install triton`, or leave it out")
    elif not any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++"))):
        raise InputError(
            "--compile needs a C++ compiler, and neither g++ nor clang++ is here; install one, or leave it out"
        )


def keep_freed_memory() -> None:
    """Let this process keep the memory of tensors it has freed, where the C library is glibc. It would hand large blocks back
    to the kernel, and every layer of every step would get new ones, page by page (docs/performance.md). The peak of training
    stays; up to about ten blocks of a size may be taken before they are used again (glibc's bugs 14581 and 30723)."""
    import ctypes

    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS, Windows
        return
    m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
    mallopt(m_mmap_max, 0)
    mallopt(m_trim_threshold, -1)


def peak_memory(device: "torch.device") -> int:
    """The most memory there has been in use, in bytes: of the GPU, else of this process."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def use_bf16(precision: Literal["auto", "fp32", "bf16"], device: "torch.device") -> bool:
    """Whether to train under bf16 autocast; "auto" does where the processor has instructions for it."""
    import torch

    if precision != "auto":
        return precision == "bf16"
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return device.type == "cuda" and torch.cuda.is_bf16_supported()
