"""The real side: layouts that are found, choices that nest, and further images for the floor."""

import shutil
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from ifuvit.data.images import CaptionedImage
from ifuvit.data.scenes import write_scenes
from ifuvit.evaluation.reference_images import ReferenceImages
from ifuvit.utils.errors import InputError


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("drawn") / "scenes", train=9, val=8)


def test_scenes_and_coco_layouts_are_the_same_images(scenes, tmp_path):
    val = ReferenceImages.open(scenes)
    assert len(val) == 8 and all(len(captions) == 5 for captions in val.captions) and val.split == "val"
    (tmp_path / "annotations").mkdir()
    shutil.copy(scenes / "annotations/captions_val.json", tmp_path / "annotations/captions_val2014.json")
    shutil.copytree(scenes / "images/val", tmp_path / "val2014")
    coco = ReferenceImages.open(tmp_path)
    assert coco.ids == val.ids and coco.captions == val.captions and coco.fingerprint == val.fingerprint
    with pytest.raises(InputError, match="not the split 'train'"):
        ReferenceImages.open(tmp_path, split="train")


def test_folder(tmp_path):
    for name, caption in (("a", "a bus"), ("b", "  "), ("c", "two sheep")):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(caption)
    real = ReferenceImages.open(tmp_path)
    assert real.ids == ["a.png", "c.png"] and real.left_out == 1 and real.split == ""


def test_a_choice_holds_the_smaller_choices_and_no_image_twice(scenes):
    real = ReferenceImages.open(scenes)
    chosen = real.choose(8, seed=3)
    assert len({file for file, _ in chosen}) == 8
    assert real.choose(5, seed=3) == chosen[:5] and real.choose(8, seed=4) != chosen
    for file, caption in chosen:
        assert caption in real.captions[real.files.index(file)]
    with pytest.raises(InputError, match=r"8 usable images in val, fewer than the 9 .*--num-images 8"):
        real.choose(9)


def test_all_captions_of_an_image_are_chosen_alike(tmp_path):
    """The first is not favored, nor the plainest: all places of five come up, about equally often."""
    images = [CaptionedImage(str(n), Path(f"{n}.png"), ("aaaaa", "bbb", "c", "dd", "eeee")) for n in range(500)]
    chosen = Counter(caption for _, caption in ReferenceImages(tmp_path, "", images).choose(500))
    assert set(chosen) == {"aaaaa", "bbb", "c", "dd", "eeee"} and 60 < min(chosen.values())


def test_half_of_the_images_missing_is_told(tmp_path, capsys):
    for number in range(24):
        (tmp_path / f"{number}.png").touch()
        if number >= 11:
            (tmp_path / f"{number}.txt").write_text("a bus")
    with pytest.raises(InputError, match="11 of 24 listed images have no file or no caption"):
        ReferenceImages.open(tmp_path)
    (tmp_path / "0.txt").write_text("a bus")
    capsys.readouterr()
    assert len(ReferenceImages.open(tmp_path)) == 14
    assert "10 images without a file or a caption are left out" in capsys.readouterr().err


def test_the_floor_is_of_images_that_are_not_in_the_choice(scenes):
    real = ReferenceImages.open(scenes)
    files = real.others(4, 3, beyond=4)
    assert files is not None and not set(files) & {file for file, _ in real.choose(4, 3)}
    files = real.others(4, 3, beyond=8)
    assert files is not None and all(file.parent.name == "train" for file in files)
    assert real.others(10, beyond=8) is None


def test_bad_data(tmp_path):
    with pytest.raises(InputError, match="no such directory"):
        ReferenceImages.open(tmp_path / "none")
    with pytest.raises(InputError, match="holds no images"):
        ReferenceImages.open(tmp_path)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val2017").mkdir()
    (tmp_path / "annotations/captions_val2017.json").write_text('{"images": [')
    with pytest.raises(InputError, match="truncated"):
        ReferenceImages.open(tmp_path)
