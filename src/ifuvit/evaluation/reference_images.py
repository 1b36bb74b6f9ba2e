"""Reference images: images with captions that were not trained on."""

import hashlib
import sys
from pathlib import Path

import numpy as np

from ifuvit.data.images import CaptionedImage, ImageSource, fingerprint_of, is_text
from ifuvit.data.sources import find_source
from ifuvit.utils.errors import InputError

MOST_LEFT_OUT = 0.1
"""The share of listed images that may be without a file or a caption; ten may always be."""


class ReferenceImages:
    """The usable images of one split, in the order of their source.

    Attributes:
        place, split: where they come from; `split` is "" for sources without splits.
        files: where to read them.
        captions: the captions of each, at least one.
        ids: their ids in the data set.
        left_out: how many images are listed but have no file or no caption.
    """

    def __init__(self, place: str | Path, split: str, images: list[CaptionedImage]) -> None:
        usable = [
            (image.id, image.source, captions)
            for image in images
            if image.problem is None
            and (
                captions := tuple(caption.strip() for caption in image.captions if caption.strip() and is_text(caption))
            )
        ]
        self.place, self.split = place, split
        self.ids = [identity for identity, _, _ in usable]
        self.files = [source for _, source, _ in usable]
        self.captions = [captions for _, _, captions in usable]
        self.left_out = len(images) - len(usable)

    @classmethod
    def open(cls, place: str | Path, *, split: str = "val") -> "ReferenceImages":
        """The images of a data set.

        Args:
            place: see `ifuvit.data.sources.find_source`.
            split: "val" or "train".

        Raises:
            InputError: no source of images with captions is there, a broken annotation file, or more than `MOST_LEFT_OUT`
                of the images are without a file or a caption.
        """
        source = find_source(place, split)
        images = cls(place, source.split_name and split, source.read())
        if images.left_out > max(10, MOST_LEFT_OUT * (len(images) + images.left_out)):
            raise InputError(
                f"{place}: {images.left_out:,} of {len(images) + images.left_out:,} listed images have no file or no caption; a "
                "comparison with the rest would be another one"
            )
        if images.left_out:
            print(f"{place}: {images.left_out:,} images without a file or a caption are left out", file=sys.stderr)
        return images

    def __len__(self) -> int:
        return len(self.files)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over ids, file sizes and captions (not over the files' bytes, which would take minutes for COCO)."""
        digest = hashlib.sha256()
        for identity, file, captions in zip(self.ids, self.files, self.captions):
            digest.update(repr((identity, fingerprint_of(file)[1], captions)).encode())
        return digest.hexdigest()

    def choose(self, count: int, seed: int = 0) -> list[tuple[ImageSource, str]]:
        """`count` different images at random, each with one of its captions at random. The first of a larger choice
        are the smaller choice.

        Raises:
            InputError: there are not as many.
        """
        if count > len(self):
            raise InputError(
                f"{self.place}: {len(self):,} usable images{f' in {self.split}' * bool(self.split)}, fewer than the "
                f"{count:,} of the protocol; give --num-images {len(self)} (another protocol then, and named so), or more data"
            )
        chosen = np.random.default_rng([seed, 0]).permutation(len(self))[:count].tolist()
        draws = np.random.default_rng([seed, 1]).random(count)
        return [
            (self.files[row], self.captions[row][int(draw * len(self.captions[row]))])
            for row, draw in zip(chosen, draws)
        ]

    def others(self, count: int, seed: int = 0, *, beyond: int) -> list[ImageSource] | None:
        """`count` further real images for the real-versus-real floor.

        Args:
            count: how many.
            seed: that of `choose`.
            beyond: the first so many of the choice are taken.

        Returns:
            Further images of this split if there are enough; else of "train"; None where neither has as many.
        """
        if len(self) >= beyond + count:
            order = np.random.default_rng([seed, 0]).permutation(len(self))[beyond : beyond + count].tolist()
            return [self.files[row] for row in order]
        if self.split and self.split != "train":
            try:
                train = ReferenceImages.open(self.place, split="train")
            except InputError:
                return None
            if train.split and len(train) >= count:
                return [file for file, _ in train.choose(count, seed)]
        return None
