"""What raters' pages say, by key: in English, in another language that comes along, or in the owner's own words.

Values in braces are filled in. `object: KIND` is what several of a kind are called, where it is not the English plural;
`aspect: NAME` is the question for an aspect of ratings, `aspect worst: NAME` and `aspect best: NAME` the ends of its scale.
"""

import string
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from ifuvit.utils.errors import InputError
from ifuvit.utils.files import read_json

LANGUAGES = ("en", "de")
_FREE = ("object: ", "aspect: ", "aspect worst: ", "aspect best: ")


def read_texts(language: str = "en", file: Path | None = None) -> dict[str, str]:
    """All texts.

    Args:
        language: one of `LANGUAGES`.
        file: a JSON object with texts that take the place of that language's.

    Raises:
        InputError: the file has an unknown key, a value that is no text, or one with other braces than the original.
    """
    own = read_json(file) if file is not None else {}
    if not isinstance(own, dict):
        raise InputError(f"--texts {file}: holds no object of texts by key")
    english, texts = _of("en"), _of("en") | _of(language)
    for key, value in own.items():
        free = key.startswith(_FREE)
        if key not in english and not free:
            raise InputError(f"--texts {file}: unknown key {key!r}; the keys are those of studies/languages/en.json")
        try:
            fields = _fields(value)
        except (TypeError, ValueError):
            raise InputError(f"--texts {file}: {key!r} is no text with fields in braces") from None
        allowed = set() if free else _fields(english[key])
        if not fields <= allowed:
            raise InputError(
                f"--texts {file}: {key!r} has the field {sorted(fields - allowed)[0]!r}; there may be "
                f"{', '.join(sorted(allowed)) or 'none'}"
            )
    return texts | own


def _of(language: str) -> dict[str, str]:
    text = files("ifuvit.studies").joinpath("languages", f"{language}.json")
    return read_json(Path(str(text)))


def _fields(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


class Texts:
    """A study's texts, for templates: `t("saved", answer=3)`."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = texts

    def __call__(self, key: str, **values: Any) -> Any:
        """The text of a key, with the values filled in and escaped; HTML-safe."""
        from markupsafe import Markup, escape

        return Markup(escape(self._texts[key])).format(**values)

    def plain(self, key: str, **values: Any) -> str:
        """The text of a key with the values filled in, not escaped."""
        return self._texts[key].format(**values)

    def get(self, key: str, default: str) -> str:
        """The text of a key that the study may not have."""
        return self._texts.get(key, default)
