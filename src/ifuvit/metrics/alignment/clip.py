"""CLIP models of transformers as alignment models.

Shapes: B images or captions, E the width of the common space.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import normalize

from ifuvit.metrics.alignment.base import AlignmentModel
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import fingerprint, read_json, read_object
from ifuvit.utils.hub import find_folder, load_model, loading

DEFAULT_CLIP = "openai/clip-vit-large-patch14"
"""The paper's."""

# Of OpenAI's models; others have theirs in preprocessor_config.json.
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
        self.model = model.eval().requires_grad_(False)
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
        kind = read_object(folder / "config.json").get("model_type")
        if kind != "clip":
            raise InputError(f"{folder}: holds a {kind} model, not a whole CLIP model (text and vision)")
        if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
            raise InputError(f"{folder}: no tokenizer in it (tokenizer.json, or vocab.json and merges.txt)")
        import transformers

        with loading(f"CLIP model {folder}"):
            tokenizer = transformers.CLIPTokenizerFast.from_pretrained(folder, local_files_only=True)  # type: ignore[attr-defined]
        model = load_model("CLIPModel", folder, what="CLIP model")
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
        return fingerprint(self.folder / name for name in names)

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
