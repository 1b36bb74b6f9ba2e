"""What is evaluated: a model that generates (of this package, or a diffusers pipeline), or images that are there."""

import hashlib
import inspect
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ifuvit import results
from ifuvit.data.folder import read_folder
from ifuvit.data.images import SUFFIXES, ImageSource
from ifuvit.data.prompts import read_lines
from ifuvit.diffusion.settings import DEFAULT_SETTINGS, SamplingSettings
from ifuvit.shipped import find, is_on_hub, is_own_index, names
from ifuvit.utils.config import from_dict, to_dict
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import fingerprint, read_json, read_object, reading, sha256, unseal
from ifuvit.utils.hub import is_hub_name

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from ifuvit.encoders.autoencoder import Autoencoder


class ImageGenerator(Protocol):
    """Generates images from prompts."""

    def __call__(
        self,
        prompts: Sequence[str],
        settings: SamplingSettings,
        *,
        seed: int,
        batch_size: int,
        first_index: int,
        callback: Callable[[int], None] | None = None,
    ) -> "list[Image]":
        """One image per prompt; image i starts from noise of (seed, first_index + i) alone. A `callback` is called after solver
        steps, if at all, with the number of images in the batch."""
        ...


@dataclass(frozen=True, kw_only=True)
class ImageDecoder:
    """Encodes and decodes images, as the best images of a model would be."""

    autoencoder: "Autoencoder"
    size: int
    """Pixels of a side of the model's images."""

    def __call__(self, files: Sequence[ImageSource]) -> "list[Image]":
        """The images, cropped to the centered square and resized to the model's size, as they come out again."""
        import numpy as np
        from PIL import Image

        from ifuvit.data.images import center_crop_resize, load_image, to_images, to_tensor

        squares = np.stack([np.asarray(center_crop_resize(load_image(file), self.size)) for file in files])
        return [Image.fromarray(image) for image in to_images(self.autoencoder.reconstruct(to_tensor(squares)))]


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is evaluated. Either `generator` or `images` is there."""

    name: str
    kind: Literal["ifuvit", "diffusers", "images"]
    sha256: str | None = None
    """Of the backbone's weights."""
    fingerprint: str | None = None
    """SHA-256 over all that decides what a model generates."""
    solver: str | None = None
    """The solver that "auto" stands for."""
    model: dict[str, Any] | None = None
    """The backbone's configuration."""
    training: dict[str, Any] | None = None
    """{"steps", "batch_size", "seed", "seconds"} of the run that made it."""
    generator: ImageGenerator | None = None
    decoder: "ImageDecoder | None" = None
    """The model's own autoencoder; None for images that are there, and for pipelines without one."""
    images: list[tuple[Path, str | None]] | None = None
    """Images that are there already, each with its prompt or caption if it has one."""

    def describe(self) -> results.Target:
        """As results have it."""
        training = None
        if self.training is not None:
            training = from_dict(results.TrainingFacts, self.training, where=f"{self.name}: training.json")
        return results.Target(
            name=self.name,
            kind=self.kind,
            sha256=self.sha256,
            fingerprint=self.fingerprint,
            solver=self.solver,
            model=self.model,
            training=training,
        )


def open_target(
    target: str,
    *,
    device: "torch.device",
    captions: Path | None = None,
) -> Target:
    """Find out what `target` is, and load it.

    Args:
        target: a shipped name, a run or a pipeline directory; a directory of images (of `ifuvit generate`, with
            sidecar captions or a metadata.jsonl, or bare); a diffusers pipeline's directory or its name on the hub.
        device: where to load a model.
        captions: a text file with one caption a line for a directory of bare images in the order of their names.

    Raises:
        InputError: it is none of these, it cannot be loaded, or captions and images do not go together.
    """
    directory = Path(target)
    if target in names() or any((directory / place / "model_index.json").is_file() for place in ("", "pipeline")):
        if captions is not None:
            raise InputError(f"--captions {captions}: {target} is a model, which generates the protocol's captions")
        index = read_json(find(target) / "model_index.json")
        if isinstance(index, dict) and is_own_index(index):
            return _ifuvit(target, device)
        return _diffusers(target, device)
    if directory.is_dir():
        return Target(name=directory.name, kind="images", images=_images(directory, captions))
    if directory.exists():
        raise InputError(f"{target}: is a file; give a model, a run, or a directory of images")
    if is_hub_name(target):
        return _ifuvit(target, device) if is_on_hub(target) else _diffusers(target, device)
    find(target)  # raises with the shipped names
    raise AssertionError


def _ifuvit(target: str, device: "torch.device") -> Target:
    from ifuvit.pipeline import Pipeline

    directory = find(target)
    pipeline = Pipeline.from_pretrained(directory, device=device)
    name = directory.parent.name if directory.name == "pipeline" else directory.name
    if is_hub_name(target):
        name = target.partition("@")[0].partition("/")[2]
    return Target(
        name=name,
        kind="ifuvit",
        sha256=sha256(directory / "transformer" / "model.safetensors"),
        fingerprint=fingerprint_of_pipeline(directory),
        solver=pipeline.objective.resolve_solver("auto"),
        model=to_dict(pipeline.model.config),
        training=read_object(directory / "training.json") if (directory / "training.json").is_file() else None,
        generator=pipeline,
        decoder=ImageDecoder(autoencoder=pipeline.autoencoder, size=pipeline.image_size),
    )


def fingerprint_of_pipeline(directory: Path) -> str:
    """SHA-256 over all that decides what a pipeline of this package generates: weights and configuration of the backbone,
    latent scale and colors, and the fingerprints of its autoencoder and text encoder. Nothing is loaded.

    Raises:
        InputError: a file of the pipeline is missing.
    """
    facts: dict[str, Any] = {}
    for name in ("model_index.json", "text_encoder.json", "transformer/config.json", "scheduler/scheduler_config.json"):
        if name != "text_encoder.json" or "text" not in facts["model_index.json"]:  # as the first pipelines have it
            facts[name] = read_object(directory / name)
    facts["model_index.json"].pop("_ifuvit_version", None)
    facts["weights"] = sha256(directory / "transformer" / "model.safetensors")
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _diffusers(target: str, device: "torch.device") -> Target:
    """A text-to-image pipeline of diffusers, with its own scheduler and initial latents."""
    import torch
    from diffusers import DiffusionPipeline

    half = device.type == "cuda"
    try:
        folder = target if Path(target).is_dir() else DiffusionPipeline.download(target)
        pipeline: Any = DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float16 if half else torch.float32)
    except Exception as error:  # libraries' own kinds, and those of pipelines that somebody wrote
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{target}: no diffusers pipeline can be loaded ({reason})") from None
    if "prompt" not in inspect.signature(pipeline.__call__).parameters:
        raise InputError(f"{target}: {type(pipeline).__name__} takes no prompt; give a text-to-image pipeline")
    pipeline.to(device)
    pipeline.set_progress_bar_config(disable=True)

    def generate_images(
        prompts: Sequence[str],
        settings: SamplingSettings,
        *,
        seed: int,
        batch_size: int,
        first_index: int,
        callback: Callable[[int], None] | None = None,
    ) -> "list[Image]":
        for name in settings.differences(DEFAULT_SETTINGS):
            if name not in ("steps", "guidance_scale", "initial_latents"):
                raise InputError(
                    f"{target}: a diffusers pipeline samples without --{name.replace('_', '-')}; leave it out"
                )
        images: list[Image] = []
        for start in range(0, len(prompts), batch_size):
            batch = list(prompts[start : start + batch_size])
            generators = [
                torch.Generator().manual_seed(seed * 1_000_003 + first_index + start + place)
                for place in range(len(batch))
            ]
            images += pipeline(
                prompt=batch,
                num_inference_steps=settings.steps,
                guidance_scale=settings.guidance_scale,
                generator=generators,
            ).images
        return images

    return Target(
        name=target.rstrip("/").split("/")[-1],
        kind="diffusers",
        fingerprint=fingerprint(sorted(path for path in Path(folder).rglob("*") if path.is_file())),
        generator=generate_images,
        decoder=_decoder_of(pipeline, Path(folder)),
    )


def _decoder_of(pipeline: Any, folder: Path) -> ImageDecoder | None:
    """The autoencoder of a pipeline of diffusers, in fp32 whatever the pipeline computes in; None if it is of another kind
    than AutoencoderKL, or the pipeline does not say how large its images are."""
    from ifuvit.encoders.autoencoder import Autoencoder

    network = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
    cells, factor = (
        getattr(getattr(network, "config", None), "sample_size", None),
        getattr(pipeline, "vae_scale_factor", 0),
    )
    if type(pipeline).__module__.startswith("diffusers") and isinstance(cells, int) and factor:
        vae: Any = getattr(pipeline, "vae", None)
        if type(vae).__name__ == "AutoencoderKL":
            return ImageDecoder(
                autoencoder=Autoencoder.from_pretrained(folder / "vae", device=vae.device), size=cells * factor
            )
    return None


def _images(directory: Path, captions: Path | None) -> list[tuple[Path, str | None]]:
    manifest = read_json(directory / "manifest.json") if (directory / "manifest.json").is_file() else None
    if isinstance(manifest, dict) and manifest.get("verified_by"):
        raise InputError(
            f"{directory}: its images were drawn again until the counter agreed (generate --verify), so that no number of them "
            "says how good the model is; generate them without it"
        )
    if isinstance(manifest, dict) and isinstance(manifest.get("images"), list) and captions is None:
        where = directory / "manifest.json"
        with reading(where):
            entries = unseal(manifest, where=where)["images"]
            listed = [(directory / Path(str(entry["file"])).name, str(entry["prompt"])) for entry in entries]
        if missing := [path for path, _ in listed if not path.is_file()]:
            raise InputError(f"{missing[0]}: listed in {directory / 'manifest.json'}, but not there")
        return list(listed)
    if captions is None and ((directory / "metadata.jsonl").is_file() or any(directory.rglob("*.txt"))):
        found = read_folder(directory)
        if bad := next((image for image in found if image.problem), None):
            raise InputError(f"{bad.problem}; {len(found)} images need as many captions")
        return [(image.source, image.captions[0]) for image in found if isinstance(image.source, Path)]
    if manifest is None:
        visible = [path for path in directory.iterdir() if path.is_file() and not path.name.startswith(".")]
    else:
        visible = [path for path in directory.iterdir() if path.suffix.lower() in SUFFIXES]
    visible.sort(key=_natural)
    for path in visible:
        if path.suffix.lower() not in SUFFIXES:
            raise InputError(
                f"{path}: not an image; a directory to evaluate holds only images ({', '.join(sorted(SUFFIXES))})"
            )
    if not visible:
        raise InputError(f"{directory}: holds no images ({', '.join(sorted(SUFFIXES))}), nor a model")
    if captions is None:
        return [(path, None) for path in visible]
    lines = read_lines(captions, option="--captions")
    if len(lines) != len(visible):
        raise InputError(
            f"--captions {captions}: {len(lines)} captions for {len(visible)} images; give one line per image"
        )
    return list(zip(visible, lines))


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sorts 2.png before 10.png."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", path.name) if part]
