"""Memory of a training step whose state is sharded over two processes on the CPU (FSDP2 with gloo), against one process and against
what `ifuvit costs --gpus` counts:

    torchrun --nproc-per-node 2 tools/sharded_memory.py OUT.json

Every process counts the bytes of its parts of weights, gradients and AdamW's moments, and of all storages that the forward pass
leaves for the backward pass. Two processes have half of the batch each.
"""

import json
import sys
import weakref
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ifuvit.benchmarks.memory import on_gpus
from ifuvit.benchmarks.training import random_batch
from ifuvit.model.blocks import Block, JointBlock
from ifuvit.model.presets import presets
from ifuvit.model.uvit import IFUViT
from ifuvit.training.distributed import register_forward_methods

BATCH, PRESETS = 16, ("openmoji-cross-intermediate", "openmoji-sd3")


class Held(TorchDispatchMode):
    """The storages that operations make while it is active, but for those of a model's parameters; FSDP frees its own by setting
    their size to 0."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        plain = [p for p in model.parameters() if not hasattr(p, "to_local")]
        self.parameters = {p.untyped_storage()._cdata for p in plain}
        self.storages: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                if storage._cdata not in self.parameters:
                    self.storages[storage._cdata] = weakref.ref(storage)
        return out

    @property
    def bytes(self) -> int:
        alive = (reference() for reference in self.storages.values())
        return sum(storage.nbytes() for storage in alive if storage is not None)


def own(tensor: Tensor) -> int:
    """Bytes of this process's part."""
    local = tensor.to_local() if hasattr(tensor, "to_local") else tensor  # type: ignore[operator]
    return local.numel() * local.element_size()


def measure(name: str, *, sharded: bool, checkpointing: bool) -> dict[str, float]:
    """One step of a preset, with this process's share of the batch: bytes, and the loss over all processes."""
    torch.manual_seed(0)
    config = presets[name]
    model = IFUViT(config)
    model.gradient_checkpointing = checkpointing
    batch = random_batch(config, BATCH, seed=0, device=torch.device("cpu"))
    if sharded:
        batch = {key: tensor.chunk(dist.get_world_size())[dist.get_rank()] for key, tensor in batch.items()}
        for block in [module for module in model.modules() if isinstance(module, (Block, JointBlock))]:
            fully_shard(block)
        fully_shard(model)
        register_forward_methods(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    with Held(model) as held:
        before = held.bytes
        text = batch["text_embeddings"].float()
        predicted = model(batch["latents"], 1000 * batch["uniform"], text, batch["text_mask"])
        loss = nn.functional.mse_loss(predicted, batch["noise"])
        activations = held.bytes - before
    loss.backward()
    gradients = sum(own(p.grad) for p in model.parameters() if p.grad is not None)
    optimizer.step()
    moments = sum(
        own(value)
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor) and value.ndim
    )
    mean = loss.detach().clone()
    if sharded:
        dist.all_reduce(mean, op=dist.ReduceOp.SUM)
        mean /= dist.get_world_size()
    return {
        "weights": sum(own(p) for p in model.parameters()),
        "gradients": gradients,
        "moments": moments,
        "activations": activations,
        "loss": mean.item(),
    }


def main() -> None:
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    told: dict[str, Any] = {"batch": BATCH, "processes": dist.get_world_size(), "torch": torch.__version__}
    for name in PRESETS:
        told[name] = {}
        for way, checkpointing in (("plain", False), ("checkpointed", True)):
            alone = measure(name, sharded=False, checkpointing=checkpointing)
            sharded = measure(name, sharded=True, checkpointing=checkpointing)
            told[name][way] = {"one process": alone, "each of two": sharded}
        counted = on_gpus(presets[name], gpus=2, batch_size=BATCH, precision="fp32", steps=1, tflops=1.0)
        told[name]["counted activations"] = {way: counted[way]["activations"] for way in ("plain", "checkpointed")}
    if dist.get_rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps(told, indent=2) + "\n")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
