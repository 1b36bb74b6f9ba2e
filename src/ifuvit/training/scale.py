"""What a training takes on several GPUs: memory of its state, and days, from counted operations and an assumed speed."""

from ifuvit.model.settings import IFUViTConfig

ASSUMED_TFLOPS = 120.0
"""TFLOP/s of training on one GPU: an assumption, about 40 % of what an A100 can do in bf16 and 12 % of an H100. It has not been
measured by this project."""
_STATE = 5 * 4
"""Bytes a parameter: weights, gradients, two moments (at most, with Muon) and the average, each fp32."""
_SECONDS_A_DAY = 86_400


def state_bytes(model: IFUViTConfig, *, gpus: int = 1) -> int:
    """Weights, gradients, optimizer and average on each of so many GPUs, sharded over them (FSDP2)."""
    from ifuvit.model.flops import parameters

    return -(-_STATE * parameters(model) // gpus)


def training_days(
    model: IFUViTConfig,
    *,
    batch_size: int,
    steps: int,
    gpus: int,
    tflops: float = ASSUMED_TFLOPS,
    recomputed: bool = False,
) -> float:
    """Days of training at so many TFLOP/s a GPU, without loss by communication, evaluation and saving.

    Args:
        batch_size: over all GPUs.
        recomputed: with gradient checkpointing, a fourth forward pass of work a step instead of three.
    """
    from ifuvit.model.flops import forward_flops

    passes = 4 if recomputed else 3
    flops = float(passes * forward_flops(model).total * batch_size) * steps
    return flops / (gpus * tflops * 1e12) / _SECONDS_A_DAY
