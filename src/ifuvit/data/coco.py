"""MS-COCO's captions: a directory of images and one annotation file."""

import os
from pathlib import Path
from typing import Any

from ifuvit.data.images import Box, CaptionedImage, check_inside
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import read_json


def read_coco(images: str | Path, captions: str | Path, instances: str | Path | None = None) -> list[CaptionedImage]:
    """The images of a COCO captions file in the order of their ids (U-ViT's order), each with its captions in the
    order of the file.

    An image whose file is missing, or which has no annotation, is given with its `problem` set.

    Args:
        images: the directory that holds the `file_name`s.
        captions: `captions_train2014.json` or a file of its layout: {"images": [{"id", "file_name"}, ...],
            "annotations": [{"image_id", "caption"}, ...]}.
        instances: `instances_train2014.json` or a file of its layout, for the images' boxes: {"images": [{"id", "width",
            "height"}, ...], "annotations": [{"image_id", "category_id", "bbox"}, ...], "categories": [{"id"}, ...]}.

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
    boxes = None if instances is None else read_boxes(Path(instances))
    return [
        CaptionedImage(
            str(identity),
            images / files[identity],
            tuple(by_image[identity]),
            None if files[identity] in present else f"{images / files[identity]}: no such file",
            None if boxes is None else tuple(boxes.get(identity, ())),
        )
        for identity in sorted(files)
    ]


def read_boxes(instances: Path) -> dict[int, list[Box]]:
    """The boxes of a COCO instances file by image id, kinds numbered in the order of the categories' ids.

    Raises:
        InputError: a malformed file, or a box of an image or a category that it does not list.
    """
    content = read_json(instances)
    if not isinstance(content, dict):
        raise InputError(f"{instances}: not a COCO instances file: its top level is a {type(content).__name__}")
    categories = _list(content, "categories", instances)
    numbers = [_field(entry, "id", int, f"{instances}: categories[{n}]") for n, entry in enumerate(categories)]
    kinds = {identity: number for number, identity in enumerate(sorted(numbers))}
    squares: dict[int, tuple[float, float, int]] = {}
    for number, image in enumerate(_list(content, "images", instances)):
        where = f"{instances}: images[{number}]"
        width, height = _field(image, "width", int, where), _field(image, "height", int, where)
        side = min(width, height)
        if side < 1:
            raise InputError(f"{where}: is {width} x {height}")
        squares[_field(image, "id", int, where)] = ((width - side) // 2, (height - side) // 2, side)
    boxes: dict[int, list[Box]] = {}
    for number, annotation in enumerate(_list(content, "annotations", instances)):
        where = f"{instances}: annotations[{number}]"
        identity, category = _field(annotation, "image_id", int, where), _field(annotation, "category_id", int, where)
        bbox = _field(annotation, "bbox", list, where)
        if identity not in squares or category not in kinds:
            raise InputError(f"{where}: of image {identity} and category {category}, which are not both listed")
        if len(bbox) != 4 or not all(isinstance(value, (int, float)) for value in bbox):
            raise InputError(f"{where}: bbox is {bbox!r}, not four numbers")
        left, top, side = squares[identity]
        x, y, w, h = bbox
        boxes.setdefault(identity, []).append(
            Box(kinds[category], (x - left) / side, (y - top) / side, w / side, h / side)
        )
    return boxes


_KINDS = {int: "a number", str: "text", list: "a list"}


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
        raise InputError(f"{where}: not a file of COCO's layout: it has no list {key!r}")
    return content[key]


def _field(entry: Any, key: str, kind: type, where: str) -> Any:
    if not isinstance(entry, dict) or key not in entry:
        raise InputError(f"{where}: has no {key!r}")
    if type(entry[key]) is not kind:
        raise InputError(f"{where}: {key} is {entry[key]!r}, not {_KINDS[kind]}")
    return entry[key]
