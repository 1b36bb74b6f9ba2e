"""Counting the objects in images that were drawn from prompts like "three sheep", and scoring what was counted.

The paper has people count (Eqs. 9 and 10). Here a counter does: for the kinds of OpenMoji Scenes a small network whose
own error is known, since scenes tell what is in them; for photographs a zero-shot detector
(`ifuvit.metrics.counting.zero_shot`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from ifuvit.data.images import to_tensor
from ifuvit.metrics.counting.counter_network import ObjectCounter, read_squares
from ifuvit.metrics.counting.prompts import Asked, AskedRelation, parse_prompt
from ifuvit.metrics.counting.scores import Detection, counts, score
from ifuvit.shipped import DIRECTORY
from ifuvit.utils.distributed import Processes, in_order
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import read_json, sha256

_SHIPPED = DIRECTORY
_BATCH_SIZE = 100


class ImageCounter(Protocol):
    """What finds the objects that a prompt asks for."""

    every_kind: bool
    """Whether it finds objects of every kind of OpenMoji Scenes, not of the asked kind alone."""
    threshold: float
    """Least score of what counts."""

    def parse(self, prompt: str) -> Asked | AskedRelation | None:
        """What a prompt asks for; None if this counter cannot judge it."""
        ...

    def find(
        self, files: Sequence[Path], asked: Sequence[Asked | AskedRelation], *, threshold: float
    ) -> list[list[Detection]]:
        """The objects in every image with at least this score, the surest first. What a higher threshold finds is a
        part of what a lower one finds."""
        ...

    def facts(self) -> dict[str, Any]:
        """JSON values that say which counter it is, and how well it counts."""
        ...


class SceneCounter:
    """Counts the 42 kinds of OpenMoji Scenes by an `ObjectCounter` whose error was measured."""

    every_kind = True

    def __init__(self, network: ObjectCounter, *, name: str, sha256: str, errors: Mapping[str, Any]) -> None:
        self.network, self.name, self.sha256, self.errors = network, name, sha256, errors
        self.threshold = network.config.threshold

    def parse(self, prompt: str) -> Asked | AskedRelation | None:
        return parse_prompt(prompt)

    def find(
        self, files: Sequence[Path], asked: Sequence[Asked | AskedRelation], *, threshold: float
    ) -> list[list[Detection]]:
        found: list[list[Detection]] = []
        for start in range(0, len(files), _BATCH_SIZE):
            images = read_squares(files[start : start + _BATCH_SIZE], self.network.config.image_size)
            found += self.network.detect(to_tensor(images), threshold=threshold)
        return found

    def facts(self) -> dict[str, Any]:
        return {"name": self.name, "threshold": self.threshold, "sha256": self.sha256, "errors": dict(self.errors)}


def load_counter(reference: str | Path = "openmoji", *, device: str | torch.device = "cpu") -> SceneCounter:
    """A counter of OpenMoji Scenes' kinds.

    Args:
        reference: "openmoji", the one that ships with the package, or a directory that `ifuvit make-standin counter` wrote.
            The shipped name goes before a directory of that name (say `./openmoji`).
        device: where its network computes.

    Raises:
        InputError: nothing there, a damaged network, or one whose error was not measured.
    """
    shipped = {path.name.removeprefix("counter-"): path for path in _SHIPPED.glob("counter-*")}
    directory = shipped.get(str(reference), Path(reference))
    if not directory.is_dir():
        raise InputError(
            f"no counter {str(reference)!r}: neither a directory of `ifuvit make-standin counter` nor one of the shipped names "
            f"({', '.join(sorted(shipped)) or 'none'})"
        )
    network = ObjectCounter.from_pretrained(directory, device=device)
    manifest = read_json(directory / "manifest.json")
    if not isinstance(manifest, dict) or not isinstance(manifest.get("errors"), dict):
        raise InputError(f"{directory / 'manifest.json'}: tells no errors of the counter; train it again")
    weights = sha256(directory / "model.safetensors")
    return SceneCounter(network, name=str(reference), sha256=weights, errors=manifest["errors"])


def open_counter(
    counter: str | Path, *, detector: str | None, threshold: float | None, device: str | torch.device
) -> ImageCounter:
    """The detector if one is named (see `load_detector`), else the counter (see `load_counter`).

    Args:
        threshold: least score of a detector's box that counts; None for its own.

    Raises:
        InputError: neither can be had, or a threshold of a counter, or none.
    """
    from ifuvit.metrics.counting.zero_shot import load_detector

    if threshold is not None and not 0 < threshold < 1:
        raise InputError(f"--threshold {threshold}: must be between 0 and 1")
    if detector is not None:
        return load_detector(detector, threshold=threshold, device=device)
    if threshold is not None:
        raise InputError("--threshold is a detector's; a counter has its own, with which its error was measured")
    return load_counter(counter, device=device)


def count_images(
    files: Sequence[Path],
    prompts: Sequence[str],
    counter: ImageCounter,
    *,
    thresholds: Sequence[float] = (),
    processes: Processes | None = None,
) -> dict[str, Any]:
    """Judge whether images show what their prompts ask for.

    Args:
        files: N images.
        prompts: what each was drawn from. Those that the counter cannot read are not judged, but listed.
        counter: of `load_counter` or `zero_shot_detection.load_detector`. Its own threshold gives the scores.
        thresholds: others that the main scores are told for as well.
        processes: those that call this together and look at a share of the images each; alone by default.

    Returns:
        {"images", "judged", "counts", "relations" (see `ifuvit.metrics.counting.scores.score`), "sweep": for every one
        of `thresholds` {"threshold", "counts": overall scores, "relations": overall scores}, "counter": its facts,
        "not_judged": [{"file", "prompt"}], "judgments": [{"file", "prompt", "counted", "objects": [[kind, x, y,
        score]]}]}; docs/counting.md explains every field.

    Raises:
        InputError: not as many prompts as files, a threshold that is not between 0 and 1, or a file that is no image.
    """
    if len(files) != len(prompts):
        raise InputError(f"{len(files)} images, {len(prompts)} prompts; give as many of both")
    for threshold in thresholds:
        if not 0 < threshold < 1:
            raise InputError(f"threshold {threshold}: must be between 0 and 1")
    read = [(file, prompt, counter.parse(prompt)) for file, prompt in zip(files, prompts)]
    judged = [(file, prompt, asked) for file, prompt, asked in read if asked is not None]
    asked = [one for *_, one in judged]
    processes = processes or Processes()
    shown, wanted = processes.share([file for file, *_ in judged]), processes.share(asked)
    least = min([counter.threshold, *thresholds])
    every = in_order(processes.all_gather(lambda: counter.find(shown, wanted, threshold=least)))

    def at(threshold: float) -> list[list[Detection]]:
        return [[one for one in objects if one.score >= threshold] for objects in every]

    def overall(threshold: float) -> dict[str, Any]:
        scores = score(asked, at(threshold), every_kind=counter.every_kind)
        return {"threshold": threshold, **{name: part and part["overall"] for name, part in scores.items()}}

    found = at(counter.threshold)
    return {
        "images": len(files),
        "judged": len(judged),
        **score(asked, found, every_kind=counter.every_kind),
        "sweep": [overall(threshold) for threshold in thresholds],
        "counter": counter.facts(),
        "not_judged": [{"file": file.name, "prompt": prompt} for file, prompt, one in read if one is None],
        "judgments": [
            {
                "file": file.name,
                "prompt": prompt,
                "counted": counts(objects),
                "objects": [[one.kind, round(one.x, 1), round(one.y, 1), round(one.score, 3)] for one in objects],
            }
            for (file, prompt, _), objects in zip(judged, found)
        ],
    }
