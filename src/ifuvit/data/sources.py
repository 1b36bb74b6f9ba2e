"""Where images with captions come from, for training and for evaluation alike: one class a source.

A new source is one class with `read` and `at` (or one here that calls its module), and one line of `SOURCES`: then
`ifuvit prepare NAME` reads it, and `ifuvit evaluate --data PLACE` recognizes it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol, Self

from tyro.conf import Positional

from ifuvit.utils.errors import InputError

if TYPE_CHECKING:
    from ifuvit.data.images import CaptionedImage


class Source(Protocol):
    """Images with captions."""

    def read(self) -> "list[CaptionedImage]":
        """The images in a fixed order, each with its captions. No pixel is read yet.

        Raises:
            InputError: the source is missing or malformed.
        """
        ...

    @classmethod
    def at(cls, place: str, split: str) -> Self | None:
        """The source of this kind at `place`, or None if what is there is of another kind.

        Args:
            place: a directory, a file or a name.
            split: "train" or "val"; sources without splits ignore it.
        """
        ...

    @property
    def split_name(self) -> str:
        """The split as results name it; "" where there are none."""
        ...


@dataclass(frozen=True, kw_only=True)
class CocoSource:
    """MS-COCO's captions, or OpenMoji Scenes, which have the same layout.

    Example:
        ifuvit prepare coco --images scenes/images/train --captions scenes/annotations/captions_train.json --out data
    """

    images: Path
    """The directory of the images."""
    captions: Path
    """The annotation file, captions_*.json."""
    instances: Path | None = None
    """The boxes, instances_*.json: with them a model can be trained to predict the layout, too (--layout-weight)."""

    def read(self) -> "list[CaptionedImage]":
        from ifuvit.data.coco import read_coco

        return read_coco(self.images, self.captions, self.instances)

    @classmethod
    def at(cls, place: str, split: str) -> Self | None:
        directory = Path(place)
        for images, captions in _COCO_LAYOUTS:
            found = cls(images=directory / images.format(split), captions=directory / captions.format(split))
            if found.images.is_dir() and found.captions.is_file():
                return found
        if (directory / "annotations").is_dir():
            images, captions = (path.format(split) for path in _COCO_LAYOUTS[0])
            raise InputError(
                f"{place}: has annotations/, but not the split {split!r} (such as {images} with {captions}, or "
                f"{split}2014 with its captions)"
            )
        return None

    @property
    def split_name(self) -> str:
        return "train" if "train" in self.captions.name else "val"


# Where the images and captions of a split lie below one directory: OpenMoji Scenes, and MS-COCO as it is unpacked.
_COCO_LAYOUTS = (
    ("images/{0}", "annotations/captions_{0}.json"),
    ("{0}2014", "annotations/captions_{0}2014.json"),
    ("{0}2017", "annotations/captions_{0}2017.json"),
    ("images/{0}2014", "annotations/captions_{0}2014.json"),
    ("images/{0}2017", "annotations/captions_{0}2017.json"),
)


@dataclass(frozen=True, kw_only=True)
class DatasetSource:
    """Many images in few files: WebDataset, parquet, or a data set of the Hugging Face Hub.

    Example:
        ifuvit prepare dataset train-0000.tar train-0001.tar --out data
    """

    sources: Positional[tuple[str, ...]]
    """WebDataset files (.tar) or parquet files (.parquet), here or in object storage (s3://…), or one name of a data set on
    the Hugging Face Hub."""
    name: str | None = None
    """The configuration of a data set that has several."""
    split: str = "train"
    """Which split; slices such as "train[:1000]" work too."""
    image_column: str | None = None
    """The column of the images. Default: the only one there is."""
    caption_column: str | None = None
    """The column of the captions (text, or lists of text); "json.caption" reaches into a column of JSON. Default:
    caption, captions, text, txt or json.caption."""

    def read(self) -> "list[CaptionedImage]":
        from ifuvit.data.library import read_dataset

        return read_dataset(
            self.sources,
            name=self.name,
            split=self.split,
            image_column=self.image_column,
            caption_column=self.caption_column,
        )

    @classmethod
    def at(cls, place: str, split: str) -> Self | None:
        # A name on the hub is given to `ifuvit prepare dataset` alone: a mistyped path must not reach the network.
        return cls(sources=(place,)) if place.endswith((".tar", ".parquet")) else None

    @property
    def split_name(self) -> str:
        return ""


@dataclass(frozen=True, kw_only=True)
class FolderSource:
    """A folder of images. The caption of x.png is the first line of x.txt next to it, or a line of metadata.jsonl.

    Example:
        ifuvit prepare folder photographs --out data
    """

    folder: Positional[Path]
    """The folder; images in folders below it count too."""

    def read(self) -> "list[CaptionedImage]":
        from ifuvit.data.folder import read_folder

        return read_folder(self.folder)

    @classmethod
    def at(cls, place: str, split: str) -> Self | None:
        return cls(folder=Path(place)) if Path(place).is_dir() else None

    @property
    def split_name(self) -> str:
        return ""


SOURCES: Mapping[str, type[Source]] = MappingProxyType(
    {"coco": CocoSource, "dataset": DatasetSource, "folder": FolderSource}
)
"""All sources by name, in the order in which a place is tried; a folder comes last, since any directory is one."""


def find_source(place: str | Path, split: str) -> Source:
    """The source at a place.

    Args:
        place: a directory that `ifuvit scenes` wrote; MS-COCO unpacked, with annotations/ and val2014/ (or val2017/)
            next to each other; a folder of captioned images; WebDataset or parquet files.
        split: "train" or "val", for sources that have splits.

    Raises:
        InputError: none of the sources is there.
    """
    for kind in SOURCES.values():
        if (source := kind.at(str(place), split)) is not None:
            return source
    raise InputError(f"{place}: no such directory of images with captions")
