"""Memory of a training step on a GPU, counted without one.

The step that `ifuvit train` repeats runs on the "meta" device, where tensors have shapes and no contents, and every
storage is counted from the operation that makes it until nothing refers to it any more. Where a GPU differs from that
device, its behavior is imitated: autocast's casts, and fused attention, whose backward pass needs queries, keys, values,
output and a number for each query, but no weights.

Not counted, since torch's allocator does not know it or operations keep it to themselves: the CUDA context (about half a
GiB), workspaces of cuBLAS and of kernels, and gaps between blocks of memory.
"""

import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Variable
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from ifuvit.benchmarks.training import random_batch, step_config
from ifuvit.model.settings import IFUViTConfig
from ifuvit.model.uvit import IFUViT
from ifuvit.training.config import TrainConfig
from ifuvit.training.scale import state_bytes, training_days
from ifuvit.training.step import TrainingStep
from ifuvit.utils.config import set_fields
from ifuvit.utils.errors import InputError

META = torch.device("meta")

_BLOCK = 512
"""Bytes; torch's allocator for GPUs hands out whole multiples."""


@dataclass(frozen=True, kw_only=True)
class StepMemory:
    """Bytes of one training step."""

    weights: int
    gradients: int
    optimizer: int
    """AdamW's two moments."""
    average: int
    """The average of the weights."""
    batch: int
    activations: int
    """What the forward pass leaves for the backward pass, including weights in bf16."""
    peak: int
    """The most that is held at any time during the step."""
    largest: tuple[tuple[str, int, int], ...]
    """What the activations consist of: (type and shape, how many, bytes together), the largest first."""


def training_memory(model: IFUViTConfig, *, batch_size: int, precision: Literal["fp32", "bf16"]) -> dict[str, Any]:
    """A training step's memory without and with checkpointing, as the JSON values that results hold."""
    config = step_config(model, batch_size=batch_size, precision=precision)
    return {
        "batch_size": batch_size,
        "precision": precision,
        "plain": asdict(step_memory(config)),
        "checkpointed": asdict(step_memory(set_fields(config, gradient_checkpointing=True))),
    }


def memory_table(costs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The "training_memory" of models by name, in GiB, as text."""
    parts = ("weights", "gradients", "optimizer", "average", "activations", "peak")
    width = max(map(len, costs))
    first = next(iter(costs.values()))["training_memory"]
    lines = [
        f"GiB of a training step, batch {first['batch_size']}, {first['precision']}; the second line of each with "
        "--gradient-checkpointing",
        f"{'':{width}}  {'weights':>9}  {'gradients':>9}  {'AdamW':>9}  {'average':>9}  {'activations':>11}  {'peak':>9}",
    ]
    for name, entry in costs.items():
        for way in ("plain", "checkpointed"):
            numbers = [f"{entry['training_memory'][way][part] / 2**30:.3f}" for part in parts]
            shown = "  ".join(f"{number:>{11 if part == 'activations' else 9}}" for part, number in zip(parts, numbers))
            lines.append(f"{name if way == 'plain' else '':{width}}  {shown}")
    return lines


def on_gpus(
    model: IFUViTConfig, *, gpus: int, batch_size: int, precision: Literal["fp32", "bf16"], steps: int, tflops: float
) -> dict[str, Any]:
    """What a training takes on several GPUs, as the JSON values that results hold: the images of each, the most bytes on each
    with the state whole or sharded (FSDP2), and days; without and with checkpointing.

    A sharded state leaves out of the counted peak what other GPUs hold, and adds the two blocks that are gathered at a time:
    the one at work and the next. Weights in bf16 are counted whole, though FSDP frees them too.

    Raises:
        InputError: the batch cannot be divided among them.
    """
    if batch_size % gpus:
        raise InputError(f"--batch-size {batch_size}: is not a multiple of --gpus {gpus}")
    share = batch_size // gpus
    counted = training_memory(model, batch_size=share, precision=precision)
    elsewhere = state_bytes(model) - state_bytes(model, gpus=gpus)
    gathered = 2 * _block_bytes(model) if gpus > 1 else 0
    told: dict[str, Any] = {"images_per_gpu": share, "precision": precision, "steps": steps, "tflops": tflops}
    for way in ("plain", "checkpointed"):
        told[way] = {
            "replicated_peak": counted[way]["peak"],
            "sharded_peak": counted[way]["peak"] - elsewhere + gathered,
            "activations": counted[way]["activations"],
            "days": training_days(
                model, batch_size=batch_size, steps=steps, gpus=gpus, tflops=tflops, recomputed=way == "checkpointed"
            ),
        }
    return told


def _block_bytes(model: IFUViTConfig) -> int:
    """Of the largest block's fp32 weights."""
    with torch.device(META):
        blocks = [*(backbone := IFUViT(model)).in_blocks, backbone.mid_block, *backbone.out_blocks]
    return max(sum(4 * parameter.numel() for parameter in block.parameters()) for block in blocks)


def gpus_table(costs: Mapping[str, Mapping[str, Any]], assumed: str) -> list[str]:
    """The "gpus" of models by name as text."""
    width = max(map(len, costs))
    lines = [
        f"Training on several GPUs: {assumed}; GiB of each, its state whole or sharded (FSDP2)",
        f"{'':{width}}  {'GPUs':>5}  {'images each':>11}  {'whole':>8}  {'sharded':>8}  {'days':>8}  with checkpointing",
    ]
    for name, entry in costs.items():
        for place, (gpus, told) in enumerate(entry["gpus"].items()):
            plain, again = told["plain"], told["checkpointed"]
            cells = [f"{plain[part] / 2**30:>8.2f}" for part in ("replicated_peak", "sharded_peak")]
            lines.append(
                f"{'' if place else name:{width}}  {gpus:>5}  {told['images_per_gpu']:>11}  {'  '.join(cells)}  "
                f"{plain['days']:>8.1f}  {again['replicated_peak'] / 2**30:.2f}, {again['sharded_peak'] / 2**30:.2f}, "
                f"{again['days']:.1f} days"
            )
    return lines


def step_memory(config: TrainConfig) -> StepMemory:
    """Count the memory of the step that a recipe repeats, with its batch size, precision and checkpointing, on one GPU.

    Tensors are those of torch as it runs one operation after the other; a compiled step needs no more.
    """
    recipe = config.recipe
    model = IFUViT(recipe.model).to(META).train()
    model.gradient_checkpointing = config.runtime.gradient_checkpointing
    held = LiveStorages()
    with held, _AsOnGpu("fp32" if recipe.start.precision == "fp32" else "bf16") as gpu:  # "auto" is bf16 on a GPU
        for parameter in model.parameters():
            held.add(parameter)
        weights = held.bytes
        accelerator = _NoAccelerator(held, gpu)
        step = TrainingStep(config, model, cast(Any, accelerator))
        average = held.bytes - weights
        batch = random_batch(recipe.model, recipe.batches.batch_size, seed=0, device=META)
        given = held.bytes - weights - average
        step(batch, 0)  # makes AdamW's moments
        before = held.bytes
        held.peak, accelerator.known = before, set(held.live)
        step(batch, 1)
    return StepMemory(
        weights=weights,
        gradients=accelerator.gradients,
        optimizer=before - weights - average - given,
        average=average,
        batch=given,
        activations=accelerator.after_forward - before,
        peak=held.peak,
        largest=tuple(accelerator.kinds),
    )


class LiveStorages(TorchDispatchMode):
    """Counts the storages of all tensors that operations make while it is active.

    Attributes:
        bytes: held now.
        peak: held at most.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.peak = 0
        self.live: dict[int, tuple[str, int]] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.add(leaf)
        return out

    def add(self, tensor: Tensor) -> None:
        """Count a tensor's storage, unless it is counted already."""
        storage = tensor.untyped_storage()
        # private: tells one storage from another, checked on torch 2.13
        key, size = storage._cdata, -(-storage.nbytes() // _BLOCK) * _BLOCK
        if key in self.live or not size:
            return
        kind = f"{str(tensor.dtype).removeprefix('torch.')} {' x '.join(map(str, tensor.shape))}"
        self.live[key] = (kind, size)
        self.bytes += size
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.bytes -= self.live.pop(key)[1]


class _NoAccelerator:
    """What a training step asks of accelerate's Accelerator, for one process on the meta device."""

    device = META

    def __init__(self, held: LiveStorages, gpu: "_AsOnGpu") -> None:
        self.held, self.gpu = held, gpu
        self.gradients = self.after_forward = 0
        self.known: set[int] = set()
        self.kinds: list[tuple[str, int, int]] = []

    def prepare(self, model: nn.Module, *optimizers: torch.optim.Optimizer) -> tuple[Any, ...]:
        plain = model.forward

        def forward(*args: Any, **kwargs: Any) -> Tensor:
            with self.gpu.keeping_weights():
                return plain(*args, **kwargs).float()

        model.forward = forward
        self.parameters = list(model.parameters())
        return model, *(SimpleNamespace(optimizer=optimizer) for optimizer in optimizers)

    def backward(self, loss: Tensor) -> None:
        self.after_forward = self.held.bytes
        self._tell_kinds()
        # What loss.backward() comes to, which itself would suspend `_AsOnGpu`, and recomputed blocks need that. Private,
        # checked on torch 2.13.
        Variable._execution_engine.run_backward(
            (loss,), (torch.ones_like(loss),), False, False, (), allow_unreachable=True, accumulate_grad=True
        )
        self.gradients = sum(p.grad.untyped_storage().nbytes() for p in self.parameters if p.grad is not None)

    def _tell_kinds(self) -> None:
        sizes, numbers = Counter[str](), Counter[str]()
        for key, (kind, size) in self.held.live.items():
            if key not in self.known:
                sizes[kind] += size
                numbers[kind] += 1
        self.kinds = [(kind, numbers[kind], size) for kind, size in sizes.most_common(12)]

    def clip_grad_norm_(self, parameters: list[nn.Parameter], largest: float) -> Tensor:
        return nn.utils.clip_grad_norm_(parameters, largest)


class _AsOnGpu(TorchFunctionMode):
    """CUDA's autocast and fused attention on the meta device, which has neither."""

    _LOWERED = frozenset({F.linear, F.conv2d, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, torch.addmm})
    _RAISED = frozenset({F.layer_norm, F.softmax, torch.softmax, Tensor.softmax})

    def __init__(self, precision: Literal["fp32", "bf16"]) -> None:
        super().__init__()
        self.lower = torch.bfloat16 if precision == "bf16" else None
        self.kept: dict[int, Tensor] | None = None

    @contextmanager
    def keeping_weights(self) -> Iterator[None]:
        """Within the block weights are cast once, as within one autocast."""
        self.kept = {}
        try:
            yield
        finally:
            self.kept = None

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given: tuple[Any, dict[str, Any]] = (args, kwargs or {})
        attention = func is F.scaled_dot_product_attention
        if self.lower is not None and (attention or func in self._LOWERED):
            given = tree_map(self._lowered, given)
        elif self.lower is not None and func in self._RAISED:
            given = tree_map(lambda leaf: leaf.float() if _is_float(leaf, self.lower) else leaf, given)
        return (_fused_attention if attention else func)(*given[0], **given[1])

    def _lowered(self, leaf: Any) -> Any:
        if not _is_float(leaf, torch.float32):
            return leaf
        if self.kept is None or not (leaf.is_leaf and leaf.requires_grad):
            return leaf.to(self.lower)
        if id(leaf) not in self.kept:
            self.kept[id(leaf)] = leaf.to(self.lower)
        return self.kept[id(leaf)]


def _is_float(leaf: Any, dtype: torch.dtype | None) -> bool:
    return isinstance(leaf, Tensor) and leaf.dtype == dtype


def _fused_attention(queries: Tensor, keys: Tensor, values: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """As torch chooses on a GPU: FlashAttention in half precision without a mask, else the memory-efficient kernel."""
    if attn_mask is None and queries.dtype != torch.float32:
        return torch.ops.aten._scaled_dot_product_flash_attention(queries, keys, values)[0]
    bias = None
    if attn_mask is not None:
        bias = torch.zeros_like(attn_mask, dtype=queries.dtype).expand(*queries.shape[:3], keys.shape[2])
    return torch.ops.aten._scaled_dot_product_efficient_attention(queries, keys, values, bias, True)[0]
