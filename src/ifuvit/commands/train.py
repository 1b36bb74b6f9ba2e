"""`ifuvit train`."""

import os
from dataclasses import fields

import tyro

from ifuvit.diffusion.objective import OBJECTIVES
from ifuvit.model.presets import presets
from ifuvit.training.config import OPTIMIZERS, TrainConfig, default_config
from ifuvit.training.loop import train
from ifuvit.utils.command_line import parse
from ifuvit.utils.config import set_fields
from ifuvit.utils.errors import InputError

_SYNOPSIS = "ifuvit train PRESET --data DATA --out RUN"


def main(arguments: list[str]) -> None:
    preset, rest = "cross-intermediate", arguments
    if arguments and not arguments[0].startswith("-"):
        preset, rest = arguments[0], arguments[1:]
    elif not {"-h", "--help"} & set(arguments):
        raise InputError(f"name a preset first: {_SYNOPSIS}; one of {', '.join(presets)}")
    # Flags of an objective or an optimizer are those of the chosen one, so the choice is read first.
    default = default_config(preset, data=tyro.MISSING, out=tyro.MISSING)
    for section, kinds in (("objective", OBJECTIVES), ("optimizer", OPTIMIZERS)):
        name, before = _value_of(f"--{section}", rest), getattr(default.recipe, section)
        if name is not None and name not in kinds:
            raise InputError(f"--{section} {name}: choose {' or '.join(kinds)}")
        chosen = type(before) if name is None else kinds[name]
        if not isinstance(before, chosen):
            shared = {f.name for f in fields(chosen)} & {f.name for f in fields(before)} - {"name"}
            default = set_fields(default, **{section: chosen(**{name: getattr(before, name) for name in shared})})
    config = parse(
        TrainConfig, rest, prog=f"ifuvit train {preset if rest is not arguments else 'PRESET'}", default=default
    )
    directory = train(config)
    if not config.dry_run and int(os.environ.get("RANK", "0")) == 0:
        print(f'{directory}: trained; generate images with `ifuvit generate "PROMPT" --model {directory}`')


def _value_of(flag: str, arguments: list[str]) -> str | None:
    """The value that follows a flag, or that it has behind "="."""
    for argument, following in zip(arguments, [*arguments[1:], None]):
        if argument == flag or argument.startswith(f"{flag}="):
            return argument.partition("=")[2] or following
    return None
