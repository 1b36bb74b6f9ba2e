"""Small studies: random images of models that never were, as `ifuvit generate` writes them."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ifuvit.evaluation.generate import file_name
from ifuvit.studies.config import StudyMakeConfig
from ifuvit.studies.run import make

PROMPTS = ("a bus", "two sheep", "three apples", "four people")
MODELS = ("alpha", "beta", "gamma", "delta")


def write_images(
    directory: Path, *, prompts: Sequence[str] = PROMPTS, images_per_prompt: int = 2, size: int = 16, seed: int = 0
) -> Path:
    """A directory as of `ifuvit generate`, whose images have everything in their metadata."""
    directory.mkdir(parents=True)
    images = []
    for index, prompt in enumerate(prompt for prompt in prompts for _ in range(images_per_prompt)):
        file = file_name(index, 1, f"{directory.name} {prompt}")
        info = PngInfo()
        info.add_text("model", directory.name)
        info.add_itxt("prompt", prompt)
        pixels = np.random.default_rng((seed, index)).integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(directory / file, pnginfo=info, dpi=(72, 72))
        images.append({"file": file, "prompt": prompt, "index": index})
    manifest = {"command": "generate", "config": {"seed": seed, "steps": 1}, "model": {}, "images": images}
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return directory


def make_study(directory: Path, kind: str, *, size: int = 16, **settings) -> Path:
    """A study at `directory`/KIND of four models and four prompts, without practice."""
    images = {"prompts": settings.pop("prompts", PROMPTS), "images_per_prompt": settings.pop("images_per_prompt", 2)}
    folders = [
        write_images(directory / f"{kind}-images" / name, **images, size=size, seed=number)
        for number, name in enumerate(settings.pop("models", MODELS))
    ]
    settings = {"raters": 2, "raters_per_item": 2, "repeats": 1, "checks": 1, "practice": 0} | settings
    make(StudyMakeConfig(kind=kind, models=tuple(map(str, folders)), out=directory / kind, **settings))  # pyright: ignore
    return directory / kind
