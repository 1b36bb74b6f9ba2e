"""`ifuvit train`."""

import os

from ifuvit.model.presets import presets
from ifuvit.training.config import TrainConfig, default_config
from ifuvit.training.loop import run
from ifuvit.utils.command_line import parse
from ifuvit.utils.errors import InputError


def main(arguments: list[str]) -> None:
    preset, rest = "cross-intermediate", arguments
    if arguments and not arguments[0].startswith("-"):
        preset, rest = arguments[0], arguments[1:]
    elif not {"-h", "--help"} & set(arguments):
        raise InputError(
            f"name a preset first: ifuvit train PRESET --data FEATURES --out RUN; one of {', '.join(presets)}"
        )
    default = default_config(preset)
    prog = f"ifuvit train {preset if arguments and preset == arguments[0] else 'PRESET'}"
    if not {"-h", "--help"} & set(rest):
        for needed in ("--data", "--out"):
            if not any(argument == needed or argument.startswith(needed + "=") for argument in rest):
                raise InputError(f"{needed} is required; see `ifuvit train {preset} --help`")
    config = parse(TrainConfig, rest, prog=prog, default=default)
    directory = run(config)
    if not config.dry_run and int(os.environ.get("RANK", "0")) == 0:
        print(f'{directory}: trained; draw with `ifuvit generate "PROMPT" --model {directory}`')
