import json

import pytest
from PIL import Image

from ifuvit.data.folder import read_folder
from ifuvit.utils.errors import InputError


def image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path)
    return path


def test_sidecars(tmp_path):
    image(tmp_path / "b.png").with_suffix(".txt").write_text("\ufeffa bus\nmore words\n", encoding="utf-8")
    image(tmp_path / "deep" / "a.JPG").with_suffix(".txt").write_text("")
    image(tmp_path / "c.webp")
    image(tmp_path / "d.png").with_suffix(".txt").write_bytes(b"caf\xe9")
    image(tmp_path / ".hidden.png").with_suffix(".txt").write_text("hidden")
    (tmp_path / "notes.txt").write_text("no image")
    found = {entry.id: (entry.captions, entry.problem) for entry in read_folder(tmp_path)}
    assert list(found) == ["b.png", "c.webp", "d.png", "deep/a.JPG"]
    assert [caption.strip() for caption in found["b.png"][0]] == ["a bus"] and found["b.png"][1] is None
    assert found["c.webp"][0] == () and "no such caption file" in found["c.webp"][1]
    assert found["d.png"][0] == () and "UTF-8" in found["d.png"][1]
    assert found["deep/a.JPG"] == (("",), None)


def test_metadata_wins(tmp_path):
    image(tmp_path / "x" / "2.png").with_suffix(".txt").write_text("from the sidecar")
    image(tmp_path / "1.png")
    entries = [
        {"file_name": "x/2.png", "text": "two"},
        {"file_name": "1.png", "captions": ["one", "uno"]},
        {"file_name": "gone.png", "caption": "three"},
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, entries)) + "\n\n")
    one, gone, two = read_folder(tmp_path)
    assert (one.id, one.captions, one.problem) == ("1.png", ("one", "uno"), None)
    assert (two.id, two.captions, two.source) == ("x/2.png", ("two",), tmp_path / "x/2.png")
    assert gone.captions == ("three",) and gone.problem and "gone.png: no such file" in gone.problem


@pytest.mark.parametrize(
    "content, match",
    [
        ('{"file_name": "a.png", "text": "a"}\n{"file_na', "metadata.jsonl:2: not valid JSON"),
        ('{"text": "a"}', 'metadata.jsonl:1: has no "file_name"'),
        ('{"file_name": "a.png"}', "has no caption"),
        ('{"file_name": "a.png", "text": 3}', "text is 3"),
        ('{"file_name": "a.png", "text": "a"}\n{"file_name": "a.png", "text": "b"}', "listed twice"),
        ("", "lists no images"),
    ],
)
def test_malformed_metadata(tmp_path, content, match):
    (tmp_path / "metadata.jsonl").write_text(content)
    with pytest.raises(InputError, match=match):
        read_folder(tmp_path)


def test_useless_folders(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        read_folder(tmp_path / "absent")
    with pytest.raises(InputError, match="holds no images"):
        read_folder(tmp_path)
    image(tmp_path / "a.png")
    with pytest.raises(InputError, match="none of 1 images has a caption"):
        read_folder(tmp_path)
