"""`ifuvit scenes`."""

from typing import Any

from ifuvit.data.scenes.config import ScenesConfig, run
from ifuvit.utils.command_line import parse

CONFIG = ScenesConfig


def main(arguments: list[str]) -> dict[str, Any]:
    """Entry point of the command."""
    config = parse(CONFIG, arguments, prog="ifuvit scenes")
    out = run(config)
    print(f"{out}: {config.train} training and {config.val} validation scenes")
    return {"out": out}
