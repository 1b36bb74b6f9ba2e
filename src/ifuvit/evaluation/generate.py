"""`ifuvit generate`: a directory of images from prompts."""

import re
import shutil
import sys
import unicodedata
import warnings
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from tyro.conf import OmitArgPrefixes, Positional, arg

from ifuvit.data.prompts import PromptSet, read_prompts
from ifuvit.diffusion.settings import PAPER_SETTINGS, SamplingSettings
from ifuvit.shipped import DEFAULT_MODEL, find
from ifuvit.utils.command_line import Prompt
from ifuvit.utils.config import Finite, NonNegative, Positive, check, idle, to_dict
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import OutputDirectory, manifest, now, reading, sha256


def beside(model: str) -> str:
    """The subdirectory of a second model's images, whose name tells the model wherever they are counted or shown."""
    return f"beside-{Path(model).name}"


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """Generate images from prompts: PNG files, a labeled grid.png, index.html and manifest.json.

    Example:
        ifuvit generate "three sheep on grass" "two apples" --steps 25 --out images
    """

    prompts: Positional[tuple[Prompt, ...]] = ()
    """What to generate, each prompt in quotes; "" is the null caption, an image of anything."""
    prompts_file: Path | None = None
    """Text file with further prompts, one per line (UTF-8; empty lines are skipped)."""
    prompt_set: PromptSet | None = None
    """Further prompts: paper (bus, sheep, person and apple, one to five each), all-kinds (the same of all 42 kinds of
    OpenMoji Scenes), relations (pairs of kinds in four relations), grounds, held-out-counts and held-out-relations (what no
    training scene shows), paraphrases and relation-paraphrases, coco (one to five of 77 kinds of MS-COCO)."""
    model: str = DEFAULT_MODEL
    """A shipped model's name, a run directory of `ifuvit train`, or a pipeline directory."""
    adapter: Path | None = None
    """Adapters of `ifuvit train --lora-rank` (RUN/adapter) to add to the model, which must be the one that they adapt."""
    adapter_scale: Finite = 1.0
    """How much of them: 0 is none, 1 all."""
    beside: str | None = None
    """Draw the same with this model too, from the same noise, into OUT/beside-NAME; index.html and grid.png show both."""
    out: Path | None = None
    """Directory to write; a previous output of generate there is replaced. Default: generated/N with the next free N."""
    sampling: Annotated[SamplingSettings, OmitArgPrefixes] = SamplingSettings()
    negative_prompt: Prompt | None = None
    """Guide away from this instead of from the null caption."""
    seed: NonNegative[int] = 0
    """Image i depends on (seed, i), the prompt and the settings alone, not on the batch size."""
    images_per_prompt: Positive[int] = 1
    """Images per prompt."""
    batch_size: Annotated[Positive[int] | None, arg(metavar="INT")] = None
    """Images per batch. Default: 8 on a CPU, else 64."""
    device: str = "auto"
    """auto (an accelerator where there is one), cpu, cuda, cuda:1, mps."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the backbone."""
    verify: Annotated[NonNegative[int], arg(metavar="INT")] = 0
    """Draw an image again, up to so many times, until the object counter finds what its prompt asks for: exactly these
    objects, in this relation, on this ground. Prompts that the counter cannot read are drawn once. Such images are chosen
    by the counter, so `ifuvit evaluate` refuses them."""
    exact: bool = False
    """Sample as the paper does: 50 steps, guided at all of them, in float32, from pure noise. Solver, steps and guidance scale
    may still be given."""

    def __post_init__(self) -> None:
        check(self)

    def without_effect(self) -> dict[str, str]:
        """Options that have no effect with the others."""
        return self.sampling.without_effect() | idle(
            (self.adapter is None, ("adapter_scale",), "without --adapter"),
            (self.sampling.guidance_scale == 1, ("negative_prompt",), "with --guidance-scale 1"),
        )


def run(config: GenerateConfig) -> Path:
    """Generate the images into a directory with a manifest (`results.GeneratedImages`), and return the directory. What
    `config.beside` draws lies in a subdirectory (`beside`), as a directory of its own.

    Raises:
        InputError: no prompts, an unknown model, settings that --exact excludes, or a directory that cannot be used, or
            that another process writes.
    """
    prompts = [prompt for prompt in all_prompts(config) for _ in range(config.images_per_prompt)]
    if config.exact:
        _check_exact(config)
    directory = find(config.model)
    if config.beside is not None:
        find(config.beside)  # before minutes are spent on the other
    own = OutputDirectory(config.out or _next_directory(), "generate")
    with own.lock():
        if (before := ((own.earlier() or {}).get("config") or {}).get("beside")) is not None:
            shutil.rmtree(own.path / beside(before), ignore_errors=True)
        _generate(config, prompts, directory, own)
        if config.beside is not None:
            run(replace(config, model=config.beside, adapter=None, beside=None, out=own.path / beside(config.beside)))
    return own.path


def _generate(config: GenerateConfig, prompts: list[str], directory: Path, own: OutputDirectory) -> None:
    started, out, earlier = now(), own.path, own.earlier()

    # Only now what takes seconds to import.
    import torch

    from ifuvit import results
    from ifuvit.evaluation.generation import generate_images
    from ifuvit.model.lora import load_adapter
    from ifuvit.pipeline import Pipeline
    from ifuvit.utils.devices import find_device
    from ifuvit.utils.distributed import Processes

    device = find_device(config.device)
    pipeline = Pipeline.from_pretrained(directory, device=device, dtype=getattr(torch, config.dtype))
    if config.adapter is not None:
        load_adapter(pipeline.model, config.adapter, scale=config.adapter_scale)
    with reading(out / "manifest.json"):
        before = [Path(image["file"]).name for image in (earlier or {}).get("images", [])]
    for name in [*before, "grid.png", "index.html"]:
        (out / name).unlink(missing_ok=True)
    names = [file_name(index, len(prompts), prompt) for index, prompt in enumerate(prompts)]
    drawn = [Drawn(index=index, draws=1, right=None) for index in range(len(prompts))]
    counter = None
    if config.verify:
        from ifuvit.evaluation.networks import load_counter

        counter = load_counter(device=device)
    verified_by = None
    if counter is not None:
        verified_by = {"counter": counter.name, "sha256": counter.sha256, "redraws": config.verify}

    def write_manifest(*, complete: bool) -> None:
        result = results.GeneratedImages(
            **manifest("generate", to_dict(config), started=started),
            model=config.model,
            sha256=sha256(directory / "transformer" / "model.safetensors"),
            seed=config.seed,
            sampling=to_dict(config.sampling),
            images=tuple(
                results.GeneratedImages.Image(
                    file=name, prompt=prompt, index=one.index, draws=one.draws, verified=one.right
                )
                for name, prompt, one in zip(names, prompts, drawn, strict=True)
            ),
            verified_by=verified_by,
            complete=complete,
            encoders={
                "autoencoder": pipeline.autoencoder.fingerprint,
                "text_encoder": pipeline.text_encoder.fingerprint,
            },
            device=str(pipeline.device),
        )
        results.write(out / "manifest.json", result)

    # Written first too, so that after an interruption the directory is recognized as an output of generate.
    write_manifest(complete=False)
    negative = [] if config.negative_prompt is None else [config.negative_prompt]
    for what, texts in (("prompts", list(dict.fromkeys(prompts))), ("negative prompts", negative)):
        if truncated := pipeline.text_encoder.tokenize(texts).truncated:
            print(
                f"ifuvit: warning: {truncated} of {len(texts)} {what} are longer than the text encoder's "
                f"{pipeline.text_encoder.max_tokens} tokens: their ends are ignored",
                file=sys.stderr,
            )
    generator, files = partial(pipeline, negative_prompt=config.negative_prompt), [out / name for name in names]
    facts = {
        "model": config.model,
        **to_dict(config.sampling),
        "negative_prompt": config.negative_prompt or "",
        "seed": config.seed,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # printed above, once for all batches
        generate_images(
            generator,
            prompts,
            files,
            config.sampling,
            seed=config.seed,
            batch_size=config.batch_size or (8 if device.type == "cpu" else 64),
            processes=Processes(),
            label="generate",
            overwrite=True,
            facts=facts,
        )
        if counter is not None:
            from ifuvit.evaluation.verification import verify

            drawn = verify(
                generator,
                prompts,
                files,
                config.sampling,
                counter,
                seed=config.seed,
                redraws=config.verify,
                facts=facts,
            )
    write_manifest(complete=True)


class Drawn(NamedTuple):
    """How an image came to be."""

    index: int
    """Of its noise."""
    draws: int
    """How often it was drawn."""
    right: bool | None
    """Whether the counter finds what was asked for; None where nobody looked, or it cannot read the prompt."""


def all_prompts(config: GenerateConfig) -> list[str]:
    """The prompts of the command line, then those of the file, then those of the set.

    Raises:
        InputError: the file is missing, empty or not text, or there are no prompts at all.
    """
    prompts = [" ".join(prompt.split()) for prompt in config.prompts]
    if config.prompts_file is not None:
        prompts += read_prompts(config.prompts_file)
    if config.prompt_set is not None:
        from ifuvit.metrics.counting.prompts import PROMPT_SETS

        prompts += PROMPT_SETS[config.prompt_set]
    if not prompts:
        raise InputError(
            'no prompts; say what to draw, as in `ifuvit generate "three sheep on grass"`, or give --prompts-file or '
            "--prompt-set"
        )
    return prompts


def file_name(index: int, count: int, prompt: str) -> str:
    """A file name that is safe everywhere: the index, padded for `count` images, and a few words of the prompt."""
    plain = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", plain)[:48].strip("-")
    number = f"{index:0{max(4, len(str(count - 1)))}d}"
    return f"{number}-{slug}.png" if slug else f"{number}.png"


def _next_directory() -> Path:
    taken = [int(path.name) for path in Path("generated").glob("*") if path.name.isdigit()]
    return Path("generated") / f"{max(taken, default=0) + 1:04d}"


def _check_exact(config: GenerateConfig) -> None:
    """Refuse what --exact excludes."""
    for name in config.sampling.differences(PAPER_SETTINGS):
        if name not in ("solver", "steps", "guidance_scale"):
            raise InputError(f"--exact samples as the paper does; leave out --{name.replace('_', '-')}")
    if config.dtype != "float32":
        raise InputError(f"--exact is float32; leave out --dtype {config.dtype}")
