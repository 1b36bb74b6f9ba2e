"""`ifuvit playground`."""

from functools import partial
from typing import Any

from ifuvit.playground.app import serve
from ifuvit.playground.config import PlaygroundConfig
from ifuvit.utils.command_line import parse

CONFIG = PlaygroundConfig


def main(arguments: list[str]) -> dict[str, Any]:
    """Entry point of the command."""
    serve(parse(CONFIG, arguments, prog="ifuvit playground"), say=partial(print, flush=True))
    return {}
