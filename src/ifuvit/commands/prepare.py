"""`ifuvit prepare`."""

from ifuvit.data.config import PrepareConfig
from ifuvit.data.sources import SOURCES
from ifuvit.utils.command_line import parse_action
from ifuvit.utils.distributed import Processes

_HELP = """usage: ifuvit prepare SOURCE [ARGUMENTS]

Encode images and captions into a data set for training.

sources:
  coco      --images DIR --captions FILE.json --out DIR   MS-COCO's files, or OpenMoji Scenes
  folder    DIR --out DIR                                 images, with .txt files or a metadata.jsonl
  dataset   NAME_OR_FILES --out DIR                       WebDataset, parquet, or the Hugging Face Hub

`ifuvit prepare SOURCE --help` lists a source's options."""


def main(arguments: list[str]) -> None:
    """Run the command with these arguments."""
    actions = {name: PrepareConfig[source] for name, source in SOURCES.items()}  # type: ignore[valid-type]
    config = parse_action(actions, arguments, command="prepare", text=_HELP, what="source")
    if config is None:
        return
    from ifuvit.data.prepare import run

    directory = run(config)
    if Processes.from_environment().rank == 0:
        print(f"{directory}: encoded; `ifuvit train PRESET --data {directory} --out RUN` trains on it")
