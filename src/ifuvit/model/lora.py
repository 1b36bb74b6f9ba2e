"""Low-rank adapters (LoRA, Hu et al. 2022, arXiv:2106.09685) on the attention and MLP layers of a backbone, by peft.

A layer's weight is W + (alpha / rank) B A. W stays; A and B are trained, and lie in a directory of peft's format:

    adapter_config.json          rank, alpha and layers, in peft's words
    adapter_model.safetensors    A and B of every layer
    base.json                    which weights they were trained on
    checksums.json               SHA-256 of the three
"""

import hashlib
import math
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ifuvit.model.kernels import Linear
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import atomic_directory, read_object, reading, verify_checksums, write_checksums, write_json
from ifuvit.utils.weights import read_safetensors

_LAYERS = r"(text_blocks|in_blocks|mid_block|out_blocks)\b.*\.(qkv|q|kv|proj|fc1|fc2)"
_ADAPTER = "default"
_CONFIG, _WEIGHTS, _BASE = "adapter_config.json", "adapter_model.safetensors", "base.json"


def check_installed() -> None:
    """Raise an InputError unless peft is here."""
    if find_spec("peft") is None:
        raise InputError("LoRA requires peft; install with `pip install 'ifuvit[lora]'`")


def add_lora(model: nn.Module, *, rank: int, alpha: float) -> None:
    """Put adapters that do nothing yet into a backbone; they alone need gradients from then on.

    Raises:
        InputError: peft is not installed.
    """
    check_installed()
    from peft import inject_adapter_in_model

    inject_adapter_in_model(_config(rank, alpha), model, _ADAPTER)  # type: ignore[arg-type]


def _config(rank: int, alpha: float) -> Any:
    from peft import LoraConfig
    from peft.tuners.lora import layer

    class LoraLinear(layer.Linear):
        """Keys and values of text are made from a part of `weight` itself (`Attention.keys_values`)."""

        @property
        def weight(self) -> Tensor:
            base = cast(nn.Linear, self.get_base_layer()).weight
            return base if self.merged or self.disable_adapters else base + self.get_delta_weight(_ADAPTER)

    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=_LAYERS)  # type: ignore[arg-type]
    config._register_custom_module({Linear: LoraLinear})  # private, as peft's guide on custom modules has it; peft 0.21
    return config


def merged_state(state: Mapping[str, Tensor], *, rank: int, alpha: float) -> dict[str, Tensor]:
    """The state of a backbone with adapters as that of one without, which computes the same."""
    merged = {}
    for name, tensor in state.items():
        if ".lora_" in name:
            continue
        if name.endswith(".base_layer.weight"):
            layer = name.removesuffix(".base_layer.weight")
            a, b = (state[f"{layer}.lora_{part}.{_ADAPTER}.weight"] for part in "AB")
            tensor = tensor + alpha / rank * (b @ a)
        merged[name.replace(".base_layer.", ".")] = tensor
    return merged


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over a backbone's weights in fp32, without adapters: equal for equal numbers, however they are stored."""
    digest = hashlib.sha256()
    plain = {name.replace(".base_layer.", "."): value for name, value in state.items() if ".lora_" not in name}
    for name, tensor in sorted(plain.items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().data)
    return digest.hexdigest()


def write_adapter(directory: Path, state: Mapping[str, Tensor], *, rank: int, alpha: float, base: str) -> None:
    """Write the adapters of a backbone's state, whole or not at all. `base` is what the weights were loaded from."""
    from safetensors.torch import save_file

    with atomic_directory(directory) as path:
        config = _config(rank, alpha)
        config.base_model_name_or_path = base
        config.save_pretrained(path)
        adapters = {
            name.replace(f".{_ADAPTER}.", "."): tensor.detach().cpu().contiguous()
            for name, tensor in state.items()
            if ".lora_" in name
        }
        save_file({f"base_model.model.{name}": tensor for name, tensor in adapters.items()}, path / _WEIGHTS)
        write_json(path / _BASE, {"model": base, "fingerprint": fingerprint(state)})
        write_checksums(path, _CONFIG, _WEIGHTS, _BASE)


@torch.no_grad()
def load_adapter(model: nn.Module, directory: str | Path, *, scale: float = 1.0) -> None:
    """Add adapters to the weights of the backbone that they were trained on; nothing of them is left but other weights.

    Args:
        model: with the weights of that backbone.
        directory: of `write_adapter`, or a run of `ifuvit train --lora-rank`.
        scale: how much of them: 0 is none, 1 all.

    Raises:
        InputError: no adapter there, a damaged one, or one of other weights.
    """
    path = Path(directory)
    path = path / "adapter" if (path / "adapter" / _CONFIG).is_file() else path
    if not (path / _CONFIG).is_file():
        raise InputError(f"adapter {directory}: no {_CONFIG} there; give RUN/adapter of `ifuvit train --lora-rank`")
    config, base = read_object(path / _CONFIG), read_object(path / _BASE)
    state = model.state_dict()
    if base.get("fingerprint") != fingerprint(state):
        raise InputError(
            f"adapter {directory}: was trained on other weights, those of {base.get('model')}; give that model"
        )
    parts = read_safetensors(path / _WEIGHTS)
    verify_checksums(path)
    with reading(path / _WEIGHTS):
        if other := [name for name in ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern") if config.get(name)]:
            raise InputError(f"{path / _CONFIG}: {other[0]} is not what `ifuvit train --lora-rank` writes")
        factor = scale * float(config["lora_alpha"]) / int(config["r"])
        changes = _products(parts, state, where=path / _WEIGHTS)
        if not math.isfinite(factor) or not all(change.isfinite().all() for change in changes.values()):
            raise InputError(f"{path / _WEIGHTS}: adapters that are not finite; the training has diverged")
        for name, change in changes.items():
            state[name].add_(change, alpha=factor)


def _products(parts: Mapping[str, Tensor], state: Mapping[str, Tensor], *, where: Path) -> dict[str, Tensor]:
    """B A of every adapter by the name of the weight that it is added to.

    Raises:
        InputError: none, or a tensor that is no adapter of the backbone whose state is given.
    """
    changes: dict[str, Tensor] = {}
    for name in parts:
        match = re.fullmatch(r"base_model\.model\.(.+)\.lora_([AB])\.weight", name)
        other = (
            name.replace(".lora_A.", ".lora_B.") if match and match[2] == "A" else name.replace(".lora_B.", ".lora_A.")
        )
        weight = state.get(f"{match[1]}.weight") if match else None
        if match is None or weight is None or other not in parts:
            raise InputError(f"{where}: tensor {name!r} is no adapter of this model")
        if match[2] == "A":
            a, b = parts[name], parts[other]
            if (
                a.ndim != 2
                or b.ndim != 2
                or b.shape[1] != a.shape[0]
                or (b.shape[0], a.shape[1]) != tuple(weight.shape)
            ):
                raise InputError(f"{where}: adapters of {match[1]} have shapes {tuple(a.shape)} and {tuple(b.shape)}")
            changes[f"{match[1]}.weight"] = (b @ a).to(weight)
    if not changes:
        raise InputError(f"{where}: holds no adapters")
    return changes
