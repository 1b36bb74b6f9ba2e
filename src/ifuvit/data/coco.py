"""MS-COCO's captions: a directory of images and one annotation file."""

import os
from pathlib import Path
from typing import Any

from ifuvit.data.images import CaptionedImage, check_inside
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import read_json


def read_coco(images: str | Path, captions: str | Path) -> list[CaptionedImage]:
    """The images of a COCO captions file in the order of their ids (U-ViT's order), each with its captions in the
    order of the file.

    An image whose file is missing, or which has no annotation, is given with its `problem` set.

    Args:
        images: the directory that holds the `file_name`s.
        captions: `captions_train2014.json` or a file of its layout: {"images": [{"id", "file_name"}, ...],
            "annotations": [{"image_id", "caption"}, ...]}.

    Raises:
        InputError: no such directory or file; a truncated or malformed annotation file; an image id listed twice; an
            annotation of an image that is not listed; none of the images in the directory.
    """
    images, captions = Path(images), Path(captions)
    if not images.is_dir():
        raise InputError(f"{images}: no such directory of images")
    content = read_json(captions)
    if not isinstance(content, dict):
        raise InputError(f"{captions}: not a COCO captions file: its top level is a {type(content).__name__}")
    files: dict[int, str] = {}
    for number, image in enumerate(_list(content, "images", captions)):
        where = f"{captions}: images[{number}]"
        identity, file_name = _field(image, "id", int, where), _field(image, "file_name", str, where)
        check_inside(file_name, where)
        if identity in files:
            raise InputError(f"{where}: image id {identity} is listed twice")
        files[identity] = file_name
    by_image: dict[int, list[str]] = {identity: [] for identity in files}
    for number, annotation in enumerate(_list(content, "annotations", captions)):
        where = f"{captions}: annotations[{number}]"
        identity = _field(annotation, "image_id", int, where)
        if "caption" not in annotation and "category_id" in annotation:
            raise InputError(f"{where}: has a box but no caption; give the captions_*.json, not the instances_*.json")
        caption = _field(annotation, "caption", str, where)
        if identity not in by_image:
            raise InputError(f"{where}: caption of image id {identity}, which is not among the file's images")
        by_image[identity].append(caption)
    if not files:
        raise InputError(f"{captions}: lists no images")
    present = _present(images, files.values())
    if not present:
        example = files[min(files)]
        raise InputError(f"{images}: has none of the images that {captions} lists (such as {example})")
    return [
        CaptionedImage(
            str(identity),
            images / files[identity],
            tuple(by_image[identity]),
            None if files[identity] in present else f"{images / files[identity]}: no such file",
        )
        for identity in sorted(files)
    ]


def _present(images: Path, names: Any) -> set[str]:
    """Those of `names` that exist under `images`; one listing a directory, for a stat of every file is slow on network
    storage."""
    listings: dict[str, set[str]] = {}
    present = set()
    for name in names:
        folder, base = os.path.split(name)
        if folder not in listings:
            listings[folder] = set(os.listdir(images / folder)) if (images / folder).is_dir() else set()
        if base in listings[folder]:
            present.add(name)
    return present


def _list(content: dict[str, Any], key: str, where: Path) -> list[Any]:
    if not isinstance(content.get(key), list):
        raise InputError(f"{where}: not a COCO captions file: it has no list {key!r}")
    return content[key]


def _field(entry: Any, key: str, kind: type, where: str) -> Any:
    if not isinstance(entry, dict) or key not in entry:
        raise InputError(f"{where}: has no {key!r}")
    if type(entry[key]) is not kind:
        raise InputError(f"{where}: {key} is {entry[key]!r}, not {'a number' if kind is int else 'text'}")
    return entry[key]
