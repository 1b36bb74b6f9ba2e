"""`ifuvit train-two-tower`."""

from ifuvit.standins.caption_tests import table
from ifuvit.standins.two_tower import COMMAND, TrainTwoTowerConfig, run
from ifuvit.utils.command_line import parse
from ifuvit.utils.files import read_json


def main(arguments: list[str]) -> None:
    """Entry point of the command."""
    written = run(parse(TrainTwoTowerConfig, arguments, prog=f"ifuvit {COMMAND}"))
    manifest = read_json(written / "manifest.json")
    print(table(manifest["right"]))
    print(f"{written}: {manifest['parameters']:,} parameters, trained in {manifest['seconds']:.0f} s")
