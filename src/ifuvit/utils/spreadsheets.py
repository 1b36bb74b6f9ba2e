"""CSV files are opened in spreadsheets, which run what looks like a formula."""

from typing import Any

_FORMULA = ("=", "+", "-", "@", "\t", "\n")


def guarded(value: Any) -> Any:
    """A cell's value that no spreadsheet takes for a formula: a text that begins as one gets an apostrophe in front, which
    spreadsheets do not show. All line breaks become "\\n", because the csv module leaves a lone carriage return unquoted.
    Numbers are left alone."""
    if not isinstance(value, str):
        return value
    text = value.replace("\r\n", "\n").replace("\r", "\n")
    return f"'{text}" if text.startswith(_FORMULA) else text


def unguarded(text: str) -> str:
    """The text that `guarded` was given."""
    return text[1:] if text.startswith("'") and text[1:].startswith(_FORMULA) else text
