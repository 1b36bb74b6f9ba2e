"""`ifuvit train`."""

import os
from dataclasses import replace

import tyro

from ifuvit.model.presets import presets
from ifuvit.training.config import TrainConfig, default_config
from ifuvit.utils.command_line import Actions, parse

CONFIG = Actions(
    word="preset",
    about="Train a model on an encoded data set, with the recipe of a preset and what the options change. The same command "
    "again resumes where the run stopped.",
    configs={name: replace(default_config(name), data=tyro.MISSING, out=tyro.MISSING) for name in presets},
    texts={
        name: f"{'Intermediate' if c.n_text or c.n_image else 'Early'} fusion, {c.conditioning}; depth {c.depth}, width "
        f"{c.embed_dim}.\n\n{TrainConfig.__doc__}"
        for name, c in presets.items()
    },
)


def main(arguments: list[str]) -> None:
    """Entry point of the command."""
    config = parse(CONFIG, arguments, prog="ifuvit train")
    from ifuvit.training.loop import run

    directory = run(config)
    if not config.dry_run and int(os.environ.get("RANK", "0")) == 0:
        print(f'{directory}: trained; generate images with `ifuvit generate "PROMPT" --model {directory}`')
