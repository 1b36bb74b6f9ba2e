"""Parsing of command lines into configurations."""

import contextlib
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

from ifuvit.utils.errors import InputError

T = TypeVar("T")


def parse(config: type[T], arguments: list[str], *, prog: str, default: T | None = None) -> T:
    """Parse `arguments` into the dataclass `config` (see tyro); its field docstrings are the help texts.

    Raises:
        InputError: arguments that do not parse, on one line.
    """
    import tyro

    captured = io.StringIO()
    try:
        with contextlib.redirect_stderr(captured):
            options = (tyro.conf.FlagCreatePairsOff,)
            return tyro.cli(config, args=arguments, prog=prog, default=cast(T, default), config=options)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise InputError(f"{_from_box(captured.getvalue())}; see `{prog} --help`") from None


def parse_action(
    actions: Mapping[str, type], arguments: list[str], *, command: str, text: str, what: str = "action"
) -> Any:
    """Parse the arguments of a command that has actions, the first of which names one.

    Args:
        actions: configuration classes by the actions' names.
        text: what `ifuvit COMMAND --help` prints.
        what: what the command calls them.

    Returns:
        the action's configuration, or None if it was the command's help that was asked for, which is printed.

    Raises:
        InputError: an unknown action, or as `parse`.
    """
    action, *rest = arguments or ["--help"]
    if action in ("-h", "--help"):
        print(text)
        return None
    if action not in actions:
        raise InputError(f"unknown {what} {action!r}; the {what}s are {', '.join(actions)}")
    return parse(actions[action], rest, prog=f"ifuvit {command} {action}")


def _from_box(text: str) -> str:
    """The message in tyro's box: what stands between the title and the next rule. (Where the locale is no Unicode, the
    box is drawn in ASCII, with one more rule below the title.)"""
    lines = [line.strip("│╭╮╰╯ ") for line in text.splitlines()[1:]]
    parts = "\n".join(re.sub(r"^[─-]{10,}$", "\0", line) for line in lines).split("\0")
    message = next((" ".join(part.split()) for part in parts if part.strip()), "these arguments do not parse")
    return re.sub(r"^Error parsing [\w.]+: ", "", message)  # the name of a class tells a user nothing


def read_weights(items: Sequence[str], *, option: str = "--weights") -> dict[str, str]:
    """Where the weights of networks lie, by the networks' names.

    Args:
        items: texts like "inception=FILE.pth".
        option: where they were given, for the error.

    Raises:
        InputError: one is of another form.
    """
    for item in items:
        if "=" not in item:
            raise InputError(f"{option} {item}: give NAME=PATH, as inception=pt_inception-2015-12-05-6726825d.pth")
    return dict(item.split("=", 1) for item in items)
