"""`ifuvit count`."""

from ifuvit.evaluation.count import CountPromptsConfig, CountTrainConfig, train
from ifuvit.metrics.counting.prompts import PROMPT_SETS
from ifuvit.utils.command_line import parse_action

_HELP = """usage: ifuvit count ACTION [ARGUMENTS]

Prompts to count objects by, and training of the counter of OpenMoji Scenes. `ifuvit evaluate IMAGES --metrics counts`
counts the objects in images.

actions:
  prompts  paper|all-kinds|relations|held-out|coco  print prompts, one a line
  train    --scenes DIR --out COUNTER               train a counter on OpenMoji Scenes, print its error

`ifuvit count ACTION --help` lists an action's arguments."""
_ACTIONS: dict[str, type[CountPromptsConfig | CountTrainConfig]] = {
    "prompts": CountPromptsConfig,
    "train": CountTrainConfig,
}


def main(arguments: list[str]) -> None:
    """Entry point of the command."""
    config = parse_action(_ACTIONS, arguments, command="count", text=_HELP)
    if config is None:
        return
    if isinstance(config, CountPromptsConfig):
        print("\n".join(PROMPT_SETS[config.set]))
        return
    written = train(config)
    from ifuvit.evaluation.networks import load_counter
    from ifuvit.metrics.counting.tables import errors_table

    counter = load_counter(written)
    print(errors_table(counter.errors))
    parameters = sum(value.numel() for value in counter.network.parameters())
    print(f"{written}: {parameters:,} parameters")
