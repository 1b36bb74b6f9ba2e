"""CSV files are opened in spreadsheets, which run what looks like a formula."""

from typing import Any

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def guarded(value: Any) -> Any:
    """A cell's value that no spreadsheet takes for a formula: a text that begins as one gets an apostrophe in front, which
    spreadsheets do not show. Numbers are left alone."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def unguarded(text: str) -> str:
    """The text that `guarded` was given."""
    return text[1:] if text.startswith("'") and text[1:].startswith(_FORMULA) else text
