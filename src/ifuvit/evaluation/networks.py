"""The networks of evaluation by name: alignment models, object counters and detectors."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ifuvit.metrics.counting.counters import ImageCounter, SceneCounter
from ifuvit.results import ObjectScores
from ifuvit.shipped import DIRECTORY
from ifuvit.utils.config import from_dict
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import read_json, sha256, unseal

if TYPE_CHECKING:
    import torch

    from ifuvit.metrics.alignment.base import AlignmentModel


def load_alignment_model(
    name: Literal["two-tower", "clip"],
    *,
    weights: str | Path | None = None,
    prefix: str = "",
    device: "str | torch.device" = "cpu",
) -> "AlignmentModel":
    """Load the model of an alignment score.

    Args:
        name: "clip", or "two-tower", the small stand-in for OpenMoji Scenes that ships with the package.
        weights: for "clip" a folder or hub id of a transformers CLIP model (default: OpenAI's ViT-L/14 from the hub);
            for "two-tower" a directory of a trained one (default: the shipped one).
        prefix: put before every caption. "" by default; Hessel et al. use "A photo depicts ".
        device: where to compute.

    Raises:
        InputError: an unknown name, or weights that are missing or broken; the message says how to get them.
    """
    if name == "clip":
        from ifuvit.metrics.alignment.clip import CLIP, DEFAULT_CLIP

        return CLIP.from_pretrained(weights or DEFAULT_CLIP, prefix=prefix, device=device)
    if name == "two-tower":
        from ifuvit.metrics.alignment.two_tower import TwoTowerAlignment

        return TwoTowerAlignment.from_pretrained(weights or "openmoji", prefix=prefix, device=device)
    raise InputError(f"unknown alignment model {name!r}; the models are two-tower and clip")


def load_counter(reference: str | Path = "openmoji", *, device: "str | torch.device" = "cpu") -> SceneCounter:
    """A counter of OpenMoji Scenes' kinds.

    Args:
        reference: "openmoji", the one that ships with the package, or a directory of a trained one. The shipped name
            goes before a directory of that name (say `./openmoji`).
        device: where its network computes.

    Raises:
        InputError: nothing there, a damaged network, or one whose error was not measured.
    """
    from ifuvit.metrics.counting.counter_network import ObjectCounter

    shipped = {path.name.removeprefix("counter-"): path for path in DIRECTORY.glob("counter-*")}
    directory = shipped.get(str(reference), Path(reference))
    if not directory.is_dir():
        raise InputError(
            f"no counter {str(reference)!r}: neither a directory of a trained counter nor one of the shipped names "
            f"({', '.join(sorted(shipped)) or 'none'})"
        )
    network = ObjectCounter.from_pretrained(directory, device=device)
    manifest = read_json(directory / "manifest.json")
    if isinstance(manifest, dict):
        manifest = unseal(manifest, where=directory / "manifest.json")
    if not isinstance(manifest, dict) or not isinstance(manifest.get("errors"), dict):
        raise InputError(f"{directory / 'manifest.json'}: has no 'errors' of the counter; train it again")
    where = f"{directory / 'manifest.json'}: errors"
    errors = {name: from_dict(ObjectScores, scores, where=where) for name, scores in manifest["errors"].items()}
    return SceneCounter(network, name=str(reference), sha256=sha256(directory / "model.safetensors"), errors=errors)


def open_counter(
    counter: str | Path, *, detector: str | None, threshold: float | None = None, device: "str | torch.device" = "cpu"
) -> ImageCounter:
    """The detector if one is named (see `load_detector`), else the counter (see `load_counter`).

    Args:
        threshold: least score of a detector's box that counts; None for its own.

    Raises:
        InputError: the network cannot be loaded, or a threshold is out of range or given for a counter.
    """
    if threshold is not None and not 0 < threshold < 1:
        raise InputError(f"--threshold {threshold}: must be between 0 and 1")
    if detector is not None:
        from ifuvit.metrics.counting.zero_shot import load_detector

        return load_detector(detector, threshold=threshold, device=device)
    if threshold is not None:
        raise InputError("--threshold is for --detector; a counter has its own, with which its error was measured")
    return load_counter(counter, device=device)
