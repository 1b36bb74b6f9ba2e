"""Writing a data set of scenes in MS-COCO's layout."""

import json
from pathlib import Path
from typing import Any

from ifuvit.data.scenes.captions import prompt_for, relation_prompt_for
from ifuvit.data.scenes.contents import KIND_INDEX, KINDS, count_combinations, relation_combinations
from ifuvit.data.scenes.drawing import RELATION_SHARE, Split, check_seed_and_size, draw_scene, openmoji_version
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import OutputDirectory, atomic_path, write_json, write_text


def write_scenes(
    out: str | Path,
    *,
    size: int = 64,
    train: int,
    val: int,
    seed: int = 0,
    relations: float = RELATION_SHARE,
    progress: bool = False,
) -> Path:
    """Write a data set in MS-COCO's layout: images/{train,val}/*.png, annotations/captions_{train,val}.json,
    annotations/instances_{train,val}.json, held_out.json, ATTRIBUTION.txt.

    An image's number in the file name, its `id` and its index for `draw_scene` are the same. Next to COCO's fields an
    image's record has `held_out`, `background`, and `relation`. Every file takes its name when it is whole, annotations
    follow images, and everything is drawn again at each call, so a call after an interrupted one completes the set.

    Args:
        out: the directory; new, empty, or of an earlier call with the same size and seed and not more images.
        size: side of the square images in pixels.
        train: number of training images.
        val: number of validation images, of which a quarter show held-out combinations.
        seed: 0 or more.
        relations: share of the training images that show two kinds with a relation; of validation images it is always the
            default, so that references stay comparable.
        progress: whether to show a progress bar on standard error.

    Raises:
        InputError: a number out of range, a directory that holds something else, or a missing package.
    """
    check_seed_and_size(seed, size)
    for name, number in (("train", train), ("val", val)):
        if number < 0:
            raise InputError(f"{name} {number} is negative; give 0 or more")
    if train + val == 0:
        raise InputError("train and val are both 0; there is nothing to draw")
    if not 0 <= relations <= 1:
        raise InputError(f"relations {relations}: must be between 0 and 1")
    out = Path(out)
    settings = {"format": 1, "size": size, "seed": seed, "train": train, "val": val, "openmoji": openmoji_version()}
    if relations != RELATION_SHARE:
        settings["relations"] = relations
    with _directory(out).lock():
        _begin(out, settings)
        write_text(out / "ATTRIBUTION.txt", _attribution())
        write_json(out / "held_out.json", held_out())
        _write_split(out, "train", train, size, seed, relations, progress)
        _write_split(out, "val", val, size, seed, RELATION_SHARE, progress)
    return out


def held_out() -> dict[str, list[dict[str, Any]]]:
    """The held-out combinations as JSON values: {"counts": [{"object", "count", "prompt"}], "relations":
    [{"subject", "relation", "object", "prompt"}]}. A relation and its inverse are both listed."""
    return {
        "counts": [
            {"object": KINDS[number].name, "count": count, "prompt": prompt_for(KINDS[number].name, count)}
            for number, count in count_combinations(True)
        ],
        "relations": [
            {
                "subject": KINDS[first].name,
                "relation": relation,
                "object": KINDS[second].name,
                "prompt": relation_prompt_for(KINDS[first].name, relation, KINDS[second].name),
            }
            for first, relation, second in relation_combinations(True)
        ],
    }


def _attribution() -> str:
    return (
        "The images in this directory are composed from emoji designed by OpenMoji, the open-source emoji and icon\n"
        "project (https://openmoji.org, https://github.com/hfg-gmuend/openmoji), "
        f"version {openmoji_version()}.\n"
        "OpenMoji is licensed CC BY-SA 4.0 (https://creativecommons.org/licenses/by-sa/4.0/).\n"
        "Changes: emoji were scaled, and composed on colored backgrounds.\n"
        "The images are licensed CC BY-SA 4.0 as well. Whoever passes them on must keep this note.\n"
    )


def _directory(out: Path) -> OutputDirectory:
    return OutputDirectory(out, "scenes", record="scenes.json", signed=False)


def _begin(out: Path, settings: dict[str, Any]) -> None:
    """Refuse a directory that holds something else, so that no image of another data set stays among these."""
    directory = _directory(out)
    counts = {split: settings[split] for split in ("train", "val")}
    before = directory.earlier() or {}
    for split, count in counts.items():
        if before.get(split, 0) > count:
            raise InputError(
                f"--out {out}: holds {before[split]} scenes of {split}; give --{split} {before[split]} or more"
            )
    directory.begin({name: value for name, value in settings.items() if name not in counts}, **counts)
    (out / "manifest.json").unlink(missing_ok=True)


def _write_split(out: Path, split: Split, count: int, size: int, seed: int, relations: float, progress: bool) -> None:
    from PIL import Image
    from tqdm import tqdm

    folder = out / "images" / split
    folder.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    captions: list[dict[str, Any]] = []
    instances: list[dict[str, Any]] = []
    for index in tqdm(range(count), desc=f"{split} scenes", unit="image", disable=None if progress else True):
        scene = draw_scene(seed, index, size=size, split=split, relation_share=relations)
        name = f"{index:012d}.png"
        with atomic_path(folder / name, sync=False) as temporary:  # an image lost with the power is drawn again
            Image.fromarray(scene.image).save(temporary, format="PNG", compress_level=4)
        images.append(
            {
                "id": index,
                "file_name": name,
                "width": size,
                "height": size,
                "held_out": scene.held_out,
                "background": scene.background,
                "relation": scene.relation,
            }
        )
        for caption in scene.captions:
            # COCO's tools take an annotation with id 0 for none.
            captions.append({"id": len(captions) + 1, "image_id": index, "caption": caption})
        for kind, (x, y, w, h) in scene.objects:
            instances.append(
                {
                    "id": len(instances) + 1,
                    "image_id": index,
                    "category_id": KIND_INDEX[kind] + 1,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                }
            )
    info = {"description": f"OpenMoji Scenes, {split}, seed {seed}", "version": "1"}
    licenses = [{"id": 1, "name": "CC BY-SA 4.0", "url": "https://creativecommons.org/licenses/by-sa/4.0/"}]
    categories = [
        {"id": number + 1, "name": kind.name, "supercategory": kind.group} for number, kind in enumerate(KINDS)
    ]
    common = {"info": info, "licenses": licenses, "images": images}
    _write_compact(out / "annotations" / f"captions_{split}.json", {**common, "annotations": captions})
    _write_compact(
        out / "annotations" / f"instances_{split}.json",
        {**common, "annotations": instances, "categories": categories},
    )


def _write_compact(path: Path, value: Any) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value), encoding="utf-8")
