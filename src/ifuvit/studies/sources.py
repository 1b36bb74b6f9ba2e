"""The images of a study: of directories, or drawn by models from the same prompts and seeds."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ifuvit.diffusion.settings import SamplingSettings
from ifuvit.evaluation.targets import Target, open_target
from ifuvit.utils.config import to_dict
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import read_json

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One model's images."""

    model: str
    files: dict[tuple[str, int], Path]
    """By prompt, and by which of the images of this prompt it is."""
    source: dict[str, Any]
    """Where they come from, as JSON values."""


def by_prompt(model: str, files: Sequence[Path], prompts: Sequence[str], source: dict[str, Any]) -> Drawn:
    """Images with their prompts, in the order in which they were drawn."""
    found: dict[tuple[str, int], Path] = {}
    numbers: dict[str, int] = {}
    for file, prompt in zip(files, prompts, strict=True):
        number = numbers.get(prompt, 0)
        found[prompt, number] = file
        numbers[prompt] = number + 1
    return Drawn(model=model, files=found, source=source)


def open_models(models: Sequence[str], *, captions: Path | None, device: "torch.device") -> list[Target]:
    """Models that all draw, or directories that all hold images; see `open_target`.

    Raises:
        InputError: neither, or some of both.
    """
    targets = [open_target(model, device=device, captions=captions) for model in models]
    draws = [target.generator is not None for target in targets]
    if any(draws) and not all(draws):
        drawing, there = models[draws.index(True)], models[draws.index(False)]
        raise InputError(
            f"{drawing}: would draw, where {there} holds images; give models alone, or images alone (draw with "
            "`ifuvit generate`)"
        )
    return targets


def take(target: Target, model: str, directory: Path) -> Drawn:
    """The images of a directory.

    Raises:
        InputError: one has no prompt.
    """
    assert target.images is not None
    prompts = [" ".join((prompt or "").split()) for _, prompt in target.images]
    if not all(prompts):
        raise InputError(
            f"{target.images[prompts.index('')][0]}: has no prompt; put it into a text file of the image's name, or "
            "give --captions FILE with a line for every image"
        )
    made = read_json(manifest) if (manifest := directory / "manifest.json").is_file() else {}
    facts = {"settings": _settings(made), "model": made.get("model")} if isinstance(made, dict) else {}
    return by_prompt(model, [file for file, _ in target.images], prompts, {"source": str(directory), **facts})


def draw(
    target: Target,
    model: str,
    prompts: Sequence[str],
    directory: Path,
    settings: SamplingSettings,
    *,
    seed: int,
    batch_size: int,
) -> Drawn:
    """One image per prompt in a part of `directory`; those that an earlier call with the same model, prompts, settings and
    seed left there stay."""
    from ifuvit.evaluation.generation import draw as draw_into
    from ifuvit.utils.distributed import Processes

    facts = {"model": to_dict(target.describe()), "settings": {"sampling": to_dict(settings), "seed": seed}}
    part = directory / hashlib.sha256(json.dumps([facts, prompts]).encode()).hexdigest()[:16]
    files, _ = draw_into(
        target, prompts, part, settings, seed=seed, batch_size=batch_size, processes=Processes(), label=model
    )
    return by_prompt(model, files, prompts, {"source": target.name, **facts})


def _settings(manifest: dict[str, Any]) -> dict[str, Any] | None:
    """The configuration of `ifuvit generate`, or how `ifuvit evaluate` sampled."""
    config = manifest.get("config")
    if not isinstance(config, dict):
        return None
    return {key: value for key, value in config.items() if key not in ("prompts", "prompts_file", "out")}
