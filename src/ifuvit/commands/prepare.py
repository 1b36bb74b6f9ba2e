"""`ifuvit prepare`."""

from ifuvit.data.prepare import CocoConfig, DatasetConfig, FolderConfig, PrepareConfig, run
from ifuvit.utils.command_line import parse_action
from ifuvit.utils.distributed import Processes

_HELP = """usage: ifuvit prepare SOURCE [ARGUMENTS]

Encode captions and images into features for training.

sources:
  coco      --images DIR --captions FILE.json --out FEATURES   MS-COCO's files, or OpenMoji Scenes
  folder    DIR --out FEATURES                                 images, .txt files or metadata.jsonl
  dataset   NAME_OR_FILES --out FEATURES                       WebDataset, parquet, or the hub

`ifuvit prepare SOURCE --help` tells a source's arguments."""
_SOURCES: dict[str, type[PrepareConfig]] = {"coco": CocoConfig, "folder": FolderConfig, "dataset": DatasetConfig}


def main(arguments: list[str]) -> None:
    """Run the command from command line arguments."""
    config = parse_action(_SOURCES, arguments, command="prepare", text=_HELP, what="source")
    if config is None:
        return
    directory = run(config)
    if Processes.from_environment().rank == 0:
        print(f"features: {directory}")
