"""Images from prompts into a directory: those of `ifuvit generate`, and those that are evaluated, which a killed run keeps."""

import contextlib
import re
import sys
import time
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from ifuvit.data.prompts import read_prompts
from ifuvit.diffusion.settings import PAPER_SETTINGS, SamplingSettings
from ifuvit.evaluation.targets import ImageGenerator, Target
from ifuvit.metrics.counting.prompts import PROMPT_SETS, PromptSet
from ifuvit.shipped import DEFAULT_MODEL, find
from ifuvit.utils.config import to_dict
from ifuvit.utils.devices import find_device
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import atomic_path, now, package_version, read_json, sha256, write_json, write_manifest

if TYPE_CHECKING:
    from PIL.Image import Image

    from ifuvit.utils.distributed import Processes


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """Generate images from prompts: PNG files, a labeled grid.png, index.html and manifest.json."""

    prompts: Positional[tuple[str, ...]] = ()
    """What to draw, each prompt in quotes."""
    prompts_file: Path | None = None
    """Text file with further prompts, one per line (UTF-8; empty lines are skipped)."""
    prompt_set: PromptSet | None = None
    """Further prompts: paper (bus, sheep, person and apple, one to five each), all-kinds (the same of all 42 kinds of
    OpenMoji Scenes), relations (pairs of kinds in four relations), held-out (what no training scene shows), coco (one to
    five of 77 kinds of MS-COCO)."""
    model: str = DEFAULT_MODEL
    """A shipped model's name, a run directory of `ifuvit train`, or a pipeline directory."""
    out: Path | None = None
    """Directory to write; a previous output of generate there is replaced. Default: generated/N with the next free N."""
    sampling: Annotated[SamplingSettings, OmitArgPrefixes] = SamplingSettings()
    negative_prompt: str | None = None
    """Guide away from this instead of from the null caption."""
    seed: int = 0
    """Image i depends on (seed, i), the prompt and the settings alone, not on the batch size."""
    images_per_prompt: int = 1
    """Images per prompt."""
    batch_size: Annotated[int | None, arg(metavar="INT")] = None
    """Images per batch. Default: 8 on a CPU, else 64."""
    device: str = "auto"
    """auto (an accelerator where there is one), cpu, cuda, cuda:1, mps."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the backbone."""
    exact: bool = False
    """Sample as the paper does: 50 steps, guided at all of them, in float32, from pure noise. Solver, steps and guidance scale
    may still be given."""

    def __post_init__(self) -> None:
        for name in ("images_per_prompt", "batch_size"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise InputError(f"--{name.replace('_', '-')} {value}: must be at least 1")
        if self.seed < 0:
            raise InputError(f"--seed {self.seed}: must not be negative")
        for number, prompt in enumerate(self.prompts, start=1):
            if not prompt.strip():
                raise InputError(f"prompt {number} is empty; say what to draw")


def run(config: GenerateConfig) -> Path:
    """Generate the images into a directory with a manifest, and return the directory.

    Raises:
        InputError: no prompts, an unknown model, settings that --exact excludes, or a directory that cannot be used.
    """
    started = now()
    prompts = [prompt for prompt in all_prompts(config) for _ in range(config.images_per_prompt)]
    if config.exact:
        _check_exact(config)
    directory = find(config.model)

    # Only now what takes seconds to import.
    import torch

    from ifuvit.pipeline import Pipeline
    from ifuvit.utils.distributed import Processes

    out, earlier = _claim_output(config.out)
    try:
        device = find_device(config.device)
        pipeline = Pipeline.from_pretrained(directory, device=device, dtype=getattr(torch, config.dtype))
    except InputError:
        with contextlib.suppress(OSError):
            out.rmdir()  # if it is new
        raise
    for path in earlier:
        path.unlink(missing_ok=True)

    files = [out / file_name(index, len(prompts), prompt) for index, prompt in enumerate(prompts)]
    facts = {
        "seed": config.seed,
        "model": {"directory": str(directory), "sha256": sha256(directory / "transformer" / "model.safetensors")},
        "encoders": {
            "autoencoder": pipeline.autoencoder.fingerprint,
            "text_encoder": pipeline.text_encoder.fingerprint,
        },
        "device": str(pipeline.device),
        "images": _listed(files, prompts),
    }
    # Written first too, so that after an interruption the directory is recognized as an output of generate.
    write_manifest(out, "generate", to_dict(config), started=started, complete=False, **facts)
    unique = list(dict.fromkeys(prompts))
    if truncated := pipeline.text_encoder.tokenize(unique).truncated:
        print(
            f"ifuvit: warning: {truncated} of {len(unique)} prompts are longer than the text encoder's "
            f"{pipeline.text_encoder.max_tokens} tokens: their ends are not seen",
            file=sys.stderr,
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # printed above, once for all batches
        generate_images(
            partial(pipeline, negative_prompt=config.negative_prompt),
            prompts,
            files,
            config.sampling,
            seed=config.seed,
            batch_size=config.batch_size or (8 if pipeline.device.type == "cpu" else 64),
            processes=Processes(),
            label="generate",
            overwrite=True,
            facts={
                "model": config.model,
                **to_dict(config.sampling),
                "negative_prompt": config.negative_prompt or "",
                "seed": config.seed,
            },
        )
    write_manifest(out, "generate", to_dict(config), started=started, complete=True, **facts)
    return out


def all_prompts(config: GenerateConfig) -> list[str]:
    """The prompts of the command line, then those of the file, then those of the set.

    Raises:
        InputError: the file is missing, empty or not text, or there are no prompts at all.
    """
    prompts = [" ".join(prompt.split()) for prompt in config.prompts]
    if config.prompts_file is not None:
        prompts += read_prompts(config.prompts_file)
    if config.prompt_set is not None:
        prompts += PROMPT_SETS[config.prompt_set]
    if not prompts:
        raise InputError(
            'no prompts; say what to draw, as in `ifuvit generate "three sheep on grass"`, or give --prompts-file or '
            "--prompt-set"
        )
    return prompts


def draw(
    target: Target,
    prompts: Sequence[str],
    directory: Path,
    settings: SamplingSettings,
    *,
    seed: int,
    batch_size: int,
    processes: "Processes",
    label: str | None = None,
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

    Returns:
        the N files, and images per second of this process (None if nothing was left to generate).

    Raises:
        InputError: the directory has images of something else.
    """
    assert target.generator is not None
    files = image_files(directory, len(prompts))
    manifest: dict[str, Any] = {
        "command": "evaluate",
        "of": {"name": target.name, "sha256": target.sha256},
        "config": {"sampling": to_dict(settings), "seed": seed},
        "images": _listed(files, prompts),
    }
    if processes.first:
        _claim(directory, manifest)
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


def file_name(index: int, count: int, prompt: str) -> str:
    """A file name that is safe everywhere: the index, padded for `count` images, and a few words of the prompt."""
    plain = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", plain)[:48].strip("-")
    number = f"{index:0{max(4, len(str(count - 1)))}d}"
    return f"{number}-{slug}.png" if slug else f"{number}.png"


def generate_images(
    generator: ImageGenerator,
    prompts: Sequence[str],
    files: Sequence[Path],
    settings: SamplingSettings,
    *,
    seed: int,
    batch_size: int,
    processes: "Processes",
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
    with tqdm(total=total, desc=label, unit="image", leave=keep_bar, disable=hidden, bar_format=_BAR) as bar:

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
                _write_png(files[index], image, facts and {**facts, "prompt": prompts[index], "index": index})
            done += len(batch)
            bar.update(done - bar.n)
    speed = done / (time.monotonic() - begun) if done else None
    processes.wait()
    return speed


_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total} images [{elapsed}<{remaining}, {rate_fmt}]"


def _write_png(file: Path, image: "Image", facts: Mapping[str, Any] | None) -> None:
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


def _listed(files: Sequence[Path], prompts: Sequence[str]) -> list[dict[str, Any]]:
    """The images of a manifest."""
    return [
        {"file": file.name, "prompt": prompt, "index": index}
        for index, (file, prompt) in enumerate(zip(files, prompts))
    ]


def _check_exact(config: GenerateConfig) -> None:
    """Refuse what --exact excludes."""
    for name in (field.name for field in fields(PAPER_SETTINGS)):
        differs = getattr(config.sampling, name) != getattr(PAPER_SETTINGS, name)
        if differs and name not in ("solver", "steps", "guidance_scale"):
            raise InputError(f"--exact samples as the paper does; leave out --{name.replace('_', '-')}")
    if config.dtype != "float32":
        raise InputError(f"--exact is float32; leave out --dtype {config.dtype}")


def _claim_output(out: Path | None) -> tuple[Path, list[Path]]:
    """The directory to write, made, and the files that an earlier run of generate left in it."""
    if out is None:
        taken = [int(path.name) for path in Path("generated").glob("*") if path.name.isdigit()]
        out = Path("generated") / f"{max(taken, default=0) + 1:04d}"
    try:
        out.mkdir(parents=True, exist_ok=True)
        (probe := out / ".write-test").touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written ({error.strerror})") from None
    if not any(out.iterdir()):
        return out, []
    manifest = out / "manifest.json"
    earlier = read_json(manifest) if manifest.is_file() else None
    if not isinstance(earlier, dict) or earlier.get("command") != "generate":
        raise InputError(f"--out {out}: holds something else already; give a new or empty directory")
    names = [image["file"] for image in earlier.get("images", [])]
    return out, [out / Path(name).name for name in [*names, "grid.png", "index.html", "manifest.json"]]


def _claim(directory: Path, manifest: dict[str, Any]) -> None:
    file = directory / "manifest.json"
    if file.is_file():
        if read_json(file) != manifest:
            raise InputError(
                f"{directory}: has images of other prompts, weights or settings; delete it, or choose another directory"
            )
    elif directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InputError(f"{directory}: holds something else already; choose another directory")
    else:
        write_json(file, manifest)
