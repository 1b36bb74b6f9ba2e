import json
from pathlib import Path

import pytest

from ifuvit.data.images import CaptionedImage
from ifuvit.data.plan import Skips, make_plan, skip_entry
from ifuvit.utils.errors import InputError


def image(identity, *captions, problem=None):
    return CaptionedImage(identity, Path(f"{identity}.png"), captions, problem)


def test_captions_are_numbered_by_first_appearance():
    images = [image("a", "a bus", " a\n red  bus"), image("b", "a sheep", "a bus"), image("c", "a red bus")]
    plan = make_plan(images)
    assert plan.captions == ["a bus", "a red bus", "a sheep"]
    assert plan.rows == [[0, 1], [2, 0], [1]]
    assert plan.skipped == [] and plan.listed == 3
    assert make_plan(images).digest == plan.digest != make_plan(images[:2]).digest


def test_what_has_no_caption_is_left_out():
    plan = make_plan([image("a", "", "a bus"), image("b", " "), image("c"), image("d", problem="no file")])
    assert [p.id for p in plan.images] == ["a"] and plan.rows == [[0]]
    told = [(entry["id"], entry["what"], entry["reason"]) for entry in plan.skipped]
    assert told == [
        ("a", "caption", "empty"),
        ("b", "image", "only empty captions"),
        ("c", "image", "no caption"),
        ("d", "image", "no file"),
    ]


def test_too_much_left_out_is_listed(tmp_path):
    broken = [skip_entry(image(name), "broken") for name in "abc"]
    skips = Skips(tmp_path, 2, broken[:1])
    skips.add(broken[1:2])
    skips.check()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match=r"3 images or captions cannot be used \(the first: image a: broken\)"):
        skips.check(broken[2:])
    lines = (tmp_path / "skipped.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == broken
