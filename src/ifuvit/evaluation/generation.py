"""Generating the images of an evaluation into a directory, so that they can be looked at and survive a killed run."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from ifuvit import results
from ifuvit.evaluation.targets import ImageGenerator, Settings, Target
from ifuvit.utils.config import to_dict
from ifuvit.utils.distributed import Processes
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import OutputDirectory, atomic_path, package_version, read_json


def draw(
    target: Target,
    prompts: Sequence[str],
    directory: Path,
    settings: Settings,
    *,
    batch_size: int,
    processes: Processes,
    label: str,
    replace_others: bool = False,
) -> tuple[list[Path], float | None]:
    """Generate one image a prompt as `directory`/00000.png …; those that are there already stay.

    Args:
        target: one with a generator.
        prompts: N captions; image i depends on (settings.seed, i) and its prompt alone.
        directory: new, or of an earlier call with the same prompts, settings and model.
        settings: how images are generated.
        batch_size: images at once.
        processes: which share of the batches is this process's.
        label: of the progress bar.
        replace_others: delete images of an earlier call with other prompts, settings or another model, instead of
            refusing the directory.

    Returns:
        the N files, and images per second of this process (None if nothing was left to generate).

    Raises:
        InputError: the directory holds something else.
    """
    assert target.generator is not None
    files = image_files(directory, len(prompts))
    manifest = results.GeneratedImages(
        command="evaluate",
        ifuvit_version=package_version(),
        config={},
        model=target.name,
        sha256=target.sha256,
        seed=settings.seed,
        sampling=to_dict(settings),
        images=tuple(
            results.GeneratedImages.Image(file=file.name, prompt=prompt, index=index)
            for index, (file, prompt) in enumerate(zip(files, prompts))
        ),
        encoders={"pipeline": target.fingerprint},
    )
    if processes.first:
        _claim(directory, manifest, replace_others=replace_others)
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
    again: bool = False,
    keep_bar: bool = True,
) -> float | None:
    """Generate one image a prompt into its file, all processes together; those that are there stay unless `again`.

    Returns:
        images per second of this process; None if nothing was left to generate.
    """
    import time

    from tqdm import tqdm

    batches = [range(start, min(start + batch_size, len(files))) for start in range(0, len(files), batch_size)]
    # Shared before looking at what is there, for others are generating already. A batch that was killed is generated again.
    mine = [batch for batch in processes.share(batches) if again or not all(files[index].is_file() for index in batch)]
    begun, done = time.monotonic(), 0
    hidden = None if processes.first else True  # None: shown on a terminal
    with tqdm(total=sum(map(len, mine)), desc=label, unit="image", leave=keep_bar, disable=hidden) as bar:
        for batch in mine:
            images = generator([prompts[index] for index in batch], batch.start, settings, batch_size)
            for index, image in zip(batch, images, strict=True):
                with atomic_path(files[index]) as path:
                    image.save(path, format="PNG", compress_level=1)
            done += len(batch)
            bar.update(len(batch))
    speed = done / (time.monotonic() - begun) if done else None
    processes.wait()
    return speed


def _claim(directory: Path, manifest: results.GeneratedImages, *, replace_others: bool) -> None:
    OutputDirectory(directory, manifest.command).earlier()
    file = directory / "manifest.json"
    if file.is_file():
        earlier = read_json(file)
        decisive = ("model", "sha256", "sampling", "images", "encoders")
        if all(earlier.get(name) == results.to_json(manifest)[name] for name in decisive):
            return
        if not replace_others:
            raise InputError(
                f"{directory}: holds images of other prompts, settings or another model; delete it, or give another "
                "directory"
            )
        shutil.rmtree(directory)
    results.write(file, manifest)
