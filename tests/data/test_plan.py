import json
from pathlib import Path

import pytest

from ifuvit.data.images import Picture
from ifuvit.data.plan import Skips, make_plan, skip_entry
from ifuvit.utils.errors import InputError


def picture(identity, *captions, problem=None):
    return Picture(identity, Path(f"{identity}.png"), captions, problem)


def test_captions_are_numbered_by_first_appearance():
    pictures = [picture("a", "a bus", " a\n red  bus"), picture("b", "a sheep", "a bus"), picture("c", "a red bus")]
    plan = make_plan(pictures)
    assert plan.captions == ["a bus", "a red bus", "a sheep"]
    assert plan.rows == [[0, 1], [2, 0], [1]]
    assert plan.skipped == [] and plan.listed == 3
    assert make_plan(pictures).digest == plan.digest != make_plan(pictures[:2]).digest


def test_what_has_no_caption_is_left_out():
    plan = make_plan([picture("a", "", "a bus"), picture("b", " "), picture("c"), picture("d", problem="no file")])
    assert [p.id for p in plan.pictures] == ["a"] and plan.rows == [[0]]
    told = [(entry["id"], entry["what"], entry["reason"]) for entry in plan.skipped]
    assert told == [
        ("a", "caption", "empty"),
        ("b", "picture", "only empty captions"),
        ("c", "picture", "no caption"),
        ("d", "picture", "no file"),
    ]


def test_too_much_left_out_is_listed(tmp_path):
    broken = [skip_entry(picture(name), "broken") for name in "abc"]
    skips = Skips(tmp_path, 2, broken[:1])
    skips.add(broken[1:2])
    skips.check()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match=r"3 pictures or captions cannot be used \(the first: picture a: broken\)"):
        skips.check(broken[2:])
    lines = (tmp_path / "skipped.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == broken
