"""Drawing the images that are judged into a directory, so that they can be looked at, and kept when a run is killed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ifuvit.evaluation.targets import ImageGenerator, Settings, Target
from ifuvit.utils.config import to_dict
from ifuvit.utils.distributed import Processes
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import atomic_path, read_json, write_json


def draw(
    target: Target,
    prompts: Sequence[str],
    directory: Path,
    settings: Settings,
    *,
    batch_size: int,
    processes: Processes,
    label: str,
) -> tuple[list[Path], float | None]:
    """Draw one image a prompt as `directory`/00000.png …; those that are there already stay.

    Args:
        target: one with a generator.
        prompts: N captions; image i depends on (settings.seed, i) and its prompt alone.
        directory: new, or of an earlier call with the same prompts, settings and weights.
        settings: how.
        batch_size: images at once.
        processes: which share of the batches is this process's.
        label: of the progress bar.

    Returns:
        the N files, and images per second of this process (None if nothing was left to draw).

    Raises:
        InputError: the directory has images of something else.
    """
    assert target.generator is not None
    files = image_files(directory, len(prompts))
    manifest: dict[str, Any] = {
        "command": "evaluate",
        "of": {"name": target.name, "sha256": target.sha256},
        "settings": to_dict(settings),
        "images": [
            {"file": file.name, "prompt": prompt, "index": index}
            for index, (file, prompt) in enumerate(zip(files, prompts))
        ],
    }
    if processes.first:
        _claim(directory, manifest)
    processes.wait()
    speed = generate_images(
        target.generator, prompts, files, settings, batch_size=batch_size, processes=processes, label=label
    )
    return files, speed


def image_files(directory: Path, number: int) -> list[Path]:
    """The files of so many images: 00000.png, ..."""
    return [directory / f"{index:05d}.png" for index in range(number)]


def generate_images(
    generator: ImageGenerator,
    prompts: Sequence[str],
    files: Sequence[Path],
    settings: Settings,
    *,
    batch_size: int,
    processes: Processes,
    label: str,
    anew: bool = False,
    keep_bar: bool = True,
) -> float | None:
    """Draw one image a prompt into its file, all processes together; those that are there stay, but for `anew`.

    Returns:
        images per second of this process; None if nothing was left to draw.
    """
    import time

    from tqdm import tqdm

    batches = [range(start, min(start + batch_size, len(files))) for start in range(0, len(files), batch_size)]
    # Shared before looking at what is there, for others are drawing already. A batch that was killed is drawn again.
    mine = [batch for batch in processes.share(batches) if anew or not all(files[index].is_file() for index in batch)]
    begun, drawn = time.monotonic(), 0
    hidden = None if processes.first else True  # None: shown on a terminal
    with tqdm(total=sum(map(len, mine)), desc=label, unit="image", leave=keep_bar, disable=hidden) as bar:
        for batch in mine:
            images = generator([prompts[index] for index in batch], batch.start, settings, batch_size)
            for index, image in zip(batch, images, strict=True):
                with atomic_path(files[index]) as path:
                    image.save(path, format="PNG", compress_level=1)
            drawn += len(batch)
            bar.update(len(batch))
    speed = drawn / (time.monotonic() - begun) if drawn else None
    processes.wait()
    return speed


def _claim(directory: Path, manifest: dict[str, Any]) -> None:
    file = directory / "manifest.json"
    if file.is_file():
        if read_json(file) != manifest:
            raise InputError(
                f"{directory}: holds images drawn from other prompts, weights or settings; delete it, or choose another "
                "directory"
            )
    elif directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InputError(f"{directory}: holds something else already; choose another directory")
    else:
        write_json(file, manifest)
