"""A place is recognized as one source, for every source, and each reads what it names."""

import json
import os

import pytest
from PIL import Image

from ifuvit.data.images import list_images
from ifuvit.data.sources import CocoSource, DatasetSource, FolderSource, find_source
from ifuvit.evaluation.reference_images import ReferenceImages
from ifuvit.utils.errors import InputError


def write(path, caption=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption)


def write_coco(root, images, captions):
    write(root / images / "1.png")
    content = {"images": [{"id": 1, "file_name": "1.png"}], "annotations": [{"image_id": 1, "caption": "a bus"}]}
    (root / captions).parent.mkdir(parents=True, exist_ok=True)
    (root / captions).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("images", "captions"),
    [
        ("images/val", "annotations/captions_val.json"),
        ("val2014", "annotations/captions_val2014.json"),
        ("images/val2017", "annotations/captions_val2017.json"),
    ],
)
def test_layouts_of_coco(tmp_path, images, captions):
    write_coco(tmp_path, images, captions)
    source = find_source(tmp_path, "val")
    assert source == CocoSource(images=tmp_path / images, captions=tmp_path / captions) and source.split_name == "val"
    assert [image.captions for image in source.read()] == [("a bus",)]
    with pytest.raises(InputError, match="has annotations/, but not the split 'train'"):
        find_source(tmp_path, "train")


def test_a_folder_comes_last(tmp_path):
    write(tmp_path / "a.png", "a bus")
    assert find_source(tmp_path, "val") == FolderSource(folder=tmp_path)
    assert ReferenceImages.open(tmp_path).split == ""


def test_files_of_a_library_are_evaluated_like_others(tmp_path):
    datasets = pytest.importorskip("datasets")
    write(tmp_path / "a.png")
    rows = {"image": [{"bytes": (tmp_path / "a.png").read_bytes(), "path": None}] * 2, "text": ["a bus", "a dog"]}
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    place = tmp_path / "x.parquet"
    datasets.Dataset.from_dict(rows, features=features).to_parquet(place)
    assert isinstance(find_source(place, "val"), DatasetSource)
    reference = ReferenceImages.open(place)
    assert len(reference) == 2 and reference.captions == [("a bus",), ("a dog",)] and len(reference.fingerprint) == 64


@pytest.mark.parametrize("place", ["absent", "user/name"])
def test_names_do_not_reach_the_network(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"{place}: no such directory of images with captions"):
        find_source(place, "val")


def test_every_file_is_listed_once(tmp_path):
    """Links back up the tree and folders linked twice add nothing; pipes and dead links do not hang."""
    for name in ("a.PNG", "sub/b.jfif", "sub/.hidden.png", ".git/c.png"):
        write(tmp_path / "set" / "x.png")
        (tmp_path / "set" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "set" / "x.png").rename(tmp_path / "set" / name)
    (tmp_path / "set" / "sub" / "up").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "twice").symlink_to(tmp_path / "set" / "sub")
    (tmp_path / "set" / "dead.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "set" / "notes.md").write_text("x")
    os.mkfifo(tmp_path / "set" / "pipe.png")
    images, others = list_images(tmp_path / "set")
    assert [path.name for path in images] == ["a.PNG", "b.jfif"]
    assert [path.name for path in others] == ["dead.png", "notes.md", "pipe.png"]
