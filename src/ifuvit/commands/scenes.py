"""`ifuvit scenes`."""

from ifuvit.data.scenes.config import ScenesConfig, run
from ifuvit.utils.command_line import parse

CONFIG = ScenesConfig


def main(arguments: list[str]) -> None:
    """Entry point of the command."""
    config = parse(CONFIG, arguments, prog="ifuvit scenes")
    print(f"{run(config)}: {config.train} training and {config.val} validation scenes")
