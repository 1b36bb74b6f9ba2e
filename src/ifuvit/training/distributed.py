"""What surrounds a run: launches that are supported, gradients between processes, signals, and experiment trackers."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ifuvit.utils.errors import InputError

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor, nn

# Processes.


def check_launch(accelerator: "Accelerator", optimizer: str = "adamw", *, align_to: str | None = None) -> None:
    """Refuse launches under which the weights or their average would not be right.

    Raises:
        InputError: FSDP version 1 or without GPUs, DeepSpeed, Megatron; or FSDP with Muon or with alignment.
    """
    from accelerate.utils import DistributedType

    kind = accelerator.distributed_type
    if kind == DistributedType.FSDP and not accelerator.is_fsdp2:
        raise InputError("this launch asks for FSDP version 1; ask for version 2 (accelerate launch --fsdp_version 2)")
    if kind == DistributedType.FSDP and optimizer == "muon":
        raise InputError(
            "optimizer muon takes whole matrices, and this launch shards them (FSDP); train with plain data parallelism "
            "or with --optimizer adamw"
        )
    if kind == DistributedType.FSDP and align_to is not None:
        raise InputError(
            f"align_to={align_to!r} with this launch's use_fsdp: the head would be used outside the sharded forward pass; train "
            "with plain data parallelism, or leave out --align-to"
        )
    if kind in (DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM):
        raise InputError(f"this launch asks for {kind.value}; train with plain data parallelism or with FSDP version 2")
    asked = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if asked and kind != DistributedType.FSDP and accelerator.num_processes > 1:
        raise InputError("this launch asks for FSDP, which accelerate supports on GPUs only; leave out --use_fsdp")


@contextmanager
def sync_gradients(accelerator: "Accelerator", model: "nn.Module", *, last: bool) -> Iterator[None]:
    """Processes exchange gradients only at the last part of a batch."""
    if last:
        yield
    else:
        with accelerator.no_sync(model):
            yield


def register_forward_methods(model: "nn.Module") -> None:
    """Tell FSDP which methods besides `forward` use parameters."""
    from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method

    for module in model.modules():
        if isinstance(module, FSDPModule):
            for name in (
                "encode_text",
                "encode_image",
                "fuse",
                "skip_text",
                "guided",
                "text_keys_values",
                "image_values",
            ):
                if hasattr(module, name):
                    register_fsdp_forward_method(module, name)


def global_gradient_norm(norm: Any) -> "Tensor":
    """The gradient norm as a plain tensor; under FSDP it is spread over the processes."""
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm


# Signals.


class Stop:
    """The number of the SIGTERM, SIGINT or SIGHUP that arrived, if any."""

    number: int | None = None


_SECOND_SIGNAL = 3.0


@contextmanager
def graceful_shutdown() -> Iterator[Stop]:
    """Record SIGTERM, SIGINT and SIGHUP (a terminal that is closed) in the block, so that a checkpoint can be written first.
    One that comes `_SECOND_SIGNAL` seconds later, or more, takes its usual course; sooner it is the same one, passed on by a
    launcher that got it as well (torchrun, from SLURM or a terminal). Under nohup SIGHUP stays ignored. Outside the main
    thread, where Python does not handle signals, none is recorded."""
    stop = Stop()
    before: dict[int, Any] = {}
    first: list[float] = []

    def record(number: int, _: Any) -> None:
        stop.number = stop.number or number
        first.append(time.monotonic())
        if first[-1] - first[0] >= _SECOND_SIGNAL:
            signal.signal(number, before[number])
            signal.raise_signal(number)

    if threading.current_thread() is threading.main_thread():
        hangup = getattr(signal, "SIGHUP", None)  # Windows has none
        recorded = [signal.SIGTERM, signal.SIGINT]
        if hangup is not None and signal.getsignal(hangup) != signal.SIG_IGN:
            recorded.append(hangup)
        for number in recorded:
            before[number] = signal.signal(number, record)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def should_stop(accelerator: "Accelerator", stop: Stop, step: int) -> bool:
    """Whether any process was asked to stop; all of them get the same answer (they agree at every tenth step)."""
    if accelerator.num_processes == 1:
        return stop.number is not None
    if step % 10:
        return False
    import torch

    flag = torch.tensor(float(stop.number or 0), device=accelerator.device)
    number = int(accelerator.gather(flag).max())  # type: ignore[union-attr]
    stop.number = number or None
    return stop.number is not None


# Trackers: TensorBoard and Weights & Biases.


def check_installed(trackers: Sequence[str]) -> None:
    """accelerate would leave out a tracker that is not installed without a word.

    Raises:
        InputError: which one.
    """
    for name in trackers:
        if find_spec(name) is None:
            raise InputError(f"--{name}: the package is not installed; pip install {name}")


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one with "outer/inner" names, which trackers show as groups. Metrics (see `ifuvit.results`)
    become their values under their names, other lists strings."""
    flattened: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flattened.update(flat(value, f"{prefix}{key}/"))
        elif isinstance(value, list) and value and all(isinstance(one, Mapping) and "value" in one for one in value):
            flattened.update({f"{prefix}{key}/{one['name']}": one["value"] for one in value})
        else:
            flattened[prefix + key] = json.dumps(value) if isinstance(value, list) else value
    return flattened
