"""`ifuvit sweep`."""

from ifuvit.evaluation.sweep import SweepConfig, default_config, run
from ifuvit.utils.command_line import parse


def main(arguments: list[str]) -> None:
    """Entry point of the command."""
    config = parse(SweepConfig, arguments, prog="ifuvit sweep", default=default_config("quick"))
    if config.protocol != "quick":  # whose sampling settings are the defaults then
        config = parse(SweepConfig, arguments, prog="ifuvit sweep", default=default_config(config.protocol))
    out = run(config)
    from ifuvit.utils.distributed import Processes

    if Processes.init()[0].first:
        print(f"{out / 'sweep.json'}: {len(config.targets)} models, {len(config.guidance_scales)} guidance scales each")
