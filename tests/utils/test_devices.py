"""Devices by name, and when bf16 is chosen."""

import platform
import subprocess
import sys

import pytest
import torch

from ifuvit.utils.devices import find_device, use_bf16
from ifuvit.utils.errors import InputError


def test_devices_by_name():
    assert find_device("cpu") == torch.device("cpu")
    expected = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    assert find_device("auto") == expected
    for name in ("abacus", "cuda:99"):
        with pytest.raises(InputError, match=f"--device {name}: cannot be used here") as caught:
            find_device(name)
        assert "\n" not in str(caught.value)


def test_each_process_of_a_machine_gets_its_own(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert find_device("auto") == torch.device("cuda")
    for rank, device in (("0", "cuda:0"), ("1", "cuda:1"), ("2", "cuda:0")):
        monkeypatch.setenv("LOCAL_RANK", rank)
        assert find_device("auto") == torch.device(device)
        assert find_device("cpu") == torch.device("cpu")


def test_bf16(monkeypatch):
    cpu = torch.device("cpu")
    assert use_bf16("bf16", cpu) and not use_bf16("fp32", cpu)
    for avx512, amx in ((False, False), (True, False), (False, True)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)  # noqa: B023
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)  # noqa: B023
        assert use_bf16("auto", cpu) == (avx512 or amx)


def test_freed_memory_is_kept():
    """Where the C library is glibc, a tensor takes the pages of those before it."""
    program = """
import resource, torch
from ifuvit.utils.devices import keep_freed_memory
keep_freed_memory()
for _ in range(32):  # glibc (bugs 14581, 30723) leaves small gaps between large blocks until its cache of such gaps is full
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("another C library")
    faults = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert int(faults) < 2**14  # one tensor has as many pages of 4 KiB
