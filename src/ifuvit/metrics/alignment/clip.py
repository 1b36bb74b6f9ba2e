"""Text-image alignment: how near a image and its caption lie in the common space of a model with two towers.

CLIP score (Hessel et al. 2021, "CLIPScore: A Reference-free Evaluation Metric for Image Captioning") is told in three
scales, because papers use all of them: the mean cosine, 100 times it, and the mean of 2.5 x max(cosine, 0).

Shapes: B images or captions, E the width of the common space.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import normalize

from ifuvit.data.images import ImageSource, center_crop_resize, load_image, read_ahead
from ifuvit.metrics.intervals import estimate
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import read_json, sha256
from ifuvit.utils.hub import check_weights, check_whole, find_folder, loading

DEFAULT_CLIP = "openai/clip-vit-large-patch14"
"""The paper's."""

# Of OpenAI's models; others tell theirs in preprocessor_config.json.
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_SIZES = {768: "B", 1024: "L", 1280: "H", 1664: "bigG"}
_FILES = (
    "config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
)


class AlignmentModel(ABC):
    """A model that puts images and captions into one space."""

    name: str
    """Of the model, as a result tells it: "CLIP ViT-L/14"."""
    score_name: str
    """What the score is called: "CLIP score" is CLIP's alone."""
    prefix: str
    """Put before every caption."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, over all weights and settings that the score depends on."""

    @abstractmethod
    def preprocess(self, image: Image.Image) -> torch.Tensor:
        """An RGB image of any size -> (3, S, S), on the CPU. Called from several threads."""

    @abstractmethod
    def embed_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) preprocessed images -> (B, E) float32 of length 1."""

    @abstractmethod
    def embed_captions(self, captions: Sequence[str]) -> tuple[torch.Tensor, int]:
        """Captions (the prefix is put before them here) -> (B, E) float32 of length 1, and how many of them were longer
        than the model can read and lost their ends."""

    def cosines(
        self,
        files: Sequence[ImageSource],
        captions: Sequence[str],
        *,
        size: int | None = None,
        batch_size: int = 32,
        workers: int = 4,
        progress: bool = False,
    ) -> tuple[np.ndarray, int]:
        """The cosine of every image with its own caption.

        Args:
            files: N images.
            captions: one for each.
            size: crop to the central square and resize (Lanczos) to this many pixels first, as the images that a
                model is trained on; None takes them as they are. The model's own preprocessing follows.
            batch_size: images at once; it does not change the result (beyond rounding).
            workers: threads that read images ahead.
            progress: whether to show a bar on standard error.

        Returns:
            (N,) float64, and how many captions were truncated.

        Raises:
            InputError: the numbers of images and captions differ, a caption is empty, a file is missing or no image,
                or a cosine is not a number.
        """
        from tqdm import tqdm

        _check_pairs(files, captions)

        def read(file: ImageSource) -> torch.Tensor:
            image = load_image(file)
            return self.preprocess(image if size is None else center_crop_resize(image, size))

        cosines = np.empty(len(files), np.float64)
        truncated = 0
        images = read_ahead(read, files, workers=workers, ahead=2 * batch_size)
        with tqdm(total=len(files), desc=self.score_name, unit="image", disable=not progress) as bar:
            for start in range(0, len(files), batch_size):
                part = slice(start, start + batch_size)
                described, shortened = self.embed_captions(captions[part])
                shown = self.embed_images(torch.stack(list(islice(images, batch_size))))
                cosines[part] = (shown.double() * described.double()).sum(1).cpu().numpy()
                truncated += shortened
                bar.update(len(shown))
        if not np.isfinite(cosines).all():
            first = files[int(np.argmin(np.isfinite(cosines)))]
            raise InputError(f"{first}: its {self.score_name} is not a number; {self.name} may be damaged")
        return cosines, truncated


def _check_pairs(files: Sequence[ImageSource], captions: Sequence[str]) -> None:
    if len(files) != len(captions):
        raise InputError(f"{len(files)} images, but {len(captions)} captions; give one caption for each image")
    for file, caption in zip(files, captions):
        if not caption.strip():
            raise InputError(f"{file}: its caption is empty; there is nothing to compare the image with")


def load_alignment_model(
    name: Literal["two-tower", "clip"],
    *,
    weights: str | Path | None = None,
    prefix: str = "",
    device: str | torch.device = "cpu",
) -> AlignmentModel:
    """Load the model of an alignment score.

    Args:
        name: "clip", or "two-tower", the small stand-in for OpenMoji Scenes that ships with the package.
        weights: for "clip" a folder or hub id of a transformers CLIP model (default: OpenAI's ViT-L/14 from the hub);
            for "two-tower" a directory that `ifuvit make-standin two-tower` wrote (default: the shipped one).
        prefix: put before every caption. "" by default; Hessel et al. use "A photo depicts ".
        device: where to compute.

    Raises:
        InputError: an unknown name, or weights that are missing or broken; tells how to get them.
    """
    if name == "clip":
        return CLIP.from_pretrained(weights or DEFAULT_CLIP, prefix=prefix, device=device)
    if name == "two-tower":
        from ifuvit.metrics.alignment.two_tower import TwoTowerAlignment

        return TwoTowerAlignment.from_pretrained(weights or "openmoji", prefix=prefix, device=device)
    raise InputError(f"unknown alignment model {name!r}; the models are two-tower and clip")


def clip_score(cosines: Sequence[float] | np.ndarray) -> dict[str, Any]:
    """A score of N >= 1 pairs from their cosines.

    Returns:
        {"value": mean cosine, "interval", "interval_from", "n", "standard_error": of the mean cosine (None for N = 1),
        "x100": 100 x mean cosine, "x2.5": mean of 2.5 x max(cosine, 0)}. The last is clamped pair by pair, as Hessel et
        al. define it; torchmetrics clamps the mean instead.
    """
    values = np.asarray(cosines, np.float64)
    result = estimate(values)  # type: ignore[arg-type]
    return {
        **result,
        "standard_error": float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else None,
        "x100": 100 * result["value"],
        "x2.5": float((2.5 * values.clip(min=0)).mean()),
    }


class CLIP(AlignmentModel):
    """A CLIP model of transformers. Made by `from_pretrained`."""

    score_name = "CLIP score"

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        prefix: str = "",
        mean: Any = _CLIP_MEAN,
        std: Any = _CLIP_STD,
        folder: Path,
    ):
        self.model = model.float().eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.prefix = prefix
        self.folder = folder
        """where its files lie"""
        self.image_size: int = model.config.vision_config.image_size
        self.max_tokens: int = model.config.text_config.max_position_embeddings
        vision = model.config.vision_config
        size = _SIZES.get(vision.hidden_size, str(vision.hidden_size))
        self.name = f"CLIP ViT-{size}/{vision.patch_size}" + ("" if self.image_size == 224 else f"@{self.image_size}")
        self._mean, self._std = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))

    @classmethod
    def from_pretrained(cls, reference: str | Path, *, prefix: str = "", device: str | torch.device = "cpu") -> "CLIP":
        """Load a whole CLIP model with its tokenizer from a folder or from the Hugging Face hub.

        Raises:
            InputError: nothing there, no network, or files that are incomplete, broken or of another kind.
        """
        folder = find_folder(
            str(reference), what="CLIP model", advice=f"give a folder or a hub id such as {DEFAULT_CLIP}", files=_FILES
        )
        kind = read_json(folder / "config.json").get("model_type")
        if kind != "clip":
            raise InputError(f"{folder}: holds a {kind} model, not a whole CLIP model (text and vision)")
        check_weights(folder, what="CLIP model")
        if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
            raise InputError(f"{folder}: no tokenizer in it (tokenizer.json, or vocab.json and merges.txt)")
        model, tokenizer = _load(folder)
        values = {}
        if (folder / "preprocessor_config.json").is_file():
            values = read_json(folder / "preprocessor_config.json")
        return cls(
            model.to(device),
            tokenizer,
            prefix=prefix,
            mean=values.get("image_mean", _CLIP_MEAN),
            std=values.get("image_std", _CLIP_STD),
            folder=folder,
        )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the contents of weights, configuration and tokenizer."""
        names = sorted(path.name for path in self.folder.glob("*.safetensors"))
        names += [name for name in _FILES if (self.folder / name).is_file()]
        return hashlib.sha256("".join(f"{n} {sha256(self.folder / n)}\n" for n in names).encode()).hexdigest()

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        """An RGB image as OpenAI's CLIP gets it: the shorter side resized to S (bicubic), the central square, scaled
        by mean and standard deviation. (3, S, S)."""
        size = self.image_size
        width, height = image.size
        short = min(width, height)
        # int(), as torchvision and transformers round.
        image = image.resize((int(size * width / short), int(size * height / short)), Image.Resampling.BICUBIC)
        left, top = (image.width - size) // 2, (image.height - size) // 2
        pixels = np.asarray(image.crop((left, top, left + size, top + size)), np.float32) / 255
        return (torch.from_numpy(pixels).permute(2, 0, 1) - self._mean) / self._std

    @torch.no_grad()
    def embed_images(self, pixels: torch.Tensor) -> torch.Tensor:
        features = self.model.get_image_features(pixel_values=pixels.to(self.model.device))
        return normalize(_pooled(features), dim=-1)

    @torch.no_grad()
    def embed_captions(self, captions: Sequence[str]) -> tuple[torch.Tensor, int]:
        # Truncated here and not by the tokenizer, which does not tell whether it did (nor warn: verbose=False).
        tokens = self.tokenizer([self.prefix + caption for caption in captions], verbose=False)["input_ids"]
        limit = self.max_tokens
        truncated = sum(len(one) > limit for one in tokens)
        tokens = [one if len(one) <= limit else [*one[: limit - 1], one[-1]] for one in tokens]
        padded = self.tokenizer.pad({"input_ids": tokens}, return_tensors="pt").to(self.model.device)
        features = self.model.get_text_features(input_ids=padded["input_ids"], attention_mask=padded["attention_mask"])
        return normalize(_pooled(features), dim=-1), truncated


def _pooled(features: Any) -> torch.Tensor:
    """transformers 5 gives an object that holds the projected features, transformers 4 the features themselves."""
    return features if isinstance(features, torch.Tensor) else features.pooler_output


def _load(folder: Path) -> tuple[Any, Any]:
    import transformers

    # Any: transformers' names are resolved at run time, where type checkers do not see them.
    model_class: Any = transformers.CLIPModel
    tokenizer_class: Any = transformers.CLIPTokenizerFast  # type: ignore[attr-defined]
    with loading(f"CLIP model {folder}"):
        tokenizer = tokenizer_class.from_pretrained(folder, local_files_only=True)
        model, report = model_class.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    check_whole(report, what=f"CLIP model {folder}")
    return model, tokenizer
