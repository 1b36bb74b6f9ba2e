"""`ifuvit count`."""

from dataclasses import dataclass

from tyro.conf import Positional

from ifuvit.data.prompts import PromptSet
from ifuvit.utils.command_line import Actions, parse


@dataclass(frozen=True, kw_only=True)
class CountPromptsConfig:
    """Print a set of prompts, one a line, for `ifuvit generate --prompts-file`.

    Example:
        ifuvit count prompts paper > prompts.txt
    """

    set: Positional[PromptSet]
    """paper: bus, sheep, person and apple, one to five each (20 prompts). all-kinds: the same of all 42 kinds of OpenMoji
    Scenes (210). relations: pairs of kinds in four relations (100). held-out: what no training scene shows (99). coco: for
    photographs, one to five of 77 kinds of MS-COCO (385)."""


CONFIG = Actions(
    word="action",
    about='Prompts like "three sheep" or "a bus left of an apple". `ifuvit evaluate` counts the objects in images.',
    configs={"prompts": CountPromptsConfig},
)


def main(arguments: list[str]) -> None:
    """Run the command with these arguments."""
    config = parse(CONFIG, arguments, prog="ifuvit count")
    from ifuvit.metrics.counting.prompts import PROMPT_SETS

    print("\n".join(PROMPT_SETS[config.set]))
