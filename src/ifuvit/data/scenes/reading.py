"""Reading back what the annotations of a written data set tell of its images."""

from pathlib import Path
from typing import NamedTuple

from ifuvit.data.scenes.contents import BACKGROUNDS, KIND_INDEX, RELATIONS, Relation
from ifuvit.data.scenes.drawing import Split
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import read_json


class WrittenScene(NamedTuple):
    """An image on the disk, and what is known about it; like `Scene`, but without captions."""

    file: Path
    size: tuple[int, int]
    """Width and height in pixels."""
    objects: tuple[tuple[str, tuple[float, float, float, float]], ...]
    relation: Relation | None
    background: str
    held_out: bool


def is_scenes(directory: Path) -> bool:
    """Whether a directory holds OpenMoji Scenes."""
    return (directory / "annotations").is_dir() and (directory / "held_out.json").is_file()


def read_annotations(directory: Path, split: Split) -> dict[int, WrittenScene]:
    """The images of one split by their ids.

    Raises:
        InputError: missing or broken annotations, or images of other things than OpenMoji Scenes.
    """
    path = directory / "annotations" / f"instances_{split}.json"
    if not path.is_file():
        raise InputError(f"{directory}: holds no scenes ({path} is missing); `ifuvit scenes --out DIR` draws some")
    content = read_json(path)
    try:
        names = {item["id"]: item["name"] for item in content["categories"]}
        objects: dict[int, list[tuple[str, tuple[float, float, float, float]]]]
        objects = {image["id"]: [] for image in content["images"]}
        for item in content["annotations"]:
            x, y, w, h = map(float, item["bbox"])
            objects[item["image_id"]].append((names[item["category_id"]], (x, y, w, h)))
        scenes = {
            image["id"]: WrittenScene(
                file=directory / "images" / split / image["file_name"],
                size=(image["width"], image["height"]),
                objects=tuple(objects[image["id"]]),
                relation=image["relation"],
                background=image["background"],
                held_out=image["held_out"],
            )
            for image in content["images"]
        }
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise InputError(f"{path}: not the annotations of OpenMoji Scenes ({error!r})") from None
    backgrounds = {background.name for background in BACKGROUNDS}
    for scene in scenes.values():
        kinds = {kind for kind, _ in scene.objects}
        known = kinds <= KIND_INDEX.keys() and str(scene.background) in backgrounds
        sized = all(type(side) is int for side in scene.size)
        if not (kinds and known and sized and scene.relation in (None, *RELATIONS)):
            raise InputError(f"{path}: not the annotations of OpenMoji Scenes (see {scene.file.name})")
    return scenes
