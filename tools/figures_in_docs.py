"""Compare the figures in README, documentation and model cards with the files under results/ that a page names.

    python tools/figures_in_docs.py             every page; fails if a figure is in none of its files
    python tools/figures_in_docs.py PAGE.md ... some pages
    python tools/figures_in_docs.py --list      and print where each figure was found

Checked is

- every figure with an interval, as 4.94 [4.52, 5.35]: its three numbers must be those of one object of a file, as they are
  or in percent, rounded to the digits that are shown;
- every figure with a path behind it, as 0.08<!-- = metrics/precision-EffNetLite0 -->: the number at that path, in which an
  element of a list goes by its "name" or its place. A path may begin anywhere in the file;
- every cell of a table below <!-- rows A, B; columns C, D -->: the numbers at A/C, A/D, B/C and B/D, but for the first column
  of the page's table, and for rows and columns called "-".

Its files are those under results/ that the text names between the same two headings, in a link, in code, or in a comment as
<!-- from results/costs.json -->; a directory is all JSON files below it. Figures that have none stand in a paragraph that
says "no file". Code is not read, nor what tools/tables_in_docs.py has written.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]

_NUMBER = r"[-−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
_INTERVAL = re.compile(rf"(?<![\w.,])({_NUMBER}) ?%? \[({_NUMBER}), ({_NUMBER})\]")
_MARKED = re.compile(rf"(?<![\w.,])({_NUMBER})[^\d\s<]{{0,2}}<!-- = (\S[^>]*?) -->")
_TABLE = re.compile(r"<!-- rows ([^>]*);\s+columns ([^>]*) -->\n+\|.*\n\|[-| ]*\n((?:\|.*\n)*)")
_FILE = re.compile(r"(?<!\w)results/[\w.+*/-]*[\w*]")
_UNREAD = re.compile(
    r"^```.*?^```|<!-- table \S+ of .*?<!-- end of table -->|(?<=\n\n)(?:    [^\n]*\n)+|`[^`\n]*`", re.M | re.S
)
_SCALES = (1.0, 100.0)


class Figure(NamedTuple):
    """A figure on a page."""

    page: Path
    line: int
    text: str
    numbers: tuple[str, ...]
    """As they are written: a value and the ends of its interval, or a value alone."""
    path: str | None
    """Of a figure that has one."""
    section: str
    """All text between the headings around it."""
    paragraph: str
    """That between the empty lines around it; of a table also the paragraph before."""

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}: {self.text}"


def pages() -> list[Path]:
    """All that have figures."""
    return [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted(ROOT.glob("docs/*.md")),
        *sorted(ROOT.glob("src/ifuvit/shipped/*/README.md")),
    ]


def figures(page: Path) -> list[Figure]:
    """Those of a page, in order."""
    whole = page.read_text(encoding="utf-8")
    text = _UNREAD.sub(lambda unread: re.sub(r"[^\n]", " ", unread[0]), whole)
    headings = [0, *(match.start() for match in re.finditer(r"^#+ ", text, re.M)), len(text)]

    def figure(place: int, shown: str, numbers: tuple[str, ...], path: str | None) -> Figure:
        begin = max(heading for heading in headings if heading <= place)
        end = min(heading for heading in headings if heading > place)
        line = text.count("\n", 0, place) + 1
        return Figure(page, line, shown, numbers, path, whole[begin:end], _paragraph(whole, place))

    found = [figure(match.start(), match[0], match.groups(), None) for match in _INTERVAL.finditer(text)]
    found += [figure(match.start(), match[0], (match[1],), match[2]) for match in _MARKED.finditer(text)]
    for match in _TABLE.finditer(text):
        lines = match[3].splitlines()
        rows, columns = ([" ".join(name.split()) for name in part.split(",")] for part in match.groups()[:2])
        for number, (row, line) in enumerate(zip(rows, lines, strict=True)):
            place = match.start(3) + sum(len(before) + 1 for before in lines[:number])
            for column, cell in zip(columns, line.strip("|").split("|")[1:], strict=True):
                if "-" not in (row, column) and (first := re.search(_NUMBER, cell)):
                    found.append(figure(place, f"{row}, {column}: {cell.strip()}", (first[0],), f"{row}/{column}"))
    return sorted(found, key=lambda figure: figure.line)


def _paragraph(text: str, place: int) -> str:
    begin = text.rfind("\n\n", 0, place) + 2 if "\n\n" in text[:place] else 0
    end = text.find("\n\n", place)
    if text[begin] == "|":
        begin = max(text.rfind("\n\n", 0, begin - 2), 0)
    return text[begin : end if end >= 0 else len(text)]


def files(section: str) -> list[Path]:
    """Those under results/ that a text names.

    Raises:
        FileNotFoundError: one that is not there.
    """
    found: dict[Path, None] = {}
    for name in _FILE.findall(section):
        paths = [ROOT / name] if "*" not in name else sorted(ROOT.glob(name))
        paths = [one for path in paths for one in (sorted(path.rglob("*.json")) if path.is_dir() else [path])]
        if not paths or not all(path.is_file() for path in paths):
            raise FileNotFoundError(name)
        found |= dict.fromkeys(path for path in paths if path.suffix == ".json")
    return list(found)


def problem(figure: Figure) -> str | None:
    """What is wrong with a figure, in one line."""
    try:
        named = files(figure.section)
    except FileNotFoundError as error:
        return f"{figure}: the text names {error}, which is not there"
    if figure.path is None and "no file" in " ".join(figure.paragraph.split()):
        return None
    if not named:
        return f"{figure}: names no file; link to it in the same section, or add <!-- from results/... --> (see tools/figures_in_docs.py)"
    if any(source(figure, file) for file in named):
        return None
    where = ", ".join(str(file.relative_to(ROOT)) for file in named[:4]) + (", ..." if len(named) > 4 else "")
    return f"{figure}: is not in {where}{nearest(figure, named)}"


def source(figure: Figure, file: Path) -> str | None:
    """Where in a file the figure is found."""
    if figure.path is not None:
        for numbers in at_path(_content(file), figure.path.split("/")):
            if _equal(figure.numbers, (numbers,)):
                return figure.path
        return None
    return next((where for where, numbers in estimates(file) if _equal(figure.numbers, numbers)), None)


def nearest(figure: Figure, named: list[Path]) -> str:
    """What the files have instead, in words."""
    if figure.path is not None:
        found = [value for file in named for value in at_path(_content(file), figure.path.split("/"))]
        return f", which has {', '.join(map(str, dict.fromkeys(found)))} there" if found else ", which has no such path"
    shown = [_number(text) for text in figure.numbers]
    close = [
        (max(abs(scale * a - b) for a, b in zip(numbers, shown, strict=True)), [scale * a for a in numbers], where)
        for file in named
        for where, numbers in estimates(file)
        for scale in _SCALES
    ]
    distance, numbers, where = min(close, default=(float("inf"), [], ""))
    if distance > 0.02 * max(map(abs, shown)):
        return ""
    return f"; nearest: {numbers[0]:.5g} [{numbers[1]:.5g}, {numbers[2]:.5g}] at {where}"


def _equal(shown: tuple[str, ...], numbers: tuple[float, ...]) -> bool:
    """Whether numbers round to what is shown, as they are or in percent."""
    return any(
        all(
            abs(scale * number - _number(text)) <= 0.5 * 10.0 ** -len(text.partition(".")[2]) * (1 + 1e-9)
            for text, number in zip(shown, numbers, strict=True)
        )
        for scale in _SCALES
    )


def _number(text: str) -> float:
    return float(text.replace(",", "").replace("−", "-"))


@cache
def _content(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


@cache
def estimates(file: Path) -> list[tuple[str, tuple[float, float, float]]]:
    """Every number of a file that stands beside an interval, with it and its path."""

    def walk(value: Any, path: str) -> Iterator[tuple[str, tuple[float, float, float]]]:
        if isinstance(value, dict):
            numbers = {key: float(one) for key, one in value.items() if _is_number(one)}
            pairs = [
                one for one in value.values() if isinstance(one, list) and len(one) == 2 and all(map(_is_number, one))
            ]
            for key, number in numbers.items():
                yield from ((f"{path}/{key}", (number, float(low), float(high))) for low, high in pairs)
        for key, one in _children(value):
            yield from walk(one, f"{path}/{key}" if path else key)

    return list(walk(_content(file), ""))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list):
        for place, one in enumerate(value):
            yield (one["name"] if isinstance(one, dict) and isinstance(one.get("name"), str) else str(place)), one


def at_path(value: Any, path: list[str]) -> Iterator[float]:
    """The numbers at a path that may begin anywhere in a value; of an object with a "value", that."""
    for key, one in _children(value):
        if key == path[0]:
            if path[1:]:
                yield from _below(one, path[1:])
            else:
                yield from _as_number(one)
        yield from at_path(one, path)


def _below(value: Any, path: list[str]) -> Iterator[float]:
    for key, one in _children(value):
        if key == path[0]:
            yield from _below(one, path[1:]) if path[1:] else _as_number(one)


def _as_number(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        value = value.get("value")
    if _is_number(value):
        yield float(value)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", type=Path, help="default: README, docs/ and the cards of shipped models")
    parser.add_argument("--list", action="store_true", help="print where each figure was found")
    options = parser.parse_args()
    found = [figure for page in options.pages or pages() for figure in figures(page.resolve())]
    if options.list:
        for figure in found:
            where = [
                f"{file.relative_to(ROOT)}: {at}" for file in files(figure.section) if (at := source(figure, file))
            ]
            print(f"{figure}: {where[0] if where else 'not found'}")
    problems = [line for figure in found if (line := problem(figure))]
    print("\n".join([*problems, f"{len(found) - len(problems)} of {len(found)} figures are those of their files"]))
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
