"""Command lines into configurations: what parses, the help, and one line for what does not parse."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import pytest
from tyro.conf import OmitArgPrefixes, Positional, arg

from ifuvit.utils.command_line import Actions, Inline, parse
from ifuvit.utils.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """How weights change. See the paper,
    section 4."""

    learning_rate: float = 2e-4
    """Peak rate."""
    betas: tuple[float, float] = (0.9, 0.9)
    """Of AdamW."""

    def __post_init__(self):
        if self.learning_rate <= 0:
            raise InputError(f"--learning-rate {self.learning_rate}: must be positive")


@dataclass(frozen=True, kw_only=True)
class Common:
    """What several have in common."""

    out: Path
    """Where it goes. It may
    exist."""


@dataclass(frozen=True, kw_only=True)
class Settings(Common):
    """Try things. This is longer than a line of a narrow terminal, and so it is
    broken into several.

    A second paragraph.

    Example:
        ifuvit try a.png --out b
    """

    files: Positional[tuple[Path, ...]] = ()
    """What to read."""
    count: int | None = None
    """How many; by default all."""
    kind: Literal["round", "square"] | None = None
    """Which form."""
    pair: int | tuple[int, int] = 3
    """One, or two."""
    words: tuple[str, ...] = ("a", "b c")
    """Any words."""
    place: Annotated[str, arg(metavar="HOST:PORT")] = "here"
    """A place."""
    fast: bool = False
    """Hurry."""
    optimizer: Annotated[Optimizer, OmitArgPrefixes] = Optimizer()


def test_values():
    assert parse(Settings, ["--out", "b"], prog="ifuvit try") == Settings(out=Path("b"))
    given = "a b --out c --count 5 --kind square --pair 1 2 --words x --fast --learning-rate 1e-3 --betas 0.9 0.99"
    assert parse(Settings, given.split(), prog="ifuvit try") == Settings(
        files=(Path("a"), Path("b")),
        out=Path("c"),
        count=5,
        kind="square",
        pair=(1, 2),
        words=("x",),
        fast=True,
        optimizer=Optimizer(learning_rate=1e-3, betas=(0.9, 0.99)),
    )
    defaults = Settings(out=Path("d"), count=9, optimizer=Optimizer(learning_rate=1.0))
    parsed = parse(defaults, ["--betas", "0", "0.5"], prog="ifuvit try")
    assert parsed == Settings(out=Path("d"), count=9, optimizer=Optimizer(learning_rate=1.0, betas=(0, 0.5)))


@dataclass(frozen=True, kw_only=True)
class Outer:
    """Hold sections whose options stand among its own."""

    betas: int = 1
    """Its own."""
    bare: Annotated[Optimizer, Inline()] = Optimizer()
    first: Annotated[Optimizer | None, Inline("first_")] = None
    """Not known to the command line: there is no default."""
    second: Annotated[Optimizer | None, Inline("second_")] = Optimizer(betas=(0.5, 0.5))


def test_inline_sections(capsys):
    given = "--betas 3 --learning-rate 1 --second-learning-rate 2".split()
    assert parse(replace(Outer(), first=Optimizer()), [*given, "--first-betas", "0", "1"], prog="ifuvit try") == Outer(
        betas=3,
        bare=Optimizer(learning_rate=1),
        first=Optimizer(betas=(0, 1)),
        second=Optimizer(learning_rate=2, betas=(0.5, 0.5)),
    )
    shown = help_of(replace(Outer(), first=Optimizer()), capsys)
    assert shown.count("Peak rate.") == 3 and shown.count("Of AdamW.") == 2 and "(default: 0.5 0.5)" in shown
    with pytest.raises(InputError, match="^--second-learning-rate -1.0: must be positive"):
        parse(replace(Outer(), first=Optimizer()), ["--second-learning-rate", "-1"], prog="ifuvit try")


def help_of(config, capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        parse(config, [*arguments, "--help"], prog="ifuvit try")
    assert not stop.value.code
    return capsys.readouterr().out


def test_help(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = help_of(Settings, capsys)
    assert (
        text
        == """usage: ifuvit try [-h] [OPTIONS] [FILES ...]

Try things. This is longer than a line of a narrow terminal, and so it is broken
into several.

A second paragraph.

positional arguments:
  [FILES ...]            What to read.

options:
  -h, --help             show this help message and exit
  --out PATH             Where it goes. It may exist. (required)
  --count INT            How many; by default all.
  --kind round|square    Which form.
  --pair INT|INT INT     One, or two. (default: 3)
  --words [TEXT ...]     Any words. (default: a 'b c')
  --place HOST:PORT      A place. (default: here)
  --fast                 Hurry.

optimizer options:
  How weights change. See the paper, section 4.
  --learning-rate FLOAT  Peak rate. (default: 0.0002)
  --betas FLOAT FLOAT    Of AdamW. (default: 0.9 0.9)

output options:
  --json   Print the result as one JSON object; text for people goes to standard error.
  --quiet  Print no progress, notes or result: --json's object and the line of an error only.

example:
  ifuvit try a.png --out b
"""
    )
    monkeypatch.setenv("COLUMNS", "50")
    narrow = help_of(Settings, capsys)
    assert narrow.split() == text.split()
    assert max(map(len, narrow.partition("output options")[0].splitlines())) <= 52


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "--out is required"),
        ("--outt a", "unknown option --outt; did you mean --out?"),
        ("--out a --cuont 3", "unknown option --cuont; did you mean --count?"),
        ("--out a --zzz=3", "unknown option --zzz=3"),
        ("--out a --fast 3 --learning-rat 1", "unknown option --learning-rat; did you mean --learning-rate?"),
        ("--out a --count x", "--count x: must be INT"),
        ("--out a --count=x", "--count x: must be INT"),
        ("--out a --learning-rate x", "--learning-rate x: must be FLOAT"),
        ("--out a --kind oval", "--kind oval: must be round or square"),
        ("--out a --pair 1 2 3", "--pair 1 2 3: must be INT or INT INT"),
        ("--out a --betas 1 x", "--betas 1 x: must be FLOAT FLOAT"),
        ("--out a --betas 1", "--betas requires FLOAT FLOAT"),
        ("--out a --count", "--count requires INT"),
        ("--out a --learning-rate -1", "--learning-rate -1.0: must be positive"),
    ],
)
def test_what_does_not_parse(arguments, message, capsys):
    with pytest.raises(InputError) as caught:
        parse(Settings, arguments.split(), prog="ifuvit try")
    see = " See" if message.endswith("?") else "; see"
    assert str(caught.value) == f"{message}{see} `ifuvit try --help`"
    assert capsys.readouterr() == ("", "")


@dataclass(frozen=True, kw_only=True)
class Other(Common):
    """Do another thing: it takes long. And it has an example.

    Example:
        ifuvit try other left x --out y
    """

    side: Positional[Literal["left", "right"]]
    """Which side."""
    name: Positional[str]
    """Its name."""
    scale: float = 1.0
    """How large."""

    def __post_init__(self):
        if self.scale <= 0:
            raise InputError(f"--scale {self.scale}: must be positive")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "left|right, NAME and --out are required"),
        ("up x --out y", "side up: must be left or right"),
        ("left x z --out y", "unexpected argument 'z'"),
        ("left x --out y --scale 0", "--scale 0.0: must be positive"),
    ],
)
def test_positional_arguments_that_do_not_parse(arguments, message):
    with pytest.raises(InputError) as caught:
        parse(Other, arguments.split(), prog="ifuvit try")
    assert str(caught.value) == f"{message}; see `ifuvit try --help`"


ACTIONS = Actions(
    word="action",
    about="Try things.",
    configs={"some": Settings, "other": Other, "others": Other(out=Path("o"), side="left", name="n", scale=2.0)},
)


def test_actions(capsys):
    parsed = parse(ACTIONS, ["other", "left", "x", "--out", "y"], prog="ifuvit try")
    assert parsed == Other(out=Path("y"), side="left", name="x")
    assert parse(ACTIONS, ["others", "--name", "x"][:1], prog="ifuvit try") == ACTIONS.configs["others"]
    for arguments in ([], ["--help"], ["-h"]):
        with pytest.raises(SystemExit) as stop:
            parse(ACTIONS, arguments, prog="ifuvit try")
        assert not stop.value.code
        assert (
            capsys.readouterr().out
            == """usage: ifuvit try ACTION [OPTIONS]

Try things.

actions:
  some    Try things
  other   Do another thing
  others  Do another thing

`ifuvit try ACTION --help` lists the options of one.
"""
        )
    assert help_of(ACTIONS, capsys, "other").startswith("usage: ifuvit try other ")
    with pytest.raises(InputError, match="^unknown action 'othr'; did you mean other\\?$"):
        parse(ACTIONS, ["othr"], prog="ifuvit try")
    with pytest.raises(InputError, match="^unknown action 'x'; the actions are some, other, others$"):
        parse(ACTIONS, ["x"], prog="ifuvit try")
