"""`ifuvit count`."""

from ifuvit.evaluation.count import CountJudgeConfig, CountPromptsConfig, judge
from ifuvit.metrics.counting.prompts import PROMPT_SETS
from ifuvit.metrics.counting.tables import result_table
from ifuvit.utils.command_line import parse_action
from ifuvit.utils.files import read_json

_HELP = """usage: ifuvit count ACTION [ARGUMENTS]

Count the objects in images that were drawn from prompts like "three sheep" or "a bus left of an apple".

actions:
  prompts  paper|all-kinds|relations|held-out|coco  print prompts, one a line
  judge    IMAGES --out RESULT.json               judge what `ifuvit generate` drew from them

`ifuvit count ACTION --help` tells an action's arguments."""
_ACTIONS: dict[str, type[CountPromptsConfig | CountJudgeConfig]] = {
    "prompts": CountPromptsConfig,
    "judge": CountJudgeConfig,
}


def main(arguments: list[str]) -> None:
    """Entry point of the command."""
    config = parse_action(_ACTIONS, arguments, command="count", text=_HELP)
    if config is None:
        return
    if isinstance(config, CountPromptsConfig):
        print("\n".join(PROMPT_SETS[config.set]))
        return
    written = judge(config)
    result = read_json(written)
    print(result_table(result))
    print(f"{written}: {result['judged']} images judged")
