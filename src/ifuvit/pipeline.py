"""A whole text-to-image model: text encoder, backbone, solver and autoencoder, from prompts to images.

A pipeline directory follows diffusers' layout:

    model_index.json                    objective, latent normalization, distribution of initial latents, and the references and
                                        fingerprints of autoencoder and text encoder
    pipeline.py                         imports `ifuvit.export.diffusers_pipeline`, so that diffusers loads the directory
    transformer/                        config.json, model.safetensors: the backbone; backbone.py imports its class
    scheduler/scheduler_config.json     the objective and its default solver, in diffusers' words
    vae/                                a diffusers autoencoder; absent where the reference leads to one
    training.json                       steps, batch size, seed, seconds and data of the training; absent where unknown
    checksums.json                      SHA-256 of the files above; transformer/ and vae/ have their own

Text encoders are named, not copied: they are frozen, public and large. The first pipelines have the text encoder's entry in a
file of its own, text_encoder.json, and the autoencoder's under "vae".
"""

import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ifuvit.data.images import to_images
from ifuvit.diffusion.initial_latents import InitialLatentsDistribution
from ifuvit.diffusion.objective import DDPM, OBJECTIVES, AnyObjective
from ifuvit.diffusion.sampling import image_generators, initial_latents, sample
from ifuvit.diffusion.settings import DEFAULT_SETTINGS, SamplingSettings
from ifuvit.encoders.normalization import LatentNormalization
from ifuvit.model.uvit import EncodedText, IFUViT
from ifuvit.model_card import Card, model_card
from ifuvit.shipped import DEFAULT_MODEL, PIPELINE_CLASS, find, is_own_index
from ifuvit.utils.config import from_dict, to_dict
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import (
    atomic_directory,
    atomic_path,
    package_version,
    read_object,
    verify_checksums,
    write_checksums,
    write_json,
    write_text,
)
from ifuvit.utils.hub import upload

if TYPE_CHECKING:
    from PIL.Image import Image

    from ifuvit.encoders.autoencoder import Autoencoder
    from ifuvit.encoders.text_encoder import TextEncoder

_DDPM = DDPM()
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# What diffusers runs with trust_remote_code=True: nothing but imports from the installed package.
_PIPELINE_CODE = '''"""For diffusers.DiffusionPipeline.from_pretrained(DIRECTORY, trust_remote_code=True): `pip install ifuvit` has the code."""

from ifuvit.export.diffusers_pipeline import IFUViTPipeline  # noqa: F401
'''
_BACKBONE_CODE = '''"""For diffusers, as pipeline.py: `pip install ifuvit` has the code."""

from ifuvit import IFUViT  # noqa: F401
'''


class Pipeline:
    """Prompts in, images out. Made by `from_pretrained`, or from its parts.

    Attributes:
        model: the backbone, in evaluation mode.
        autoencoder, text_encoder: the frozen encoders.
        objective: what the backbone was trained to predict.
        normalization: of the latents that the backbone works on.
        initial_latents: the distribution of initial latents that fits the training images, where it is known.
        training: how the weights came to be (the content of training.json), where it is known.
        dtype: the backbone's precision; solver, text encoder and decoder work in fp32.
    """

    def __init__(
        self,
        model: IFUViT,
        autoencoder: "Autoencoder",
        text_encoder: "TextEncoder",
        *,
        normalization: LatentNormalization,
        objective: AnyObjective = _DDPM,
        initial_latents: InitialLatentsDistribution | None = None,
        training: Mapping[str, Any] | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Join parts that fit, the encoders already on `device`.

        Raises:
            InputError: the parts do not fit each other.
        """
        c = model.config
        if autoencoder.channels != c.latent_channels:
            raise InputError(
                f"the autoencoder {autoencoder.reference} has {autoencoder.channels} latent channels, the backbone "
                f"{c.latent_channels}; use the autoencoder the backbone was trained with"
            )
        if (text_encoder.max_tokens, text_encoder.width) != (c.text_tokens, c.text_width):
            raise InputError(
                f"the text encoder {text_encoder.reference} gives {text_encoder.max_tokens} tokens of width "
                f"{text_encoder.width}, the backbone takes {c.text_tokens} of {c.text_width}; use the text encoder the "
                "backbone was trained with"
            )
        normalization.check_channels(c.latent_channels)
        assert initial_latents is None or not objective.starts_from_noise
        if initial_latents is not None and len(initial_latents.mean) != c.latent_channels:
            raise InputError(
                f"initial_latents has {len(initial_latents.mean)} channels, the backbone {c.latent_channels}"
            )
        if dtype not in _DTYPES:
            raise InputError(f"dtype={dtype}: choose torch.float32, torch.bfloat16 or torch.float16")
        self.device = torch.device(device)
        self.model = model.to(self.device).eval()
        self.autoencoder = autoencoder
        self.text_encoder = text_encoder
        self.objective = objective
        self.normalization = normalization
        self.initial_latents = initial_latents
        self.training = training
        self.dtype = dtype

    @classmethod
    def from_pretrained(
        cls,
        directory_or_name: str | Path = DEFAULT_MODEL,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> "Pipeline":
        """Load a pipeline.

        Args:
            directory_or_name: a shipped name, a pipeline directory, a run directory of `ifuvit train`, or a name on the
                Hugging Face hub ("user/name", or "user/name@revision").
            device: where to put it.
            dtype: precision of the backbone: torch.float32, or torch.bfloat16 or torch.float16 by autocast.

        Raises:
            InputError: there is no such model, a part is missing or damaged, was made with another encoder, or cannot
                be had here.
        """
        from ifuvit.encoders.autoencoder import Autoencoder
        from ifuvit.encoders.text_encoder import TextEncoder

        directory = find(directory_or_name)
        index = _read_index(directory)
        text = index["text"]
        model = IFUViT.from_pretrained(directory / "transformer")

        inside = directory / "vae"
        autoencoder = Autoencoder.from_pretrained(
            str(inside.resolve()) if inside.is_dir() else index["autoencoder"]["reference"], device
        )
        _check_fingerprint("autoencoder", autoencoder, index["autoencoder"], directory)
        text_encoder = TextEncoder.from_pretrained(
            text["reference"], max_tokens=text["max_tokens"], layers=text.get("layers"), device=device
        )
        _check_fingerprint("text encoder", text_encoder, text, directory)
        distribution = index.get("initial_latents")
        if distribution is not None:
            where = f"{directory / 'model_index.json'}: initial_latents"
            distribution = from_dict(InitialLatentsDistribution, distribution, where=where)
        pipeline = cls(
            model,
            autoencoder,
            text_encoder,
            normalization=_normalization(index, directory),
            objective=_objective(index, directory),
            initial_latents=distribution,
            training=read_object(directory / "training.json") if (directory / "training.json").is_file() else None,
            device=device,
            dtype=dtype,
        )
        verify_checksums(directory)  # after what is wrong has been told in better words
        return pipeline

    def save_pretrained(self, directory: str | Path) -> None:
        """Write a pipeline directory, replacing one that is there. Its autoencoder travels along, so that
        `diffusers.DiffusionPipeline.from_pretrained(directory, trust_remote_code=True)` loads it too."""
        write_pipeline(
            directory,
            self.model,
            autoencoder={"fingerprint": self.autoencoder.fingerprint},
            text_encoder=self.text_encoder.facts,
            normalization=self.normalization,
            objective=self.objective,
            initial_latents=self.initial_latents,
            vae=self.autoencoder,
            training=self.training,
        )

    def push_to_hub(
        self,
        repo_id: str,
        card: Card,
        *,
        private: bool = False,
        token: str | None = None,
        endpoint: str | None = None,
        message: str = "Upload an ifuvit pipeline",
    ) -> str:
        """Upload to the Hugging Face hub what `save_pretrained` writes, with a model card and an image for
        each of its example prompts.

        Args:
            repo_id: "user/name"; it is made if need be.
            card: what the model card says that the model itself does not know.
            private: whether a new repository is private.
            token: default: that of `hf auth login`, or HF_TOKEN.
            endpoint: of another hub; default: HF_ENDPOINT, or huggingface.co.

        Returns:
            the address of the commit.

        Raises:
            InputError: a name of another form, an evaluation that cannot be read, a text encoder that only this machine has, or
                a hub that does not answer or refuses.
        """
        with tempfile.TemporaryDirectory() as parent:
            directory = Path(parent) / "pipeline"
            self.save_with_card(directory, card, name=repo_id)
            return upload(directory, repo_id, private=private, token=token, endpoint=endpoint, message=message)

    def save_with_card(self, directory: str | Path, card: Card, *, name: str) -> None:
        """What `push_to_hub` uploads, as a directory: `save_pretrained` with README.md and images/. Arguments and errors are
        those of `push_to_hub`."""
        reference = self.text_encoder.reference
        if Path(reference).is_absolute():
            raise InputError(
                f"text encoder {reference}: only this machine has that folder; train with one of the hub "
                "(`ifuvit prepare --text-encoder owner/name`), so that others can load the model"
            )
        text = model_card(self, card, name=name)
        images = self(card.prompts)
        self.save_pretrained(directory)
        for number, image in enumerate(images):
            with atomic_path(Path(directory) / "images" / f"{number}.png") as path:
                image.save(path, format="PNG")
        write_text(Path(directory) / "README.md", text)

    def __call__(
        self,
        prompts: Sequence[str],
        settings: SamplingSettings = DEFAULT_SETTINGS,
        *,
        negative_prompt: str | None = None,
        seed: int | Sequence[int] = 0,
        batch_size: int = 16,
        first_index: int = 0,
        callback: Callable[[int], None] | None = None,
        denoiser: Any = None,
        **changes: Any,
    ) -> list["Image"]:
        """Generate one image per prompt.

        Args:
            prompts: N captions. Identical ones are encoded once and give different images.
            settings: solver, steps, guidance and initial latents. Without a distribution of its own a pipeline starts from
                pure noise, whatever `settings.initial_latents` is.
            negative_prompt: takes the null caption's place in guidance.
            seed: image i starts from noise that depends on (seed, first_index + i) alone. Or a seed for each image, N in all:
                image i is the one that a call with its prompt and seed alone generates, whatever the others are.
            batch_size: images per batch; it does not change them (beyond rounding, at most 1/255).
            first_index: index of the first image.
            callback: called after every solver step with the number of images in the batch.
            denoiser: takes the backbone's place in `sample`, as one that observes it or changes what it reads
                (`ifuvit.analysis`).
            changes: fields of `settings` by keyword, as `guidance_scale=4.0, num_inference_steps=50`.

        Returns:
            N RGB images.

        Raises:
            InputError: prompts given as one string, settings, batch size, seed or index outside their range, a number of
                seeds that is not that of prompts, or half precision that overflowed.

        Warns:
            UserWarning: prompts longer than the text encoder's limit, counted; the model does not see their ends.
        """
        if isinstance(prompts, str):
            raise InputError(f"prompts is the string {prompts[:40]!r}: give a list of strings")
        if negative_prompt is not None and self.model.config.path_drop:
            raise InputError(
                f"negative_prompt={negative_prompt!r} and path_drop=True: this model's branch without a caption reads no text; "
                "leave the negative prompt out"
            )
        if batch_size < 1:
            raise InputError(f"batch_size={batch_size}: must be at least 1")
        if isinstance(seed, Sequence) and len(seed) != len(prompts):
            raise InputError(
                f"seed has {len(seed)} numbers for {len(prompts)} prompts; give one for each, or one for all"
            )
        settings = settings.changed(**changes)
        settings = settings.changed(solver=self.objective.resolve_solver(settings.solver))
        distribution = self.initial_latents if settings.initial_latents == "data-mean" else None
        images: list[Image] = []
        if not prompts:
            return images
        c = self.model.config
        unique = list(dict.fromkeys(prompts))
        row = {prompt: number for number, prompt in enumerate(unique)}
        with torch.no_grad(), self._precision():
            text = self._encode(unique, batch_size)
            null_text = self._encode(["" if negative_prompt is None else negative_prompt], batch_size)
            for place in range(0, len(prompts), batch_size):
                batch = prompts[place : place + batch_size]
                # Seeds with the indices of their images.
                if isinstance(seed, Sequence):
                    draws = [(own, [first_index]) for own in seed[place : place + batch_size]]
                else:
                    draws = [(seed, range(first_index + place, first_index + place + len(batch)))]
                shape = (c.latent_channels, c.latent_size, c.latent_size)

                def step(_: int, size: int = len(batch)) -> None:
                    if callback is not None:
                        callback(size)

                latents = sample(
                    self.model if denoiser is None else denoiser,
                    torch.cat([initial_latents(shape, *draw, distribution) for draw in draws]).to(self.device),
                    text.rows(torch.tensor([row[prompt] for prompt in batch], device=self.device)),
                    null_text,
                    settings,
                    objective=self.objective,
                    generators=[generator for draw in draws for generator in image_generators(*draw)],
                    callback=step,
                )
                images += self.decode(latents)
        return images

    def decode(self, latents: Tensor) -> list["Image"]:
        """Normalized latents (B, C, h, w), as the backbone makes them, to RGB images.

        Raises:
            InputError: latents that are not finite.
        """
        from PIL import Image

        if not torch.isfinite(latents).all():
            raise InputError(
                f"the latents are not finite with dtype {self.dtype}; use torch.float32, or another guidance scale"
            )
        with torch.autocast(self.device.type, enabled=False):
            pixels = self.autoencoder.decode(self.normalization.denormalize(latents.float()))
        return [Image.fromarray(image) for image in to_images(pixels)]

    @property
    def image_size(self) -> int:
        """Width and height of an image, in pixels."""
        return self.model.config.latent_size * self.autoencoder.factor

    def _encode(self, captions: list[str], batch_size: int) -> EncodedText:
        tokens = self.text_encoder.tokenize(captions)
        if tokens.truncated:
            warnings.warn(
                f"{tokens.truncated} of {len(captions)} prompts are longer than the text encoder's "
                f"{self.text_encoder.max_tokens} tokens: their ends are not seen",
                stacklevel=3,
            )
        parts = []
        for start in range(0, len(captions), batch_size):
            states, mask = self.text_encoder(captions[start : start + batch_size])
            parts.append(self.model.encode_text(states, mask))
        return EncodedText(*[None if column[0] is None else torch.cat(column) for column in zip(*parts, strict=True)])

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)


def write_pipeline(
    directory: str | Path,
    model: IFUViT,
    *,
    autoencoder: Mapping[str, Any],
    text_encoder: Mapping[str, Any],
    normalization: LatentNormalization,
    objective: AnyObjective = _DDPM,
    initial_latents: InitialLatentsDistribution | None = None,
    vae: "Autoencoder | None" = None,
    training: Mapping[str, Any] | None = None,
) -> None:
    """Write a pipeline directory, whole or not at all; one that is there is replaced. No encoder needs to be loaded.

    Args:
        directory: where to.
        model: the backbone.
        autoencoder: {"reference", "fingerprint"}; a fingerprint of None is not checked on loading. Further items are
            not kept, and with `vae` neither are these.
        text_encoder: {"reference", "fingerprint", "max_tokens", "layers"}, likewise.
        normalization: of the latents in training.
        objective: of the training.
        initial_latents: the distribution of initial latents that fits the training images, where it is known.
        vae: write this autoencoder into the directory instead of referring to it.
        training: how the weights came to be, the fields of `results.TrainingFacts`, where that is known.
    """
    with atomic_directory(directory) as path:
        model.save_pretrained(path / "transformer")
        write_text(path / "transformer" / "backbone.py", _BACKBONE_CODE)
        write_text(path / "pipeline.py", _PIPELINE_CODE)
        inside: dict[str, Any] = {}
        if vae is not None:
            vae.save_pretrained(path / "vae", normalization=normalization)
            autoencoder = {"reference": "vae", "fingerprint": vae.fingerprint}
            inside = {"vae": ["diffusers", "AutoencoderKL"]}
        if training is not None:
            write_json(path / "training.json", dict(training))
        scheduler = objective.scheduler_config()
        write_json(path / "scheduler" / "scheduler_config.json", scheduler)
        write_json(
            path / "model_index.json",
            {
                "_class_name": PIPELINE_CLASS,
                "_ifuvit_version": package_version(),
                "objective": to_dict(objective),
                "latent_normalization": to_dict(normalization),
                **({} if initial_latents is None else {"initial_latents": to_dict(initial_latents)}),
                "time_offset": objective.time_offset,
                "transformer": ["backbone", "IFUViT"],
                "scheduler": ["diffusers", scheduler["_class_name"]],
                **inside,
                "autoencoder": {key: autoencoder.get(key) for key in ("reference", "fingerprint")},
                "text": {key: text_encoder.get(key) for key in ("reference", "fingerprint", "max_tokens", "layers")},
            },
        )
        parts = ("model_index.json", "pipeline.py", "scheduler/scheduler_config.json", "training.json")
        write_checksums(path, *(name for name in parts if (path / name).is_file()))


def _read_index(directory: Path) -> dict[str, Any]:
    """model_index.json, checked."""
    file = directory / "model_index.json"
    index = read_object(file)
    if not is_own_index(index):
        raise InputError(f"{file}: not a pipeline of ifuvit (its _class_name is another)")
    if "text" not in index:
        index["text"], index["autoencoder"] = read_object(directory / "text_encoder.json"), index.get("vae")
    autoencoder, text = index.get("autoencoder"), index["text"]
    if not isinstance(autoencoder, dict) or not isinstance(autoencoder.get("reference"), str):
        raise InputError(f"{file}: autoencoder.reference is missing")
    objective = _objective(index, directory)
    if index.get("time_offset") != objective.time_offset:
        raise InputError(
            f"{file}: time_offset is {index.get('time_offset')}, not {objective.time_offset} as with objective "
            f"{objective.name}"
        )
    if (
        not isinstance(text, dict)
        or not isinstance(text.get("reference"), str)
        or type(text.get("max_tokens")) is not int
    ):
        raise InputError(f"{file}: text.reference or text.max_tokens is missing")
    layers = text.get("layers")
    if layers is not None and not (isinstance(layers, list) and all(type(layer) is int for layer in layers)):
        raise InputError(f"{file}: text.layers are {layers!r}, not whole numbers")
    for name in ("autoencoder", "text"):
        if not isinstance(index[name].get("fingerprint"), str | None):
            raise InputError(f"{file}: {name}.fingerprint is no text")
    schedule = read_object(directory / "scheduler" / "scheduler_config.json")
    for key, value in objective.scheduler_config().items():
        if schedule.get(key) != value:
            raise InputError(
                f"{directory / 'scheduler' / 'scheduler_config.json'}: {key} is {schedule.get(key)}; only {key}={value} "
                f"can be sampled with objective {objective.name}"
            )
    return index


def _objective(index: Mapping[str, Any], directory: Path) -> AnyObjective:
    """The objective of a pipeline; one without an entry is of before there were others."""
    values, where = index.get("objective", {"name": "ddpm"}), f"{directory / 'model_index.json'}: objective"
    name = values.get("name") if isinstance(values, dict) else None
    if not isinstance(name, str) or name not in OBJECTIVES:
        raise InputError(f"{where}: {name!r} is not one of {', '.join(OBJECTIVES)}")
    return from_dict(OBJECTIVES[name], values, where=where)


def _normalization(index: Mapping[str, Any], directory: Path) -> LatentNormalization:
    """The latent normalization of a pipeline; the first ones have a scale alone."""
    where = f"{directory / 'model_index.json'}: latent_normalization"
    if "latent_scale" in index:
        return from_dict(LatentNormalization, {"scale": [index["latent_scale"]]}, where=where)
    if "latent_normalization" not in index:
        raise InputError(f"{where} is missing")
    return from_dict(LatentNormalization, index["latent_normalization"], where=where)


def find_normalization(directory_or_name: str | Path) -> LatentNormalization | None:
    """The latent normalization of a shipped model, a run or a pipeline directory; None for a backbone alone.

    Raises:
        InputError: the pipeline is damaged.
    """
    try:
        directory = find(directory_or_name)
    except InputError:
        return None
    normalization = _normalization(_read_index(directory), directory)
    verify_checksums(directory)
    return normalization


def _check_fingerprint(
    what: str, encoder: "Autoencoder | TextEncoder", recorded: Mapping[str, Any], directory: Path
) -> None:
    expected = recorded.get("fingerprint")
    if expected is not None and encoder.fingerprint != expected:
        raise InputError(
            f"{directory}: was made with another {what} than the {encoder.reference} found here (fingerprint "
            f"{expected[:12]}… and not {encoder.fingerprint[:12]}…); give it the one it was trained with"
        )
