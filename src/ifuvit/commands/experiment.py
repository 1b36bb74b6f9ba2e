"""`ifuvit experiment`."""

from ifuvit.experiments.outcome import summary
from ifuvit.experiments.run import ExperimentConfig, run
from ifuvit.utils.command_line import parse
from ifuvit.utils.distributed import Processes
from ifuvit.utils.files import read_json

CONFIG = ExperimentConfig


def main(arguments: list[str]) -> None:
    """Entry point of the command."""
    config = parse(CONFIG, arguments, prog="ifuvit experiment")
    out = run(config)
    if not config.dry_run and Processes.init()[0].first:
        print(summary(read_json(out / "experiment.json")))
        print(f"{out / 'experiment.json'}: written; `ifuvit report {out} --out report.html` shows it")
