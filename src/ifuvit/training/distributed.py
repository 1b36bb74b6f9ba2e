"""What the processes of a run do together: launches that are supported, exchanging gradients, agreeing to stop."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ifuvit.training.signals import Stop
from ifuvit.utils.errors import InputError

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor, nn


def check_launch(accelerator: "Accelerator") -> None:
    """Refuse launches under which the average of the weights would not be right.

    Raises:
        InputError: FSDP version 1 or without GPUs, DeepSpeed, Megatron.
    """
    from accelerate.utils import DistributedType

    kind = accelerator.distributed_type
    if kind == DistributedType.FSDP and not accelerator.is_fsdp2:
        raise InputError("this launch asks for FSDP version 1; ask for version 2 (accelerate launch --fsdp_version 2)")
    if kind in (DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM):
        raise InputError(f"this launch asks for {kind.value}; train with plain data parallelism or with FSDP version 2")
    asked = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if asked and kind != DistributedType.FSDP and accelerator.num_processes > 1:
        raise InputError("this launch asks for FSDP, which accelerate does on GPUs only; leave out --use_fsdp")


@contextmanager
def sync_gradients(accelerator: "Accelerator", model: "nn.Module", *, last: bool) -> Iterator[None]:
    """Processes exchange gradients only at the last part of a batch."""
    if last:
        yield
    else:
        with accelerator.no_sync(model):
            yield


def register_forward_methods(model: "nn.Module") -> None:
    """Tell FSDP which methods beside `forward` use parameters."""
    from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method

    for module in model.modules():
        if isinstance(module, FSDPModule):
            for name in ("encode_text", "encode_image", "fuse", "guided", "text_keys_values"):
                if hasattr(module, name):
                    register_fsdp_forward_method(module, name)


def global_norm(norm: Any) -> "Tensor":
    """The gradient norm as a plain tensor; under FSDP it is spread over the processes."""
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm


def should_stop(accelerator: "Accelerator", stop: Stop, step: int) -> bool:
    """Whether any process was asked to stop; all of them come to the same answer (asked at every tenth step)."""
    if accelerator.num_processes == 1:
        return stop.number is not None
    if step % 10:
        return False
    import torch

    flag = torch.tensor(float(stop.number or 0), device=accelerator.device)
    number = int(accelerator.gather(flag).max())  # type: ignore[union-attr]
    stop.number = number or None
    return stop.number is not None
