"""`ifuvit prepare`."""

from typing import Any

from ifuvit.data.config import PrepareConfig
from ifuvit.data.sources import SOURCES
from ifuvit.utils.command_line import Actions, parse

CONFIG = Actions(
    word="source",
    about="Encode images and captions into a data set for training. An interrupted preparation resumes where it stopped.",
    configs={name: PrepareConfig[source] for name, source in SOURCES.items()},
    texts={name: source.__doc__ for name, source in SOURCES.items()},
)


def main(arguments: list[str]) -> dict[str, Any]:
    """Entry point of the command."""
    config = parse(CONFIG, arguments, prog="ifuvit prepare")
    from ifuvit.data.prepare import run
    from ifuvit.utils.distributed import Processes

    directory = run(config)
    if Processes.from_environment().rank == 0:
        print(f"{directory}: encoded; `ifuvit train PRESET --data {directory} --out RUN` trains on it")
    return {"out": directory}
