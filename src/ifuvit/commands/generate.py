"""`ifuvit generate`: draw images from prompts."""

import base64
import contextlib
import html
import re
import sys
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from ifuvit.diffusion import DEFAULT_STEPS, PAPER_STEPS, Start
from ifuvit.diffusion.settings import EVERYWHERE, check_interval
from ifuvit.shipped import DEFAULT_MODEL, find
from ifuvit.utils.command_line import parse
from ifuvit.utils.config import to_dict
from ifuvit.utils.devices import find_device
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import atomic_path, now, package_version, read_json, sha256, write_manifest, write_text

if TYPE_CHECKING:
    from PIL.Image import Image

    from ifuvit.pipeline import Pipeline

# The page carries its images inside as long as it stays small enough to be mailed; beyond that it refers to the files.
_EMBED_BYTES = 20_000_000
# A grid is for looking at: more images than this do not fit into one.
_GRID_IMAGES = 400


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """Draw images from prompts: PNG files, a labeled grid.png, index.html and manifest.json."""

    prompts: Positional[tuple[str, ...]] = ()
    """What to draw, each prompt in quotes."""
    prompts_file: Path | None = None
    """Text file with one more prompt a line (UTF-8; empty lines are skipped)."""
    model: str = DEFAULT_MODEL
    """A shipped model's name, a run directory of `ifuvit train`, or a pipeline directory."""
    out: Path | None = None
    """Directory to write; a previous output of generate there is replaced. Default: generated/N with the next free N."""
    steps: Annotated[int | None, arg(metavar="INT")] = None
    """Solver steps, each one evaluation of the guided network. Default: 15, as good as the paper's 50 (docs/performance.md)."""
    guidance_scale: float = 4.0
    """Classifier-free guidance, the standard w: uncond + w (cond - uncond); 1 is no guidance. The paper counts
    s = w - 1: its images have w = 4, its evaluation w = 2."""
    guidance_interval: tuple[float, float] = EVERYWHERE
    """Guide only the steps with LOW <= n / 1000 <= HIGH, n = 1000 being pure noise; the others take half the work."""
    negative_prompt: str | None = None
    """Guide away from this instead of from the null caption."""
    seed: int = 0
    """Image i depends on (seed, i), the prompt and the settings alone, not on the batch size."""
    solver: str = "dpm++"
    """dpm++ (the paper's), dpm++2m, unipc, ddim or euler-a."""
    start: Start = "color"
    """What the solver starts from: color is noise around a color as the training images have, noise is pure noise as in the
    paper. They differ for models that know their training's colors (docs/sampling.md)."""
    images_per_prompt: int = 1
    """Images a prompt."""
    batch_size: Annotated[int | None, arg(metavar="INT")] = None
    """Images drawn at once. Default: 8 on a CPU, else 64."""
    device: str = "auto"
    """auto (an accelerator where there is one), cpu, cuda, cuda:1, mps."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the backbone."""
    exact: bool = False
    """As the paper samples: 50 steps, unless --steps says otherwise, guided everywhere, in float32, from pure noise."""

    @property
    def solver_steps(self) -> int:
        """The number of steps, given or not."""
        return self.steps or (PAPER_STEPS if self.exact else DEFAULT_STEPS)

    @property
    def starts_from(self) -> Start:
        """The start, of --exact too."""
        return "noise" if self.exact else self.start

    def __post_init__(self) -> None:
        if self.exact and self.guidance_interval != EVERYWHERE:
            raise InputError("--exact is guided everywhere; leave out --guidance-interval")
        if self.exact and self.dtype != "float32":
            raise InputError(f"--exact is float32; leave out --dtype {self.dtype}")
        for name in ("steps", "images_per_prompt", "batch_size"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise InputError(f"--{name.replace('_', '-')} {value}: must be at least 1")
        if self.seed < 0:
            raise InputError(f"--seed {self.seed}: must not be negative")
        if not abs(self.guidance_scale) < float("inf"):
            raise InputError(f"--guidance-scale {self.guidance_scale}: must be a finite number")
        check_interval(self.guidance_interval, option="--guidance-interval")
        for number, prompt in enumerate(self.prompts, start=1):
            if not prompt.strip():
                raise InputError(f"prompt {number} is empty; say what to draw")


def run(config: GenerateConfig) -> Path:
    """Draw the images and return their directory.

    Raises:
        InputError: no prompts, an unknown model or solver, impossible settings, or a directory that cannot be used.
    """
    started = now()
    prompts = [prompt for prompt in read_prompts(config) for _ in range(config.images_per_prompt)]
    directory = find(config.model)

    # Only now what takes seconds to import.
    from ifuvit.diffusion.sampling import check_solver
    from ifuvit.utils.image_grid import make_grid

    check_solver(config.solver, config.solver_steps)
    out, earlier = _check_out(config.out)
    try:
        pipeline = _load(directory, config)
    except InputError:
        with contextlib.suppress(OSError):
            out.rmdir()  # if it is new
        raise
    for path in earlier:
        path.unlink(missing_ok=True)

    batch_size = config.batch_size or (8 if pipeline.device.type == "cpu" else 64)
    images = [
        {"file": file_name(index, len(prompts), prompt), "prompt": prompt, "index": index}
        for index, prompt in enumerate(prompts)
    ]
    facts = {
        "seed": config.seed,
        "model": {"directory": str(directory), "sha256": sha256(directory / "transformer" / "model.safetensors")},
        "encoders": {
            "autoencoder": pipeline.autoencoder.fingerprint,
            "text_encoder": pipeline.text_encoder.fingerprint,
        },
        "device": str(pipeline.device),
        "images": images,
    }
    told = {**to_dict(config), "steps": config.solver_steps, "start": config.starts_from}
    # Written first too, so that after an interruption the directory is known for an output of generate.
    write_manifest(out, "generate", told, started=started, complete=False, **facts)
    settings = {
        "model": config.model,
        "steps": config.solver_steps,
        "guidance_scale": config.guidance_scale,
        "guidance_interval": "" if config.guidance_interval == EVERYWHERE else config.guidance_interval,
        "negative_prompt": config.negative_prompt or "",
        "solver": config.solver,
        "start": config.starts_from,
        "seed": config.seed,
    }
    shown: list[Image] = []
    for item, image in zip(images, _draw(pipeline, prompts, config, batch_size), strict=True):
        _write_png(out / item["file"], image, {**settings, "prompt": item["prompt"], "index": item["index"]})
        if len(shown) < _GRID_IMAGES:
            shown.append(image)
    grid = make_grid(shown, prompts[: len(shown)])
    with atomic_path(out / "grid.png") as path:
        grid.save(path, format="PNG")
    write_text(out / "index.html", _page([out / item["file"] for item in images], prompts, settings))
    write_manifest(out, "generate", told, started=started, complete=True, **facts)
    return out


def read_prompts(config: GenerateConfig) -> list[str]:
    """The prompts of the command line, then those of the file.

    Raises:
        InputError: the file is missing, empty or not text, or there are no prompts at all.
    """
    prompts = [" ".join(prompt.split()) for prompt in config.prompts]
    if config.prompts_file is not None:
        try:
            text = config.prompts_file.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            raise InputError(f"--prompts-file {config.prompts_file}: no such file") from None
        except IsADirectoryError:
            raise InputError(f"--prompts-file {config.prompts_file}: is a directory; give a text file") from None
        except UnicodeDecodeError:
            raise InputError(f"--prompts-file {config.prompts_file}: not a UTF-8 text file") from None
        lines = [" ".join(line.split()) for line in text.splitlines()]
        if not any(lines):
            raise InputError(f"--prompts-file {config.prompts_file}: holds no prompts; write one a line")
        prompts += [line for line in lines if line]
    if not prompts:
        raise InputError(
            'no prompts; say what to draw, as in `ifuvit generate "three sheep on grass"`, or give --prompts-file'
        )
    return prompts


def file_name(index: int, count: int, prompt: str) -> str:
    """A file name that is safe everywhere: the index, padded for `count` images, and a few words of the prompt."""
    plain = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", plain)[:48].strip("-")
    number = f"{index:0{max(4, len(str(count - 1)))}d}"
    return f"{number}-{slug}.png" if slug else f"{number}.png"


def _load(directory: Path, config: GenerateConfig) -> "Pipeline":
    import torch

    from ifuvit.pipeline import Pipeline

    return Pipeline.from_pretrained(directory, device=find_device(config.device), dtype=getattr(torch, config.dtype))


def _draw(pipeline: "Pipeline", prompts: list[str], config: GenerateConfig, batch_size: int) -> "Iterator[Image]":
    """The images one after the other, drawn batch by batch, with a progress bar on a terminal."""
    from tqdm import tqdm

    unique = list(dict.fromkeys(prompts))
    if truncated := pipeline.text_encoder.tokenize(unique).truncated:
        print(
            f"ifuvit: warning: {truncated} of {len(unique)} prompts are longer than the text encoder's "
            f"{pipeline.text_encoder.max_tokens} tokens: their ends are not seen",
            file=sys.stderr,
        )
    with tqdm(total=len(prompts), unit="image", desc="drawing", disable=None, bar_format=_BAR) as bar:

        def advance(size: int) -> None:
            bar.update(size / config.solver_steps)

        for start in range(0, len(prompts), batch_size):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # told above, once for all batches
                images = pipeline(
                    prompts[start : start + batch_size],
                    negative_prompt=config.negative_prompt,
                    guidance_scale=config.guidance_scale,
                    guidance_interval=config.guidance_interval,
                    num_inference_steps=config.solver_steps,
                    seed=config.seed,
                    solver=config.solver,
                    start=config.starts_from,
                    batch_size=batch_size,
                    first_index=start,
                    callback=advance,
                )
            yield from images


_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total} images [{elapsed}<{remaining}, {rate_fmt}]"


def _check_out(out: Path | None) -> tuple[Path, list[Path]]:
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


def _write_png(path: Path, image: "Image", facts: dict[str, Any]) -> None:
    """The image with `facts` as text in the PNG file."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("Software", f"ifuvit {package_version()}")
    for key, value in facts.items():
        info.add_itxt(key, str(value))
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG", pnginfo=info)


_STYLE = """
:root { color-scheme: light dark; --back: #fafafa; --text: #1c1c1c; --soft: #666; --card: #fff; --line: #ddd; }
@media (prefers-color-scheme: dark) {
  :root { --back: #161618; --text: #ececec; --soft: #a0a0a0; --card: #222225; --line: #3a3a3e; }
}
body { margin: 0 auto; padding: 1rem; max-width: 80rem; background: var(--back); color: var(--text);
       font: 16px/1.4 system-ui, sans-serif; }
h1 { font-size: 1.3rem; margin: 0.5rem 0; }
p { color: var(--soft); margin: 0 0 1rem; overflow-wrap: anywhere; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(9.5rem, 45%), 1fr)); gap: 0.75rem; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 8px; overflow: hidden; }
img { display: block; width: 100%; aspect-ratio: 1; image-rendering: pixelated; }
img.large { image-rendering: auto; }
figcaption { padding: 0.5rem 0.6rem; font-size: 0.9rem; overflow-wrap: anywhere; }
"""


def _page(files: Sequence[Path], prompts: Sequence[str], settings: dict[str, Any]) -> str:
    """A page of all images with their prompts that needs no other file (unless they are very large together)."""
    from PIL import Image

    embed = sum(path.stat().st_size for path in files) <= _EMBED_BYTES
    with Image.open(files[0]) as first:
        large = ' class="large"' if first.width >= 200 else ""
    figures = []
    for path, prompt in zip(files, prompts, strict=True):
        source = path.name
        if embed:
            source = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
        text = html.escape(prompt)
        figures.append(
            f'<figure><img{large} loading="lazy" src="{source}" alt="{text}" title="{path.name}">'
            f"<figcaption>{text}</figcaption></figure>"
        )
    facts = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in settings.items() if value != "")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{len(files)} images</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{len(files)} {'image' if len(files) == 1 else 'images'}</h1>\n<p>{html.escape(facts)}</p>\n<main>\n"
        + "\n".join(figures)
        + "\n</main>\n</body>\n</html>\n"
    )


def main(arguments: list[str]) -> None:
    """Entry point of the command."""
    out = run(parse(GenerateConfig, arguments, prog="ifuvit generate"))
    print(f"{out / 'index.html'}: {len(list(out.glob('[0-9]*.png')))} images; the grid is {out / 'grid.png'}")
