"""Text that UTF-8 cannot hold, marks of Windows' editors, and names that lead out of a folder."""

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from ifuvit.data.coco import read_coco
from ifuvit.data.folder import read_folder
from ifuvit.data.plan import make_plan
from ifuvit.utils.errors import InputError
from ifuvit.utils.files import read_json, write_json

HALF = "\\ud83d"  # of a pair, as JSON writes it


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path, format="PNG")
    return path


def test_names_in_another_encoding(tmp_path: Path) -> None:
    """Images are used; what names them in files is escaped."""
    name = os.fsdecode(b"caf\xe9.png")
    image(tmp_path / name)
    (tmp_path / name).with_suffix(".txt").write_text("a café")
    plan = make_plan(read_folder(tmp_path))
    assert plan.captions == ["a café"] and [one.id for one in plan.images] == ["caf\\udce9.png"]
    assert isinstance(plan.images[0].source, Path) and plan.images[0].source.is_file()
    write_json(tmp_path / "x.json", {"path": str(tmp_path / name)})
    assert Path(read_json(tmp_path / "x.json")["path"]).is_file()


@pytest.mark.parametrize("source", ["metadata", "coco"])
def test_captions_that_are_no_text_are_left_out_and_named(tmp_path: Path, source: str) -> None:
    captions = {"a": f"a bus {HALF}", "b": "a bus", "c": "two"}
    for name in captions:
        image(tmp_path / "images" / f"{name}.png")
    if source == "metadata":
        lines = [f'{{"file_name": "{name}.png", "text": "{caption}"}}\n' for name, caption in captions.items()]
        (tmp_path / "images" / "metadata.jsonl").write_text("".join(lines))
        images = read_folder(tmp_path / "images")
    else:
        listed = {
            "images": [{"id": number, "file_name": f"{name}.png"} for number, name in enumerate(captions)],
            "annotations": [{"image_id": n, "caption": json.loads(f'"{c}"')} for n, c in enumerate(captions.values())],
        }
        (tmp_path / "captions.json").write_text(json.dumps(listed))
        images = read_coco(tmp_path / "images", tmp_path / "captions.json")
    plan = make_plan(images)
    assert plan.captions == ["a bus", "two"]
    (skipped,) = plan.skipped
    assert skipped["reason"] == "no caption is UTF-8 text" and skipped["id"] in ("0", "a.png")


def test_one_bad_caption_of_several(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text(f'{{"file_name": "a.png", "captions": ["a bus", "{HALF}", ""]}}\n')
    plan = make_plan(read_folder(tmp_path))
    assert plan.captions == ["a bus"]
    assert [entry["reason"] for entry in plan.skipped] == ["not UTF-8 text", "empty"]


def test_prompts_that_are_no_text(refusal, tmp_path: Path) -> None:
    bad = os.fsdecode(b"caf\xe9")
    assert "must be TEXT" in refusal("generate", bad)
    assert "--negative-prompt caf\\udce9: must be TEXT" in refusal("generate", "a", "--negative-prompt", bad)
    (tmp_path / "prompts.txt").write_bytes(b"caf\xe9\n")
    assert "not a UTF-8 text file" in refusal("generate", "--prompts-file", tmp_path / "prompts.txt")


def test_paths_in_another_encoding_are_told(refusal, tmp_path: Path) -> None:
    place = tmp_path / os.fsdecode(b"caf\xe9")
    assert "no such encoded data set" in refusal("train", "cross-early", "--data", place, "--out", tmp_path / "run")


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_windows_editors(tmp_path: Path, mark: bytes) -> None:
    image(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes(mark + b"a bus\r\nsecond line\r\n")
    assert make_plan(read_folder(tmp_path)).captions == ["a bus"]
    (tmp_path / "metadata.jsonl").write_bytes(mark + b'{"file_name": "a.png", "text": "two"}\r\n')
    assert make_plan(read_folder(tmp_path)).captions == ["two"]


@pytest.mark.parametrize("name", ["../x.png", "/etc/x.png", "a/../../x.png"])
def test_names_that_lead_out_of_the_folder(tmp_path: Path, name: str) -> None:
    image(tmp_path / "x.png")
    image(tmp_path / "images" / "b.png")
    (tmp_path / "images" / "metadata.jsonl").write_text(json.dumps({"file_name": name, "text": "a"}) + "\n")
    with pytest.raises(InputError, match="metadata.jsonl:1: .* lies outside the folder"):
        read_folder(tmp_path / "images")
    listed = {"images": [{"id": 1, "file_name": name}], "annotations": [{"image_id": 1, "caption": "a"}]}
    (tmp_path / "captions.json").write_text(json.dumps(listed))
    with pytest.raises(InputError, match=r"images\[0\]: .* lies outside the folder"):
        read_coco(tmp_path / "images", tmp_path / "captions.json")
