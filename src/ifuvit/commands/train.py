"""`ifuvit train`."""

import os
from dataclasses import fields, replace
from typing import Any

import tyro

from ifuvit.diffusion.objective import OBJECTIVES
from ifuvit.evaluation.protocols import protocols
from ifuvit.model.presets import PUBLISHED, presets
from ifuvit.model.settings import IFUViTConfig
from ifuvit.training.config import OPTIMIZERS, TrainConfig, default_config, fine_tuning_config
from ifuvit.utils.command_line import Actions, parse
from ifuvit.utils.config import set_fields
from ifuvit.utils.errors import InputError


def _about(name: str, c: IFUViTConfig) -> str:
    if published := PUBLISHED.get(name.removeprefix("openmoji-")):
        return f"As {(published.__doc__ or '').split(' (')[0]}"
    return f"{'Intermediate' if c.n_text or c.n_image else 'Early'} fusion, {c.conditioning}"


FINE_TUNE = "fine-tune"

_OPEN = {"data": tyro.MISSING, "out": tyro.MISSING, "evaluate_sampling": protocols["quick"].sampling}

CONFIG = Actions(
    word="preset",
    about="Train a model on an encoded data set, with the recipe of a preset and what the options change. The same command "
    "again resumes where the run stopped.",
    configs={
        FINE_TUNE: fine_tuning_config(None, **_OPEN),
        **{name: default_config(name, **_OPEN) for name in presets},
    },
    texts={
        FINE_TUNE: """Adapt a trained model (--init-from) to images of one's own: its backbone and objective, and a recipe for
        few images. With --lora-rank only small adapters are trained.

        Example:
            ifuvit train fine-tune --init-from openmoji-cross-intermediate --data data --out run --lora-rank 16""",
        **{
            name: f"{_about(name, c)}; depth {c.depth}, width {c.embed_dim}.\n\n{TrainConfig.__doc__}"
            for name, c in presets.items()
        },
    },
)


def main(arguments: list[str]) -> dict[str, Any]:
    """Entry point of the command."""
    commands = CONFIG
    if arguments and arguments[0] in CONFIG.configs:
        preset, *options = arguments
        defaults = CONFIG.configs[preset]
        if preset == FINE_TUNE and not {"-h", "--help"} & set(options):
            if (model := _value_of("--init-from", options)) is None:
                raise InputError("--init-from is required: the model to fine-tune; see `ifuvit train fine-tune --help`")
            defaults = fine_tuning_config(model, **_OPEN)
        commands = replace(CONFIG, configs={preset: _with_chosen_kinds(defaults, options)})
    config = parse(commands, arguments, prog="ifuvit train")
    from ifuvit.training.loop import train

    directory = train(config)
    if config.dry_run:
        return {}
    if int(os.environ.get("RANK", "0")) == 0:
        print(f'{directory}: trained; generate images with `ifuvit generate "PROMPT" --model {directory}`')
    return {"out": directory, "page": directory / "run.html", "pipeline": directory / "pipeline", "steps": config.steps}


def _with_chosen_kinds(config: TrainConfig, options: list[str]) -> TrainConfig:
    """The defaults with the objective, the optimizer and the evaluation protocol that the options name, which are read
    first: the others are those of the chosen kind, or have its defaults."""
    protocol = protocols.get(_value_of("--evaluate-protocol", options) or "")
    if protocol is not None:
        config = set_fields(config, evaluate_sampling=protocol.sampling)
    for section, kinds in (("objective", OBJECTIVES), ("optimizer", OPTIMIZERS)):
        name, before = _value_of(f"--{section}", options), getattr(config.recipe, section)
        if name is not None and name not in kinds:
            raise InputError(f"--{section} {name}: must be {' or '.join(kinds)}")
        chosen = type(before) if name is None else kinds[name]
        if not isinstance(before, chosen):
            shared = {f.name for f in fields(chosen)} & {f.name for f in fields(before)} - {"name"}
            config = set_fields(config, **{section: chosen(**{name: getattr(before, name) for name in shared})})
    return config


def _value_of(flag: str, arguments: list[str]) -> str | None:
    """The value that follows a flag, or that it has behind "="."""
    for argument, following in zip(arguments, [*arguments[1:], None]):
        if argument == flag or argument.startswith(f"{flag}="):
            return argument.partition("=")[2] or following
    return None
