"""What lies in folders of images: links, pipes, hidden files, every kind of image file."""

import os
from pathlib import Path

import pytest
from PIL import Image

from ifuvit.data.folder import read_folder
from ifuvit.data.images import SUFFIXES, list_images, load_image


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path, format="PNG")
    path.with_suffix(".txt").write_text("a bus")
    return path


def listed(folder: Path) -> tuple[list[str], list[str]]:
    images, others = list_images(folder)
    return [p.relative_to(folder).as_posix() for p in images], [p.relative_to(folder).as_posix() for p in others]


def test_links_up_the_tree_and_to_each_other(tmp_path: Path) -> None:
    image(tmp_path / "a" / "1.png")
    image(tmp_path / "b" / "2.png")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "b" / "to-a").symlink_to(tmp_path / "a")
    (tmp_path / "again").symlink_to(tmp_path / "b")
    images, _ = list_images(tmp_path)
    assert sorted(path.name for path in images) == ["1.png", "2.png"]


def test_a_folder_that_is_a_link(tmp_path: Path) -> None:
    image(tmp_path / "disk" / "1.png")
    (tmp_path / "data").symlink_to(tmp_path / "disk")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "part").symlink_to(tmp_path / "disk")
    assert listed(tmp_path / "data")[0] == ["1.png"] and listed(tmp_path / "set")[0] == ["part/1.png"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="requires named pipes")
def test_pipes_and_dangling_links_are_others(tmp_path: Path) -> None:
    image(tmp_path / "1.png")
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    images, others = listed(tmp_path)
    assert images == ["1.png"] and {"pipe.png", "gone.png", "pipe.txt"} <= set(others)
    assert [one.id for one in read_folder(tmp_path)] == ["1.png"]


def test_hidden_files_of_other_systems(tmp_path: Path) -> None:
    image(tmp_path / "1.png")
    (tmp_path / "._1.png").write_bytes(b"\0\5\26\7")
    (tmp_path / ".thumbnails").mkdir()
    image(tmp_path / ".thumbnails" / "1.png")
    assert listed(tmp_path) == (["1.png"], ["1.txt"])


def test_every_kind_of_image_file_is_listed_and_read(tmp_path: Path, capsys) -> None:
    Image.init()
    can = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.SAVE}
    written = sorted(SUFFIXES & can)
    assert {".jfif", ".jpe", ".ppm", ".png", ".tiff", ".webp"} <= set(written)
    for number, suffix in enumerate(written):
        path = tmp_path / f"{number}{suffix.upper() if number % 2 else suffix}"
        Image.new("RGB", (8, 8), (200, 30, 30)).save(path)
        path.with_suffix(".txt").write_text("red")
    assert len(read_folder(tmp_path)) == len(written)
    for one in read_folder(tmp_path):
        assert isinstance(one.source, Path) and load_image(one.source).size == (8, 8)
    (tmp_path / "notes.xcf").write_bytes(b"")
    (tmp_path / "readme.md").write_text("")
    capsys.readouterr()
    read_folder(tmp_path)
    assert "2 files are neither images nor captions" in capsys.readouterr().err
