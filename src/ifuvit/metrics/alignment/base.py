"""Text-image alignment: how near an image and its caption lie in the common space of a model with two towers.

CLIP score (Hessel et al. 2021, "CLIPScore: A Reference-free Evaluation Metric for Image Captioning") comes in three
scales, because papers use all of them: the mean cosine, 100 times it, and the mean of 2.5 x max(cosine, 0).

Shapes: B images or captions, E the width of the common space.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from PIL import Image

from ifuvit.data.images import ImageSource, center_crop_resize, load_image, read_ahead
from ifuvit.metrics.intervals import estimate
from ifuvit.results import Estimate
from ifuvit.utils.errors import InputError


class AlignmentModel(ABC):
    """A model that puts images and captions into one space."""

    name: str
    """Of the model, as results have it: "CLIP ViT-L/14"."""
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
        with tqdm(total=len(files), desc=self.score_name, unit="image", disable=None if progress else True) as bar:
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


@dataclass(frozen=True, kw_only=True)
class AlignmentScore:
    """How well pairs of image and caption fit, in the three scales that papers use."""

    cosine: Estimate
    """The mean cosine."""
    standard_error: float | None
    """Of the mean cosine; None for one pair."""
    times_100: float
    """100 x the mean cosine, as torchmetrics has it above 0."""
    clamped: float
    """The mean of 2.5 x max(cosine, 0) (Hessel et al. 2021). Clamped pair by pair; torchmetrics clamps the mean."""


def clip_score(cosines: Sequence[float] | np.ndarray) -> AlignmentScore:
    """The CLIP score (Hessel et al. 2021) of N >= 1 pairs of image and caption.

    Args:
        cosines: (N,) of each image's embedding with its own caption's, as of `AlignmentModel.cosines`.
    """
    values = np.asarray(cosines, np.float64)
    cosine = estimate(values)
    return AlignmentScore(
        cosine=cosine,
        standard_error=float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else None,
        times_100=100 * cosine.value,
        clamped=float((2.5 * values.clip(min=0)).mean()),
    )
