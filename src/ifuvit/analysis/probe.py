"""Linear probes: what can be read from image tokens by a linear map, by block and noise level.

Scenes have exact labels. Features are means of a block's output over all patches, or, for the side of a relation, over each
quarter of the grid. A probe is ridge regression onto one-hot labels; its strength is chosen by leaving out training scenes.
The control is the same probe on shuffled labels (a control task: Hewitt and Liang 2019, arXiv:1909.03368).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ifuvit.analysis.common import AnalyzedModel, block_names, finding, measured, middle_blocks, write_arrays
from ifuvit.analysis.scenes import encode_scenes, image_noise
from ifuvit.data.scenes import BACKGROUNDS, INVERSE, KIND_INDEX, RELATIONS, Scene
from ifuvit.model.intermediates import record_intermediates
from ifuvit.results import Finding, Measurement

Task = Literal["kind", "count", "side", "ground"]
TASKS: tuple[Task, ...] = ("kind", "count", "side", "ground")
STRENGTHS = (1e-2, 1e-1, 1.0, 10.0)
"""Of the ridge, in units of the features' mean square times the number of scenes."""
_FOLDS = 4
"""A quarter of the scenes tests the probes."""


def label_of(scene: Scene, task: Task) -> int | None:
    """The class of a scene; None where the task has none for it.

    "kind" and "count" are of scenes of one kind. "side" is of scenes of two: where the kind that comes first in the list of
    kinds stands, seen from the other, so that the label does not depend on how a caption puts it.
    """
    if task == "ground":
        return next(number for number, one in enumerate(BACKGROUNDS) if one.name == scene.background)
    kinds = [KIND_INDEX[kind] for kind, _ in scene.objects]
    if task == "side":
        if scene.relation is None:
            return None
        return RELATIONS.index(scene.relation if kinds[0] < kinds[1] else INVERSE[scene.relation])
    if scene.relation is not None:
        return None
    return kinds[0] if task == "kind" else len(kinds) - 1


def probe_accuracy(features: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Whether a probe is right about each test scene: (N, D), (N,), (N,) bool -> (number of test scenes,) of 0 and 1.

    The features are standardized, and the ridge's strength is the one with which the training scenes, each left out in its turn,
    are right most often: the stronger one of equals. One singular value decomposition gives all of that.
    """
    of, classes = labels[~test], int(labels.max()) + 1
    spread = features[~test].std(0)
    x = (features - features[~test].mean(0)) / np.where(spread > 0, spread, 1)
    targets = np.eye(classes)[of]
    offsets = targets.mean(0)
    u, s, vt = np.linalg.svd(x[~test], full_matrices=False)
    of_axes = u.T @ (targets - offsets)

    def ridge(strength: float) -> float:
        return strength * float(np.square(s).sum()) / x.shape[1]

    def right_left_out(strength: float) -> float:
        shrunk = s**2 / (s**2 + ridge(strength))
        fitted = u @ (shrunk[:, None] * of_axes) + offsets
        leverage = np.square(u) @ shrunk + 1 / len(of)
        left_out = targets - (targets - fitted) / (1 - leverage)[:, None]
        return float((left_out.argmax(1) == of).mean())

    best = max(sorted(STRENGTHS, reverse=True), key=right_left_out)
    weights = vt.T @ ((s / (s**2 + ridge(best)))[:, None] * of_axes)
    predicted = (x[test] @ weights + offsets).argmax(1)
    return (predicted == labels[test]).astype(np.float64)


@dataclass(frozen=True, kw_only=True)
class ProbeAccuracies:
    """Whether probes are right, by task: (levels, blocks, test scenes) each, of real and of shuffled labels."""

    blocks: tuple[str, ...]
    levels: tuple[float, ...]
    right: dict[Task, np.ndarray]
    control: dict[Task, np.ndarray]


@torch.no_grad()
def block_features(
    model: AnalyzedModel,
    latents: torch.Tensor,
    captions: Sequence[str],
    level: float,
    *,
    seed: int = 0,
    batch_size: int = 64,
) -> dict[str, np.ndarray]:
    """Mean output of every block over each quarter of the patches: name -> (N, 4, D) float64.

    Args:
        latents: (N, C, H, W), normalized and without noise.
        captions: N, what the model reads.
        level: noise level between 0 and 1.
        seed: of the noise, which depends on (seed, place).
    """
    pipeline, c = model.pipeline, model.model.config
    noise = image_noise(latents, seed)
    side = math.isqrt(c.num_patches)
    half = side // 2
    found: dict[str, list[np.ndarray]] = {name: [] for name in block_names(model.model)}
    for start in range(0, len(latents), batch_size):
        part = slice(start, start + batch_size)
        clean, drawn = latents[part].to(pipeline.device), noise[part].to(pipeline.device)
        times = pipeline.objective.times_at(torch.full((len(clean),), level)).to(pipeline.device)
        noisy = pipeline.objective.noisy_latents(clean, drawn, times)
        with record_intermediates(model.model) as named:
            model.model(noisy, times, *pipeline.text_encoder(captions[part]))
        for name, parts in found.items():
            grid = named[f"{name}.output"][:, -c.num_patches :].float().unflatten(1, (side, side))
            quarters = [grid[:, :half, :half], grid[:, :half, half:], grid[:, half:, :half], grid[:, half:, half:]]
            parts.append(torch.stack([quarter.mean((1, 2)) for quarter in quarters], 1).cpu().double().numpy())
    return {name: np.concatenate(parts) for name, parts in found.items()}


def probe(
    model: AnalyzedModel,
    scenes: Sequence[Scene],
    levels: Sequence[float],
    *,
    captions: bool = False,
    seed: int = 0,
    batch_size: int = 64,
) -> ProbeAccuracies:
    """Train and test probes for every task on the output of every block.

    Args:
        scenes: N, with exact labels; every fourth is for the test.
        levels: noise levels.
        captions: whether the model reads the captions.
        batch_size: scenes at a time.
    """
    blocks = block_names(model.model)
    rng = np.random.default_rng(seed)
    cases: dict[Task, tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = {}
    for task in TASKS:
        labels = [label_of(scene, task) for scene in scenes]
        places = np.array([place for place, label in enumerate(labels) if label is not None], np.int64)
        known = np.array([label for label in labels if label is not None], np.int64)
        test = np.arange(len(places)) % _FOLDS == 0
        if test.sum() >= 2 and len(set(known[~test].tolist())) > 1:
            cases[task] = places, known, rng.permutation(known), test
    shape = (len(levels), len(blocks))
    right: dict[Task, np.ndarray] = {task: np.zeros((*shape, case[3].sum())) for task, case in cases.items()}
    control: dict[Task, np.ndarray] = {task: np.zeros_like(values) for task, values in right.items()}
    latents = encode_scenes(model.pipeline, scenes, batch_size=batch_size)
    texts = [scene.captions[0] if captions else "" for scene in scenes]
    for row, level in enumerate(levels):
        features = block_features(model, latents, texts, level, seed=seed, batch_size=batch_size)
        for column, name in enumerate(blocks):
            for task, (places, known, shuffled, test) in cases.items():
                quarters = features[name][places]
                x = quarters.reshape(len(places), -1) if task == "side" else quarters.mean(1)
                right[task][row, column] = probe_accuracy(x, known, test)
                control[task][row, column] = probe_accuracy(x, shuffled, test)
    return ProbeAccuracies(blocks=blocks, levels=tuple(levels), right=right, control=control)


def measurements(model: AnalyzedModel, found: ProbeAccuracies) -> list[Measurement]:
    """Accuracy of every task by block, at each level and on average, and of the control."""
    listed: list[Measurement] = []
    for quantity, of_tasks in (("probe accuracy", found.right), ("control accuracy", found.control)):
        for task, values in of_tasks.items():
            for column, block in enumerate(found.blocks):
                fields: dict[str, Any] = {"model": model.name, "quantity": quantity, "of": task, "block": block}
                listed += measured(values[:, column].mean(0), what="scenes", **fields)
                for row, level in enumerate(found.levels):
                    listed += measured(values[row, column], levels=(level, level), what="scenes", **fields)
    return listed


def findings(model: AnalyzedModel, found: ProbeAccuracies) -> list[Finding]:
    """Whether more can be read in the middle third of the blocks than at the ends."""
    middle = [i for i, name in enumerate(found.blocks) if name in middle_blocks(model.model.config.depth)]
    ends = [i for i in range(len(found.blocks)) if i not in middle]
    listed: list[Finding] = []
    for task, values in found.right.items():
        selective = (values - found.control[task]).mean(0)  # (blocks, scenes)
        listed += finding(
            f"Semantic information is in the middle: {task}.",
            selective[middle].mean(0) - selective[ends].mean(0),
            model=model.name,
            text="Accuracy less that on shuffled labels is higher in the middle third of the blocks by {difference}: {verdict}.",
            what="scenes",
        )
    return listed


def write_accuracies(file: Path, found: ProbeAccuracies) -> None:
    """Write whether each probe was right about each test scene as an .npz file with named axes."""
    arrays: dict[str, tuple[np.ndarray, Sequence[str]]] = {}
    for task in found.right:
        arrays[task] = (found.right[task], ("level", "block", f"{task}_scene"))
        arrays[f"{task}_control"] = (found.control[task], ("level", "block", f"{task}_scene"))
    write_arrays(file, arrays, level=found.levels, block=found.blocks)
