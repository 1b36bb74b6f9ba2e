"""The pages' texts: complete in every language, and in an owner's own words."""

import json
import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from ifuvit.studies import posting
from ifuvit.studies.texts import _FREE, LANGUAGES, Texts, _fields, read_texts
from ifuvit.utils.errors import InputError


@pytest.mark.parametrize("language", LANGUAGES)
def test_languages_have_all_texts_with_the_same_fields(language: str) -> None:
    english = read_texts()
    own = json.loads((files("ifuvit.studies") / "languages" / f"{language}.json").read_text(encoding="utf-8"))
    assert {key for key in own if not key.startswith(_FREE)} == {key for key in english if not key.startswith(_FREE)}
    for key, text in own.items():
        assert text.strip() and (key not in english or _fields(text) == _fields(english[key])), key
    assert own["language"] == language


def test_every_text_is_used_and_every_used_text_is_there() -> None:
    place = files("ifuvit.studies")
    sources = [one.read_text(encoding="utf-8") for one in place.iterdir() if one.name.endswith(".py")]
    for folder in ("templates", "static"):
        sources += [one.read_text(encoding="utf-8") for one in (place / folder).iterdir()]
    code = "\n".join(sources)
    english = read_texts()
    by_kind = re.compile(r"^(help|keys|what to do) (count|choice|preference|rating)$|^aspect|^object")
    assert [
        key for key in english if not by_kind.match(key) and f'"{key}"' not in code and f"'{key}'" not in code
    ] == []
    assert set(re.findall(r"""\bt(?:\.plain)?\(["']([^"'~]+)["'][,)]""", code)) <= set(english)
    assert set(re.findall(r'HTTPException\(\d+, "([^"]+)"', code)) <= set(english)
    assert set(re.findall(r'Incomplete\("([^"]+)"', code)) <= set(english) and posting.Incomplete


def test_own_words_take_the_place_of_a_languages(tmp_path: Path) -> None:
    (tmp_path / "own.json").write_text(
        json.dumps({"skip": "Weiß nicht", "object: sheep": "Wollknäuel", "aspect: fun": "Wie lustig?"})
    )
    texts = read_texts("de", tmp_path / "own.json")
    assert (texts["skip"], texts["object: sheep"], texts["aspect: fun"], texts["save"]) == (
        "Weiß nicht", "Wollknäuel", "Wie lustig?", "Speichern",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ([], "holds no object"),
        ({"skipp": "x"}, "unknown key 'skipp'"),
        ({"skip": 3}, "'skip' is no text"),
        ({"saved": "{answer"}, "'saved' is no text"),
        ({"saved": "{anwser}"}, "'saved' has the field 'anwser'; there may be answer"),
        ({"skip": "{}"}, "'skip' has the field"),
        ({"object: sheep": "{x}"}, "has the field 'x'; there may be none"),
    ],
)
def test_texts_that_are_refused(tmp_path: Path, own: Any, message: str) -> None:
    (tmp_path / "own.json").write_text(json.dumps(own))
    with pytest.raises(InputError, match=re.escape(message)):
        read_texts("en", tmp_path / "own.json")


def test_values_are_escaped_and_texts_too() -> None:
    pytest.importorskip("markupsafe")
    t: Callable[..., Any] = Texts({"a": "<b> {x}"})
    assert t("a", x="<i>") == "&lt;b&gt; &lt;i&gt;" and Texts({"a": "<b> {x}"}).plain("a", x="<i>") == "<b> <i>"
