"""Devices by name, and when bf16 is chosen."""

import pytest
import torch

from ifuvit.devices import find_device, use_bf16
from ifuvit.errors import InputError


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
