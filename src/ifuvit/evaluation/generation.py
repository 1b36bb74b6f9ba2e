"""Generating the images of an evaluation into a directory, so that they can be looked at and survive a killed run."""

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ifuvit import results
from ifuvit.diffusion.settings import SamplingSettings
from ifuvit.evaluation.targets import ImageGenerator, Target
from ifuvit.utils.command_line import BAR_COLOR
from ifuvit.utils.config import to_dict
from ifuvit.utils.distributed import Processes
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import OutputDirectory, atomic_path, package_version, read_object

if TYPE_CHECKING:
    from PIL.Image import Image


def draw(
    target: Target,
    prompts: Sequence[str],
    directory: Path,
    settings: SamplingSettings,
    *,
    seed: int,
    batch_size: int,
    processes: Processes,
    label: str | None = None,
    replace_others: bool = False,
) -> tuple[list[Path], float | None]:
    """Generate one image per prompt as `directory`/00000.png …; those that are there already stay.

    Args:
        target: one with a generator.
        prompts: N captions; image i depends on (seed, i), its prompt and the settings alone.
        directory: new, or of an earlier call with the same prompts, settings, seed and weights.
        settings: how to sample.
        seed: of the noise.
        batch_size: images per batch.
        processes: those that share the batches.
        label: of the progress bar; default: the directory's name.
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
        seed=seed,
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
        target.generator,
        prompts,
        files,
        settings,
        seed=seed,
        batch_size=batch_size,
        processes=processes,
        label=label or directory.name,
    )
    return files, speed


def image_files(directory: Path, number: int) -> list[Path]:
    """The files of so many images: 00000.png, ..."""
    return [directory / f"{index:05d}.png" for index in range(number)]


def generate_images(
    generator: ImageGenerator,
    prompts: Sequence[str],
    files: Sequence[Path],
    settings: SamplingSettings,
    *,
    seed: int,
    batch_size: int,
    processes: Processes,
    label: str,
    overwrite: bool = False,
    keep_bar: bool = True,
    facts: Mapping[str, Any] | None = None,
) -> float | None:
    """Generate one image per prompt into its file, all processes together; those that are there stay, unless `overwrite`.

    Args:
        facts: written as text into every PNG file, with its prompt and index.

    Returns:
        images per second of this process; None if nothing was left to generate.
    """
    from tqdm import tqdm

    batches = [range(start, min(start + batch_size, len(files))) for start in range(0, len(files), batch_size)]
    # Shared before looking at what is there, for others write already. A batch that was killed is generated again.
    mine = [
        batch for batch in processes.share(batches) if overwrite or not all(files[index].is_file() for index in batch)
    ]
    begun, done = time.monotonic(), 0
    hidden = None if processes.first else True  # None: shown on a terminal
    total = sum(map(len, mine))
    looks = {"leave": keep_bar, "bar_format": _BAR, "colour": BAR_COLOR}
    with tqdm(total=total, desc=label, unit="image", disable=hidden, **looks) as bar:

        def advance(size: int) -> None:
            bar.update(size / settings.steps)

        for batch in mine:
            images = generator(
                [prompts[index] for index in batch],
                settings,
                seed=seed,
                batch_size=batch_size,
                first_index=batch.start,
                callback=advance,
            )
            for index, image in zip(batch, images, strict=True):
                write_png(files[index], image, facts and {**facts, "prompt": prompts[index], "index": index})
            done += len(batch)
            bar.update(done - bar.n)
    speed = done / (time.monotonic() - begun) if done else None
    processes.wait()
    return speed


_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total} images [{elapsed}<{remaining}, {rate_fmt}]"


def write_png(file: Path, image: "Image", facts: Mapping[str, Any] | None) -> None:
    """The image, with `facts` as text in the PNG file; without them written fast."""
    from PIL.PngImagePlugin import PngInfo

    with atomic_path(file) as path:
        if facts is None:
            image.save(path, format="PNG", compress_level=1)
            return
        info = PngInfo()
        info.add_text("Software", f"ifuvit {package_version()}")
        for key, value in facts.items():
            info.add_itxt(key, str(value))
        image.save(path, format="PNG", pnginfo=info)


def _claim(directory: Path, manifest: results.GeneratedImages, *, replace_others: bool) -> None:
    OutputDirectory(directory, manifest.command).earlier()
    file = directory / "manifest.json"
    if file.is_file():
        earlier = read_object(file)
        decisive = ("model", "sha256", "seed", "sampling", "images", "encoders")
        if all(earlier.get(name) == results.to_json(manifest)[name] for name in decisive):
            return
        if not replace_others:
            raise InputError(
                f"{directory}: holds images of other prompts, settings or another model; delete it, or give another "
                "directory"
            )
        shutil.rmtree(directory)
    results.write(file, manifest)
