"""The real side of an evaluation: images with captions that were not trained on."""

import hashlib
from pathlib import Path

import numpy as np

from ifuvit.data.coco import read_coco
from ifuvit.data.folder import read_folder
from ifuvit.data.images import CaptionedImage
from ifuvit.utils.errors import InputError

# Where the images and captions of a split lie: OpenMoji Scenes, and MS-COCO as it is unpacked.
_LAYOUTS = (
    ("images/{split}", "annotations/captions_{split}.json"),
    ("{split}2014", "annotations/captions_{split}2014.json"),
    ("{split}2017", "annotations/captions_{split}2017.json"),
    ("images/{split}2014", "annotations/captions_{split}2014.json"),
    ("images/{split}2017", "annotations/captions_{split}2017.json"),
)


class ReferenceImages:
    """The usable images of one split, in the order of their ids.

    Attributes:
        directory, split: where they come from; `split` is "" for a folder, which has none.
        files: their paths.
        captions: the captions of each, at least one.
        ids: their ids in the data set.
        left_out: how many images were listed but have no file or no caption.
    """

    def __init__(self, directory: Path, split: str, images: list[CaptionedImage]) -> None:
        usable = [
            (image.id, image.source, captions)
            for image in images
            if image.problem is None
            and isinstance(image.source, Path)
            and (captions := tuple(caption.strip() for caption in image.captions if caption.strip()))
        ]
        self.directory, self.split = directory, split
        self.ids = [identity for identity, _, _ in usable]
        self.files = [source for _, source, _ in usable]
        self.captions = [captions for _, _, captions in usable]
        self.left_out = len(images) - len(usable)

    @classmethod
    def open(cls, directory: str | Path, *, split: str = "val") -> "ReferenceImages":
        """Find the images of a data set.

        Args:
            directory: what `ifuvit scenes` wrote; MS-COCO unpacked, with annotations/ and val2014/ (or val2017/) side by
                side; or a folder of captioned images (sidecar text files or a metadata.jsonl), which has no splits.
            split: "val" or "train".

        Raises:
            InputError: no such directory, neither layout in it, or a broken annotation file.
        """
        directory = Path(directory)
        if not directory.is_dir():
            raise InputError(f"{directory}: no such directory of real images")
        for images, captions in _LAYOUTS:
            place, file = directory / images.format(split=split), directory / captions.format(split=split)
            if file.is_file() and place.is_dir():
                return cls(directory, split, read_coco(place, file))
        if (directory / "annotations").is_dir():
            raise InputError(
                f"{directory}: has annotations/, but not the split {split!r} (such as {_LAYOUTS[0][0].format(split=split)} "
                f"with {_LAYOUTS[0][1].format(split=split)}, or {split}2014 with its captions)"
            )
        return cls(directory, "", read_folder(directory))

    def __len__(self) -> int:
        return len(self.files)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over ids, file sizes and captions (not over the files' bytes, which would take minutes for COCO)."""
        digest = hashlib.sha256()
        for identity, file, captions in zip(self.ids, self.files, self.captions):
            digest.update(repr((identity, file.stat().st_size, captions)).encode())
        return digest.hexdigest()

    def choose(self, count: int, seed: int = 0) -> list[tuple[Path, str]]:
        """`count` different images at random, each with one of its captions at random. The first of a larger choice
        are the smaller choice.

        Raises:
            InputError: there are not as many.
        """
        if count > len(self):
            raise InputError(
                f"{self.directory}: {len(self):,} usable images{f' in {self.split}' * bool(self.split)}, fewer than the "
                f"{count:,} of the protocol; give --num-images {len(self)} (another protocol then, and named so), or more data"
            )
        chosen = np.random.default_rng([seed, 0]).permutation(len(self))[:count].tolist()
        draws = np.random.default_rng([seed, 1]).random(count)
        return [
            (self.files[row], self.captions[row][int(draw * len(self.captions[row]))])
            for row, draw in zip(chosen, draws)
        ]

    def others(self, count: int, seed: int = 0, *, beyond: int) -> list[Path] | None:
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
                train = ReferenceImages.open(self.directory, split="train")
            except InputError:
                return None
            if train.split and len(train) >= count:
                return [file for file, _ in train.choose(count, seed)]
        return None
