"""Weights from files into modules: every tensor exactly once, nothing unpickled, every fault on one line."""

import pickle
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ifuvit.utils.errors import InputError
from ifuvit.utils.files import CHECKSUMS, atomic_path, verify_checksums, write_checksums, write_json

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


def save_model(
    directory: str | Path, module: "nn.Module", config: Mapping[str, Any], *, dtype: "torch.dtype | None" = None
) -> None:
    """Write config.json, model.safetensors and their checksums.

    Args:
        config: JSON values.
        dtype: of the floating-point weights; default: as they are.
    """
    from safetensors.torch import save_file

    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / CHECKSUMS).unlink(missing_ok=True)
    write_json(directory / "config.json", config)
    tensors = {name: tensor.detach().cpu() for name, tensor in module.state_dict().items()}
    with atomic_path(directory / "model.safetensors") as path:
        save_file(
            {name: (t.to(dtype) if t.is_floating_point() else t).contiguous() for name, t in tensors.items()}, path
        )
    write_checksums(directory, "config.json", "model.safetensors")


def load_weights(module: "nn.Module", path: Path) -> None:
    """Copy a safetensors file into `module`, every tensor exactly once.

    Raises:
        InputError: the file is missing or damaged, its tensors are not the module's, or a file next to it has another
            checksum than it was written with.
    """
    load_state(module, read_safetensors(path), where=str(path))
    verify_checksums(path.parent)


def load_state(
    module: "nn.Module", state: Mapping[str, "Tensor"], *, where: str, optional: Collection[str] = ()
) -> None:
    """Copy tensors into `module` by name, every one exactly once.

    Args:
        module: changed only if all tensors fit.
        state: names and tensors.
        where: what to call their source in errors.
        optional: how the names of tensors end that may be missing.

    Raises:
        InputError: a tensor is missing, not of the module, or of another shape.
    """
    expected = module.state_dict()
    for name in sorted(set(expected) ^ set(state)):
        if name not in expected:
            raise InputError(f"{where}: tensor {name!r} is not in the model")
        if not name.endswith(tuple(optional)):
            raise InputError(f"{where}: tensor {name!r} is missing")
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            raise InputError(
                f"{where}: {name} has shape {tuple(tensor.shape)}, the model has {tuple(expected[name].shape)}; is it a "
                "checkpoint of another model?"
            )
    module.load_state_dict(dict(state), strict=False)


def read_safetensors(path: Path) -> "dict[str, Tensor]":
    """All tensors of a safetensors file, on the CPU.

    Raises:
        InputError: the file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise InputError(f"{path}: no such file; a model directory holds config.json and model.safetensors")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error}); it may be truncated") from None


def read_torch_file(path: Path) -> Any:
    """What torch.save wrote: tensors and plain containers, on the CPU. Nothing else is unpickled.

    Raises:
        InputError: no such file, a damaged one, or one that needs unpickling.
    """
    import torch

    if not path.is_file():
        raise InputError(
            f"{path}: {'is a directory' if path.is_dir() else 'no such file'}; give a file of weights (.pth)"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks on other files' pickle protocols
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(
            f"{path}: not a checkpoint of plain tensors (another kind of file, or one with pickled Python objects, which "
            "is refused)"
        ) from None
    except Exception as error:  # damaged files give errors of every class
        reason = " ".join(str(error).split())[:120]
        raise InputError(
            f"{path}: not a readable checkpoint, it may be truncated ({type(error).__name__}: {reason})"
        ) from None
