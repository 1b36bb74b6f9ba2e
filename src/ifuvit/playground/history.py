"""What a visitor has generated, as an archive to download."""

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ifuvit.evaluation.generate import file_name
from ifuvit.playground.messages import Request
from ifuvit.utils.config import to_dict
from ifuvit.utils.files import atomic_path, package_version

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_IMAGES = 60
"""Older ones fall out."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An image with all that it takes to generate it again."""

    image: "Image"
    facts: Mapping[str, Any]
    """model, prompt, negative_prompt, seed, index, and the sampling settings."""

    @property
    def label(self) -> str:
        """Under the image."""
        return f"{self.facts['prompt']} (seed {self.facts['seed']}, {Path(self.facts['model']).name})"


def entries(model: str, request: Request, images: "Sequence[Image]") -> list[Entry]:
    """The images of a finished request."""
    facts = {
        "model": model,
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "seed": request.seed,
        **to_dict(request.settings),
    }
    return [Entry(image=image, facts={**facts, "index": index}) for index, image in enumerate(images)]


def write_archive(history: Sequence[Entry], file: Path) -> Path:
    """Write PNG files and history.json, which says how each was made, to a zip file; return it."""
    told = []
    with atomic_path(file) as path, zipfile.ZipFile(path, "w") as archive:
        for number, entry in enumerate(history):
            name = file_name(number, len(history), entry.facts["prompt"])
            written = io.BytesIO()
            entry.image.save(written, format="PNG")
            archive.writestr(name, written.getvalue())
            told.append({"file": name, **entry.facts})
        about = {"ifuvit_version": package_version(), "images": told}
        archive.writestr("history.json", json.dumps(about, indent=2, ensure_ascii=False))
    return file
