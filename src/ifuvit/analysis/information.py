"""What text tells a model, by noise level and skill, in the loss: a right caption against none, and against a wrong one.

Captions are plain, so that a wrong one differs from the right one in one thing: another count, the opposite relation, another
kind, another ground.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ifuvit.analysis.common import AnalyzedModel, finding, measured, write_arrays
from ifuvit.analysis.scenes import encode_scenes, image_noise
from ifuvit.data.scenes import (
    BACKGROUNDS,
    INVERSE,
    KINDS,
    MAX_COUNT,
    Scene,
    prompt_for,
    relation_prompt_for,
)
from ifuvit.results import Finding, Measurement

Skill = Literal["count", "relation", "kind", "ground"]
SKILLS: tuple[Skill, ...] = ("count", "relation", "kind", "ground")


def captions_for(scene: Scene, skill: Skill, rng: np.random.Generator) -> tuple[str, str] | None:
    """A right caption and one that is wrong in the skill alone; None for a scene that the skill is not about."""
    first = scene.objects[0][0]
    if skill == "relation":
        if scene.relation is None:
            return None
        second, turned = scene.objects[1][0], INVERSE[scene.relation]
        return relation_prompt_for(first, scene.relation, second), relation_prompt_for(first, turned, second)
    if scene.relation is not None:
        return None
    count = len(scene.objects)
    right = prompt_for(first, count)
    if skill == "count":
        others = [number for number in range(1, MAX_COUNT + 1) if number != count]
        return right, prompt_for(first, others[int(rng.integers(len(others)))])
    if skill == "kind":
        kinds = [kind.name for kind in KINDS if kind.name != first]
        return right, prompt_for(kinds[int(rng.integers(len(kinds)))], count)
    phrases = {one.name: one.phrase for one in BACKGROUNDS}
    grounds = [phrase for name, phrase in phrases.items() if name != scene.background]
    return f"{right} {phrases[scene.background]}", f"{right} {grounds[int(rng.integers(len(grounds)))]}"


@dataclass(frozen=True, kw_only=True)
class TextInformation:
    """Losses of each scene by skill: (levels, 3, scenes), with the null caption, the right one and the wrong one."""

    levels: tuple[float, ...]
    losses: dict[Skill, np.ndarray]


@torch.no_grad()
def measure_information(
    model: AnalyzedModel,
    scenes: Sequence[Scene],
    number: int,
    levels: Sequence[float],
    *,
    seed: int = 0,
    batch_size: int = 64,
) -> TextInformation:
    """The objective's unweighted errors on noised scenes, with the same noise for the three captions.

    Args:
        scenes: the first `number` that a skill is about are used for it.
        levels: noise levels.
        seed: of the noise and of the wrong captions.
    """
    pipeline = model.pipeline
    losses: dict[Skill, np.ndarray] = {}
    for skill in SKILLS:
        pairs = [
            (scene, captions)
            for index, scene in enumerate(scenes)
            if (captions := captions_for(scene, skill, np.random.default_rng((seed, index)))) is not None
        ][:number]
        if not pairs:
            continue
        latents = encode_scenes(pipeline, [scene for scene, _ in pairs], batch_size=batch_size)
        noise = image_noise(latents, seed)
        found = np.zeros((len(levels), 3, len(pairs)))
        for start in range(0, len(pairs), batch_size):
            part = slice(start, start + batch_size)
            clean, drawn = latents[part].to(pipeline.device), noise[part].to(pipeline.device)
            texts = [["" for _ in pairs[part]], *([captions[i] for _, captions in pairs[part]] for i in (0, 1))]
            encoded = [model.model.encode_text(*pipeline.text_encoder(one)) for one in texts]
            for row, level in enumerate(levels):
                times = pipeline.objective.times_at(torch.full((len(clean),), level)).to(pipeline.device)
                image = model.model.encode_image(pipeline.objective.noisy_latents(clean, drawn, times), times)
                for which, text in enumerate(encoded):
                    errors = pipeline.objective.errors(model.model.fuse(image, text), clean, drawn, times)
                    found[row, which, part] = errors.cpu().double().numpy()
        losses[skill] = found
    return TextInformation(levels=tuple(levels), losses=losses)


def measurements(model: AnalyzedModel, found: TextInformation) -> list[Measurement]:
    """loss(null) - loss(caption) and loss(wrong caption) - loss(caption) by skill, at each level and on average."""
    listed: list[Measurement] = []
    for skill, losses in found.losses.items():
        for quantity, other in (("loss without caption, more", 0), ("loss with wrong caption, more", 2)):
            more = losses[:, other] - losses[:, 1]
            fields: dict[str, Any] = {"model": model.name, "quantity": quantity, "of": skill, "what": "scenes"}
            listed += measured(more.mean(0), **fields)
            for row, level in enumerate(found.levels):
                listed += measured(more[row], levels=(level, level), **fields)
        listed += measured(losses[:, 1].mean(0), model=model.name, quantity="loss", of=skill, what="scenes")
    return listed


def findings(model: AnalyzedModel, found: TextInformation) -> list[Finding]:
    """Whether a model reads each skill at all."""
    listed: list[Finding] = []
    for skill, losses in found.losses.items():
        listed += finding(
            f"The model reads the {skill}.",
            (losses[:, 2] - losses[:, 1]).mean(0),
            model=model.name,
            text=f"With a wrong {skill} in the caption the loss is higher by {{difference}}: {{verdict}}.",
            what="scenes",
        )
    return listed


def write_losses(file: Path, found: TextInformation) -> None:
    """Write the losses as an .npz file with named axes."""
    arrays: dict[str, tuple[np.ndarray, Sequence[str]]] = {
        skill: (losses, ("level", "caption", f"{skill}_scene")) for skill, losses in found.losses.items()
    }
    write_arrays(file, arrays, level=found.levels, caption=["null", "right", "wrong"])
