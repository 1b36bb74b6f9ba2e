"""`ifuvit sweep`."""

from ifuvit.evaluation.sweep import SweepConfig, run
from ifuvit.utils.command_line import parse


def main(arguments: list[str]) -> None:
    """Entry point of the command."""
    config = parse(SweepConfig, arguments, prog="ifuvit sweep")
    out = run(config)
    from ifuvit.utils.distributed import Processes

    if Processes.init()[0].first:
        print(f"{out / 'sweep.json'}: {len(config.targets)} models, {len(config.guidance_scale)} guidance scales each")
